"""Are the faults that real converters have had called by their names, and by no others?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import field_converters as made
import numpy as np
import pytest
from implementations import JIT
from syrupy.assertion import SnapshotAssertion

import fpemu as fp
from fpemu import FORMATS
from fpemu.policies import Cast
from fpemu.testing import check_conversion, faults
from fpemu.testing.evidence import Evidence
from fpemu.testing.faults import GENERIC
from fpemu.testing.hypotheses import intermediates

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")

TIES = ("ties away", "ties to zero", "ties up", "ties down", "ties to odd", "ties to even")
ROUNDINGS = (
    *TIES,
    "truncates",
    "rounds up",
    "rounds down",
    "rounds to odd",
    "rounds away from zero",
    "rounds to nearest",
)
FLUSHES = ("flushes subnormal results", "flushes subnormal inputs")
OVERFLOWS = (
    "wrong overflow result",
    "wrong overflow threshold",
    "wrong result of infinity",
    "largest finite value off by one",
)
FINITE = ("finite to NaN", "finite to infinity", "finite to zero", "off-grid result")
OTHERS = ("double rounding", "lost sticky bit", "loses -0", "makes -0", "wrong sign", "NaN dropped", "wrong result of NaN",
          "wrong result of zero", "wrong result of negative numbers")  # fmt: skip
NAMES = (*ROUNDINGS, *FLUSHES, *OVERFLOWS, *FINITE, *OTHERS, *GENERIC)


class Bug(NamedTuple):
    """A converter and the only names that a report on it may give; ``detail`` is part of what the first one adds."""

    make: Callable[[str, str], made.Converter]
    names: tuple[str, ...]
    cases: tuple[tuple[str, str], ...]  # source, target
    detail: str = ""
    policies: dict[str, Any] | None = None


WIDE = ("float32", "float8_e4m3fn"), ("float64", "float8_e5m2"), ("float32", "float16"), ("float16", "bfloat16")
NARROW = (
    ("float16", "float8_e4m3fn"),
    ("bfloat16", "float8_e5m2"),
    ("float32", "float4_e2m1fn"),
    ("float32", "float6_e3m2fn"),
)
FNUZ = (("float32", "float8_e4m3fnuz"), ("bfloat16", "float8_e5m2fnuz"))
SIGNED = (WIDE[0], WIDE[1], WIDE[3], *NARROW)  # float32 to float16 has ten times as many inputs: for some bugs
ALL = (*SIGNED, *FNUZ)
SUBNORMAL = tuple(case for case in SIGNED if case != ("float16", "bfloat16"))  # whose results can be subnormal
OVERFLOWING = (WIDE[0], WIDE[1], *NARROW[:2], *FNUZ)
SATURATING = "wrong overflow result", "wrong result of infinity"
E8M0 = (("float32", "float8_e8m0fnu"), ("bfloat16", "float8_e8m0fnu"), ("float64", "float8_e8m0fnu"))
BRAIN = (("float32", "bfloat16"),)

BUGS: dict[str, Bug] = {
    "truncation": Bug(made.truncates, ("truncates",), (*ALL, WIDE[2])),
    "truncation, then overflow": Bug(made.chops, ("truncates",), (WIDE[0], WIDE[1], *NARROW[:2], *FNUZ)),
    "truncation by shift": Bug(made.bfloat16_by_shift, ("truncates", "NaN dropped"), BRAIN),
    "nearest, ties away": Bug(lambda t, s: made.right(t, rounding="nearest-away"), ("ties away",), ALL),
    "half up": Bug(made.on_grid(made.half_up), ("ties up",), SIGNED),
    "outputs flushed": Bug(lambda t, s: made.right(t, subnormals="flush-output"), ("flushes subnormal results",), SUBNORMAL),
    "inputs flushed": Bug(made.flushes_inputs, ("flushes subnormal inputs",),
                          (("float16", "bfloat16"), ("float32", "bfloat16"), ("float16", "float32"))),
    "sign of zero": Bug(made.loses_zero_sign, ("loses -0",), SIGNED),
    "NaN to 0": Bug(made.nan_to(0.0), ("NaN dropped",), (*OVERFLOWING, ("float16", "bfloat16")), "becomes zero"),
    "NaN to the largest": Bug(made.nan_to(448.0), ("NaN dropped",), (WIDE[0], NARROW[0]), "becomes the largest finite value"),
    "NaN to infinity": Bug(made.nan_to(np.inf), ("NaN dropped",), (WIDE[1], WIDE[2]), "becomes infinity"),
    "infinity saturates": Bug(lambda t, s: made.right(t, overflow="saturate"), SATURATING, OVERFLOWING,
                              "becomes the largest finite value, not "),
    "saturation is infinity": Bug(made.right_of_policy("ieee"), SATURATING, (WIDE[1], WIDE[2], NARROW[1]),
                                  "becomes infinity, not the largest finite value", {"overflow": "saturate"}),
    "saturation is NaN": Bug(made.right_of_policy("nan"), SATURATING, (WIDE[0], NARROW[0], *FNUZ),
                             "becomes NaN, not the largest finite value", {"overflow": "saturate"}),
    "through FP16": Bug(made.through("float16"), ("double rounding",),
                        (WIDE[0], WIDE[1], NARROW[2], NARROW[3], FNUZ[0], BRAIN[0]), "through float16"),
    "through BF16": Bug(made.through("bfloat16"), ("double rounding",),
                        (WIDE[0], WIDE[1], WIDE[2], NARROW[0], NARROW[2], NARROW[3], FNUZ[0]), "through bfloat16"),
    "through FP32": Bug(made.through("float32"), ("double rounding",),
                        (WIDE[1], ("float64", "float16"), ("float64", "float8_e4m3fn"), ("float64", "float4_e2m1fn"),
                         ("float64", "bfloat16")), "through float32"),
    "through saturating FP16": Bug(made.through("float16", overflow="saturate"), ("double rounding", "wrong result of infinity"), BRAIN,
                                   "through float16"),
    "largest too small": Bug(made.clamps_below, ("largest finite value off by one",), (*OVERFLOWING, WIDE[2]), "ends at"),
    "largest overflows": Bug(made.overflows_at_max, ("largest finite value off by one",), OVERFLOWING, "ends at"),
    "largest too large": Bug(made.goes_beyond, ("largest finite value off by one",), OVERFLOWING, "goes on to"),
    "overflows too soon": Bug(made.overflows_too_soon, ("wrong overflow threshold",), OVERFLOWING),
    "truncation and late overflow": Bug(made.chops_and_overflows_late,
                                        ("truncates", "wrong overflow threshold", "wrong overflow result"), OVERFLOWING[:4]),
    "no sticky bit": Bug(made.loses_sticky(1), ("lost sticky bit",), (*ALL, WIDE[2])),
    "a sticky bit of few": Bug(made.loses_sticky(3), ("lost sticky bit",), (*WIDE[:2], *NARROW, *FNUZ)),
    "no sticky bit in the shift": Bug(made.loses_sticky(2, True), ("lost sticky bit",), SUBNORMAL),
    "guard alone": Bug(made.bfloat16_by_guard, ("lost sticky bit", "NaN dropped"), BRAIN),
    "E8M0 of the magnitude": Bug(made.exponent_of_magnitude, ("wrong result of negative numbers",), E8M0, "the sign is dropped"),
    "E8M0 clamps from below": Bug(made.smallest_of_negative, ("wrong result of negative numbers", "wrong result of infinity"), E8M0,
                                  "becomes the smallest value, not NaN"),
    "a sign, and flushed inputs": Bug(made.after_flush(made.drops_sign), ("wrong result of negative numbers",),
                                      (("float16", "binary8p3uf"),), "the sign is dropped", {"subnormals": "flush-input"}),
    "E8M0 of some magnitudes": Bug(made.exponent_of_some_magnitudes, ("wrong result of negative numbers",),
                                   (("bfloat16", "float8_e8m0fnu"),), "becomes the smallest value, not NaN"),
    "the sign": Bug(made.drops_sign, ("wrong sign",), ALL, "negative numbers become positive"),
    # Two at once: neither hides the other.
    "NaN and truncation": Bug(made.both(made.nan_to(0.0), made.truncates), ("NaN dropped", "truncates"), OVERFLOWING),
    "NaN and overflow": Bug(made.both(made.nan_to(0.0), made.overflows_too_soon), ("NaN dropped", "wrong overflow threshold"), OVERFLOWING),
    "infinity and the largest": Bug(made.infinity_to_zero(made.clamps_below),
                                    ("largest finite value off by one", "wrong result of infinity"), OVERFLOWING),
    "infinity to the value before": Bug(made.infinity_to_the_one_before, ("wrong result of infinity",), OVERFLOWING,
                                        "becomes the value before the largest, not "),
    "two roundings": Bug(made.rounds_in_two_ways, ("truncates", "ties away", *SATURATING), OVERFLOWING),
    "NaN and sticky": Bug(made.both(made.nan_to(0.0), made.loses_sticky(2)), ("NaN dropped", "lost sticky bit"), OVERFLOWING),
    "E8M0, sign and truncation": Bug(
        made.after_abs(made.truncates), ("wrong result of negative numbers", "truncates"), E8M0),
    "the sign and truncation": Bug(made.after_abs(made.truncates), ("wrong sign", "truncates"), SIGNED[:4]),
    "truncation and flushing": Bug(lambda t, s: made.right(t, rounding="toward-zero", subnormals="flush-output"),
                                   ("truncates", "flushes subnormal results"), SUBNORMAL),
    "truncation and flushed inputs": Bug(made.after_flush(made.truncates), ("truncates", "flushes subnormal inputs"),
                                         (("float16", "bfloat16"),)),
    "sticky and flushed inputs": Bug(made.after_flush(made.loses_sticky(2)), ("lost sticky bit", "flushes subnormal inputs"),
                                     (("float32", "bfloat16"),)),
    "ties and an intermediate": Bug(lambda t, s: lambda x: fp.quantize(fp.quantize(x.astype("f8"), "fp16"), t, rounding="nearest-away"),
                                    ("ties away", "double rounding"), (WIDE[0], WIDE[1], NARROW[3])),
    "four at once": Bug(
        made.both(made.nan_to(0.0), lambda t, s: made.right(t, "nearest-away", overflow="saturate", subnormals="flush-output")),
        ("ties away", "flushes subnormal results", "NaN dropped", *SATURATING), OVERFLOWING),
}  # fmt: skip
CASES = [(name, source, target) for name, bug in BUGS.items() for source, target in bug.cases]


@pytest.mark.parametrize(("name", "source", "target"), CASES, ids=["-".join(case).replace(" ", "_") for case in CASES])
def test_a_field_bug_has_its_name_and_no_other(
    name: str, source: str, target: str, snapshot: SnapshotAssertion
) -> None:
    """And the whole report reads as it was read before, where all inputs are tried, so that none is drawn."""
    bug = BUGS[name]
    report = check_conversion(bug.make(target, source), target, source=source, **(bug.policies or {}))
    found = [fault.name for fault in report.faults]
    assert report.failing > 0 and set(found) == set(bug.names), str(report)
    assert set(found) <= set(NAMES)
    assert report.classified == report.looked_at == report.failing, str(report)
    assert not bug.detail or any(bug.detail in fault.detail for fault in report.faults), str(report)
    assert sum(fault.count for fault in report.faults) >= report.failing
    for fault in report.faults:
        assert fault.example is not None and fault.example.kind == fault.name and fault.region in fault.regions
    assert f"named    {report.classified:,} of the {report.failing:,} wrong inputs" in str(report)
    assert not report.exhaustive or str(report) == snapshot


# ---- parts, and what has no name -------------------------------------------------------------------------------------
def _where(condition: Callable[[Array], Array], wrong: made.Converter) -> made.Converter:
    return lambda x: np.where(condition(x), wrong(x), made.right("e4m3")(x))


PARTS: dict[str, tuple[Callable[[Array], Array], dict[str, Any], str, str]] = {
    "negative": (lambda x: x < 0, {"rounding": "toward-zero"}, "truncates", "only of negative numbers"),
    "large": (lambda x: np.abs(x) >= 2, {"rounding": "nearest-away"}, "ties away", "only of numbers from 2 "),
    "small": (lambda x: np.abs(x) < 2**-8, {"rounding": "up"}, "rounds up", "only of numbers from "),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_fault_of_some_numbers_is_named_for_those(name: str, snapshot: SnapshotAssertion) -> None:
    condition, policies, fault, detail = PARTS[name]
    report = check_conversion(_where(condition, made.right("e4m3", **policies)), "e4m3")
    assert {one.name for one in report.faults} - {"loses -0"} == {fault}, str(report)
    assert any(detail in one.detail for one in report.faults), str(report)
    assert (
        str(check_conversion(_where(condition, made.right("e4m3", **policies)), "e4m3", source="float16")) == snapshot
    )


def test_a_wrong_sign_does_not_hide_a_wrong_magnitude() -> None:
    truncated = made.after_abs(made.truncates)("e4m3", "float32")
    report = check_conversion(_where(lambda x: x < 0, truncated), "e4m3", source="float16")
    assert {fault.name for fault in report.faults} == {"wrong sign", "truncates"}, str(report)


FINITE_TO = {"finite to NaN": np.nan, "finite to infinity": np.inf, "finite to zero": 0.0, "off-grid result": 3.3}


@pytest.mark.parametrize("name", FINITE_TO)
def test_numbers_that_should_stay_such_are_told_from_overflow(name: str) -> None:
    wrong = _where(lambda x: (np.abs(x) > 2) & (np.abs(x) < 4), lambda x: np.copysign(FINITE_TO[name], x))
    report = check_conversion(wrong, "e4m3")
    assert report.fault == name and len(report.faults) == 1, str(report)


def test_what_has_no_name_is_not_counted_as_classified(snapshot: SnapshotAssertion) -> None:
    """Two codes exchanged: no policy and no bug that is known here does that."""

    def exchanged(x: Array) -> Array:
        codes = fp.encode(x, "e4m3")
        return np.where(codes == 0x39, 0x3B, np.where(codes == 0x3B, 0x39, codes)).astype(np.uint8)

    report = check_conversion(exchanged, "e4m3", source="float16")
    assert report.fault == "not monotone" and report.failing > 0 == report.classified
    assert "wrong neighbours" in report.faults[0].detail and report.data()["classified"] == 0
    assert str(report) == snapshot


def test_named_and_nameless_faults_are_counted_apart(snapshot: SnapshotAssertion) -> None:
    def one_wrong(x: Array) -> Array:
        codes = fp.encode(x, "e4m3", overflow="saturate")
        return np.where(codes == 0x39, 0x3A, codes).astype(np.uint8)

    report = check_conversion(one_wrong, "e4m3", source="float16")
    named = sum(fault.count for fault in report.faults if fault.name not in GENERIC)
    assert 0 < report.classified == named < report.failing == report.looked_at
    data = report.data()
    assert (data["classified"], data["looked_at"], data["failing"]) == (named, report.failing, report.failing)
    assert {fault["name"] for fault in data["faults"]} >= {"wrong overflow result", "wrong result of infinity"}
    assert str(report) == snapshot


def _moved(at: float, to: float, rest: made.Converter) -> made.Converter:
    """One number, and no other, becomes something else."""
    return lambda x: np.where(x == at, to, rest(x))


NAMELESS: dict[str, tuple[made.Converter, set[str]]] = {  # what has no name of its own, beside what has
    "the next value": (_moved(1.0, 1.125, made.right("e4m3")), {"not monotone"}),
    "the next value of many": (lambda x: np.where((x > 1) & (x <= 1.0625), 1.125, made.right("e4m3")(x)), {"wrong neighbour"}),
    "the next value of many negative ones": (
        lambda x: np.where((x < -1) & (x >= -1.0625), -1.125, made.right("e4m3")(x)),
        {"wrong neighbour"},
    ),
    "values further on": (
        lambda x: np.where((x > 400) & (x <= 448), 384.0, made.right("e4m3")(x)),
        {"wrong neighbour", "wrong value"},
    ),
    "the smallest normal": (_moved(2.0**-6, 0.0, made.right("e4m3")), {"finite to zero"}),
    "negative numbers one code down": (
        lambda x: fp.decode(fp.encode(x, "e4m3") - ((x <= -(2.0**-9)) & (x >= -448)).astype("u1"), "e4m3"),
        {"not monotone"},
    ),
    "at the smallest normal": (_moved(2.0**-6, 2.0**-6 * 1.125, _where(lambda x: np.abs(x) < 2.0**-6, made.right("e4m3", "toward-zero"))),
                               {"truncates", "not monotone"}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMELESS)
def test_what_has_no_name_is_told_from_what_has(name: str, snapshot: SnapshotAssertion) -> None:
    function, names = NAMELESS[name]
    report = check_conversion(function, "e4m3", source="float16")
    assert {fault.name for fault in report.faults} == names, str(report)
    assert str(report) == snapshot


@pytest.mark.parametrize(
    ("target", "source", "between"),
    [
        ("e4m3", "float16", ["bfloat16", "float8_e5m2"]),
        ("float16", "float32", ["bfloat16", "tfloat32"]),
        ("e5m2", None, ["float32", "float16", "bfloat16", "tfloat32", "float8_e4m3fn"]),
    ],
)
def test_formats_that_may_lie_between(target: str, source: str | None, between: list[str]) -> None:
    found = intermediates(Cast(target), source and FORMATS[source])
    assert [format.name for format in found] == between


# ---- what explains most -----------------------------------------------------------------------------------------------
def _evidence(truncated: int, odd: int, against: int) -> Evidence:
    """So many results that truncation explains and nothing else, that nothing does, and right ones that it contradicts.

    All are of one exponent, with 3 of 4 discarded bits set; each second value of E4M3, from 1 on, is one of a kind.
    """
    n = truncated + odd + against
    x = (1 + np.arange(n) % 7 / 8 + 3 / 32) * 2.0 ** (np.arange(n) // 7 - 6)
    right = fp.quantize(x, "e4m3")
    got = np.where(np.arange(n) < truncated, fp.quantize(x, "e4m3", rounding="toward-zero"), right)
    got[truncated : truncated + odd] = 0.0
    return Evidence(Cast("e4m3"), FORMATS["float32"], x, got, right, got != right)


@pytest.mark.parametrize(
    ("truncated", "odd", "against", "named"),
    [(40, 0, 4, True), (40, 0, 5, False), (10, 30, 0, True), (10, 31, 0, False), (10, 30, 1, True), (10, 30, 2, False)],
)
def test_what_explains_a_quarter_and_contradicts_a_tenth_of_that_is_named(
    truncated: int, odd: int, against: int, named: bool
) -> None:
    of = _evidence(truncated, odd, against)
    faults._nearly(of, np.ones(of.x.size, np.bool_))
    found = [(one.name, one.detail, one.where.size) for one in of.found]
    assert found == ([("truncates", "of most of these inputs", truncated)] if named else [])
    assert np.count_nonzero(of.open) == odd + truncated * (not named)


def test_the_regions_of_a_fault_are_where_its_inputs_lie() -> None:
    report = check_conversion(made.right("e4m3", rounding="nearest-away"), "e4m3", source="float16")
    assert report.faults[0].regions == {"overflow": 2, "tie": 126}  # 464 is a tie too, beyond the largest finite value
    assert FORMATS["e4m3"].max == 448


def test_inputs_and_results_that_are_flushed_alike_are_told_so() -> None:
    report = check_conversion(made.flushes_inputs("float16", "float8_e5m2"), "float16", source="float8_e5m2")
    assert (report.fault, report.faults[0].detail) == (
        "flushes subnormal results",
        "or inputs, which are the same here",
    )
