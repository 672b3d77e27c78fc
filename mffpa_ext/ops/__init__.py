"""Functional operators."""

from mffpa_ext.ops.feature_norm import feature_norm
from mffpa_ext.ops.outlook_attention import outlook_attention

__all__ = ["feature_norm", "outlook_attention"]
