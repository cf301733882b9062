"""What a training logged of its gradients and its loss scaler: a ``Recording``, and what it leaves open.

The gradients of a step were seen under one loss scale only, the recorder's.  Where they overflowed, all that is known is that they
do at this scale: whether they would have at a smaller one, no recording says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2, nan

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import as_plain
from fpemu.formats import FloatFormat, as_format
from fpemu.targets.environment import in_default_environment

RECORDED = "fp16"  # what the recorder's scaled gradients were
LEAST_LOG, LARGEST_LOG = -1074, 1024  # log2 of the magnitudes of float64


@in_default_environment
def ceiling(format: FloatFormat | str) -> float:
    """log2 of where overflow begins: half way from the largest finite value to what would come next."""
    target = as_format(format)
    significand, exponent = target.scientific(target.max_code)
    return log2(2 * significand + 1) + exponent - 1


@in_default_environment
@dataclass(frozen=True, eq=False)
class Recording:
    """One training's steps, a value a step; the arrays are 1-d and of one length.

    Parameters
    ----------
    log2_amax: log2 of the largest magnitude of the unscaled gradient. -inf: all zero. +inf: it overflowed. NaN: it overflowed; or,
        in a step that did not by ``overflow``, it was not recorded.  ``of_magnitudes`` takes amax itself.
    scale: the loss scale that the step used (not the one after its update), NaN where it was not recorded; None: nowhere.
    overflow: whether the recorder found an overflow, bool or 0 and 1; None: where log2_amax is infinite or NaN.

    What is known of a step
    -----------------------
    The pass is taken to be the same under another scale, but for the factor.  Then
    - no overflow at the recorded scale S: there is none up to S. Above S, log2_amax is that of all that is cast, so that the step
      overflows where scale times amax does; where amax was not recorded, nothing is determined.
    - an overflow at S: some FP16 value of the pass reached 65520, or met inf - inf. At S and above there is one. Below S, and at
      every scale where S was not recorded, it is not determined. That amax is at least 65520 / S follows only if the recorded
      tensor is itself FP16, and is not assumed. A finite amax is that of a tensor which did not overflow when another did: the step
      overflows where that amax does, too.

    Raises TypeError or ValueError, with the step, for values that contradict each other: an infinite amax in a step without
    overflow, a scale that is not positive and finite, an overflow that is neither 0 nor 1.

    >>> Recording([-3.0, np.inf, -3.0], scale=[2.0**16, 2.0**16, 2.0**15]).overflow.tolist()
    [False, True, False]
    """

    log2_amax: np.ndarray
    scale: np.ndarray
    overflow: np.ndarray

    def __init__(self, log2_amax: ArrayLike, scale: ArrayLike | None = None, overflow: ArrayLike | None = None) -> None:
        logs = _column(log2_amax, "log2_amax")
        unknown = ~np.isfinite(logs) & (logs != -inf)
        scales = np.full(len(logs), nan) if scale is None else _column(scale, "scale")
        flags = unknown.astype(float) if overflow is None else _column(overflow, "overflow")
        for name, values in (("scale", scales), ("overflow", flags)):
            if len(values) != len(logs):
                raise ValueError(f"log2_amax has {len(logs)} steps, {name} has {len(values)}")
        for name, wrong, why in (
            ("overflow", (flags != 0) & (flags != 1), "which is neither 0 nor 1"),
            ("scale", ~np.isnan(scales) & ~((scales > 0) & (scales < inf)), "which is not positive and finite"),
            ("log2_amax", (logs == inf) & (flags == 0), "but no overflow"),
            (
                "log2_amax",
                no_logarithms(logs),
                f"which is log2 of no float64: {LEAST_LOG} to {LARGEST_LOG}; of_magnitudes takes amax itself",
            ),
        ):
            if wrong.any():
                step = int(np.argmax(wrong))
                value = {"overflow": flags, "scale": scales, "log2_amax": logs}[name][step]
                raise ValueError(f"step {step}: {name} is {value:g}, {why}")
        for name, array in (("log2_amax", logs), ("scale", scales), ("overflow", flags == 1)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def of_magnitudes(
        cls, amax: ArrayLike, scale: ArrayLike | None = None, overflow: ArrayLike | None = None
    ) -> Recording:
        """A recording whose amax is given itself: 0 is a gradient of zeros.  ValueError for a negative one.

        >>> Recording.of_magnitudes([0.25, 0.0]).log2_amax.tolist()
        [-2.0, -inf]
        """
        values = _column(amax, "amax")
        if (values < 0).any():
            step = int(np.argmax(values < 0))
            raise ValueError(f"step {step}: amax is {values[step]:g}, and a magnitude is never negative")
        with np.errstate(divide="ignore"):
            return cls(np.log2(values), scale, overflow)

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.log2_amax)

    def bounds(self, format: FloatFormat | str = RECORDED) -> tuple[np.ndarray, np.ndarray]:
        """Of each step the largest loss scale at which it did not overflow, and the least at which it did.

        Returns
        -------
        (fine, over): float64, scales: up to fine no overflow, from over on one. 0 and infinity where the recording says nothing.
            What lies between is not determined, unless amax is known and says it.
        For formats other than FP16 the value that reached 65520, or did not, is measured against that format's end.
        """
        with np.errstate(over="ignore"):
            moved = self.scale * 2.0 ** (ceiling(format) - ceiling(RECORDED))
        known = ~np.isnan(moved)
        over = np.where(self.overflow & known, moved, inf)
        fine = np.where(~self.overflow & known, moved, 0.0)
        return fine, over


def no_logarithms(values: np.ndarray) -> np.ndarray:
    """Which numbers are finite, and log2 of no float64."""
    return np.asarray(np.isfinite(values) & ((values < LEAST_LOG) | (values > LARGEST_LOG)))


def _column(values: ArrayLike, name: str) -> np.ndarray:
    """A new float64 array of one dimension."""
    array = as_plain(values, name)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} is numbers, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} has one value a step, one dimension, not {array.ndim}")
    return array.astype(np.float64)
