"""Outlook attention as a function: checks, the compiled operator's fake kernel and autograd, the fallback.

Formula (Yuan et al., "VOLO: Vision Outlooker for Visual Recognition", 2021; eqs. 1-3 of the MFFPA paper):
window q of the grid starts at pixel `stride * q - padding`; its element i attends over its elements j,

    y[p] = sum over (q, i) with stride*q - padding + i = p of
           sum_j softmax_j(scale * logits[q, i, :])_j * dropout_mask[q, i, j] * value[stride*q - padding + j]

Padded positions take part in the softmax with value 0. The compiled kernel never materialises unfold or fold: the rows
that feed a pixel are folded into one kernel over the (2K-1)^2 offsets j - i. Half types accumulate in float32.
Results do not depend on the number of threads.
"""

import torch
from torch import Tensor

from mffpa_ext import _extension
from mffpa_ext.ops import reference
from mffpa_ext.ops.backend import use_compiled

MAX_KERNEL_SIZE = 15
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def outlook_attention(
    value: Tensor,
    logits: Tensor,
    num_heads: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int | None = None,
    scale: float | None = None,
    dropout_mask: Tensor | None = None,
) -> Tensor:
    """Attends over the K x K window around every grid position and adds the overlapping windows up.

    Args:
        value: [batch, height, width, channels]; head n owns channels n*head_dim to (n+1)*head_dim.
        logits: [batch, grid_height, grid_width, num_heads * K^4], as a Linear produces them: head, element i, element
            j, the last fastest. grid = floor((size + 2*padding - K) / stride) + 1.
        num_heads: divides channels.
        kernel_size: K, 1 to 15.
        stride: of the grid, >= 1.
        padding: 0 to K-1; default K // 2.
        scale: multiplies the logits before the softmax; default head_dim ** -0.5.
        dropout_mask: like logits; multiplies the weights after the softmax (0 or 1/(1-p)). Not differentiated.

    float32, float64, bfloat16 or float16, the same for all; under autocast all are cast to its dtype.
    Returns: like value. Raises ValueError with what was expected and what came.
    """
    padding = kernel_size // 2 if padding is None else padding
    _check(value, logits, dropout_mask, num_heads, kernel_size, stride, padding)
    scale = (value.shape[-1] // num_heads) ** -0.5 if scale is None else float(scale)
    device = value.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        value, logits = (x if x.dtype == torch.float64 else x.to(dtype) for x in (value, logits))
        dropout_mask = dropout_mask if dropout_mask is None else dropout_mask.to(value.dtype)
    if value.dtype != logits.dtype:
        raise ValueError(f"outlook_attention: value is {value.dtype} but logits are {logits.dtype}; use one dtype")
    if dropout_mask is not None and dropout_mask.dtype != logits.dtype:
        raise ValueError(f"outlook_attention: dropout_mask is {dropout_mask.dtype} but logits are {logits.dtype}")
    compiled = use_compiled(value, logits, operator="outlook_attention")
    function = torch.ops.mffpa_ext.outlook_attention if compiled else reference.outlook_attention
    return function(value, logits, dropout_mask, num_heads, kernel_size, stride, padding, scale)


def _check(
    value: Tensor,
    logits: Tensor,
    dropout_mask: Tensor | None,
    num_heads: int,
    kernel_size: int,
    stride: int,
    padding: int,
) -> None:
    def fail(text: str) -> None:
        raise ValueError(f"outlook_attention: {text}")

    for name, tensor in (("value", value), ("logits", logits)):
        if tensor.dim() != 4:
            shape = "[batch, height, width, channels]" if name == "value" else "[batch, grid_h, grid_w, heads*K^4]"
            fail(f"{name} must be 4-D {shape}, got shape {tuple(tensor.shape)}")
        if tensor.dtype not in _DTYPES:
            fail(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")
    if value.device != logits.device:
        fail(f"value is on {value.device} but logits are on {logits.device}")
    if not 1 <= kernel_size <= MAX_KERNEL_SIZE:
        fail(f"kernel_size must be 1 to {MAX_KERNEL_SIZE}, got {kernel_size}")
    if stride < 1:
        fail(f"stride must be at least 1, got {stride}")
    if not 0 <= padding < kernel_size:
        fail(f"padding must be 0 to kernel_size-1 = {kernel_size - 1}, got {padding}")
    if num_heads < 1 or value.shape[3] < 1 or value.shape[3] % num_heads:
        fail(f"num_heads must divide the {value.shape[3]} channels of value (at least 1), got {num_heads}")
    height, width = value.shape[1:3]
    if height + 2 * padding < kernel_size or width + 2 * padding < kernel_size:
        fail(f"a {height}x{width} image padded by {padding} is smaller than the {kernel_size}x{kernel_size} kernel")
    grid = [(size + 2 * padding - kernel_size) // stride + 1 for size in (height, width)]
    expected = (value.shape[0], *grid, num_heads * kernel_size**4)
    if tuple(logits.shape) != expected:
        fail(
            f"logits must have shape {expected} for value {tuple(value.shape)}, {num_heads} heads, kernel_size "
            f"{kernel_size}, stride {stride}, padding {padding}; got {tuple(logits.shape)}"
        )
    if dropout_mask is not None and (dropout_mask.shape != logits.shape or dropout_mask.device != logits.device):
        fail(f"dropout_mask must be like logits, {tuple(logits.shape)}; got {tuple(dropout_mask.shape)}")


if _extension.is_compiled():

    @torch.library.register_fake("mffpa_ext::outlook_attention")
    def _(value, logits, dropout_mask, num_heads, kernel_size, stride, padding, scale):
        return value.new_empty(value.shape)

    @torch.library.register_fake("mffpa_ext::outlook_attention_backward")
    def _(grad_output, value, logits, dropout_mask, num_heads, kernel_size, stride, padding, scale):
        return value.new_empty(value.shape), logits.new_empty(logits.shape)

    def _setup_context(ctx, inputs, output):
        value, logits, dropout_mask, *ctx.geometry = inputs
        ctx.save_for_backward(value, logits, dropout_mask)

    def _backward(ctx, grad_output):
        value, logits, dropout_mask = ctx.saved_tensors
        grad_value, grad_logits = torch.ops.mffpa_ext.outlook_attention_backward(
            grad_output, value, logits, dropout_mask, *ctx.geometry
        )
        return grad_value, grad_logits, *(None,) * 6

    torch.library.register_autograd("mffpa_ext::outlook_attention", _backward, setup_context=_setup_context)

    def _second_derivative(ctx, *gradients):
        raise RuntimeError("outlook_attention has no second derivatives; MFFPA_BACKEND=reference has them")

    # Without this, torch takes the gradients for constants and second derivatives are silently 0.
    torch.library.register_autograd("mffpa_ext::outlook_attention_backward", _second_derivative)
