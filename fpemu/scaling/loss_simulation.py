"""What a loss scaler would have done: ``simulate`` replays a trace of log2(amax) of unscaled gradients, or a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log2, nan
from typing import Any, Literal

import numpy as np

from fpemu.formats import FloatFormat, FormatName, as_format
from fpemu.scaling.loss import LossScaler, ScalerStopped, loss_scaler
from fpemu.scaling.loss_recordings import Recording, no_logarithms, numbers
from fpemu.scaling.loss_recordings import ceiling as ceiling
from fpemu.targets.environment import in_default_environment

Undetermined = Literal["applied", "overflow"]  # what is assumed of a step of which a recording does not say it


@in_default_environment
@dataclass(frozen=True)
class Replay:
    """A scaler's way through a trace; arrays have one element a step taken.

    Attributes
    ----------
    policy, format: names. scale: float64, as the step used it. overflow, applied: bool. undetermined: bool, whether the step
        overflows at its scale is not known from the recording, and was assumed.
    headroom: float64, exponents between the scaled amax and overflow; NaN where amax is zero or not known.
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
    undetermined: np.ndarray

    def summary(self) -> dict[str, Any]:
        """One row: steps, skips, the longest run of skips, mean wasted exponents of applied steps, bursts, applied steps whose
        gradient was divided by another scale than it had been multiplied by, steps whose overflow was assumed, either way."""
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
            "undetermined": int(self.undetermined.sum()),
        }


@in_default_environment
def simulate(
    policy: str | LossScaler,
    trace: Sequence[float] | np.ndarray | Recording,
    format: FormatName = "fp16",
    *,
    undetermined: Undetermined = "applied",
) -> Replay:
    """Replay a trace.

    Parameters
    ----------
    policy: a name in LOSS_POLICIES, or a scaler, which moves.
    trace: 1-d, log2 of amax of the unscaled gradient, as known numbers: -inf: all zero; +inf and NaN: not finite *whatever the
        scale*. What a training logged is no such trace, for it is infinite where the scale of that time was too large: a
        ``Recording``, which has that scale, is replayed without counting the recorder's overflows again.
    format: what the scaled gradient is cast to, to nearest even (a tie at the ceiling overflows).
    undetermined: what to assume of the steps of a recording that overflowed at its scale, and are replayed at a smaller one:
        "applied", that they do not, or "overflow".  They are ``Replay.undetermined`` either way.  The two are the extreme
        assumptions, no bounds of the number of skips: an overflow more can spare a later one.

    LogMax's averages take no step that is undetermined and applied, or whose amax was not recorded.

    Raises ValueError for a trace of other dimensions, or with a log2 of no float64, an unknown policy, format or assumption.

    >>> seen = Recording([np.inf] * 16 + [-3.0], scale=[2.0**k for k in range(32, 15, -1)])
    >>> simulate("torch", seen).summary()["skips"], simulate("torch", seen).summary()["undetermined"]
    (0, 16)
    """
    if undetermined not in ("applied", "overflow"):
        raise ValueError(f'undetermined steps are "applied" or "overflow", not {undetermined!r}')
    scaler = loss_scaler(policy) if isinstance(policy, str) else policy
    top, target = ceiling(format), as_format(format)
    logs, judge = _judge(trace, target)
    scales, overflows, applied, headrooms, gains, assumed = [], [], [], [], [], []
    stopped = dead = None
    for step, amax in enumerate(logs.tolist()):
        scale = scaler.scale
        scaled = amax + _log2(scale)  # inf - inf, a NaN, is no number either: 0 * inf
        known = judge(step, scale, scaled)
        over = undetermined == "overflow" if known is None else known
        if dead is None and scaler.dead_zone:
            dead = step
        scales.append(scale)
        overflows.append(over)
        assumed.append(known is None)
        headrooms.append(top - scaled if isfinite(scaled) and known is not None else nan)
        try:
            applied.append(_take(scaler, over, None if known is None else amax))
        except ScalerStopped:
            applied.append(False)
            gains.append(nan)
            stopped = step
            break
        divided = scaler.policy.divides_by == "next" and scale != scaler.scale
        gains.append(nan if not applied[-1] else scale / scaler.scale if divided else 1.0)
    flags = np.array(overflows, bool), np.array(applied, bool)
    return Replay(
        scaler.policy.name, target.name, np.array(scales), *flags, np.array(headrooms), np.array(gains), stopped, dead,
        np.array(assumed, bool),
    )  # fmt: skip


Judge = Callable[
    [int, float, float], bool | None
]  # step, scale, log2 of the scaled amax -> overflow, None: not determined


def _judge(trace: Sequence[float] | np.ndarray | Recording, format: FloatFormat) -> tuple[np.ndarray, Judge]:
    """log2(amax), and what tells whether a step overflows."""
    top = ceiling(format)
    if not isinstance(trace, Recording):
        logs = numbers(trace, "log2(amax)")
        if logs.ndim != 1:
            raise ValueError(f"a trace has one dimension, this one {logs.ndim}")
        if no_logarithms(logs).any():
            step = int(np.argmax(no_logarithms(logs)))
            raise ValueError(
                f"step {step}: {logs[step]:g} is log2 of no float64; Recording.of_magnitudes takes amax itself"
            )
        infinite = (logs == inf).tolist()
        return logs, lambda step, _, scaled: not scaled < top or infinite[step]
    overflowed = trace.overflow.tolist()
    fine, over = (bound.tolist() for bound in trace.bounds(format))
    known = (trace.log2_amax < inf).tolist()

    def judge(step: int, scale: float, scaled: float) -> bool | None:
        if not scale < over[step]:
            return True
        if scale <= fine[step]:
            return False
        if known[step] and not (overflowed[step] and scaled < top):
            return not scaled < top
        return None

    return trace.log2_amax, judge


def _take(scaler: LossScaler, over: bool, amax: float | None) -> bool:
    """A scaler's step; amax: None where it is not known."""
    if not scaler.policy.log_max:
        return scaler.step(over)
    if over:
        return scaler.step(inf)
    return True if amax is None or amax != amax else scaler.step(amax)


def _log2(scale: float) -> float:
    """log2 of a scale; of one that has none (0, infinite, NaN) an infinity."""
    return log2(scale) if 0 < scale < inf else -inf if scale == 0 else inf


@in_default_environment
def tournament(
    policies: Iterable[str], trace: Sequence[float] | np.ndarray | Recording, format: FormatName = "fp16"
) -> list[dict[str, Any]]:
    """The summaries of policies on one trace, a row each."""
    return [simulate(policy, trace, format).summary() for policy in policies]
