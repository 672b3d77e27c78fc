"""The network of the paper and its ablations."""

from mffpa_ext.models.complexity import Complexity, complexity
from mffpa_ext.models.network import ATTENTIONS, VARIANTS, DefectNetwork, create_model

__all__ = ["ATTENTIONS", "VARIANTS", "Complexity", "DefectNetwork", "complexity", "create_model"]
