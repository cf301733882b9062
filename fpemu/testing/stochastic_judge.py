"""What the results of a stochastic conversion say: which cannot be, how often each way was taken, and by whose draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu import reference
from fpemu.policies import Cast, Rounding, Stochastic
from fpemu.testing.chances import allowed, outward, surprise
from fpemu.testing.ends import specials
from fpemu.testing.evidence import Evidence, by_words
from fpemu.testing.inputs import Source
from fpemu.testing.places import REGIONS, Places
from fpemu.testing.report import Counterexample, Fault
from fpemu.testing.stochastic_inputs import EXACT, GAPS, REPEATED, ROW, Inputs

Array = NDArray[Any]
Mask = NDArray[np.bool_]

EIGHTHS = 8
PROBABILITY, FEWER, MORE = (
    "wrong in stochastic probability",
    "fewer random bits than named",
    "more random bits than named",
)
NOT_RANDOM, ONE_DRAW, BY_VALUE, CORRELATED = (
    "not random", "one draw for all elements", "draws are a function of the value", "correlated draws")  # fmt: skip


@dataclass(frozen=True)
class Chance:
    """How often a kind of input went outward.

    Attributes
    ----------
    region: the kind of gap. sign: "+", "-", or both. position: the part of the gap, [low, high).
    draws, outward: how many, and how many of them went outward. probability: how many should, of one.
    surprise: -log of the bound of the chance of that. fails: whether it is beyond what all tests together allow.
    """

    region: str
    sign: str
    position: tuple[float, float]
    draws: int
    outward: int
    probability: float
    surprise: float
    fails: bool

    def __str__(self) -> str:
        low, high = self.position
        where = f"{self.region}, sign {self.sign}, position {low:g} to {high:g}"
        seen = f"{self.outward:,} of {self.draws:,} outward ({self.outward / self.draws:.5f})"
        return f"{where}: {seen}, not {self.probability:.5f}; chance below exp(-{self.surprise:.0f})"


class Judge:
    """One call's results against the policy."""

    def __init__(self, given: Inputs, got: Array, cast: Cast, source: Source) -> None:
        self.given, self.got, self.cast, self.source = given, got, cast, source
        inner, outer = _is(got, given.inner), _is(got, given.outer)
        self.stray = ~inner & ~outer
        self.chance = given.open & ~self.stray
        self.out = outer & self.chance
        self.p = outward(given.position, cast.random_bits, cast.stochastic)
        self.cells = self._cells()
        self.spoilt = self._spoilt()
        # Two for each cell (its count and its order), one for the repeated values, one for each distance in the row.
        tests = 2 * len(self.cells) + 1 + int(np.count_nonzero(given.kind == given.kinds.index(ROW))) // 2
        self.limit = allowed(tests)
        self.chances = self._counted(self.p)

    # ---- counts -------------------------------------------------------------------------------------------------------
    def _cells(self) -> list[tuple[str, str, tuple[float, float], Array]]:
        """Region, sign, position and indices of everything that is counted together."""
        found = []
        eighth = np.floor(self.given.position * EIGHTHS).astype(np.int64)
        for number, kind in enumerate(self.given.kinds):
            of_kind = self.chance & (self.given.kind == number)
            if kind in GAPS:
                for sign, mine in (("+", of_kind & ~self.given.negative), ("-", of_kind & self.given.negative)):
                    found += [(kind, sign, (0.0, 1.0), np.flatnonzero(mine))]
                    found += [(kind, sign, (k / EIGHTHS, (k + 1) / EIGHTHS), np.flatnonzero(mine & (eighth == k)))
                              for k in range(EIGHTHS)]  # fmt: skip
            elif kind not in (EXACT, REPEATED) and of_kind.any():
                at = np.flatnonzero(of_kind)
                position = self.given.position[at]
                found.append((kind, "+ and -", (float(position.min()), float(position.max())), at))
        return [cell for cell in found if cell[3].size]

    def _spoilt(self) -> set[str]:
        """The kinds of input whose counts say nothing, because some of their results cannot be."""
        kinds = np.unique(self.given.kind[self.stray])
        found = {f"{self.given.kinds[kind]} {sign}" for kind in kinds for sign, negative in (("+", False), ("-", True))
                 if (self.stray & (self.given.kind == kind) & (self.given.negative == negative)).any()}  # fmt: skip
        found |= {f"{self.given.kinds[kind]} + and -" for kind in kinds}
        x = np.abs(self.given.x.astype(np.float64))
        beyond = self.stray & np.isfinite(x) & (x > self.cast.format.max) & ~self.given.open
        return found | ({"overflow +", "overflow -"} if beyond.any() else set())

    def _counted(self, p: Array) -> list[Chance]:
        """Each count held against these probabilities."""
        found = []
        for region, sign, position, at in self.cells:
            out, mine = self.out[at], p[at]
            impossible = bool((out & (mine == 0)).any() or (~out & (mine == 1)).any())
            mean, count = float(mine.mean()), int(np.count_nonzero(out))
            far = np.inf if impossible else float(surprise(np.array(count), np.array(at.size), np.array(mean)))
            found.append(Chance(region, sign, position, at.size, count, mean, far, far > self.limit))
        return found

    def bias(self) -> tuple[float, float]:
        """The mean of all errors in spacings, and the variance of their sum."""
        out, p = self.out[self.chance], self.p[self.chance]
        return float((out - p).sum()) / self.given.x.size, float((p * (1 - p)).sum())

    # ---- faults ---------------------------------------------------------------------------------------------------------
    def faults(self) -> list[Fault]:
        """The gravest first: results that cannot be, then draws that are none, then their probabilities."""
        constant, named = self._constant()
        dependent = [] if constant else self._dependent()
        # Counts of draws that depend on each other say nothing of their probabilities.
        probabilities = [] if dependent else self._probabilities(named | self.spoilt)
        return constant + self._strays() + dependent + probabilities

    def _strays(self) -> list[Fault]:
        """Results that are neither neighbour, by what they are."""
        if not self.stray.any():
            return []
        x = self.given.x.astype(np.float64)
        right = np.where(np.abs(x) > self.cast.format.max, self.given.outer, self.given.inner)
        cast = self.cast.replace(rounding=Rounding.NEAREST_EVEN)
        of = Evidence(cast, self.source.format, x, self.got, right, self.stray)
        _inside(of, self.given.kind == self.given.kinds.index(EXACT))
        by_words(of, of.among("overflow"), "wrong overflow result")
        specials(of)
        of.name(of.open, "wrong neighbour", "neither of the two")
        return [
            Fault(one.name, one.detail, _counts(of.region[one.where]), self._example(of, one.where, one.name))
            for one in sorted(of.found, key=lambda one: -one.where.size)
        ]

    def _example(self, of: Evidence, where: Array, name: str) -> Counterexample:
        at = where[int(np.argmin(np.abs(np.nan_to_num(np.log2(np.abs(of.x[where]) + 1e-300)))))]
        right = reference.as_real(float(of.right[at]))
        got = reference.as_real(float(self.got[at]))
        code = int(self.cast.replace(rounding=Rounding.NEAREST_EVEN).encode(np.float64(of.right[at])))
        return Counterexample(
            reference.as_real(float(of.x[at])), self.source.name, got, right, code, "stochastic", name
        )

    def _constant(self) -> tuple[list[Fault], set[str]]:
        """Where the way taken goes by the position in the gap alone, there is no draw, or one for all elements."""
        ways: dict[tuple[str, str], list[Chance]] = {}
        for (region, sign, position, at), chance in zip(self.cells, self.chances, strict=True):
            if region not in GAPS or position != (0.0, 1.0) or f"{region} {sign}" in self.spoilt:
                continue
            if way := _threshold(self.given.position[at], self.out[at], self.p[at], self.limit):
                ways.setdefault(way, []).append(chance)
        named = {f"{one.region} {one.sign}" for ones in ways.values() for one in ones}
        return [Fault(name, detail, _regions(ones)) for (name, detail), ones in ways.items()], named

    def _dependent(self) -> list[Fault]:
        """Draws that depend on each other."""
        number = self.given.kinds.index(REPEATED)
        at = np.flatnonzero(self.chance & (self.given.kind == number))
        if at.size:
            _, which, sizes = np.unique(self.given.x[at], return_inverse=True, return_counts=True)
            outs = np.bincount(which, self.out[at])
            p = np.bincount(which, self.p[at]) / sizes
            alike = (outs == 0) | (outs == sizes)
            mean = float((p**sizes + (1 - p) ** sizes).mean())
            if alike.mean() > mean and surprise(alike.sum(), np.array(sizes.size), np.array(mean)) > self.limit:
                detail = f"{alike.sum():,} of {sizes.size:,} values went the same way each time"
                return [Fault(BY_VALUE, detail)]
        return self._correlated()

    def _correlated(self) -> list[Fault]:
        """In a row of one value in the middle of its gap, where each way is as likely, elements some distance apart."""
        at = np.flatnonzero(self.chance & (self.given.kind == self.given.kinds.index(ROW)))
        if not at.size or (self.p[at] != 0.5).any():
            return []
        lags = np.arange(1, at.size // 2 + 1)
        pairs = at.size - lags
        spectrum = np.fft.rfft(np.where(self.out[at], 1.0, -1.0), 2 * at.size)
        alike = (pairs + np.rint(np.fft.irfft(np.abs(spectrum) ** 2)[lags])) / 2
        far = surprise(alike, pairs, np.full(pairs.size, 0.5))
        if far.max() <= self.limit:
            return []
        worst = int(far.argmax())
        apart = "neighbours" if worst == 0 else f"elements {lags[worst]:,} apart"
        return [Fault(CORRELATED, f"{apart} go the same way in {alike[worst] / pairs[worst]:.1%} of cases, not 50%")]

    def _probabilities(self, named: set[str]) -> list[Fault]:
        """Wrong probabilities: by another number of random bits or another variant, else by region."""
        wrong = [one for one in self.chances if one.fails and not _is_named(one, named)]
        if not wrong:
            return []
        for bits, variant in self._others():
            fits = self._counted(outward(self.given.position, bits, variant))
            if not any(one.fails for one in fits if not _is_named(one, named)):
                return [self._of_bits(bits, variant, wrong)]
        return [Fault(PROBABILITY, str(max(wrong, key=lambda one: one.surprise)), _regions(wrong))]

    def _others(self) -> list[tuple[int, Stochastic]]:
        """Other numbers of random bits of the variant, the largest first, then other variants, then more bits."""
        named, mine = self.cast.random_bits, self.cast.stochastic
        fewer = [(bits, mine) for bits in range(named - 1, 0, -1)]
        variants = [(named, one) for one in Stochastic if one is not mine]
        return fewer + variants + [(bits, mine) for bits in range(named + 1, 33)]

    def _of_bits(self, bits: int, variant: Stochastic, wrong: list[Chance]) -> Fault:
        regions = _regions(wrong)
        if variant is not self.cast.stochastic:
            return Fault("another variant than named", f"variant {variant.value}", regions)
        if bits < self.cast.random_bits:
            return Fault(FEWER, f"{bits} or fewer", regions)
        return Fault(MORE, f"{bits} or more", regions)

    def repeats(self, again: Array) -> bool:
        """Whether another call's results are the same, although that is improbable."""
        p = self.p[self.chance]
        same = _is(again, self.got)[self.chance]
        return bool(same.all() and -np.log(p**2 + (1 - p) ** 2).sum() > self.limit)

    def notes(self) -> tuple[str, ...]:
        """Up to how many random bits would have been found to be too few."""
        if self.cast.random_bits < 2:
            return ()
        found, alike = self._resolved
        if found >= self.cast.random_bits - 1:
            return ()
        why = "" if alike else f" with {self.given.x.size:,} conversions"
        return (f"{found + 1} or more random bits are indistinguishable from this source{why}",)

    @cached_property
    def _resolved(self) -> tuple[int, bool]:
        """How many random bits would be found to be too few, and whether one more makes no difference at all."""
        found, alike = 0, self.cast.random_bits
        while alike - found > 1:
            bits = (found + alike) // 2
            other = outward(self.given.position, bits, self.cast.stochastic)
            told = any(self._tells(at, other) for *_, at in self.cells)
            found, alike = (bits, alike) if told else (found, bits)
        other = outward(self.given.position, alike, self.cast.stochastic)
        return found, bool((other == self.p)[self.chance].all())

    def _tells(self, at: Array, other: Array) -> bool:
        """Whether the counts that other probabilities would give are far enough from what is expected."""
        expected = float(other[at].sum())
        return float(surprise(np.array(expected), np.array(at.size), self.p[at].mean())) > 1.2 * self.limit


# ---- parts --------------------------------------------------------------------------------------------------------------
def _is(got: Array, end: Array) -> Mask:
    return np.asarray((got == end) & (np.signbit(got) == np.signbit(end)) | np.isnan(got) & np.isnan(end))


def _is_named(one: Chance, named: set[str]) -> bool:
    """Whether a count is of a region of which a graver fault is known; of late random bits, of any such."""
    return f"{one.region} {one.sign}" in named or (bool(named) and one.region not in GAPS)


def _threshold(position: Array, out: Mask, p: Array, limit: float) -> tuple[str, str] | None:
    """The name of a conversion that goes by the position alone, where these draws are of one.

    Of n draws there are n + 1 outcomes that go by the position; a right converter gives one whose own probability is below
    exp(-limit) / (n + 1) with a chance of at most exp(-limit).
    """
    left = (p > 0) & (p < 1)
    position, out = position[left], out[left]
    if np.unique(position).size < 2 or -np.log(np.where(out, p[left], 1 - p[left])).sum() < limit + np.log(
        out.size + 1
    ):
        return None
    if not out.any() or out.all():
        return NOT_RANDOM, "rounds away from zero" if out.all() else "truncates"
    last, first = float(position[~out].max()), float(position[out].min())
    if last > first:
        return None
    if last <= 0.5 <= first or abs(first - 0.5) < 1 / 64 > abs(last - 0.5):
        return NOT_RANDOM, "rounds to nearest"
    return ONE_DRAW, f"outward from {(first + last) / 2:.2f} of a gap on"


def _inside(of: Evidence, exact: Mask) -> None:
    """Name impossible results of finite numbers within the range."""
    inside = of.among("tie", "subnormal", "normal", "zero")
    with np.errstate(invalid="ignore"):
        turned = (np.signbit(of.got) != np.signbit(of.x)) & (of.got != 0) & (of.x != 0) & of.cast.format.signed
        anywhere = inside | of.among("overflow", "infinity")
        turned &= anywhere & of.open & ~np.isnan(of.got)
        if turned.any():
            zeros = inside & of.open & (of.got == 0) & (np.signbit(of.got) != np.signbit(of.x))
            of.name(turned | zeros, "wrong sign",
                    "negative numbers become positive" if np.signbit(of.x[turned]).all() else "")  # fmt: skip
        of.name(inside & of.open & np.isnan(of.got), "finite to NaN")
        of.name(inside & of.open & np.isinf(of.got), "finite to infinity")
        nothing = inside & of.open & (of.got == 0)
        of.name(nothing & (of.right == 0), "loses -0" if of.cast.format.negative_zero else "makes -0")
        small = of.places.magnitude < of.cast.format.smallest_normal
        of.name(nothing & small & of.open, "flushes subnormal results")
        of.name(nothing & ~small & of.open, "finite to zero")
        off = (Places.of(of.got, of.cast.format).position != 0) & np.isfinite(of.got)
        of.name(inside & of.open & off, "off-grid result")
        of.name(of.among("tie", "subnormal", "normal") & of.open & exact, "moves exact values")


def _regions(ones: list[Chance]) -> dict[str, int]:
    """Where these counts were made, with their draws; the sign where it is one alone."""
    found: dict[str, int] = {}
    for base in dict.fromkeys(one.region.partition(",")[0] for one in ones):
        mine = [one for one in ones if one.region.partition(",")[0] == base]
        signs = {one.sign for one in mine}
        word = {"+": "positive ", "-": "negative "}[signs.pop()] if signs in ({"+"}, {"-"}) else ""
        found[word + base] = sum(
            max(one.draws for one in mine if one.sign == sign) for sign in {one.sign for one in mine}
        )
    return found


def _counts(regions: Array) -> dict[str, int]:
    found, counts = np.unique(regions, return_counts=True)
    return {REGIONS[region]: int(count) for region, count in zip(found, counts, strict=True)}
