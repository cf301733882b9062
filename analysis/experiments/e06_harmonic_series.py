"""Where does the harmonic series, which diverges, end in each format?

The terms 1/n, each rounded once to the format, are added up one after another. The terms shrink and the sum grows, so from
some term on none moves the sum; the series then has a value. It is a fact of the format, without chance.

What to see: stairs that flatten where half a step of the sum exceeds the term; one more bit of precision doubles the number of terms
and adds about log 2 to the value; the FP8 formats end between 2 and 3.5.

1/n is computed in float64 first. Two roundings are those of the exact quotient wherever p <= 25 (Figueroa, When is double rounding
innocuous, 1995: a division in 2p + 2 bits), as here.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import colour, guide, label, log2_axis
from analysis.sums import Codes
from analysis.tables import where

LARGE = ("float32", "float16", "e6m9", "bfloat16")
SMALL = ("float8_e3m4", "float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")
FORMATS = (*LARGE, *SMALL)
CUSTOM = {"e6m9": fp.FloatFormat.ieee(6, 9)}
STEPS = 1024  # so many partial sums are kept, one by one
LONGEST = 2**22  # terms: float32 stays from 2^21 on, a format of precision p well before 2^p
EULER_GAMMA = 0.5772156649015329

TITLE = "The harmonic series ends"
QUESTION = "Where does the harmonic series, which diverges, end in each format?"
_HIGHAM = "N. J. Higham, Half Precision Arithmetic: fp16 Versus bfloat16, 2018; second-hand, quoted by others"
CLAIMS = (
    Claim("In FP16 the sum stays at 7.0859 from the 513th term on.", _HIGHAM, "7.0859, 513", "second-hand"),
    Claim("In BF16 it stays at 5.0625 from the 65th term on.", _HIGHAM, "5.0625, 65", "second-hand"),
    Claim(
        "In FP32 it stays at 15.4037 from term 2^21 on.",
        f"{_HIGHAM}, and by D. Malone, 2013",
        "15.4037, 2097152",
        "second-hand",
    ),
)
PUBLISHED = {"float16": (7.0859, 513), "bfloat16": (5.0625, 65), "float32": (15.4037, 2**21)}


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    """A unit a format; the same for every profile, and nothing is random."""
    return [{"format": name} for name in FORMATS]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``sums``: the partial sums that differ from the one before, up to STEPS, then some; ``ends``: a row a format."""
    name = str(unit["format"])
    format = _format(unit)
    codes = terms(format, max(STEPS, min(2**format.precision, LONGEST)))
    lengths, ends = partial_sums(codes, format)
    lost = first_lost(codes, lengths, ends, format)
    sums = fp.decode(ends, format).astype(np.float64)
    value = float(sums[-1])
    changed = np.flatnonzero(np.diff(sums, prepend=0))
    rows = pd.DataFrame({"format": name, "terms": lengths[changed], "sum": sums[changed]})
    end = {
        "format": name,
        "precision": format.precision,
        "first_lost": lost,
        "value": value,
        "exact": harmonic(lost - 1),
        "last_term": float(fp.decode(codes[lost - 1], format)),
        "half_spacing": value - _neighbour(value, format) if value else 0.0,
    }
    return {"sums": rows, "ends": pd.DataFrame([end])}


def terms(format: fp.FloatFormat, count: int) -> Codes:
    """1/n, rounded once."""
    return np.asarray(fp.encode(1 / np.arange(1, count + 1, dtype=np.float64), format))


def partial_sums(codes: Codes, format: fp.FloatFormat) -> tuple[np.ndarray, Codes]:
    """Lengths, and the sums of so many terms, as codes: the first STEPS, then eight to an octave.

    The sums of a triangle's rows: what is right of the diagonal is +0, and adding that changes nothing.
    """
    lengths = np.arange(1, STEPS + 1)
    first = fp.sum(np.tril(np.broadcast_to(codes[:STEPS], (STEPS, STEPS))), format)
    later = np.unique(np.geomspace(STEPS, len(codes), 8 * int(np.log2(len(codes) / STEPS)) + 1).astype(int))[1:]
    sums = [first[-1]]
    for start, end in zip([STEPS, *later], later, strict=False):
        sums.append(fp.sum(codes[start:end], format, initial=sums[-1]))
    return np.array([*lengths, *later]), np.array([*first, *sums[1:]], format.code_dtype)


def first_lost(codes: Codes, lengths: np.ndarray, sums: Codes, format: fp.FloatFormat) -> int:
    """The number of the first term that does not move the sum (nor does any after it: they are no larger)."""
    final = sums[-1]
    reached = int(np.argmax(sums == final))
    if not reached:
        return 2
    # the sum of ``there`` terms is the final one, that of ``below`` terms, ``known``, is not
    (below, there), known = lengths[reached - 1 : reached + 1], sums[reached - 1]
    while there - below > 1:
        middle = (below + there) // 2
        further = fp.sum(codes[below:middle], format, initial=known)
        below, there, known = (below, middle, known) if further == final else (middle, there, further)
    return int(there) + 1


def _neighbour(value: float, format: fp.FloatFormat) -> float:
    """The middle between a value and the next one below."""
    code = fp.encode(value, format)
    return (value + float(fp.decode(code - 1, format))) / 2


def harmonic(count: int) -> float:
    """The sum of 1/n up to ``count``, to about 1e-12: by terms, then by Euler and Maclaurin."""
    if count <= STEPS:
        return float(np.sum(1 / np.arange(1, count + 1)))
    return float(np.log(count) + EULER_GAMMA + 1 / (2 * count) - 1 / (12 * count**2))


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "stairs": (
        "Partial sums of the harmonic series, one rounded term after another, over the number of terms (logarithmic). Dashed: exact. "
        "A dot: the last term that moves the sum; from there on it stays (right: the value, and that term). Beyond 1,024 terms FP32 is known "
        "at single lengths only. Below: the formats of 8 bits and fewer. No randomness."
    ),
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"stairs": draw_stairs(tables["sums"], tables["ends"])}


def draw_stairs(sums: pd.DataFrame, ends: pd.DataFrame) -> Figure:
    """Stairs of all formats above, of the small ones below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7.6), height_ratios=(1.2, 1))
    for ax, names, last in ((above, LARGE, 22), (below, SMALL, 5)):
        exact = np.unique(np.geomspace(1, 2**last, 200).astype(int))
        guide(ax, np.log2(exact), [harmonic(n) for n in exact], "exact", offset=(-16, 0))
        shown = ends[ends.format.isin(names)].to_dict("records")
        for end, width in zip(shown, np.linspace(3.2, 1.2, len(shown)), strict=True):
            _draw_stair(ax, where(sums, format=end["format"]), end, last, width)
        for value in {end["value"] for end in shown}:
            _draw_name(ax, [end for end in shown if end["value"] == value], last)
        ax.set(ylabel="partial sum (no unit)", xlim=(0, last))
        log2_axis(ax, "number of terms")
    above.set_title("Formats of 16 and 32 bits")
    below.set_title("Formats of 4 to 8 bits")
    return figure


def _draw_stair(ax: Axes, rows: pd.DataFrame, end: dict[Any, Any], last: float, width: float) -> None:
    """Single steps as stairs, what is known at some lengths only as a line."""
    single, later = rows[rows.terms <= STEPS], rows[rows.terms >= rows.terms[rows.terms <= STEPS].max()]
    stays = min(last, float(np.log2(max(end["first_lost"], STEPS))))
    tint = _tint(end)
    ax.step(
        np.log2([*single.terms, STEPS]), [*single["sum"], single["sum"].iloc[-1]], where="post", color=tint, lw=width
    )
    ax.plot(np.log2(later.terms), later["sum"], color=tint, lw=width)
    ax.plot([stays, last], [end["value"]] * 2, color=tint, lw=width)
    ax.plot(np.log2(end["first_lost"] - 1), end["value"], "o", color=tint, markersize=2.5 + width)


def _draw_name(ax: Axes, ends: list[dict[Any, Any]], last: float) -> None:
    """Right of the axes: the formats that end at a value, with their last terms."""
    names = "\n".join(f"{_label(end)} ({end['first_lost'] - 1:,})" for end in ends)
    tint = _tint(ends[0]) if len(ends) == 1 else "#333333"
    place = (last, ends[0]["value"])
    ax.annotate(f"{place[1]:.7g}", place, (6, 0), textcoords="offset points", va="center", fontsize=7.5, color=tint)
    ax.annotate(names, place, (46, 0), textcoords="offset points", va="center", fontsize=7.5, color=tint)


def _format(row: dict[Any, Any]) -> fp.FloatFormat:
    return CUSTOM.get(row["format"]) or fp.FORMATS[row["format"]]


def _label(row: dict[Any, Any]) -> str:
    return label(_format(row))


def _tint(row: dict[Any, Any]) -> str:
    return colour(_format(row))


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The published values to their digits, the numbers of terms as the first that is lost."""
    rows = {row["format"]: row for row in tables["ends"].to_dict("records")}
    met = {name: _meets(rows[name], *PUBLISHED[name]) for name in PUBLISHED if name in rows}
    findings = tuple(
        Finding(
            f"{_label(row)} (p = {row['precision']}): value, and the first term that is lost",
            "{:g}, {:,}".format(*PUBLISHED[name]) if name in PUBLISHED else "not published",
            f"{row['value']:.9g}, {row['first_lost']:,} (exact sum until then {row['exact']:.4f})",
        )
        for name, row in rows.items()
    )
    told = ", ".join(f"{_label(row)} at {row['value']:.9g} (term {row['first_lost']:,})" for row in rows.values())
    return Verdict(
        "holds" if all(met.values()) else "does not hold at this scale", f"The series ends in {told}.", findings
    )


def _meets(row: dict[Any, Any], value: float, count: int) -> bool:
    digits = len(f"{value:g}".partition(".")[2])
    return f"{row['value']:.{digits}f}" == f"{value:.{digits}f}" and row["first_lost"] == count
