"""Which policy a conversion follows instead of the one that it should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from fpemu.formats import FloatFormat
from fpemu.policies import Cast, NaN, Overflow, Rounding, Subnormals
from fpemu.testing.hypotheses import intermediates
from fpemu.testing.inputs import Source
from fpemu.testing.results import Seen, same


def implements(seen: Seen, source: Source, cast: Cast) -> Cast | None:
    """The nearest policy that fits all of these inputs."""
    few = seen.at(slice(None, None, max(1, seen.bits.size // 2048)))
    for other in policies_like(cast, source.format):
        if all(same(one.got, source.right(one.bits, other), other.format).all() for one in (few, seen)):
            return other
    return None


def policies_like(cast: Cast, source: FloatFormat | None) -> Iterator[Cast]:
    """Other policies for the same format, those that differ in fewest things first; then those that round twice."""
    nans = (
        cast.nan,
        *(nan for nan in (NaN.CANONICAL, NaN.MAX, NaN.ZERO, NaN.LIMIT, NaN.NEGATED_ZERO) if nan is not cast.nan),
    )
    roundings = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
    found = [
        cast.replace(rounding=rounding, overflow=overflow, subnormals=subnormals, nan=nan)
        for rounding, overflow, subnormals, nan in product(roundings, Overflow, Subnormals, nans)
        if cast.format.has_nan or nan is cast.nan
    ]
    fields = ("rounding", "overflow", "subnormals", "nan")
    differs: Callable[[Cast], int] = lambda other: sum(getattr(other, f) != getattr(cast, f) for f in fields)  # noqa: E731
    yield from (other for other in sorted(found, key=differs) if differs(other))
    for between in intermediates(cast, source):
        yield from (cast.replace(via=Cast(between), overflow=overflow) for overflow in Overflow)
