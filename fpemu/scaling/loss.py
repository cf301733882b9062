"""Loss scalers, step by step: ``loss_scaler("torch")`` runs a row of ``LOSS_POLICIES``."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite

import numpy as np

from fpemu.scaling.loss_policies import LOSS_POLICIES, LossPolicy
from fpemu.targets.environment import in_default_environment


class ScalerStopped(FloatingPointError):
    """The scaler gave up, where the original raises."""


@in_default_environment
class LossScaler:
    """The state of a scaler; ``scale`` is the factor of the next step."""

    def __init__(self, policy: LossPolicy) -> None:
        self.policy = policy
        self.scale = self._number(policy.init)
        self._good = 0
        self._hysteresis = policy.hysteresis
        self._since_move = self._overflows = 0  # steps since it grew or backed off, overflows since it backed off

    def _number(self, value: float) -> float:
        if not self.policy.single:
            return value
        with np.errstate(all="ignore"):
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

    def step(self, overflow: bool | float) -> bool:
        """Take a step whose gradients overflowed or not; whether it is applied. Raises ScalerStopped."""
        if isinstance(overflow, float):
            raise TypeError(f"{self.policy.name} takes whether the step overflowed, a bool, not {overflow}")
        policy = self.policy
        self._since_move += 1
        if not overflow:
            self._good += 1
            if policy.refill == "good step":
                self._hysteresis = policy.hysteresis
            past = self._good - policy.delay
            if policy.interval and past > 0 and past % policy.interval == 0:
                grown = self._number(min(self.scale * policy.growth, policy.cap))
                if isfinite(grown) or not policy.finite_growth:
                    self.scale = grown
                self._hysteresis, self._since_move = policy.hysteresis, 0
            return True
        self._good = 0
        self._overflows += 1
        if self._overflows / self._since_move < policy.tolerance:
            return False
        self._hysteresis = max(self._hysteresis - 1, 0)
        if self._hysteresis:
            return False
        backed = self._number(self.scale * policy.backoff)
        reached = {"raise": self.scale, "raise before": backed}.get(policy.at_floor)
        if reached is not None and reached <= policy.floor:
            raise ScalerStopped(f"{policy.name}: overflow at scale {self.scale:g}, floor {policy.floor:g}")
        self.scale = backed if policy.at_floor == "none" else max(backed, policy.floor)
        self._since_move = self._overflows = 0
        return False


@in_default_environment
class LogMaxScaler(LossScaler):
    """OpenSeq2Seq's: 2^(16 - (mean + 3.09 deviations)) of log2(amax), in float32, from moving averages.

    A step that is not finite counts as 2^16 *among the logarithms*, as it is coded, where 16 may have been meant; one
    whose gradient is all zero makes the averages infinite and the scale NaN for good.
    """

    FAST, SLOW = np.float32(0.99), np.float32(0.999)
    DEVIATIONS, LOG_MAX = np.float32(3.09), np.float32(16)

    def __init__(self, policy: LossPolicy) -> None:
        super().__init__(policy)
        self._mean = self._slow = self._square = np.float32(0)
        self._fast_rest = self._slow_rest = np.float32(1)

    def step(self, overflow: bool | float) -> bool:
        """Take log2(amax) of the unscaled gradients, infinite or NaN if they overflowed; whether it is applied."""
        if isinstance(overflow, bool):
            raise TypeError(f"{self.policy.name} takes log2(amax), a float, not {overflow}")
        applied, one = not (overflow == inf or overflow != overflow), np.float32(1)
        x = np.float32(overflow) if applied else np.float32(2) ** self.LOG_MAX
        with np.errstate(all="ignore"):
            self._mean = self.FAST * self._mean + np.float32(1 - 0.99) * x
            self._slow = self.SLOW * self._slow + np.float32(1 - 0.999) * x
            self._square = self.SLOW * self._square + np.float32(1 - 0.999) * (x * x)
            self._fast_rest, self._slow_rest = self._fast_rest * self.FAST, self._slow_rest * self.SLOW
            slow = self._slow / (one - self._slow_rest)
            deviation = np.sqrt(np.maximum(self._square / (one - self._slow_rest) - slow * slow, np.float32(0)))
            cutoff = deviation * self.DEVIATIONS + self._mean / (one - self._fast_rest)
            scale = np.float32(2) ** (self.LOG_MAX - cutoff)
            self.scale = float(np.clip(scale, np.float32(self.policy.floor), np.float32(self.policy.cap)))
        return applied


@in_default_environment
def loss_scaler(name: str, **overrides: object) -> LossScaler:
    """A scaler by the name of its policy, with attributes of the row overridden.

    Raises ValueError, listing what is valid, for an unknown name, and TypeError for an unknown attribute.
    """
    if name not in LOSS_POLICIES:
        raise ValueError(f"no loss scaler {name!r}; there are {', '.join(LOSS_POLICIES)}")
    policy = replace(LOSS_POLICIES[name], **overrides)  # type: ignore[arg-type]
    return LogMaxScaler(policy) if policy.log_max else LossScaler(policy)
