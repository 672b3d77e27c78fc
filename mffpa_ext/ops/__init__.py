"""Functional operators."""

from mffpa_ext.ops.feature_norm import feature_norm, feature_norm_pool
from mffpa_ext.ops.outlook_attention import outlook_attention

__all__ = ["feature_norm", "feature_norm_pool", "outlook_attention"]
