"""The operations by number, for the loops that are compiled for one of them."""

from fpemu.kernels.add import add
from fpemu.kernels.compare import extreme
from fpemu.kernels.divide import divide
from fpemu.kernels.exact import Exact
from fpemu.kernels.jit import kernel
from fpemu.kernels.multiply import multiply
from fpemu.kernels.square_root import square_root

(
    ROUND,
    NEGATE,
    ABSOLUTE,
    SQUARE_ROOT,
    ADD,
    SUBTRACT,
    MULTIPLY,
    DIVIDE,
    MINIMUM,
    MAXIMUM,
    MINIMUM_NUMBER,
    MAXIMUM_NUMBER,
    MULTIPLY_ADD,
) = range(13)


@kernel
def operate(operation, a, b, c, plan):
    """The exact result of an operation on exact numbers; those of one or two operands leave the others alone."""
    U = type(a.kind)
    if operation == NEGATE:
        return with_sign(a, U(a.negative ^ U(1)))
    if operation == ABSOLUTE:
        return with_sign(a, U(0))
    if operation == SQUARE_ROOT:
        return square_root(a, plan)
    if operation == ADD:
        return add(a, b, plan)
    if operation == SUBTRACT:
        return add(a, with_sign(b, U(b.negative ^ U(1))), plan)
    if operation == MULTIPLY:
        return multiply(a, b, plan)
    if operation == DIVIDE:
        return divide(a, b, plan)
    if operation == MINIMUM:
        return extreme(a, b, False, False)
    if operation == MAXIMUM:
        return extreme(a, b, True, False)
    if operation == MINIMUM_NUMBER:
        return extreme(a, b, False, True)
    if operation == MAXIMUM_NUMBER:
        return extreme(a, b, True, True)
    if operation == MULTIPLY_ADD:
        return add(multiply(a, b, plan), c, plan)
    return a


@kernel
def with_sign(a, negative):
    """The number with another sign."""
    return Exact(negative, a.exponent, a.significand, a.kind)
