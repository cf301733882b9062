"""Figures: a histogram of exponents above the windows of the formats it might be cast to.

They take a histogram (or TensorStats) and return a matplotlib Figure made with its object interface: nothing global is
touched, no window opens, no display is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil, floor, frexp, log2
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fpemu.formats import FORMATS, Catalogue, FloatFormat, FormatName, as_format
from fpemu.histogram import ExponentHistogram
from fpemu.shown import in_figure
from fpemu.stats import TensorStats
from fpemu.targets.environment import in_default_environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; the lost regions are hatched as well.
BARS = "#4D4D4D"
KINDS: dict[str, dict[str, Any]] = {
    "rounds to zero": {"facecolor": "#F6D9CC", "edgecolor": "#D55E00", "hatch": "////"},
    "subnormal": {"facecolor": "#F0E442", "edgecolor": "#8A8200"},
    "normal": {"facecolor": "#56B4E9", "edgecolor": "#0072B2"},
    "overflows": {"facecolor": "#EBD0DF", "edgecolor": "#A03070", "hatch": "\\\\\\\\"},
}
WIDTH, BAR_HEIGHT, LANE_HEIGHT, FRAME_HEIGHT = 7.2, 1.9, 0.27, 1.35  # inches
MOST_BARS = 160
NEAR = 24  # a window's edge so many binades from the data is brought into view
EMPTY_VIEW = (-32, 24)


class Window(NamedTuple):
    """Where the magnitudes of x end up when x times a scale is cast, as log2 of x."""

    zero_below: float  # nearest rounding gives zero below, -inf where the format has no zero
    normal_from: float
    overflow_from: float


@in_default_environment
def window(format: FormatName, scale: float = 1.0) -> Window:
    """The window of a format, moved by a scale, from its facts; for nearest rounding.

    Zero ends half way to the smallest value; overflow begins half way from the largest finite value to what an
    unbounded exponent has next.
    """
    target, shift = as_format(format), log2(scale)
    significand, exponent = target.scientific(target.max_code)
    top = log2(2 * significand + 1) + exponent - 1
    zero = target.finest_exponent - 1 - shift if target.has_zero else float("-inf")
    return Window(zero, target.emin - shift, top - shift)


@in_default_environment
def exponent_histogram(
    tensor: ExponentHistogram | TensorStats,
    formats: Sequence[FormatName] = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *,
    scale: float | None = None,
    title: str = "",
) -> Figure:
    """One tensor's exponents, and below them each format's window: see ``exponent_histograms``."""
    return exponent_histograms({title: tensor}, formats, scale=scale)


@in_default_environment
def exponent_histograms(
    tensors: Mapping[str, ExponentHistogram | TensorStats],
    formats: Sequence[FormatName] = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *,
    scale: float | None = None,
) -> Figure:
    """The exponents of tensors, one panel each, and below each panel what becomes of them in each format.

    Parameters
    ----------
    tensors: title -> histogram or TensorStats.
    formats: whose windows to draw; a lane each.
    scale: the factor applied before casting; default that of the first TensorStats, else 1.  The lower axis is of x
        itself, so a scale moves the windows; an upper axis then gives log2 of x times the scale.

    Returns
    -------
    Figure: bars are shares of all elements, zeros in a bar of their own at the left.  Where TensorStats tell of a
    format and scale, the share of the non-zeros that it loses to zero stands at the right of its lane.

    Raises
    ------
    ValueError: no tensor, no format, or a scale that is not positive and finite.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    targets = [as_format(format) for format in formats]
    if not tensors or not targets:
        raise ValueError("a figure needs at least one tensor and one format")
    if scale is None:
        scale = next((tensor.scale for tensor in tensors.values() if isinstance(tensor, TensorStats)), 1.0)
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be positive and finite, not {scale}")
    lanes = LANE_HEIGHT * len(targets)
    panel = FRAME_HEIGHT + BAR_HEIGHT + lanes
    figure = Figure(figsize=(WIDTH, panel * len(tensors) + 0.35), layout="constrained")
    grid = figure.add_gridspec(2 * len(tensors), 1, height_ratios=[BAR_HEIGHT, lanes] * len(tensors), hspace=0.0)
    for row, (name, tensor) in enumerate(tensors.items()):
        histogram = tensor.histogram if isinstance(tensor, TensorStats) else tensor
        bars = figure.add_subplot(grid[2 * row])
        below = figure.add_subplot(grid[2 * row + 1], sharex=bars)
        view = _view(histogram, targets, scale)
        _draw_bars(bars, histogram, view, scale, name)
        _draw_lanes(below, targets, view, scale)
        _write_losses(below, targets, tensor, scale)
    patches = [Patch(label=label, **style) for label, style in KINDS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=8)
    return figure


class View(NamedTuple):
    """The exponents in view, the binades a bar takes, and where the bar of the zeros stands."""

    low: int
    high: int
    step: int

    @property
    def gap(self) -> float:
        """Width of the strip at the left that holds the zeros."""
        return (self.high - self.low) * 0.1

    @property
    def left(self) -> float:
        return self.low - self.gap


def _view(histogram: ExponentHistogram, targets: Sequence[FloatFormat], scale: float) -> View:
    """All data, and those edges of windows that are near it."""
    filled = histogram.exponents[histogram.counts > 0]
    low, high = (int(filled[0]), int(filled[-1]) + 1) if filled.size else EMPTY_VIEW
    edges = [edge for target in targets for edge in window(target, scale) if np.isfinite(edge)]
    near = [edge for edge in edges if low - NEAR <= edge <= high + NEAR]
    low, high = min([low, *map(floor, near)]) - 3, max([high, *map(ceil, near)]) + 3
    step = ceil((high - low) / MOST_BARS)
    return View(floor(low / step) * step, ceil(high / step) * step, step)


def _draw_bars(axes: Axes, histogram: ExponentHistogram, view: View, scale: float, title: str) -> None:
    size = max(histogram.size, 1)
    edges = np.arange(view.low, view.high + 1, view.step)
    counts = np.zeros(edges.size - 1)
    if histogram.exponents.size:
        place = (histogram.exponents - view.low) // view.step
        inside = histogram.counts > 0  # bins without values may lie outside the view
        np.add.at(counts, place[inside], histogram.counts[inside])
    axes.bar(edges[:-1], 100 * counts / size, view.step, align="edge", color=BARS, edgecolor="white", linewidth=0.3)
    zeros = 100 * histogram.zeros / size
    middle = view.left + 0.5 * view.gap
    axes.bar(middle, zeros, 0.5 * view.gap, color="white", edgecolor=BARS, hatch="....", linewidth=0.8)
    axes.set_xlim(view.left, view.high)
    top = max(1.1 * 100 * float(counts.max(initial=0)) / size, 1.25 * zeros)  # room for the label above the zeros
    axes.set_ylim(0, top if top else 1.0)
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= min(top, 100)] if top else [0, 1])
    label = f"zeros\n{_percent(histogram.zeros, histogram.size)}"
    above: dict[str, Any] = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(label, (middle, zeros), fontsize=7, **above)
    per = "binade" if view.step == 1 else f"{view.step} binades"
    axes.set_ylabel(f"share of elements\nper {per} (%)", fontsize=8)
    axes.tick_params(axis="x", labelbottom=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _mark_ticks(axes, view)
    if scale != 1:
        shift = np.float64(log2(scale))
        upper = axes.secondary_xaxis("top", functions=(partial(np.add, shift), partial(np.add, -shift)))
        upper.set_xlabel(rf"$\log_2 |x \cdot s|$ with the scale $s$ = {scale_text(scale)}", fontsize=8)
        upper.tick_params(labelsize=8)
    facts = f"{histogram.size:,} element{'s' * (histogram.size != 1)}"
    if histogram.nonfinite:
        facts += f", {histogram.nonfinite:,} of them not finite (not drawn)"
    if histogram.amax:
        facts += f", largest magnitude {histogram.amax:.4g}"
    axes.set_title(f"{in_figure(title)}\n{facts}" if title else facts, fontsize=9, loc="left")


def _draw_lanes(axes: Axes, targets: Sequence[FloatFormat], view: View, scale: float) -> None:
    """A lane for each format: what becomes of a magnitude there."""
    for lane, target in enumerate(targets):
        edge = window(target, scale)
        # Ordered by magnitude; where a format has no subnormals or no zero, its stretch is empty.
        stops = [view.low, edge.zero_below, edge.normal_from, edge.overflow_from, view.high]
        clipped = np.maximum.accumulate(np.clip(stops, view.low, view.high))
        for kind, start, stop in zip(KINDS, clipped[:-1], clipped[1:], strict=True):
            if stop > start:
                axes.barh(lane, stop - start, 0.72, start, linewidth=0.7, **KINDS[kind])
    axes.set_ylim(len(targets) - 0.4, -0.6)
    axes.set_yticks(range(len(targets)), [in_figure(short_name(target)) for target in targets], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(r"$\log_2 |x|$", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _mark_ticks(axes, view)


def _write_losses(
    axes: Axes, targets: Sequence[FloatFormat], tensor: ExponentHistogram | TensorStats, scale: float
) -> None:
    """At the right of each lane, the share of the non-zeros that becomes zero, where it is known."""
    if not isinstance(tensor, TensorStats) or tensor.scale != scale:
        return
    known = {loss.format: loss for loss in tensor}
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": 7, "va": "center", "clip_on": False}
    axes.text(1.01, -0.95, "lost to zero,\nof non-zeros", **beside)
    for lane, target in enumerate(targets):
        if target.name in known:
            loss = known[target.name]
            axes.text(1.01, lane, _percent(loss.new_zero, loss.nonzero) if loss.nonzero else "no non-zeros", **beside)


def _mark_ticks(axes: Axes, view: View) -> None:
    """Integer exponents only, none under the zeros."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=12, integer=True, steps=[1, 2, 4, 5, 8, 10]).tick_values(view.low, view.high)
    axes.set_xticks([int(tick) for tick in ticks if view.low <= tick <= view.high])


def short_name(format: FormatName) -> str:
    """The first alias of a catalogue format where it has one, else its name."""
    assert isinstance(FORMATS, Catalogue)
    target = as_format(format)
    return next(iter(FORMATS.aliases(target.name)), target.name) if FORMATS.get(target.name) == target else target.name


@in_default_environment
def scale_text(scale: float) -> str:
    """A scale as a power of two where it is one, for matplotlib."""
    mantissa, exponent = frexp(scale)
    return f"$2^{{{exponent - 1}}}$" if mantissa == 0.5 else f"{scale:g}"


def _percent(part: int, whole: int) -> str:
    """A share that never says 0 or 100 % of what is not."""
    if not whole or part in (0, whole):
        return f"{100 * part // whole if whole else 0} %"
    share = 100 * part / whole
    return "< 0.01 %" if share < 0.01 else "> 99.99 %" if share > 99.99 else f"{share:.3g} %"


@in_default_environment
def save_figure(figure: Figure, file: Any, dpi: int = 150) -> None:
    """Write a figure as PNG, whole or not at all; characters that its font lacks are boxes."""
    from fpemu.writing import writing_whole

    with writing_whole(file) as stream, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
