"""The definition of a matrix engine, in Python's integers: slow, short, and the judge of the kernels.

It shares no code with ``kernels/``: a dot product of codes, term by term, from the facts of an Engine.  ``steps`` hands out
everything that happens on the way, ``dot`` the last code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from fpemu import reference
from fpemu.engines.model import BlockSum, Chain, Engine
from fpemu.formats import FloatFormat
from fpemu.policies import Cast, Rounding


class Number(NamedTuple):
    """A finite value: significand * 2**(exponent - places), the nominal exponent that of the hidden bit's place."""

    significand: int  # with its sign
    exponent: int
    places: int  # fraction bits of the significand
    cancelled: bool = False  # a sum, whose exponent counts even where its value is zero


Operand = Number | float  # a float only for nan, inf and -inf


def opened(code: int, format: FloatFormat) -> Operand:
    """The operand of a code; a subnormal (and zero) has the exponent of the smallest normal value and no hidden bit."""
    value = reference.value(code, format)
    if isinstance(value, float) and not math.isfinite(value):
        return value
    magnitude, places = code & format.magnitude_mask, format.precision - 1
    field, trailing = divmod(magnitude, 1 << places)
    subnormal = format.subnormals and field == 0
    significand = trailing + (0 if subnormal else 1 << places)
    exponent = (1 if subnormal else field) - format.bias
    negative = magnitude != code
    return Number(-significand if negative else significand, exponent, places)


def product(a: Operand, b: Operand) -> Operand:
    """Exact, its exponent the sum of both, not normalised; IEEE 754, 7.2: infinity times zero is invalid."""
    if isinstance(a, Number) and isinstance(b, Number):
        return Number(a.significand * b.significand, a.exponent + b.exponent, a.places + b.places)
    signs = [x if isinstance(x, float) else float((x.significand > 0) - (x.significand < 0)) for x in (a, b)]
    return signs[0] * signs[1]


def special(terms: Sequence[Operand]) -> float | None:
    """NaN or infinity, where a term is one; infinities of both signs are invalid."""
    found = {term for term in terms if isinstance(term, float)}
    if not found:
        return None
    return math.nan if len(found) > 1 else found.pop()


class Aligned(NamedTuple):
    """A term as a block adds it."""

    exponent: int  # the one that counts: of a term of value zero, the engine's own
    shift: int  # places of the significand that are cut off; negative: zeros appended
    units: int  # what is left, with its sign, in units of the last place kept


def aligned(numbers: Sequence[Number], rule: BlockSum) -> tuple[list[Aligned], int]:
    """The terms on the grid of the largest exponent, and that exponent."""
    exponents = [n.exponent if n.significand or n.cancelled else rule.zero_exponent for n in numbers]
    top = max(exponents)
    result = []
    for n, exponent in zip(numbers, exponents, strict=True):
        shift = n.places - rule.fraction_bits + (top - n.exponent)
        magnitude = abs(n.significand)
        kept = magnitude >> shift if shift >= 0 else magnitude << -shift
        result.append(Aligned(exponent, shift, kept if n.significand >= 0 else -kept))
    return result, top


def fused_sum(terms: Sequence[Operand], rule: BlockSum) -> tuple[int, int] | float:
    """The aligned, truncated terms' exact sum: ``(s, exponent)`` for s * 2**exponent, or what is no number."""
    beyond = special(terms)
    if beyond is not None:
        return beyond
    grid, top = aligned([term for term in terms if isinstance(term, Number)], rule)
    return sum(term.units for term in grid), top - rule.fraction_bits


def rounded(total: tuple[int, int] | float, rule: BlockSum, accumulator: FloatFormat, nan_code: int) -> int:
    """The accumulator's code of a sum."""
    sign = 1 << (accumulator.bits - 1)
    infinity = accumulator.infinity_code
    assert infinity is not None
    if isinstance(total, float):
        return nan_code if math.isnan(total) else infinity | (sign if total < 0 else 0)
    s, exponent = total
    if s == 0:
        return 0
    exact = s * reference.power_of_two(exponent)
    grid = reference.encode(abs(exact), Cast(rule.grid, rounding=rule.rounding))
    value = reference.value(grid, rule.grid)
    largest = reference.value(rule.grid.max_code, rule.grid)
    if abs(exact) >= 2 * reference.power_of_two(rule.grid.emax) or value > largest:
        return infinity | (sign if s < 0 else 0)
    code = reference.encode(Fraction(value), accumulator)
    return code | (sign if s < 0 and code else 0)


def add_nearest(x: int, y: int, accumulator: FloatFormat, nan_code: int) -> int:
    """The ordinary sum of two accumulators, rounded to nearest even (IEEE 754, 5.4.1)."""
    a, b = reference.value(x, accumulator), reference.value(y, accumulator)
    if any(isinstance(v, float) and not math.isfinite(v) for v in (a, b)):
        total = (
            float(a) + float(b)
            if all(isinstance(v, float) for v in (a, b))
            else (a if isinstance(a, float) and not math.isfinite(a) else b)
        )
        return nan_code if math.isnan(total) else reference.encode(float(total), accumulator)
    exact = Fraction(a) + Fraction(b)
    if exact == 0 and reference.is_negative(a) and reference.is_negative(b):
        return reference.encode(-0.0, accumulator)
    return reference.encode(exact, accumulator)


# ---- a whole dot product --------------------------------------------------------------------------------------------
class BlockStep(NamedTuple):
    """One block: its terms and the accumulator are aligned, cut off, added and rounded."""

    positions: tuple[int, ...]  # of its terms among all (products, or groups of them); beyond the last they are zeros
    terms: tuple[Operand, ...]  # and, last, the accumulator
    before: int  # the accumulator's code
    total: tuple[int, int] | float  # s * 2**exponent, or what is no number
    code: int


class AdditionStep(NamedTuple):
    """The ordinary addition of the sum of a span to the accumulator, rounded to nearest even."""

    before: int
    added: int
    code: int


class ChainStep(NamedTuple):
    """One product that enters an ordinary accumulator."""

    before: int
    term: reference.Real  # the product, exact or rounded first
    total: reference.Real  # the exact sum
    code: int


Step = BlockStep | AdditionStep | ChainStep


def dot(
    a: Sequence[int],
    b: Sequence[int],
    c: int,
    engine: Engine,
    a_scales: Sequence[int] = (),
    b_scales: Sequence[int] = (),
) -> int:
    """The code of ``c + sum(a[k] * b[k])``.

    Parameters
    ----------
    a, b: codes of the engine's formats, equally many. c: a code of its accumulator.
    a_scales, b_scales: codes of block scales, for engines that have them.

    Raises ValueError for operands that are not equally long, and for engines that this does not define: libraries, and accumulators that
    do not go from one product to the next or round at random.
    """
    code = (
        c
        if isinstance(engine.arithmetic, BlockSum)
        else reference.encode(reference.value(c, engine.accumulator), engine.result)
    )
    for step in steps(a, b, c, engine, a_scales, b_scales):
        code = step.code
    return code


def steps(
    a: Sequence[int],
    b: Sequence[int],
    c: int,
    engine: Engine,
    a_scales: Sequence[int] = (),
    b_scales: Sequence[int] = (),
) -> Iterator[Step]:
    """What ``dot`` does, in order; the last step's code is the result.  Parameters and errors as there."""
    rule = engine.arithmetic
    if len(a) != len(b):
        raise ValueError(f"a and b must be equally long, not {len(a)} and {len(b)}")
    if isinstance(rule, Chain) and is_told(engine):
        yield from _chain(a, b, c, engine, rule)
        return
    if not isinstance(rule, BlockSum):
        raise ValueError(f"{engine.name} is not defined here")
    nan_code = engine.result.canonical_nan(False)
    assert nan_code is not None
    parts = list(_blocks(terms_of(a, b, engine, a_scales, b_scales), rule))
    per_span = max(rule.span // rule.length, 1)
    total = c
    for start in range(0, len(parts), per_span):
        inner = 0 if rule.span else total
        for positions, block in parts[start : start + per_span]:
            terms = (*block, opened(inner, engine.accumulator))
            found = fused_sum(terms, rule)
            before, inner = inner, rounded(found, rule, engine.accumulator, nan_code)
            yield BlockStep(positions, terms, before, found, inner)
        if rule.span:
            before, total = total, add_nearest(total, inner, engine.accumulator, nan_code)
            yield AdditionStep(before, inner, total)
        else:
            total = inner


def is_told(engine: Engine) -> bool:
    """Whether ``steps`` defines an engine: a tensor core, or an accumulator that takes one product after the other."""
    rule = engine.arithmetic
    if isinstance(rule, Chain):
        return rule.order == "sequential" and rule.cast.rounding is not Rounding.STOCHASTIC
    return isinstance(rule, BlockSum)


def terms_of(
    a: Sequence[int], b: Sequence[int], engine: Engine, a_scales: Sequence[int] = (), b_scales: Sequence[int] = ()
) -> list[Operand]:
    """The terms a dot product adds: products with their scales, or sums of a group with theirs."""
    mask = ~((1 << engine.ignored_bits) - 1)
    left = [opened(code & mask, engine.a) for code in a]
    right = [opened(code & mask, engine.b) for code in b]
    products = [product(x, y) for x, y in zip(left, right, strict=True)]
    return products if engine.scaling is None else _scaled(products, engine, a_scales, b_scales)


def _blocks(terms: list[Operand], rule: BlockSum) -> Iterator[tuple[tuple[int, ...], list[Operand]]]:
    """The terms of each block and their positions.

    (Of a ragged end, what is missing is zero; a block of zeros changes nothing but the sign of a zero.)
    """
    length = rule.length // (rule.group or 1)
    size = (rule.span // (rule.group or 1)) or length
    places = rule.positions() if rule.picks else tuple(range(size))
    for start in range(0, len(terms), size):
        for i in range(0, size, length):
            chosen = tuple(start + k for k in places[i : i + length])
            yield chosen, [terms[k] if k < len(terms) else Number(0, 0, 0) for k in chosen]


def _scaled(products: list[Operand], engine: Engine, a_scales: Sequence[int], b_scales: Sequence[int]) -> list[Operand]:
    """The products times their scales; where the engine adds groups first, one term a group."""
    rule, scaling = engine.arithmetic, engine.scaling
    assert isinstance(rule, BlockSum) and scaling is not None
    needed = -(-len(products) // scaling.block)
    if len(a_scales) != needed or len(b_scales) != needed:
        raise ValueError(f"{len(products)} products have {needed} scales, not {len(a_scales)} and {len(b_scales)}")
    mask = scaling.format.magnitude_mask if scaling.unsigned else -1
    scales = [
        product(opened(x & mask, scaling.format), opened(y & mask, scaling.format))
        for x, y in zip(a_scales, b_scales, strict=True)
    ]
    if not rule.group:
        return [product(p, scales[k // scaling.block]) for k, p in enumerate(products)]
    result: list[Operand] = []
    for start in range(0, len(products), rule.group):
        group = products[start : start + rule.group]
        scale = scales[start // scaling.block]
        beyond = special(group)
        if beyond is not None or isinstance(scale, float):
            result.append(math.nan)
            continue
        numbers = [p for p in group if isinstance(p, Number)]
        places = max(p.places for p in numbers)
        exact = sum((p.significand * reference.power_of_two(p.exponent - p.places) for p in numbers), Fraction(0))
        whole = exact * (1 << 2 * places)
        assert whole.denominator == 1
        if all(p.significand == 0 for p in numbers) or scale.significand == 0:
            result.append(Number(0, 0, 0))
        else:
            significand = int(whole) * scale.significand
            result.append(Number(significand, scale.exponent, 2 * places + scale.places, significand == 0))
    return result


# ---- ordinary accumulators ------------------------------------------------------------------------------------------
def _chain(a: Sequence[int], b: Sequence[int], c: int, engine: Engine, rule: Chain) -> Iterator[ChainStep]:
    """One addition after another, each rounded once; products exact, or rounded first."""
    to, code = engine.result, c
    for x, y in zip(a, b, strict=True):
        term = _times(reference.value(x, engine.a), reference.value(y, engine.b))
        if not rule.fused:
            term = reference.value(reference.encode(term, to), engine.accumulator)
        total = _plus(reference.value(code, engine.accumulator), term, to.rounding is Rounding.DOWN)
        before, code = code, reference.encode(total, to)
        yield ChainStep(before, term, total, code)


def _times(x: reference.Real, y: reference.Real) -> reference.Real:
    """The exact product (IEEE 754, 6.3: its sign is that of both signs)."""
    if _is_number(x) and _is_number(y):
        exact = Fraction(x) * Fraction(y)
        return exact if exact else (-0.0 if reference.is_negative(x) != reference.is_negative(y) else Fraction(0))
    signs = [v if isinstance(v, float) and not _is_number(v) else float((v > 0) - (v < 0)) for v in (x, y)]
    return signs[0] * signs[1]


def _plus(x: reference.Real, y: reference.Real, down: bool) -> reference.Real:
    """The exact sum (IEEE 754, 6.3: of numbers that cancel +0, rounding down -0)."""
    if _is_number(x) and _is_number(y):
        exact = Fraction(x) + Fraction(y)
        if exact:
            return exact
        negative = [reference.is_negative(v) for v in (x, y)]
        return (
            -0.0 if all(negative) or (down and any(v != 0 for v in (x, y))) or (down and any(negative)) else Fraction(0)
        )
    return float("nan") if any(v != v for v in (x, y)) else sum(float(v) for v in (x, y) if not _is_number(v))


def _is_number(x: reference.Real) -> bool:
    return not isinstance(x, float) or math.isfinite(x)
