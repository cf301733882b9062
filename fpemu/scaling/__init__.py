"""Scales: of tensors and blocks (``per_tensor``, ``tiles``, ``mx``, ``nvfp4``), and of losses (``loss_policies``, ``loss``, ``loss_simulation``)."""

from fpemu.scaling.float_scales import Algorithm, DelayedScaling, per_tensor, tiles
from fpemu.scaling.hadamard import hadamard
from fpemu.scaling.mx import Special, mx
from fpemu.scaling.mx_rules import ScaleRule
from fpemu.scaling.nvfp4 import nvfp4
from fpemu.scaling.scaled import Fate, Scaled

__all__ = [
    "Algorithm",
    "DelayedScaling",
    "Fate",
    "ScaleRule",
    "Scaled",
    "Special",
    "hadamard",
    "mx",
    "nvfp4",
    "per_tensor",
    "tiles",
]
