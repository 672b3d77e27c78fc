"""The pyramid's gate and its fused form on a GPU: the CPU tests' cases, and what only a device can show."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mffpa_ext import ops
from mffpa_ext.ops import reference
from tests.cuda.device import (
    check_capture,
    check_streams,
    count_launches,
    needs_device,
    needs_two_devices,
    skip_without_memory,
)
from tests.cuda.device import no_fallback as no_fallback
from tests.cuda.test_pyramid_gate import FUSED, TILED
from tests.ops import coordinate_cases as coordinate
from tests.ops.gate_cases import CASES, LAYOUTS, Case, assert_as_exact_as_naive, double, make, with_gradients
from tests.ops.support import DTYPES

pytestmark = needs_device
LARGE = Case(2, 4, 64, 88, 32)


def on_device(inputs: list[Tensor | None], layout: str) -> list[Tensor | None]:
    """x in its layout; the logits follow it."""
    x, *logits = (None if tensor is None else tensor.cuda() for tensor in inputs)
    return [x.contiguous(memory_format=LAYOUTS[layout]), *logits]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", (*CASES, *TILED, LARGE), ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype, layout: str) -> None:
    inputs = make(case, dtype)

    def ours(*arguments: Tensor | None) -> Tensor:
        return ops.pyramid_gate(*arguments, case.branches, case.softmax)

    def by_reference(*arguments: Tensor | None) -> Tensor:
        return reference.pyramid_gate(*arguments, case.branches, case.softmax)

    actual, again = (with_gradients(ours, on_device(inputs, layout)) for _ in range(2))
    assert all(a.is_cuda and torch.equal(a, b) for a, b in zip(actual, again, strict=True))
    assert actual[0].is_contiguous(memory_format=LAYOUTS[layout])
    naive, exact = (with_gradients(by_reference, values) for values in (inputs, double(inputs)))
    assert_as_exact_as_naive([a.cpu() for a in actual], naive, exact, (case, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("case", "hidden"), [*FUSED, *((case, 8) for case in (*coordinate.CASES, LARGE))], ids=str)
def test_attention(case: Case, dtype: torch.dtype, layout: str, hidden: int) -> None:
    x, p = make(case, dtype)[0], coordinate.parameters(case.channels, hidden, dtype)
    on_gpu = {name: tensor.cuda() for name, tensor in p.items()}
    y, again = (coordinate.ours(on_device([x], layout)[0], case, on_gpu) for _ in range(2))
    assert y.is_cuda and torch.equal(y, again) and y.is_contiguous(memory_format=LAYOUTS[layout])
    exact = coordinate.by_formula(x.double(), case, {name: tensor.double() for name, tensor in p.items()})
    assert_as_exact_as_naive([y.cpu()], [coordinate.by_formula(x, case, p)], [exact], (case, dtype, layout, hidden))


def test_attention_with_more_hidden_channels_than_a_block_keeps() -> None:
    """Runs as several operators."""
    case, p = Case(1, 2, 3, 4, 5), coordinate.parameters(3, 2049)
    x = make(case)[0]
    y = coordinate.ours(x.cuda(), case, {name: tensor.cuda() for name, tensor in p.items()})
    exact = coordinate.by_formula(x.double(), case, {name: tensor.double() for name, tensor in p.items()})
    assert_as_exact_as_naive([y.cpu()], [coordinate.by_formula(x, case, p)], [exact], case)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout: str) -> None:
    case = Case(2, 3, 4, 5, 6)
    x, rows, columns = on_device(make(case, torch.float64), layout)
    operators, options = torch.ops.mffpa_ext, (case.branches, case.softmax)
    torch.library.opcheck(operators.pyramid_gate_backward, (x, x, rows, columns, *options))
    torch.library.opcheck(operators.pyramid_gate_backward, (x, x, rows, None, *options))
    for tensor in (x, rows, columns):
        torch.library.opcheck(operators.pyramid_gate, (x, rows, columns, *options))
        tensor.requires_grad_()
    torch.library.opcheck(operators.pyramid_gate, (x, rows, columns, *options))
    p = {name: tensor.cuda() for name, tensor in coordinate.parameters(case.channels, 3, torch.float64).items()}
    named = {"bn_eps": coordinate.EPS, "softmax": True, **p}
    torch.library.opcheck(operators.pyramid_coordinate_attention, (x.detach(), case.branches), named)


def test_compile_without_graph_breaks() -> None:
    torch._dynamo.reset()
    case = Case(1, 4, 8, 6, 10)
    inputs = on_device(make(case), "contiguous")

    def ours(*arguments: Tensor | None) -> Tensor:
        return ops.pyramid_gate(*arguments, case.branches, case.softmax)

    compiled = with_gradients(torch.compile(ours, fullgraph=True, backend="aot_eager"), inputs)
    for a, e in zip(compiled, with_gradients(ours, inputs), strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_graph_capture_and_replay(layout: str) -> None:
    case, operators = LARGE, torch.ops.mffpa_ext
    inputs = on_device(make(case), layout)
    p = {name: tensor.cuda() for name, tensor in coordinate.parameters(case.channels, 8).items()}
    first, second = ([torch.randn_like(tensor) for tensor in inputs] for _ in range(2))

    def step() -> tuple[Tensor, ...]:
        x, rows, columns = inputs
        y = operators.pyramid_gate(x, rows, columns, case.branches, True)
        gradients = operators.pyramid_gate_backward(y, x, rows, columns, case.branches, True)
        return y, *gradients, coordinate.ours(x, case, p)

    check_capture(step, inputs, first, second)


def test_the_current_stream_is_used() -> None:
    x, rows, columns = on_device(make(LARGE), "channels_last")
    check_streams(lambda *inputs: ops.pyramid_gate(*inputs, LARGE.branches), x, rows, columns)
    p = {name: tensor.cuda() for name, tensor in coordinate.parameters(LARGE.channels, 8).items()}
    check_streams(lambda x: coordinate.ours(x, LARGE, p), x)


@needs_two_devices
def test_a_device_that_is_not_the_current_one() -> None:
    case = Case(2, 4, 16, 19, 33)
    inputs = make(case)
    with torch.cuda.device(0):
        expected, actual = (
            ops.pyramid_gate(*(tensor.to(f"cuda:{index}") for tensor in inputs), case.branches) for index in (0, 1)
        )
        assert torch.cuda.current_device() == 0
    assert actual.device.index == 1 and torch.equal(actual.cpu(), expected.cpu())
    x, rows, columns = inputs
    with pytest.raises(ValueError, match="x is on cuda:0 but row_logits are on cuda:1"):
        ops.pyramid_gate(x.to("cuda:0"), rows.to("cuda:1"), columns.to("cuda:0"), case.branches)
    with pytest.raises(ValueError, match="row_logits must have shape .* and x's device"):
        torch.ops.mffpa_ext.pyramid_gate(x.to("cuda:0"), rows.to("cuda:1"), None, case.branches, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_number_of_launches(dtype: torch.dtype) -> None:
    """Of kernels with the parameters that a Predictor has: in float32, whatever x is."""
    x, rows, columns = on_device(make(LARGE, dtype), "channels_last")
    p = {name: tensor.cuda() for name, tensor in coordinate.parameters(LARGE.channels, 8).items()}
    backward = torch.ops.mffpa_ext.pyramid_gate_backward
    assert count_launches(lambda: ops.pyramid_gate(x, rows, columns, LARGE.branches)) == 1
    assert count_launches(lambda: backward(x, x, rows, columns, LARGE.branches, True)) == 2
    assert count_launches(lambda: coordinate.ours(x, LARGE, p)) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_2_to_the_31_elements(layout: str) -> None:
    """The last image of a batch that needs 64-bit offsets."""
    skip_without_memory(40)
    x = torch.randn(33, 64, 1024, 1024, device="cuda", dtype=torch.float16).contiguous(memory_format=LAYOUTS[layout])
    assert x.numel() > 2**31
    rows, columns = torch.randn(2, 33, 64, 1024, device="cuda")
    p = {name: tensor.cuda() for name, tensor in coordinate.parameters(16, 8).items()}
    case = Case(33, 4, 16, 1024, 1024)

    def all_of(x: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
        yield ops.pyramid_gate(x, rows, columns, 4)
        yield from torch.ops.mffpa_ext.pyramid_gate_backward(x, x, rows, columns, 4, True)
        yield coordinate.ours(x, case, p)

    for whole, last in zip(all_of(x, rows, columns), all_of(x[-1:], rows[-1:], columns[-1:]), strict=True):
        assert torch.equal(whole[-1:], last)
