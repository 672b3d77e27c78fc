"""Functional operators."""

from mffpa_ext.ops.feature_norm import feature_norm, feature_norm_pool
from mffpa_ext.ops.large_kernel_conv2d import large_kernel_conv2d, large_kernel_spectrum, large_kernel_tile
from mffpa_ext.ops.outlook_attention import outlook_attention
from mffpa_ext.ops.pyramid_coordinate_attention import pyramid_coordinate_attention
from mffpa_ext.ops.pyramid_gate import directional_means, pyramid_gate

__all__ = [
    "directional_means",
    "feature_norm",
    "feature_norm_pool",
    "large_kernel_conv2d",
    "large_kernel_spectrum",
    "large_kernel_tile",
    "outlook_attention",
    "pyramid_coordinate_attention",
    "pyramid_gate",
]
