"""What a loss scaler would have done: ``simulate`` replays a trace of log2(amax) of unscaled gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np

from fpemu.arrays import as_plain, decode
from fpemu.formats import FormatName, as_format
from fpemu.scaling.loss import LossScaler, ScalerStopped, loss_scaler
from fpemu.targets.environment import in_default_environment
from fpemu.tensors import own_format


@in_default_environment
@dataclass(frozen=True)
class Replay:
    """A scaler's way through a trace; arrays have one element a step taken.

    Attributes
    ----------
    policy, format: names. scale: float64, as the step used it. overflow, applied: bool.
    headroom: float64, exponents between the scaled amax and overflow; NaN where amax is zero or not finite.
    gain: float64, what an applied gradient is multiplied by in all, scaled and unscaled: 1, but 1/2 at a growth where the policy
        divides by the next scale; NaN where the step was not applied.
    stopped: the step at which the scaler gave up, or None. dead_zone_at: the first step with a scale that is none, or None.
    """

    policy: str
    format: str
    scale: np.ndarray
    overflow: np.ndarray
    applied: np.ndarray
    headroom: np.ndarray
    gain: np.ndarray
    stopped: int | None
    dead_zone_at: int | None

    def summary(self) -> dict[str, Any]:
        """One row: steps, skips, the longest run of skips, mean wasted exponents of applied steps, bursts, applied steps whose
        gradient was divided by another scale than it had been multiplied by."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], ~self.applied, [0])).astype(np.int8)))
        runs = edges[1::2] - edges[::2]
        wasted = self.headroom[self.applied & np.isfinite(self.headroom)]
        return {
            "policy": self.policy,
            "steps": len(self.scale),
            "skips": int((~self.applied).sum()),
            "longest_skip": int(runs.max(initial=0)),
            "steps_to_recover": runs.tolist(),
            "misdivided": int((self.gain[self.applied] != 1).sum()),
            "wasted_exponents": float(wasted.mean()) if wasted.size else float("nan"),
            "dead_zone_at": self.dead_zone_at,
            "stopped": self.stopped,
        }


@in_default_environment
def ceiling(format: FormatName) -> float:
    """log2 of where overflow begins: half way from the largest finite value to what would come next."""
    target = as_format(format)
    significand, exponent = target.scientific(target.max_code)
    return log2(2 * significand + 1) + exponent - 1


@in_default_environment
def simulate(policy: str | LossScaler, trace: Sequence[float] | np.ndarray, format: FormatName = "fp16") -> Replay:
    """Replay a trace.

    Parameters
    ----------
    policy: a name in LOSS_POLICIES, or a scaler, which moves.
    trace: 1-d, log2 of amax of the unscaled gradient; -inf: all zero; +inf and NaN: not finite whatever the scale.
    format: what the scaled gradient is cast to, to nearest even (a tie at the ceiling overflows).

    Raises ValueError for a trace of other dimensions, an unknown policy or format.
    """
    logs = as_plain(trace, "log2(amax)")
    logs = decode(logs, dtype=np.float64) if own_format(logs.dtype) else logs.astype(np.float64, copy=False)
    if logs.ndim != 1:
        raise ValueError(f"a trace has one dimension, this one {logs.ndim}")
    scaler = loss_scaler(policy) if isinstance(policy, str) else policy
    top, target = ceiling(format), as_format(format)
    scales, overflows, applied, headrooms, gains = [], [], [], [], []
    stopped = dead = None
    for step, amax in enumerate(logs.tolist()):
        scale = scaler.scale
        log_scale = log2(scale) if 0 < scale < np.inf else -np.inf if scale == 0 else np.inf
        scaled = amax + log_scale  # inf - inf, a NaN, is no number either: 0 * inf
        over = not scaled < top or amax == np.inf
        if dead is None and scaler.dead_zone:
            dead = step
        scales.append(scale)
        overflows.append(over)
        headrooms.append(top - scaled if np.isfinite(scaled) else np.nan)
        try:
            applied.append(scaler.step((np.inf if over else amax) if scaler.policy.log_max else over))
        except ScalerStopped:
            applied.append(False)
            gains.append(np.nan)
            stopped = step
            break
        divided = scaler.policy.divides_by == "next" and scale != scaler.scale
        gains.append(np.nan if not applied[-1] else scale / scaler.scale if divided else 1.0)
    flags = np.array(overflows, bool), np.array(applied, bool)
    return Replay(
        scaler.policy.name, target.name, np.array(scales), *flags, np.array(headrooms), np.array(gains), stopped, dead
    )


@in_default_environment
def tournament(
    policies: Iterable[str], trace: Sequence[float] | np.ndarray, format: FormatName = "fp16"
) -> list[dict[str, Any]]:
    """The summaries of policies on one trace, a row each."""
    return [simulate(policy, trace, format).summary() for policy in policies]
