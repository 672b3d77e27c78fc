"""Feature normalisation on random shapes, layouts, values, dtypes and options: forward and backward against float64."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mffpa_ext import ops
from tests.ops.support import DTYPES, needs_kernels

EPS = 1e-3


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    layout: str
    values: str
    dtype: torch.dtype
    weight: bool
    bias: bool
    relu: bool


def naive(x: Tensor, weight: Tensor | None, bias: Tensor | None, relu: bool) -> Tensor:
    """The formula in x's dtype, with std 0 where there is one element, and a finite slope where std is 0."""
    elements = x.shape[2] * x.shape[3]
    d = x - x.mean((2, 3), keepdim=True)
    # Not torch.std: its gradient at 0 is NaN.
    variance = d.square().sum((2, 3), keepdim=True) / max(elements - 1, 1)
    constant = variance == 0
    std = torch.where(constant, 0, torch.where(constant, 1, variance).sqrt())
    y = d / (std + EPS).sqrt()
    y = y if weight is None else y * weight[:, None, None].to(x.dtype)
    y = y if bias is None else y + bias[:, None, None].to(x.dtype)
    return y.relu() if relu else y


def make_values(case: Case, generator: torch.Generator) -> Tensor:
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    return {
        "around 0": x,
        "constant": torch.full_like(x, 0.25),  # whose mean is exact in every dtype
        "far from 0": x + 100,
        "one far value": torch.where(torch.arange(x.shape[2] * x.shape[3]).reshape(x.shape[2:]) == 0, 50.0, x),
        "tiny": x * 1e-3,
    }[case.values].to(case.dtype)


def in_layout(x: Tensor, layout: str) -> Tensor:
    """The same values, lying otherwise in memory."""
    batch, channels, height, width = x.shape
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided view":
        return x.new_zeros(batch, channels + 1, height + 2, 2 * width)[:, 1:, 1:-1, ::2].copy_(x)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x.contiguous()


def gradients(function, inputs: list[Tensor | None], grad: Tensor, case: Case) -> list[Tensor]:
    """Result and gradients of `function(x, weight, bias, relu)`; leaves keep the strides of the inputs."""
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, case.relu)
    given = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, given, grad.to(y.dtype))]


cases = st.builds(
    Case,
    shape=st.tuples(
        st.integers(0, 3),
        st.sampled_from((1, 2, 3, 16, 17, 33, 64, 70)),
        st.integers(1, 20),
        st.integers(1, 24) | st.just(230),
    ),
    layout=st.sampled_from(("contiguous", "channels last", "strided view", "transposed")),
    values=st.sampled_from(("around 0", "constant", "far from 0", "one far value", "tiny")),
    dtype=st.sampled_from(DTYPES),
    weight=st.booleans(),
    bias=st.booleans(),
    relu=st.booleans(),
)


@needs_kernels
@settings(max_examples=100, derandomize=True, deadline=None)
@given(cases)
def test_error_is_at_most_twice_that_of_the_formula_in_the_same_dtype(case: Case) -> None:
    generator = torch.Generator().manual_seed(sum(case.shape))
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    x = in_layout(make_values(case, generator), case.layout)
    weight, bias = (torch.randn(case.shape[1], generator=generator).to(wide) for _ in range(2))
    inputs = [x, weight if case.weight else None, bias if case.bias else None]
    grad = torch.randn(case.shape, generator=generator).to(case.dtype)

    exact_inputs = [None if tensor is None else tensor.double() for tensor in inputs]
    exact = gradients(naive, exact_inputs, grad, case)
    if case.relu and exact[0].numel():
        # At the kink, rounding decides which way a gradient goes: none comes in there.
        linear = naive(*exact_inputs, False)
        grad = torch.where(linear.abs() > 0.05 * linear.abs().amax().clamp_min(1), grad, 0)
        exact = gradients(naive, exact_inputs, grad, case)
    same = gradients(naive, inputs, grad, case)
    actual = gradients(lambda *arguments: ops.feature_norm(*arguments[:3], EPS, arguments[3]), inputs, grad, case)

    for ours, formula, truth in zip(actual, same, exact, strict=True):
        assert ours.shape == truth.shape and ours.isfinite().all()
        if truth.numel() == 0:
            continue
        # In units of the largest value. Below the floor, about the rounding of the result, nothing can be asked; in
        # float64 the truth itself is no better than the formula.
        unit = truth.abs().amax().clamp_min(1)
        error, allowed = ((tensor.double() - truth).abs().amax() / unit for tensor in (ours, formula))
        allowed = allowed.nan_to_num(0)  # the formula underflows in half types, and then divides 0 by 0
        floor = 1e-12 if ours.dtype == torch.float64 else 4 * torch.finfo(ours.dtype).eps
        assert error <= 2 * allowed + floor, (error, allowed)

    if min(case.shape[2:]) >= 2:
        with torch.no_grad():
            pooled = ops.feature_norm_pool(*inputs, EPS, case.relu)
        expected = F.max_pool2d(actual[0], 2) if actual[0].numel() else actual[0][:, :, ::2, ::2]
        assert torch.equal(pooled, expected[:, :, : case.shape[2] // 2, : case.shape[3] // 2])
