"""Step 3: significand / 2**shift to an integer, by any of the seven roundings."""

import numpy as np
from fpemu.kernels.jit import kernel

from fpemu.kernels.spec import (
    DOWN,
    NEAREST_AWAY,
    NEAREST_EVEN,
    STOCHASTIC,
    TO_ODD,
    TOWARD_ZERO,
    UP,
    VARIANT_A,
    VARIANT_B,
)


@kernel
def round_shift(significand, shift, negative, parity, word, spec, plan):
    """``significand / 2**shift`` rounded; ``parity`` makes the truncated result count as odd where it is 1.

    1 <= shift; significand < 2**53 (2**24 in 32-bit lanes).  Beyond the lane's width every shift means the same
    (all bits discarded, below half), so the count is clamped: an over-long shift is undefined.
    """
    U = type(significand)
    one = U(1)
    if plan.rounding == STOCHASTIC:
        return U(_round_stochastic(np.uint64(significand), np.uint64(shift), word, np.uint64(spec.random_bits), plan))

    shift = min(shift, spec.source_sign)
    truncated = U(significand >> shift)
    unit = U(one << shift)
    half = U(unit >> one)
    if plan.rounding == NEAREST_EVEN:
        # Adding half less one, plus the last bit kept, carries exactly when above half, or at half and odd.
        odd = U(U(truncated ^ parity) & one)
        return U(U(significand + U(U(half - one) + odd)) >> shift)
    if plan.rounding == NEAREST_AWAY:
        return U(U(significand + half) >> shift)
    if plan.rounding == TOWARD_ZERO:
        return truncated
    rest = U(significand & U(unit - one))
    inexact = U(rest > U(0))
    if plan.rounding == UP:
        return U(truncated + U(inexact & U(negative ^ one)))
    if plan.rounding == DOWN:
        return U(truncated + U(inexact & negative))
    if plan.rounding == TO_ODD:
        return U(truncated + U(inexact & U(U(truncated ^ parity ^ one) & one)))
    return truncated


@kernel
def _round_stochastic(significand, shift, word, n, plan):
    """Add n random bits below the point and truncate (P3109 v4.0, 4.7: StochasticA, B, C).

    The quotient is first taken with n + 1 fraction bits; the variants differ only in how the last of these is
    dropped: A truncates, B rounds half up, C rounds half to even (what was cut off before counts as sticky).
    An exact quotient has no fraction, and n random bits alone never carry into the integer.
    """
    one = np.uint64(1)
    zero = np.uint64(0)
    fraction = np.uint64(n + one)
    left = np.uint64(fraction - shift) if fraction > shift else zero
    right = min(np.uint64(shift - fraction), np.uint64(63)) if shift > fraction else zero
    exact = np.uint64(significand << left)
    quotient = np.uint64(exact >> right)
    if plan.variant == VARIANT_A:
        kept = np.uint64(quotient >> one)
    elif plan.variant == VARIANT_B:
        kept = np.uint64(np.uint64(quotient + one) >> one)
    else:
        sticky = np.uint64(np.uint64(quotient << right) != exact)
        last = np.uint64(np.uint64(quotient >> one) & one)
        kept = np.uint64(np.uint64(quotient + np.uint64(sticky | last)) >> one)
    random = np.uint64(word >> np.uint64(np.uint64(32) - n))
    return np.uint64(np.uint64(kept + random) >> n)
