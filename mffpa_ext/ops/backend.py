"""Which implementation an operator uses for given tensors: the compiled kernel or the pure-PyTorch reference."""

from torch import Tensor

from mffpa_ext import _extension


def use_compiled(*tensors: Tensor) -> bool:
    """Whether the compiled kernels serve these tensors.

    With `MFFPA_BACKEND=compiled` a case that they do not serve is an error instead of the slow reference.
    """
    requested = _extension.requested_backend()
    if requested == "reference":
        return False
    devices = {tensor.device.type for tensor in tensors}
    # On the meta device the compiled operator's fake kernel computes the shapes.
    served = _extension.is_compiled() and (
        devices <= {"cpu", "meta"} or (devices == {"cuda"} and _extension.has_cuda_kernels())
    )
    if not served and requested == "compiled":
        reason = _extension.missing_reason() or f"no compiled kernel for tensors on {sorted(devices)}"
        raise RuntimeError(f"MFFPA_BACKEND=compiled forbids the pure-PyTorch fallback: {reason}")
    return served
