"""Pyramid split attention, with coordinate attention (MFFPA) or squeeze-and-excitation (EPSANet) as weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mffpa_ext.nn.coordinate_attention import CoordinateAttention
from mffpa_ext.nn.large_kernel_conv2d import LargeKernelConv2d
from mffpa_ext.nn.squeeze_excitation import SqueezeExcitation

ATTENTIONS = {"coordinate": CoordinateAttention, "se": SqueezeExcitation}
BRANCH_ORDERS = ("kernel", "reversed")


class PyramidSplitAttention(nn.Module):
    """Parallel convolutions of growing kernels, weighted against each other by a softmax over the branches.

    Tang et al. (MFFPA), section III.C; Zhang et al., "EPSANet", 2022. One attention module, shared by the branches and
    called once per branch in kernel order, gives each branch its weights.

    Args:
        in_channels: C of the input.
        out_channels: divisible by the number of branches. None: in_channels.
        kernel_sizes: of the branches, odd.
        groups: of the branches' convolutions; EPSANet's are (1, 4, 8, 16).
        stride: of the convolutions.
        attention: "coordinate" (MFFPA) or "se" (EPSANet, and the paper's ablation).
        branch_order: order of the branches in the output: "kernel", or "reversed" as EPSANet's code concatenates.

    Shape: [batch, in_channels, height, width] to [batch, out_channels, ceil(height/stride), ceil(width/stride)].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        groups: Sequence[int] = (1, 1, 1, 1),
        stride: int = 1,
        attention: str = "coordinate",
        branch_order: str = "kernel",
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        if len(groups) != len(kernel_sizes):
            raise ValueError(f"PyramidSplitAttention: {len(kernel_sizes)} kernel_sizes but {len(groups)} groups")
        if out_channels % len(kernel_sizes):
            raise ValueError(
                f"PyramidSplitAttention: out_channels {out_channels} must divide by {len(kernel_sizes)} branches"
            )
        if any(kernel_size % 2 == 0 for kernel_size in kernel_sizes):
            raise ValueError(f"PyramidSplitAttention: kernel_sizes must be odd, got {tuple(kernel_sizes)}")
        if attention not in ATTENTIONS:
            raise ValueError(f"PyramidSplitAttention: attention must be one of {list(ATTENTIONS)}, got {attention!r}")
        if branch_order not in BRANCH_ORDERS:
            raise ValueError(
                f"PyramidSplitAttention: branch_order must be one of {BRANCH_ORDERS}, got {branch_order!r}"
            )
        self.branch_order = branch_order
        branch_channels = out_channels // len(kernel_sizes)
        self.branches = nn.ModuleList(
            (LargeKernelConv2d if stride == group == 1 else nn.Conv2d)(
                in_channels, branch_channels, size, stride, size // 2, groups=group, bias=False
            )
            for size, group in zip(kernel_sizes, groups, strict=True)
        )
        self.attention = ATTENTIONS[attention](branch_channels)

    def forward(self, x: Tensor) -> Tensor:
        features = [branch(x) for branch in self.branches]
        is_reversed = self.branch_order == "reversed"
        features = torch.cat(features[::-1] if is_reversed else features, dim=1)
        return self.attention.weigh_branches(features, len(self.branches), last_first=is_reversed)
