"""Does check_conversion find faults planted in conversions, name them, and accept those that are right?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from implementations import JIT
from syrupy.assertion import SnapshotAssertion

import fpemu as fp
from fpemu import FORMATS, Cast, NaN, Overflow, Rounding, Subnormals, reference
from fpemu.cli import main
from fpemu.testing import (
    NotAConversion,
    assert_conversion,
    check_conversion,
    check_roundtrip,
    conversion,
)
from fpemu.testing.functions import Subject
from fpemu.testing.inputs import RANDOM, Source
from fpemu.testing.regions import REGIONS, points
from fpemu.testing.report import Fault
from fpemu.testing.simplicity import simplest_first

Array = np.ndarray[Any, Any]
compiled = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
pytestmark = compiled


# ---- conversions with a fault each -----------------------------------------------------------------------------------
def to_e4m3(**policies: Any) -> Callable[[Array], Array]:
    return lambda x: fp.encode(x, "e4m3", **policies)


def ties_to_zero(x: Array) -> Array:
    """Exactly at a tie the neighbour nearer to zero, everywhere else the nearest."""
    low, high = (fp.quantize(x, "e4m3", rounding=mode, overflow="saturate") for mode in ("toward-zero", "nearest-away"))
    nearest = fp.quantize(x, "e4m3")
    with np.errstate(invalid="ignore"):
        tie = (np.abs(x) <= 448) & (low != high) & (x - low == high - x)
    return np.where(tie, low, nearest)


def loses_negative_zero(x: Array) -> Array:
    codes = fp.encode(x, "e4m3")
    codes[codes == 0x80] = 0
    return codes


def off_grid(x: Array) -> Array:
    """Values that E4M3 does not have."""
    values = fp.quantize(x, "e4m3")
    return np.where(np.abs(values) >= 1, values * np.float32(1.03125), values)


def drops_nan(x: Array) -> Array:
    return np.where(np.isnan(x), np.float32(448), fp.quantize(x, "e4m3"))


def overflows_too_soon(x: Array) -> Array:
    """NaN from 448 on, where 464 still becomes 448."""
    return np.where(np.abs(x) > 448, np.float32(np.nan), fp.quantize(x, "e4m3"))


def not_monotone(x: Array) -> Array:
    """Neighbours taken by the last bit of the input: each a neighbour, in no order."""
    low, high = fp.quantize(x, "e4m3", rounding="down"), fp.quantize(x, "e4m3", rounding="up")
    odd = (x.astype("=f4").view(np.uint32) & np.uint32(1)).astype(bool)
    kept = (low == high) | ~(np.abs(x) < 448)
    return np.where(kept, fp.quantize(x, "e4m3"), np.where(odd, high, low))


PLANTED: dict[str, tuple[Callable[[Array], Array], str, str]] = {
    "ties away": (to_e4m3(rounding="nearest-away"), "float32", "ties away"),
    "ties to zero": (ties_to_zero, "float32", "ties to zero"),
    "double rounding": (lambda x: fp.encode(x.astype(np.float32), "e4m3"), "float64", "double rounding"),
    "flushes": (to_e4m3(subnormals="flush-output"), "float32", "flushes subnormal results"),
    "threshold": (overflows_too_soon, "float32", "wrong overflow threshold"),
    "-0": (loses_negative_zero, "float32", "loses -0"),
    "off grid": (off_grid, "float32", "off-grid result"),
    "NaN": (drops_nan, "float32", "NaN dropped"),
    "order": (not_monotone, "float32", "not monotone"),
    "saturates": (to_e4m3(overflow="saturate"), "float32", "wrong overflow result"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found_and_named(name: str) -> None:
    function, source, fault = PLANTED[name]
    report = check_conversion(function, source=source, target="e4m3")
    assert not report.conforms and not report
    assert report.fault == fault, report.faults
    assert 0 < report.failing <= report.tried
    example = report.counterexample
    assert example is not None and example.kind in (fault, "wrong neighbour", "wrong value")
    assert example.right == reference.value(example.code, "e4m3") or math.isnan(float(example.right))
    assert fault in str(report) and "example" in str(report)


IMPLEMENTED = [
    ({"rounding": "nearest-away"}, "float32"),
    ({"rounding": "toward-zero"}, "float32"),
    ({"rounding": "to-odd"}, "float32"),
    ({"overflow": "saturate"}, "float32"),
    ({"subnormals": "flush-output-before"}, "float32"),
    ({"subnormals": "round-to-min", "rounding": "up"}, "float32"),
    ({"via": "float32"}, "float64"),
    ({"via": "float16"}, "float32"),
]


@pytest.mark.parametrize(("policies", "source"), IMPLEMENTED, ids=str)
def test_the_policy_that_fits_is_named(policies: dict[str, Any], source: str) -> None:
    report = check_conversion(to_e4m3(**policies), source=source, target="e4m3")
    assert report.implements == Cast("e4m3", **policies)


def test_counterexamples_are_simple_and_told_bit_by_bit() -> None:
    report = check_conversion(to_e4m3(rounding="nearest-away"), source="float32", target="e4m3")
    assert report.counterexample is not None
    assert report.counterexample.x == Fraction(1, 1024)  # half of the smallest subnormal
    assert "guard 1, sticky 0" in report.explanation and "0 (0x00) and 0.001953125 (0x01)" in report.explanation
    saturating = check_conversion(to_e4m3(overflow="saturate"), source="float32", target="e4m3").counterexample
    assert saturating is not None and saturating.x == 512


def _reading(x: float) -> tuple[int, int, bool]:
    """How hard a number is to read: bits of the fraction, distance of the exponent from 0, whether it is negative."""
    significand, exponent = math.frexp(abs(x))
    whole = int(significand * 2**53)
    return 53 - (whole & -whole).bit_length(), abs(exponent - 1), x < 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_in_the_order_of_how_easy_they_are_to_read(dtype: str) -> None:
    rng, last = np.random.default_rng(7), float(np.finfo(dtype).eps)
    x = rng.integers(1, 33, 300) / 16 * 2.0 ** rng.integers(-9, 9, 300) * rng.choice([-1, 1], 300)
    x = np.concatenate([x, [1 + last, -1 - last, 1 + 2 * last, 2 + 2 * last]]).astype(dtype)
    assert simplest_first(x).tolist() == sorted(range(x.size), key=lambda at: _reading(float(x[at])))


# ---- inputs -----------------------------------------------------------------------------------------------------------
def test_all_inputs_come_in_pieces_and_each_once() -> None:
    source = Source.of("float16")
    pieces = list(source.all(chunk=1 << 14))
    assert [piece.size for piece in pieces] == [1 << 14] * 4 and {piece.dtype for piece in pieces} == {np.dtype("u2")}
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(1 << 16))
    assert [piece.size for piece in source.all()] == [1 << 16]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_chosen_inputs_lie_at_every_distance_from_ties_and_values_in_both_signs(name: str) -> None:
    source = Source.of(name)
    bits = source.chosen(FORMATS["e4m3"], seed=3)
    right = {x for region in REGIONS for x in points(region, "e4m3", source.dtype).view(bits.dtype).tolist()}
    for region in ("tie", "value"):
        centres = points(region, "e4m3", source.dtype)
        for centre in centres[:: max(1, centres.size // 64)].view(bits.dtype).tolist():
            right |= {centre + side * 2**k for k in range(np.finfo(source.dtype).nmant) for side in (1, -1)}
    magnitudes = bits[: len(right)]
    assert set(magnitudes.tolist()) == right and len(bits) == 2 * len(right) + RANDOM
    assert (bits[len(right) : 2 * len(right)] == magnitudes + bits.dtype.type(1 << (source.bits - 1))).all()
    drawn = bits[-RANDOM:]
    assert np.array_equal(drawn, np.random.default_rng(3).integers(0, 1 << source.bits, RANDOM, dtype=drawn.dtype))


RIGHT = [
    ("float32", "e4m3", {}),
    ("float64", "e4m3", {"rounding": "up", "overflow": "propagate"}),
    ("float32", "fp16", {"subnormals": "flush-input"}),
    ("float64", "bf16", {"rounding": "to-odd"}),
    ("float16", "e5m2", {"overflow": "saturate"}),
    ("bfloat16", "e4m3", {}),
    ("float8_e5m2", "e4m3", {"rounding": "toward-zero"}),
    ("float32", "e2m1", {}),
    ("float32", "e8m0", {}),
    ("float64", "tf32", {}),
]


@pytest.mark.parametrize(("source", "target", "policies"), RIGHT, ids=str)
def test_right_conversions_are_accepted(source: str, target: str, policies: dict[str, Any]) -> None:
    """As codes, as values, and one element at a time."""
    format = FORMATS["float16" if source == "float64" else source]

    def codes(x: Array) -> Array:
        if source in ("float16", "float32", "float64"):
            return fp.encode(x, target, **policies)
        return fp.cast(fp.encode(x, format), source=format, target=target, **policies)

    def values(x: Array) -> Array:
        return fp.decode(codes(x), target)

    for function in (codes, values):
        report = check_conversion(function, source=source, target=target, **policies)
        assert report.conforms and report.fault is None and report.implements is None, str(report)
        assert report.exhaustive == (source not in ("float32", "float64"))
        assert report.tried > 60_000 or report.exhaustive


def test_scalar_functions_are_called_for_each_element() -> None:
    def scalar(x: np.float16) -> int:
        if np.ndim(x):
            raise TypeError("one at a time")
        return int(codes[np.asarray(x).view(np.uint16)])

    codes = fp.encode(np.arange(1 << 16, dtype=np.uint16).view(np.float16), "e5m2")
    report = check_conversion(scalar, source="float16", target="e5m2")
    assert report.conforms and report.tried == 1 << 16


def test_a_scalar_function_of_nothing_gives_nothing() -> None:
    subject = Subject(lambda x: int(x), FORMATS["e4m3"])
    assert subject(np.zeros(0, np.float32)).shape == (0,) and subject.takes_one(np.zeros(0, np.float32))


def test_functions_of_codes_and_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert check_conversion(
        lambda codes: fp.cast(codes, source="bf16", target="e4m3"), source="bf16", target="e4m3", takes="codes"
    )
    with np.errstate(all="ignore"):
        assert check_conversion(
            lambda x: x.astype(ml_dtypes.float8_e4m3fn), source="bf16", target="e4m3", takes="ml_dtypes"
        )


def test_ml_dtypes_rounds_float64_twice() -> None:
    """A fault of a real library (jax-ml/ml_dtypes 401), and the policy that describes it."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    report = check_conversion(lambda x: x.astype(ml_dtypes.float8_e4m3fn), source="float64", target="e4m3")
    if report.conforms:
        pytest.skip("this ml_dtypes rounds once")
    assert report.fault == "double rounding"
    assert report.implements == Cast("e4m3", via="float32")


def test_what_a_policy_flushes_is_told_of_its_source() -> None:
    """A float16 subnormal is none of float64's."""
    function = lambda x: fp.encode(x.astype(np.float64), "bf16")  # noqa: E731
    report = check_conversion(function, source="float16", target="bf16", subnormals="flush-input")
    assert report.fault == "keeps subnormals" and report.failing == 2 * 1023
    assert report.counterexample is not None and report.counterexample.right == 0
    assert "right    0, code 0x0000" in report.explanation


# ---- pieces of all inputs --------------------------------------------------------------------------------------------
def test_wrong_inputs_are_counted_all_and_kept_to_a_bound() -> None:
    source, cast = Source.of("float32"), Cast("e4m3")
    check = conversion._Check(Subject(to_e4m3(rounding="toward-zero"), cast.format), source, cast)
    for value, shift in ((1.0, 0), (1.125, -30_000), (1.5, -30_000), (1.5, -30_000), (3.25, -30_000)):
        first = int(np.float32(value).view(np.uint32)) + shift  # from 1 on all are right, just below a value all wrong
        check.add(np.arange(first, first + 30_000, dtype=np.uint32))
    assert (check.tried, check.failing) == (150_000, 120_000)
    assert [seen.bits.size for seen in check.kept] == [30_000, 30_000, 5_536] and not any(
        seen.right.any() for seen in check.kept
    )
    report = check.report(exhaustive=False, forbid_mutation=False)
    assert (report.looked_at, report.failing, report.fault) == (60_000, 120_000, "truncates")  # each once
    assert "of the 120,000 wrong inputs of 60,000 looked at" in str(report)


def test_all_of_float32_are_tried_in_pieces_and_counted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pieces in the place of a thousand."""
    pieces = [np.arange(start, start + 1000, dtype=np.uint32) for start in (0x3F800000, 0x3F8FFF00, 0xBF8FFF00)]
    monkeypatch.setattr(Source, "all", lambda source: iter(pieces))
    right = check_conversion(to_e4m3(), source="float32", target="e4m3", exhaustive=True)
    assert (right.conforms, right.tried, right.exhaustive) == (True, 3000, True) and "all there are" in str(right)
    wrong = check_conversion(to_e4m3(rounding="toward-zero"), source="float32", target="e4m3", exhaustive=True)
    assert (wrong.tried, wrong.failing) == (3000, 512) and wrong.looked_at > 512  # the sample's besides
    assert not check_conversion(to_e4m3(), source="float32", target="e4m3").exhaustive
    shown = []
    monkeypatch.setattr(conversion, "_shown", lambda pieces, total, show: shown.append((total, show)) or pieces)
    check_conversion(to_e4m3(), source="float32", target="e4m3", exhaustive=True, progress=True)
    assert shown == [(1 << 32, True)]


def test_a_progress_bar_is_shown_on_demand_and_leaves_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [np.zeros(3), np.zeros(5)]
    assert [piece.size for piece in conversion._shown(pieces, 8, show=False)] == [3, 5]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert [piece.size for piece in conversion._shown(pieces, 8, show=True)] == [3, 5]
    out, err = capfd.readouterr()
    assert not out and "inputs" in err and "100%" in err
    assert err.rindex("\x1b[2K") > err.rindex("100%")  # the line is erased


@pytest.mark.exhaustive
def test_all_float32_inputs() -> None:
    report = check_conversion(to_e4m3(), source="float32", target="e4m3", exhaustive=True)
    assert (report.conforms, report.tried, report.exhaustive) == (True, 1 << 32, True)


def test_a_fault_lies_where_most_of_its_inputs_do() -> None:
    fault = Fault("ties away", "", {"tie": 1, "normal": 5, "zero": 2})
    assert (fault.region, fault.count, str(fault)) == ("normal", 8, "ties away (tie 1, normal 5, zero 2)")
    assert (Fault("odd").region, Fault("odd").count, str(Fault("odd", "at times"))) == (None, 0, "odd: at times")


def test_assert_conversion_raises_the_report() -> None:
    assert_conversion(to_e4m3(), source="float16", target="e4m3")
    with pytest.raises(AssertionError, match="ties away"):
        assert_conversion(to_e4m3(rounding="nearest-away"), source="float16", target="e4m3")
    of_halves = lambda x: fp.encode(x, "e4m3") if x.dtype.name == "float16" else np.zeros(x.shape, np.uint8)  # noqa: E731
    assert_conversion(of_halves, source="float16", target="e4m3")
    with pytest.raises(AssertionError, match="float32 to float8_e4m3fn"):
        assert_conversion(of_halves, source="float32", target="e4m3")


def test_data_is_json(snapshot: SnapshotAssertion) -> None:
    text = json.dumps(
        check_conversion(to_e4m3(rounding="nearest-away"), source="float16", target="e4m3").data(), indent=1
    )
    assert text == snapshot
    assert json.loads(text)["fault"] == "ties away"
    assert json.loads(text)["implements"] == "float8_e4m3fn, nearest-away, overflow ieee"


def _raises(x: Array) -> Array:
    raise RuntimeError("no GPU")


@pytest.mark.parametrize(
    ("function", "more", "error", "message"),
    [
        (3, {}, TypeError, "function must be callable, not int"),
        (_raises, {}, NotAConversion, "raised RuntimeError .*: no GPU"),
        (lambda x: x > 0, {}, NotAConversion, "returns bool: neither codes"),
        (lambda x: fp.encode(x, "fp16"), {}, NotAConversion, "are no codes: float8_e4m3fn has codes 0 to 0xff"),
        (to_e4m3(), {"rounding": "stochastic"}, ValueError, "check_stochastic takes it"),
        (to_e4m3(), {"rounding": "nearest"}, ValueError, "unknown rounding 'nearest'"),
        (to_e4m3(), {"takes": "tensors"}, ValueError, "takes must be one of values, codes, ml_dtypes"),
        (to_e4m3(), {"source": "tfloat32"}, ValueError, "float64, float32 or a format of at most 16 bits"),
        (to_e4m3(), {"source": "float64", "exhaustive": True}, ValueError, r"2\*\*64 inputs"),
    ],
)
def test_bad_input_is_told_what_is_valid(
    function: Any, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_conversion(function, **{"source": "float32", "target": "e4m3", **more})


# ---- round trips -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["e4m3", "e5m2fnuz", "float16", "binary8p3se", "e2m1"])
def test_round_trips(name: str, snapshot: SnapshotAssertion) -> None:
    def decoder(codes: Array) -> Array:
        return fp.decode(codes, name)

    def encoder(values: Array) -> Array:
        return fp.encode(values, name)

    report = check_roundtrip(decoder, encoder, name)
    assert report.conforms and report.exhaustive and report.tried == 1 << FORMATS[name].bits
    doubled = check_roundtrip(lambda codes: 2 * decoder(codes), encoder, name)
    assert doubled.fault == "wrong value" and not doubled.conforms
    away = check_roundtrip(decoder, lambda values: encoder(values) ^ (encoder(values) == 3), name)
    assert (away.fault, away.failing) == ("code changes", 1)
    assert away.counterexample is not None and away.counterexample.code == 3
    assert f"{doubled}\n\n{away}" == snapshot


def test_an_encoder_must_return_codes() -> None:
    with pytest.raises(NotAConversion, match="the encoder returns values, not codes"):
        check_roundtrip(lambda codes: fp.decode(codes, "e4m3"), lambda values: values, "e4m3")


def test_round_trips_of_wide_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 16 bits, not of float32"):
        check_roundtrip(lambda c: c, lambda v: v, "float32")


# ---- the command -----------------------------------------------------------------------------------------------------
MODULE = """
import numpy as np, fpemu as fp
def right(x): return fp.encode(x, "e4m3")
def away(x): return fp.encode(x, "e4m3", rounding="nearest-away")
def broken(x): raise RuntimeError("no GPU")
rng = np.random.default_rng(0)
def drawn(x): return fp.encode(x, "e4m3", rounding="stochastic", seed=int(rng.integers(2**62)))
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"conversions_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    return name


def command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["check", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_has_an_exit_code_for_each_outcome(module: str) -> None:
    code, out, _ = command(f"{module}:right", "--to", "e4m3")
    assert code == 0 and "conforms" in out
    code, out, _ = command(f"{module}:away", "--to", "e4m3", "--from", "float16")
    assert code == 1 and "ties away" in out and "fits     float8_e4m3fn, nearest-away" in out
    code, out, _ = command(f"{module}:away", "--to", "e4m3", "--rounding", "nearest-away")
    assert code == 0
    code, out, _ = command(f"{module}:away", "--to", "e4m3", "--json")
    assert code == 1 and json.loads(out)["fault"] == "ties away"
    code, out, _ = command(f"{module}:drawn", "--to", "e4m3", "--rounding", "stochastic")
    assert code == 0 and "conversions" in out
    code, out, _ = command(f"{module}:right", "--to", "e4m3", "--rounding", "stochastic", "--json")
    assert code == 1 and json.loads(out)["fault"] == "not random"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--to", "e4m3"], "write MODULE:FUNCTION"),
        (["no_such_module_here:f", "--to", "e4m3"], "cannot be imported: ModuleNotFoundError"),
        (["{module}:absent", "--to", "e4m3"], "has no absent"),
        (["{module}:number", "--to", "e4m3"], "is no function but int"),
        (["{module}:broken", "--to", "e4m3"], "raised RuntimeError"),
        (["{module}:right", "--to", "e4m3", "--from", "e9m9"], "unknown format"),
        (["{module}:right", "--to", "e9m9"], "unknown format"),
        (["{module}:right"], "--to"),
    ],
)
def test_what_cannot_be_run_is_exit_code_2(module: str, arguments: list[str], message: str) -> None:
    code, out, err = command(*(argument.format(module=module) for argument in arguments))
    assert code == 2 and message in err and not out
    assert "Traceback" not in err


def test_policies_are_enums_of_the_library() -> None:
    """The options of the command are those of the library, so that none is forgotten."""
    help_text = CliRunner().invoke(main, ["check", "--help"], terminal_width=200).stdout
    for policy in (Rounding, Overflow, Subnormals, NaN):
        assert all(member.value in help_text for member in policy)
