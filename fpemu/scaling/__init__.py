"""Scales: of tensors and blocks (``mx``), and of losses (``loss_policies``, ``loss``, ``loss_simulation``)."""

from fpemu.scaling.mx import Special, mx
from fpemu.scaling.mx_rules import ScaleRule
from fpemu.scaling.scaled import Fate, Scaled

__all__ = ["Fate", "ScaleRule", "Scaled", "Special", "mx"]
