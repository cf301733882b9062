"""The figures of e01_gradient_underflow: each takes that experiment's tidy tables and measures nothing.

Landmarks come from the formats themselves; what counts as served or damaged is defined in the experiment.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.experiments.e01_gradient_underflow import (
    COSINE,
    FORMATS,
    KINDS,
    LAYER_SCALES,
    SCALES,
    Tables,
    scales_that,
    serves,
    steps_of,
)
from analysis.figures import band, colour, label, log2_axis, power_of_two, style, window
from analysis.tables import spread, where
from analysis.training.capture import ACTIVATION, WEIGHT

KIND_LABELS = {ACTIVATION: "activation gradients", WEIGHT: "weight gradients"}
STEP_COLOURS = ("#9CC3E6", "#3B7DB8", "#0B2545")  # early to late: one hue, light to dark
ACCENT = "#CC3311"
SCALE_LABEL = "loss scale"
LEFT_EDGE = -58  # of the histogram; about 1 % of the values lie further left


def draw(tables: Tables) -> dict[str, Figure]:
    with style():
        return {
            "gradient_histogram": draw_histogram(tables),
            "four_measures": draw_four_measures(tables),
            "scale_map": draw_scale_map(tables),
            "band_drift": draw_band_drift(tables),
        }


def _step_name(step: int) -> str:
    return f"step {step:,}"


def _band_in_every_seed(bands: pd.DataFrame) -> tuple[float, float]:
    """Lowest and highest exponent that lie in all of the bands; an unbounded side is infinite."""
    return float(bands["lowest"].fillna(-np.inf).max()), float(bands["highest"].fillna(np.inf).min())


# ---- the classic histogram ------------------------------------------------------------------------------------------
def _window_rows(tables: Tables) -> Iterator[tuple[str, int]]:
    """(format, exponent of the scale): FP16 unscaled and at both published scales, FP8 unscaled and as recommended."""
    network = where(tables["bands_network"], step=steps_of(tables)[-1])
    swept = tables["cast"]["log2_scale"].unique()
    for name in FORMATS:
        recommended = where(network, format=name)["recommended"].median()
        own = () if isnan(recommended) or name == "bfloat16" else (int(min(swept, key=lambda k: abs(k - recommended))),)
        for scale in LAYER_SCALES if name == "float16" else (0, *own):
            yield name, scale


def draw_histogram(tables: Tables) -> Figure:
    steps, rows = steps_of(tables), list(_window_rows(tables))
    shares = tables["histogram"].groupby(["kind", "seed", "step", "exponent"], as_index=False)["count"].sum()
    sizes = tables["tensors"].groupby(["kind", "seed", "step"], as_index=False)[["size", "zeros"]].sum()
    shares = shares.merge(sizes, on=["kind", "seed", "step"])
    shares["share"] = 100 * shares["count"] / shares["size"]
    exponents = range(LEFT_EDGE, int(shares["exponent"].max()) + 2)
    right = max(window(name).largest for name in ("float16", "float8_e5m2")) + 1

    figure = plt.figure(figsize=(8, 7.2))
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 8), height_ratios=(3, 3, 0.36 * len(rows)))
    windows = figure.add_subplot(grid[2, 1])
    for row, kind in enumerate(KINDS):
        zero, ax = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1], sharex=windows)
        for place, (step, shade) in enumerate(zip(steps, STEP_COLOURS, strict=False)):
            wide = where(shares, kind=kind, step=step).pivot(index="exponent", columns="seed", values="share")
            wide = wide.reindex(exponents).fillna(0)
            middle = wide.index + 0.5  # bin e holds 2^e <= |g| < 2^(e+1)
            ax.fill_between(middle, wide.min(axis=1), wide.max(axis=1), color=shade, alpha=0.3, linewidth=0, step="mid")
            ax.step(middle, wide.median(axis=1), where="mid", color=shade, label=_step_name(step))
            of_step = where(sizes, kind=kind, step=step)
            zeros = 100 * of_step["zeros"] / of_step["size"]
            errors = [[zeros.median() - zeros.min()], [zeros.max() - zeros.median()]]
            zero.bar(place, zeros.median(), yerr=errors, color=shade, ecolor=ACCENT, width=0.8)
        zero.set(xticks=[1], xticklabels=["exact zeros"], ylim=(0, 100), ylabel="% of all values")
        zero.tick_params(axis="x", length=0)
        zero.grid(False, axis="x")
        ax.set(title=KIND_LABELS[kind].capitalize(), ylabel="% of all values\nper power of two", ylim=(0, None))
        ax.tick_params(labelbottom=False)
    figure.axes[2].legend(loc="upper left")

    for place, (name, scale) in enumerate(rows):
        w = window(name)
        # Nearest-even sends everything up to half the smallest value to zero.
        lost, left = w.smallest - 1 - scale, LEFT_EDGE - 1
        windows.barh(
            place,
            max(lost - left, 0),
            left=left,
            height=0.62,
            color="none",
            edgecolor="#B0B5BC",
            hatch="////",
            linewidth=0,
        )
        windows.barh(
            place, w.normal - scale - lost, left=lost, height=0.62, color=colour(name), alpha=0.35, linewidth=0
        )
        windows.barh(
            place, w.largest - w.normal, left=w.normal - scale, height=0.62, color=colour(name), alpha=0.9, linewidth=0
        )
    windows.set(title="What each format keeps of them", xlim=(LEFT_EDGE, right), ylim=(len(rows) - 0.4, -0.6))
    scale_names = [f"$\\times$ {power_of_two(scale)}" if scale else "unscaled" for _, scale in rows]
    windows.set_yticks(
        range(len(rows)), [f"{label(name)} {text}" for (name, _), text in zip(rows, scale_names, strict=True)]
    )
    windows.tick_params(axis="y", length=0)
    windows.grid(False, axis="y")
    log2_axis(windows, "magnitude of the unscaled gradient (absolute value)")
    last = where(tables["cast"], kind=ACTIVATION, step=steps[-1])
    numbers = windows.secondary_yaxis("right")
    numbers.set_yticks(
        range(len(rows)), [_lost_text(where(last, format=name, log2_scale=scale)) for name, scale in rows], fontsize=7
    )
    numbers.tick_params(axis="y", length=0)
    numbers.spines["right"].set_visible(False)
    keys = [
        Patch(facecolor="#555555", alpha=0.9, label="normal"),
        Patch(facecolor="#555555", alpha=0.35, label="subnormal"),
        Patch(facecolor="none", edgecolor="#B0B5BC", hatch="////", linewidth=0, label="becomes zero"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _lost_text(cast: pd.DataFrame) -> str:
    """What a cast loses, in words and numbers; nothing for a scale outside the sweep."""
    if cast.empty:
        return ""
    count, energy = 100 * cast["lost_of_nonzero"].median(), cast["lost_of_energy"].median()
    if count == 0:
        return "loses nothing"
    values = "> 99" if 99 < count < 100 else "< 1" if count < 1 else f"{count:.0f}"
    return f"loses {values} %, energy {energy:.0e}" if energy < 0.1 else f"loses {values} %, energy {energy:.2f}"


# ---- count, energy, SQNR, angle -------------------------------------------------------------------------------------
def draw_four_measures(tables: Tables) -> Figure:
    steps = steps_of(tables)
    cast_columns = {"new_zero_of_nonzero": "lost_of_nonzero", "energy_lost": "lost_of_energy", "sqnr_db": "sqnr_db"}
    passes = tables["backward"].assign(
        new_zero_of_nonzero=lambda t: 100 * t["new_zero_of_nonzero"],
        # Zero has no place on a logarithmic axis; nothing is claimed below these floors.
        energy_lost=lambda t: t["energy_lost"].clip(lower=1e-12),
        angle=lambda t: (1 - t["cosine_worst_layer"]).clip(lower=1e-9),
    )
    casts = tables["cast"].assign(
        lost_of_nonzero=lambda t: 100 * t["lost_of_nonzero"],
        lost_of_energy=lambda t: t["lost_of_energy"].clip(lower=1e-12),
        angle=lambda t: (1 - t["cosine"]).clip(lower=1e-9),
    )
    measures = (
        ("new_zero_of_nonzero", ACTIVATION, "newly zero\n(% of non-zeros)", "linear", (-4, 104)),
        ("energy_lost", ACTIVATION, "energy newly zero\n(share of all)", "log", (1e-12, 3)),
        ("sqnr_db", WEIGHT, "SQNR of weight\ngradients (dB)", "linear", (-5, 80)),
        ("angle", WEIGHT, "1 - cosine, worst\nlayer (no unit)", "log", (1e-9, 3)),
    )
    figure, axes = plt.subplots(4, 4, figsize=(8, 8), sharex=True, sharey="row")
    for column, name in enumerate(FORMATS):
        axes[0, column].set_title(label(name), color=colour(name))
        for row, (value, kind, text, scale, limits) in enumerate(measures):
            ax = axes[row, column]
            for step, shade in zip(steps, STEP_COLOURS, strict=False):
                part = where(passes, format=name, kind=kind, step=step)
                shares = spread(part, "log2_scale", value)
                overflow = part.loc[part["overflowed"], "log2_scale"].min()
                shares = shares[shares.index < overflow] if not isnan(overflow) else shares
                band(ax, shares, shade, _step_name(step))
                if not isnan(overflow) and not shares["median"].dropna().empty:
                    ax.plot(shares.index[-1], shares["median"].iloc[-1], "x", color=shade, markersize=5)
            last = where(casts, format=name, kind=kind, step=steps[-1]).query("not overflows")
            shares = spread(last, "log2_scale", cast_columns.get(value, "angle"))
            ax.plot(shares.index, shares["median"], ":", color=ACCENT, linewidth=1.2, label="cast only, last step")
            ax.set(yscale=scale, ylim=limits)
            if column == 0:
                ax.set_ylabel(text)
            if value == "angle":
                ax.axhline(1 - COSINE, color="#888888", linewidth=0.8, linestyle="--")
            ax.set_xlim(SCALES[0], SCALES[-1])
    for ax in axes[-1]:
        log2_axis(ax, SCALE_LABEL, most=6)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


# ---- layers by scale ------------------------------------------------------------------------------------------------
def draw_scale_map(tables: Tables) -> Figure:
    last = steps_of(tables)[-1]
    cells = where(tables["cast_layers"], step=last).query("log2_scale % 2 == 0")
    layers, scales = sorted(cells["layer"].unique(), reverse=True), sorted(cells["log2_scale"].unique())
    edges = [scales[0] - 1, *(scale + 1 for scale in scales)]
    tops = {kind: index * (len(layers) + 0.6) for index, kind in enumerate(KINDS)}  # a gap parts the two kinds
    figure, axes = plt.subplots(1, len(FORMATS), figsize=(8, 5.6), sharey=True)
    for ax, name in zip(axes, FORMATS, strict=True):
        for kind, top in tops.items():
            by_cell = where(cells, format=name, kind=kind).groupby(["layer", "log2_scale"])
            image = (
                by_cell["lost_of_energy"]
                .median()
                .clip(lower=1e-8)
                .where(~by_cell["overflows"].any())
                .unstack()
                .loc[layers]
            )
            rows = top + np.arange(len(layers) + 1) - 0.5
            ax.fill_between((edges[0], edges[-1]), rows[0], rows[-1], color="#B9BDC4", linewidth=0)
            mesh = ax.pcolormesh(edges, rows, image.to_numpy(), norm=LogNorm(1e-8, 1), cmap="cividis", rasterized=True)
            for row, layer in zip(rows, layers, strict=False):
                band = where(tables["bands"], step=last, format=name, kind=kind, layer=layer)
                low, high = np.clip(_band_in_every_seed(band), edges[0] + 0.3, edges[-1] - 0.3)
                if low <= high:
                    ax.add_patch(
                        Rectangle((low, row + 0.1), high - low, 0.8, fill=False, edgecolor="white", linewidth=0.9)
                    )
        low, high = _band_in_every_seed(where(tables["bands_network"], step=last, format=name))
        for end in (low, high) if low <= high else ():
            ax.axvline(end, color=ACCENT, linewidth=1.4)
        ax.set_title(label(name), color=colour(name))
        ax.set(xlim=(edges[0], edges[-1]), ylim=(tops[KINDS[-1]] + len(layers) - 0.4, -0.6))
        ax.set_yticks(
            [top + row for top in tops.values() for row in range(len(layers))], [f"{n}" for n in layers] * len(tops)
        )
        ax.grid(False)
        log2_axis(ax, SCALE_LABEL, most=6)
    axes[0].set_ylabel("layer (weight gradients)             layer (activation gradients)")
    figure.colorbar(
        mesh, ax=axes, label="energy lost to zero (share of the tensor's; $10^{-8}$ or less is darkest)", pad=0.02
    )
    return figure


# ---- the band from step to step -------------------------------------------------------------------------------------
def draw_band_drift(tables: Tables) -> Figure:
    steps = steps_of(tables)
    figure, ax = plt.subplots(figsize=(8, 4.4))
    places, names = [], []
    low_end, high_end = SCALES[0] - 1, SCALES[-1] + 1
    for group, name in enumerate(FORMATS):
        predicted = {
            step: _band_in_every_seed(where(tables["bands_network"], format=name, step=step)) for step in steps
        }
        shared_low, shared_high = max(low for low, _ in predicted.values()), min(high for _, high in predicted.values())
        top = group * (len(steps) + 1)
        if shared_low <= shared_high:
            left, right = max(shared_low, low_end), min(shared_high, high_end)
            ax.add_patch(
                Rectangle(
                    (left, top - 0.6), right - left, len(steps) + 0.2, color=colour(name), alpha=0.15, linewidth=0
                )
            )
        else:
            ax.text(high_end + 0.3, top + 1, "no scale serves\nevery step", va="center", fontsize=8, color=colour(name))
        for offset, step in enumerate(steps):
            place = top + offset
            low, high = predicted[step]
            if low <= high:
                left, right = max(low, low_end), min(high, high_end)
                ax.barh(place, right - left, left=left, height=0.62, color=colour(name), alpha=0.75)
            found = scales_that(where(tables["backward"], format=name, step=step), serves)
            if found:
                ax.plot(found, (place, place), color="#222222", linewidth=1.2, marker="|", markersize=9)
                for end, limit, marker in ((found[0], SCALES[0], "<"), (found[1], SCALES[-1], ">")):
                    if end == limit:
                        ax.plot(end, place, marker, color="#222222", markersize=5)
            places.append(place)
            names.append(f"{label(name)}, {_step_name(step)}")
    ax.set_yticks(places, names)
    ax.set(xlim=(low_end, high_end), ylim=(max(places) + 0.7, -0.7))
    ax.grid(False, axis="y")
    log2_axis(ax, SCALE_LABEL)
    keys = [
        Patch(color="#777777", alpha=0.75, label="predicted from histograms (bar)"),
        Line2D(
            [], [], color="#222222", marker="|", markersize=9, linewidth=1.2, label="found by backward passes (line)"
        ),
        Patch(color="#777777", alpha=0.2, label="serves every step"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure
