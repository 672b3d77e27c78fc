"""Functional operators. Each has a compiled kernel, a pure-PyTorch reference, and gradients."""

from mffpa_ext.ops.outlook_attention import outlook_attention

__all__ = ["outlook_attention"]
