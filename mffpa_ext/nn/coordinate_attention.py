"""Coordinate attention as a module, a drop-in for the published one."""

import torch
from torch import Tensor, nn

from mffpa_ext import ops


class CoordinateAttention(nn.Module):
    """Coordinate attention (Hou et al., "Coordinate Attention for Efficient Mobile Network Design", 2021).

    The means over the width and over the height pass one shared 1x1 convolution, BatchNorm and hard-swish; a 1x1
    convolution per direction gives the two factors of the gate, sigmoid(h) * sigmoid(w).

    Args:
        in_channels: C of the input.
        out_channels: C of the gate; `forward` needs it equal to in_channels. None: in_channels.
        reduction: the hidden width is max(8, in_channels // reduction).

    Shape: `forward` [batch, C, height, width] to the same, x * gate; `gate` returns the gate alone.
    Parameters as in the published code: `conv1`, `bn1`, `conv_h`, `conv_w`.
    """

    def __init__(self, in_channels: int, out_channels: int | None = None, reduction: int = 32) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        hidden = max(8, in_channels // reduction)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.act = nn.Hardswish()
        self.conv_h = nn.Conv2d(hidden, out_channels, 1)
        self.conv_w = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self._runs_fused(x):
            return self._fused(x, branches=1, softmax=False)
        return ops.pyramid_gate(x, *self.logits(*ops.directional_means(x)), branches=1, softmax=False)

    def gate(self, x: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to the gate [batch, out_channels, height, width], in 0..1."""
        row_logits, column_logits = self.logits(*ops.directional_means(x))
        return row_logits.sigmoid().unsqueeze(3) * column_logits.sigmoid().unsqueeze(2)

    def logits(self, by_row: Tensor, by_column: Tensor) -> tuple[Tensor, Tensor]:
        """Means [batch, in_channels, height] and [batch, in_channels, width] to the gate's two logits, alike."""
        means = torch.cat([by_row, by_column], dim=2).unsqueeze(3)  # [batch, C, height + width, 1]
        hidden = self.act(self.bn1(self.conv1(means.to(self.conv1.weight.dtype))))  # means of half types may meet float
        rows, columns = hidden.split([by_row.shape[2], by_column.shape[2]], dim=2)
        return self.conv_h(rows).squeeze(3), self.conv_w(columns).squeeze(3)

    def weigh_branches(self, x: Tensor, branches: int, last_first: bool) -> Tensor:
        """Weights the branches, groups of channels of x, against each other: x * softmax over them of their gates.

        In training BatchNorm sees one branch after the other: the first one first, or the last where `last_first`.
        """
        if self._runs_fused(x):
            return self._fused(x, branches, softmax=True)
        means = list(zip(*(mean.chunk(branches, dim=1) for mean in ops.directional_means(x)), strict=True))
        step = -1 if last_first else 1
        logits = [self.logits(*pair) for pair in means[::step]][::step]
        row_logits, column_logits = (torch.cat(pieces, dim=1) for pieces in zip(*logits, strict=True))
        return ops.pyramid_gate(x, row_logits, column_logits, branches)

    def _runs_fused(self, x: Tensor) -> bool:
        """Whether nothing but the result is asked for (no gradient, no statistics, no hook on a layer) of the layers
        that the fused operator knows: some may have been replaced."""
        layers = (self.conv1, self.bn1, self.act, self.conv_h, self.conv_w)
        kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Hardswish, nn.Conv2d, nn.Conv2d)
        if any(type(layer) is not kind for layer, kind in zip(layers, kinds, strict=True)):
            return False
        used = (layer.bias for layer in (self.conv1, self.bn1, self.conv_h, self.conv_w))
        if any(tensor is None for tensor in (*used, self.bn1.running_mean)):
            return False
        needs_gradient = torch.is_grad_enabled() and (
            x.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
        return not (needs_gradient or hooked or self.bn1.training)

    def _fused(self, x: Tensor, branches: int, softmax: bool) -> Tensor:
        conv1, bn1, conv_h, conv_w = self.conv1, self.bn1, self.conv_h, self.conv_w
        return ops.pyramid_coordinate_attention(
            x, branches,
            conv1.weight.flatten(1), conv1.bias,
            bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var, bn1.eps,
            conv_h.weight.flatten(1), conv_h.bias,
            conv_w.weight.flatten(1), conv_w.bias,
            softmax,
        )  # fmt: skip
