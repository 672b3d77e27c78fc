"""Surface-defect detection with MFFPA networks, on C++ kernels of its own.

Modules to use anywhere: `OutlookAttention`, `CoordinateAttention`, `PyramidSplitAttention`, `FeatureNorm2d`,
`LargeKernelConv2d`; the same as functions: `mffpa_ext.ops`. Networks: `mffpa_ext.models.create_model`. Trained
networks: `Predictor` to predict with them as fast as this machine can, `load` for the bare module.
"""

from typing import TYPE_CHECKING, Any

from mffpa_ext import _extension as _extension  # first: it loads the compiled operators, or says why there are none
from mffpa_ext import models, nn, ops
from mffpa_ext.errors import UserError
from mffpa_ext.nn import (
    CoordinateAttention,
    FeatureNorm2d,
    LargeKernelConv2d,
    OutlookAttention,
    PyramidSplitAttention,
)

if TYPE_CHECKING:
    from mffpa_ext.inference import Predictor
    from mffpa_ext.training import load

__version__ = _extension.build_info.get("version", "0+unbuilt")  # pyproject.toml's, as the build recorded it

__all__ = [
    "CoordinateAttention",
    "FeatureNorm2d",
    "LargeKernelConv2d",
    "OutlookAttention",
    "Predictor",
    "PyramidSplitAttention",
    "UserError",
    "load",
    "models",
    "nn",
    "ops",
]


def __getattr__(name: str) -> Any:
    """These come when they are asked for: who only wants the modules need not import what checkpoints need."""
    if name == "load":
        from mffpa_ext.training import load

        return load
    if name == "Predictor":
        from mffpa_ext.inference import Predictor

        return Predictor
    raise AttributeError(f"module 'mffpa_ext' has no attribute {name!r}")
