"""The segmentation network: features at 1/8 of the input size and the logits of the defect mask."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mffpa_ext.models.blocks import ConvBlock, OutlookFusion, conv2d
from mffpa_ext.nn import FeatureNorm2d


class SegmentationNetwork(nn.Module):
    """Trunk, large kernel, optional multi-scale feature fusion, and mask logits (Tang et al., section III.A).

    Args:
        in_channels: 1 (gray) or 3 (RGB).
        fusion: multi-scale feature fusion (MFF): a third stage, a narrower large kernel, and outlook attention over
            the three stages. Without it: Božič et al.'s trunk.
        large_kernel_channels: output channels of the 15 x 15 convolution.

    Shape: [B, in_channels, H, W] to features [B, out_channels, H/8, W/8] and mask logits [B, 1, H/8, W/8].
    """

    def __init__(self, in_channels: int, fusion: bool, large_kernel_channels: int) -> None:
        super().__init__()
        # With fusion the stages' outputs are needed before they are pooled.
        self.stage_a = nn.Sequential(
            ConvBlock(in_channels, 32, 5, pool=True),
            ConvBlock(32, 64, 5),
            ConvBlock(64, 64, 5),
            ConvBlock(64, 64, 5, pool=not fusion),
        )
        self.stage_b = nn.Sequential(
            *(ConvBlock(64, 64, 5) for _ in range(3)),
            ConvBlock(64, 64, 5, pool=not fusion),
        )
        self.stage_c = ConvBlock(64, 128, 5) if fusion else None
        self.large_kernel = ConvBlock(128 if fusion else 64, large_kernel_channels, 15)
        self.fusion = OutlookFusion() if fusion else None
        self.out_channels = large_kernel_channels + (256 if fusion else 0)
        # No bias: the mask logits of every image have mean 0 (kept for fidelity to the published code).
        self.mask = nn.Sequential(conv2d(self.out_channels, 1, 1), FeatureNorm2d(1, bias=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.stage_a(x)
        if self.fusion is None:
            features = self.large_kernel(self.stage_b(a))
        else:
            b = self.stage_b(F.max_pool2d(a, 2))
            c = self.stage_c(F.max_pool2d(b, 2))
            features = torch.cat([self.fusion(a, b, c), self.large_kernel(c)], dim=1)
        return features, self.mask(features)
