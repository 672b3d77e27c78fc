"""The two classification networks: features and mask logits to 32 channels, which the decision is made from.

Both begin with a 2 x 2 max-pool. Features and mask logits are pooled before they are joined: the same numbers, and no
tensor of 513 channels at full size, on which every vector is misaligned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mffpa_ext.models.blocks import ConvBlock
from mffpa_ext.nn import PyramidSplitAttention


def pooled_volume(features: Tensor, mask: Tensor) -> Tensor:
    """[B, C, h, w] and [B, 1, h, w] to [B, C + 1, h/2, w/2]."""
    return torch.cat([F.max_pool2d(features, 2), F.max_pool2d(mask, 2)], dim=1)


class PlainClassifier(nn.Module):
    """Božič et al.'s: three times max-pool and 5 x 5 convolution. in_channels: features + 1.

    Shape: features [B, C, h, w] and mask logits [B, 1, h, w] to [B, 32, h/8, w/8].
    """

    downsampling = 8

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ConvBlock(in_channels, 8, 5, pool=True),
            ConvBlock(8, 16, 5, pool=True),
            ConvBlock(16, 32, 5),
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.blocks(pooled_volume(features, mask))


class PyramidClassifier(nn.Module):
    """With pyramid attention (PA; Tang et al., section III.C).

    Shape: features [B, C, h, w] and mask logits [B, 1, h, w] to [B, 32, h/2, w/2].

    Args:
        in_channels: features + 1.
        attention: weights of the pyramid, "coordinate" or "se".
    """

    downsampling = 2

    def __init__(self, in_channels: int, attention: str) -> None:
        super().__init__()
        self.reduce = ConvBlock(in_channels, 256, 1)
        self.pyramid = PyramidSplitAttention(256, attention=attention)
        self.output = ConvBlock(256, 32, 1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.pyramid(self.reduce(pooled_volume(features, mask))))
