"""Steps 2 and 3: an exponent and a significand to the magnitude code of a format, unbounded above."""

from fpemu.kernels.jit import kernel
from fpemu.kernels.rounding import round_shift
from fpemu.kernels.shift import left
from fpemu.kernels.spec import NEAREST_EVEN


@kernel
def round_on_grid(negative, exponent, significand, word, spec, plan):
    """The code of significand * 2**exponent (biased, lifted), its leading bit at the lane's hidden one if it is wide."""
    U = type(significand)
    # 2. The grid of the target: below its lowest binade the spacing stays what it is there, and more is discarded.
    binade = U(max(exponent, spec.emin))
    shift = U(spec.shift + U(binade - exponent))
    base = left(U(binade - spec.emin), spec.trailing, plan.source_sign)
    parity = U(U(base ^ spec.lowest) & spec.parity)
    tiny = exponent < spec.emin
    if plan.to_min:
        # (In the lowest binade of all, only the hidden bit tells a subnormal of the lane.)
        tiny = tiny or significand < left(U(1), U(plan.source_trailing), plan.source_sign)
        # The grid {0, smallest normal}: one step is the whole binade; exactly half counts as odd, so it goes up.
        shift = U(shift + spec.trailing) if tiny else shift
        parity = U(plan.rounding == NEAREST_EVEN) if tiny else parity

    # 3. Round to an integer number of spacings.  A normal value in binade b has the integer 2**trailing + fraction,
    # whose hidden bit is the first count of the exponent field: code = (b - emin) << trailing, plus the integer.
    # A carry moves on to the next binade, or from the largest subnormal to the smallest normal, by itself.
    rounded = round_shift(significand, shift, negative, parity, word, spec, plan)
    code = U(base + rounded)
    if plan.to_min:
        code = left(rounded, spec.trailing, plan.source_sign) if tiny else code
    return code
