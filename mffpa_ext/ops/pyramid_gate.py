"""The pyramid's gate as functions: means along rows and columns, and the weighting of branches by what is made of them.

    weights = softmax over the branches of sigmoid(row_logits) * sigmoid(column_logits);  y = x * weights

(Tang et al., MFFPA, section III.C, with the gate of Hou et al., "Coordinate Attention", 2021.) Branches are groups of
channels: with S branches, channels s*C/S to (s+1)*C/S belong to branch s. The compiled kernels read the tensor once
for both means, and read and write it once for the gate, contiguous or channels last; nothing of its size is kept in
between. Half types are computed in float32. Results do not depend on the number of threads.
"""

import torch
from torch import Tensor

from mffpa_ext import _extension
from mffpa_ext.ops import reference
from mffpa_ext.ops.backend import use_compiled
from mffpa_ext.ops.layout import accumulator, empty_image, empty_lines, is_channels_last

MAX_BRANCHES = 16
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def directional_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means over the width and over the height of every plane, in one pass.

    Args:
        x: [batch, channels, height, width], height and width at least 1; float32, float64, bfloat16 or float16 (half
            types are summed in float32).

    Returns: by_row [batch, channels, height] and by_column [batch, channels, width], in the dtype of x.
    Raises ValueError when x is not such a tensor.
    """
    check_image("directional_means", x)
    compiled = use_compiled(x, operator="directional_means")
    return torch.ops.mffpa_ext.directional_means(x) if compiled else reference.directional_means(x)


def pyramid_gate(
    x: Tensor, row_logits: Tensor, column_logits: Tensor | None, branches: int, softmax: bool = True
) -> Tensor:
    """Weights the branches against each other: `x * softmax(sigmoid(row_logits) * sigmoid(column_logits))`.

    Args:
        x: [batch, channels, height, width], height and width at least 1; float32, float64, bfloat16 or float16.
        row_logits: [batch, channels, height], or [batch, channels, 1] for one number per channel (with column_logits
            None this is squeeze-and-excitation). Any floating dtype; computed in float32 (float64 where x is).
        column_logits: [batch, channels, width], or None for a factor of 1.
        branches: 1 to 16, divides the channels.
        softmax: over the branches. Without it the weights are the gate itself, as in coordinate attention alone.

    Returns: like x, contiguous or channels last as x is. Raises ValueError with what was expected and what came.
    """
    check_image("pyramid_gate", x)
    check_branches("pyramid_gate", x, branches)
    _check_logits(x, row_logits, column_logits)
    row_logits = row_logits.to(accumulator(x))
    column_logits = None if column_logits is None else column_logits.to(accumulator(x))
    compiled = use_compiled(x, row_logits, operator="pyramid_gate")
    operator = torch.ops.mffpa_ext.pyramid_gate if compiled else reference.pyramid_gate
    return operator(x, row_logits, column_logits, branches, softmax)


def check_image(name: str, x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"{name}: x must be 4-D [batch, channels, height, width], got shape {tuple(x.shape)}")
    if x.dtype not in _DTYPES:
        raise ValueError(f"{name}: x must be float32, float64, bfloat16 or float16, got {x.dtype}")
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"{name}: height and width must be at least 1, got {tuple(x.shape[2:])}")


def check_branches(name: str, x: Tensor, branches: int) -> None:
    if not 1 <= branches <= MAX_BRANCHES or x.shape[1] % branches:
        raise ValueError(
            f"{name}: branches must be 1 to {MAX_BRANCHES} and divide the {x.shape[1]} channels of x, got {branches}"
        )


def _check_logits(x: Tensor, row_logits: Tensor, column_logits: Tensor | None) -> None:
    batch, channels, height, width = x.shape
    sizes = {"row_logits": (row_logits, height), "column_logits": (column_logits, width)}
    for name, (logits, size) in sizes.items():
        if logits is None:
            continue
        fits = logits.dim() == 3 and logits.shape[:2] == x.shape[:2]
        if not fits or (logits.shape[2] != size and (name == "column_logits" or logits.shape[2] != 1)):
            or_one = " or 1 in place of the height" if name == "row_logits" else ""
            raise ValueError(
                f"pyramid_gate: {name} must have shape {(batch, channels, size)}{or_one}, got {tuple(logits.shape)}"
            )
        if not logits.dtype.is_floating_point:
            raise ValueError(f"pyramid_gate: {name} must be floating point, got {logits.dtype}")
        if logits.device != x.device:
            raise ValueError(f"pyramid_gate: x is on {x.device} but {name} are on {logits.device}")


if _extension.is_compiled():

    @torch.library.register_fake("mffpa_ext::directional_means")
    def _(x):
        return empty_lines(x, x.shape[2], x.dtype), empty_lines(x, x.shape[3], x.dtype)

    @torch.library.register_fake("mffpa_ext::pyramid_gate")
    def _(x, row_logits, column_logits, branches, softmax):
        return empty_image(x, *x.shape[2:])

    @torch.library.register_fake("mffpa_ext::pyramid_gate_backward")
    def _(grad_y, x, row_logits, column_logits, branches, softmax):
        grad_rows = empty_lines(x, row_logits.shape[2], row_logits.dtype)
        if column_logits is None:
            return empty_image(x, *x.shape[2:]), grad_rows, row_logits.new_empty(0)
        return empty_image(x, *x.shape[2:]), grad_rows, empty_lines(x, x.shape[3], column_logits.dtype)

    def _keep_form(ctx, inputs, output):
        ctx.size, ctx.channels_last = inputs[0].shape[2:], is_channels_last(inputs[0])

    def _spread_means(ctx, grad_by_row, grad_by_column):
        # One pass, an addition of two expanded tensors. Its result lies in memory as they do, so they are made to lie
        # as x: the other gradients of x do, and adding up tensors of two memory formats is slow.
        by_row, by_column = (
            grad.transpose(1, 2).contiguous().transpose(1, 2) if ctx.channels_last else grad.contiguous()
            for grad in (grad_by_row / ctx.size[1], grad_by_column / ctx.size[0])
        )
        return by_row.unsqueeze(3) + by_column.unsqueeze(2)

    torch.library.register_autograd("mffpa_ext::directional_means", _spread_means, setup_context=_keep_form)

    def _setup_context(ctx, inputs, output):
        x, row_logits, column_logits, ctx.branches, ctx.softmax = inputs
        ctx.save_for_backward(x, row_logits, column_logits)

    def _backward(ctx, grad_y):
        x, row_logits, column_logits = ctx.saved_tensors
        grad_x, grad_rows, grad_columns = torch.ops.mffpa_ext.pyramid_gate_backward(
            grad_y, x, row_logits, column_logits, ctx.branches, ctx.softmax
        )
        return grad_x, grad_rows, None if column_logits is None else grad_columns, None, None

    def _second_derivative(ctx, *gradients):
        raise RuntimeError("pyramid_gate has no second derivatives; MFFPA_BACKEND=reference has them")

    torch.library.register_autograd("mffpa_ext::pyramid_gate", _backward, setup_context=_setup_context)
    # Without this, torch takes the gradients for constants and second derivatives are silently 0.
    torch.library.register_autograd("mffpa_ext::pyramid_gate_backward", _second_derivative)
