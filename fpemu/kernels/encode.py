"""Bits of a float32 or float64 to the code of a format: the whole life of a value, steps 1 to 4."""

from fpemu.kernels.fixed_shift import round_fixed_shift
from fpemu.kernels.jit import kernel
from fpemu.kernels.pack import pack
from fpemu.kernels.place import round_on_grid
from fpemu.kernels.unpack import unpack


@kernel
def encode(bits, word, spec, plan):
    """The code (an integer as wide as ``bits``) of the value whose bits these are; ``word``: its 32 random bits."""
    negative, magnitude, code = round_magnitude(bits, word, spec, plan)
    return pack(negative, magnitude, code, spec, plan)


@kernel
def round_magnitude(bits, word, spec, plan):
    """Steps 1 to 3: ``(negative, source magnitude, magnitude code)``, the code unbounded above."""
    # 1. Sign, exponent, significand.
    negative, magnitude, exponent, significand = unpack(bits, spec, plan)
    if plan.fixed_shift:
        return negative, magnitude, round_fixed_shift(magnitude, word, spec, plan)
    # 2 and 3.
    return negative, magnitude, round_on_grid(negative, exponent, significand, word, spec, plan)
