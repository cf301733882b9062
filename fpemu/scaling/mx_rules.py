"""How an MX block gets its scale: five rules, each a row of two integers.

With amax = F x 2**k, 1 <= F < 2, every rule raises the exponent by one from some significand T on:

    e = k - lower + (F >= T)

Adding ``2 - T`` to the significand carries into the exponent field exactly there, so on magnitude bits a rule is an
addition, a shift and a subtraction: no logarithm, which would be wrong just below powers of two.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

from fpemu.formats import FloatFormat
from fpemu.kernels.spec import Lane
from fpemu.policies import Policy


class ScaleRule(Policy):
    """The exponent e of the scale of a block, from its largest magnitude amax; max = 1.g x 2**emax is the format's."""

    FLOOR = "floor"  #: floor(log2 amax) - emax (OCP MX v1.0, 6.3; microxcaling; torchao FLOOR). May clip. The default
    CEIL = "ceil"  #: ceil(log2 amax) - emax (torchao CEIL). Never clips
    EVEN = "even"  #: floor(log2 a) - emax, a: amax rounded to the format's precision, to nearest even (torchao EVEN)
    RCEIL = (
        "rceil"  #: ceil(log2(amax / max)), the smallest that does not clip (cuBLAS, Transformer Engine, torchao RCEIL)
    )
    NEAREST = "nearest"  #: log2(amax / max) to the nearest integer (MLX before its round-up). Clips up to 29 %


@cache
def rule_numbers(rule: ScaleRule, format: FloatFormat, lane: Lane) -> tuple[int, int]:
    """``(raised, lower)``: e + bias = ((magnitude bits of amax + raised) >> trailing bits) - lower, in a lane.

    ``raised`` is 2 - T in units of the lane's last place (0 for T = 1).
    """
    one = 1 << lane.trailing_bits
    significand, _ = format.scientific(format.max_code)
    largest = significand << lane.trailing_bits >> (significand.bit_length() - 1)  # 1.g in the lane's last places
    if rule is ScaleRule.FLOOR:
        return 0, format.emax
    if rule is ScaleRule.CEIL:
        return one - 1, format.emax
    if rule is ScaleRule.EVEN:
        # From half a last place below 2 on.  The tie goes up: the significand below it, all ones, is odd.
        return one >> (format.trailing_bits + 1), format.emax
    if rule is ScaleRule.RCEIL:
        return 2 * one - largest - 1, format.emax
    # nearest: F / 1.g against sqrt(2), or against 1 / sqrt(2) where F >= 1.g sqrt(2) cannot be.  Never equal.
    above = isqrt(2 * largest**2) + 1
    if above < 2 * one:
        return 2 * one - above, format.emax
    return 2 * one - (isqrt(largest**2 // 2) + 1), format.emax + 1
