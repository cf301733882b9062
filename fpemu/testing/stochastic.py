"""``check_stochastic``: does a stochastic conversion move values with the right probabilities, and independently?"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fpemu.arrays import FormatLike
from fpemu.formats import FloatFormat
from fpemu.naming import formats_by_name
from fpemu.policies import Cast, Rounding, as_cast
from fpemu.targets.environment import in_default_environment
from fpemu.testing.chances import FALSE_ALARMS
from fpemu.testing.functions import Function, Subject
from fpemu.testing.inputs import Source
from fpemu.testing.report import Counterexample, Fault, describe
from fpemu.testing.results import as_values
from fpemu.testing.stochastic_inputs import inputs
from fpemu.testing.stochastic_judge import Chance, Judge

SHUFFLE = 20  # the seed of positions and order: a right converter's draws know nothing of it


@dataclass(frozen=True)
class StochasticReport:
    """The outcome of ``check_stochastic``; printed, it reads as a report.

    Attributes
    ----------
    name: of the function. cast: the policy it was held against. source: what the inputs came in.
    tried: how many conversions.
    chances: what was counted, by region, sign and position.
    faults: what is wrong, the gravest first.
    bias: mean error of all draws in spacings, outward positive, beyond what the policy itself has; bias_sigmas: how
        many standard deviations that is off zero.
    notes: what these draws cannot tell.
    """

    name: str
    cast: Cast
    source: str
    tried: int
    chances: tuple[Chance, ...]
    faults: tuple[Fault, ...]
    bias: float
    bias_sigmas: float
    notes: tuple[str, ...] = ()

    @property
    def failing(self) -> tuple[Chance, ...]:
        """The counts that are wrong."""
        return tuple(chance for chance in self.chances if chance.fails)

    @property
    def conforms(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def fault(self) -> str | None:
        """The name of the gravest fault."""
        return next((fault.name for fault in self.faults), None)

    @property
    def counterexample(self) -> Counterexample | Chance | None:
        """A result that cannot be, or else the count that is furthest off; None if there is none."""
        example = next((fault.example for fault in self.faults if fault.example is not None), None)
        return example or max(self.failing, key=lambda chance: chance.surprise, default=None)

    def __bool__(self) -> bool:
        return self.conforms

    def __str__(self) -> str:
        counted = f"{len(self.chances)} counts; a right converter fails one in {1 / FALSE_ALARMS:,.0f} checks at most"
        lines = [
            f"{self.name}: {self.source} to {describe(self.cast)}",
            f"tried    {self.tried:,} conversions, {counted}",
            f"bias     {self.bias:+.2e} spacings, {abs(self.bias_sigmas):.1f} sigma",
            "result   conforms" if self.conforms else f"result   {len(self.failing)} counts wrong",
        ]
        lines += [f"{'' if at else 'faults':<9}{fault}" for at, fault in enumerate(self.faults)]
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines + ([f"example  {self.counterexample}"] if self.counterexample else []))

    def data(self) -> dict[str, Any]:
        """The report as what JSON can hold."""
        return {
            "name": self.name,
            "source": self.source,
            "policy": describe(self.cast),
            "conforms": self.conforms,
            "tried": self.tried,
            "inputs": len(self.chances),
            "failing": len(self.failing),
            "fault": self.fault,
            "faults": [fault.data() for fault in self.faults],
            "bias": self.bias,
            "notes": list(self.notes),
            "counterexample": str(self.counterexample or ""),
        }


@in_default_environment
@formats_by_name('check_stochastic(function, source="float32", target="e4m3")', 2)
def check_stochastic(
    function: Function,
    target: FormatLike = "float8_e4m3fn",
    *,
    source: FloatFormat | DTypeLike = "float32",
    draws: int = 1 << 16,
    fresh: bool = False,
    forbid_mutation: bool = False,
    takes: str = "values",
    **policies: Any,
) -> StochasticReport:
    """Whether a stochastic conversion goes each way as often as it should, and each time on its own.

    All inputs come in one call, in an order that has nothing to do with their values: values that must not move (of
    every exponent and both signs, zeros, infinities, NaNs, numbers far beyond the largest finite one), points drawn
    evenly in gaps of every region and sign, points just above and below a value that only a late random bit moves, some
    values often, and one value in a row.

    Counted are moves by region, sign and eighth of the gap; each count is held against its expectation by Chernoff's
    bound for sums of independent draws, exact for small counts, divided among all tests: at most FALSE_ALARMS (one in a
    million) right converters fail.  Draws that are the same for all elements, for equal values or for elements some
    distance apart are faults; draws that are the same in every call (a fixed seed) are not, unless ``fresh``.

    Parameters
    ----------
    draws: how many conversions one probability gets; at least 64.  Fewer random bits than named are found up to about
        log2(draws / 32): 2**16 find 11, 2**21 find 16, where the source has so many bits to discard.
    fresh: whether the same draws in two calls are a fault.
    The others are those of ``check_conversion``; ``random_bits`` and ``stochastic`` name the policy's probabilities
    (IEEE P3109 v4.0, 4.7.2).

    Raises
    ------
    NotAConversion, TypeError, ValueError: as ``check_conversion``; fewer than 64 draws.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 64:
        raise ValueError(f"draws must be an int of at least 64, not {draws!r}")
    cast, of = as_cast(target, **{**policies, "rounding": Rounding.STOCHASTIC}), Source.of(source, takes)
    if not of.is_native:
        raise ValueError(f"stochastic conversions are tried from float16, float32 and float64, not {of.name}")
    subject = Subject(function, cast.format)
    given = inputs(cast, of.dtype, draws, SHUFFLE)
    if cast.raises_on_nan:
        given = given.at(~np.isnan(given.x))
    bits = given.x.view(f"u{given.x.itemsize}")
    got = as_values(subject(of.given(bits)), cast.format)
    judge = Judge(given, got, cast, of)
    faults = judge.faults()
    if fresh and judge.repeats(as_values(subject(of.given(bits)), cast.format)):
        faults.append(Fault("same draws in every call"))
    if forbid_mutation and subject.changed:
        faults.append(Fault("changes its argument"))
    bias, spread = judge.bias()
    sigmas = bias * given.x.size / sqrt(spread) if spread else 0.0
    return StochasticReport(
        subject.name, cast, of.name, given.x.size, tuple(judge.chances), tuple(faults), bias, sigmas, judge.notes()
    )
