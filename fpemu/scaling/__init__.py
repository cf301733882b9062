"""Scales: of tensors and blocks (``per_tensor``, ``tiles``, ``mx``, ``nvfp4``), and of losses (``loss``, its policies, recordings and simulation)."""

from fpemu.scaling.float_scales import Algorithm, AmaxRule, DelayedScaling, per_tensor, tiles
from fpemu.scaling.hadamard import hadamard
from fpemu.scaling.loss import LossScaler, ScalerStopped, loss_scaler
from fpemu.scaling.loss_policies import LOSS_POLICIES, LossPolicy
from fpemu.scaling.loss_recordings import Recording
from fpemu.scaling.loss_simulation import Replay, simulate, tournament
from fpemu.scaling.mx import Special, mx
from fpemu.scaling.mx_rules import ScaleRule
from fpemu.scaling.nvfp4 import nvfp4
from fpemu.scaling.nvfp4_rules import NVFP4Rule
from fpemu.scaling.scale_formats import SCALE_FORMATS
from fpemu.scaling.scaled import Fate, Scaled

__all__ = [
    "LOSS_POLICIES",
    "SCALE_FORMATS",
    "Algorithm",
    "AmaxRule",
    "DelayedScaling",
    "Fate",
    "LossPolicy",
    "LossScaler",
    "NVFP4Rule",
    "Recording",
    "Replay",
    "ScaleRule",
    "Scaled",
    "ScalerStopped",
    "Special",
    "hadamard",
    "loss_scaler",
    "mx",
    "nvfp4",
    "per_tensor",
    "simulate",
    "tiles",
    "tournament",
]
