"""What casting one element does to it: its result, and which of the losses it is counted as."""

from fpemu.kernels.decode import decode
from fpemu.kernels.encode import round_magnitude
from fpemu.kernels.jit import kernel
from fpemu.kernels.pack import pack


@kernel
def loss(bits, word, smallest_normal, source_normal, to, back, plan):
    """``(result, kind, code)`` of the value whose bits these are: the lane's bits, flags, and the code.

    ``smallest_normal``: magnitude code of the target's smallest normal value; ``source_normal``: bits of the smallest
    normal input (one below was subnormal in the source, and is not *newly* subnormal).  Flags, from the lowest: new
    zero, newly subnormal, saturated, not finite; none for a zero and for what was not finite before.
    """
    U = type(bits)
    last = plan.source_sign
    negative, magnitude, rounded = round_magnitude(bits, word, to, plan)
    code = pack(negative, magnitude, rounded, to, plan)
    result = decode(code, back, last)

    source = U(bits & U(U(U(1) << U(last)) - U(1)))
    size = U(result & U(U(U(1) << U(last)) - U(1)))
    limit = to.max_negative if negative != U(0) else to.max_positive
    nonzero = U(source - U(1)) < U(to.source_infinity - U(1))  # finite, and not zero
    place = U(code & back.magnitude)
    zero = U(size == U(0))
    nonfinite = U(size >= to.source_infinity)
    subnormal = U(U(place < smallest_normal) & U(source >= source_normal) & U(U(zero | nonfinite) ^ U(1)))
    over = U(rounded > U(limit + to.lowest)) & U(rounded >= to.output_floor)
    if plan.zeroless:
        over = U(over | negative)
    kind = U(zero | U(subnormal << U(1)) | U(over << U(2)) | U(nonfinite << U(3)))
    return result, (kind if nonzero else U(0)), code
