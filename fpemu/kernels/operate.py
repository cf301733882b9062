"""The operations by number, for the loops that are compiled for one of them."""

from fpemu.kernels.add import add
from fpemu.kernels.compare import extreme
from fpemu.kernels.divide import divide
from fpemu.kernels.exact import Exact
from fpemu.kernels.jit import kernel
from fpemu.kernels.multiply import multiply
from fpemu.kernels.square_root import square_root

# (A difference is the sum of an opposite, which ``open_code`` gives.)
ROUND, ABSOLUTE, SQUARE_ROOT, ADD, MULTIPLY, DIVIDE, MULTIPLY_ADD = range(7)
MINIMUM, MAXIMUM, MINIMUM_NUMBER, MAXIMUM_NUMBER = range(7, 11)
DIVIDE_OR_NAN = 11


@kernel
def operate(operation, a, b, c, plan):
    """The exact result of an operation on exact numbers; those of one or two operands leave the others alone."""
    U = type(a.kind)
    if operation == ABSOLUTE:
        return with_sign(a, U(0))
    if operation == SQUARE_ROOT:
        return square_root(a, plan)
    if operation == ADD:
        return add(a, b, plan)
    if operation == MULTIPLY:
        return multiply(a, b, plan)
    if operation in (DIVIDE, DIVIDE_OR_NAN):
        return divide(a, b, operation == DIVIDE_OR_NAN, plan)
    if operation == MULTIPLY_ADD:
        return add(multiply(a, b, plan), c, plan)
    if operation >= MINIMUM:
        return extreme(a, b, operation in (MAXIMUM, MAXIMUM_NUMBER), operation >= MINIMUM_NUMBER)
    return a


@kernel
def with_sign(a, negative):
    """The number with another sign."""
    return Exact(negative, a.exponent, a.significand, a.kind)
