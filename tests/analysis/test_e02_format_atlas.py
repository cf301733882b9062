"""Is the atlas right, by sources it does not share: ml_dtypes, NumPy, and the formula of the standard?"""

from __future__ import annotations

from math import log2
from typing import Any

import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import fpemu as fp
from analysis import figures
from analysis.experiment import Profile, load

atlas: Any = load("e02_format_atlas")
PROFILE = Profile()


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    parts = [atlas.measure(unit, PROFILE) for unit in atlas.plan(PROFILE)]
    return {name: pd.concat([p[name] for p in parts if name in p], ignore_index=True) for name in parts[0]}


@pytest.fixture(scope="module")
def drawn(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    with figures.style():
        pictures: dict[str, Figure] = atlas.draw(tables)
        for figure in pictures.values():
            figure.canvas.draw()
    return pictures


def other(name: str) -> np.dtype[Any] | None:
    """The dtype of NumPy or ml_dtypes that is this format, if there is one."""
    kind = getattr(np, name, None) or getattr(ml_dtypes, name, None)
    return np.dtype(kind) if kind else None


def by_the_other(name: str, codes: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the other implementation says the first codes mean."""
    patterns = np.arange(codes).astype(fp.FORMATS[name].code_dtype)
    with np.errstate(invalid="ignore"):  # ml_dtypes signals on the way from bfloat16 NaNs
        return patterns.view(other(name)).astype(np.float64)


NAMED = [name for name in fp.FORMATS if not name.startswith("binary")]
ELSEWHERE = [name for name in NAMED if other(name)]


def test_every_format_of_the_catalogue_has_one_row(tables: dict[str, pd.DataFrame]) -> None:
    assert sorted(tables["formats"].format) == sorted(fp.FORMATS)
    assert len(ELSEWHERE) == len(NAMED) - 1  # only tfloat32 is in neither package


@pytest.mark.parametrize("name", ELSEWHERE)
def test_limits_are_those_of_the_other_implementation(tables: dict[str, pd.DataFrame], name: str) -> None:
    row = tables["formats"].set_index("format").loc[name]
    info = ml_dtypes.finfo(other(name))
    assert row["max"] == float(info.max)
    assert row["smallest_normal"] == float(info.smallest_normal)
    if row["subnormals"]:
        assert row["smallest_subnormal"] == float(info.smallest_subnormal)
    assert 2.0 ** row["log2_eps"] == float(info.eps)
    assert row["log2_max"] == pytest.approx(log2(float(info.max)), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if fp.FORMATS[name].bits <= 16])
def test_codes_are_counted_as_the_other_implementation_has_them(tables: dict[str, pd.DataFrame], name: str) -> None:
    row = tables["formats"].set_index("format").loc[name]
    bits = fp.FORMATS[name].bits
    values = by_the_other(name, 2**bits)
    assert row["decoded"] == "agrees"
    assert row["finite_codes"] == np.isfinite(values).sum()
    assert row["infinity_codes"] == np.isinf(values).sum()
    assert row["nan_codes"] == np.isnan(values).sum()
    assert row["finite_values"] == len(np.unique(values[np.isfinite(values)]))
    if bits <= atlas.WHEELS_UP_TO:
        codes = tables["codes"].query("format == @name")
        np.testing.assert_array_equal(codes.value, values)
        assert np.array_equal(codes.code, np.arange(2**bits))
        assert (codes.kind == "nan").sum() == row["nan_codes"]
        assert ((codes.kind == "zero") & codes.negative).any() == row["negative_zero"]


def test_formats_beyond_float64_follow_the_formula_of_p3109(tables: dict[str, pd.DataFrame]) -> None:
    """Report v4.0: value (1 + T / 2**(p-1)) * 2**(E - B), B = 2**(K-p-1) signed, 2**(K-p) unsigned."""
    beyond = tables["formats"][~tables["formats"].in_float64]
    assert len(beyond) > 0 and set(beyond.decoded) == {"not decoded"}
    for row in beyond.to_dict("records"):
        magnitude_bits = row["bits"] - row["signed"]
        bias = 2 ** (row["bits"] - row["precision"] - row["signed"])
        # the top magnitudes: infinity if extended, NaN if unsigned (a signed one has its NaN at the sign bit alone)
        top = 2**magnitude_bits - 1 - row["extended"] - (not row["signed"])
        exponent, trailing = divmod(top, 2 ** (row["precision"] - 1))
        significand = 1 + trailing / 2 ** (row["precision"] - 1)
        assert row["log2_max"] == pytest.approx(exponent - bias + log2(significand), abs=1e-9), row["format"]
        assert row["log2_smallest_subnormal"] == 1 - bias - (row["precision"] - 1), row["format"]
        assert np.isnan(row["max"])


def test_codes_of_every_format_add_up(tables: dict[str, pd.DataFrame]) -> None:
    formats = tables["formats"]
    assert (formats.finite_codes + formats.infinity_codes + formats.nan_codes == 2**formats.bits).all()
    assert not (formats.decoded == "differs").any()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_spacing_is_that_of_neighbouring_values(tables: dict[str, pd.DataFrame], name: str) -> None:
    values = by_the_other(name, 2 ** (fp.FORMATS[name].bits - 1))
    values = values[np.isfinite(values) & (values > 0)]
    rows = tables["spacing"].query("format == @name")
    lower, upper = values[:-1], values[1:]
    piece = rows.iloc[np.searchsorted(rows.log2_from, np.log2(lower), side="right") - 1]
    assert (piece.log2_to.to_numpy() >= np.log2(upper)).all()
    assert (piece.log2_spacing.to_numpy() == np.log2(upper - lower)).all()
    assert (piece.subnormal.to_numpy() == (lower < float(ml_dtypes.finfo(other(name)).smallest_normal))).all()


def test_spacing_covers_each_format_without_a_gap(tables: dict[str, pd.DataFrame]) -> None:
    for name, rows in tables["spacing"].groupby("format"):
        window = figures.window(str(name))
        assert rows.log2_from.iloc[0] == window.smallest
        assert rows.log2_to.iloc[-1] == pytest.approx(window.largest)
        assert np.array_equal(rows.log2_from.iloc[1:], rows.log2_to.iloc[:-1])


def test_the_verdict_holds_and_states_every_limit(tables: dict[str, pd.DataFrame]) -> None:
    verdict = atlas.verdict(tables)
    assert verdict.status == "holds"
    assert len(verdict.findings) == len(atlas.LIMITS)
    assert "differs" not in "".join(finding.measured for finding in verdict.findings)


@pytest.mark.parametrize("limit", atlas.LIMITS, ids=lambda limit: f"{limit.format}-{limit.column}")
def test_a_wrong_limit_is_found_out(tables: dict[str, pd.DataFrame], limit: Any) -> None:
    wrong = tables["formats"].copy()
    wrong.loc[wrong.format == limit.format, limit.column] *= 1.0625
    verdict = atlas.verdict({**tables, "formats": wrong})
    assert verdict.status == "does not hold at this scale"
    assert sum("differs" in finding.measured for finding in verdict.findings) == 1


def test_a_wrong_decoder_is_found_out(monkeypatch: pytest.MonkeyPatch, tables: dict[str, pd.DataFrame]) -> None:
    decode = fp.decode

    def without_subnormals(codes: Any, format: Any) -> Any:
        values = decode(codes, format)
        return np.where(np.abs(values) < format.smallest_normal, 0, values)

    monkeypatch.setattr(fp, "decode", without_subnormals)
    wrong = atlas.measure({"family": "p3109", "bits": 8}, PROFILE)["formats"]
    assert (wrong[wrong.precision > 1].decoded == "differs").all()
    right = tables["formats"][~tables["formats"].format.isin(wrong.format)]
    assert atlas.verdict({**tables, "formats": pd.concat([right, wrong])}).status == "does not hold at this scale"


def test_figures_are_those_of_the_captions_and_their_axes_say_what_and_in_which_unit(drawn: dict[str, Figure]) -> None:
    assert set(drawn) == set(atlas.CAPTIONS)
    for name in ("ranges", "spacing", "ladder", "family"):
        for ax in drawn[name].axes:
            assert "(" in ax.get_xlabel(), f"{name}: {ax.get_xlabel()!r} has no unit"
            shared = any(ax.get_shared_y_axes().joined(ax, first) for first in drawn[name].axes[:1] if first is not ax)
            assert ax.get_ylabel() or shared, name
    plt.close("all")


def test_the_wheels_show_every_code_once(drawn: dict[str, Figure], tables: dict[str, pd.DataFrame]) -> None:
    for ax, (name, rows) in zip(drawn["wheels"].axes, tables["codes"].groupby("format", sort=False), strict=False):
        zeros = sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "o")  # type: ignore[arg-type]
        assert len(ax.patches) + zeros == len(rows), name
        turns = np.array([patch.get_x() + patch.get_width() / 2 for patch in ax.patches]) % (2 * np.pi)  # type: ignore[attr-defined]
        assert np.diff(np.sort(turns)).min() > 0.9 * 2 * np.pi / len(rows), f"{name}: spokes on one another"


def test_the_ladder_counts_the_positive_values(drawn: dict[str, Figure], tables: dict[str, pd.DataFrame]) -> None:
    positive = tables["codes"][(tables["codes"].value > 0) & np.isfinite(tables["codes"].value)]
    drawn_ticks = sum(len(lines.get_segments()) for lines in drawn["ladder"].axes[0].collections)  # type: ignore[attr-defined]
    assert drawn_ticks == len(positive)


def test_limits_are_compared_to_the_digits_they_are_given() -> None:
    limit = atlas.Limit("bfloat16", "max", 3.3895e38, "3.3895e38", digits=5)
    assert limit.met(3.3895313892515355e38)
    assert not limit.met(3.3896e38)
