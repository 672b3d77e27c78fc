"""Inputs of coordinate attention over a pyramid, and its formula in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext import ops
from tests.ops.gate_cases import Case

EPS = 1e-2
# Around the vector widths, blocks of four positions, and degenerate planes.
CASES = (
    Case(1, 4, 64, 40, 14),
    Case(2, 3, 5, 7, 9),
    Case(2, 1, 16, 1, 1, softmax=False),
    Case(1, 2, 33, 9, 31),
    Case(3, 16, 3, 5, 1),
    Case(2, 4, 8, 1, 17, softmax=False),
)
HIDDEN = (8, 1, 17)


def parameters(channels: int, hidden: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {
        "conv1_weight": 2 * normal(hidden, channels), "conv1_bias": normal(hidden),
        "bn_weight": normal(hidden), "bn_bias": normal(hidden), "bn_mean": normal(hidden),
        "bn_var": normal(hidden).exp(),
        "conv_h_weight": normal(channels, hidden), "conv_h_bias": normal(channels),
        "conv_w_weight": normal(channels, hidden), "conv_w_bias": normal(channels),
    }  # fmt: skip
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def by_formula(x: Tensor, case: Case, p: dict[str, Tensor]) -> Tensor:
    """Hou et al. 2021, eqs. 4-9, branch by branch; MFFPA's softmax over the branches."""
    gates = []
    for branch in x.chunk(case.branches, dim=1):
        factors = []
        for direction, means in (("h", branch.mean(3)), ("w", branch.mean(2))):
            hidden = F.conv1d(means, p["conv1_weight"][..., None], p["conv1_bias"])
            scale = p["bn_weight"] / (p["bn_var"] + EPS).sqrt()
            hidden = (hidden - p["bn_mean"][:, None]) * scale[:, None] + p["bn_bias"][:, None]
            hidden = hidden * (hidden + 3).clamp(0, 6) / 6
            logits = F.conv1d(hidden, p[f"conv_{direction}_weight"][..., None], p[f"conv_{direction}_bias"])
            factors.append(logits.sigmoid())
        gates.append(factors[0][:, :, :, None] * factors[1][:, :, None, :])
    weights = torch.stack(gates, 1)
    return x * (weights.softmax(1) if case.softmax else weights).flatten(1, 2)


def ours(x: Tensor, case: Case, p: dict[str, Tensor]) -> Tensor:
    return ops.pyramid_coordinate_attention(x, case.branches, **p, bn_eps=EPS, softmax=case.softmax)
