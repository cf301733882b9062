"""The definition of arithmetic, in exact rationals: an operation on what codes mean, then ``reference.encode``, once.

It shares no code with ``kernels/``.  An irrational root is replaced by a rational that no value, midpoint or random
threshold of a format separates from it.

Sources: IEEE 754-2019, clauses 5.4.1, 6.2, 6.3, 7.2, 7.3, 9.6; IEEE P3109 report v4.0, 4.10.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from fpemu.formats import FloatFormat, FormatName, as_format
from fpemu.policies import Cast, Rounding, Subnormals, as_cast
from fpemu.reference import Real, encode, is_negative, power_of_two, smallest_normal_exponent, value
from fpemu.targets.environment import in_default_environment

ROOT_BITS = 128  #: bits of a root beyond its leading one, more than precision and random bits together


@in_default_environment
def operate(
    operation: str,
    codes: Sequence[int],
    cast: Cast | FormatName,
    *,
    sources: Sequence[FormatName] | None = None,
    random_word: int | None = None,
) -> int:
    """The code of an operation's result.

    Parameters
    ----------
    operation: a name of ``OPERATIONS``.
    codes: of its operands; ``sources``: their formats, default that of the result.
    random_word: the N = ``cast.random_bits`` random bits of stochastic rounding.

    Raises ValueError for a NaN result that the format does not have.
    """
    cast = as_cast(cast)
    formats = [cast.format] * len(codes) if sources is None else [as_format(source) for source in sources]
    if cast.via is not None:
        between = operate(operation, codes, cast.via, sources=formats, random_word=random_word)
        return encode(value(between, cast.via.format), cast.replace(via=None), random_word, source=cast.via.format)
    flush = cast.subnormals is Subnormals.FLUSH_INPUT
    operands = [opened(code, format, flush) for code, format in zip(codes, formats, strict=True)]
    return encode(OPERATIONS[operation](*operands, cast.rounding is Rounding.DOWN), cast, random_word)


def opened(code: int, format: FloatFormat, flush: bool = False) -> Real:
    """What a code means, NaN without its sign; ``flush``: a subnormal value is a zero of its sign."""
    real = value(code, format)
    if _nan(real):
        return math.nan
    if flush and format.subnormals and isinstance(real, Fraction):
        subnormal = 0 < abs(real) < power_of_two(smallest_normal_exponent(format))
        return _zero(real < 0) if subnormal else real
    return real


def _zero(negative: bool) -> Real:
    return -0.0 if negative else Fraction(0)


def _is_zero(x: Real) -> bool:
    return x == 0


def _nan(*operands: Real) -> bool:
    return any(isinstance(x, float) and math.isnan(x) for x in operands)


def _infinite(x: Real) -> bool:
    return isinstance(x, float) and math.isinf(x)


def negative_of(x: Real) -> Real:
    """-x, of a zero too."""
    return _zero(not is_negative(x)) if _is_zero(x) else -x


def add(a: Real, b: Real, downward: bool = False) -> Real:
    """6.3: a sum of zeros of one sign keeps it; any other exact zero is +0, but -0 rounding downward.  7.2: inf - inf."""
    if _nan(a, b) or (_infinite(a) and _infinite(b) and a != b):
        return math.nan
    if _infinite(a) or _infinite(b):
        return a if _infinite(a) else b
    exact = Fraction(a) + Fraction(b)
    if exact == 0:
        same = is_negative(a) == is_negative(b)
        return _zero(is_negative(a) if same else downward)
    return exact


def subtract(a: Real, b: Real, downward: bool = False) -> Real:
    """5.4.1: x - y is x + (-y)."""
    return add(a, b if _nan(b) else negative_of(b), downward)


def multiply(a: Real, b: Real, downward: bool = False) -> Real:
    """6.3: the sign is the exclusive or.  7.2: 0 * inf is NaN."""
    negative = is_negative(a) != is_negative(b)
    if _nan(a, b) or (_infinite(a) and _is_zero(b)) or (_is_zero(a) and _infinite(b)):
        return math.nan
    if _infinite(a) or _infinite(b):
        return -math.inf if negative else math.inf
    return Fraction(a) * Fraction(b) or _zero(negative)


def divide(a: Real, b: Real, downward: bool = False) -> Real:
    """7.2: 0/0 and inf/inf are NaN.  7.3: x/0 is an exact infinity."""
    negative = is_negative(a) != is_negative(b)
    if _nan(a, b) or (_infinite(a) and _infinite(b)) or (_is_zero(a) and _is_zero(b)):
        return math.nan
    if _infinite(a) or _is_zero(b):
        return -math.inf if negative else math.inf
    if _infinite(b):
        return _zero(negative)
    return Fraction(a) / Fraction(b) or _zero(negative)


def divide_or_nan(a: Real, b: Real, downward: bool = False) -> Real:
    """P3109 v4.0, 4.10.5: as ``divide``, but x/0 is NaN for every x."""
    return math.nan if _is_zero(b) else divide(a, b)


def sqrt(x: Real, downward: bool = False) -> Real:
    """5.4.1: sqrt(-0) is -0.  7.2: that of other negative numbers is NaN."""
    if _is_zero(x):
        return x
    if _nan(x) or is_negative(x):
        return math.nan
    if _infinite(x):
        return x
    exact = Fraction(x)
    # Scaled by an even power of two to at least 2 ROOT_BITS bits, so that the integer root has ROOT_BITS of them.
    up = max(ROOT_BITS - (exact.numerator.bit_length() - exact.denominator.bit_length()) // 2, 0)
    scaled = exact * power_of_two(2 * up)
    root = math.isqrt(scaled.numerator // scaled.denominator)
    # An inexact root lies between two integers, and half way between them serves as well.
    middle = Fraction(root) if root * root == scaled else root + Fraction(1, 2)
    return middle / power_of_two(up)


def fma(a: Real, b: Real, c: Real, downward: bool = False) -> Real:
    """5.4.1: (a * b) + c as if with unbounded range and precision."""
    return add(multiply(a, b), c, downward)


def negate(x: Real, downward: bool = False) -> Real:
    """-x as an exact result (for a format of its own it is a change of the sign bit)."""
    return math.nan if _nan(x) else negative_of(x)


def absolute(x: Real, downward: bool = False) -> Real:
    """|x|."""
    return math.nan if _nan(x) else negative_of(x) if is_negative(x) else x


def _key(x: Real) -> tuple[Real, bool]:
    """9.6: -0 compares below +0."""
    return x, not is_negative(x)


def minimum(a: Real, b: Real, downward: bool = False) -> Real:
    """9.6: the smaller, NaN if either is."""
    return math.nan if _nan(a, b) else min(a, b, key=_key)


def maximum(a: Real, b: Real, downward: bool = False) -> Real:
    """9.6: the larger, NaN if either is."""
    return math.nan if _nan(a, b) else max(a, b, key=_key)


def minimum_number(a: Real, b: Real, downward: bool = False) -> Real:
    """9.6: the smaller, or the one that is a number."""
    return minimum(a, b) if _nan(a) == _nan(b) else b if _nan(a) else a


def maximum_number(a: Real, b: Real, downward: bool = False) -> Real:
    """9.6: the larger, or the one that is a number."""
    return maximum(a, b) if _nan(a) == _nan(b) else b if _nan(a) else a


OPERATIONS: dict[str, Callable[..., Real]] = {
    "add": add,
    "subtract": subtract,
    "multiply": multiply,
    "divide": divide,
    "divide_or_nan": divide_or_nan,
    "sqrt": sqrt,
    "fma": fma,
    "negate": negate,
    "absolute": absolute,
    "minimum": minimum,
    "maximum": maximum,
    "minimum_number": minimum_number,
    "maximum_number": maximum_number,
}


def compare(a: Real, b: Real) -> int:
    """5.11: -1 less, 0 equal, 1 greater, 2 unordered."""
    return 2 if _nan(a, b) else (a > b) - (a < b)


def accumulate(
    terms: Sequence[Sequence[int]],
    cast: Cast | FormatName,
    *,
    sources: Sequence[FormatName],
    order: str = "sequential",
    chunk: int = 0,
    product: Cast | None = None,
    initial: int | None = None,
    words: Callable[[int], int] | None = None,
) -> int:
    """The code of a sum of terms, each a code, or a pair of codes to be multiplied.

    ``product``: the cast that products are rounded to first; None: they are exact.  ``words``: the random word of the r-th
    rounding.
    """
    cast = as_cast(cast)
    downward = cast.rounding is Rounding.DOWN
    formats = [as_format(source) for source in sources]
    flush = cast.subnormals is Subnormals.FLUSH_INPUT
    flush_factors = flush if product is None else product.subnormals is Subnormals.FLUSH_INPUT
    done = 0

    def rounded(x: Real, to: Cast = cast) -> int:
        nonlocal done
        done += 1
        return encode(x, to, None if words is None else words(done - 1))

    def real(code: int) -> Real:
        return opened(code, cast.format, flush)

    def plus(code: int, x: Real) -> int:
        return rounded(add(real(code), x, downward))

    def term(codes: Sequence[int]) -> Real:
        factors = [opened(code, format, flush_factors) for code, format in zip(codes, formats, strict=True)]
        if len(factors) == 1:
            return factors[0]
        exact = multiply(factors[0], factors[1])
        return exact if product is None else opened(rounded(exact, product), product.format, flush)

    def one_after_another(total: int | None, some: Sequence[Sequence[int]]) -> int:
        for codes in some:
            x = term(codes)
            total = rounded(x) if total is None else plus(total, x)
        assert total is not None
        return total

    def halves(some: Sequence[Sequence[int]]) -> int:
        if len(some) == 1:
            return rounded(term(some[0]))
        middle = len(some) // 2
        left = halves(some[:middle])
        return plus(left, real(halves(some[middle:])))

    def chunks(total: int | None) -> int:
        for first in range(0, len(terms), chunk):
            part = one_after_another(None, terms[first : first + chunk])
            total = part if total is None else plus(total, real(part))
        assert total is not None
        return total

    def kahan(total: int | None) -> int:
        lost = 0
        rest = list(terms)
        if total is None:
            total = rounded(term(rest.pop(0)))
        for codes in rest:
            y = rounded(subtract(term(codes), real(lost), downward))
            new = plus(total, real(y))
            moved = rounded(subtract(real(new), real(total), downward))
            lost = rounded(subtract(real(moved), real(y), downward))
            total = new
        return total

    if not terms:
        return encode(Fraction(0), cast) if initial is None else initial
    if order == "kahan":
        return kahan(initial)
    if order == "chunked":
        return chunks(initial)
    if order == "pairwise":
        total = halves(terms)
        return total if initial is None else plus(initial, real(total))
    return one_after_another(initial, terms)
