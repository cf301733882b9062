"""Do conversions and arithmetic of P3109 formats give what the tables of the report v4.0 say (``p3109_report.py``)?"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import numpy as np
import p3109_report as report
import pytest
from implementations import JIT
from p3109_report import OPERATIONS, ROUNDINGS, SATURATIONS, STOCHASTIC, Binary, Datum
from test_stochastic import words

import fpemu as fp
from fpemu import Cast, FloatFormat, reference
from fpemu import reference_arithmetic as definition
from fpemu.targets import host_arithmetic

Array = np.ndarray[Any, Any]

MORE = {
    **{op: (exact, 2) for op, exact in report.EXTREMES.items()},
    **{op: (exact, 1) for op, exact in report.SIGNS.items()},
}
BITS, SEED = 3, 17  # random bits of stochastic rounding; few, so that thresholds are met
MODES = (*ROUNDINGS, *STOCHASTIC)
FEW = (*ROUNDINGS, "StochasticB")


def ours(f: Binary) -> FloatFormat:
    return FloatFormat.p3109(f.K, f.P, f.signed, f.extended)


def cast_of(f: Binary, mode: str, saturation: str) -> Cast:
    """The library's words for a projection."""
    if mode in STOCHASTIC:
        how: dict[str, Any] = {"rounding": "stochastic", "stochastic": mode[-1], "random_bits": BITS}
    else:
        how = {"rounding": ROUNDINGS[mode]}
    return Cast(ours(f), overflow=SATURATIONS[saturation], **how)


def inputs(f: Binary) -> list[Datum]:
    """All values, quarters of every gap and a place next to its middle, on to far beyond; of both signs; the specials."""
    _, hi = report.extremes(f)
    values = sorted({X for X in report.decoded(f) if isinstance(X, Fraction) and X >= 0})
    gap = values[-1] - values[-2]
    values += [values[-1] + gap, values[-1] + 2 * gap]
    near = Fraction(1, 2) - Fraction(1, 64)
    steps = [
        a + (b - a) * part for a, b in pairwise(values) for part in (0, Fraction(1, 4), near, Fraction(1, 2), 1 - near)
    ]
    points = [*steps, values[1] * Fraction(1, 32), hi * 4, hi * Fraction(33, 32)]
    return [*points, *(-X for X in points if X), report.INF, -report.INF, report.NAN]


def random_words(count: int) -> list[int]:
    return words(SEED, range(count), BITS)


def floats(data: list[Datum]) -> Array:
    return np.array([reference.as_float(X) for X in data])


def differ(found: Array, right: list[int]) -> list[int]:
    return np.flatnonzero(found.astype(np.int64) != np.array(right, np.int64)).tolist()


# ---- conversions --------------------------------------------------------------------------------------------------------
WIDTHS = [  # K, and which of their numbers: every so many
    pytest.param((3, 4, 5, 6), 1 if JIT else 3, id="K3-6"),
    pytest.param((7, 8), 7, id="K7-8", marks=[] if JIT else pytest.mark.skip(reason="takes minutes")),
    pytest.param((7, 8), 1, id="K7-8 whole", marks=pytest.mark.exhaustive),
]


@pytest.mark.nojit
@pytest.mark.parametrize(("widths", "every"), WIDTHS)
def test_every_value_and_gap_of_small_formats(widths: tuple[int, ...], every: int) -> None:
    """All P, signed and unsigned, finite and extended; every rounding and saturation."""
    for f in report.family(*widths):
        numbers, specials = inputs(f)[:-3], inputs(f)[-3:]
        data = [*numbers[::every], *specials]
        x, drawn = floats(data), random_words(len(data))
        for mode in MODES if f.K < 8 else FEW:
            rounded = [report.round_to_precision(f, mode, X, BITS, R) for X, R in zip(data, drawn, strict=True)]
            for saturation in SATURATIONS:
                right = [report.encode(f, report.saturate(f, saturation, mode, X)) for X in rounded]
                found = fp.encode(x, cast_of(f, mode, saturation), seed=SEED)
                wrong = differ(found, right)
                assert not wrong, (f.name, mode, saturation, [(x[i], int(found[i]), right[i]) for i in wrong[:3]])


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_says_the_same(mode: str) -> None:
    for f, saturation in product(report.family(3, 4), SATURATIONS):
        cast, data = cast_of(f, mode, saturation), inputs(f)
        for X, R in zip(data, random_words(len(data)), strict=True):
            right = report.project(f, mode, saturation, X, BITS, R)
            word = R if mode in STOCHASTIC else None
            assert reference.encode(X, cast, word) == right, (f.name, mode, saturation, X)


# Wider and longer formats than the family of the catalogue, too wide for float64 among them: by the reference.
@pytest.mark.parametrize("f", [Binary(12, 3, True, False), Binary(16, 1, False, True), Binary(24, 9, False, False),
                               Binary(32, 20, True, True), Binary(32, 31, False, True)], ids=lambda f: f.name)  # fmt: skip
def test_wide_formats(f: Binary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values next to zero, to one and to the ends, of which the report's code points are found by their places."""
    half = 1 << (f.K - 1)
    top = (half if f.signed else 2 * half - 1) - 1 - f.extended
    at = [*range(3), (f.B << (f.P - 1)), *range(top - 2, top + 1)]
    values = {report._decode(f, x): x for x in at}
    lo = -report._decode(f, top) if f.signed else Fraction(0)
    monkeypatch.setattr(report, "extremes", lambda f: (lo, report._decode(f, top)))
    values |= {-X: x | half for X, x in values.items() if f.signed and X}
    values |= {report.INF: top + 1, -report.INF: top + 1 | half} if f.extended else {}
    monkeypatch.setattr(report, "codes_of", lambda f: values)
    points = [X for X in values if isinstance(X, Fraction)]
    ends = [report._decode(f, top) * 2, report._decode(f, 1) / 2]
    beyond = report._decode(f, top) * 2 - report._decode(f, top - 1)
    data = [*points, *ends, *(-X for X in (*points, *ends)), beyond, -beyond, report.INF, -report.INF, report.NAN]
    for mode, saturation in product(ROUNDINGS, SATURATIONS):
        for X in data:
            right = report.project(f, mode, saturation, X)
            assert reference.encode(X, cast_of(f, mode, saturation)) == right, (mode, saturation, X)


def test_codes_to_codes() -> None:
    """From every small format to every other: sources with infinities to targets without, signed to unsigned."""
    for source, target in product(report.family(4), report.family(3, 4)):
        codes = np.arange(1 << source.K).astype(np.uint8)
        mode = MODES[(source.P + target.K + target.P + source.signed + 3 * target.extended) % len(MODES)]
        drawn = random_words(codes.size)
        for saturation in SATURATIONS:
            right = [
                report.project(target, mode, saturation, X, BITS, R)
                for X, R in zip(report.decoded(source), drawn, strict=True)
            ]
            found = fp.cast(codes, source=ours(source), target=cast_of(target, mode, saturation), seed=SEED)
            assert not differ(found, right), (source.name, target.name, mode, saturation)


def test_what_the_tables_say_in_a_few_numbers() -> None:
    """Infinities into finite formats, negatives into unsigned ones, and the modes of which older reports said otherwise."""
    x = np.array([np.inf, -np.inf, 1e9, -1e9, np.nan])
    cases = {
        ("binary8p4sf", "nearest-even", "p3109-propagate"): [240, -240, 240, -240, np.nan],
        ("binary8p4uf", "nearest-even", "p3109-propagate"): [57344, 0, 57344, 0, np.nan],
        ("binary8p4ue", "up", "p3109-propagate"): [np.inf, 0, 53248, 0, np.nan],
        ("binary8p4se", "nearest-even", "p3109-propagate"): [np.inf, -np.inf, 224, -224, np.nan],
        ("binary8p4sf", "nearest-even", "propagate"): [np.nan, np.nan, 240, -240, np.nan],  # what it always was
        ("binary8p4ue", "nearest-even", "p3109"): [np.inf, np.nan, np.inf, np.nan, np.nan],
        ("binary8p4ue", "toward-zero", "p3109"): [np.inf, np.nan, 53248, 0, np.nan],
        ("binary8p4ue", "up", "p3109"): [np.inf, np.nan, np.inf, 0, np.nan],
        ("binary8p4ue", "down", "p3109"): [np.inf, np.nan, 53248, np.nan, np.nan],
        ("binary8p4ue", "to-odd", "p3109"): [np.inf, np.nan, 53248, np.nan, np.nan],
        ("binary8p4ue", "toward-zero", "ieee"): [np.inf, np.nan, 53248, np.nan, np.nan],
    }
    for (name, rounding, overflow), right in cases.items():
        cast = Cast(name, rounding, overflow)
        np.testing.assert_array_equal(fp.quantize(x, cast), right, err_msg=f"{cast}")
    assert fp.subtract(1.0, 2.0, "binary8p4ue", rounding="toward-zero", overflow="p3109") == 0
    assert np.isnan(fp.subtract(1.0, 2.0, "binary8p4ue", overflow="p3109"))


# ---- arithmetic ---------------------------------------------------------------------------------------------------------
def check(
    op: str, sources: tuple[Binary, ...], target: Binary, modes: tuple[str, ...] = MODES, codes: Any = None
) -> None:
    """An operation on all codes of its operands (or on those given)."""
    exact, count = {**OPERATIONS, **MORE}[op]
    if codes is None:
        codes = np.meshgrid(*(np.arange(1 << f.K) for f in sources[:count]), indexing="ij")
    codes = [one.reshape(-1).astype(np.uint8) for one in codes]
    of = [report.decoded(f) for f in sources]
    data = [exact(*(of[k][code] for k, code in enumerate(each))) for each in zip(*codes, strict=True)]
    drawn = random_words(len(data))
    more = {"by_zero": "nan"} if op == "divide" else {}
    for mode in modes:
        rounded = [report.round_to_precision(target, mode, X, BITS, R) for X, R in zip(data, drawn, strict=True)]
        for saturation in SATURATIONS:
            right = [report.encode(target, report.saturate(target, saturation, mode, X)) for X in rounded]
            cast = cast_of(target, mode, saturation)
            found = getattr(fp, op)(*codes, cast, source=[ours(f) for f in sources[:count]], seed=SEED, **more)
            wrong = differ(found, right)
            assert not wrong, (
                op,
                cast,
                [f.name for f in sources],
                [(*(int(c[i]) for c in codes), int(found[i]), right[i]) for i in wrong[:3]],
            )


@pytest.mark.parametrize("op", [op for op, (_, count) in OPERATIONS.items() if count == 2])
def test_all_pairs_of_small_formats(op: str) -> None:
    for f in report.family(3, 4, 5):
        check(op, (f, f), f)


def test_division_in_a_loop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large arrays are divided, in 32-bit lanes."""
    monkeypatch.setattr(host_arithmetic, "SPECIALISE_FROM", 0)
    for f in (Binary(5, 3, True, True), Binary(6, 2, False, False)):
        check("divide", (f, f), f, ("NearestTiesToEven",))


@pytest.mark.parametrize("op", report.EXTREMES)
def test_extremes(op: str) -> None:
    """In the format of the operands and, rounded, in a narrower one of the other sign."""
    for f, target in zip(report.family(4), report.family(3) + report.family(3)[:4], strict=True):
        check(op, (f, f), f, ("NearestTiesToEven",))
        check(op, (f, f), target)


def test_signs() -> None:
    """Where the operand has another format, or the result no sign, Negate and Abs project."""
    for f in report.family(3, 4, 5):
        for op in report.SIGNS:
            if f != Binary(5, 2, True, True):
                check(op, (Binary(5, 2, True, True),), f)
            if not f.signed:
                check(op, (f,), f)
    # In a signed format of its own the sign bit changes, and an infinity stays whatever the policies.
    f = ours(Binary(5, 2, True, True))
    codes = np.arange(1 << 5).astype(np.uint8)
    for overflow in SATURATIONS.values():
        np.testing.assert_array_equal(fp.negate(codes, f, overflow=overflow), fp.negate(codes, f))
    assert fp.negate(np.uint8(f.infinity_code), f, overflow="saturate") == f.infinity_code | f.sign_mask


def test_all_triples_of_the_smallest_formats() -> None:
    for f in report.family(3):
        check("fma", (f, f, f), f)


@pytest.mark.exhaustive
@pytest.mark.parametrize("f", report.family(6, 7), ids=lambda f: f.name)
def test_all_pairs_of_wider_formats(f: Binary) -> None:
    for op, (_, count) in OPERATIONS.items():
        if count == 2:
            check(op, (f, f), f)


@pytest.mark.exhaustive
@pytest.mark.parametrize("f", report.family(4), ids=lambda f: f.name)
def test_all_triples(f: Binary) -> None:
    check("fma", (f, f, f), f)


def test_operands_of_other_formats() -> None:
    """Drawn: three formats of operands, one of the result."""
    rng = np.random.default_rng(3)
    formats = report.family(3, 4, 5, 6, 8)
    for turn in range(80):
        op = list(OPERATIONS)[turn % len(OPERATIONS)]
        a, b, c, target = (formats[i] for i in rng.integers(len(formats), size=4))
        codes = [rng.integers(0, 1 << f.K, 150) for f in (a, b, c)[: OPERATIONS[op][1]]]
        check(op, (a, b, c), target, tuple(rng.choice(MODES, 3)), codes)


def test_division_by_zero_is_nan_by_a_policy_of_its_own() -> None:
    """4.10.5 of the report, against IEEE 754-2019, 7.3, which is the default."""
    x = np.array([3.0, -3.0, 0.0, np.inf, np.nan])
    for name in ("binary8p4se", "fp16", "e4m3"):
        given = fp.divide(x, 0.0, name, by_zero="nan")
        np.testing.assert_array_equal(given, np.full(5, np.nan))
        np.testing.assert_array_equal(fp.divide(x, 0.0, name, by_zero="infinity"), fp.divide(x, 0.0, name))
    np.testing.assert_array_equal(fp.divide(x, 0.0, "fp16"), [np.inf, -np.inf, np.nan, np.inf, np.nan])
    assert fp.divide(x[:3], 2.0, "fp16", by_zero="nan").tolist() == [1.5, -1.5, 0.0]
    with pytest.raises(ValueError, match="unknown byzero 'raise'; valid: infinity, nan"):
        fp.divide(1.0, 0.0, "fp16", by_zero="raise")
    with pytest.raises(ValueError, match="NaN at index 1 cannot become float4_e2m1fn"):
        fp.divide(np.ones(2), np.array([1.0, 0.0]), "e2m1", by_zero="nan")


def test_the_definition_of_arithmetic_says_the_same() -> None:
    for f, (op, (exact, count)) in product(report.family(3), OPERATIONS.items()):
        if count == 3 and f.P > 1:
            continue
        name = "divide_or_nan" if op == "divide" else op
        for mode, saturation in product(ROUNDINGS, SATURATIONS):
            cast = cast_of(f, mode, saturation)
            for codes in product(range(1 << f.K), repeat=count):
                right = report.project(f, mode, saturation, exact(*(report.decoded(f)[code] for code in codes)))
                assert definition.operate(name, codes, cast) == right, (f.name, op, mode, saturation, codes)
