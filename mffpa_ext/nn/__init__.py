"""Drop-in modules, usable in any model."""

from mffpa_ext.nn.coordinate_attention import CoordinateAttention
from mffpa_ext.nn.feature_norm import FeatureNorm2d
from mffpa_ext.nn.large_kernel_conv2d import LargeKernelConv2d
from mffpa_ext.nn.outlook_attention import OutlookAttention
from mffpa_ext.nn.pyramid_split_attention import PyramidSplitAttention
from mffpa_ext.nn.squeeze_excitation import SqueezeExcitation

__all__ = [
    "CoordinateAttention",
    "FeatureNorm2d",
    "LargeKernelConv2d",
    "OutlookAttention",
    "PyramidSplitAttention",
    "SqueezeExcitation",
]
