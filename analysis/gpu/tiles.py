"""Operands of matrix products as bit patterns, made of a counter: any tile, on any machine, at any time, the same.

    word(operand, i) = mix(key + i * 0x9E3779B97F4A7C15) modulo 2**64,   key = the first eight bytes of SHA-256(name)

``mix`` is the finaliser of splitmix64; ``name`` is ``fpemu tiles 1/<inputs>/<class>/<operand>``; ``i`` counts elements of
A (tile, row, k), of B (tile, column, k) or of C (tile, row, column).  Of a word bits 0-31 make the significand, 32-55
choose an exponent, 56-62 select, and bit 63 is the sign.  A dot product is a row of A, a column of B and an element of C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

import fpemu
from analysis.gpu.hashing import mix
from analysis.gpu.inputs import Codes
from fpemu.formats import FloatFormat
from fpemu.kernels.random import GOLDEN
from fpemu.targets.threads import get_threads, map_parts, split

DEFINITION = "fpemu tiles 1"  # changes where a bit of any operand does

Words = NDArray[np.uint64]
_EXPONENT, _SELECT, _SIGN = np.uint64(32), np.uint64(56), np.uint64(63)


def key_of(name: str) -> int:
    """The key of an operand's words."""
    return int.from_bytes(sha256(f"{DEFINITION}/{name}".encode()).digest()[:8], "little")


@njit(nogil=True)
def _fill(out: Any, key: Any, tiles: Any) -> None:
    golden = np.uint64(GOLDEN)
    size = np.uint64(out.shape[1])
    for t in range(out.shape[0]):
        first = np.uint64(tiles[t]) * size
        for i in range(out.shape[1]):
            out[t, i] = mix(key + (first + np.uint64(i)) * golden)


def words_of(name: str, tiles: NDArray[np.int64], shape: tuple[int, int]) -> Words:
    """The words of an operand's elements in tiles, shape (tiles, \\*shape); in threads."""
    out = np.empty((tiles.size, shape[0] * shape[1]), np.uint64)
    key = np.uint64(key_of(name))

    def part(ends: tuple[int, int]) -> None:
        _fill(out[slice(*ends)], key, tiles[slice(*ends)])

    map_parts(part, split(tiles.size, get_threads()))
    return out.reshape(tiles.size, *shape)


@dataclass(frozen=True)
class Slot:
    """What a maker of codes knows. ``role``: "a", "b" or "c"; ``format``: of the codes; ``operand``, ``accumulator``:
    formats of the operands and of C; ``k``: length of the dot products; ``partners``: one word a tile, the same for
    all operands."""

    role: str
    format: FloatFormat
    operand: FloatFormat
    accumulator: FloatFormat
    k: int
    partners: Words


Maker = Callable[[Words, Slot], Codes]


# ---- pieces of a word -----------------------------------------------------------------------------------------------
def _signs(words: Words, format: FloatFormat) -> Codes:
    """Random sign bits, in place."""
    signs: Codes = ((words >> _SIGN) << np.uint64(format.bits - 1)).astype(format.code_dtype)
    return signs


def _among(words: Words, first: int, last: int) -> NDArray[np.int64]:
    """Random integers from ``first`` to ``last``, of the bits that choose an exponent."""
    chosen = (words >> _EXPONENT & np.uint64(0xFFFFFF)) * np.uint64(last - first + 1) >> np.uint64(24)
    return chosen.astype(np.int64) + first


def _chosen(words: Words, of_128: int) -> NDArray[np.bool_]:
    """True with probability of_128 / 128, of the bits that select."""
    return np.asarray((words >> _SELECT & np.uint64(0x7F)) < np.uint64(of_128))


def _composed(words: Words, format: FloatFormat, fields: NDArray[np.int64]) -> Codes:
    """Random signs and significands with these exponent fields, as far as the format has them; finite."""
    top = format.max_code >> format.trailing_bits
    magnitudes = np.clip(fields, 0, top).astype(np.uint64) << np.uint64(format.trailing_bits)
    magnitudes |= words & np.uint64((1 << format.trailing_bits) - 1)
    finite: Codes = np.minimum(magnitudes, np.uint64(format.max_code)).astype(format.code_dtype)
    return finite | _signs(words, format)


def _exponents(words: Words, format: FloatFormat, first: int, last: int) -> Codes:
    """Random numbers with exponents from ``first`` to ``last``; below emin subnormals of any significand."""
    return _composed(words, format, _among(words, first, last) + format.bias)


def _zeros(words: Words, format: FloatFormat) -> Codes:
    return _signs(words, format)


def _near_normal(words: Words) -> NDArray[np.float64]:
    """Sums of the four quarters of a word: mean 0 and variance 1, nearly a normal distribution, of +-3.46 at most."""
    total = np.zeros(words.shape, np.int64)
    for quarter in range(4):
        total += (words >> np.uint64(16 * quarter) & np.uint64(0xFFFF)).astype(np.int64)
    return np.asarray((total - 2 * 0xFFFF) / 37837.0)  # 2**16 / sqrt(3)


# ---- classes --------------------------------------------------------------------------------------------------------
def _raw(words: Words, slot: Slot) -> Codes:
    return np.asarray((words >> np.uint64(64 - slot.format.bits)).astype(slot.format.code_dtype))


def _normal(words: Words, slot: Slot) -> Codes:
    values = _near_normal(words)
    return np.asarray(fpemu.encode(values * (4.0 if slot.role == "c" else 1.0), slot.format))


def _positive(words: Words, slot: Slot) -> Codes:
    """Magnitudes alone, onto C = +0: the sum grows beside its terms."""
    if slot.role == "c":
        return np.zeros(words.shape, slot.format.code_dtype)
    return np.asarray(_normal(words, slot) & slot.format.code_dtype.type(slot.format.magnitude_mask))


def _spread(words: Words, slot: Slot) -> Codes:
    """Every exponent alike; C over the exponents that products have."""
    first, last = slot.operand.finest_exponent, slot.operand.emax
    if slot.role == "c":
        first, last = max(2 * first, slot.format.emin - 1), min(2 * last + 1, slot.format.emax)
        return _exponents(words, slot.format, first, last)
    return _exponents(words, slot.format, slot.format.emin - 1, last)


def _cancelling(words: Words, slot: Slot) -> Codes:
    """Products in pairs of opposite sign, in lanes k and k xor x with one x a tile; of one pair in eight the factors
    in B are not quite the same.  C is zero, or small beside a product."""
    if slot.role == "c":
        small = _exponents(words, slot.format, max(-30, slot.format.emin - 1), 0)
        return np.where(_chosen(words, 64), _zeros(words, slot.format), small)
    numbers = _exponents(words, slot.format, -4, 4)
    lanes = np.arange(slot.k)
    partners = 1 + (slot.partners % np.uint64(slot.k - 1)).astype(np.int64)
    leaders = np.minimum(lanes, lanes ^ partners[:, None])
    paired = np.take_along_axis(numbers, leaders[:, None, :], axis=2)
    follows = (leaders != lanes)[:, None, :]
    if slot.role == "a":
        return np.where(follows, paired ^ slot.format.code_dtype.type(slot.format.sign_mask), paired)
    return np.where(follows & _chosen(words, 16), paired ^ paired.dtype.type(1), paired)


def _tiny(words: Words, slot: Slot) -> Codes:
    """Sums about the accumulator's smallest values; C zero, subnormal or little more.

    In half of the tiles products of one size, between the smallest subnormal and the smallest normal value (or as small
    as the format makes them).  In the others, where products can be that small, some are just below half of the smallest
    subnormal value and the rest at the end of what the hardware adds, so that these alone decide how a tie is rounded.
    """
    if slot.role == "c":
        small = _composed(words, slot.format, _among(words, 0, 9))
        return np.where(_chosen(words, 77), _zeros(words, slot.format), small)
    centre = max(slot.operand.emin + 1, (slot.accumulator.emin - 7) // 2)
    shifts = (slot.partners >> np.uint64(40) & np.uint64(15)).astype(np.int64)[:, None, None] - 11
    alike = _composed(words, slot.format, _among(words, centre - 3, centre + 3) + shifts + slot.format.bias)
    last = slot.accumulator.emin - 7 - 25  # of Hopper: the least exponent to align to, less its fraction bits
    if 2 * slot.operand.finest_exponent > last + 1:
        return alike
    lanes = slot.partners[:, None] >> np.arange(slot.k, dtype=np.uint64)
    half = slot.accumulator.finest_exponent - 1
    ends = last - 2 + (_lane_words(slot.partners, slot.k) & np.uint64(3)).astype(np.int64)
    exponents = np.where(lanes & np.uint64(5) == 0, half, ends)[:, None, :]  # of products, by lane
    own = exponents // 2 if slot.role == "a" else exponents - exponents // 2
    powers = np.where(_chosen(words, 96), _power_codes(own, slot.format), 0).astype(slot.format.code_dtype)
    two_sizes = (slot.partners >> np.uint64(63) == 0)[:, None, None]
    return np.where(two_sizes, powers | _signs(words, slot.format), alike)


def _lane_words(partners: Words, k: int) -> Words:
    """Words of the lanes of tiles, shape (tiles, k), from one word a tile."""
    return np.asarray(mix(partners[:, None] + np.arange(1, k + 1, dtype=np.uint64) * np.uint64(GOLDEN)))


def _power_codes(exponents: NDArray[np.int64], format: FloatFormat) -> NDArray[np.int64]:
    """The codes of powers of two; zero for what is too small."""
    normal = exponents + format.bias << format.trailing_bits
    subnormal = np.where(exponents < format.finest_exponent, 0, 1 << np.maximum(exponents - format.finest_exponent, 0))
    return np.where(exponents >= format.emin, normal, subnormal)


def _huge(words: Words, slot: Slot) -> Codes:
    """Products about the largest value of the accumulator, or as large as they come; C beside the largest value, or
    about as large as a product."""
    centre = min(slot.operand.emax - 1, (slot.accumulator.emax - 1) // 2)
    if slot.role == "c":
        near_end = _exponents(words, slot.format, slot.format.emax - 2, slot.format.emax)
        near_product = _exponents(words, slot.format, 2 * centre - 3, 2 * centre + 3)
        return np.where(_chosen(words, 64), near_end, near_product)
    return _exponents(words, slot.format, centre - 3, centre + 1)


def _half_zeros(words: Words, slot: Slot) -> Codes:
    return np.where(_chosen(words, 64), _zeros(words, slot.format), _normal(words, slot))


def _specials(words: Words, slot: Slot) -> Codes:
    """Normal numbers among which are NaNs of any payload, infinities, the largest, the smallest, and zeros: about
    half of the dot products have such an operand, and one C in eight is such a value."""
    format = slot.format
    infinity = format.max_code if format.infinity_code is None else format.infinity_code
    payloads = max(format.high_nans, 1)  # a NaN format alone is recorded
    nans = format.magnitude_mask - ((words & np.uint64(0xFFFFFFFF)) % np.uint64(payloads)).astype(np.int64)
    which = _among(words, 0, 7)
    fixed = np.array([0, 0, 0, infinity, infinity, format.max_code, format.smallest_code, 0], np.int64)
    magnitudes = np.where(which < 3, nans, fixed[which])
    special = magnitudes.astype(format.code_dtype) | _signs(words, format)
    share = 16 if slot.role == "c" else max(1, 32 // slot.k)
    return np.where(_chosen(words, share), special, _normal(words, slot))


@dataclass(frozen=True)
class InputClass:
    """A class of operands: its name, what it is, and what makes its codes of words."""

    name: str
    meaning: str
    make: Maker


_ROWS = (
    InputClass("raw", "any bit pattern", _raw),
    InputClass("normal", "nearly N(0, 1); C four times that", _normal),
    InputClass("spread", "every exponent alike", _spread),
    InputClass("cancellation", "products in pairs of opposite sign, and a residue", _cancelling),
    InputClass("tiny", "products and C about the accumulator's smallest normal, many C zero", _tiny),
    InputClass("near-overflow", "products or C about the accumulator's largest value", _huge),
    InputClass("zeros", "half zeros of both signs", _half_zeros),
    InputClass("specials", "NaNs, infinities and limits among normal numbers", _specials),
    InputClass("positive", "magnitudes of nearly N(0, 1), onto C = +0", _positive),
)
CLASSES = {row.name: row for row in _ROWS}


@dataclass(frozen=True)
class Shape:
    """The tiles of a part. ``inputs``: their name; m, n: of a tile; k: of the whole dot product; formats of codes."""

    inputs: str
    m: int
    n: int
    k: int
    a: FloatFormat
    b: FloatFormat
    accumulator: FloatFormat


@dataclass(frozen=True)
class Operands:
    """Codes of tiles: ``a`` (tiles, m, k), ``b`` (tiles, n, k) and ``c`` (tiles, m, n)."""

    a: Codes
    b: Codes
    c: Codes


def operands_of(shape: Shape, input_class: str, tiles: NDArray[np.int64]) -> Operands:
    """The operands of tiles, by their numbers in a class."""
    made = CLASSES[input_class]
    name = f"{shape.inputs}/{input_class}"
    partners = words_of(f"{name}/partners", tiles, (1, 1)).reshape(-1)

    def codes(role: str, format: FloatFormat, rows: int, columns: int) -> Codes:
        operand = shape.a if role == "c" else format
        slot = Slot(role, format, operand, shape.accumulator, shape.k, partners)
        found = made.make(words_of(f"{name}/{role}", tiles, (rows, columns)), slot)
        return np.ascontiguousarray(found, format.code_dtype)

    return Operands(
        codes("a", shape.a, shape.m, shape.k),
        codes("b", shape.b, shape.n, shape.k),
        codes("c", shape.accumulator, shape.m, shape.n),
    )


def small_integers(shape: Shape, tiles: int, sign: int = 1, with_c: bool = True) -> tuple[Operands, Codes]:
    """Operands from -2 to 2 and C from -8 to 8, and what every engine makes of ``sign`` a b + c: all sums are exact."""
    numbers = np.arange(tiles)

    def integers(role: str, rows: int, columns: int, most: int) -> NDArray[np.int64]:
        return _among(words_of(f"{shape.inputs}/integers/{role}", numbers, (rows, columns)), -most, most)

    a, b = integers("a", shape.m, shape.k, 2), integers("b", shape.n, shape.k, 2)
    c = integers("c", shape.m, shape.n, 8)
    codes = [
        np.asarray(fpemu.encode(x.astype(np.float32), format))
        for x, format in ((a, shape.a), (b, shape.b), (c, shape.accumulator))
    ]
    exact = sign * (a @ b.swapaxes(1, 2)) + (c if with_c else 0)
    return Operands(*codes), np.asarray(fpemu.encode(exact.astype(np.float32), shape.accumulator))
