"""Does stochastic rounding of four-bit gradients pay, if each single tensor gets noisier by it?

One gradient is quantised to NVFP4 and MXFP4 again and again, to nearest and stochastically, and the copies are
averaged, as many steps of training average them. The error of the mean of M copies has two parts: what rounding does
every time (bias), and what averages out (noise).

What to see: a single stochastic copy is 3 to 4 dB worse; the mean of M stochastic copies gains 10 dB a decade, that of
copies to nearest stays where it is. The gain ends where a scale clips, under FLOOR and, later, in NVFP4, whose E4M3
scales may be rounded down: what is clipped is biased under any rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import fpemu as fp
from analysis.experiment import NO_NUMBER, Claim, Finding, Profile, Unit, Verdict
from analysis.figures import guide
from analysis.scaled import Array, drawn, real_tensors
from analysis.tables import medians, spread, where
from fpemu import scaling

COPIES = {"quick": (1, 2, 4, 8, 16, 32), "full": (1, 2, 4, 8, 16, 32, 64, 128, 200)}
SHAPE = (64, 512)
SCHEMES: dict[str, Callable[..., scaling.Scaled]] = {
    "NVFP4": scaling.nvfp4,
    "MXFP4, floor": partial(scaling.mx, format="e2m1"),
    "MXFP4, rceil": partial(scaling.mx, format="e2m1", rule="rceil"),
}
TINTS = {"NVFP4": "#0072B2", "MXFP4, floor": "#D55E00", "MXFP4, rceil": "#E69F00"}

TITLE = "Stochastic against nearest for four-bit gradients"
QUESTION = "Does stochastic rounding of four-bit gradients pay, if each single tensor gets noisier by it?"
CLAIMS = (
    Claim(
        "Gradients of four bits need stochastic rounding; activations and weights must not have it.",
        "NVIDIA, Pretraining Large Language Models with NVFP4, arXiv 2509.25149; primary",
        NO_NUMBER,
    ),
    Claim("A single tensor is closer if rounded to nearest, the mean of 200 copies if rounded stochastically.", "our own pilot",
          "22.9 and 19.2 dB; 22.9 and 42.2 dB", "pilot"),
)  # fmt: skip


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``means``: a row for every tensor, scheme, rounding and number of copies."""
    seed = int(unit["seed"])
    tensors = {"Gaussian": drawn("Gaussian", SHAPE, seed), "weight gradient": real_tensors(seed)["weight gradient"]}
    rows: list[dict[str, Any]] = []
    for name, x in tensors.items():
        for scheme, quantise in SCHEMES.items():
            for rounding in ("nearest-even", "stochastic"):
                total: Array = np.zeros(x.shape)
                for copy in range(1, COPIES[profile.name][-1] + 1):
                    total = total + quantise(x, rounding=rounding, seed=1000 * seed + copy).dequantize(np.float64)
                    if copy in COPIES[profile.name]:
                        about = {"seed": seed, "tensor": name, "scheme": scheme, "rounding": rounding}
                        rows.append({**about, "copies": copy, "sqnr_db": fp.errors(x, total / copy).sqnr_db})
    return {"means": pd.DataFrame(rows)}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "means": (
        "SQNR of the mean of M quantised copies of one tensor (dB) over M, to nearest (dashed) and stochastically (solid); left Gaussian "
        "values, right the weight gradient of a digits "
        "network. Grey: 10 dB a decade, what unbiased noise gives. Line: median, band: range over the seeds."
    )
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figure of CAPTIONS."""
    return {"means": draw_means(tables["means"])}


def draw_means(means: pd.DataFrame) -> Figure:
    """A panel a tensor."""
    names = list(dict.fromkeys(means.tensor))
    figure, axes = plt.subplots(1, len(names), figsize=(8, 4), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        for scheme, tint in TINTS.items():
            for rounding, line in (("nearest-even", "--"), ("stochastic", "-")):
                ends = spread(where(means, tensor=name, scheme=scheme, rounding=rounding), "copies", "sqnr_db")
                ax.fill_between(ends.index, ends["least"], ends["greatest"], color=tint, alpha=0.2, linewidth=0)
                ax.plot(ends.index, ends["median"], line, color=tint, label=f"{scheme}, {rounding}")
        copies = np.array(sorted(set(means.copies)), float)
        start = where(means, tensor=name, scheme="NVFP4", rounding="stochastic", copies=1).sqnr_db.median()
        guide(ax, copies, start + 10 * np.log10(copies), "10 dB a decade", at=len(copies) // 2, offset=(-30, 12))
        ax.set(xscale="log", xlabel="copies averaged, M", title=name)
    axes[0].set_ylabel("SQNR of their mean (dB)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
NOISIER = 1  # dB that one stochastic copy is worse than one to nearest, at least
PAYS = 6  # dB by which the mean of all stochastic copies is the better one, at least
UNBIASED = 1  # dB less than unbiased noise would gain, at most


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """One copy, and the mean of all."""
    means = tables["means"]
    most = int(means.copies.max())
    at = medians(means, "tensor", "scheme", "rounding", "copies")

    def value(scheme: str, rounding: str, copies: int, tensor: str = "Gaussian") -> float:
        return at[tensor, scheme, rounding, copies]["sqnr_db"]

    worse = {scheme: value(scheme, "nearest-even", 1) - value(scheme, "stochastic", 1) for scheme in SCHEMES}
    gained = {scheme: value(scheme, "stochastic", most) - value(scheme, "stochastic", 1) for scheme in SCHEMES}
    nearest = value("NVFP4", "nearest-even", most) - value("NVFP4", "nearest-even", 1)
    word = "gains" if nearest > 0 else "loses"
    ideal = 10 * np.log10(most)
    pays = all(v > NOISIER for v in worse.values()) and all(
        value(scheme, "stochastic", most) > value(scheme, "nearest-even", most) + PAYS for scheme in SCHEMES
    )
    unbiased = all(ideal - gain < UNBIASED for gain in gained.values())
    status = "does not hold at this scale" if not pays else "holds" if unbiased else "holds with conditions"
    summary = (
        f"A single stochastic NVFP4 copy of Gaussian values is {worse['NVFP4']:.1f} dB worse than one rounded to nearest; the mean of {most} "
        f"gains {gained['NVFP4']:.1f} dB where unbiased noise would gain {ideal:.1f}: an E4M3 scale that was rounded down clips its block's "
        f"largest element, every time. The mean of {most} copies rounded to nearest "
        f"{'gains nothing' if abs(nearest) < 0.05 else f'{word} {abs(nearest):.1f} dB'}. In MXFP4 the stochastic mean gains "
        f"{gained['MXFP4, floor']:.1f} dB under FLOOR, which clips more, and {gained['MXFP4, rceil']:.1f} under RCEIL, which never clips."
    )
    findings = tuple(
        Finding(
            f"{tensor}, {scheme}: one copy to nearest and stochastically; the mean of {most}",
            "22.9, 19.2 dB; 22.9, 42.2 dB of 200 (pilot, block and scale not recorded)" if (tensor, scheme) == ("Gaussian", "NVFP4") else "not published",
            "; ".join(
                f"{value(scheme, 'nearest-even', copies, tensor):.1f}, {value(scheme, 'stochastic', copies, tensor):.1f} dB"
                for copies in (1, most)
            ),
        )
        for tensor in dict.fromkeys(means.tensor)
        for scheme in SCHEMES
    )  # fmt: skip
    return Verdict(status, summary, findings)
