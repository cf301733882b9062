"""Verdicts on formats, libraries and hardware (e02 to e04): every limit, claim and state by itself."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from analysis.experiment import load
from tests.analysis.lab import Tables
from tests.analysis.plants.common import FAILS, HOLDS, down, found, said, up

# ---- e02 ------------------------------------------------------------------------------------------------------------
LIMITS = {  # IEEE 754, OCP OFP8 and MX, P3109: largest finite, smallest normal, smallest subnormal
    "float16": (65504, None, 2**-24),
    "bfloat16": (2.0**127 * (2 - 2**-7), None, None),
    "float8_e4m3fn": (448, None, 2**-9),
    "float8_e5m2": (57344, None, 2**-16),
    "float8_e4m3fnuz": (None, None, 2**-10),
    "float8_e5m2fnuz": (None, None, 2**-17),
    "float8_e8m0fnu": (2.0**127, 2.0**-127, None),
    "float6_e2m3fn": (7.5, 1, 0.125),
    "float6_e3m2fn": (28, 0.25, 0.0625),
    "float4_e2m1fn": (6, None, 0.5),
    "binary8p4se": (224, None, 2**-10),
}
COLUMNS = ("max", "smallest_normal", "smallest_subnormal")


def formats(change: tuple[str, str, float] | None = None, decoded: str = "agrees") -> Tables:
    rows = [
        {"format": name, "bits": 8, "decoded": "agrees", "in_float64": True, "log2_dynamic_range": 10.0 + place, "log2_max": 5.0,
         "log2_smallest_subnormal": -6.0, **{c: float("nan") if v is None else float(v) for c, v in zip(COLUMNS, limits, strict=True)}}
        for place, (name, limits) in enumerate(LIMITS.items())
    ]  # fmt: skip
    wide = {"format": "wide", "bits": 16, "decoded": "not decoded", "in_float64": False, "log2_dynamic_range": 999.0}
    rows.append({**rows[0], **wide, "log2_max": 777.0, "log2_smallest_subnormal": -222.0})
    rows.append({**rows[0], "format": "last", "bits": 9, "decoded": decoded})
    table = pd.DataFrame(rows)
    if change:
        table.loc[table.format == change[0], change[1]] = change[2]
    return {"formats": table}


def test_limits_of_formats_are_met_to_the_bit() -> None:
    e02: Any = load("e02")
    verdict = e02.verdict(formats())
    assert verdict.status == HOLDS
    assert said(verdict) == [
        "21",
        "21",
        "13",
        "12",
        str(11 * 256 + 512).replace("3328", "3,328"),
        "0",
        "1",
        "2",
        "-222",
        "2",
        "777",
    ]
    assert "the widest (wide)" in verdict.summary
    limits = {(limit.format, limit.column) for limit in e02.LIMITS}
    assert limits == {
        (name, c) for name, row in LIMITS.items() for c, v in zip(COLUMNS, row, strict=True) if v is not None
    }
    for name, column in limits:
        value = float(formats()["formats"].set_index("format")[column][name])
        for beside in (up, down):
            status = e02.verdict(formats((name, column, beside(value)))).status
            assert status == (HOLDS if name == "bfloat16" else FAILS), (name, column)
    wrong = e02.verdict(formats(decoded="differs"))
    assert wrong.status == FAILS and said(wrong)[5] == "1"


@pytest.mark.parametrize(("value", "status"), [(3.38945001e38, HOLDS), (3.38944999e38, FAILS), (3.38954999e38, HOLDS),
(3.38955001e38, FAILS)])  # fmt: skip
def test_a_limit_published_to_five_digits_is_met_to_five(value: float, status: str) -> None:
    verdict = load("e02").verdict(formats(("bfloat16", "max", value)))
    assert verdict.status == status
    assert sum("(differs)" in text for text in found(verdict)) == (status == FAILS)
