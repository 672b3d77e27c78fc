"""Feature normalisation as a function, from differentiable PyTorch operators."""

import torch
from torch import Tensor


def feature_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-3) -> Tensor:
    """Normalises every plane of every sample: `weight * (x - mean) / sqrt(std + eps) + bias`.

    The division is by the root of the *standard deviation* (unbiased), as in the published code of Božič et al. 2021
    ("Mixed supervision for surface-defect detection"), not by the standard deviation itself.

    Args:
        x: [batch, channels, height, width], floating point. Statistics of half types are taken in float32.
        weight, bias: [channels] or None (1 and 0).
        eps: added to the standard deviation.

    A constant plane, or one of a single element, has std 0 and gives the bias, with a finite gradient.
    Returns: like x. Raises ValueError when x is not 4-D or a parameter is not [channels].
    """
    if x.dim() != 4:
        raise ValueError(f"feature_norm: x must be 4-D [batch, channels, height, width], got shape {tuple(x.shape)}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and tuple(parameter.shape) != (x.shape[1],):
            raise ValueError(f"feature_norm: {name} must have shape ({x.shape[1]},), got {tuple(parameter.shape)}")
    wide = x if x.dtype == torch.float64 else x.float()
    elements = x.shape[2] * x.shape[3]
    # The biased variance, rescaled, is 0 and not NaN for a plane of one element.
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
    variance = variance * (elements / max(elements - 1, 1))
    # sqrt has an infinite slope at 0; the clamp passes no gradient there, and moves std by 1e-15 at most.
    std = variance.clamp_min(1e-30).sqrt()
    factor = torch.rsqrt(std + eps)
    if weight is not None:
        factor = factor * weight.to(wide.dtype)[:, None, None]
    # (x - mean) first: folding the mean into the bias would cancel for planes far from 0.
    y = (wide - mean) * factor
    if bias is not None:
        y = y + bias.to(wide.dtype)[:, None, None]
    return y.to(x.dtype)
