"""Arithmetic of convolutions and linear layers: the names that users give it, and what torch makes of them."""

import torch

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Runs what is inside in "fp32", "bf16" or "fp16"; parameters stay float32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def precision_notes(precision: str, device: torch.device) -> list[str]:
    """A warning where half precision is slower than float32 instead of faster."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch: nothing is known, or said
    if device.type != "cpu" or precision == "fp32" or not capabilities:
        return []
    fast = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}[precision]
    if capabilities.get("architecture") != "x86_64" or any(capabilities.get(name) for name in fast):
        return []
    return [f"this CPU has no {precision} arithmetic, which is emulated: --precision fp32 is faster here"]
