"""The convolution block that every part of the networks is made of."""

import torch
from torch import Tensor, nn

from mffpa_ext.nn import FeatureNorm2d, LargeKernelConv2d, OutlookAttention


def conv2d(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """A same-size convolution without bias, Xavier-normal (Božič et al. 2021)."""
    conv = LargeKernelConv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.xavier_normal_(conv.weight)
    return conv


class ConvBlock(nn.Sequential):
    """Conv2d -> FeatureNorm2d -> ReLU, and with `pool` a 2 x 2 max-pool.

    Shape: [B, in, H, W] to [B, out, H, W], with pool to [B, out, H // 2, W // 2].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, pool: bool = False) -> None:
        super().__init__(
            conv2d(in_channels, out_channels, kernel_size), FeatureNorm2d(out_channels, relu=True, pool=pool)
        )


class OutlookFusion(nn.Module):
    """Fuses the outputs of three stages by outlook attention (Tang et al., section III.A and III.B).

    Shape: [B, 64, H/2, W/2], [B, 64, H/4, W/4] and [B, 128, H/8, W/8] to [B, 256, H/8, W/8].
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool_a = nn.AvgPool2d(4)
        self.pool_b = nn.AvgPool2d(2)
        self.attention = OutlookAttention(256, num_heads=4, kernel_size=3, padding=1, stride=1)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        fused = torch.cat([self.pool_a(a), self.pool_b(b), c], dim=1)
        return self.attention(fused.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
