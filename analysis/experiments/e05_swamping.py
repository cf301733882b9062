"""Where do sums stall in 16-bit accumulators, and do chunks and stochastic rounding keep them going?

Values of mean 1 and standard deviation 1, uniform, are added up one after another, in chunks of 32 and 64 (the sums of the
chunks are then added in the same format), and one after another with stochastic rounding. Accumulators: the FP16 of 6 exponent
and 9 fraction bits in which the effect was published, IEEE's FP16 and BF16. The values are rounded to the format first, so that
every error is one of accumulation.

What to see: a sum to nearest stops for good at the power of two where half a spacing exceeds the largest value, 2^(p + 2) for
these, whatever is added; chunks of n put the stall off n-fold and no more; stochastic rounding has none, at the price of noise; and
IEEE's FP16 overflows where the format with one more exponent bit goes on.
"""

from __future__ import annotations

from math import ceil, inf, log2, sqrt
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band, guide, label, log2_axis
from analysis.sums import Codes, exact_sums
from analysis.tables import medians, percent, spread, where

FP16_6_9 = fp.FloatFormat.ieee(6, 9)
FORMATS = {one.name: one for one in (FP16_6_9, fp.FORMATS["float16"], fp.FORMATS["bfloat16"])}


class Method(NamedTuple):
    """A way to add up, and its colour."""

    order: str
    rounding: str
    tint: str


METHODS = {
    "one by one": Method("sequential", "nearest-even", "#D55E00"),
    "chunks of 32": Method("chunked(32)", "nearest-even", "#56B4E9"),
    "chunks of 64": Method("chunked(64)", "nearest-even", "#0072B2"),
    "stochastic, one by one": Method("sequential", "stochastic", "#009E73"),
}
NAIVE, CHUNKS, STOCHASTIC = "one by one", "chunks of 64", "stochastic, one by one"
ENDS = (1 - sqrt(3), 1 + sqrt(3))  # uniform between them: mean 1, standard deviation 1
LENGTHS = {"quick": [2**k for k in range(4, 18)], "full": [2**k for k in range(4, 21)]}
ONES = 1 << 14  # as many as every sum of ones needs to stall
KEPT = 2**16  # the length at which the remedies are judged

TITLE = "Swamping: where sums stall"
QUESTION = "Where do sums stall in 16-bit accumulators, and do chunks and stochastic rounding keep them going?"
_WANG = "Wang et al., Training Deep Neural Networks with 8-bit Floating Point Numbers, NeurIPS 2018"
CLAIMS = (
    Claim(
        "In FP16 (1, 6, 9) a sum of uniform values of mean 1 and standard deviation 1 stalls from a length of 4096 on.",
        f"{_WANG}, figure; second-hand, from memory",
        "4096", "second-hand",
    ),
    Claim("In chunks of 64 it follows the exact sum.", f"{_WANG}; second-hand, from memory", "close to FP32", "second-hand"),
    Claim(
        "Chunks and stochastic rounding let additions go down from 32 to 16 bits.",
        f"{_WANG}, abstract; primary",
        "16 bits",
    ),
    Claim("In IEEE's FP16 the same sum stalls at 8192.", "our own pilot", "8192", "pilot"),
)  # fmt: skip


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"format": name, "seed": seed} for seed in range(profile.seeds) for name in FORMATS]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``sums``: a row for every method and length; ``stalls``: where a sum to nearest stops, of these values and of ones."""
    name, seed = str(unit["format"]), int(unit["seed"])
    format, lengths = FORMATS[name], LENGTHS[profile.name]
    values = np.random.default_rng(seed).uniform(*ENDS, lengths[-1])
    codes = np.asarray(fp.encode(values, format))
    exact = exact_sums(codes[None], format, lengths)[0]
    about = {"format": name, "seed": seed}
    sums = [
        {**about, "method": method, "length": length, "sum": total, "exact": true, "error": abs(total - true) / abs(true)}
        for method in METHODS
        for length, true in zip(lengths, exact, strict=True)
        for total in (add_up(codes[:length], format, method, seed),)
    ]  # fmt: skip
    ones = np.full(ONES, fp.encode(1.0, format), format.code_dtype)
    stalls = [
        {**about, "values": kind, **stall(terms, format), "predicted": predicted(terms, format)}
        for kind, terms in (("uniform", codes), ("ones", ones))
    ]
    return {"sums": pd.DataFrame(sums), "stalls": pd.DataFrame(stalls)}


def add_up(codes: Codes, format: fp.FloatFormat, method: str, seed: int = 0) -> float:
    """The sum of the codes' values, in their format."""
    how = METHODS[method]
    total = fp.sum(codes, format, order=how.order, rounding=how.rounding, seed=seed)
    return float(fp.decode(total, format))


def stall(codes: Codes, format: fp.FloatFormat) -> dict[str, Any]:
    """The value at which a sum to nearest stays, and how many terms it takes to get there (by bisection)."""
    final = add_up(codes, format, NAIVE)
    below, there = 0, len(codes)
    while there - below > 1:
        middle = (below + there) // 2
        below, there = (below, middle) if add_up(codes[:middle], format, NAIVE) == final else (middle, there)
    return {"stalled_at": final, "terms": there}


def predicted(codes: Codes, format: fp.FloatFormat) -> float:
    """The least power of two whose half spacing is at least the largest value: a tie stays, its last bit being even."""
    largest = float(np.max(fp.decode(codes, format)))
    return float(2.0 ** (ceil(log2(largest)) + format.precision))


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "swamping": (
        "Sums of uniform values of mean 1 and standard deviation 1 (above, dashed: exact) and their relative error (below) over the number of terms, "
        "in three 16-bit accumulators. The format e6m9 is the FP16 with 6 exponent and 9 fraction bits. Dotted: the power of two at which a sum one by one "
        "must stall. Lines of FP16 end where the sum overflows. Line: median, band: range over the seeds."
    )
}
FLOOR = 1e-5


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"swamping": draw_swamping(tables["sums"], where(tables["stalls"], values="uniform"))}


def draw_swamping(sums: pd.DataFrame, stalls: pd.DataFrame) -> Figure:
    """Sums above, errors below, a column a format."""
    finite = sums[sums["sum"] != inf].assign(
        log2_length=lambda t: np.log2(t.length), log2_sum=lambda t: np.log2(t["sum"].clip(lower=1))
    )
    figure, axes = plt.subplots(2, len(FORMATS), figsize=(8, 5.8), sharex=True, sharey="row")
    longest = float(np.log2(sums.length.max()))
    for column, (name, format) in enumerate(FORMATS.items()):
        above, below = axes[:, column]
        guide(above, (4, longest), (4, longest), "exact", at=0, offset=(0, 22))
        _draw_stall(above, float(where(stalls, format=name).predicted.max()), longest)
        for method, how in METHODS.items():
            part = where(finite, format=name, method=method)
            band(above, spread(part, "log2_length", "log2_sum").dropna(), how.tint, method)
            band(below, spread(part, "log2_length", "error").dropna().clip(lower=FLOOR), how.tint)
        above.set_title(f"{label(format)} (p = {format.precision})")
        below.set(yscale="log", ylim=(FLOOR, 2))
        log2_axis(below, "number of terms", most=8)
    log2_axis(axes[0, 0], "sum (no unit)", axis="y")
    axes[1, 0].set_ylabel("relative error (of the exact sum)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def _draw_stall(ax: Axes, value: float, longest: float) -> None:
    ax.axhline(log2(value), color="#D55E00", linewidth=1, linestyle=":")
    ax.annotate(
        f"{value:,.0f}", (longest, log2(value)), (0, -10), textcoords="offset points", ha="right", fontsize=7.5, color="#D55E00"
    )  # fmt: skip


# ---- verdict --------------------------------------------------------------------------------------------------------
STALLS_AT = 4096.0  # as published, in (1, 6, 9)
CHUNKS_LOSE, STOCHASTIC_LOSES = 0.01, 0.1  # less than this of a sum of 2^16 terms
STALLED = 0.1  # more than this lost: the sum stalls


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Every seed stalls where it must; the remedies by their median error at 2^16 terms."""
    stalls, sums = tables["stalls"], tables["sums"]
    as_predicted = bool((stalls.stalled_at == stalls.predicted).all())
    ours = where(stalls, format=FP16_6_9.name, values="uniform")
    at = medians(where(sums, length=KEPT), "format", "method")
    errors = {method: at[FP16_6_9.name, method]["error"] for method in METHODS}
    kept = errors[CHUNKS] < CHUNKS_LOSE and errors[STOCHASTIC] < STOCHASTIC_LOSES
    published = set(ours.stalled_at) == {STALLS_AT}
    overflow = sums[(sums.format == "float16") & (sums["sum"] == inf)]
    last = medians(where(sums, length=int(sums.length.max()), format=FP16_6_9.name), "method")
    status = "holds" if as_predicted and published and kept else "does not hold at this scale"
    stall_too = last[CHUNKS]["error"] > STALLED
    if status == "holds" and stall_too:
        status = "holds with conditions"
    summary = (
        f"FP16 (1, 6, 9) stalls at {_values(ours.stalled_at)} after {_range(ours.terms)} terms, "
        f"{'as' if as_predicted else 'not as'} predicted from its spacing; at 2^16 terms it has lost "
        f"{percent(errors[NAIVE])}, with chunks of 64 {percent(errors[CHUNKS], 2)}, with stochastic rounding {percent(errors[STOCHASTIC])}; at "
        f"2^{log2(sums.length.max()):.0f} terms chunks of 64 have lost {percent(last[CHUNKS]['error'])}{': they stall too' if stall_too else ''}."
    )
    findings = [
        Finding(
            f"{label(format)}, {kind}: where the sum stalls (predicted), after how many terms",
            STATED.get((name, kind), "not published"),
            f"{_values(rows.stalled_at)} ({_values(rows.predicted)}), {_range(rows.terms)}",
        )
        for name, format in FORMATS.items()
        for kind in ("uniform", "ones")
        if not (rows := where(stalls, format=name, values=kind)).empty
    ]
    findings += [
        Finding(
            f"{label(format)}: relative error at 2^16 terms",
            "close to FP32 in chunks of 64" if format is FP16_6_9 else "not published",
            "; ".join(f"{method} {_error(at[name, method]['error'])}" for method in METHODS),
        )
        for name, format in FORMATS.items()
    ]
    findings.append(
        Finding(
            "FP16: shortest length whose sum overflows",
            "not published",
            f"{overflow.length.min():,} terms, in {', '.join(m for m in METHODS if m in set(overflow.method))}" if len(overflow) else "none",
        )
    )  # fmt: skip
    return Verdict(status, summary, tuple(findings))


STATED = {(FP16_6_9.name, "uniform"): "4096", ("float16", "uniform"): "8192 (pilot)"}


def _error(error: float) -> str:
    return "overflow" if error == inf else percent(error, 2)


def _values(values: pd.Series[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in sorted(set(values)))


def _range(values: pd.Series[int]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
