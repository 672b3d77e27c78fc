"""Coordinate attention over the branches of a pyramid as one operator, for inference.

For every branch: the means over the width and over the height pass one shared 1x1 convolution, BatchNorm by its
running statistics and hard-swish; a 1x1 convolution per direction gives the logits of `pyramid_gate` (Hou et al.,
"Coordinate Attention", 2021; Tang et al., MFFPA, section III.C). BatchNorm is folded inside the operator, at every
call, so that nothing can become stale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext import _extension
from mffpa_ext.ops.backend import use_compiled
from mffpa_ext.ops.layout import accumulator, empty_image
from mffpa_ext.ops.pyramid_gate import check_branches, check_image, directional_means, pyramid_gate

_MOST_HIDDEN_ON_CUDA = 2048  # kMaxCudaHidden in csrc/pyramid_gate.h


def pyramid_coordinate_attention(
    x: Tensor,
    branches: int,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    bn_weight: Tensor,
    bn_bias: Tensor,
    bn_mean: Tensor,
    bn_var: Tensor,
    bn_eps: float,
    conv_h_weight: Tensor,
    conv_h_bias: Tensor,
    conv_w_weight: Tensor,
    conv_w_bias: Tensor,
    softmax: bool = True,
) -> Tensor:
    """Makes the weights of all branches from their means, and weights them. Two reads of x (CUDA: three), one write.

    Args:
        x: [batch, branches * C, height, width], height and width at least 1; float32, float64, bfloat16 or float16.
        branches: 1 to 16.
        conv1_weight, conv1_bias: [M, C] and [M] of the shared convolution.
        bn_weight, bn_bias, bn_mean, bn_var, bn_eps: [M] each; BatchNorm in evaluation mode.
        conv_h_weight, conv_h_bias, conv_w_weight, conv_w_bias: [C, M] and [C].
        softmax: as for `pyramid_gate`.

    Parameters have any floating dtype; they are used in float32 (float64 where x is). It runs as several operators
    where a gradient is needed, and on CUDA where M is above 2048. Returns: like x. Raises ValueError with what was
    expected and what came.
    """
    name = "pyramid_coordinate_attention"
    check_image(name, x)
    check_branches(name, x, branches)
    parameters = {
        "conv1_weight": conv1_weight, "conv1_bias": conv1_bias,
        "bn_weight": bn_weight, "bn_bias": bn_bias, "bn_mean": bn_mean, "bn_var": bn_var,
        "conv_h_weight": conv_h_weight, "conv_h_bias": conv_h_bias,
        "conv_w_weight": conv_w_weight, "conv_w_bias": conv_w_bias,
    }  # fmt: skip
    _check(x, branches, parameters)
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters.values()))
    parameters = {key: tensor.to(accumulator(x)) for key, tensor in parameters.items()}
    too_many = x.is_cuda and conv1_bias.numel() > _MOST_HIDDEN_ON_CUDA
    if needs_gradient or too_many or not use_compiled(x, operator="pyramid_coordinate_attention"):
        return _composed(x, branches, bn_eps, softmax, **parameters)
    return torch.ops.mffpa_ext.pyramid_coordinate_attention(
        x, branches, **parameters, bn_eps=bn_eps, softmax=softmax
    )


def _check(x: Tensor, branches: int, parameters: dict[str, Tensor]) -> None:
    channels, hidden = x.shape[1] // branches, parameters["conv1_bias"].numel()
    shapes = {
        "conv1_weight": (hidden, channels),
        "conv_h_weight": (channels, hidden), "conv_h_bias": (channels,),
        "conv_w_weight": (channels, hidden), "conv_w_bias": (channels,),
    }  # fmt: skip
    for key, tensor in parameters.items():
        expected = shapes.get(key, (hidden,))
        if tuple(tensor.shape) != expected or hidden < 1:
            raise ValueError(
                f"pyramid_coordinate_attention: {key} must have shape {expected} for {channels} channels per branch "
                f"and {hidden} hidden ones (those of conv1_bias, at least 1); got {tuple(tensor.shape)}"
            )
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"pyramid_coordinate_attention: {key} must be floating point, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"pyramid_coordinate_attention: x is on {x.device} but {key} is on {tensor.device}")


def _composed(x: Tensor, branches: int, bn_eps: float, softmax: bool, **parameters: Tensor) -> Tensor:
    """The same by several operators, which autograd differentiates."""
    height, width = x.shape[2:]
    means = torch.cat(directional_means(x), dim=2).to(accumulator(x)).unflatten(1, (branches, -1))
    hidden = torch.einsum("mc,bscp->bsmp", parameters["conv1_weight"], means) + parameters["conv1_bias"][:, None]
    statistics = (parameters[key] for key in ("bn_mean", "bn_var", "bn_weight", "bn_bias"))
    hidden = F.hardswish(F.batch_norm(hidden.flatten(0, 1), *statistics, eps=bn_eps)).view_as(hidden)
    logits = []
    for direction, part in zip(("h", "w"), hidden.split([height, width], dim=3), strict=True):
        products = torch.einsum("cm,bsmp->bscp", parameters[f"conv_{direction}_weight"], part)
        logits.append((products + parameters[f"conv_{direction}_bias"][:, None]).flatten(1, 2))
    return pyramid_gate(x, *logits, branches, softmax)


if _extension.is_compiled():

    @torch.library.register_fake("mffpa_ext::pyramid_coordinate_attention")
    def _(
        x, branches, conv1_weight, conv1_bias, bn_weight, bn_bias, bn_mean, bn_var, bn_eps, conv_h_weight,
        conv_h_bias, conv_w_weight, conv_w_bias, softmax,
    ):  # fmt: skip
        return empty_image(x, *x.shape[2:])

    def _no_gradient(ctx, grad_y):
        raise RuntimeError(
            "torch.ops.mffpa_ext.pyramid_coordinate_attention has no gradient; "
            "mffpa_ext.ops.pyramid_coordinate_attention has one"
        )

    torch.library.register_autograd("mffpa_ext::pyramid_coordinate_attention", _no_gradient)
