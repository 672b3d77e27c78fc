"""Outlook attention as a module, a drop-in for VOLO's."""

import torch
from torch import Tensor, nn

from mffpa_ext import ops


class OutlookAttention(nn.Module):
    """Outlook attention with the signature and the state-dict keys of VOLO's (Yuan et al. 2021).

    Args:
        dim: channels.
        num_heads: divides dim.
        kernel_size: K; windows are K x K.
        padding: of the windows; K // 2 keeps the grid that VOLO assumes.
        stride: of the grid of windows; the logits are computed from the input averaged over stride x stride.
        qkv_bias: bias of the value projection.
        qk_scale: factor on the logits before the softmax; None is (dim / num_heads) ** -0.5.
        attn_drop, proj_drop: dropout on the attention weights and on the output.

    Shape: [batch, height, width, dim] to the same. Any floating dtype, and autocast.
    Parameters: `v` (value), `attn` (logits, num_heads * K^4), `proj` (output).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int = 3,
        padding: int = 1,
        stride: int = 1,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"OutlookAttention: num_heads must divide dim {dim}, got {num_heads}")
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.padding = padding
        self.stride = stride
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.attn = nn.Linear(dim, num_heads * kernel_size**4)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        logits = self.attn(pooled)
        drops = self.training and self.attn_drop.p > 0
        y = ops.outlook_attention(
            self.v(x),
            logits,
            self.num_heads,
            self.kernel_size,
            self.stride,
            self.padding,
            self.scale,
            dropout_mask=self.attn_drop(torch.ones_like(logits)) if drops else None,
        )
        return self.proj_drop(self.proj(y))

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, padding={self.padding}, "
            f"stride={self.stride}, scale={self.scale:.4g}"
        )
