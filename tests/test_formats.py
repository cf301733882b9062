"""Formats as data: identities between their limits, numbers published elsewhere, other libraries' tables, errors."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from edges import NAMED, NARROW

import fpemu as fp
from fpemu import FORMATS, FloatFormat, reference

pytestmark = pytest.mark.nojit

P3109 = tuple(name for name in FORMATS if name.startswith("binary"))

# max, smallest normal, smallest positive, spacing at 1, as published: IEEE 754-2019 table 3.5, OFP8 v1.0 table 2,
# MX v1.0 section 5.3, ml_dtypes' README, the P3109 report's tables of binary8 formats.
PUBLISHED = {
    "float32": (float.fromhex("0x1.fffffep127"), 2**-126, 2**-149, 2**-23),
    "tfloat32": (float.fromhex("0x1.ffcp127"), 2**-126, 2**-136, 2**-10),
    "float16": (65504, 2**-14, 2**-24, 2**-10),
    "bfloat16": (float.fromhex("0x1.fep127"), 2**-126, 2**-133, 2**-7),
    "float8_e5m2": (57344, 2**-14, 2**-16, 0.25),
    "float8_e4m3fn": (448, 2**-6, 2**-9, 0.125),
    "float8_e4m3": (240, 2**-6, 2**-9, 0.125),
    "float8_e3m4": (15.5, 0.25, 2**-6, 0.0625),
    "float8_e5m2fnuz": (57344, 2**-15, 2**-17, 0.25),
    "float8_e4m3fnuz": (240, 2**-7, 2**-10, 0.125),
    "float8_e4m3b11fnuz": (30, 2**-10, 2**-13, 0.125),
    "float8_e8m0fnu": (2.0**127, 2.0**-127, 2.0**-127, 1),
    "float6_e2m3fn": (7.5, 1, 0.125, 0.125),
    "float6_e3m2fn": (28, 0.25, 0.0625, 0.25),
    "float4_e2m1fn": (6, 1, 0.5, 0.5),
    "binary8p3se": (49152, 2**-15, 2**-17, 0.25),
    "binary8p4se": (224, 2**-7, 2**-10, 0.125),
    "binary8p1se": (2.0**62, 2.0**-63, 2.0**-63, 1),
}
BIAS = {"float16": 15, "bfloat16": 127, "float8_e4m3fn": 7, "float8_e4m3fnuz": 8, "float8_e4m3b11fnuz": 11,
        "float8_e5m2fnuz": 16, "float8_e8m0fnu": 127, "binary8p3se": 16, "binary8p3ue": 32}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_limits(name: str) -> None:
    format = FORMATS[name]
    assert (format.max, format.smallest_normal, format.smallest_subnormal, format.eps) == PUBLISHED[name]


def test_published_biases() -> None:
    assert {name: FORMATS[name].bias for name in BIAS} == BIAS


def test_every_published_number_has_a_format_and_every_named_format_a_number() -> None:
    assert set(NAMED) <= set(PUBLISHED) <= set(FORMATS)


def _exactly(format: FloatFormat, attribute: str) -> Fraction | None:
    try:
        return Fraction(getattr(format, attribute))
    except ValueError:
        return None


def test_limits_are_identities_of_each_other() -> None:
    """For the whole catalogue, from independent facts only, in exact numbers."""
    for format in FORMATS.values():
        two, t = reference.power_of_two, format.precision - 1
        last = reference.last_rung(format)
        assert format.max_code == last
        assert format.trailing_bits == t
        assert format.bits == format.signed + format.exponent_bits + t
        assert format.emin == reference.smallest_normal_exponent(format)
        assert format.emax == reference.floor_log2(reference.rung(last, format))
        assert reference.rung(format.smallest_normal_code, format) == two(format.emin)
        assert reference.rung(format.smallest_code, format) == two(format.emin - (t if format.subnormals else 0))
        assert reference.rung(1, format) - reference.rung(0, format) == two(format.finest_exponent)
        assert format.nan_code == reference.canonical_nan(format)
        assert format.has_zero == (reference.rung(0, format) == 0)
        exact = {
            "max": reference.rung(last, format),
            "smallest_normal": two(format.emin),
            "smallest_subnormal": reference.rung(format.smallest_code, format),
            "eps": two(-t),
        }
        for attribute, right in exact.items():
            assert _exactly(format, attribute) in ((right,) if format.holds_in_float64 else (right, None))
        if format.holds_in_float64:
            assert format.min == (-format.max if format.signed else reference.as_float(reference.rung(0, format)))


def test_every_code_means_one_kind_of_thing() -> None:
    """Finite values, infinities and NaNs make up all codes, in the numbers the facts give."""
    for name in NARROW:
        format = FORMATS[name]
        sides = 1 + format.signed
        kinds: Counter[str] = Counter()
        for code in range(1 << format.bits):
            value = reference.value(code, format)
            finite = not isinstance(value, float) or value == 0
            kinds["finite" if finite else "NaN" if math.isnan(value) else "infinite"] += 1
        lone_nan = format.signed and not format.negative_zero
        assert kinds["infinite"] == sides * format.infinities
        assert kinds["NaN"] == sides * format.high_nans + lone_nan
        assert kinds.total() == 1 << format.bits
        assert format.has_nan == (kinds["NaN"] > 0)


def test_finite_codes_are_ordered_like_values() -> None:
    for name in NARROW:
        format = FORMATS[name]
        ladder = [reference.rung(code, format) for code in range(format.max_code + 1)]
        assert all(low < high for low, high in itertools.pairwise(ladder))


@pytest.mark.parametrize("name", [name for name in NAMED if name != "tfloat32"])
def test_finfo_of_ml_dtypes_and_numpy(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    format = FORMATS[name]
    info = np.finfo(name) if name in ("float16", "float32") else ml_dtypes.finfo(getattr(ml_dtypes, name))
    facts = {
        "bits": format.bits,
        "nmant": format.trailing_bits,
        "max": format.max,
        "smallest_normal": format.smallest_normal,
        "smallest_subnormal": format.smallest_subnormal,
        "eps": format.eps,
    }
    assert {fact: float(getattr(info, fact)) for fact in facts} == facts
    # ml_dtypes 0.6.0 gives the lowest value of E8M0 as -2**127, which an unsigned format does not have.
    if format.signed:
        assert float(info.min) == format.min


def test_p3109_family_is_complete() -> None:
    """K 3 to 16; P from 1 to K - 1, or to K if unsigned; extended and finite."""
    assert len(P3109) == 2 * sum((k - 1) + k for k in range(3, 17)) == 504
    assert len(FORMATS) == 15 + 504 == len(list(FORMATS)) == len(set(FORMATS))


def test_p3109_facts_of_gfloat() -> None:
    gfloat = pytest.importorskip("gfloat")
    from gfloat.formats import format_info_p3109
    from gfloat.types import Domain, Signedness

    checked = 0
    for k in range(3, 17):
        for signed in (True, False):
            for precision in range(1, k + (not signed)):
                for extended in (True, False):
                    ours = FORMATS[f"binary{k}p{precision}{'s' if signed else 'u'}{'e' if extended else 'f'}"]
                    info = format_info_p3109(
                        k,
                        precision,
                        Signedness.Signed if signed else Signedness.Unsigned,
                        Domain.Extended if extended else Domain.Finite,
                    )
                    assert (ours.bits, ours.precision, ours.bias) == (info.k, info.precision, info.bias)
                    assert (ours.signed, ours.infinities) == (info.is_signed, info.domain == Domain.Extended)
                    assert (ours.has_zero, ours.subnormals) == (info.has_zero, info.has_subnormals)
                    assert (ours.negative_zero and ours.signed, ours.high_nans) == (info.has_nz, info.num_high_nans)
                    assert ours.nan_code == info.code_of_nan
                    if ours.holds_in_float64:
                        assert (ours.max, ours.max_code) == (info.max, info.code_of_max)
                        assert ours.smallest_normal == info.smallest_normal
                    checked += 1
    assert checked == len(P3109), gfloat.__name__


def test_value_dtype_is_the_smallest_that_holds_every_value() -> None:
    """Extremes and the finest bit decide; the exact values are the judge."""

    def held(format: FloatFormat, dtype: Any) -> bool:
        info = np.finfo(dtype)
        finest, largest = Fraction(float(info.smallest_subnormal)), Fraction(float(info.max))
        values = [reference.rung(n, format) for n in (format.smallest_code, format.max_code)]
        return (
            format.precision <= info.nmant + 1
            and values[1] <= largest
            and reference.power_of_two(format.finest_exponent) >= finest
        )

    for format in FORMATS.values():
        assert format.holds_in_float64 == held(format, np.float64)
        if not format.holds_in_float64:
            with pytest.raises(ValueError, match="float64 cannot hold"):
                _ = format.value_dtype
        else:
            assert format.value_dtype == (np.float32 if held(format, np.float32) else np.float64)


def test_holds_is_inclusion_of_values() -> None:
    """All pairs of the narrow formats: their finite values, zeros with their signs."""
    named = [
        FORMATS[name] for name in NARROW if not name.startswith("binary") or name.startswith(("binary4", "binary6"))
    ]

    def values(format: FloatFormat) -> set[tuple[Fraction, bool]]:
        every = (reference.value(code, format) for code in range(1 << format.bits))
        return {(Fraction(v), reference.is_negative(v)) for v in every if math.isfinite(v)}

    sets = {format: values(format) for format in named}
    for wide in named:
        for narrow in named:
            assert wide.holds(narrow) == (sets[narrow] <= sets[wide]), (wide.name, narrow.name)


def test_code_dtype() -> None:
    assert {format.bits: format.code_dtype.itemsize for format in FORMATS.values()} == {
        bits: 1 if bits <= 8 else 2 if bits <= 16 else 4 for bits in [*range(3, 17), 19, 32]
    }


# ---- the catalogue --------------------------------------------------------------------------------------------------
ALIASES = {"fp16": "float16", "bf16": "bfloat16", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2",
           "e8m0": "float8_e8m0fnu", "e2m3": "float6_e2m3fn", "e3m2": "float6_e3m2fn", "e2m1": "float4_e2m1fn",
           "tf32": "tfloat32", "fp32": "float32"}  # fmt: skip


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias: str) -> None:
    assert FORMATS[alias] is FORMATS[ALIASES[alias]]
    assert alias in FORMATS
    assert alias not in list(FORMATS), "iteration gives canonical names only"


def test_an_unknown_name_is_told_what_is_valid() -> None:
    with pytest.raises(KeyError) as error:
        FORMATS["e4m4"]
    for word in ("float8_e4m3fn", "bf16", "binary{K}p{P}", "did you mean"):
        assert word in str(error.value)
    with pytest.raises(ValueError, match=r"unknown format 'fp9'.*valid: float32"):
        fp.encode(1.0, "fp9")
    with pytest.raises(TypeError, match="a format is a name, a FloatFormat or a dtype, not int"):
        fp.encode(1.0, 8)  # type: ignore[arg-type]
    assert "nothing" not in FORMATS


def test_the_catalogue_is_read_only() -> None:
    with pytest.raises(TypeError):
        FORMATS["mine"] = FORMATS["e4m3"]  # type: ignore[index]


def test_formats_are_frozen_hashable_and_travel() -> None:
    format = FORMATS["e4m3"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        format.bits = 7  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(format)) == format
    assert hash(dataclasses.replace(format)) == hash(format)
    assert dataclasses.replace(format, bias=8) != format
    assert str(format) == "float8_e4m3fn"


def test_ieee_pattern_with_facts_replaced() -> None:
    made = FloatFormat.ieee(4, 3, "float8_e4m3fnuz", bias=8, infinities=False, high_nans=0, negative_zero=False)
    assert made == FORMATS["float8_e4m3fnuz"]
    assert dataclasses.replace(FloatFormat.ieee(5, 10), name="float16") == FORMATS["float16"]


# ---- bad facts ------------------------------------------------------------------------------------------------------
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"bits": 1}, ValueError, "bits must be 2 to 32, not 1"),
    ({"bits": 33}, ValueError, "bits must be 2 to 32, not 33"),
    ({"bits": 8.0}, TypeError, "bits must be an int, not float"),
    ({"bits": True}, TypeError, "bits must be an int, not bool"),
    ({"precision": 0}, ValueError, "precision must be 1 to 31, not 0"),
    ({"precision": 8}, ValueError, "8 bits leave no exponent field beside precision 8 and a sign"),
    ({"high_nans": -1}, ValueError, "high_nans must not be negative, not -1"),
    ({"high_nans": 127}, ValueError, "leave no finite normal value"),
    ({"signed": 1}, TypeError, "signed must be a bool, not int"),
    ({"bias": "7"}, TypeError, "bias must be an int, not str"),
    ({"bias": 2**40}, ValueError, "bias must lie within"),
    ({"name": ""}, TypeError, "name must be a non-empty str"),
    ({"ties": "even"}, ValueError, "ties must be 'code' or 'significand', not 'even'"),
]


@pytest.mark.parametrize(("facts", "error", "message"), BAD)
def test_bad_facts(facts: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"name": "mine", "bits": 8, "precision": 4, "bias": 7}
    FloatFormat(**good)
    with pytest.raises(error, match=message):
        FloatFormat(**(good | facts))


def test_values_beyond_float64_say_so() -> None:
    with pytest.raises(ValueError, match=r"binary16p1se has finite values that float64 cannot hold.*fpemu\.reference"):
        _ = FORMATS["binary16p1se"].max


def test_custom_formats_with_nans_of_any_number() -> None:
    """The canonical NaN has its leading trailing bit alone set where there is such a NaN (IEEE 754, 6.2.1)."""
    right = {1: 0x7F, 2: 0x7E, 3: 0x7E, 4: 0x7E, 5: 0x7E}
    made = {n: FloatFormat("mine", 8, 3, 15, infinities=False, high_nans=n).nan_code for n in right}
    assert made == right
