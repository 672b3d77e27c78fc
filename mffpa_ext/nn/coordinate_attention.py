"""Coordinate attention as a module, a drop-in for the published one."""

import torch
from torch import Tensor, nn


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

    def gate(self, x: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to the gate [batch, out_channels, height, width], in 0..1."""
        height, width = x.shape[2:]
        means = torch.cat([x.mean(dim=3), x.mean(dim=2)], dim=2).unsqueeze(-1)  # [batch, C, height + width, 1]
        hidden = self.act(self.bn1(self.conv1(means)))
        by_row, by_column = hidden.split([height, width], dim=2)
        row_gate = self.conv_h(by_row).sigmoid()  # [batch, C, height, 1]
        column_gate = self.conv_w(by_column.transpose(2, 3)).sigmoid()  # [batch, C, 1, width]
        return row_gate * column_gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)
