"""Loss scalers, step by step: ``loss_scaler("torch")`` runs a row of ``LOSS_POLICIES``."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite

import numpy as np

from fpemu.scaling.loss_policies import LOSS_POLICIES, LossPolicy


class ScalerStopped(FloatingPointError):
    """The scaler gave up, where the original raises."""


class LossScaler:
    """The state of a scaler; ``scale`` is the factor of the next step."""

    def __init__(self, policy: LossPolicy) -> None:
        if policy.log_max:
            raise NotImplementedError(f"{policy.name}: its statistics are not implemented")
        self.policy = policy
        self.scale = self._number(policy.init)
        self._good = 0
        self._hysteresis = policy.hysteresis

    def _number(self, value: float) -> float:
        if not self.policy.single:
            return value
        with np.errstate(over="ignore"):
            return float(np.float32(value))

    @property
    def inverse(self) -> float:
        """What gradients are multiplied by; a float32 scale has the float32 of 1 / float64(scale)."""
        return self._number(1 / self.scale if self.scale else inf)

    @property
    def dead_zone(self) -> str | None:
        """What is wrong with the scale, or None."""
        if self.scale == 0:
            return "scale 0"
        if not isfinite(self.scale):
            return "scale is infinite"
        if self.inverse == inf:
            return "1/scale is infinite"
        return "scale < 1" if self.scale < 1 else None

    def step(self, overflow: bool) -> bool:
        """Take a step whose gradients overflowed or not; whether it is applied. Raises ScalerStopped."""
        policy = self.policy
        if not overflow:
            self._good += 1
            if policy.refill == "good step":
                self._hysteresis = policy.hysteresis
            past = self._good - policy.delay
            if policy.interval and past > 0 and past % policy.interval == 0:
                grown = self._number(min(self.scale * policy.growth, policy.cap))
                if isfinite(grown) or not policy.finite_growth:
                    self.scale = grown
                self._hysteresis = policy.hysteresis
            return True
        self._good = 0
        self._hysteresis = max(self._hysteresis - 1, 0)
        if self._hysteresis:
            return False
        backed = self._number(self.scale * policy.backoff)
        if policy.at_floor == "raise":
            # DeepSpeed stops at its minimum, having clamped to it; fairseq on reaching or passing it.
            if self.scale <= policy.floor or (policy.name.startswith("fairseq") and backed <= policy.floor):
                raise ScalerStopped(f"{policy.name}: overflow at scale {self.scale:g}, floor {policy.floor:g}")
        self.scale = backed if policy.at_floor == "none" else max(backed, policy.floor)
        return False


def loss_scaler(name: str, **overrides: object) -> LossScaler:
    """A scaler by the name of its policy, with attributes of the row overridden.

    Raises ValueError, listing what is valid, for an unknown name, and TypeError for an unknown attribute.
    """
    if name not in LOSS_POLICIES:
        raise ValueError(f"no loss scaler {name!r}; there are {', '.join(LOSS_POLICIES)}")
    return LossScaler(replace(LOSS_POLICIES[name], **overrides))  # type: ignore[arg-type]
