"""The pyramid's gate inside torch: gradcheck, opcheck, torch.compile, torch.export, autocast, the meta device."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mffpa_ext import ops
from tests.ops.gate_cases import LAYOUTS, Case, make, with_gradients
from tests.ops.support import needs_kernels

KINDS = (
    Case(2, 2, 3, 4, 5),
    Case(1, 3, 2, 5, 3, softmax=False),
    Case(2, 2, 2, 3, 4, whole=True),
    Case(2, 2, 3, 4, 3, columns=False),
    Case(2, 3, 2, 4, 3, columns=False, whole=True),
)


def ours(case: Case, *inputs: torch.Tensor | None) -> torch.Tensor:
    return ops.pyramid_gate(*inputs, case.branches, case.softmax)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_gradcheck(case: Case, layout: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in make(case, torch.float64, layout) if tensor is not None]
    assert torch.autograd.gradcheck(lambda x, rows, columns=None: ours(case, x, rows, columns), inputs)


@needs_kernels
def test_second_derivatives_raise() -> None:
    """Torch would take an operator without autograd for a constant and return zeros."""
    case = KINDS[0]
    x, rows, columns = make(case)
    (grad,) = torch.autograd.grad(ours(case, x.requires_grad_(), rows, columns).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


@needs_kernels
@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires_grad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layout", [*LAYOUTS, "permuted"])
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_opcheck(case: Case, layout: str, dtype: torch.dtype, requires_grad: bool) -> None:
    x, rows, columns = make(case, dtype, "contiguous" if layout == "permuted" else layout)
    if layout == "permuted":  # for the kernels, and so for the fake outputs, a contiguous tensor
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    backward = (torch.ones_like(x), x, rows, columns, case.branches, case.softmax)
    torch.library.opcheck(torch.ops.mffpa_ext.pyramid_gate_backward, backward)
    inputs = [None if t is None else t.detach().requires_grad_(requires_grad) for t in (x, rows, columns)]
    torch.library.opcheck(torch.ops.mffpa_ext.pyramid_gate, (*inputs, case.branches, case.softmax))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [KINDS[0], KINDS[4]], ids=str)
def test_compile_without_graph_breaks(fresh_compiler: None, case: Case, layout: str) -> None:
    inputs = make(case, layout=layout)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    results = [with_gradients(lambda *leaves: function(case, *leaves), inputs) for function in (compiled, ours)]
    assert all(torch.equal(a, e) for a, e in zip(*results, strict=True))


@needs_kernels
def test_compile_with_dynamic_shapes_compiles_once(fresh_compiler: None) -> None:
    graphs = 0

    def counting(module: torch.fx.GraphModule, example_inputs: list) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return module

    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend=counting)
    for height, width in ((8, 5), (9, 10), (7, 12)):  # other than the channels: equal sizes would be taken for one
        inputs = make(Case(2, 2, 3, height, width))
        assert torch.equal(compiled(KINDS[0], *inputs), ours(KINDS[0], *inputs))
    assert graphs == 1


@needs_kernels
def test_export_with_dynamic_size() -> None:
    class Gated(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ops.pyramid_gate(x, *ops.directional_means(x), 2)

    height, width = torch.export.Dim("height", min=2, max=64), torch.export.Dim("width", min=2, max=64)
    program = torch.export.export(Gated(), (torch.randn(1, 6, 4, 7),), dynamic_shapes=({2: height, 3: width},))
    for size in ((4, 7), (9, 3)):
        x = torch.randn(1, 6, *size)
        assert torch.equal(program.module()(x), Gated()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_half_images_with_logits_of_another_dtype(dtype: torch.dtype) -> None:
    """What autocast makes: y and its gradient like x, gradients of the logits in their dtype, computed in float32."""
    case = KINDS[0]
    x, rows, columns = make(case, dtype)
    for logits_dtype in (dtype, torch.float32, torch.float64):
        inputs = [x, rows.to(logits_dtype), columns.to(logits_dtype)]
        actual = with_gradients(lambda *leaves: ours(case, *leaves), inputs)
        assert [t.dtype for t in actual] == [dtype, dtype, logits_dtype, logits_dtype]
        expected = ours(case, x, *(t.float() for t in inputs[1:]))
        assert torch.equal(actual[0], expected), "the logits are used in float32 as they are"


def test_autocast_changes_nothing() -> None:
    """As with torch's own products: the dtype of x is kept, and the sigmoids and the softmax stay in float32."""
    case = KINDS[0]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        inputs = make(case, dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = ours(case, *inputs)
        assert y.dtype == dtype and torch.equal(y, ours(case, *inputs))


def test_meta_device_gives_shape_and_dtype() -> None:
    x, rows, columns = (tensor.to("meta") for tensor in make(KINDS[0], torch.bfloat16, "channels_last"))
    y = ours(KINDS[0], x, rows, columns)
    assert y.is_meta and y.shape == x.shape and y.dtype == x.dtype and y.stride() == x.stride()
    by_row, by_column = ops.directional_means(x)
    assert by_row.is_meta and by_row.shape == rows.shape and by_column.shape == columns.shape
