"""Do names from elsewhere show escaped, and change nothing, in terminals, pages and figures, and come back whole from JSON?"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text

import fpemu as fp
from fpemu.formats import FORMATS
from fpemu.plots import exponent_histograms, save_figure
from fpemu.plots_scaler import replays
from fpemu.scaling.loss_simulation import simulate
from fpemu.shown import in_figure, shown, shown_lines
from tests.test_cli import lines, run, run_json

NAMES = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "two\nlines\r\ttab", "\x9b2J", "\x00\x7f", "‮left", "a\u2066b\u2069", "x\u2028y\u2029", "\ufeffmark",
    "$x^{", r"$\frac$", "$a$ and $b$", r"a_b^c\d", r"\$5", "[bold]b[/bold]", "[/x]", "[link=file:///]", "%s %d {} {0}", "<script>alert(1)</script>", "&amp;",
    "日本", "é😀", " ", "_private", "n" * 3000,
)  # fmt: skip


@given(st.text(st.characters()))
def test_what_is_shown_prints_and_stays(text: str) -> None:
    once = shown(text)
    assert once.isprintable() and shown(once) == once
    once.encode()  # lone surrogates too
    assert (once == text) == text.isprintable()
    assert shown_lines(text).split("\n") == [shown(line) for line in text.split("\n")]


def test_escapes_are_those_of_python() -> None:
    assert shown("\x1b[0m\n\t\x00‮\u2028\ud800\U000e0041é $") == r"\x1b[0m\n\t\x00\u202e\u2028\ud800\U000e0041é $"
    assert in_figure("$x$") == r"\$x\$" and len(in_figure("n" * 3000)) < 100


def displayed(figure: Figure) -> list[str]:
    """Every text of a figure that is drawn without a complaint and is no mathematics, as it reads there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(BytesIO(), format="png", dpi=30)
    texts = [text.get_text() for text in figure.findobj(Text)]
    return [text.replace(r"\$", "$") for text in texts if not is_math_text(text)]


def test_figures_show_names_as_they_are(tmp_path: Path) -> None:
    stats = fp.tensor_stats(np.array([1.0, 2.0**-20], np.float32), ["e4m3"])
    odd = [name for name in NAMES if "$" in name or "\\" in name or not name.isprintable()] + ["\ud800"]
    texts = displayed(exponent_histograms(dict.fromkeys(odd, stats), ["e4m3"]))
    for name in odd:
        assert any(text.startswith(f"{shown(name)}\n2 elements") for text in texts), name
    format = replace(FORMATS["e4m3"], name="$x$^{\x1b")
    assert r"$x$^{\x1b" in displayed(exponent_histograms({"x": stats}, [format]))
    one = simulate("torch", np.linspace(-10, 10, 20))
    found = [replace(one, policy=name, format=format) for name in ("$x^{$", "a\x1b[2J\n", "$a$_b")]
    texts = displayed(replays(np.linspace(-10, 10, 20), found))
    for replay in found:
        assert any(text.startswith(f"{shown(replay.policy)}: ") for text in texts), replay.policy
    assert ", ".join(shown(replay.policy) for replay in found) in texts  # beside their common point
    assert any(text.endswith(r"gradients cast to $x$^{\x1b") for text in texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a font without Japanese is no reason to complain
        save_figure(exponent_histograms({"日本": stats}, ["e4m3"]), tmp_path / "x.png")


@pytest.mark.skipif(sys.platform == "win32", reason="names of files")
def test_every_command_shows_names_escaped_and_json_keeps_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{name: np.ones(3, np.float32) for name in NAMES if "\x00" not in name})  # type: ignore[arg-type]
    page = tmp_path / "x.html"
    result = run("inspect", tmp_path / "x.npz", "--formats", "e4m3", "--html", page)
    told = run_json("inspect", tmp_path / "x.npz", "--formats", "e4m3")
    names = [one["name"] for one in told["files"][0]["tensors"]]
    assert names == [name for name in NAMES if "\x00" not in name]
    said, html = result.stdout, page.read_text()
    assert all(line.isprintable() for line in said.split("\n")) and all(line.isprintable() for line in html.split("\n"))
    flat = "".join(said.split())
    assert all("".join(shown(name).split()) in flat for name in names)
    assert "<script>alert" not in html and "<b>" not in html
    odd: list[Any] = [tmp_path / "no\x1b[31m\n‮.npy", os.fsdecode(bytes(tmp_path) + b"/\xff.npy")]
    for arguments in (["inspect", *odd], ["scaler", odd[0]], ["scaler", odd[1]]):
        for line in lines(run(*arguments, code=1).stderr):
            assert line.isprintable() and ("No such file" in line or "no tensor" in line), line
    for arguments in (
        ["formats", "e\x1b[2J"], ["explain", "1\x1b[2J", "e4m3"], ["explain", "1", "e\n\x1b"], ["engines", "\x1b[2J"], ["conform", "‮"],
        ["check", "\x1b[2J\n:x", "--to", "e4m3"], ["explain-dot", "\x1b[2J"], ["inspect", "x", "--formats", "\x1b"], ["scaler", "x", "--policy", "\x1b"],
        ["\x1b[2J"],
    ):  # fmt: skip
        result = run(*arguments, code=None)
        assert result.exit_code in (1, 2), arguments
        assert all(line.isprintable() for line in result.output.split("\n")), (arguments, result.output)
