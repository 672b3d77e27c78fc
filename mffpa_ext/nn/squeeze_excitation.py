"""Squeeze-and-excitation weights as EPSANet uses them."""

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """One weight per channel from the mean over the image (Hu et al., "Squeeze-and-Excitation Networks", 2018).

    Args:
        channels: of the input.
        reduction: the hidden width is channels // reduction (EPSANet: 16).

    Shape: `gate` [batch, C, height, width] to [batch, C, 1, 1]; `forward` returns x * gate.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if channels < reduction:
            raise ValueError(f"SqueezeExcitation: needs at least reduction={reduction} channels, got {channels}")
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        return self.fc2(self.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)
