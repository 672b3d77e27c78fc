"""The two classification networks: features and mask logits to 32 channels, which the decision is made from."""

from torch import Tensor, nn

from mffpa_ext.models.blocks import ConvBlock
from mffpa_ext.nn import PyramidSplitAttention


class PlainClassifier(nn.Sequential):
    """Božič et al.'s: three times max-pool and 5 x 5 convolution. Shape: [B, in, h, w] to [B, 32, h/8, w/8]."""

    downsampling = 8

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            nn.MaxPool2d(2),
            ConvBlock(in_channels, 8, 5, pool=True),
            ConvBlock(8, 16, 5, pool=True),
            ConvBlock(16, 32, 5),
        )


class PyramidClassifier(nn.Module):
    """With pyramid attention (PA; Tang et al., section III.C). Shape: [B, in, h, w] to [B, 32, h/2, w/2].

    Args:
        in_channels: features + 1.
        attention: weights of the pyramid, "coordinate" or "se".
    """

    downsampling = 2

    def __init__(self, in_channels: int, attention: str) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.reduce = ConvBlock(in_channels, 256, 1)
        self.pyramid = PyramidSplitAttention(256, attention=attention)
        self.output = ConvBlock(256, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.pyramid(self.reduce(self.pool(x))))
