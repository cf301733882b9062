"""``check_conversion``: does a function implement the conversion it says it does, and if not, what does it do?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fpemu import reference
from fpemu.arrays import FormatLike, decode
from fpemu.formats import FloatFormat
from fpemu.policies import Cast, Rounding, as_cast
from fpemu.testing.faults import GENERIC, NOT_MONOTONE, count, is_monotone, kind_of, policies_like
from fpemu.testing.functions import Function, called
from fpemu.testing.inputs import Source
from fpemu.testing.report import Counterexample, Report, told

LOOKED_AT = 256  # failing inputs whose kind is worked out, in exact rationals
KEPT = 1 << 16  # failing inputs that are kept of all
EXHAUSTIVE_BITS = 16  # up to this width all inputs are tried


def check_conversion(
    function: Function,
    source: FloatFormat | DTypeLike = "float32",
    target: FormatLike = "float8_e4m3fn",
    *,
    exhaustive: bool = False,
    takes: str = "values",
    seed: int = 0,
    progress: bool = False,
    **policies: Any,
) -> Report:
    """Whether a function converts as a policy says.

    Parameters
    ----------
    function: takes inputs, an array or one at a time, and returns codes (integers, ml_dtypes) or values (floats), as
        arrays or torch tensors.
    source: what the inputs come in: float64, float32, or any format of at most 16 bits.
    target: a format or a Cast.
    exhaustive: try all 2**32 inputs of float32 (of a source of at most 16 bits all are tried anyway).
    takes: "values" (float16, float32 or float64, whichever holds them), "codes" of the source, "ml_dtypes" arrays, or
        "torch" tensors on the CPU.
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
    TypeError, ValueError: as for ``fpemu.Cast``; stochastic rounding (see ``check_stochastic``).
    """
    if not callable(function):
        raise TypeError(f"function must be callable, not {type(function).__name__}")
    cast, of = as_cast(target, **policies), Source.of(source, takes)
    if cast.rounding is Rounding.STOCHASTIC:
        raise ValueError("a stochastic conversion has no one right result: check_stochastic takes it")
    cast.format.value_dtype  # noqa: B018  (raises where float64 cannot hold the values)
    if exhaustive and of.bits > 32:
        raise ValueError(f"{of.name} has 2**{of.bits} inputs: exhaustive is for float32 and narrower sources")
    check = _Check(function, of, cast)
    every = exhaustive or of.bits <= EXHAUSTIVE_BITS
    pieces: Iterable[NDArray[Any]] = of.all() if every else [of.chosen(cast.format, seed)]
    for bits in _shown(pieces, 1 << of.bits if every else 0, progress and of.bits > EXHAUSTIVE_BITS):
        check.add(bits)
    return check.report(every)


def assert_conversion(
    function: Function,
    source: FloatFormat | DTypeLike = "float32",
    target: FormatLike = "float8_e4m3fn",
    **more: Any,
) -> None:
    """``check_conversion`` for a test: AssertionError with the report where the function does not conform."""
    report = check_conversion(function, source, target, **more)
    if not report.conforms:
        raise AssertionError(f"\n{report}")


class _Check:
    """One function against one policy, piece by piece."""

    def __init__(self, function: Function, source: Source, cast: Cast) -> None:
        self.function, self.source, self.cast = function, source, cast
        self.tried, self.failing, self.kept = 0, 0, 0
        self.wrong: list[NDArray[Any]] = []  # bit patterns

    def add(self, bits: NDArray[Any]) -> None:
        """Try some inputs."""
        if self.cast.raises_on_nan:
            bits = bits[~np.isnan(self.source.values(bits))]
        wrong = ~self.agrees(self.results(bits), bits, self.cast)
        self.tried += bits.size
        self.failing += int(np.count_nonzero(wrong))
        if self.kept < KEPT and wrong.any():
            self.wrong.append(bits[wrong][: KEPT - self.kept])
            self.kept += self.wrong[-1].size

    def results(self, bits: NDArray[Any]) -> NDArray[Any]:
        return called(self.function, self.source.given(bits), self.cast.format)

    def agrees(self, got: NDArray[Any], bits: NDArray[Any], cast: Cast) -> NDArray[np.bool_]:
        """Where results, codes or values, are those of a policy."""
        right = self.source.right(bits, cast)
        if got.dtype.kind == "u":
            same = got == right
            if not same.all():
                same |= np.isnan(self.as_values(got)) & np.isnan(self.as_values(right))
            return np.asarray(same)
        values = self.as_values(right)
        equal = (got == values) & (np.signbit(got) == np.signbit(values))
        return np.asarray(equal | (np.isnan(got) & np.isnan(values)))

    def as_values(self, results: NDArray[Any]) -> NDArray[np.float64]:
        if results.dtype.kind == "f":
            return results
        return np.asarray(decode(results, self.cast.format, dtype=np.float64), np.float64)

    # ---- what is wrong ----------------------------------------------------------------------------------------------
    def report(self, exhaustive: bool) -> Report:
        name = getattr(self.function, "__qualname__", None) or type(self.function).__name__
        if not self.failing:
            return Report(name, self.cast, self.source.name, self.tried, 0, exhaustive)
        wrong = np.concatenate(self.wrong)
        chosen = _spread(_simplest(wrong, self.source), LOOKED_AT)
        got = self.as_values(self.results(chosen))  # in one call: functions may be slow to start
        examples = [self.example(pattern, value) for pattern, value in zip(chosen, got.tolist(), strict=True)]
        sample = self.source.chosen(self.cast.format, 1) if self.source.bits > 16 else next(self.source.all())
        if self.cast.raises_on_nan:
            sample = sample[~np.isnan(self.source.values(sample))]
        results = self.results(sample)
        faults = count(
            [example.kind for example in examples], is_monotone(self.source.values(sample), self.as_values(results))
        )
        top = next(iter(faults))
        shows = GENERIC if top == NOT_MONOTONE else (top,)
        first = next(one for one in examples if one.kind in shows)
        return Report(
            name,
            self.cast,
            self.source.name,
            self.tried,
            self.failing,
            exhaustive,
            first,
            told(first.x, self.cast, self.source.format),
            faults,
            self.implements(np.concatenate([wrong, sample])),
        )

    def example(self, pattern: Any, got: float) -> Counterexample:
        """One failing input and its result, told."""
        x = reference.as_real(float(self.source.values(np.array([pattern]))[0]))
        right = reference.explain(x, self.cast, source=self.source.format or "float64")
        kind = kind_of(x, reference.as_real(got), right, self.cast, self.source.format)
        return Counterexample(x, self.source.name, reference.as_real(got), right.value, right.code, right.rule, kind)

    def implements(self, bits: NDArray[Any]) -> Cast | None:
        """The nearest policy that fits all of these inputs."""
        results, few = self.results(bits), slice(0, 2048)
        for cast in policies_like(self.cast, self.source.format):
            if self.agrees(results[few], bits[few], cast).all() and self.agrees(results, bits, cast).all():
                return cast
        return None


def _simplest(bits: NDArray[Any], source: Source) -> NDArray[Any]:
    """Bit patterns in the order of how easy their values are to read: few significant bits, near 1, positive."""
    with np.errstate(invalid="ignore"):  # signaling NaNs
        values = source.values(bits).astype(np.float64)
    pattern = values.view(np.uint64)
    fraction = pattern & np.uint64((1 << 52) - 1)
    lowest = fraction & (~fraction + np.uint64(1))
    length = np.where(fraction == 0, 0, 52 - np.log2(np.maximum(lowest, 1).astype(np.float64)))
    exponent = np.abs((pattern >> np.uint64(52) & np.uint64(0x7FF)).astype(np.int64) - 1023)
    return np.asarray(bits[np.lexsort((np.signbit(values), exponent, length))])


def _spread(items: NDArray[Any], most: int) -> NDArray[Any]:
    """The first half of at most so many, and the others evenly from the rest."""
    if items.size <= most:
        return items
    rest = np.linspace(most // 2, items.size - 1, most - most // 2).astype(np.int64)
    return np.concatenate([items[: most // 2], items[rest]])


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
