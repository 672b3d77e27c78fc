"""Squeeze-and-excitation weights as EPSANet uses them."""

from torch import Tensor, nn

from mffpa_ext import ops
from mffpa_ext.ops.layout import is_channels_last


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

    def forward(self, x: Tensor) -> Tensor:
        return ops.pyramid_gate(x, self.logits(x), None, branches=1, softmax=False)

    def gate(self, x: Tensor) -> Tensor:
        return self.logits(x).sigmoid().unsqueeze(3)

    def logits(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] to the gate's logits [batch, channels, 1]."""
        return self._excite(_means(x))

    def weigh_branches(self, x: Tensor, branches: int, last_first: bool) -> Tensor:
        """Weights the branches, groups of channels of x, against each other: x * softmax over them of their gates.

        The branches pass the layers side by side; with nothing that remembers them, their order does not matter.
        """
        means = _means(x).view(x.shape[0], branches, -1, 1).transpose(1, 2)  # [batch, channels, branches, 1]
        logits = self._excite(means).transpose(1, 2).flatten(1)
        return ops.pyramid_gate(x, logits.unsqueeze(2), None, branches)

    def _excite(self, means: Tensor) -> Tensor:
        return self.fc2(self.relu(self.fc1(means))).squeeze(3)


def _means(x: Tensor) -> Tensor:
    """[batch, channels, 1, 1]; over pixels of channels where they lie so, for a gradient that lies as x does."""
    if is_channels_last(x):
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2))[:, :, None, None]
    return x.mean(dim=(2, 3), keepdim=True)
