"""Pure-PyTorch twins of the compiled operators: the fallback where nothing was compiled, and the tests' oracle.

They are written for clarity, from the formulas; autograd differentiates them. Arguments are those of the public
functions, already checked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def outlook_attention(
    value: Tensor,
    logits: Tensor,
    dropout_mask: Tensor | None,
    num_heads: int,
    kernel_size: int,
    stride: int,
    padding: int,
    scale: float,
) -> Tensor:
    """Unfold, softmax, matmul, fold: the textbook form (Yuan et al. 2021, Algorithm 1)."""
    batch, height, width, channels = value.shape
    grid_height, grid_width = logits.shape[1:3]
    windows, elements = grid_height * grid_width, kernel_size * kernel_size
    unfolded = F.unfold(value.permute(0, 3, 1, 2), kernel_size, padding=padding, stride=stride)
    unfolded = unfolded.reshape(batch, num_heads, channels // num_heads, elements, windows)
    unfolded = unfolded.permute(0, 1, 4, 3, 2)  # [batch, heads, windows, elements, head_dim]

    def by_window(rows: Tensor) -> Tensor:  # [batch, heads, windows, elements i, elements j]
        return rows.reshape(batch, windows, num_heads, elements, elements).permute(0, 2, 1, 3, 4)

    weights = (by_window(logits) * scale).softmax(dim=-1)
    if dropout_mask is not None:
        weights = weights * by_window(dropout_mask)
    attended = (weights @ unfolded).permute(0, 1, 4, 3, 2).reshape(batch, channels * elements, windows)
    output = F.fold(attended, (height, width), kernel_size, padding=padding, stride=stride)
    return output.permute(0, 2, 3, 1).contiguous()


def feature_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool) -> Tensor:
    """The formula of `mffpa_ext.ops.feature_norm`, in float32 (float64 for float64)."""
    wide = x if x.dtype == torch.float64 else x.float()
    elements = x.shape[2] * x.shape[3]
    # The biased variance, rescaled, is 0 and not NaN for a plane of one element.
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
    variance = variance * (elements / max(elements - 1, 1))
    # sqrt has an infinite slope at 0; the clamp passes no gradient there, and moves std by 1e-15 at most.
    std = variance.clamp_min(1e-30).sqrt()
    factor = torch.rsqrt(std + eps)
    if weight is not None:
        factor = factor * weight[:, None, None]
    # (x - mean) first: folding the mean into the bias would cancel for planes far from 0.
    y = (wide - mean) * factor
    if bias is not None:
        y = y + bias[:, None, None]
    return (y.relu() if relu else y).to(x.dtype)


def directional_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """torch takes the means of half types in float32 and rounds them once."""
    return x.mean(dim=3), x.mean(dim=2)


def pyramid_gate(
    x: Tensor, row_logits: Tensor, column_logits: Tensor | None, branches: int, softmax: bool
) -> Tensor:
    """The formula of `mffpa_ext.ops.pyramid_gate`, in float32 (float64 for float64)."""
    gate = row_logits.sigmoid().unsqueeze(3)  # [batch, channels, height or 1, 1]
    if column_logits is not None:
        gate = gate * column_logits.sigmoid().unsqueeze(2)
    if softmax:
        gate = gate.unflatten(1, (branches, -1)).softmax(dim=1).flatten(1, 2)
    return (x.to(gate.dtype) * gate).to(x.dtype)
