"""The order in which the terms of a sum are added, and how many roundings that takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SEQUENTIAL: Final = "sequential"
PAIRWISE: Final = "pairwise"
CHUNKED: Final = "chunked"
KAHAN: Final = "kahan"
NAMES: Final = (SEQUENTIAL, PAIRWISE, CHUNKED, KAHAN)


@dataclass(frozen=True)
class Order:
    """The order of a sum's n terms; every addition is rounded to the accumulator.

    ``sequential``: one after another.
    ``pairwise``: the sum of the first n//2 terms plus that of the others, each formed likewise, down to single terms.
    ``chunked(m)``: m terms (at the end, what is left) one after another; then the sums of the chunks one after another.
    ``kahan``: one after another with the compensation c of Kahan (1965): y = x - c; t = s + y; c = (t - s) - y; s = t; each
    of the four rounded.  An infinite sum makes c NaN, and so all that follows.

    A sum begins with its first term, rounded to the accumulator, not with zero (so a sum of -0 is -0); with ``initial`` it
    begins with that (pairwise: that is added last; chunked: the first chunk's sum is added to it).  Of no terms it is
    ``initial``, else +0.

    Raises ValueError for an unknown name, for a chunk of less than one term, and for a chunk of any other order.
    """

    name: str = SEQUENTIAL
    chunk: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(_advice(self.name))
        if isinstance(self.chunk, bool) or not isinstance(self.chunk, int):
            raise TypeError(f"chunk must be an int, not {type(self.chunk).__name__}")
        if self.name == CHUNKED and self.chunk < 1:
            raise ValueError(f"a chunk has at least one term, not {self.chunk}")
        if self.name != CHUNKED and self.chunk:
            raise ValueError(f"order {self.name!r} has no chunks")

    def __str__(self) -> str:
        return f"{self.name}({self.chunk})" if self.chunk else self.name

    def roundings(self, terms: int, products: bool, initial: bool) -> int:
        """How many roundings one sum takes: of products too where they are rounded first, and with an initial value."""
        if terms == 0:
            return 0
        more = {
            SEQUENTIAL: terms,
            PAIRWISE: 2 * terms - 1 + initial,
            CHUNKED: terms + (-(-terms // self.chunk) - 1 + initial if self.chunk else 0),
            KAHAN: 4 * terms - (0 if initial else 3),
        }[self.name]
        return more + (terms if products else 0)


_CHUNKED = re.compile(r"chunked\s*\(\s*(\d+)\s*\)")


def as_order(order: Order | str) -> Order:
    """The order itself, or the one of that text.  Raises ValueError for an unknown one, TypeError for anything else."""
    if isinstance(order, Order):
        return order
    if not isinstance(order, str):
        raise TypeError(f"order must be an Order or its text, not {type(order).__name__}")
    text = order.strip().lower()
    chunked = _CHUNKED.fullmatch(text)
    if chunked:
        return Order(CHUNKED, int(chunked[1]))
    if text not in NAMES or text == CHUNKED:
        raise ValueError(_advice(order))
    return Order(text)


def _advice(order: str) -> str:
    return f"unknown order {order!r}; valid: sequential, pairwise, chunked(n), kahan"
