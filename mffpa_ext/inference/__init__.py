"""Prediction with trained networks."""

from mffpa_ext.inference.predictor import Prediction, Predictor
from mffpa_ext.inference.preprocessing import Preprocessing

__all__ = ["Prediction", "Predictor", "Preprocessing"]
