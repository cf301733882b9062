"""The square root of a code's number, its last bit sticky."""

import numpy as np

from fpemu.kernels.divide import MORE, divided
from fpemu.kernels.exact import Exact
from fpemu.kernels.instructions import float_root
from fpemu.kernels.jit import kernel
from fpemu.kernels.multiply import exponent_bias
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import FINITE, NOT_A_NUMBER, STOCHASTIC, ZERO


@kernel
def square_root(a, plan):
    """sqrt(a); of -0 it is -0 (IEEE 754-2019, 5.4.1), of other negative numbers NaN (7.2)."""
    U = type(a.significand)
    last = plan.source_sign
    # The radicand has all the lane's bits, but for one where the exponent is even; its root half as many, at least
    # one beyond the longest precision.
    odd = U(a.exponent & U(1))
    radicand = left(a.significand, U(U(1) + odd), last)
    root, rest = rooted(radicand, last)
    bits = last // 2
    if plan.rounding == STOCHASTIC:
        # The random bits reach further (Zimmermann 1999, one step): the next bits are those of rest / 2 root, or less
        # by one where their own square is more than what is left.  (In the wide lane: rest <= 2 root < 2**33.)
        more, left_over = divided(left(rest, U(MORE), last), left(root, U(1), last), last)
        whole = left(left_over, U(MORE), last)
        square = U(more * more)
        less = U(square > whole)
        root = U(U(left(root, U(MORE), last) + more) - less)
        rest = U(less | U(whole != square))
        bits += MORE
    root = U(left(root, U(last - 2 - bits), last) | U(rest != U(0)))

    invalid = (a.negative != U(0)) & (a.kind != U(ZERO))
    kind = U(NOT_A_NUMBER) if invalid else a.kind
    finite = kind == U(FINITE)
    exponent = right(U(a.exponent + exponent_bias(a, last)), U(1), last)
    negative = U(0) if kind != U(ZERO) else a.negative
    return Exact(negative, exponent if finite else U(0), root if finite else U(0), kind)


@kernel
def rooted(radicand, last):
    """``(root, rest)`` of an integer of half as many significant bits as the lane has, which its floats hold.

    The machine rounds the float root once, monotonely: at least the integer below the exact root, at most the one above.
    """
    U = type(radicand)
    if last == 31:
        near = U(np.int32(float_root(np.float32(np.uint32(radicand)))))
    else:
        near = U(np.int64(float_root(np.float64(np.uint64(radicand)))))
    over = U(U(near * near) > radicand)
    root = U(near - over)
    return root, U(radicand - U(root * root))
