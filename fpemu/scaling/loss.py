"""Loss scalers, step by step: ``loss_scaler("torch")`` runs a row of ``LOSS_POLICIES``."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf, isfinite, log2

import numpy as np

from fpemu.scaling.loss_policies import LOSS_POLICIES, LossPolicy
from fpemu.scaling.loss_settings import factors
from fpemu.targets.environment import in_default_environment


class ScalerStopped(FloatingPointError):
    """The scaler gave up, where the original raises."""


@in_default_environment
class LossScaler:
    """The state of a scaler.

    Attributes
    ----------
    policy: its row. scale: the factor of the next step. moved: whether the last step ended an interval of growth or backed
        off, which a cap or a floor may have kept from changing the scale.
    """

    def __init__(self, policy: LossPolicy) -> None:
        self.policy = policy
        self.scale = self._number(min(policy.init, policy.cap) if policy.caps_first else policy.init)
        self.moved = False
        self._growth, self._backoff = factors(policy)
        self._log = log2(policy.init) if policy.logarithm else 0.0
        self._interval: float | None = policy.interval
        self._good = 0
        self._hysteresis = policy.hysteresis
        self._since_move = self._overflows = 0  # steps since it grew or backed off, overflows since it backed off

    def _number(self, value: float) -> float:
        if not self.policy.single:
            return value
        with np.errstate(all="ignore"):
            return float(np.float32(value))

    def _times(self, factor: float) -> float:
        """The scale multiplied by one of the factors."""
        if not self.policy.logarithm:
            return self._number(self.scale * factor)
        self._log += factor
        return 2.0**self._log if self._log < 1024 else inf

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
        self._since_move += 1
        self.moved = False
        if overflow:
            self._back_off()
        else:
            self._good += 1
            if "good step" in self.policy.refill:
                self._hysteresis = self.policy.hysteresis
            past = self._good - self.policy.delay
            if self._interval and past > 0 and not past % self._interval:
                self._grow()
        return not overflow

    def _grow(self) -> None:
        """After the good step that ends an interval."""
        policy = self.policy
        grown = self._number(min(self._times(self._growth), policy.cap))
        if isfinite(grown) or not policy.finite_growth:
            self.scale = grown
        if policy.stretches and self._interval:
            self._interval *= self._growth
        if policy.delays_always:
            self._good = 0
        self._hysteresis, self._since_move, self.moved = policy.hysteresis, 0, True

    def _back_off(self) -> None:
        """After an overflow, unless hysteresis or tolerance bear it.  Raises ScalerStopped."""
        policy = self.policy
        self._good = 0
        self._overflows += 1
        if self._overflows / self._since_move < policy.tolerance:
            return
        self._hysteresis = max(self._hysteresis - 1, 0)
        if self._hysteresis:
            return
        backed = self._times(self._backoff)
        reached = {"raise": self.scale, "raise before": backed}.get(policy.at_floor)
        if reached is not None and reached <= policy.floor:
            raise ScalerStopped(f"{policy.name}: overflow at scale {self.scale:g}, floor {policy.floor:g}")
        if policy.at_floor != "keep" or backed >= policy.floor:
            self.scale = backed if policy.at_floor == "none" else max(backed, policy.floor)
        if policy.stretches and self._interval:
            self._interval = max(int(self._interval * self._backoff), 1)
        if policy.refill == "good step or backoff":
            self._hysteresis = policy.hysteresis
        self._since_move, self._overflows, self.moved = 0, 0, True


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

    >>> loss_scaler("torch", init=1024.0, interval=100).scale
    1024.0

    Raises ValueError, listing what is valid, for an unknown name, and for a setting that no scaler can have (a first scale below
    the floor, a factor that is not positive, a floor where nothing happens at one); TypeError for an unknown attribute, or one of
    the wrong type.
    """
    if name not in LOSS_POLICIES:
        raise ValueError(f"no loss scaler {name!r}; there are {', '.join(LOSS_POLICIES)}")
    valid = [one.name for one in fields(LossPolicy)]
    for unknown in overrides.keys() - set(valid):
        raise TypeError(f"{name} has no setting {unknown!r}; there are {', '.join(valid)}")
    policy = replace(LOSS_POLICIES[name], **overrides)  # type: ignore[arg-type]
    if overrides.get("floor") and policy.at_floor == "none" and not policy.log_max:
        raise ValueError(f'{name}: a floor needs at_floor, which says what happens there, "clamp" for example')
    return LogMaxScaler(policy) if policy.log_max else LossScaler(policy)
