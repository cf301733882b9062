"""Do the figures show the counts they are given and the windows that the formats have?"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

import fpemu as fp
from fpemu.plots import KINDS, exponent_histogram, exponent_histograms, save_figure, short_name, window
from tests.children import PATIENCE

FORMATS = ["fp16", "bf16", "e4m3", "e5m2"]


def inputs() -> dict[str, Any]:
    random = np.random.default_rng(0)
    gradients = (random.standard_normal(5000) * 1e-6).astype(np.float32)
    gradients[:300] = 0
    return {
        "gradients": gradients,
        "lognormal": random.lognormal(0, 6, 3000),
        "zeros": np.zeros(100),
        "empty": np.zeros(0),
        "one value": np.array([1.0]),
        "wide": 10.0 ** random.uniform(-300, 300, 3000),
        "smallest": np.array([5e-324, -5e-324]),
        "largest": np.array([1.7e308]),
        "not finite": np.array([np.nan, np.inf, 3.0]),
    }


def bars(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


@pytest.mark.parametrize("format", [*FORMATS, "e4m3fnuz", "e3m2", "e2m1", "binary8p3se", "binary8p1ue"])
@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_the_window_is_where_encode_changes_its_mind(format: str, scale: float) -> None:
    facts = fp.FORMATS[format]
    edges = window(format, scale)

    def cast(log2_x: float) -> tuple[float, int]:
        x = np.float64(2.0**log2_x) * scale
        value = float(fp.quantize(x, format, overflow="saturate", nan="max"))
        return value, int(fp.encode(x, fp.Cast(format, overflow="ieee", nan="max"))) & facts.magnitude_mask

    step = 1e-9
    assert cast(edges.zero_below - step)[0] == 0 < cast(edges.zero_below + step)[0]
    assert cast(edges.normal_from)[0] == facts.smallest_normal
    if facts.trailing_bits:
        assert cast(edges.normal_from - 0.5)[0] < facts.smallest_normal
    assert cast(edges.overflow_from - step)[1] == facts.max_code
    beyond = cast(edges.overflow_from + step)[1]
    assert beyond != facts.max_code or not (facts.infinities or facts.has_nan)


def test_a_format_without_zero_loses_nothing_to_it() -> None:
    assert window("e8m0").zero_below == -np.inf


def test_bars_are_the_shares_of_all_elements() -> None:
    x = np.array([1.0, 1.5, 2.0, 0.0, np.nan, 2.0**-5], np.float32)
    drawn = {
        round(bar.get_x()): bar.get_height() for bar in bars(exponent_histogram(fp.exponent_histogram(x), ["fp16"]))
    }
    assert drawn[0] == pytest.approx(100 * 2 / 6)
    assert drawn[1] == drawn[-5] == pytest.approx(100 / 6)
    assert sum(drawn.values()) == pytest.approx(100 * 5 / 6)  # the NaN is told, not drawn


@pytest.mark.parametrize("name", inputs())
def test_no_value_is_left_out_of_view(name: str) -> None:
    x = inputs()[name]
    figure = exponent_histogram(fp.exponent_histogram(x), FORMATS)
    low, high = figure.axes[0].get_xlim()
    assert all(low <= bar.get_x() and bar.get_x() + bar.get_width() <= high for bar in bars(figure))
    shares = sum(bar.get_height() for bar in bars(figure))
    assert shares == pytest.approx(100 * np.isfinite(x).sum() / max(x.size, 1))


@pytest.mark.parametrize("scale", [1.0, 2.0**7, 1000.0])
def test_lanes_are_the_windows_of_the_formats(scale: float) -> None:
    figure = exponent_histogram(fp.exponent_histogram(inputs()["lognormal"]), FORMATS, scale=scale)
    lanes = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    for row, format in enumerate(FORMATS):
        edges = window(format, scale)
        stops = dict(zip(KINDS, pairwise([-np.inf, *edges, np.inf]), strict=True))
        mine = [lane for lane in lanes if abs(lane.get_y() + lane.get_height() / 2 - row) < 0.1]
        assert mine
        for lane in mine:
            kind = next(kind for kind, style in KINDS.items() if to_rgba(style["facecolor"]) == lane.get_facecolor())
            start, stop = stops[kind]
            low, high = figure.axes[1].get_xlim()
            assert lane.get_x() == pytest.approx(max(start, lane.get_x()))
            assert start - 1e-9 <= lane.get_x() < lane.get_x() + lane.get_width() <= stop + 1e-9
            assert lane.get_x() == pytest.approx(start) or start < low + 0.2 * (high - low)
            assert lane.get_x() + lane.get_width() == pytest.approx(min(stop, high))


def texts(figure: Figure) -> list[Text]:
    """All texts that are really drawn: an axis holds labels of ticks out of view, too."""
    drawn: list[Text] = []
    draw = Text.draw

    def recorded(text: Text, *arguments: Any, **options: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, *arguments, **options)

    with mock.patch.object(Text, "draw", recorded):
        FigureCanvasAgg(figure).draw()
    return drawn


@pytest.mark.parametrize(
    ("name", "scale", "panels"), [(name, 4096.0, 1) for name in inputs()] + [("gradients", 1.0, 2)]
)
def test_no_text_overlaps_another_or_leaves_the_page(name: str, scale: float, panels: int) -> None:
    stats = fp.tensor_stats(inputs()[name], FORMATS, scale)
    figure = exponent_histograms({f"{name} of layer {layer}": stats for layer in range(panels)}, FORMATS)
    found = texts(figure)
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in found]
    assert len(boxes) > 20
    for text, box in boxes:
        assert min(box.x0 - page.x0, page.x1 - box.x1, box.y0 - page.y0, page.y1 - box.y1) > -1, text
    zeros = next(box for text, box in boxes if text.startswith("zeros"))
    lane = min(patch.get_window_extent().x0 for patch in figure.axes[1].patches)
    assert figure.axes[0].bbox.x0 < zeros.x0 < zeros.x1 < lane, "the zeros are not in a strip of their own"
    for i, (text, box) in enumerate(boxes):
        for other, rest in boxes[i + 1 :]:
            apart = box.x1 <= rest.x0 or rest.x1 <= box.x0 or box.y1 <= rest.y0 or rest.y1 <= box.y0
            assert apart, f"{text!r} overlaps {other!r}"


def test_losses_stand_beside_their_lanes_only_where_they_are_known() -> None:
    x = np.array([2.0**-30, 1.0, 1.0, 1.0], np.float32)
    stats = fp.tensor_stats(x, ["fp16", "bf16"])
    beside = {text.get_text() for text in texts(exponent_histogram(stats, ["fp16", "bf16"]))}
    assert {"25 %", "0 %"} <= beside
    assert "25 %" not in {text.get_text() for text in texts(exponent_histogram(stats, ["fp16"], scale=2.0))}
    assert "25 %" not in {text.get_text() for text in texts(exponent_histogram(stats.histogram, ["fp16"]))}


def test_every_axis_says_what_it_shows() -> None:
    figure = exponent_histogram(fp.exponent_histogram(inputs()["gradients"]), FORMATS, scale=8.0, title="dW")
    said = " ".join(text.get_text() for text in texts(figure))
    for words in ("share of elements", "(%)", "|x|", "scale", "zeros", "5,000 elements", "dW", *KINDS):
        assert words in said


def test_short_names() -> None:
    assert short_name("float8_e4m3fn") == "e4m3"
    assert short_name("float8_e4m3") == "float8_e4m3"  # e4m3 is another format
    assert short_name(fp.FloatFormat.ieee(4, 3)) == "e4m3"  # its own name


@pytest.mark.parametrize(
    ("formats", "scale", "message"),
    [([], 1.0, "at least one"), (["fp16"], 0.0, "scale"), (["fp16"], np.inf, "scale"), (["fp17"], 1.0, "unknown")],
)
def test_bad_arguments(formats: list[str], scale: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exponent_histogram(fp.exponent_histogram(np.ones(3)), formats, scale=scale)


def test_a_figure_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = exponent_histogram(fp.exponent_histogram(np.ones(3)), FORMATS)
    save_figure(figure, tmp_path / "x.png")
    first = (tmp_path / "x.png").read_bytes()
    assert first.startswith(b"\x89PNG")

    def interrupted(stream: Any, **options: Any) -> None:
        stream.write(first[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_figure(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_nothing_global_is_touched_and_importing_loads_no_matplotlib() -> None:
    program = (
        "import sys, fpemu, fpemu.plots, fpemu.io, fpemu.cli; assert 'matplotlib' not in sys.modules; "
        "import numpy as np; f = fpemu.plots.exponent_histogram(fpemu.exponent_histogram(np.ones(3))); "
        "f.savefig('/dev/null', format='png'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
