"""One HTML page of what was found: self-contained, no script, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from fpemu.cli.losses import NOTE, Inspected, band_text, best_text, common_bands, headline, table
from fpemu.plots import exponent_histogram, short_name

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
h2 { font-size: 1.1em; margin: 2.2em 0 .3em; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .8em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15em .9em; text-align: right; white-space: pre; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid #888; }
img { max-width: 100%; height: auto; }
p.note { color: #555; }
"""


def page(found: Sequence[Inspected], problems: Sequence[str], how: str) -> str:
    """The page as text."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>fpemu inspect</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        "<h1>What casts lose</h1>",
        f"<p>{escape(how[0].upper() + how[1:])}.</p>",
        f'<p class="note">{escape(NOTE)}</p>',
    ]
    for one in found:
        headings, rows = table(one.stats)
        figure = _figure(one)
        parts += [f"<h2>{escape(one.title)}</h2>", f"<p>{escape(headline(one))}</p>", _html_table(headings, rows), figure]
    if len(found) > 1:
        bands = common_bands(found)
        rows = [["loss scales that serve", *map(band_text, bands.values())], ["  best", *map(best_text, bands.values())]]
        parts += [f"<h2>All {len(found)} tensors</h2>", _html_table(["", *map(short_name, bands)], rows)]
    if problems:
        parts += ["<h2>Not inspected</h2>", "<ul>", *(f"<li>{escape(problem)}</li>" for problem in problems), "</ul>"]
    return "\n".join([*parts, "</body></html>", ""])


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _figure(one: Inspected) -> str:
    stream = io.BytesIO()
    formats = [part.cast.format for part in one.stats.formats]
    exponent_histogram(one.stats, formats).savefig(stream, format="png", dpi=130, metadata={"Software": None})
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    about = f"Exponent histogram of {one.title} above the windows of the formats"
    return f'<img alt="{escape(about, quote=True)}" src="data:image/png;base64,{text}">'
