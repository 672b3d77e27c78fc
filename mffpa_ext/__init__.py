"""Surface-defect detection with MFFPA networks."""

from mffpa_ext import _extension as _extension
