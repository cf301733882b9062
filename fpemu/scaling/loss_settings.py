"""Which settings a loss scaler can have: a ``LossPolicy`` is checked when it is made, by hand or by overrides."""

from __future__ import annotations

from math import inf, isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fpemu.scaling.loss_policies import LossPolicy

NUMBERS = ("init", "growth", "backoff", "floor", "cap", "tolerance")
WHOLE = {"interval": 1, "delay": 0, "hysteresis": 1}  # and their least values
CHOICES = {
    "at_floor": ("clamp", "keep", "raise", "raise before", "none"),
    "refill": ("growth", "good step", "good step or backoff"),
    "divides_by": ("used", "next"),
}
FLAGS = (
    "single", "finite_growth", "log_max", "verified", "delays_always", "caps_first", "single_factors", "stretches", "logarithm",
)  # fmt: skip


def factors(policy: LossPolicy) -> tuple[float, float]:
    """Growth and backoff as the scaler multiplies by them."""
    if not policy.single_factors:
        return float(policy.growth), float(policy.backoff)
    with np.errstate(all="ignore"):
        return float(np.float32(policy.growth)), float(np.float32(policy.backoff))


def check_settings(policy: LossPolicy) -> None:
    """Raise TypeError for a setting of the wrong type, ValueError for one that no scaler can have; the text says what is valid."""
    for name in NUMBERS:
        _is(policy, name, Real, "a number")
    for name, least in WHOLE.items():
        if name == "interval" and policy.interval is None:
            continue
        _is(policy, name, Integral, "a whole number" + (" or None" if name == "interval" else ""))
        if getattr(policy, name) < least:
            raise ValueError(f"{policy.name}: {name} must be at least {least}, not {getattr(policy, name)}")
    for name in FLAGS:
        if not isinstance(getattr(policy, name), bool | np.bool_):
            raise TypeError(f"{policy.name}: {name} must be True or False, not {getattr(policy, name)!r}")
    for name, valid in CHOICES.items():
        if getattr(policy, name) not in valid:
            raise ValueError(f"{policy.name}: {name} {getattr(policy, name)!r} is not one of: {', '.join(valid)}")
    _check_ranges(policy)


def _is(policy: LossPolicy, name: str, kind: type, what: str) -> None:
    value = getattr(policy, name)
    if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
        raise TypeError(f"{policy.name}: {name} must be {what}, not {value!r}")


def _check_ranges(policy: LossPolicy) -> None:
    growth, backoff = factors(policy)
    of = " in float32" if policy.single_factors else ""
    added = "it is added to log2 of the scale"
    rules: tuple[tuple[str, bool, str], ...] = (
        ("growth", 0 <= growth < inf, f"0 or more and finite: {added}"),
        ("backoff", -inf < backoff <= 0, f"0 or less and finite: {added}"),
    ) if policy.logarithm else (
        ("growth", 1 <= growth < inf, f"at least 1 and finite{of}"),
        ("backoff", 0 < backoff <= 1, f"above 0 and at most 1{of}"),
    )  # fmt: skip
    rules += (
        ("tolerance", 0 <= policy.tolerance <= 1, "between 0 and 1"),
        ("floor", 0 <= policy.floor < inf, "0 or more and finite"),
        ("cap", policy.cap > 0 and policy.cap >= policy.floor, f"above 0 and at least the floor, {policy.floor:g}"),
        ("init", not policy.init < policy.floor, f"at least the floor, {policy.floor:g}"),
    )
    for name, valid, what in rules:
        if not valid:
            raise ValueError(f"{policy.name}: {name} must be {what}, not {getattr(policy, name)!r}")
    if policy.logarithm and (policy.floor > 0 or isfinite(policy.cap) or policy.single or not policy.init > 0):
        raise ValueError(
            f"{policy.name}: a scale kept as its logarithm is a positive Python float without floor or cap"
        )
