"""An exact number to the code of a format: the one rounding of an operation."""

from fpemu.kernels.jit import kernel
from fpemu.kernels.pack import pack
from fpemu.kernels.place import round_on_grid
from fpemu.kernels.shift import left
from fpemu.kernels.spec import FINITE, INFINITE, ZERO


@kernel
def round_exact(x, word, spec, plan):
    """The code of an exact number; ``word``: its 32 random bits."""
    U = type(x.significand)
    significand, kind = x.significand, x.kind
    if plan.flush_before:
        flushed = x.exponent < spec.input_floor
        significand = U(0) if flushed else significand
        kind = U(ZERO) if flushed & (kind == U(FINITE)) else kind
    # Binades far beyond the last would leave the lane with their codes; half the lane's bits are beyond every code.
    beyond = left(U(1), U(plan.source_sign // 2 + 1), plan.source_sign)
    exponent = U(min(x.exponent, U(spec.emin + beyond)))
    code = round_on_grid(x.negative, exponent, significand, word, spec, plan)
    if plan.mirrored:
        code = left(U(1), U(plan.source_sign), plan.source_sign) if kind == U(INFINITE) else code
    return pack(x.negative, kind, code, spec, plan)
