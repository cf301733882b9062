"""``check_conversion``: does a function implement the conversion it says it does, and if not, what does it do?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fpemu import reference
from fpemu.arrays import FormatLike
from fpemu.explain import number
from fpemu.formats import FloatFormat
from fpemu.naming import formats_by_name
from fpemu.policies import Cast, Rounding, as_cast
from fpemu.targets.environment import in_default_environment
from fpemu.testing.evidence import Evidence, Named
from fpemu.testing.faults import GENERIC, explained
from fpemu.testing.fits import implements
from fpemu.testing.functions import Function, Subject
from fpemu.testing.inputs import Source
from fpemu.testing.layouts import ROWS, tried
from fpemu.testing.places import REGIONS
from fpemu.testing.report import Counterexample, Fault, Report, told
from fpemu.testing.results import Seen, as_values, same
from fpemu.testing.simplicity import simplest_first

KEPT = 1 << 16  # failing inputs that are kept of all, where all of float32 are tried
AGAIN = 1 << 12  # inputs that are tried again, in other layouts and alone
EXHAUSTIVE_BITS = 16  # up to this width all inputs are tried
NOT_DETERMINISTIC, CHANGES, NOT_ELEMENTWISE = "not deterministic", "changes its argument", "depends on other elements"
_LINE = 'check_conversion(function, source="float32", target="e4m3")'


@in_default_environment
@formats_by_name(_LINE, 2)
def check_conversion(
    function: Function,
    target: FormatLike = "float8_e4m3fn",
    *,
    source: FloatFormat | DTypeLike = "float32",
    exhaustive: bool = False,
    takes: str = "values",
    forbid_mutation: bool = False,
    layouts: bool = True,
    seed: int = 0,
    progress: bool = False,
    **policies: Any,
) -> Report:
    """Whether a function converts as a policy says.

    Each call gets a writable copy of the inputs, and what it returns is copied at once.  Some inputs are tried twice: a
    function that gives something else then is *not deterministic*, which is told before anything else.

    Parameters
    ----------
    function: takes inputs, an array or one at a time, and returns codes (integers, ml_dtypes) or values (floats), as
        arrays or torch tensors.
    target: a format or a Cast.
    source: what the inputs come in: float64, float32, or any format of at most 16 bits.
    exhaustive: try all 2**32 inputs of float32 (of a source of at most 16 bits all are tried anyway).
    takes: "values" (the narrowest of float16, float32 and float64), "codes", "ml_dtypes" arrays, or "torch" tensors.
    forbid_mutation: whether it is a fault to write to the argument.
    layouts: also try arrays that are not contiguous, transposed, reversed, read-only, byte-swapped, empty and 0-d: a
        wrong result is a fault, an exception is only noted.
    seed: of the inputs that are drawn.
    progress: show a progress bar on standard error while all inputs of float32 are tried.
    policies: rounding, overflow, subnormals, nan, ... as for ``fpemu.Cast``.

    Returns
    -------
    Report.  NaNs are compared by class: any NaN of the target is right where a NaN is.  NaN inputs are left out where
    the policy is to raise.

    Raises
    ------
    NotAConversion: the function raised, or returned something that is neither codes nor values.
    TypeError, ValueError: as for ``fpemu.Cast``; stochastic rounding (see ``check_stochastic``); two formats by position.

    Examples
    --------
    >>> report = check_conversion(lambda x: fp.encode(x, "e4m3"), source="float16", target="e4m3")
    >>> report.conforms
    True
    """
    if not callable(function):
        raise TypeError(f"function must be callable, not {type(function).__name__}")
    cast, of = as_cast(target, **policies), Source.of(source, takes)
    if cast.rounding is Rounding.STOCHASTIC:
        raise ValueError("a stochastic conversion has no one right result: check_stochastic takes it")
    cast.format.value_dtype  # noqa: B018  (raises where float64 cannot hold the values)
    if exhaustive and of.bits > 32:
        raise ValueError(f"{of.name} has 2**{of.bits} inputs: exhaustive is for float32 and narrower sources")
    check = _Check(Subject(function, cast.format), of, cast)
    wide = of.bits > EXHAUSTIVE_BITS
    check.try_sample(of.chosen(cast.format, seed) if wide else next(of.all()))
    if wide and exhaustive:
        check.try_all(progress)
    if layouts:
        check.try_layouts()
    return check.report(exhaustive or not wide, forbid_mutation)


@formats_by_name(_LINE.replace("check_", "assert_"), 2)
def assert_conversion(
    function: Function,
    target: FormatLike = "float8_e4m3fn",
    *,
    source: FloatFormat | DTypeLike = "float32",
    **more: Any,
) -> None:
    """``check_conversion`` for a test: AssertionError with the report where the function does not conform."""
    report = check_conversion(function, target, source=source, **more)
    if not report.conforms:
        raise AssertionError(f"\n{report}")


class _Check:
    """One function against one policy, piece by piece."""

    def __init__(self, subject: Subject, source: Source, cast: Cast) -> None:
        self.subject, self.source, self.cast = subject, source, cast
        self.tried = self.failing = 0
        self.kept: list[Seen] = []  # wrong inputs
        self.sample = Seen.nothing()  # inputs of every region, right and wrong
        self.first: list[Fault] = []  # what makes its values meaningless
        self.last: list[Fault] = []  # what is wrong with its handling of arrays
        self.notes: list[str] = []

    def results(self, bits: NDArray[Any]) -> Seen:
        """Inputs, what the function makes of them, and whether that is right; what is right is worked out first."""
        right = self.source.right(bits, self.cast)
        got = self.subject(self.source.given(bits))
        return Seen(bits, got, same(got, right, self.cast.format))

    def add(self, bits: NDArray[Any]) -> Seen:
        """Try some inputs."""
        if self.cast.raises_on_nan:
            bits = bits[~np.isnan(self.source.values(bits))]
        seen = self.results(bits)
        wrong = np.flatnonzero(~seen.right)
        self.tried += bits.size
        self.failing += wrong.size
        room = KEPT - sum(one.bits.size for one in self.kept)
        if room > 0 and wrong.size:
            self.kept.append(seen.at(wrong[:room]))
        return seen

    def try_sample(self, bits: NDArray[Any]) -> None:
        """Try inputs of every region, twice, and some of them alone."""
        self.sample = self.add(bits)
        bits, size = self.sample.bits, self.sample.bits.size
        few = size > AGAIN and self.subject.takes_one(self.source.given(bits))
        again = self.sample.at(_evenly(size, AGAIN)) if few else self.sample
        changed = self._unlike(again, self.subject(self.source.given(again.bits)))
        if changed.size:
            self.first.append(self._changeable(again, changed, NOT_DETERMINISTIC, ", then "))
            return
        if not few and size > AGAIN:
            again = self.sample.at(_evenly(size, AGAIN))
            changed = self._unlike(again, self.subject(self.source.given(again.bits)))
            if changed.size:
                self.first.append(self._changeable(again, changed, NOT_ELEMENTWISE, ", among others "))

    def try_all(self, progress: bool) -> None:
        """Try all inputs, and count those alone."""
        self.tried = self.failing = 0
        for bits in _shown(self.source.all(), 1 << self.source.bits, progress):
            self.add(bits)

    def _unlike(self, seen: Seen, got: NDArray[Any]) -> NDArray[np.intp]:
        self.second = got
        return np.flatnonzero(~same(got, seen.got, self.cast.format))

    def _changeable(self, seen: Seen, where: NDArray[np.intp], name: str, between: str) -> Fault:
        """The fault of a function that has two results for one input."""
        simplest = seen.at(where).bits
        at = where[simplest_first(self.source.values(simplest))[0]]
        results = [number(reference.as_real(as_values(got, self.cast.format)[at].item()))
                   for got in (seen.got, self.second)]  # fmt: skip
        example = self.example(seen.bits[at], between.join(results), name)
        return Fault(name, f"{where.size:,} of {seen.bits.size:,} inputs gave two results", {}, example)

    def try_layouts(self) -> None:
        """Try some inputs in every layout."""
        size = self.sample.bits.size
        few = self.sample.at(_evenly(size, min(AGAIN, size) // ROWS * ROWS))
        if not few.bits.size or self.first or self.subject.takes_one(self.source.given(few.bits)):
            return
        place = {pattern: at for at, pattern in enumerate(few.bits.tolist())}
        for one in tried(self.subject, self.source, few.bits):
            if one.results is None:
                self.notes.append(f"refuses {one.layout} input: {one.refusal}")
                continue
            before = few.at(np.array([place[pattern] for pattern in one.bits.tolist()], np.intp))
            right = same(one.results, self.source.right(one.bits, self.cast), self.cast.format)
            wrong = np.flatnonzero(before.right & ~right)
            if wrong.size:
                at = wrong[simplest_first(self.source.values(one.bits[wrong]))[0]]
                name = f"wrong on {one.layout} input"
                got = as_values(one.results, self.cast.format)[at].item()
                detail = f"{wrong.size:,} of {one.bits.size:,}, right in an array of their own"
                self.last.append(Fault(name, detail, {}, self.example(one.bits[at], reference.as_real(got), name)))

    # ---- what is wrong ----------------------------------------------------------------------------------------------
    def report(self, exhaustive: bool, forbid_mutation: bool) -> Report:
        changes = [Fault(CHANGES)] if forbid_mutation and self.subject.changed else []
        faults, notes = [*self.first, *changes, *self.last], tuple(self.notes)
        facts = (self.subject.name, self.cast, self.source.name, self.tried, self.failing, exhaustive)
        if not self.failing or (faults and faults[0].name == NOT_DETERMINISTIC):
            return Report(*facts, tuple(faults), notes=notes)
        seen = self._all_seen()
        evidence = self._evidence(seen)
        value_faults = [self._fault(one, seen, evidence) for one in explained(evidence)]
        named = {at for one in evidence.found if one.name not in GENERIC for at in one.where.tolist()}
        told_of = value_faults[0].example
        assert told_of is not None
        return Report(
            *facts,
            (*self.first, *value_faults, *changes, *self.last),
            int(np.count_nonzero(~seen.right)),
            len(named),
            told(told_of.x, self.cast, self.source.format),
            implements(seen, self.source, self.cast),
            notes,
        )

    def _all_seen(self) -> Seen:
        """Inputs of every region, and the wrong ones that were kept, each once."""
        if self.sample.bits.size == self.tried:
            return self.sample
        seen = Seen.joined([self.sample, *self.kept])
        return seen.at(np.unique(seen.bits, return_index=True)[1])

    def _evidence(self, seen: Seen) -> Evidence:
        """The same as values."""
        format = self.cast.format
        with np.errstate(invalid="ignore"):  # signaling NaNs
            x = self.source.values(seen.bits).astype(np.float64)
        right = as_values(self.source.right(seen.bits, self.cast), format)
        return Evidence(self.cast, self.source.format, x, as_values(seen.got, format), right, ~seen.right)

    def _fault(self, one: Named, seen: Seen, evidence: Evidence) -> Fault:
        """A fault with where it lies, and the simplest input that shows it."""
        regions, counts = np.unique(evidence.region[one.where], return_counts=True)
        at = one.where[simplest_first(evidence.x[one.where])[0]]
        example = self.example(seen.bits[at], reference.as_real(evidence.got[at].item()), one.name)
        return Fault(one.name, one.detail, {REGIONS[r]: int(n) for r, n in zip(regions, counts, strict=True)}, example)

    def example(self, pattern: Any, got: reference.Real | str, kind: str) -> Counterexample:
        """One input and its result, told."""
        x = reference.as_real(float(self.source.values(np.array([pattern]))[0]))
        right = reference.explain(x, self.cast, source=self.source.format or "float64")
        return Counterexample(x, self.source.name, got, right.value, right.code, right.rule, kind)


def _evenly(size: int, most: int) -> NDArray[np.intp]:
    """At most so many indices, evenly from all."""
    few = min(size, most)
    return np.arange(few) * size // max(few, 1)


def _shown(pieces: Iterable[NDArray[Any]], total: int, show: bool) -> Iterable[NDArray[Any]]:
    """The pieces, with a progress bar."""
    if not show:
        yield from pieces
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("inputs"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("inputs", total=total)
        for piece in pieces:
            yield piece
            progress.advance(task, piece.size)
