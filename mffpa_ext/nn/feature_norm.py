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
        pool: apply a 2 x 2 max-pool to that; at inference in the same pass.

    Shape: [batch, num_features, height, width] to the same, with pool to [..., height // 2, width // 2].
    """

    def __init__(
        self, num_features: int, eps: float = 1e-3, bias: bool = True, relu: bool = False, pool: bool = False
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.relu = relu
        self.pool = pool
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        operator = ops.feature_norm_pool if self.pool else ops.feature_norm
        return operator(x, self.weight, self.bias, self.eps, self.relu)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.num_features}, eps={self.eps}, bias={bias}, relu={self.relu}, pool={self.pool}"
