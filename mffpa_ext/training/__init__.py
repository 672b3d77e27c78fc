"""Training: settings, recipes, losses, the loop, and checkpoints."""

from mffpa_ext.training.checkpoint import load

__all__ = ["load"]
