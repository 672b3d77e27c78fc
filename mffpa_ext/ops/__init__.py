"""Functional operators."""

from mffpa_ext.ops.feature_norm import feature_norm, feature_norm_pool
from mffpa_ext.ops.large_kernel_conv2d import large_kernel_conv2d, large_kernel_spectrum, large_kernel_tile
from mffpa_ext.ops.outlook_attention import outlook_attention

__all__ = [
    "feature_norm",
    "feature_norm_pool",
    "large_kernel_conv2d",
    "large_kernel_spectrum",
    "large_kernel_tile",
    "outlook_attention",
]
