"""``check_stochastic``: does a stochastic conversion move values with the right probabilities?"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fpemu import reference
from fpemu.arrays import FormatLike, decode
from fpemu.explain import number, outward_chances
from fpemu.formats import FloatFormat
from fpemu.policies import Cast, Rounding, as_cast
from fpemu.reference import Gap, Real
from fpemu.testing.functions import Function, called
from fpemu.testing.inputs import Source
from fpemu.testing.report import describe

SIGMAS = 6.0  # a right conversion is called wrong once in 500 million tests of one probability
EIGHTHS = (0, 1, 2, 4, 6, 7)  # positions in a gap that are tried
RUNGS = 12  # gaps that are tried among the normal values, beside those at the ends

MOVES_EXACT, OFF_GRID, WRONG_PROBABILITY = "moves exact values", "off-grid result", "wrong in stochastic probability"


@dataclass(frozen=True)
class Chance:
    """One input, converted many times.

    Attributes
    ----------
    x: the input. draws, outward: how often it was converted, and how often its larger neighbour came out.
    probability: how often it should. sigmas: how many standard deviations it is off.
    elsewhere: how often neither neighbour came out.
    """

    x: Fraction
    draws: int
    outward: int
    probability: Fraction
    sigmas: float
    elsewhere: int

    @property
    def fault(self) -> str | None:
        """What is wrong, or None."""
        if self.elsewhere:
            return OFF_GRID if self.probability else MOVES_EXACT
        if self.probability in (0, 1) and self.outward != self.draws * self.probability:
            return MOVES_EXACT
        return WRONG_PROBABILITY if abs(self.sigmas) > SIGMAS else None

    def __str__(self) -> str:
        seen = f"{self.outward:,} of {self.draws:,} outward ({self.outward / self.draws:.5f})"
        return f"{number(self.x)}: {seen}, not {float(self.probability):.5f}; {abs(self.sigmas):.1f} sigma off"


@dataclass(frozen=True)
class StochasticReport:
    """The outcome of ``check_stochastic``; printed, it reads as a report.

    Attributes
    ----------
    name: of the function. cast: the policy it was held against. chances: every input that was tried.
    bias: mean error of all draws in spacings, outward positive, beyond what the policy itself has; bias_sigmas: how
        many standard deviations that is off zero.
    """

    name: str
    cast: Cast
    chances: tuple[Chance, ...]
    bias: float
    bias_sigmas: float

    @property
    def failing(self) -> tuple[Chance, ...]:
        """The inputs whose results are wrong."""
        return tuple(chance for chance in self.chances if chance.fault)

    @property
    def conforms(self) -> bool:
        """Whether all probabilities, and their mean, are right."""
        return not self.failing and abs(self.bias_sigmas) <= SIGMAS

    @property
    def fault(self) -> str | None:
        """The gravest kind of fault."""
        kinds = {chance.fault for chance in self.chances}
        found = next((kind for kind in (OFF_GRID, MOVES_EXACT, WRONG_PROBABILITY) if kind in kinds), None)
        return found or (None if self.conforms else WRONG_PROBABILITY)

    @property
    def counterexample(self) -> Chance | None:
        """The failing input that is furthest off."""
        same = [chance for chance in self.failing if chance.fault == self.fault]
        return max(same, key=lambda chance: abs(chance.sigmas), default=None)

    def __bool__(self) -> bool:
        return self.conforms

    def __str__(self) -> str:
        draws = sum(chance.draws for chance in self.chances)
        lines = [
            f"{self.name}: stochastic, {describe(self.cast)}",
            f"tried    {len(self.chances)} inputs, {draws:,} draws; {SIGMAS:g} sigma are allowed",
            f"bias     {self.bias:+.2e} spacings, {abs(self.bias_sigmas):.1f} sigma",
            "result   conforms" if self.conforms else f"result   {len(self.failing)} inputs wrong: {self.fault}",
        ]
        return "\n".join(lines + ([f"example  {self.counterexample}"] if self.counterexample else []))


def check_stochastic(
    function: Function,
    source: FloatFormat | DTypeLike = "float32",
    target: FormatLike = "float8_e4m3fn",
    *,
    draws: int = 1 << 16,
    takes: str = "values",
    **policies: Any,
) -> StochasticReport:
    """Whether a stochastic conversion goes each way as often as it should.

    Inputs are exact values, which must never move, and points between neighbours: among the normal values, in the
    subnormals, below the smallest of them, and at overflow (where the next value that an unbounded exponent would give
    is the neighbour).  Each is converted ``draws`` times; of a probability p the count may differ from draws p by SIGMAS
    sqrt(draws p (1 - p)).

    Parameters are those of ``check_conversion``; ``random_bits`` and ``stochastic`` name the policy's probabilities
    (IEEE P3109 v4.0, 4.7.2).  The function is expected to draw anew at each call and for each element.

    Raises
    ------
    NotAConversion, TypeError, ValueError: as ``check_conversion``; fewer than 64 draws.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 64:
        raise ValueError(f"draws must be an int of at least 64, not {draws!r}")
    cast, of = as_cast(target, **{**policies, "rounding": Rounding.STOCHASTIC}), Source.of(source, takes)
    if not of.is_native:
        raise ValueError(f"stochastic conversions are tried from float16, float32 and float64, not {of.name}")
    chances, errors, variance = [], 0.0, 0.0
    for x, gap in _gaps(cast, of.dtype):
        probability = Fraction(outward_chances(gap, cast), 1 << cast.random_bits)
        inputs = np.full(draws, float(x), of.dtype)
        results = called(function, of.given(inputs.view(f"u{inputs.itemsize}")), cast.format)
        outward, elsewhere = _counted(results, gap, cast)
        spread = sqrt(draws * probability * (1 - probability))
        chance = Chance(
            x, draws, outward, probability, (outward - draws * probability) / spread if spread else 0.0, elsewhere
        )
        chances.append(chance)
        errors, variance = errors + float(outward - draws * probability), variance + spread**2
    total = draws * len(chances)
    name = getattr(function, "__qualname__", None) or type(function).__name__
    return StochasticReport(name, cast, tuple(chances), errors / total, errors / sqrt(variance) if variance else 0.0)


def _gaps(cast: Cast, dtype: np.dtype[Any]) -> list[tuple[Fraction, Gap]]:
    """The inputs: positions that the dtype has exactly in some gaps with two ends that can be told apart."""
    format = cast.format
    last, normal = format.max_code, format.smallest_normal_code
    inner = {0, 1, normal - 1, normal, last - 1, last} | {
        normal + (last - normal) * k // RUNGS for k in range(1, RUNGS)
    }
    found = []
    for code in sorted(code for code in inner if 0 <= code <= last):
        low, high = reference.rung(code, format), reference.rung(code + 1, format)
        for eighth in EIGHTHS:
            x = low + (high - low) * Fraction(eighth, 8)
            near = np.array(reference.as_float(x)).astype(dtype) if _is_float64(x) else None
            gap = reference.place(x, format) if x else None
            held = near is not None and np.isfinite(near) and Fraction(float(near)) == x
            if held and gap is not None and _outward(gap, cast) != gap.inner:
                found.append((x, gap))
    return found


def _is_float64(x: Fraction) -> bool:
    try:
        reference.as_float(x)
    except ValueError:
        return False
    return True


def _counted(results: NDArray[Any], gap: Gap, cast: Cast) -> tuple[int, int]:
    """How many results are the outer neighbour, or what the policy makes of it; and how many are neither."""
    values = results if results.dtype.kind == "f" else decode(results, cast.format, dtype=np.float64)
    inner = values == float(gap.inner)
    beyond = _outward(gap, cast)
    outer = np.isnan(values) if beyond != beyond else values == float(beyond)
    return int(np.count_nonzero(outer)), int(np.count_nonzero(~inner & ~outer))


def _outward(gap: Gap, cast: Cast) -> Real:
    """What the outer neighbour is, or becomes where it is beyond the largest finite value."""
    within = gap.outer_code <= cast.format.max_code
    return gap.outer if within else reference.value(cast.overflow_code(False), cast.format)
