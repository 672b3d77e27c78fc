"""Feature normalisation as a module."""

import torch
from torch import Tensor, nn

from mffpa_ext import ops


class FeatureNorm2d(nn.Module):
    """Per-sample, per-channel normalisation over height and width; the same in training and evaluation.

    `weight * (x - mean) / sqrt(std + eps) + bias`, see `mffpa_ext.ops.feature_norm` (Božič et al. 2021).

    Args:
        num_features: channels of the input.
        eps: added to the standard deviation.
        bias: whether there is one; without it every output plane has mean 0.
        relu: apply a ReLU to the result, in the same pass.

    Shape: [batch, num_features, height, width] to the same.
    """

    def __init__(self, num_features: int, eps: float = 1e-3, bias: bool = True, relu: bool = False) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.relu = relu
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.feature_norm(x, self.weight, self.bias, self.eps, self.relu)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, bias={self.bias is not None}, relu={self.relu}"
