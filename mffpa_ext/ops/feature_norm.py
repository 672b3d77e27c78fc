"""Feature normalisation as a function: checks, the compiled operator's fake kernel and autograd, the fallback.

    y = weight * (x - mean) / sqrt(std + eps) + bias        per sample and channel, over height and width

The division is by the root of the *standard deviation* (unbiased), as in the published code of Božič et al. 2021
("Mixed supervision for surface-defect detection"), not by the standard deviation itself. The compiled kernel reads x
twice and writes y once, contiguous or channels last; statistics are merged in float64 and do not cancel for planes far
from 0. Results do not depend on the number of threads.
"""

import torch
from torch import Tensor

from mffpa_ext import _extension
from mffpa_ext.ops import reference
from mffpa_ext.ops.backend import use_compiled
from mffpa_ext.ops.layout import accumulator, empty_image

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def feature_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-3, relu: bool = False
) -> Tensor:
    """Normalises every plane of every sample: `weight * (x - mean) / sqrt(std + eps) + bias`, std unbiased.

    Args:
        x: [batch, channels, height, width]; float32, float64, bfloat16 or float16. Statistics of half types are taken
            in float32 or better.
        weight, bias: [channels] or None (1 and 0), of any floating dtype.
        eps: added to the standard deviation.
        relu: apply a ReLU to the result.

    A constant plane, or one of a single element, has std 0 and gives the bias, with a finite gradient.
    Returns: like x. Raises ValueError when x is not 4-D floating point or a parameter is not [channels].
    """
    _check(x, weight, bias)
    weight, bias = _parameters(x, weight, bias)
    if use_compiled(x, operator="feature_norm"):
        return torch.ops.mffpa_ext.feature_norm(x, weight, bias, eps, relu)[0]
    return reference.feature_norm(x, weight, bias, eps, relu)


def feature_norm_pool(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-3, relu: bool = False
) -> Tensor:
    """`feature_norm` followed by a 2 x 2 max-pool of stride 2, for inference.

    Arguments as for `feature_norm`; height and width at least 2, an odd last row or column is dropped.
    Returns [batch, channels, height // 2, width // 2]. With gradients it runs as two operators.
    """
    _check(x, weight, bias)
    if min(x.shape[2:]) < 2:
        raise ValueError(f"feature_norm_pool: height and width must be at least 2, got {tuple(x.shape[2:])}")
    weight, bias = _parameters(x, weight, bias)
    needs_gradient = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
    )
    if needs_gradient or not use_compiled(x, operator="feature_norm_pool"):
        return torch.nn.functional.max_pool2d(feature_norm(x, weight, bias, eps, relu), 2)
    return torch.ops.mffpa_ext.feature_norm_pool(x, weight, bias, eps, relu)


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    if x.dim() != 4:
        raise ValueError(f"feature_norm: x must be 4-D [batch, channels, height, width], got shape {tuple(x.shape)}")
    if x.dtype not in _DTYPES:
        raise ValueError(f"feature_norm: x must be float32, float64, bfloat16 or float16, got {x.dtype}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and tuple(parameter.shape) != (x.shape[1],):
            raise ValueError(f"feature_norm: {name} must have shape ({x.shape[1]},), got {tuple(parameter.shape)}")


def _parameters(x: Tensor, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    """In the dtype that the arithmetic is done in."""
    return tuple(None if parameter is None else parameter.to(accumulator(x)) for parameter in parameters)


if _extension.is_compiled():

    @torch.library.register_fake("mffpa_ext::feature_norm")
    def _(x, weight, bias, eps, relu):
        return empty_image(x, *x.shape[2:]), x.new_empty((*x.shape[:2], 3), dtype=accumulator(x))

    @torch.library.register_fake("mffpa_ext::feature_norm_backward")
    def _(grad_y, x, weight, bias, statistics, eps, relu):
        parts = statistics.new_empty(x.shape[:2])
        return empty_image(x, *x.shape[2:]), parts, torch.empty_like(parts)

    @torch.library.register_fake("mffpa_ext::feature_norm_pool")
    def _(x, weight, bias, eps, relu):
        return empty_image(x, x.shape[2] // 2, x.shape[3] // 2)

    def _setup_context(ctx, inputs, output):
        x, weight, bias, ctx.eps, ctx.relu = inputs
        statistics = output[1]
        ctx.mark_non_differentiable(statistics)
        ctx.save_for_backward(x, weight, bias, statistics)

    def _backward(ctx, grad_y, _):
        x, weight, bias, statistics = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.ops.mffpa_ext.feature_norm_backward(
            grad_y, x, weight, bias, statistics, ctx.eps, ctx.relu
        )
        return (
            grad_x,
            None if weight is None else grad_weight.sum(0),
            None if bias is None else grad_bias.sum(0),
            None,
            None,
        )

    def _second_derivative(ctx, *gradients):
        raise RuntimeError("feature_norm has no second derivatives; MFFPA_BACKEND=reference has them")

    torch.library.register_autograd("mffpa_ext::feature_norm", _backward, setup_context=_setup_context)
    # Without this, torch takes the gradients for constants and second derivatives are silently 0.
    torch.library.register_autograd("mffpa_ext::feature_norm_backward", _second_derivative)
