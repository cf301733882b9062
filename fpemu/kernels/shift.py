"""Shifts that stay in their lane."""

from fpemu.kernels.jit import kernel

# Numba widens a shift to 64 bits.  LLVM narrows it again, and so keeps twice the vector lanes, only where it can see
# that the count is below the width: the mask shows it, and costs nothing where counts are in range anyway.


@kernel
def left(x, count, last):
    """``x << count`` for a count below the width, which is ``last`` + 1."""
    U = type(x)
    return U(x << U(count & U(last)))


@kernel
def right(x, count, last):
    """``x >> count`` for a count below the width, which is ``last`` + 1."""
    U = type(x)
    return U(x >> U(count & U(last)))
