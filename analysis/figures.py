"""What figures of the lab share: the style, one colour for each format, axes in powers of two, windows of formats.

Figures live on exponents: a coordinate e on a ``log2_axis`` stands for the magnitude 2**e, which also reaches where
float64 does not (binary16p1ue spans 2**-32767 to 2**32765). Every landmark is read from the format itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator
from numpy.typing import ArrayLike
from PIL import Image

from analysis.landmarks import Window, log2_of, window
from fpemu.formats import FloatFormat, as_format
from fpemu.shown import in_figure

__all__ = [
    "FORMAT_COLOURS",
    "FORMAT_LABELS",
    "GUIDE",
    "MAX_PNG_BYTES",
    "P3109_COLOUR",
    "PowerOfTwoStep",
    "Window",
    "band",
    "colour",
    "decade_axis",
    "guide",
    "in_figure",
    "label",
    "log2_axis",
    "log2_of",
    "png_bytes",
    "power_of_two",
    "shade_window",
    "style",
    "window",
]

STYLES = Path(__file__).with_name("styles")
MAX_PNG_BYTES = 200 * 1024

# One colour a format, the same in every figure. The four that meet most often are the well-separated ones of
# Okabe and Ito (2008); relatives share a hue and differ in lightness. Other formats are P3109_COLOUR.
FORMAT_COLOURS = MappingProxyType(
    {
        "float32": "#333333",
        "tfloat32": "#7A7F87",
        "float16": "#0072B2",
        "bfloat16": "#E69F00",
        "float8_e5m2": "#D55E00",
        "float8_e4m3fn": "#009E73",
        "float8_e4m3": "#5DBB63",
        "float8_e3m4": "#A6B727",
        "float8_e5m2fnuz": "#F0906A",
        "float8_e4m3fnuz": "#2B7F86",
        "float8_e4m3b11fnuz": "#74C2B8",
        "float8_e8m0fnu": "#A07B4F",
        "float6_e2m3fn": "#CC79A7",
        "float6_e3m2fn": "#8D5BA6",
        "float4_e2m1fn": "#882255",
    }
)
P3109_COLOUR = "#56B4E9"
GUIDE = "#70757D"  # lines to compare with

# What people call the formats, for labels where the canonical name is too long.
FORMAT_LABELS = MappingProxyType(
    {
        "float32": "FP32",
        "tfloat32": "TF32",
        "float16": "FP16",
        "bfloat16": "BF16",
        "float8_e5m2": "E5M2",
        "float8_e4m3fn": "E4M3",
        "float8_e4m3": "E4M3 (IEEE-like)",
        "float8_e3m4": "E3M4",
        "float8_e5m2fnuz": "E5M2 fnuz",
        "float8_e4m3fnuz": "E4M3 fnuz",
        "float8_e4m3b11fnuz": "E4M3 b11 fnuz",
        "float8_e8m0fnu": "E8M0",
        "float6_e2m3fn": "FP6 E2M3",
        "float6_e3m2fn": "FP6 E3M2",
        "float4_e2m1fn": "FP4 E2M1",
    }
)


def colour(format: FloatFormat | str) -> str:
    """The colour of a format as #rrggbb."""
    return FORMAT_COLOURS.get(as_format(format).name, P3109_COLOUR)


def label(format: FloatFormat | str) -> str:
    """What a format is called in a legend."""
    name = as_format(format).name
    return FORMAT_LABELS.get(name, in_figure(name))


@contextmanager
def style() -> Iterator[None]:
    """The lab's style for as long as the context lasts; global settings of matplotlib come back after it."""
    with plt.style.context(["default", STYLES / "base.mplstyle", STYLES / "report.mplstyle"]):
        yield


# ---- axes in powers of two ------------------------------------------------------------------------------------------
class PowerOfTwoStep(Locator):
    """Ticks at multiples of 1, 2, 4, 8 ...: the smallest such step that makes at most ``most`` ticks."""

    def __init__(self, most: int = 12) -> None:
        self.most = most

    def __call__(self) -> Sequence[float]:
        if self.axis is None:
            return []
        low, high = self.axis.get_view_interval()
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        low, high = sorted((vmin, vmax))
        step = 1
        while (high - low) / step >= self.most:
            step *= 2
        return [float(k * step) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def power_of_two(exponent: float) -> str:
    """2**exponent as text for a figure."""
    return f"$2^{{{exponent:g}}}$"


def log2_axis(ax: Axes, label: str, axis: str = "x", most: int = 12) -> None:
    """Make an axis whose data are exponents read as powers of two, and label it.

    ``label`` names quantity and unit, e.g. "magnitude of the gradient (absolute value)"; ``axis`` is "x" or "y";
    ``most`` bounds the number of ticks.
    """
    if axis not in ("x", "y"):
        raise ValueError(f"axis must be 'x' or 'y', not {axis!r}")
    scale = ax.xaxis if axis == "x" else ax.yaxis
    scale.set_major_locator(PowerOfTwoStep(most))
    scale.set_major_formatter(FuncFormatter(lambda exponent, _: power_of_two(exponent)))
    scale.set_label_text(label)


def decade_axis(ax: Axes, label: str = "the same in powers of ten") -> None:
    """A second x axis on top that reads the exponents of two below it in powers of ten."""
    decade = math.log10(2)
    top = ax.secondary_xaxis("top", functions=(lambda e: np.asarray(e) * decade, lambda d: np.asarray(d) / decade))
    top.xaxis.set_major_formatter(FuncFormatter(lambda exponent, _: f"$10^{{{exponent:g}}}$"))
    top.set_xlabel(label)
    ax.spines["top"].set_visible(False)


# ---- windows of formats ---------------------------------------------------------------------------------------------
def shade_window(ax: Axes, format: FloatFormat | str, shift: float = 0.0) -> None:
    """Shade a format's normal range, and more faintly its subnormals, over the height of a ``log2_axis``.

    ``shift`` is the exponent of a scale: values multiplied by 2**shift before a cast meet the window moved down by it.
    """
    w, fill = window(format), colour(format)
    ax.axvspan(w.normal - shift, w.largest - shift, color=fill, alpha=0.16, linewidth=0, zorder=0)
    ax.axvspan(w.smallest - shift, w.normal - shift, color=fill, alpha=0.07, linewidth=0, zorder=0)


# ---- lines ----------------------------------------------------------------------------------------------------------
def band(ax: Axes, spread: pd.DataFrame, tint: str, name: str | None = None, **line: Any) -> None:
    """A ``spread``: its median as a line, its range as a band."""
    ax.fill_between(spread.index, spread["least"], spread["greatest"], color=tint, alpha=0.25, linewidth=0)
    ax.plot(spread.index, spread["median"], color=tint, label=name, **line)


def guide(ax: Axes, x: ArrayLike, y: ArrayLike, text: str, at: int = -1, offset: tuple[float, float] = (0, 3)) -> None:
    """A grey line to compare with (a bound, an exact value), its name beside point ``at``; it is not in the legend."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    ax.plot(xs, ys, color=GUIDE, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    across = "right" if at == -1 else "left" if at == 0 else "center"
    ax.annotate(text, (xs[at], ys[at]), offset, textcoords="offset points", ha=across, fontsize=7.5, color=GUIDE)


# ---- the file -------------------------------------------------------------------------------------------------------
def png_bytes(figure: Figure, limit: int = MAX_PNG_BYTES) -> bytes:
    """A figure as PNG of at most ``limit`` bytes: full colour at 200 dots per inch, else 256 colours, else fewer dots.

    ValueError if it is still larger at 100 dots per inch. Holds no date and no version, so equal figures of one
    matplotlib are equal files.
    """
    for dpi in (200, 180, 160, 140, 120, 100):
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        picture = Image.open(buffer).convert("RGB")
        for image in (picture, picture.quantize(256, dither=Image.Dither.NONE)):
            out = BytesIO()
            image.save(out, format="PNG", optimize=True, dpi=(dpi, dpi))
            if out.tell() <= limit:
                return out.getvalue()
    raise ValueError(f"a figure stays above {limit // 1024} KiB even at 100 dots per inch: draw fewer marks")
