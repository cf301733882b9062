"""The exact product of two codes' numbers: their significands have half the lane's bits, so it is a single integer."""

from fpemu.kernels.exact import Exact
from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import FINITE, INFINITE, NOT_A_NUMBER, ZERO

# The kind of a product, two bits for each pair of kinds (IEEE 754-2019, 7.2: zero times infinity is NaN).
_KINDS = sum(
    (
        NOT_A_NUMBER
        if NOT_A_NUMBER in (a, b) or {a, b} == {ZERO, INFINITE}
        else a
        if a == ZERO
        else b
        if b == ZERO
        else max(a, b)
    )
    << 2 * (4 * a + b)
    for a in range(4)
    for b in range(4)
)


@kernel
def multiply(a, b, plan):
    """a * b."""
    U = type(a.significand)
    one, last = U(1), plan.source_sign
    down = U(last // 2)
    product = U(right(a.significand, down, last) * right(b.significand, down, last))
    # Of two numbers in [1, 2), in [1, 4).
    below = U(right(product, U(last - 2), last) ^ one)
    kind = kind_of(_KINDS, a, b, last)
    finite = kind == U(FINITE)
    exponent = U(U(U(a.exponent + b.exponent) - exponent_bias(a, last)) + U(one ^ below))
    return Exact(
        U(0) if kind == U(NOT_A_NUMBER) else U(a.negative ^ b.negative),
        exponent if finite else U(0),
        left(product, below, last) if finite else U(0),
        kind,
    )


@kernel
def kind_of(kinds, a, b, last):
    """The entry of a table of kinds."""
    U = type(a.kind)
    place = U(left(a.kind, U(3), last) | left(b.kind, U(1), last))
    return U(right(U(kinds), place, last) & U(3))


@kernel
def exponent_bias(a, last):
    """The lane's bias of exponents."""
    U = type(a.exponent)
    return U(1 << 24) if last == 31 else U(1 << 40)
