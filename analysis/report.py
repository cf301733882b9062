"""The pages made from finished results, and nothing else: index.html (self-contained), README.md (the gallery), and claims.md
(what became of the textbook claims, where results bear on them).

``write`` makes them, ``problems`` says what no longer agrees with the result files. Pages hold no time of their own,
so the same results make the same pages. index.html holds every image and is made where it is read, never committed:
``problems`` leaves it out, ``page_is_old`` tells.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis import checks, claims
from analysis.experiment import KINDS
from analysis.files import digest, write_whole
from analysis.results import Result, ResultError, read_all
from fpemu.reading import read_whole
from fpemu.shown import shown

STYLES = Path(__file__).with_name("styles")
PAGE, GALLERY, CLAIMS = "index.html", "README.md", "claims.md"
BADGES = {
    "holds": ("good", "✓"),
    "holds with conditions": ("mixed", "◐"),
    "does not hold at this scale": ("bad", "✗"),
    "no claim": ("none", "○"),
}


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
        finalize=lambda value: (
            shown(value) if type(value) is str else value
        ),  # (not Markup, whose line ends are its own)
    )
    made.filters.update(marked=_marked, seconds=_seconds, cell=_cell, first_sentence=_first_sentence, count=_count)
    made.globals.update(badges=BADGES, kinds=KINDS)
    return made


def _picture(result: Result, entry: dict[str, Any]) -> str:
    """A figure as a data address; empty where the file is missing (``problems`` says so)."""
    try:
        return f"data:image/png;base64,{b64encode(read_whole(result.folder / entry['file'])).decode()}"
    except (OSError, ValueError):
        return ""


def page(results: Sequence[Result]) -> str:
    """index.html: style and figures inside, nothing fetched; its last line is the checksum of those before it."""
    template = _environment(autoescape=True).get_template("index.html.j2")
    style = Markup((STYLES / "report.css").read_text(encoding="utf-8"))
    text = template.render(results=results, style=style, picture=_picture, quick=_quick(results), **_claims(results))
    return f"{text}{_mark(text)}"


def _mark(text: str) -> str:
    return f"<!-- sha256 of the lines above: {digest(text.encode())} -->\n"


_MARK = re.compile(r"<!-- sha256 of the lines above: \w* -->\n\Z")


def gallery(results: Sequence[Result]) -> str:
    """README.md: what a code host shows of the folder."""
    return (
        _environment(autoescape=False)
        .get_template("README.md.j2")
        .render(results=results, judged=claims.judged(results), quick=_quick(results))
    )


def claims_page(results: Sequence[Result]) -> str:
    """claims.md: the textbook claims."""
    template = _environment(autoescape=False).get_template("claims.md.j2")
    return template.render(quick=_quick(results), **_claims(results))


def _quick(results: Sequence[Result]) -> str:
    """What a page says of results that are less than the full ones; nothing where there are none."""
    names = [result.folder.name for result in results if result.record["profile"] == "quick"]
    if not names:
        return ""
    which = "All results here are" if len(names) == len(results) else f"{', '.join(names)}: these results are"
    return f"{which} quick: small networks, short runs, few seeds. Verdicts of full runs can differ."


def _claims(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "judged": claims.judged(results),
        "costs": claims.costs(),
        "cost_note": claims.COST_NOTE,
        "recorded": claims.recorded_costs(results),
    }


def _committed_pages(results: Sequence[Result]) -> dict[str, str]:
    """The pages that lie in version control, by file; claims.md where a result bears on a claim."""
    return {GALLERY: gallery(results)} | ({CLAIMS: claims_page(results)} if claims.judged(results) else {})


def _results(reports: Path) -> list[Result]:
    results = read_all(reports)
    if not results:
        raise ResultError(f"{reports}: no finished experiment; `python -m analysis run` makes them")
    return results


def write(reports: Path) -> list[Path]:
    """Write the pages; ResultError where a result is missing, damaged or does not agree with its own files."""
    results = _results(reports)
    broken = [problem for result in results for problem in checks.file_problems(result)]
    if broken:
        raise ResultError(*broken)
    made = _committed_pages(results) | {PAGE: page(results)}
    pages = {reports / name: text for name, text in made.items()}
    for path, text in pages.items():
        write_whole(path, text.encode())
    return list(pages)


def problems(reports: Path) -> list[str]:
    """What is stale, altered or forged, a line each; empty when everything agrees. ResultError where a result cannot be read."""
    results = _results(reports)
    found = [problem for result in results for problem in checks.problems(result)]
    for name, made in _committed_pages(results).items():
        there = _text(reports / name)
        if there is None:
            found.append(f"{name}: missing or unreadable")
        elif there != made:
            found.append(f"{name}: is not what the result files say")
    own = _text(reports / PAGE) or ""
    marked = _MARK.search(own)
    if marked and marked[0] != _mark(own[: marked.start()]):
        found.append(f"{PAGE}: was altered after it was made")
    return found


def page_is_old(reports: Path) -> bool:
    """Whether there is an index.html that is not the one these results make."""
    return (reports / PAGE).exists() and _text(reports / PAGE) != page(_results(reports))


def _text(path: Path) -> str | None:
    try:
        return read_whole(path).decode()
    except (OSError, ValueError):
        return None
