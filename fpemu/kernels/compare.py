"""The order of two exact numbers, and the smaller or larger of them."""

from fpemu.kernels.exact import Exact
from fpemu.kernels.jit import kernel
from fpemu.kernels.spec import NOT_A_NUMBER, ZERO

LESS, EQUAL, GREATER, UNORDERED = -1, 0, 1, 2  # IEEE 754-2019, 5.11: exactly one of these holds


@kernel
def relation(a, b):
    """How a compares with b: LESS, EQUAL, GREATER, UNORDERED.  Zeros are equal, whatever their signs."""
    U = type(a.kind)
    if a.kind == U(NOT_A_NUMBER) or b.kind == U(NOT_A_NUMBER):
        return UNORDERED
    if a.kind == U(ZERO) and b.kind == U(ZERO):
        return EQUAL
    if a.negative != b.negative:
        return LESS if a.negative != U(0) else GREATER
    order = magnitude_order(a, b)
    return -order if a.negative != U(0) else order


@kernel
def magnitude_order(a, b):
    """-1, 0 or 1 as the magnitude of a is smaller, equal or larger."""
    finite = a.kind < type(a.kind)(2)
    same = a.kind == b.kind
    above = a.kind > b.kind or (same and finite and _beyond(a, b))
    below = b.kind > a.kind or (same and finite and _beyond(b, a))
    return 1 if above else (-1 if below else 0)


@kernel
def _beyond(a, b):
    return a.exponent > b.exponent or (a.exponent == b.exponent and a.significand > b.significand)


@kernel
def extreme(a, b, larger, number):
    """The smaller of a and b, or the ``larger``; -0 below +0; NaN if either is (IEEE 754-2019, 9.6: minimum, maximum).

    ``number``: if one of them only is NaN, the other (minimumNumber, maximumNumber).
    """
    U = type(a.kind)
    nan = U(NOT_A_NUMBER)
    order = relation(a, b)
    # Of zeros with different signs the negative one is the smaller; what else is equal is the same.
    before = order == LESS or (order == EQUAL and a.negative > b.negative)
    first = before != larger
    if number:
        first = a.kind != nan and (b.kind == nan or first)
    kind = a.kind if first else b.kind
    kind = nan if order == UNORDERED and not number else kind
    negative = a.negative if first else b.negative
    return Exact(
        U(0) if kind == nan else negative,
        a.exponent if first else b.exponent,
        a.significand if first else b.significand,
        kind,
    )
