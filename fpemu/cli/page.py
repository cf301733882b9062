"""One HTML page of what was found: self-contained, no script, no network."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from typing import Any

from fpemu.cli.losses import NOTE, Inspected, common_table, headline, table
from fpemu.plots import exponent_histogram
from fpemu.shown import shown

DPI = 130


def page(found: Sequence[Inspected], problems: Sequence[str], how: str) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("fpemu", "cli"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.j2").render(
        how=how[0].upper() + how[1:],
        note=NOTE,
        tensors=[_section(one) for one in found],
        common=dict(zip(("headings", "rows"), common_table(found), strict=True)) if len(found) > 1 else None,
        problems=[shown(problem) for problem in problems],
    )


def _section(one: Inspected) -> dict[str, Any]:
    headings, rows = table(one.stats)
    return {"title": one.title, "headline": headline(one), "headings": headings, "rows": rows, "png": _png(one)}


def _png(one: Inspected) -> str:
    """The histogram as base64."""
    stream = io.BytesIO()
    formats = [part.cast.format for part in one.stats.formats]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        exponent_histogram(one.stats, formats).savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return base64.b64encode(stream.getvalue()).decode("ascii")
