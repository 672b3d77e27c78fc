"""Which implementation an operator uses for given tensors: the compiled kernel or the pure-PyTorch reference."""

import functools
import warnings

import torch
from torch import Tensor

from mffpa_ext import _extension


# Not every operator has a CUDA kernel. Asked once: torch.compile cannot trace a question to the dispatcher.
_WITH_CUDA_KERNEL = frozenset(
    name.removeprefix("mffpa_ext::")
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    if name.startswith("mffpa_ext::")
)


def use_compiled(*tensors: Tensor, operator: str = "") -> bool:
    """Whether the compiled kernels serve these tensors.

    `operator` is the name under torch.ops.mffpa_ext that is to run: on CUDA it must have a kernel of its own.

    With `MFFPA_BACKEND=compiled` a case that they do not serve is an error instead of the slow reference; without it,
    one warning per process, kind of device and operator.
    """
    requested = _extension.requested_backend()
    if requested == "reference":
        return False
    devices = {tensor.device.type for tensor in tensors}
    if is_transformed():
        if requested == "compiled":
            raise RuntimeError("MFFPA_BACKEND=compiled forbids the pure-PyTorch fallback: torch.func transforms and "
                               "forward-mode derivatives need it")
        return False
    # On the meta device the compiled operator's fake kernel computes the shapes.
    served = _extension.is_compiled() and (
        devices <= {"cpu", "meta"} or (devices == {"cuda"} and operator in _WITH_CUDA_KERNEL)
    )
    if served:
        return True
    if requested == "compiled":
        raise RuntimeError(f"MFFPA_BACKEND=compiled forbids the pure-PyTorch fallback: {_reason(devices, operator)}")
    # Where nothing at all is compiled, importing the package has said so.
    if _extension.is_compiled() and not torch.compiler.is_compiling():
        _warn_once(_reason(devices, operator))
    return False


def is_transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is active, which compiled operators lack.

    They would drop the tangents silently. While torch.compile traces, it asks the operators itself.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def _reason(devices: set[str], operator: str) -> str:
    if not _extension.is_compiled():
        return _extension.missing_reason()
    why = _extension.cuda_missing_reason() or f"{operator or 'this operator'} has none for CUDA"
    return f"no compiled kernel for tensors on {', '.join(sorted(devices))}{f' ({why})' if 'cuda' in devices else ''}"


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"mffpa_ext: {reason}; slower pure-PyTorch code is used", RuntimeWarning, stacklevel=4)
