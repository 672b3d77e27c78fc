"""Outlook attention inside torch: gradcheck, opcheck, torch.compile, torch.export, autocast, the meta device."""

import pytest
import torch

from mffpa_ext import OutlookAttention, ops
from tests.ops.outlook_cases import Case, make, ours, with_gradients
from tests.ops.support import needs_kernels

GRADCHECK_CASES = (Case(4, 3, 2, 2), Case(4, 5, 1, 3, stride=2), Case(3, 4, 1, 2, kernel_size=5))


@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("case", [*GRADCHECK_CASES, Case(5, 3, 1, 1, kernel_size=5, stride=2)], ids=str)
def test_gradcheck(case: Case, mask: bool) -> None:
    value, logits, kept = make(case, torch.float64, mask)
    inputs = (value.requires_grad_(), (logits / 3).requires_grad_())
    assert torch.autograd.gradcheck(lambda v, a: ours(case, v, a, kept), inputs, fast_mode=case.kernel_size > 3)


@needs_kernels
def test_second_derivatives_raise() -> None:
    """Torch would take an operator without autograd for a constant and return zeros."""
    case = Case(3, 3, 1, 2)
    value, logits, _ = make(case)
    value.requires_grad_()
    (grad,) = torch.autograd.grad(ours(case, value, logits).square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


@needs_kernels
@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires_grad"])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_opcheck(dtype: torch.dtype, mask: bool, requires_grad: bool) -> None:
    case = Case(5, 4, 2, 8, stride=2)
    value, logits, kept = make(case, dtype, mask)
    value = value.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)  # the fake output must be contiguous too
    geometry = (case.heads, case.kernel_size, case.stride, case.pad, case.scale)
    arguments = (value.requires_grad_(requires_grad), logits.requires_grad_(requires_grad), kept, *geometry)
    torch.library.opcheck(torch.ops.mffpa_ext.outlook_attention, arguments)
    backward = (torch.ones(case.value_shape, dtype=dtype), value.detach(), logits.detach(), kept, *geometry)
    torch.library.opcheck(torch.ops.mffpa_ext.outlook_attention_backward, backward)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()  # compiled code of other tests counts towards the recompilation limit
    yield
    torch._dynamo.reset()


@needs_kernels
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
def test_compile_without_graph_breaks(fresh_compiler: None, backend: str, mask: bool) -> None:
    case = Case(6, 5, 2, 8, stride=2)
    inputs = make(case, mask=mask)
    dy = torch.randn(case.value_shape)
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    expected = with_gradients(ours, case, *inputs, dy)
    for name, a, e in zip(("output", "value", "logits"), with_gradients(compiled, case, *inputs, dy), expected):
        assert torch.equal(a, e), name


@needs_kernels
def test_compile_with_dynamic_shapes_compiles_once(fresh_compiler: None) -> None:
    graphs = 0

    def counting(module: torch.fx.GraphModule, example_inputs: list) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return module

    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend=counting)
    for height, width in ((6, 5), (9, 8), (7, 12)):
        case = Case(height, width, 2, 8)
        value, logits, _ = make(case)
        actual = compiled(Case(0, 0, 2, 8), value, logits)  # the case only carries heads, kernel size and stride
        assert torch.equal(actual, ours(case, value, logits))
    assert graphs == 1


@needs_kernels
@pytest.mark.parametrize("stride", [1, 2])
def test_export_with_dynamic_size(stride: int) -> None:
    torch.manual_seed(0)
    module = OutlookAttention(16, 2, stride=stride, attn_drop=0.2).eval()
    if stride == 1:
        height, width = torch.export.Dim("height", min=3, max=64), torch.export.Dim("width", min=3, max=64)
        size, others = (6, 9), ((8, 4), (5, 11))
    else:  # average pooling with ceil_mode: torch derives the relation between both grids for even sizes only
        height, width = (2 * torch.export.Dim(f"half_{name}", min=2, max=32) for name in ("height", "width"))
        size, others = (6, 10), ((8, 4), (4, 12))
    example = (torch.randn(1, *size, 16),)
    program = torch.export.export(module, example, dynamic_shapes=({1: height, 2: width},))
    assert "mffpa_ext.outlook_attention.default" in program.graph_module.code
    for other in (size, *others):
        x = torch.randn(1, *other, 16)
        torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_autocast_computes_in_its_dtype(dtype: torch.dtype) -> None:
    case = Case(6, 5, 2, 8)
    value, logits, mask = make(case, mask=True)
    half = [tensor.to(dtype) for tensor in (value, logits, mask)]
    expected = with_gradients(ours, case, *half, torch.ones(case.value_shape, dtype=dtype))
    value.requires_grad_(), logits.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = ours(case, value, logits, mask)
    assert y.dtype == dtype and torch.equal(y, expected[0])
    y.sum().backward()
    for input_, gradient in zip((value, logits), expected[1:], strict=True):
        assert input_.grad.dtype == torch.float32, "gradients have the dtype of what they belong to"
        assert torch.equal(input_.grad, gradient.float())


def test_autocast_joins_inputs_of_different_dtypes() -> None:
    case = Case(4, 4, 1, 8)
    value, logits, _ = make(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(case, value.bfloat16(), logits).dtype == torch.bfloat16


def test_autocast_leaves_float64_alone() -> None:
    case = Case(4, 4, 1, 8)
    value, logits, _ = make(case, torch.float64)
    expected = ours(case, value, logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(case, value, logits), expected)


def test_meta_device_gives_shape_and_dtype() -> None:
    case = Case(6, 5, 2, 8, stride=2)
    value, logits = (torch.empty(shape, device="meta") for shape in (case.value_shape, case.logits_shape))
    y = ops.outlook_attention(value, logits, case.heads, stride=2)
    assert y.is_meta and y.shape == value.shape and y.dtype == value.dtype


def test_images_of_a_batch_are_independent() -> None:
    case = Case(5, 6, 2, 8, batch=3, stride=2)
    value, logits, _ = make(case)
    together = ours(case, value, logits)
    for index in range(3):
        assert torch.equal(together[index: index + 1], ours(case, value[index: index + 1], logits[index: index + 1]))
