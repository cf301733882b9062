"""Is every result of every operation the exact one, rounded once, in every format, rounding and policy?"""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from exact_float64 import exact
from hypothesis import given
from hypothesis import strategies as st
from neighbours import expected, place
from test_stochastic import words

import fpemu as fp
from fpemu import Cast, FloatFormat, NaN, Overflow, Relation, Rounding, Stochastic, Subnormals, reference
from fpemu import reference_arithmetic as definition
from fpemu.targets import host_arithmetic

Array = np.ndarray[Any, Any]

DETERMINISTIC = tuple(rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC)
BINARY = ("add", "subtract", "multiply", "divide")
EIGHT = tuple(name for name, f in fp.FORMATS.items() if f.bits == 8 and not name.startswith("binary"))
SMALL = ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn")
P3109 = tuple(name for name in fp.FORMATS if name.startswith("binary"))
P3109_8 = tuple(name for name in P3109 if fp.FORMATS[name].bits == 8)


def operation(name: str, codes: tuple[Array, ...], cast: Cast, **options: Any) -> Array:
    return np.asarray(getattr(fp, name)(*codes, cast, **options))


def quiet(format: FloatFormat, rounding: Rounding) -> Cast:
    """The default policies; NaN becomes the largest value where there is none."""
    return Cast(format, rounding, nan=NaN.CANONICAL if format.has_nan else NaN.MAX)


def all_codes(format: FloatFormat) -> Array:
    return np.arange(1 << format.bits).astype(format.code_dtype)


def values_of(codes: Array, format: FloatFormat) -> Array:
    return np.asarray(fp.decode(codes, format, dtype=np.float64))


def check(
    name: str, codes: tuple[Array, ...], format: FloatFormat, roundings: tuple[Rounding, ...] = DETERMINISTIC
) -> None:
    """Every result against the exact one between its neighbours."""
    operands = [values_of(code, format) for code in codes]
    placed = {down: place(exact(name, down, *operands).reshape(-1), format) for down in (False, True)}
    for rounding in roundings:
        cast = quiet(format, rounding)
        right = expected(placed[rounding is Rounding.DOWN], cast)
        found = operation(name, codes, cast).reshape(-1)
        wrong = np.flatnonzero(found != right)
        if wrong.size:
            i = wrong[0]
            given_codes = [hex(x.reshape(-1)[i]) for x in np.broadcast_arrays(*codes)]
            pytest.fail(f"{name}{given_codes} {rounding.value}: {found[i]:#x}, not {right[i]:#x}; {wrong.size} wrong")


@pytest.fixture
def specialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops compiled for one operation and rounding, for arrays of any size; otherwise small ones share the general loop."""
    monkeypatch.setattr(host_arithmetic, "SPECIALISE_FROM", 0)


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> None:
    """The general loop for arrays of any size: nothing is compiled for single roundings."""
    monkeypatch.setattr(host_arithmetic, "SPECIALISE_FROM", 1 << 60)


# ---- every pair of every narrow format ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*EIGHT, *SMALL, "binary8p3se", "binary8p5uf"])
def test_all_pairs(name: str) -> None:
    """By the general loop, in 64-bit lanes."""
    format = fp.FORMATS[name]
    codes = all_codes(format)
    for op in BINARY:
        check(op, (codes[:, None], codes), format)
    check("sqrt", (codes,), format)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("float8_e4m3fn", "float8_e5m2fnuz") else [pytest.mark.exhaustive])
        for name in EIGHT
        if name != "float8_e8m0fnu"
    ],
)
def test_all_pairs_by_loops_of_their_own(name: str, specialised: None) -> None:
    """The same in 32-bit lanes."""
    format = fp.FORMATS[name]
    codes = all_codes(format)
    for op in BINARY:
        # (Each rounding of each operation is a compilation, and they share the kernels of rounding.)
        roundings = DETERMINISTIC if op == "add" else (Rounding.NEAREST_EVEN, Rounding.DOWN)
        check(op, (codes[:, None], codes), format, roundings)
    check("sqrt", (codes,), format, (Rounding.NEAREST_EVEN, Rounding.UP))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in P3109_8 if name not in ("binary8p3se", "binary8p5uf")])
def test_all_pairs_of_p3109(name: str) -> None:
    format = fp.FORMATS[name]
    codes = all_codes(format)
    for op in BINARY:
        check(op, (codes[:, None], codes), format)
    check("sqrt", (codes,), format)


def triples(format: FloatFormat) -> tuple[Array, Array, Array]:
    codes = all_codes(format)
    return codes[:, None, None], codes[:, None], codes


@pytest.mark.parametrize("name", [*SMALL, "binary5p2se", "binary6p3uf"])
def test_all_triples(name: str, general: None) -> None:
    format = fp.FORMATS[name]
    check("fma", triples(format), format, DETERMINISTIC if format.bits < 6 or name in SMALL else DETERMINISTIC[:1])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in P3109 if fp.FORMATS[name].bits <= 6])
def test_all_triples_of_p3109(name: str, general: None) -> None:
    check("fma", triples(fp.FORMATS[name]), fp.FORMATS[name])


# ---- wider formats --------------------------------------------------------------------------------------------------
def sample(format: FloatFormat, count: int, seed: int) -> list[Array]:
    """Three arrays of codes: every pair of exponents with random fractions, near cancellation, landmarks, and random ones."""
    rng = np.random.default_rng(seed)
    width = 1 << format.bits
    exponents = 1 << format.exponent_bits
    t = format.trailing_bits
    high, low = np.meshgrid(np.arange(exponents) << t, np.arange(exponents) << t)
    signs = rng.integers(0, 2, (3, high.size)) << (format.bits - 1) if format.signed else np.zeros((3, high.size), int)
    fractions = rng.integers(0, 1 << t, (3, high.size)) & -rng.integers(0, 2, (3, high.size))
    third = rng.integers(0, exponents, high.size) << t
    by_exponent = np.stack([high.reshape(-1), low.reshape(-1), third]) | signs | fractions

    a = rng.integers(0, width, count)
    near = np.stack([a, (a ^ format.sign_mask) + rng.integers(-2, 3, count), a ^ format.sign_mask]) % width
    marks = [0, 1, 2, format.smallest_normal_code, format.max_code, format.max_code + 1, format.magnitude_mask]
    marks += [
        format.smallest_normal_code - 1,
        format.max_code - 1,
        (format.bias << t) % width,
        (format.bias + 1 << t) % width,
    ]
    marks = [m % width | s for m in marks for s in (0, format.sign_mask)]
    some = np.array(list(product(marks, marks, marks))).T
    parts = [by_exponent, near, some, rng.integers(0, width, (3, count))]
    return [np.concatenate(column).astype(format.code_dtype) for column in zip(*parts, strict=True)]


@pytest.mark.parametrize("op", [*BINARY, "sqrt", "fma"])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_samples(name: str, op: str) -> None:
    """All differences of exponents, cancellation, subnormal results, landmarks."""
    format = fp.FORMATS[name]
    codes = sample(format, 4000, 1)
    check(op, tuple(codes[: {"sqrt": 1, "fma": 3}.get(op, 2)]), format)


@pytest.mark.parametrize("op", [*BINARY, "sqrt", "fma"])
def test_samples_by_loops_of_their_own(op: str, specialised: None) -> None:
    for name in ("float16", "bfloat16"):
        codes = sample(fp.FORMATS[name], 4000, 2)[: {"sqrt": 1, "fma": 3}.get(op, 2)]
        check(op, tuple(codes), fp.FORMATS[name], (Rounding.NEAREST_EVEN, Rounding.DOWN))


@pytest.mark.exhaustive
@pytest.mark.parametrize("op", [*BINARY, "fma"])
@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "tfloat32", *[f"binary16p{p}{s}" for p in (9, 14) for s in ("se", "uf")]]
)
def test_many_samples(name: str, op: str) -> None:
    """With the roundings, some twenty million results for each operation of FP16 and BF16."""
    format = fp.FORMATS[name]
    for seed in range(2):
        codes = sample(format, 800_000, 100 + seed)
        check(op, tuple(codes[: 3 if op == "fma" else 2]), format)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["float16", "bfloat16", "tfloat32"])
def test_all_roots(name: str) -> None:
    check("sqrt", (all_codes(fp.FORMATS[name]),), fp.FORMATS[name])


def to_float32(x: Array, rounding: Rounding) -> Array:
    """float64 to float32 in any rounding: NumPy's nearest, put right by a comparison."""
    with np.errstate(all="ignore"):
        nearest = x.astype(np.float32)
        below = np.where(nearest > x, np.nextafter(nearest, np.float32(-np.inf)), nearest)
        above = np.where(nearest < x, np.nextafter(nearest, np.float32(np.inf)), nearest)
    inner, outer = np.where(np.signbit(x), above, below), np.where(np.signbit(x), below, above)
    odd = np.where((inner.view(np.uint32) & 1) | (inner == x), inner, outer)
    with np.errstate(all="ignore"):
        # (Half a spacing beyond the last value, nearest-even is infinite too.)
        tie = np.where(np.abs(x - inner) == np.abs(outer - x), outer, nearest)
    return {
        Rounding.NEAREST_EVEN: nearest,
        Rounding.NEAREST_AWAY: tie,
        Rounding.TOWARD_ZERO: inner,
        Rounding.UP: above,
        Rounding.DOWN: below,
        Rounding.TO_ODD: odd,
    }[rounding]


def check_float32(op: str, operands: list[Array], rounding: Rounding) -> None:
    with np.errstate(all="ignore"):
        wide = [x.astype(np.float64) for x in operands]
        right = to_float32(exact(op, rounding is Rounding.DOWN, *wide), rounding).copy()
    right[np.isnan(right)] = np.nan
    codes = tuple(x.view(np.uint32) for x in operands)
    found = operation(op, codes, Cast("fp32", rounding))
    np.testing.assert_array_equal(found, right.view(np.uint32))


FLOAT32 = [x.view(np.float32) for x in sample(fp.FORMATS["float32"], 100_000, 5)]


@pytest.mark.parametrize("op", [*BINARY, "sqrt", "fma"])
def test_float32(op: str) -> None:
    count = {"sqrt": 1, "fma": 3}.get(op, 2)
    for rounding in DETERMINISTIC:
        check_float32(op, [x[:120_000] for x in FLOAT32[:count]], rounding)


@pytest.mark.parametrize("op", [*BINARY, "sqrt"])
def test_the_machine_agrees_in_float32(op: str, specialised: None) -> None:
    """To nearest even the processor's own operations."""
    operands = FLOAT32[: 1 if op == "sqrt" else 2]
    with np.errstate(all="ignore"):
        right = getattr(np, op)(*operands)
    right[np.isnan(right)] = np.nan
    found = operation(op, tuple(x.view(np.uint32) for x in operands), Cast("float32"))
    np.testing.assert_array_equal(found, right.view(np.uint32))


@pytest.mark.parametrize("op", [*BINARY, "sqrt"])
def test_float16_by_float32(op: str) -> None:
    """Figueroa 1995: for + - * / sqrt, 24 >= 2 * 11 + 2 bits rounded to nearest may be rounded to nearest once more."""
    codes = sample(fp.FORMATS["float16"], 50_000, 9)[: 1 if op == "sqrt" else 2]
    with np.errstate(all="ignore"):
        right = getattr(np, op)(*(x.view(np.float16).astype(np.float32) for x in codes)).astype(np.float16)
    right[np.isnan(right)] = np.nan
    np.testing.assert_array_equal(operation(op, tuple(codes), Cast("float16")), right.view(np.uint16))


# ---- the definition -------------------------------------------------------------------------------------------------
HAND = [
    # operation, operands, rounding, result (all exact values of the format are written as floats)
    ("add", (1.0, 2.0**-11), "nearest-even", 1.0),  # a tie
    ("add", (1.0, 2.0**-11), "nearest-away", 1.0 + 2.0**-10),
    ("add", (1.0, 2.0**-24), "up", 1.0 + 2.0**-10),
    ("subtract", (1.0, 2.0**-24), "toward-zero", 1.0 - 2.0**-11),
    ("subtract", (1.0, 2.0**-24), "nearest-even", 1.0),
    ("add", (65504.0, 16.0), "nearest-even", np.inf),  # half a spacing beyond: IEEE 754, 4.3.1
    ("add", (65504.0, 16.0), "toward-zero", 65504.0),
    ("multiply", (2.0**-14, 2.0**-11), "nearest-even", 0.0),  # half the smallest subnormal: even
    ("multiply", (2.0**-14, -(2.0**-11)), "nearest-even", -0.0),
    ("multiply", (2.0**-14, -(2.0**-11)), "down", -(2.0**-24)),
    ("divide", (1.0, 3.0), "nearest-even", 0.333251953125),
    ("divide", (-1.0, 0.0), "nearest-even", -np.inf),
    ("divide", (0.0, -0.0), "nearest-even", np.nan),
    ("sqrt", (-0.0,), "nearest-even", -0.0),
    ("sqrt", (2.0,), "up", 1.4150390625),
    ("sqrt", (-1.0,), "nearest-even", np.nan),
    ("fma", (1.0 + 2.0**-10, 1.0 - 2.0**-10, -1.0), "nearest-even", -(2.0**-20)),  # the product alone would be 1
    ("fma", (0.0, np.inf, np.nan), "nearest-even", np.nan),
    ("fma", (65504.0, 2.0, -np.inf), "nearest-even", -np.inf),
    ("add", (1.0, -1.0), "nearest-even", 0.0),  # 6.3
    ("add", (1.0, -1.0), "down", -0.0),
    ("add", (-0.0, -0.0), "up", -0.0),
    ("add", (-0.0, 0.0), "down", -0.0),
    ("add", (0.0, 0.0), "down", 0.0),
    ("subtract", (0.0, 0.0), "nearest-even", 0.0),
    ("subtract", (-0.0, 0.0), "nearest-even", -0.0),
    ("fma", (1.0, 1.0, -1.0), "down", -0.0),
    ("fma", (-0.0, 1.0, -0.0), "nearest-even", -0.0),
    ("subtract", (np.inf, np.inf), "nearest-even", np.nan),
    ("multiply", (np.inf, -0.0), "nearest-even", np.nan),
    ("minimum", (0.0, -0.0), "nearest-even", -0.0),  # 9.6
    ("maximum", (-0.0, 0.0), "nearest-even", 0.0),
    ("minimum", (1.0, np.nan), "nearest-even", np.nan),
    ("minimum_number", (1.0, np.nan), "nearest-even", 1.0),
    ("maximum_number", (np.nan, -np.inf), "nearest-even", -np.inf),
    ("maximum_number", (np.nan, np.nan), "nearest-even", np.nan),
]


@pytest.mark.nojit
@pytest.mark.parametrize(("op", "operands", "rounding", "right"), HAND)
def test_by_hand(op: str, operands: tuple[float, ...], rounding: str, right: float) -> None:
    codes = [int(fp.encode(x, "fp16")) for x in operands]
    code = int(fp.encode(right, "fp16"))
    assert hex(definition.operate(op, codes, Cast("fp16", rounding))) == hex(code)
    assert hex(getattr(fp, op)(*codes, "fp16", rounding=rounding)) == hex(code)
    value = getattr(fp, op)(*operands, "fp16", rounding=rounding)
    assert np.asarray(value, np.float64).tobytes() == np.float64(right).tobytes() or (
        np.isnan(value) and np.isnan(right)
    )


STICKY = [
    ("add", (1.0, 2.0**-126), "bf16", "up", 1 + 2.0**-7),
    ("subtract", (1.0, 2.0**-149), "fp32", "toward-zero", 1 - 2.0**-24),
    ("fma", (2.0**-80, 2.0**-80, 1.0), "fp32", "up", 1 + 2.0**-23),
    ("divide", (1.0, 1 - 2.0**-24), "fp32", "nearest-even", 1 + 2.0**-23),  # 1 + 2**-24 + 2**-48 + ...
]


@pytest.mark.nojit
@pytest.mark.parametrize(("op", "operands", "name", "rounding", "right"), STICKY)
def test_bits_far_below_decide(op: str, operands: tuple[float, ...], name: str, rounding: str, right: float) -> None:
    """What is far below a spacing, or a midpoint, is not forgotten."""
    assert getattr(fp, op)(*operands, name, rounding=rounding) == right


def test_the_definition_and_the_machine_agree() -> None:
    rng = np.random.default_rng(3)
    codes = [x[rng.integers(0, x.size, 400)] for x in sample(fp.FORMATS["float32"], 100, 3)]
    for op in (*BINARY, "sqrt"):
        some = codes[: 1 if op == "sqrt" else 2]
        with np.errstate(all="ignore"):
            right = getattr(np, op)(*(x.view(np.float32) for x in some))
        right[np.isnan(right)] = np.nan
        found = [definition.operate(op, [int(c) for c in one], "float32") for one in zip(*some, strict=True)]
        assert found == right.view(np.uint32).tolist()


# ---- policies, against the definition -------------------------------------------------------------------------------
FORMATS = [
    "e4m3",
    "e5m2",
    "float8_e5m2fnuz",
    "e8m0",
    "e2m1",
    "fp16",
    "bf16",
    "binary6p1se",
    "binary7p3ue",
    "binary8p8uf",
    "binary8p1se",
]
OPERATIONS = {
    "add": 2, "subtract": 2, "multiply": 2, "divide": 2, "sqrt": 1, "fma": 3,
    "minimum": 2, "maximum": 2, "minimum_number": 2, "maximum_number": 2,
}  # fmt: skip
CASTS = [
    *[{"overflow": overflow, "rounding": r} for overflow in Overflow for r in (Rounding.NEAREST_EVEN, Rounding.UP, Rounding.TO_ODD)],
    *[{"subnormals": s, "rounding": r} for s in Subnormals if s is not Subnormals.KEEP for r in DETERMINISTIC],
    *[{"nan": nan} for nan in NaN if nan not in (NaN.RAISE, NaN.CANONICAL)],
]  # fmt: skip


def check_by_definition(
    op: str, cast: Cast, sources: tuple[FloatFormat, ...], count: int, seed: int = 0, random_words: bool = False
) -> None:
    rng = np.random.default_rng(seed)
    landmarks = [0, 1, 2, 3]
    codes = []
    for source in sources:
        drawn = rng.integers(0, 1 << source.bits, count)
        marks = [
            *landmarks,
            source.max_code,
            source.magnitude_mask,
            source.smallest_normal_code,
            (1 << source.bits) - 1,
        ]
        marked = rng.choice([m % (1 << source.bits) for m in marks], count) | rng.choice([0, source.sign_mask], count)
        codes.append(np.where(rng.random(count) < 0.3, marked, drawn).astype(source.code_dtype))
    word_of = words(seed, range(count), cast.random_bits) if random_words else [None] * count
    found = operation(op, tuple(codes), cast, source=sources, seed=seed)
    right = [
        definition.operate(op, [int(c) for c in one], cast, sources=sources, random_word=word)
        for one, word in zip(zip(*codes, strict=True), word_of, strict=True)
    ]
    wrong = [i for i in range(count) if int(found[i]) != right[i]]
    assert not wrong, (op, str(cast), [hex(x[wrong[0]]) for x in codes], hex(found[wrong[0]]), hex(right[wrong[0]]))


@pytest.mark.parametrize("name", FORMATS)
def test_policies(name: str) -> None:
    format = fp.FORMATS[name]
    for seed, (policies, (op, count)) in enumerate(product(CASTS, OPERATIONS.items())):
        if "nan" not in policies and not format.has_nan:
            policies = {**policies, "nan": NaN.ZERO}
        cast = Cast(format, **policies)
        if cast.raises_on_nan:
            continue
        check_by_definition(op, cast, (format,) * count, 12, seed)


MIXED = [
    ("fp16", ("e4m3", "e5m2", "bf16")),
    ("e4m3", ("fp32", "fp16", "e8m0")),
    ("fp32", ("fp16", "e8m0", "float8_e5m2fnuz")),
    ("bf16", ("binary16p1se", "binary12p3uf", "tf32")),
    ("binary8p4uf", ("fp16", "bf16", "e2m1")),
    ("e8m0", ("fp32", "e2m3", "e5m2")),
]


@pytest.mark.parametrize(("target", "sources"), MIXED)
def test_operands_of_other_formats(target: str, sources: tuple[str, ...]) -> None:
    formats = tuple(fp.FORMATS[name] for name in sources)
    for (op, count), rounding in product(OPERATIONS.items(), DETERMINISTIC):
        check_by_definition(op, Cast(target, rounding), formats[:count], 60, 7)
        check_by_definition(op, Cast(target, rounding, subnormals="flush-input"), formats[:count], 20, 8)


@pytest.mark.parametrize("via", ["fp32", "bf16", Cast("e5m2", "down", "saturate")])
def test_intermediate_format(via: Any) -> None:
    for op, count in OPERATIONS.items():
        check_by_definition(op, Cast("e4m3", via=via), (fp.FORMATS["fp16"],) * count, 100, 2)


#: Formats at the limits: the longest significand, the widest exponents, and others that take 64-bit lanes.
LIMITS = [
    FloatFormat("p31", bits=32, precision=31, bias=0),
    FloatFormat("p31u", bits=32, precision=31, bias=1, signed=False, high_nans=1, infinities=True),
    FloatFormat("p16", bits=20, precision=16, bias=7, infinities=True, high_nans=3),
    FloatFormat("p15", bits=16, precision=15, bias=0, infinities=True, high_nans=3),
    FloatFormat.ieee(11, 20, "e11m20"),
    FloatFormat("wide", bits=14, precision=1, bias=2**12, high_nans=1),
]


@pytest.mark.parametrize("format", LIMITS, ids=str)
def test_limits(format: FloatFormat) -> None:
    for (op, count), rounding in product(OPERATIONS.items(), DETERMINISTIC):
        cast = Cast(format, rounding, nan=NaN.CANONICAL if format.has_nan else NaN.MAX)
        check_by_definition(op, cast, (format,) * count, 60, 3)


@pytest.mark.parametrize("bias", [-(2**31), -(2**19), 2**20, 2**31])
def test_the_bias_scales(bias: int) -> None:
    """A power of two taken out of every value of an addition changes no code, however far out it is."""
    usual = fp.FORMATS["float16"]
    far = FloatFormat.ieee(5, 10, "far", bias=bias)
    a, b, _ = sample(usual, 1000, 4)
    for rounding in DETERMINISTIC:
        for op in ("add", "subtract", "minimum"):
            np.testing.assert_array_equal(
                operation(op, (a, b), Cast(far, rounding)), operation(op, (a, b), Cast(usual, rounding))
            )
        # Products and quotients move by the bias: with one operand of the usual bias they do not.
        for op in ("multiply", "divide"):
            found = operation(op, (a, b), Cast(far, rounding), source=(far, usual))
            np.testing.assert_array_equal(found, operation(op, (a, b), Cast(usual, rounding)))
    # And the other way the results are far beyond, or far below, everything.
    one = np.array([0x3C00], np.uint16)
    product_code = int(fp.multiply(one, one, usual, source=far)[0])
    assert product_code == (0x7C00 if bias < 0 else 0)
    assert int(fp.multiply(one, one, usual, source=far, rounding="up")[0]) == (0x7C00 if bias < 0 else 1)


# ---- stochastic -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", Stochastic)
@pytest.mark.parametrize("random_bits", [1, 8, 32])
def test_stochastic(variant: Stochastic, random_bits: int) -> None:
    for name in ("e4m3", "fp16", "fp32", "e8m0", "e2m1", "binary8p1se"):
        format = fp.FORMATS[name]
        for seed, (op, count) in enumerate(OPERATIONS.items()):
            nan = NaN.CANONICAL if format.has_nan else NaN.MAX
            cast = Cast(format, "stochastic", random_bits=random_bits, stochastic=variant, nan=nan)
            check_by_definition(op, cast, (format,) * count, 60, seed, random_words=True)


def test_stochastic_words_meet_every_bit() -> None:
    """Quotients and roots have more bits than a product: all 32 random ones, in the widest format that takes them."""
    format = FloatFormat.ieee(5, 25, "e5m25")
    for op in ("divide", "sqrt", "add", "fma"):
        check_by_definition(op, Cast(format, "stochastic"), (format,) * OPERATIONS[op], 400, 11, random_words=True)
    # One third of a spacing beyond 1: 2**32 / 3 words of 2**32 take it up, and the threshold is between two words.
    third = fp.divide(np.full(1 << 16, 0x3C00, np.uint16), 0x4200, "bf16", source="fp16", rounding="stochastic", seed=4)
    position = Fraction(1, 3) * 2**9 % 1
    word = np.array(words(4, range(1 << 16)))
    np.testing.assert_array_equal(third == third.max(), word + int(position * 2**32) >= 2**32)


KNOWN = "0x3555 0x3555 0x3556 0x3555 0x3555 0x3556 0x3555 0x3556"  # frozen: one third of seed 0


def test_known_stochastic_codes() -> None:
    found = fp.divide(np.full(8, 0x3C00, np.uint16), 0x4200, "fp16", rounding="stochastic")
    assert " ".join(map(hex, found)) == KNOWN
    later = fp.divide(np.full(5, 0x3C00, np.uint16), 0x4200, "fp16", rounding="stochastic", offset=3)
    np.testing.assert_array_equal(later, found[3:])


def test_too_many_random_bits() -> None:
    format = FloatFormat.ieee(3, 28, "e3m28")
    with pytest.raises(ValueError, match="at most 29 random bits, not 32"):
        fp.add(np.zeros(1, np.uint32), np.zeros(1, np.uint32), format, rounding="stochastic")
    assert fp.add(np.zeros(1, np.uint32), np.zeros(1, np.uint32), format, rounding="stochastic", random_bits=29).size


# ---- signs and comparison -------------------------------------------------------------------------------------------
@pytest.mark.nojit
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "float8_e5m2fnuz", "e2m1", "binary6p3se"])
def test_signs_are_bits(name: str) -> None:
    """IEEE 754-2019, 5.5.1: "only affecting the sign bit", of NaN too; where the sign bit alone is NaN, it stays so."""
    format = fp.FORMATS[name]
    codes = all_codes(format)
    negated, absolute = fp.negate(codes, format), fp.abs(codes, format)
    for code, n, a in zip(codes.tolist(), negated.tolist(), absolute.tolist(), strict=True):
        lone = not format.negative_zero and code & ~format.sign_mask == 0
        assert n == (code if lone else code ^ format.sign_mask)
        assert a == (code if lone else code & ~format.sign_mask)
    np.testing.assert_array_equal(fp.negate(negated, format), codes)


def test_signs_where_a_rounding_is_needed() -> None:
    for op in ("negate", "absolute"):
        for target, source in (("e8m0", "fp16"), ("binary8p4ue", "binary8p4ue"), ("e4m3", "fp32"), ("bf16", "e5m2")):
            check_by_definition(op, Cast(target), (fp.FORMATS[source],), 200, 5)
    assert fp.negate([1.0, 0.0], "binary8p4ue", overflow="saturate").tolist() == [0.0, 0.0]


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("first", "second"), [("e4m3", "e4m3"), ("e5m2", "float8_e4m3fnuz"), ("e8m0", "e2m3"), ("binary6p1se", "e3m2")]
)
def test_compare(first: str, second: str) -> None:
    a, b = (all_codes(fp.FORMATS[name])[::3] for name in (first, second))
    found = fp.compare(a[:, None], b, first, source=(first, second))
    assert found.dtype == np.int8
    right = [[definition.compare(reference.value(x, first), reference.value(y, second)) for y in b] for x in a]
    assert found.tolist() == right
    assert Relation(found[0, 0]) in Relation


def test_compare_flushes() -> None:
    assert fp.compare(np.uint16(1), np.uint16(0x8001), "fp16") == Relation.GREATER
    assert fp.compare(np.uint16(1), np.uint16(0x8001), "fp16", subnormals="flush-input") == Relation.EQUAL


# ---- operands -------------------------------------------------------------------------------------------------------
def test_codes_and_values() -> None:
    codes = np.array([0x3C00, 0x4000], np.uint16)
    assert fp.add(codes, codes, "fp16").dtype == np.uint16
    assert fp.add(codes, 1.0, "fp16").tolist() == [0x4000, 0x4200]  # one operand is codes: so is the result
    assert fp.add(codes, 0x3C00, "fp16").tolist() == [0x4000, 0x4200]  # an int is a code
    assert fp.add(np.float32([1.0]), [2.0], "fp16").dtype == np.float64  # lists are float64, as for quantize
    assert fp.add(np.float32([1.0]), 2.0, "fp16").dtype == np.float32
    assert fp.add(np.float16([1.0]), np.float32([2.0]), "fp16").dtype == np.float32
    assert fp.add(1.0, 2.0, "fp16") == 3.0
    # Values are rounded to the operand's format first: 1 + 2**-9 is 1 in E4M3.
    assert fp.add([1 + 2**-9], [2.0**-9], "fp32", source="e4m3").tolist() == [1 + 2**-9]
    assert fp.add([1e6], [-1e6], "e4m3", overflow="saturate").tolist() == [0.0]
    assert np.isnan(fp.add([1e6], [-1e6], "e4m3")).all()


def test_ml_dtypes_bring_their_format() -> None:
    a = np.array([1.0, 2.0, 448.0], ml_dtypes.float8_e4m3fn)
    b = np.array([1.0, 0.25, 57344.0], ml_dtypes.float8_e5m2)
    found = fp.multiply(a, b, "fp32")
    assert found.view(np.float32).tolist() == [1.0, 0.5, 448.0 * 57344.0]
    with pytest.raises(ValueError, match="holds codes of float8_e4m3fn, not of float16"):
        fp.multiply(a, b, "fp32", source="fp16")


def layouts(x: Array) -> list[Array]:
    strided = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
    strided[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    return [x, np.asfortranarray(x), strided, x.astype(x.dtype.newbyteorder()), read_only, x[::-1].copy()[::-1]]


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
def test_layout_threads_and_broadcasting_do_not_matter(rounding: str, threads: None) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 1 << 16, (7, 5, 4099)).astype(np.uint16)
    b = rng.integers(0, 1 << 16, (5, 1)).astype(np.uint16)
    fp.set_threads(1)
    right = fp.add(a, np.broadcast_to(b, a.shape).copy(), "fp16", rounding=rounding, seed=3)
    for count in (1, 3):
        fp.set_threads(count)
        for x, y in product(layouts(a), layouts(b)):
            np.testing.assert_array_equal(fp.add(x, y, "fp16", rounding=rounding, seed=3), right)
    out = np.zeros((5, 4099, 7), np.uint16).transpose(2, 0, 1)
    assert fp.add(a, b, "fp16", rounding=rounding, seed=3, out=out) is out
    np.testing.assert_array_equal(out, right)


def test_in_place_and_overlapping() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(0, 1 << 16, 40_000).astype(np.uint16)
    right = fp.multiply(a[1:], a[:-1], "bf16")
    again = a.copy()
    fp.multiply(again[1:], again[:-1], "bf16", out=again[1:])
    np.testing.assert_array_equal(again[1:], right)
    again = a.copy()
    assert fp.add(again, again, "bf16", out=again) is again
    np.testing.assert_array_equal(again, fp.add(a, a, "bf16"))


def test_shapes() -> None:
    assert fp.add(np.zeros((0, 3)), 1.0, "fp16").shape == (0, 3)
    assert fp.sqrt(np.zeros((), np.uint16), "fp16") == 0
    assert fp.fma(np.ones((3, 1)), np.ones(4), np.ones((2, 1, 1)), "fp16").shape == (2, 3, 4)
    with pytest.raises(ValueError, match="broadcast"):
        fp.add(np.ones(3), np.ones(4), "fp16")


def test_bad_input() -> None:
    one = np.ones(2, np.uint8)
    with pytest.raises(ValueError, match="unknown format"):
        fp.add(one, one, "e9m9")
    with pytest.raises(ValueError, match="has codes 0 to 0xf; found"):
        fp.add(one, np.array([16, 17]), "e2m1")
    with pytest.raises(TypeError, match="complex"):
        fp.add(one, np.ones(2, complex), "e4m3")
    with pytest.raises(TypeError, match="bool"):
        fp.add(one, True, "e4m3")
    with pytest.raises(ValueError, match="one format or 2, one for each operand, not 3"):
        fp.add(one, one, "e4m3", source=("e4m3", "e4m3", "e4m3"))
    with pytest.raises(TypeError, match="source must be"):
        fp.add(one, one, "e4m3", source=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="out must have dtype uint8, not float32"):
        fp.add(one, one, "e4m3", out=np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"out must have shape \(2,\), not \(3,\)"):
        fp.add(one, one, "e4m3", out=np.ones(3, np.uint8))
    with pytest.raises(TypeError, match="seed must be an int"):
        fp.add(one, one, "e4m3", seed=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"via": "fp16"}, {"nan": "raise"}])
def test_an_invalid_result_without_nan_is_refused(options: dict[str, Any]) -> None:
    a, b = np.array([[1.0, 2.0], [0.0, 3.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    out = np.full((2, 2), 7.0)
    with pytest.raises(ValueError, match=r"NaN at index \(1, 0\) cannot become float4_e2m1fn"):
        fp.divide(a, b, "e2m1", out=out, **options)
    assert (out == 7.0).all()
    assert fp.divide(a, b, "e2m1", nan="zero").tolist() == [[1.0, 2.0], [0.0, 6.0]]


def test_an_intermediate_without_nan_refuses() -> None:
    with pytest.raises(ValueError, match="NaN at index 1 cannot become float4_e2m1fn"):
        fp.divide([1.0, 0.0], [1.0, 0.0], "fp16", via="e2m1")


# ---- laws -----------------------------------------------------------------------------------------------------------
CODES16 = st.integers(0, 0xFFFF)
ROUNDINGS = st.sampled_from(DETERMINISTIC)
NAMES16 = st.sampled_from(["float16", "bfloat16", "binary16p9se", "binary16p12ue"])


def run(op: str, rounding: Rounding, name: str, *codes: int) -> int:
    return int(getattr(fp, op)(*(np.uint16(code) for code in codes), name, rounding=rounding))


@given(CODES16, CODES16, ROUNDINGS, NAMES16)
def test_addition_and_multiplication_commute(a: int, b: int, rounding: Rounding, name: str) -> None:
    for op in ("add", "multiply", "minimum", "maximum"):
        assert run(op, rounding, name, a, b) == run(op, rounding, name, b, a)


@given(CODES16, CODES16, NAMES16)
def test_directed_results_bracket_the_others(a: int, b: int, name: str) -> None:
    for op in BINARY:
        down, up = (reference.value(run(op, r, name, a, b), name) for r in (Rounding.DOWN, Rounding.UP))
        for rounding in DETERMINISTIC:
            found = reference.value(run(op, rounding, name, a, b), name)
            assert found != found or down <= found <= up or not fp.FORMATS[name].signed


@given(CODES16, CODES16, CODES16, ROUNDINGS)
def test_addition_is_monotone(a: int, b: int, c: int, rounding: Rounding) -> None:
    low, high = sorted((a & 0x7BFF, b & 0x7BFF))
    sums = [reference.value(run("add", rounding, "float16", x, c), "float16") for x in (low, high)]
    assert sums[0] != sums[0] or sums[0] <= sums[1]


@given(CODES16, CODES16, ROUNDINGS)
def test_an_exact_sum_is_the_same_in_every_rounding(a: int, b: int, rounding: Rounding) -> None:
    """Sterbenz: of numbers within a factor of two the difference is exact."""
    x, y = reference.value(a & 0x7BFF, "float16"), reference.value(b & 0x7BFF, "float16")
    found = run("subtract", rounding, "float16", a & 0x7BFF, b & 0x7BFF)
    if y <= 2 * x and x <= 2 * y:
        assert reference.value(found, "float16") == x - y


@given(CODES16, ROUNDINGS, NAMES16)
def test_neutral_elements(a: int, rounding: Rounding, name: str) -> None:
    one = int(fp.encode(1.0, name))
    x = reference.value(a, name)
    if x == x:
        assert run("multiply", rounding, name, a, one) == a
        assert run("divide", rounding, name, a, one) == a
        assert reference.value(run("add", rounding, name, a, 0), name) == x
