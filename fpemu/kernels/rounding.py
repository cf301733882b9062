"""Step 3: significand / 2**shift to an integer, by any of the seven roundings."""

import numpy as np

from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import (
    DOWN,
    NEAREST_AWAY,
    NEAREST_EVEN,
    STOCHASTIC,
    TO_ODD,
    TOWARD_ZERO,
    UP,
    VARIANT_A,
    VARIANT_A_WORD,
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
    last = plan.source_sign
    if plan.rounding == STOCHASTIC:
        if plan.variant == VARIANT_A_WORD:
            return _round_with_word(significand, shift, U(word), last)
        if plan.variant == VARIANT_A:
            return _round_stochastic(significand, shift, word, U(spec.random_bits), last, plan)
        # Variants B and C look one bit further than the n they add, which for n = 32 is beyond a 32-bit lane.
        n = np.uint64(spec.random_bits)
        return U(_round_stochastic(np.uint64(significand), np.uint64(shift), word, n, 63, plan))

    shift = U(min(shift, U(last)))
    truncated = right(significand, shift, last)
    unit = left(one, shift, last)
    half = right(unit, one, last)
    if plan.rounding == NEAREST_EVEN:
        # Adding half less one, plus the last bit kept, carries exactly when above half, or at half and odd.
        odd = U(U(truncated ^ parity) & one)
        return right(U(significand + U(U(half - one) + odd)), shift, last)
    if plan.rounding == NEAREST_AWAY:
        return right(U(significand + half), shift, last)
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
def _round_stochastic(significand, shift, word, n, last, plan):
    """Add n random bits to the discarded fraction and keep the carry (P3109 v4.0, 4.7: StochasticA, B, C).

    The fraction is aligned to the top of the lane, W bits; its first n bits meet the random ones.  The variants differ
    in what the bits after them do to it first: A drops them, B rounds half up, C rounds half to even.  An exact value
    has no fraction, and n random bits alone never carry.
    """
    U = type(significand)
    one, zero = U(1), U(0)
    top = U(last)  # W - 1
    within = shift <= top
    count = U(min(shift, top))
    truncated = right(significand, count, last)
    rest = U(significand & U(left(one, count, last) - one))
    beyond = U(min(U(shift - U(top + one)), top))
    near, far = left(rest, U(U(top - count) + one), last), right(significand, beyond, last)
    fraction = near if within else far

    step = left(one, U(U(top - n) + one), last)
    tail = U(fraction & U(step - one))
    kept = U(fraction - tail)
    random = U(left(U(word), U(top - U(31)), last) & U(~U(step - one)))
    carry = zero
    if plan.variant != VARIANT_A:
        half = right(step, one, last)
        if plan.variant == VARIANT_B:
            up = tail >= half
        else:
            lost = not within and left(fraction, beyond, last) != significand
            up = tail > half or (tail == half and (lost or U(kept & step) != zero))
        step = step if up else zero
        carry = carry_out(kept, step, last)
        kept = U(kept + step)
    return U(truncated + U(carry | carry_out(kept, random, last)))


@kernel
def _round_with_word(significand, shift, word, last):
    """Variant A with all 32 bits R of the word, the default: up where floor(v 2^32) + R >= 2^32.

    Up to 31 discarded bits d, v 2^32 is the integer d 2^(32 - shift); dividing by that power of two, the fraction of
    R / 2^(32 - shift) cannot decide between integers, and what is left is one addition to the discarded bits.
    """
    U = type(significand)
    near = U(min(shift, U(31)))
    close = right(U(significand + right(word, U(U(32) - near), last)), near, last)
    fraction = right(significand, U(min(U(shift - U(32)), U(last))), last)
    far = carry_out(fraction, word, last) if last == 31 else right(U(fraction + word), U(32), last)
    return close if shift < U(32) else far


@kernel
def carry_out(a, b, last):
    """The carry of a + b out of the lane: where both top bits are set, or one is and that of the sum is not.

    (Of ``a + b < a`` LLVM makes an add-with-overflow, which has no vector form.)
    """
    U = type(a)
    return right(U(U(a & b) | U(U(a | b) & U(~U(a + b)))), U(last), last)
