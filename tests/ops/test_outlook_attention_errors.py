"""Wrong arguments of outlook attention: one message each, and never an access outside the tensors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mffpa_ext import OutlookAttention, _extension, ops
from mffpa_ext.ops import backend
from mffpa_ext.ops.backend import use_compiled
from tests.ops.outlook_cases import CASES, Case, make, ours, with_gradients
from tests.ops.support import needs_kernels, run_python

VALUE, LOGITS = torch.zeros(2, 5, 4, 8), torch.zeros(2, 5, 4, 2 * 81)

WRONG_ARGUMENTS = {
    "value must be 4-D .* got shape \\(5, 4, 8\\)": dict(value=VALUE[0]),
    "logits must be 4-D .* got shape \\(2, 5, 4, 2, 81\\)": dict(logits=LOGITS.unflatten(3, (2, 81))),
    "value must be float32, float64, bfloat16 or float16, got torch.int32": dict(value=VALUE.int()),
    "logits must be float32, .* got torch.complex64": dict(logits=LOGITS.to(torch.complex64)),
    "value is torch.float32 but logits are torch.float64": dict(logits=LOGITS.double()),
    "value is on cpu but logits are on meta": dict(logits=LOGITS.to("meta")),
    "kernel_size must be 1 to 15, got 0": dict(kernel_size=0, padding=0),
    "kernel_size must be 1 to 15, got 16": dict(kernel_size=16),
    "stride must be at least 1, got 0": dict(stride=0),
    "padding must be 0 to kernel_size-1 = 2, got 3": dict(padding=3),
    "padding must be 0 to kernel_size-1 = 2, got -1": dict(padding=-1),
    "num_heads must divide the 8 channels of value .* got 3": dict(num_heads=3),
    "num_heads must divide the 8 channels of value .* got 0": dict(num_heads=0),
    "num_heads must divide the 0 channels": dict(value=VALUE[..., :0]),
    "a 5x4 image padded by 0 is smaller than the 5x5 kernel": dict(kernel_size=5, padding=0),
    "logits must have shape \\(2, 3, 2, 162\\) for value \\(2, 5, 4, 8\\), 2 heads, .*; got \\(2, 5, 4, 162\\)":
        dict(stride=2),
    "logits must have shape \\(2, 5, 4, 162\\) .* got \\(2, 5, 4, 81\\)": dict(logits=LOGITS[..., :81]),
    "logits must have shape \\(2, .* got \\(1, ": dict(logits=LOGITS[:1]),
    "dropout_mask must be like logits, \\(2, 5, 4, 162\\); got \\(2, 5, 4, 81\\)":
        dict(dropout_mask=LOGITS[..., :81]),
    "dropout_mask is torch.bool but logits are torch.float32": dict(dropout_mask=LOGITS.bool()),
}


@pytest.mark.parametrize("message", WRONG_ARGUMENTS)
def test_wrong_argument(message: str) -> None:
    arguments = dict(value=VALUE, logits=LOGITS, num_heads=2)
    ops.outlook_attention(**arguments)  # right but for the one below
    with pytest.raises(ValueError, match=f"^outlook_attention: {message}"):
        ops.outlook_attention(**(arguments | WRONG_ARGUMENTS[message]))


def test_module_names_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="OutlookAttention: num_heads must divide dim 10, got 3"):
        OutlookAttention(10, 3)


# value, logits, mask, heads, K, stride, padding: what a direct call of the operator must not read.
DIRECT = dict(value=VALUE, logits=LOGITS, mask=None, heads=2, kernel_size=3, stride=1, padding=1)
WRONG_DIRECT = {
    "fewer logits": dict(logits=torch.zeros(2, 5, 4, 81)),
    "smaller grid": dict(logits=torch.zeros(2, 4, 4, 162)),
    "smaller batch": dict(logits=LOGITS[:1]),
    "3-D value": dict(value=VALUE[0]),
    "3-D logits": dict(logits=LOGITS[0]),
    "logits of another dtype": dict(logits=LOGITS.half()),
    "integers": dict(value=VALUE.int(), logits=LOGITS.int()),
    "heads": dict(heads=3),
    "no heads": dict(heads=0),
    "negative heads": dict(heads=-2),
    "kernel beyond the kernel's arrays": dict(
        kernel_size=17, padding=8, value=torch.zeros(1, 1, 1, 2), logits=torch.zeros(1, 1, 1, 2 * 17**4)
    ),
    "kernel of 0": dict(kernel_size=0, padding=0, logits=torch.zeros(2, 6, 5, 0)),
    "stride of 0": dict(stride=0),
    "negative stride": dict(stride=-1),
    "padding of a whole kernel": dict(padding=3, logits=torch.zeros(2, 9, 8, 162)),
    "negative padding": dict(padding=-1, logits=torch.zeros(2, 1, 0, 162)),
    "image smaller than the kernel": dict(kernel_size=5, padding=0, logits=torch.zeros(2, 1, 0, 2 * 5**4)),
    "smaller mask": dict(mask=LOGITS[..., :81]),
    "mask of another dtype": dict(mask=LOGITS.double()),
}


def call_forward(value: Tensor, logits: Tensor, mask: Tensor | None, **geometry: int) -> None:
    torch.ops.mffpa_ext.outlook_attention(value, logits, mask, *geometry.values(), 1.0)


def call_backward(value: Tensor, logits: Tensor, mask: Tensor | None, **geometry: int) -> None:
    grad = torch.zeros_like(value)
    torch.ops.mffpa_ext.outlook_attention_backward(grad, value, logits, mask, *geometry.values(), 1.0)


@needs_kernels
@pytest.mark.parametrize("name", WRONG_DIRECT)
@pytest.mark.parametrize("call", [call_forward, call_backward])
def test_direct_call_with_wrong_arguments_raises(call, name: str) -> None:
    call(**DIRECT)
    with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
        call(**(DIRECT | WRONG_DIRECT[name]))


@needs_kernels
@pytest.mark.parametrize("wrong", ["batch", "channels", "dtype", "dimensions"])
def test_direct_call_with_wrong_gradient_raises(wrong: str) -> None:
    grad = {"batch": VALUE[:1], "channels": VALUE[..., :4], "dtype": VALUE.double(), "dimensions": VALUE[0]}[wrong]
    with pytest.raises((ValueError, RuntimeError), match="grad_output must have the shape, dtype and device of value"):
        torch.ops.mffpa_ext.outlook_attention_backward(grad, VALUE, LOGITS, None, 2, 3, 1, 1, 1.0)


@needs_kernels
@pytest.mark.parametrize("shape", [(0, 5, 4, 8), (2, 0, 4, 8), (2, 5, 4, 0)], ids=str)
def test_direct_call_with_nothing_to_compute(shape: tuple[int, ...]) -> None:
    """No pixels or no channels: nothing is read, and the logits' gradient is 0 rather than uninitialised memory."""
    value = torch.zeros(shape)
    assert torch.ops.mffpa_ext.outlook_attention(value, LOGITS, None, 2, 3, 1, 1, 1.0).shape == shape
    _, grad = torch.ops.mffpa_ext.outlook_attention_backward(value, value, LOGITS, None, 2, 3, 1, 1, 1.0)
    assert grad.shape == LOGITS.shape and not grad.any()


RESULT_CODE = """
import sys, torch
from mffpa_ext.ops.backend import use_compiled
from tests.ops.outlook_cases import CASES, make, ours, with_gradients
assert not use_compiled(torch.zeros(1))
torch.save([with_gradients(ours, c, *make(c, mask=True), torch.ones(c.value_shape)) for c in CASES], sys.argv[1])
"""


@needs_kernels
def test_reference_backend_gives_the_same_results(tmp_path: Path) -> None:
    file = tmp_path / "results.pt"
    run_python(RESULT_CODE, str(file), MFFPA_BACKEND="reference")
    for case, results in zip(CASES, torch.load(file), strict=True):
        compiled = with_gradients(ours, case, *make(case, mask=True), torch.ones(case.value_shape))
        for a, e in zip(compiled, results, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_backend_is_chosen_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, expected in (("auto", True), ("compiled", True), ("reference", False), ("", True)):
        monkeypatch.setenv("MFFPA_BACKEND", backend)
        assert use_compiled(VALUE) is expected


class OnXpu:
    """A tensor on a device for which there are no kernels, as far as the choice of the backend looks."""

    device = torch.device("xpu")


@pytest.mark.filterwarnings("ignore:.*no compiled kernel:RuntimeWarning")
def test_compiled_backend_refuses_a_device_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for tensors in ((OnXpu(),), (VALUE, OnXpu())):
        monkeypatch.setenv("MFFPA_BACKEND", "auto")
        assert not use_compiled(*tensors)
        monkeypatch.setenv("MFFPA_BACKEND", "compiled")
        with pytest.raises(RuntimeError, match="MFFPA_BACKEND=compiled forbids the pure-PyTorch fallback"):
            use_compiled(*tensors)


class OnCuda:
    device = torch.device("cuda")


@needs_kernels
def test_cuda_is_served_for_operators_that_have_a_kernel_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a library with CUDA kernels, an operator that has none yet falls back, and says why."""
    monkeypatch.setattr(_extension, "cuda_missing_reason", lambda: "")
    monkeypatch.setattr(backend, "_WITH_CUDA_KERNEL", frozenset({"outlook_attention"}))
    monkeypatch.setenv("MFFPA_BACKEND", "compiled")
    assert use_compiled(OnCuda(), OnCuda(), operator="outlook_attention")
    for operator, named in (("feature_norm", "feature_norm"), ("", "this operator")):
        monkeypatch.setenv("MFFPA_BACKEND", "compiled")
        with pytest.raises(RuntimeError, match=rf"no compiled kernel for tensors on cuda \({named} has none for CUDA"):
            use_compiled(OnCuda(), operator=operator)
        monkeypatch.setenv("MFFPA_BACKEND", "auto")
        with pytest.warns(RuntimeWarning, match=f"{named} has none for CUDA\\); slower pure-PyTorch code is used"):
            assert not use_compiled(OnCuda(), operator=operator)


@needs_kernels
def test_cuda_kernels_are_found_at_the_dispatcher() -> None:
    expected = {"outlook_attention", "outlook_attention_backward"} if _extension.has_cuda_kernels() else set()
    assert backend._WITH_CUDA_KERNEL >= expected and bool(backend._WITH_CUDA_KERNEL) == bool(expected)


def test_dropout_mask_of_zeros_and_ones() -> None:
    case = Case(6, 5, 2, 8)
    value, logits, _ = make(case)
    assert not ours(case, value, logits, torch.zeros_like(logits)).any()
    # The kernel multiplies by 1, which changes no bit.
    assert torch.equal(ours(case, value, logits, torch.ones_like(logits)), ours(case, value, logits))
    assert torch.allclose(ours(case, value, logits, torch.full_like(logits, 2.0)), 2 * ours(case, value, logits))
