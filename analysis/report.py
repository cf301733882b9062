"""The pages made from finished results, and nothing else: index.html (self-contained), README.md (the gallery), and claims.md
(what became of the textbook claims, where results bear on them).

``write`` makes them, ``problems`` says what no longer agrees with the result files. Pages hold no time of their own,
so the same results make the same pages; images are left out of every comparison.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis import claims
from analysis.experiment import KINDS
from analysis.files import write_whole
from analysis.results import Result, ResultError, read_all

STYLES = Path(__file__).with_name("styles")
PAGE, GALLERY, CLAIMS = "index.html", "README.md", "claims.md"
BADGES = {
    "holds": ("good", "✓"),
    "holds with conditions": ("mixed", "◐"),
    "does not hold at this scale": ("bad", "✗"),
    "no claim": ("none", "○"),
}
_EMBEDDED = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*")


def _marked(text: str) -> Markup:
    """Escaped text, in which `...` is code, an address a link, and 2^-24 a power."""
    safe = str(escape(text))
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    safe = re.sub(r"\b(2|10)\^(-?)(\d+)", lambda m: f"{m[1]}<sup>{'−' if m[2] else ''}{m[3]}</sup>", safe)
    return Markup(re.sub(r"(https?://[^\s<>\"]*[\w/])", r'<a href="\1">\1</a>', safe))


def _seconds(value: float) -> str:
    """A duration as a person says it."""
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


def _cell(text: str) -> str:
    """Text inside a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _environment(autoescape: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(STYLES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(marked=_marked, seconds=_seconds, cell=_cell, first_sentence=_first_sentence, count=_count)
    made.globals.update(badges=BADGES, kinds=KINDS)
    return made


def _picture(result: Result, entry: dict[str, Any]) -> str:
    """A figure as a data address; empty where the file is missing (``problems`` says so)."""
    path = result.folder / entry["file"]
    return f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}" if path.is_file() else ""


def page(results: Sequence[Result]) -> str:
    """index.html: style and figures inside, nothing fetched."""
    template = _environment(autoescape=True).get_template("index.html.j2")
    style = Markup((STYLES / "report.css").read_text(encoding="utf-8"))
    return template.render(results=results, style=style, picture=_picture, **_claims(results))


def gallery(results: Sequence[Result]) -> str:
    """README.md: what a code host shows of the folder."""
    return (
        _environment(autoescape=False)
        .get_template("README.md.j2")
        .render(results=results, judged=claims.judged(results))
    )


def claims_page(results: Sequence[Result]) -> str:
    """claims.md: the textbook claims."""
    return _environment(autoescape=False).get_template("claims.md.j2").render(**_claims(results))


def _claims(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "judged": claims.judged(results),
        "costs": claims.costs(),
        "cost_note": claims.COST_NOTE,
        "recorded": claims.recorded_costs(results),
    }


def _pages(results: Sequence[Result]) -> dict[str, str]:
    """Every page by its file; claims.md where a result bears on a claim."""
    made = {PAGE: page(results), GALLERY: gallery(results)}
    return made | ({CLAIMS: claims_page(results)} if claims.judged(results) else {})


def _results(reports: Path) -> list[Result]:
    results = read_all(reports)
    if not results:
        raise ResultError(f"{reports}: no finished experiment; `python -m analysis run` makes them")
    return results


def write(reports: Path) -> list[Path]:
    """Write the pages; ResultError where a result is missing, damaged or does not agree with its own files."""
    results = _results(reports)
    broken = [problem for result in results for problem in _own_problems(result)]
    if broken:
        raise ResultError("; ".join(broken))
    pages = {reports / name: text for name, text in _pages(results).items()}
    for path, text in pages.items():
        write_whole(path, text.encode())
    return list(pages)


def problems(reports: Path) -> list[str]:
    """What is stale, one line a file; empty when everything agrees. ResultError as for ``write``."""
    results = _results(reports)
    found = [problem for result in results for problem in _own_problems(result)]
    for name, made in _pages(results).items():
        try:
            there = (reports / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            found.append(f"{name}: missing or unreadable")
            continue
        if _EMBEDDED.sub("", there) != _EMBEDDED.sub("", made):
            found.append(f"{name}: is not what the result files say")
    return found


def _own_problems(result: Result) -> list[str]:
    name = result.folder.name
    return [
        *(f"{name}/{file}: is not the table the result was made with" for file in result.stale_tables()),
        *(f"{name}/{file}: figure is missing" for file in result.missing_figures()),
    ]
