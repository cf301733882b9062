"""Stochastic rounding: the bits are frozen, the probabilities exact, and nothing but seed and index matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from edges import around
from implementations import JIT
from test_conversion import REDUCED, any_nan, some

import fpemu as fp
from fpemu import FORMATS, Cast, Rounding, Stochastic, reference

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def finalise(z: int) -> int:
    """The output function of splitmix64 (Steele, Lea, Flood 2014), in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def splitmix64(seed: int) -> int:
    """The first output of the generator for a seed."""
    return finalise((seed + GOLDEN) & MASK)


def word(seed: int, index: int) -> int:
    """32 random bits: the high half of the finaliser over key + index * golden, key = splitmix64(seed)."""
    return finalise((splitmix64(seed) + index * GOLDEN) & MASK) >> 32


def words(seed: int, indices: Iterable[int], bits: int = 32) -> list[int]:
    return [word(seed, index) >> (32 - bits) for index in indices]


# ---- the bits --------------------------------------------------------------------------------------------------------
def test_splitmix64_is_the_published_generator() -> None:
    """The five first outputs for seed 1234567, as published with the generator's test vectors."""
    outputs = [finalise((1234567 + n * GOLDEN) & MASK) for n in range(1, 6)]
    assert outputs == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821
    ]  # fmt: skip


# (seed, index): word.  Frozen: a change here changes published results.
KNOWN = {
    (0, 0): 0x48218226, (0, 1): 0xA706DD2F, (1, 0): 0xDCE423FC, (42, 7): 0x32028F50, (2**64 - 1, 2**40): 0xB9B65253,
}  # fmt: skip


@pytest.mark.nojit
def test_known_words() -> None:
    assert {key: word(*key) for key in KNOWN} == KNOWN
    for (seed, index), right in KNOWN.items():
        # The fraction of 1 + k 2^-35 in a 3-bit grid is k 2^-32: it goes up exactly where k + word reaches 2^32.
        edge = 2**32 - right
        x = 1 + np.array([edge - 1, edge, 2**32 - 1]) * 2.0**-35
        got = [fp.encode(v, "e4m3", rounding="stochastic", seed=seed, offset=index) for v in x]
        assert got == [0x38, 0x39, 0x39], hex(right)


# The codes of 32 elements at 1 + 1/2 spacing, as bits: a tie goes up where the word's top bit is set.
FROZEN_CODES = {0: 0x6D2377E0, 2026: 0x07CC0C07}


@pytest.mark.nojit
@pytest.mark.parametrize("seed", FROZEN_CODES)
def test_known_codes(seed: int) -> None:
    x = np.full(32, 1.0625)
    bits = fp.encode(x, "e4m3", rounding="stochastic", seed=seed) - 0x38
    assert int("".join(map(str, bits)), 2) == FROZEN_CODES[seed]
    assert bits.tolist() == [w >> 31 for w in words(seed, range(32))]


@pytest.mark.nojit
@pytest.mark.parametrize("variant", Stochastic)
@pytest.mark.parametrize("random_bits", [1, 3, 8, 16, 23, 31, 32])
@pytest.mark.parametrize("name", REDUCED)
def test_every_word_against_the_reference(name: str, random_bits: int, variant: Stochastic) -> None:
    """Element i meets the top N bits of word i, in all three variants, on both lanes."""
    cast = Cast(name, "stochastic", nan=any_nan(FORMATS[name]), random_bits=random_bits, stochastic=variant)
    for dtype in ("float32", "float64"):
        x = around(cast.format, dtype)
        x = np.concatenate([some(x, 100 if JIT else 40), x[-14:]])
        with np.errstate(all="ignore"):
            x = np.concatenate([x, x[:60] * np.dtype(dtype).type(1.3)])
        right = [reference.encode(v, cast, w) for v, w in zip(x, words(9, range(x.size), random_bits), strict=True)]
        np.testing.assert_array_equal(fp.encode(x, cast, seed=9), right)


# ---- exact probabilities ---------------------------------------------------------------------------------------------
@lru_cache(maxsize=16)
def _one_index_for_each_word(random_bits: int) -> tuple[int, ...]:
    """For every N-bit word an index whose random word it is, under seed 0."""
    found: dict[int, int] = {}
    index = 0
    while len(found) < 1 << random_bits:
        found.setdefault(word(0, index) >> (32 - random_bits), index)
        index += 1
    return tuple(found[n] for n in range(1 << random_bits))


def outcomes(x: float, cast: Cast) -> np.ndarray[Any, Any]:
    """The codes of x for each of the 2^N random words, in the order of the words."""
    indices = np.array(_one_index_for_each_word(cast.random_bits))
    return np.asarray(fp.encode(np.full(indices.max() + 1, x), cast, seed=0)[indices])


def probability_up(position: Fraction, bits: int, variant: Stochastic) -> Fraction:
    """Of the 2^N words, how many take a value at this position of a gap to its outer end (P3109 v4.0, 4.7.2)."""
    scaled = position * 2**bits
    ups = {
        Stochastic.A: math.floor(scaled),
        Stochastic.B: math.floor(scaled + Fraction(1, 2)),  # floor(v 2^(N+1)) + 2R + 1 >= 2^(N+1)
        Stochastic.C: round(scaled),
    }[variant]
    return Fraction(min(ups, 2**bits), 2**bits)


@pytest.mark.nojit
@pytest.mark.parametrize("variant", Stochastic)
@pytest.mark.parametrize("random_bits", range(1, 9) if JIT else (1, 4))
def test_exact_probabilities(random_bits: int, variant: Stochastic) -> None:
    """Positions on, halfway between and just beside multiples of 2^-N, in four kinds of gap, of both signs."""
    gaps = {
        "normal": ("float8_e4m3fn", 1.0, 1.125),
        "subnormal": ("float8_e4m3fn", 2.0**-8, 2.0**-8 + 2.0**-9),
        "below the smallest": ("float8_e5m2", 0.0, 2.0**-16),
        "half precision": ("float16", 2048.0, 2050.0),
        "one significant bit": ("binary8p1se", 2.0, 4.0),
    }
    grid = Fraction(1, 2**random_bits)
    steps = {0, 1, 2**random_bits // 3, 2**random_bits // 2, 2**random_bits - 1}
    positions = sorted({n * grid + shift for n in steps for shift in (0, grid / 2, grid / 2**20, grid - grid / 2**20)})
    for name, inner, outer in gaps.values():
        cast = Cast(name, "stochastic", random_bits=random_bits, stochastic=variant)
        for position in positions:
            x = reference.as_float(Fraction(inner) + position * (Fraction(outer) - Fraction(inner)))
            right = probability_up(position, random_bits, variant)
            for sign in (1, -1) if inner else (1,):
                values = fp.decode(outcomes(sign * x, cast), name)
                assert set(np.abs(values)) <= {inner, outer}
                assert Fraction(int((np.abs(values) == outer).sum()), 2**random_bits) == right, (name, position)


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("name", "x", "right"),
    [
        ("float8_e5m2", 60000.0, Fraction(60000 - 57344, 8192)),  # 0.324: not CPFloat's 0.648, nor chop's 0
        ("float8_e4m3fn", 464.0, Fraction(1, 2)),
        ("float8_e4m3fn", 450.0, Fraction(1, 16)),
        ("float8_e4m3fn", 470.0, Fraction(11, 16)),
        ("float16", 65512.0, Fraction(1, 4)),
        ("float8_e4m3fnuz", 244.0, Fraction(1, 4)),
        ("binary8p4se", 230.0, Fraction(6, 16)),
    ],
)
def test_probability_of_overflow(name: str, x: float, right: Fraction) -> None:
    """Between the largest value and the next one with unbounded exponent the overflow is proportional."""
    bits = 8
    cast = Cast(name, "stochastic", random_bits=bits)
    for sign in (1, -1):
        values = fp.decode(outcomes(sign * x, cast), name)
        over = ~np.isfinite(values)
        assert Fraction(int(over.sum()), 2**bits) == Fraction(math.floor(right * 2**bits), 2**bits)
        assert set(values[~over]) == {sign * FORMATS[name].max}
        clamped = fp.decode(outcomes(sign * x, cast.replace(overflow="saturate")), name)
        assert set(clamped) == {sign * FORMATS[name].max}


@pytest.mark.nojit
@pytest.mark.parametrize("name", ["float8_e5m2", "float8_e4m3fn", "float16", "float6_e2m3fn", "binary8p3ue"])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_probability_below_the_smallest_subnormal(name: str, quarters: int) -> None:
    """x = 1/4, 1/2, 3/4 of the smallest value: up with that probability. Where emulators go wrong most."""
    x = FORMATS[name].smallest_subnormal * quarters / 4
    for variant in Stochastic:
        codes = outcomes(x, Cast(name, "stochastic", random_bits=8, stochastic=variant, nan=any_nan(FORMATS[name])))
        assert (codes == 1).sum() * 4 == quarters * codes.size
        assert set(codes) == {0, 1}


@pytest.mark.nojit
def test_far_below_the_smallest_subnormal() -> None:
    """The smallest probability N bits can give is 2^-N: A never moves below that, C from half of it, B likewise."""
    bits, smallest = 8, FORMATS["e5m2"].smallest_subnormal
    for power, ups in {
        8: {"A": 1, "B": 1, "C": 1},
        9: {"A": 0, "B": 1, "C": 0},  # the half of 2^-N: C's tie goes to even
        10: {"A": 0, "B": 0, "C": 0},
        200: {"A": 0, "B": 0, "C": 0},
    }.items():
        for variant, up in ups.items():
            codes = outcomes(smallest * 2.0**-power, Cast("e5m2", "stochastic", random_bits=bits, stochastic=variant))
            assert codes.sum() == up, (power, variant)


@lru_cache(maxsize=1)
def _largest_words() -> list[int]:
    """The indices, of the first 2^15 of seed 0, of the largest words: the ones that lift tiny fractions."""
    return sorted(range(1 << 15), key=lambda index: word(0, index))[-3:]


@pytest.mark.nojit
@pytest.mark.parametrize("variant", Stochastic)
@pytest.mark.parametrize("random_bits", [8, 12, 13, 31, 32])
def test_tiny_fractions_under_large_words(random_bits: int, variant: Stochastic) -> None:
    """All discarded bits below the word's, some below the lane's: 2^-m of the smallest value, exact and an ulp more.

    For m = N + 1 the fraction is half of 2^-N: variant C's tie, unless one lost bit makes it more.
    """
    cast = Cast("e5m2", "stochastic", random_bits=random_bits, stochastic=variant)
    smallest = FORMATS["e5m2"].smallest_subnormal
    for dtype in (np.float32, np.float64):
        powers = dtype(smallest) * dtype(2) ** -np.arange(1, 41 if JIT else 18, dtype=dtype)
        x = np.concatenate([powers, np.nextafter(powers, dtype(1)), powers * dtype(1.5)])
        for index in _largest_words():
            right = [reference.encode(v, cast, word(0, index) >> (32 - random_bits)) for v in x]
            np.testing.assert_array_equal([fp.encode(v, cast, seed=0, offset=index) for v in x], right)


@pytest.mark.nojit
@pytest.mark.parametrize("subnormals", ["flush-output", "flush-output-before", "flush-input", "round-to-min"])
def test_words_and_subnormal_policies(subnormals: str) -> None:
    for name in ("float8_e4m3fn", "float16", "bfloat16"):
        cast = Cast(name, "stochastic", subnormals=subnormals, random_bits=6)
        for dtype in (np.float32, np.float64):
            with np.errstate(all="ignore"):
                x = (np.linspace(-2.2, 2.2, 120) * cast.format.smallest_normal).astype(dtype)
            right = [reference.encode(v, cast, w) for v, w in zip(x, words(4, range(x.size), 6), strict=True)]
            np.testing.assert_array_equal(fp.encode(x, cast, seed=4), right)


# ---- exact values, specials ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", Stochastic)
@pytest.mark.parametrize("name", ["float16", "bfloat16", *REDUCED[2:], "binary12p6se"])
def test_exact_values_never_move(name: str, variant: Stochastic) -> None:
    """All values of the format, 20 times with different words; infinities and NaNs too."""
    format = FORMATS[name]
    codes = np.arange(1 << format.bits, dtype=format.code_dtype)
    values = fp.decode(codes, format)
    fixed = fp.encode(values, format, nan=any_nan(format))
    for seed in range(20):
        for bits in (1, 32):
            cast = Cast(format, "stochastic", stochastic=variant, random_bits=bits, nan=any_nan(format))
            np.testing.assert_array_equal(fp.encode(values, cast, seed=seed), fixed)


# ---- nothing but seed and index --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tensor() -> np.ndarray[Any, Any]:
    return np.random.default_rng(11).standard_normal((64, 96)).astype(np.float32)


def test_layout_does_not_matter(tensor: np.ndarray[Any, Any]) -> None:
    """The index is the one in C order, whatever the memory holds."""
    options: dict[str, Any] = {"rounding": "stochastic", "seed": 5}
    right = fp.encode(tensor, "e4m3", **options)
    spread = np.zeros((128, 192), np.float32)
    spread[::2, ::2] = tensor
    for same in (np.asfortranarray(tensor), spread[::2, ::2], tensor.astype(">f4"), tensor[::-1][::-1]):
        np.testing.assert_array_equal(fp.encode(same, "e4m3", **options), right)
    np.testing.assert_array_equal(fp.encode(tensor.reshape(-1), "e4m3", **options), right.reshape(-1))
    transposed = fp.encode(tensor.T, "e4m3", **options)
    np.testing.assert_array_equal(transposed, fp.encode(np.ascontiguousarray(tensor.T), "e4m3", **options))
    assert not np.array_equal(transposed.T, right), "the transpose is another array: other indices"


def test_offset_continues_a_stream(tensor: np.ndarray[Any, Any]) -> None:
    flat = tensor.reshape(-1)
    right = fp.encode(flat, "e4m3", rounding="stochastic", seed=5)
    for cut in (1, 63, 64, 1000):
        parts = [fp.encode(flat[:cut], "e4m3", rounding="stochastic", seed=5),
                 fp.encode(flat[cut:], "e4m3", rounding="stochastic", seed=5, offset=cut)]  # fmt: skip
        np.testing.assert_array_equal(np.concatenate(parts), right)
    assert not np.array_equal(fp.encode(flat, "e4m3", rounding="stochastic", seed=6), right)
    assert not np.array_equal(fp.encode(flat, "e4m3", rounding="stochastic", seed=5, offset=1), right)


def test_offsets_beyond_32_bits_and_around_the_end() -> None:
    x = np.full(8, 1.0625)
    for offset in (2**32 - 4, 2**40, 2**63, 2**64 - 4):
        bits = fp.encode(x, "e4m3", rounding="stochastic", seed=3, offset=offset) - 0x38
        assert bits.tolist() == [word(3, (offset + i) & MASK) >> 31 for i in range(8)]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float16", "binary15p4se"])
def test_threads_do_not_matter(name: str, threads: None) -> None:
    """Above the size where work is split, with sizes that do not divide evenly."""
    from fpemu.targets.threads import PARALLEL_FROM, set_threads

    x = np.random.default_rng(3).standard_normal(PARALLEL_FROM + 12_347).astype(np.float32)
    results = []
    for count in (1, 2, 3, 4):
        set_threads(count)
        results.append(fp.encode(x, name, rounding="stochastic", seed=8))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    sample = np.random.default_rng(4).integers(0, x.size, 400)
    cast = Cast(name, Rounding.STOCHASTIC)
    right = [reference.encode(x[i], cast, word(8, int(i))) for i in sample]
    np.testing.assert_array_equal(results[0][sample], right)


def test_the_source_type_does_not_matter() -> None:
    """The same values as float16, float32 and float64 meet the same words."""
    x = np.random.default_rng(5).standard_normal(1000).astype(np.float16)
    codes = [fp.encode(x.astype(dtype), "e4m3", rounding="stochastic", seed=1) for dtype in ("f2", "f4", "f8")]
    assert np.array_equal(codes[0], codes[1])
    assert np.array_equal(codes[1], codes[2])


def test_frozen_and_run_time_kernels_agree() -> None:
    from implementations import TABLE

    x = around(FORMATS["e4m3"], "float32")
    for variant in Stochastic:
        cast = Cast("e4m3", "stochastic", stochastic=variant, random_bits=7)
        np.testing.assert_array_equal(TABLE["frozen"](x, cast), TABLE["runtime"](x, cast))


# ---- statistics ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("position", [Fraction(1, 1000), Fraction(1, 3), Fraction(9, 10)])
def test_mean_is_within_five_sigma(position: Fraction) -> None:
    """n draws of probability p: the count of ups lies within 5 sqrt(n p (1 - p)) of n p (a miss in 1.7 million)."""
    n, p = 1_000_000 if JIT else 10_000, float(position)
    ups = int((fp.encode(np.full(n, 1 + p / 8), "e4m3", rounding="stochastic", seed=77) == 0x39).sum())
    assert abs(ups - n * p) <= 5 * math.sqrt(n * p * (1 - p))


def test_neighbouring_words_are_not_correlated() -> None:
    """Lag-1 agreement of top bits within 5 sigma of one half, for neighbouring indices and for neighbouring seeds."""
    n = 200_000 if JIT else 5_000
    x = np.full(n, 1.0625)
    bits = [fp.encode(x, "e4m3", rounding="stochastic", seed=seed) - 0x38 for seed in (0, 1)]
    bound = 5 * math.sqrt(n / 4)
    assert abs(int((bits[0][1:] == bits[0][:-1]).sum()) - (n - 1) / 2) <= bound
    assert abs(int((bits[0] == bits[1]).sum()) - n / 2) <= bound


# ---- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["seed", "offset"])
def test_bad_seeds_and_offsets(name: str) -> None:
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match=f"{name} must be 0 to 2\\*\\*64 - 1, not {wrong}"):
            fp.encode(1.0, "e4m3", rounding="stochastic", **{name: wrong})
    for wrong in (1.0, "1", None, True):
        with pytest.raises(TypeError, match=f"{name} must be an int, not {type(wrong).__name__}"):
            fp.encode(1.0, "e4m3", rounding="stochastic", **{name: wrong})
