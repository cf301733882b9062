"""How far does each format reach, how finely, and which codes does it spend on what?

Every format of the catalogue is put on one axis of exponents: the fifteen named ones and the whole IEEE P3109 family,
K = 3 to 16 bits. All codes of every format of at most 19 bits are decoded and counted, and the limits found there are
set beside the limits derived from the format's facts and beside the published ones. Formats with values beyond float64
are described by exact integers (significand, exponent).

What to see: a bit of precision costs half of the exponents (map of the family); the relative spacing is a staircase in
precision and a ramp through the subnormals (spacing); E4M3 gains its top binade by giving up infinity (wheels); and
only BF16, TF32 and E8M0 reach as far as FP32 (ranges).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ldexp, nan
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.projections.polar import PolarAxes
from numpy.typing import NDArray

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import P3109_COLOUR, colour, decade_axis, label, log2_axis, power_of_two
from analysis.landmarks import window

DECODED_UP_TO = 19  # bits: every code of tfloat32 is decoded, not every code of float32
WHEELS_UP_TO = 8  # bits
FAMILY = "binary"  # how the names of the P3109 family begin
SPACED = ("float32", "tfloat32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fn", "float4_e2m1fn")
MAPPED = {  # on the map of the family: which way each label goes from its mark
    "tfloat32": (7, 5),
    "bfloat16": (7, 5),
    "float16": (7, 5),
    "float8_e5m2": (7, 5),
    "float8_e4m3fn": (7, 5),
    "float8_e3m4": (7, 5),
    "float6_e3m2fn": (-7, -3),
    "float6_e2m3fn": (8, -6),
    "float4_e2m1fn": (8, -4),
}
_PALE = 0.38  # opacity of subnormals
CLOSE_UP = (-28.0, 18.0)  # exponents of the enlarged part of the spacing figure

TITLE = "Atlas of formats"
QUESTION = "How far does each format reach, how finely does it resolve, and what does it spend its codes on?"

_OFP8 = "OCP 8-bit floating point (OFP8) v1.0; second-hand, as given in ONNX, “Float stored in 8 bits”, and NVIDIA Transformer Engine"
_MX = "OCP Microscaling (MX) v1.0; second-hand, as given in ONNX, “Float stored in 6 bits”, and the README of ml_dtypes"
_IEEE = "IEEE 754-2019, table 3.5 (binary16); second-hand"
_BF16 = "bfloat16 as in torch.finfo and ml_dtypes.finfo; second-hand"
_FNUZ = "ONNX, “Float stored in 8 bits”; primary"
_P3109 = "IEEE P3109 value tables, Binary8p4se (P3109/Public); primary"
CLAIMS = (
    Claim(
        "The two OFP8 formats have these largest finite values and smallest subnormals.",
        _OFP8,
        "E4M3 448 and 2^-9; E5M2 57344 and 2^-16",
        "second-hand",
    ),
    Claim(
        "The elements of the MX formats end at these values; their scale has this range.",
        _MX,
        "E2M3 7.5, E3M2 28, E2M1 6; E8M0 2^-127 to 2^127",
        "second-hand",
    ),
    Claim("FP16 and BF16 end at these values.", f"{_IEEE}; {_BF16}", "65504; 3.3895e38", "second-hand"),
    Claim("The formats without negative zero reach one binade lower.", _FNUZ, "E4M3 fnuz 2^-10; E5M2 fnuz 2^-17"),
    Claim(
        "The P3109 format of 8 bits and precision 4 reaches from this value down to this one.", _P3109, "224 and 2^-10"
    ),
)


@dataclass(frozen=True)
class Limit:
    """A published limit: of which format, which column of ``formats``, its value, and the digits it is given to."""

    format: str
    column: str
    value: float
    text: str
    digits: int | None = None

    def met(self, measured: float) -> bool:
        """Whether a measured value is the published one, to the digits published."""
        if self.digits is None:
            return measured == self.value
        return f"{measured:.{self.digits - 1}e}" == f"{self.value:.{self.digits - 1}e}"


LIMITS = (
    Limit("float16", "max", 65504, "65504"),
    Limit("float16", "smallest_subnormal", ldexp(1, -24), "2^-24"),
    Limit("bfloat16", "max", 3.3895e38, "3.3895e38", digits=5),
    Limit("float8_e4m3fn", "max", 448, "448"),
    Limit("float8_e4m3fn", "smallest_subnormal", ldexp(1, -9), "2^-9"),
    Limit("float8_e5m2", "max", 57344, "57344"),
    Limit("float8_e5m2", "smallest_subnormal", ldexp(1, -16), "2^-16"),
    Limit("float8_e4m3fnuz", "smallest_subnormal", ldexp(1, -10), "2^-10"),
    Limit("float8_e5m2fnuz", "smallest_subnormal", ldexp(1, -17), "2^-17"),
    Limit("float8_e8m0fnu", "smallest_normal", ldexp(1, -127), "2^-127"),
    Limit("float8_e8m0fnu", "max", ldexp(1, 127), "2^127"),
    Limit("float6_e2m3fn", "max", 7.5, "7.5"),
    Limit("float6_e2m3fn", "smallest_normal", 1, "1"),
    Limit("float6_e2m3fn", "smallest_subnormal", 0.125, "0.125"),
    Limit("float6_e3m2fn", "max", 28, "28"),
    Limit("float6_e3m2fn", "smallest_normal", 0.25, "0.25"),
    Limit("float6_e3m2fn", "smallest_subnormal", 0.0625, "0.0625"),
    Limit("float4_e2m1fn", "max", 6, "6"),
    Limit("float4_e2m1fn", "smallest_subnormal", 0.5, "0.5"),
    Limit("binary8p4se", "max", 224, "224"),
    Limit("binary8p4se", "smallest_subnormal", ldexp(1, -10), "2^-10"),
)
_COLUMN_WORDS = {
    "max": "largest finite value",
    "smallest_normal": "smallest normal",
    "smallest_subnormal": "smallest subnormal",
}


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    """The named formats, then the P3109 family width by width; the same for every profile, and nothing is random."""
    family: list[Unit] = [{"family": "p3109", "bits": bits} for bits in range(3, 17)]
    return [{"family": "named"}, *family]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``formats``: a row for each format. Of the named ones also ``spacing`` (edges of every binade) and ``codes``."""
    named = unit["family"] == "named"
    chosen = [
        fp.FORMATS[name]
        for name in fp.FORMATS
        if name.startswith(FAMILY) != named and (named or fp.FORMATS[name].bits == unit["bits"])
    ]
    tables = {"formats": pd.DataFrame([_describe(f, str(unit["family"])) for f in chosen])}
    if named:
        tables["spacing"] = pd.concat([_spacing(f) for f in chosen if f.name in SPACED], ignore_index=True)
        tables["codes"] = pd.concat([_codes(f) for f in chosen if f.bits <= WHEELS_UP_TO], ignore_index=True)
    return tables


def _describe(f: fp.FloatFormat, family: str) -> dict[str, str | int | float | bool]:
    """One format: its facts, its reach in exponents of two, its codes counted."""
    reach = window(f)
    significand, exponent = f.scientific(f.max_code)
    counts = _counts_by_facts(f)
    decoded = f.bits <= DECODED_UP_TO and f.holds_in_float64
    if decoded:
        by_facts, counts = counts, _counts_by_decoding(f)
        check = "agrees" if counts == by_facts else "differs"
    return {
        "format": f.name,
        "family": family,
        "bits": f.bits,
        "precision": f.precision,
        "exponent_bits": f.exponent_bits,
        "bias": f.bias,
        "signed": f.signed,
        "extended": f.infinities,
        "negative_zero": f.signed and f.negative_zero and f.has_zero,
        "zero": f.has_zero,
        "subnormals": f.smallest_code < f.smallest_normal_code,
        "log2_max": reach.largest,
        "log2_smallest_normal": reach.normal,
        "log2_smallest_subnormal": reach.smallest,
        "log2_eps": -f.trailing_bits,
        "normal_binades": f.emax - f.emin + 1,
        "log2_dynamic_range": reach.largest - reach.smallest,
        "max_significand": significand,
        "max_exponent": exponent,
        "in_float64": f.holds_in_float64,
        **counts,
        "decoded": check if decoded else "not decoded",
    }


def _counts_by_facts(f: fp.FloatFormat) -> dict[str, int | float]:
    """How many codes and values of each kind a format must have, and its limits (NaN where float64 has none)."""
    signs = 1 + f.signed
    magnitudes = f.max_code + 1
    lone_nan = f.signed and not f.negative_zero
    return {
        "finite_codes": signs * magnitudes - lone_nan,
        "finite_values": signs * magnitudes - (f.signed and f.has_zero),
        "infinity_codes": signs * f.infinities,
        "nan_codes": signs * f.high_nans + lone_nan,
        "max": f.max if f.holds_in_float64 else nan,
        "smallest_normal": f.smallest_normal if f.holds_in_float64 else nan,
        "smallest_subnormal": f.smallest_subnormal if f.holds_in_float64 else nan,
    }


def _counts_by_decoding(f: fp.FloatFormat) -> dict[str, int | float]:
    """The same from the values of all 2**bits codes; normal is what has its neighbour within 2**(1 - p) of itself."""
    values = fp.decode(np.arange(2**f.bits).astype(f.code_dtype), f).astype(np.float64)
    finite = np.unique(values[np.isfinite(values)])
    positive = finite[finite > 0]
    relative = np.diff(positive) / positive[:-1]
    normal = positive[:-1][relative <= 2.0 ** (1 - f.precision)]
    return {
        "finite_codes": int(np.isfinite(values).sum()),
        "finite_values": len(finite),
        "infinity_codes": int(np.isinf(values).sum()),
        "nan_codes": int(np.isnan(values).sum()),
        "max": float(finite[-1]),
        "smallest_normal": float(normal[0] if len(normal) else positive[-1]),
        "smallest_subnormal": float(positive[0]),
    }


def _spacing(f: fp.FloatFormat) -> pd.DataFrame:
    """Relative spacing at both edges of every binade (and of the subnormals), from decoded neighbours."""
    starts = [f.smallest_code] if f.smallest_code < f.smallest_normal_code else []
    starts += range(f.smallest_normal_code, f.max_code, 1 << f.trailing_bits)
    ends = [*starts[1:], f.max_code]
    codes = np.array([starts, [code + 1 for code in starts], ends]).astype(f.code_dtype)
    start, following, end = fp.decode(codes, f).astype(np.float64)
    spacing = np.log2(following - start)
    return pd.DataFrame(
        {
            "format": f.name,
            "log2_from": np.log2(start),
            "log2_to": np.log2(end),
            "log2_spacing": spacing,
            "subnormal": np.array(starts) < f.smallest_normal_code,
        }
    )


def _codes(f: fp.FloatFormat) -> pd.DataFrame:
    """Every code of a format, and what it stands for."""
    codes = np.arange(2**f.bits)
    values = fp.decode(codes.astype(f.code_dtype), f).astype(np.float64)
    magnitude = np.abs(values)
    kinds = [np.isnan(values), np.isinf(values), magnitude == 0, magnitude < f.smallest_normal]
    regular = np.isfinite(values) & (magnitude > 0)
    return pd.DataFrame(
        {
            "format": f.name,
            "code": codes,
            "negative": (codes & f.sign_mask) != 0,
            "kind": np.select(kinds, ["nan", "infinity", "zero", "subnormal"], "normal"),
            "value": values,
            "log2_magnitude": np.log2(magnitude, out=np.full(len(codes), nan), where=regular),
        }
    )


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "ranges": (
        "Range of the fifteen named formats. The axis is the magnitude in powers of two, the upper one the same in powers "
        "of ten. Solid: normal values; pale: subnormals. The precision p is in bits, the hidden bit included. No randomness."
    ),
    "spacing": (
        "Distance to the next value, relative to the value itself, against magnitude; both axes in powers of two. Above: "
        "whole range, each band running from the start to the end of its binades. Below: enlarged, with the single binades. Left of "
        "the smallest normal value the spacing stays fixed and the relative spacing climbs to one, the subnormal ramp; "
        "TF32 and FP16 resolve alike and differ in reach. No randomness."
    ),
    "wheels": (
        "Every code of the named formats of 8 bits and fewer, each a spoke or a mark on the rim. Code 0 is at the top; positive codes run down the right "
        "side in order, negative ones down the left as its mirror (E8M0 has no sign and runs once around). A spoke's length grows with log2 of the "
        "magnitude, from the format's smallest positive value to its largest; both are written beneath the wheel, and the number of finite codes "
        "in its middle. Zeros are marked a little aside of their place, which the neighbours would hide. No randomness."
    ),
    "ladder": (
        "The positive values of the same formats, each a tick at its magnitude in powers of two; tall: normal, short and pale: "
        "subnormal. The number of positive finite values is at the right. E8M0 goes on to both sides, from 2^-127 to 2^127. No randomness."
    ),
    "family": (
        "The IEEE P3109 family: dynamic range (largest finite over smallest positive value, in binades on a logarithmic axis) "
        "against precision in bits. Each line is one width K of the extended formats; one more bit of precision halves the "
        "range, until the subnormals make up most of it. Rings mark formats with values that float64 cannot hold. On the left some named "
        "formats are set among them. No randomness."
    ),
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The five figures of CAPTIONS."""
    formats, codes = tables["formats"], tables["codes"]
    return {
        "ranges": draw_ranges(formats[formats.family == "named"]),
        "spacing": draw_spacing(tables["spacing"]),
        "wheels": draw_wheels(codes),
        "ladder": draw_ladder(codes),
        "family": draw_family(formats),
    }


def draw_ranges(formats: pd.DataFrame) -> Figure:
    """A bar for each named format from its smallest to its largest value."""
    figure, ax = plt.subplots(figsize=(8, 5.4))
    rows = formats.sort_values(["bits", "log2_dynamic_range"], ascending=False).reset_index(drop=True)
    for y, row in enumerate(rows.to_dict("records")):
        least, normal, most = (row[f"log2_{name}"] for name in ("smallest_subnormal", "smallest_normal", "max"))
        ax.barh(y, most - normal, left=normal, height=0.62, color=colour(row["format"]))
        ax.barh(y, normal - least, left=least, height=0.62, color=colour(row["format"]), alpha=_PALE)
        aside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7.5}
        ax.annotate(power_of_two(least), (least, y), (-5, 0), ha="right", **aside)
        ax.annotate(_short(row["max"]), (most, y), (5, 0), **aside)
    ax.set_yticks(rows.index, [f"{label(name)}" for name in rows.format])
    widths = ax.secondary_yaxis("right")
    widths.set_yticks(rows.index, [f"{b} bit, p = {p}" for b, p in zip(rows.bits, rows.precision, strict=True)])
    for axis in (ax.yaxis, widths.yaxis):
        axis.set_tick_params(length=0)
    widths.spines["right"].set_visible(False)
    ax.spines["left"].set_visible(False)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(-172, 170)
    ax.set_ylabel("format")
    log2_axis(ax, "magnitude (powers of two)")
    decade_axis(ax, "magnitude (powers of ten)")
    pale = [
        Patch(color="#777777", label="normal values"),
        Patch(color="#777777", alpha=_PALE, label="subnormal values"),
    ]
    ax.legend(handles=pale, loc="lower left", bbox_to_anchor=(0, 0.02))
    return figure


def draw_spacing(spacing: pd.DataFrame) -> Figure:
    """Relative spacing over the whole range, and enlarged around one."""
    figure, (whole, close) = plt.subplots(2, 1, figsize=(8, 7.4), height_ratios=(1, 1.3))
    for name in SPACED:
        rows = spacing[spacing.format == name]
        tint, dashes = colour(name), (0, (4, 2)) if name == "tfloat32" else "-"
        x, saw, teeth = _corners(rows)
        whole.fill_between(
            x, teeth - 1, teeth, where=x >= rows.log2_to[rows.subnormal].max(), color=tint, alpha=0.25, linewidth=0
        )
        whole.plot(x, teeth, color=tint, linestyle=dashes, label=label(name))
        close.plot(x, saw, color=tint, linestyle=dashes, linewidth=1.3)
    close.set_xlim(*CLOSE_UP)
    whole.set_title("whole range")
    close.set_title("enlarged: FP32 lies far below, BF16 and TF32 go on to both sides")
    for ax, lowest in ((whole, -25.5), (close, -12)):
        ax.set_ylim(lowest, 1)
        log2_axis(ax, "magnitude (powers of two)")
        log2_axis(ax, "relative spacing (powers of two)", axis="y", most=8)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=len(SPACED))
    return figure


def _corners(rows: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Both edges of every binade: where they are, the saw through them, and the line along its teeth."""
    x = rows[["log2_from", "log2_to"]].to_numpy()
    saw = rows.log2_spacing.to_numpy()[:, None] - x
    teeth = np.where(rows.subnormal.to_numpy()[:, None], saw, saw[:, :1])
    return x.ravel(), saw.ravel(), teeth.ravel()


def draw_wheels(codes: pd.DataFrame) -> Figure:
    """One wheel for each format, a spoke for each code; how to read them stands where the last wheel would."""
    names = list(dict.fromkeys(codes.format))
    columns = 4
    rows = -(-(len(names) + 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(8, 2.55 * rows), layout="none", subplot_kw={"projection": "polar"}, squeeze=False
    )
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.045, wspace=0.04, hspace=0.26)
    for ax, name in zip(axes.flat, names, strict=False):
        _wheel(ax, codes[codes.format == name], name)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    axes.flat[len(names)].legend(handles=_WHEEL_KEY, loc="center", handlelength=1.2, labelspacing=0.7)
    return figure


_SPECIALS = {"infinity": "#222222", "nan": "#C0392B"}
_ZEROS: dict[str, Any] = {
    "markersize": 4.5,
    "markeredgecolor": "#222222",
    "markeredgewidth": 0.9,
    "linestyle": "none",
    "marker": "o",
}
_WHEEL_KEY = [
    Patch(color="#666666", label="normal value"),
    Patch(color="#666666", alpha=_PALE, label="subnormal value"),
    Line2D([], [], markerfacecolor="#222222", label="+0", **_ZEROS),
    Line2D([], [], markerfacecolor="white", label="-0", **_ZEROS),
    Patch(color=_SPECIALS["infinity"], label="infinity (on the rim)"),
    Patch(color=_SPECIALS["nan"], label="NaN (on the rim)"),
]
_FOOT, _INNER, _OUTER, _RIM = 0.30, 0.36, 1.0, (1.05, 1.19)  # radii: spokes begin, smallest value, largest, specials
_ZERO_ANGLE = (
    0.09  # radians: zeros are marked this far from the top, since two neighbouring codes would hide each other
)


def _wheel(ax: PolarAxes, rows: pd.DataFrame, name: str) -> None:
    ax.set_theta_zero_location("N")
    ax.set_theta_direction(-1)
    ax.set_axis_off()
    magnitudes = rows.code & fp.FORMATS[name].magnitude_mask
    side = np.where(rows.negative, -1, 1)
    sector = (np.pi if rows.negative.any() else 2 * np.pi) / (magnitudes.max() + 1)
    angle: pd.Series[float] = (magnitudes + 0.5) * sector * side
    low, high = rows.log2_magnitude.min(), rows.log2_magnitude.max()
    length = _INNER - _FOOT + (_OUTER - _INNER) * (rows.log2_magnitude - low) / (high - low)
    for kind, alpha in (("normal", 1.0), ("subnormal", _PALE)):
        chosen = rows.kind == kind
        ax.bar(angle[chosen], length[chosen], 0.72 * sector, bottom=_FOOT, color=colour(name), alpha=alpha, linewidth=0)
    for kind, ink in _SPECIALS.items():
        chosen = rows.kind == kind
        ax.bar(angle[chosen], _RIM[1] - _RIM[0], 0.9 * sector, bottom=_RIM[0], color=ink, linewidth=0)
    for negative, face in ((False, "#222222"), (True, "white")):
        zero = (rows.kind == "zero") & (rows.negative == negative)
        away = side[zero] * np.maximum(np.abs(angle[zero]), _ZERO_ANGLE)
        ax.plot(away, np.full(zero.sum(), sum(_RIM) / 2), markerfacecolor=face, **_ZEROS)
    around = np.linspace(0, 2 * np.pi, 181)
    for radius in (_FOOT, _OUTER):
        ax.plot(around, np.full(181, radius), color="#d5d9de", linewidth=0.6, zorder=0)
    finite = np.isfinite(rows.value)
    ax.text(0, 0, f"{finite.sum()}\nfinite", ha="center", va="center", fontsize=7)
    ax.set_title(label(name), fontsize=9, loc="center", y=1.03, pad=0)
    span = f"{_short(2.0**low)} to {_short(rows.value[finite].max())}"
    ax.text(0.5, -0.05, span, ha="center", va="center", fontsize=8, transform=ax.transAxes)
    ax.set_ylim(0, 1.22)


def _short(value: float) -> str:
    """A limit as people write it: a power of two as such, else the number, to five digits if long."""
    significand, exponent = np.frexp(value)
    if significand == 0.5 and not 1 <= value <= 16:
        return power_of_two(int(exponent) - 1)
    return f"{value:g}" if value < 1e5 else f"{value:.4e}".replace("e+", "e")


def draw_ladder(codes: pd.DataFrame) -> Figure:
    """A rung of ticks for each format."""
    figure, ax = plt.subplots(figsize=(8, 5.2))
    positive = codes[~codes.negative & codes.kind.isin(["normal", "subnormal"])]
    counts = positive.groupby("format", sort=False).size()
    for y, name in enumerate(counts.index):
        rows = positive[positive.format == name]
        normal = rows.kind == "normal"
        ax.vlines(rows.log2_magnitude[normal], y - 0.36, y + 0.36, color=colour(name), linewidth=0.8)
        ax.vlines(rows.log2_magnitude[~normal], y - 0.18, y + 0.18, color=colour(name), linewidth=0.8, alpha=0.6)
    ax.set_yticks(range(len(counts)), [label(name) for name in counts.index])
    amounts = ax.secondary_yaxis("right")
    amounts.set_yticks(range(len(counts)), [f"{count} values" for count in counts])
    for axis in (ax.yaxis, amounts.yaxis):
        axis.set_tick_params(length=0)
    amounts.spines["right"].set_visible(False)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    ax.set_xlim(-18.5, 17.5)
    ax.set_ylabel("format")
    log2_axis(ax, "magnitude (powers of two)", most=20)
    decade_axis(ax, "magnitude (powers of ten)")
    return figure


def draw_family(formats: pd.DataFrame) -> Figure:
    """Dynamic range against precision, a line for each width."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 5.2), sharey=True)
    family = formats[(formats.family == "p3109") & formats.extended]
    for ax, signed in zip(axes, (True, False), strict=True):
        side = family[family.signed == signed]
        ax.set_title("signed" if signed else "unsigned")
        for bits, rows in side.groupby("bits"):
            reach = np.log2(rows.log2_dynamic_range.where(rows.log2_dynamic_range > 0))
            ax.plot(rows.precision, reach, color=P3109_COLOUR, linewidth=1, marker="o", markersize=3, zorder=1)
            beyond = ~rows.in_float64
            ax.plot(
                rows.precision[beyond],
                reach[beyond],
                linestyle="none",
                marker="o",
                markersize=7,
                markerfacecolor="none",
                markeredgecolor="#777777",
                markeredgewidth=0.8,
            )
            ax.annotate(
                f"K = {bits}",
                (1, reach.iloc[0]),
                (-6, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=7,
            )
        ax.set_xlim(-1.4, 16.6)
        ax.set_xticks(range(1, 17))
        ax.set_xlabel("precision p (bits, hidden bit included)")
    _place_named(axes[0], formats)
    log2_axis(axes[0], "dynamic range (binades)", axis="y", most=20)
    axes[0].yaxis.set_major_formatter(lambda exponent, _: f"{2**exponent:g}" if exponent >= 0 else "")
    return figure


def _place_named(ax: Axes, formats: pd.DataFrame) -> None:
    """Some named formats, where they fall on the map."""
    for name, aside in MAPPED.items():
        row = formats[formats.format == name].iloc[0]
        place = (row.precision, np.log2(row.log2_dynamic_range))
        ax.plot(*place, marker="D", markersize=6, color=colour(name), linestyle="none", zorder=3)
        ax.annotate(
            label(name),
            place,
            aside,
            textcoords="offset points",
            fontsize=7.5,
            fontweight="bold",
            ha="left" if aside[0] > 0 else "right",
            color=colour(name),
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=4,
        )


def _exact(value: float) -> str:
    """All digits of a value, or its exponent where it is a power of two that has many."""
    significand, exponent = np.frexp(value)
    digits = f"{value:.17g}" if value == int(value) and value < 1e6 else repr(value)
    return digits if significand != 0.5 or len(digits) <= 6 else f"2^{int(exponent) - 1}"


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Published limits beside those found by decoding every code."""
    formats = tables["formats"].set_index("format")
    measured = [float(formats[limit.column][limit.format]) for limit in LIMITS]
    met = [limit.met(value) for limit, value in zip(LIMITS, measured, strict=True)]
    findings = tuple(
        Finding(
            f"{label(limit.format)}, {_COLUMN_WORDS[limit.column]}",
            limit.text,
            _exact(value) + ("" if ok else " (differs)"),
        )
        for limit, value, ok in zip(LIMITS, measured, met, strict=True)
    )
    decoded = formats[formats.decoded != "not decoded"]
    differing = int((decoded.decoded == "differs").sum())
    beyond = formats[~formats.in_float64]
    widest = formats.sort_values("log2_dynamic_range").iloc[-1]
    summary = (
        f"{sum(met)} of {len(met)} published limits are met; of {len(formats)} formats {len(decoded)} were decoded code by code "
        f"({int((2**decoded.bits).sum()):,} codes) and {differing} disagree with the limits derived from their facts; "
        f"{len(beyond)} have values beyond float64, the widest ({widest.name}) from 2^{widest.log2_smallest_subnormal:g} to "
        f"2^{widest.log2_max:g}."
    )
    return Verdict("holds" if all(met) and not differing else "does not hold at this scale", summary, findings)
