"""The table of what casts lose, as rows of text for the terminal and for HTML; and as plain data for JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf, isnan
from typing import Any

from fpemu.formats import as_format
from fpemu.histogram import Band, intersect_bands
from fpemu.plots import short_name
from fpemu.shown import shown
from fpemu.stats import CastLoss, TensorStats

ENERGY_LOST = 1e-3  # the share of the energy a loss scale may lose to zero
KINDS = {
    "new_zero": "became zero",
    "new_subnormal": "became subnormal",
    "saturated": "overflowed",
    "nonfinite_out": "became infinite or NaN",
}


@dataclass(frozen=True)
class Inspected:
    """A tensor of a file and what was found."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    stats: TensorStats

    @property
    def title(self) -> str:
        """The file and, where it may hold several, the tensor's name."""
        return title(self.file, self.name)


def title(file: str, name: str) -> str:
    """How a tensor of a file is called, in characters that print; the one of an .npy has the file's own name."""
    return shown(file if name == os.path.basename(file) else f"{file}: {name}")


def bands_of(stats: TensorStats) -> dict[str, Band]:
    """The loss scales that serve each format that has a zero to lose to."""
    formats = [part.cast.format for part in stats.formats if part.cast.format.has_zero]
    return {format.name: stats.histogram.band(format, ENERGY_LOST) for format in formats}


def common_bands(all_inspected: Sequence[Inspected]) -> dict[str, Band]:
    """The loss scales that serve all tensors."""
    each = [bands_of(one.stats) for one in all_inspected]
    return {name: intersect_bands(bands[name] for bands in each) for name in (each[0] if each else ())}


# ---- text -----------------------------------------------------------------------------------------------------------
def headline(one: Inspected) -> str:
    """What the tensor is, in one line."""
    stats = one.stats
    shape = " x ".join(map(str, one.shape)) or "one number"
    parts = [f"{one.dtype}, {shape}", f"{stats.size:,} element{'s' * (stats.size != 1)}"]
    parts.append(f"{stats.zeros:,} zero ({percent(stats.zeros / stats.size)})" if stats.zeros else "no zeros")
    if stats.nonfinite:
        parts.append(f"{stats.nonfinite:,} infinite or NaN")
    if stats.nonzero:
        filled = stats.histogram.exponents[stats.histogram.counts > 0]
        parts.append(f"binades 2^{filled[0]} to 2^{filled[-1]}, largest |x| {stats.amax:.6g}")
    return "; ".join(parts)


def table(stats: TensorStats) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a row for each measure, a column for each format."""
    losses = list(stats)
    rows: list[list[str]] = []
    for kind, words in KINDS.items():
        rows.append([words, *(f"{getattr(loss, kind):,}" for loss in losses)])
        if any(getattr(loss, kind) for loss in losses):
            rows.append(["  of the non-zeros", *(percent(getattr(loss, f"{kind}_of_nonzero")) for loss in losses)])
            rows.append(["  of the energy", *(percent(getattr(loss, f"{kind}_of_energy")) for loss in losses)])
    rows.append(["signal to noise (dB)", *(decibels(loss.sqnr_db) for loss in losses)])
    rows.append(["cosine", *(near_one(loss.cosine) for loss in losses)])
    rows.append(["gain <q,x>/<x,x>", *(near_one(loss.gain) for loss in losses)])
    rows.append(["largest relative error", *(percent(loss.max_relative_error) for loss in losses)])
    rows.append(["codes used", *(_codes_used(loss) for loss in losses)])
    bands = bands_of(stats)
    found = [bands.get(loss.format) for loss in losses]
    rows.append(["loss scales that serve", *(band_text(band) for band in found)])
    rows.append(["  best", *(best_text(band) for band in found)])
    return ["", *(short_name(loss.format) for loss in losses)], rows


def common_table(found: Sequence[Inspected]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the loss scales that serve all tensors."""
    bands = common_bands(found)
    rows = [["loss scales that serve", *map(band_text, bands.values())], ["  best", *map(best_text, bands.values())]]
    return ["", *map(short_name, bands)], rows


def _codes_used(loss: CastLoss) -> str:
    if loss.codes_used is None:
        return "-"
    return f"{loss.codes_used} of {1 << as_format(loss.format).bits}"


def percent(share: float) -> str:
    """A share; one that is not 0 or 1 never reads 0 or 100 %."""
    if isnan(share):
        return "-"
    if isinf(share):
        return "infinite"
    if 0 < share < 1e-6:
        return f"{100 * share:.0e} %"
    text = f"{100 * share:.3g} %" if share < 0.999 or share > 1 else f"{100 * share:.6g} %"
    return "> 99.9999 %" if share < 1 and text == "100 %" else text


def decibels(value: float) -> str:
    """A ratio in dB; "exact" where there is no noise."""
    return "-" if isnan(value) else "exact" if value == float("inf") else "-inf" if isinf(value) else f"{value:.1f}"


def near_one(value: float) -> str:
    """A number whose distance from 1 matters."""
    if isnan(value):
        return "-"
    if value != 1 and abs(value - 1) < 1e-5:
        return f"1 {'-' if value < 1 else '+'} {abs(1 - value):.1e}"
    return f"{value:.6g}"


def band_text(band: Band | None) -> str:
    """A band of loss scales."""
    if band is None:
        return "-"
    if band.empty:
        return "none"
    low = "any" if band.lowest is None else f"2^{band.lowest}"
    high = "any" if band.highest is None else f"2^{band.highest}"
    return "any" if low == high == "any" else f"{low} to {high}"


def best_text(band: Band | None) -> str:
    """The recommended scale of a band."""
    return "-" if band is None or band.recommended is None else f"2^{band.recommended}"


NOTE = (
    "Shares are of the non-zeros and of the energy (sum of squares). Loss scales that serve lose at most "
    f"{100 * ENERGY_LOST:g} % of the energy to zero and overflow nowhere, rounding to nearest even; they apply to the "
    "tensor as stored. The best is the farthest from both ends."
)


# ---- data -----------------------------------------------------------------------------------------------------------
def data(one: Inspected) -> dict[str, Any]:
    """A tensor's findings as plain data."""
    stats, histogram = one.stats, one.stats.histogram
    return {
        "name": one.name,
        "dtype": one.dtype,
        "shape": one.shape,
        "size": stats.size,
        "zeros": stats.zeros,
        "nonfinite": stats.nonfinite,
        "nonzero": stats.nonzero,
        "amax": stats.amax,
        "energy": stats.energy,
        "casts": stats.rows(),
        "loss_scales": {name: band_data(band) for name, band in bands_of(stats).items()},
        "histogram": {"exponents": histogram.exponents, "counts": histogram.counts},
    }


def band_data(band: Band) -> dict[str, Any]:
    """A band as plain data: exponents of two, None where there is no bound."""
    return {"lowest": band.lowest, "highest": band.highest, "empty": band.empty, "recommended": band.recommended}


def settings(scale: float, rounding: str, overflow: str) -> str:
    """How the casts were made, in one line."""
    before = "" if scale == 1 else f" after multiplying by {scale:.17g}"
    return f"cast{before}, rounding {rounding}, overflow {overflow}"
