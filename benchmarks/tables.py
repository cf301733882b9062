"""The tables: README.md gets the short one, benchmarks/README.md the long one, each between two marks.

Nothing is typed in: every number comes from results.json, every target from targets.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

from benchmarks.results import PEER, ROOFLINE, THREADS, Crossing, Measured, Results, Timed, Wait
from benchmarks.targets import RATE, SECONDS, SHARE, TARGETS, TIMES, Target
from fpemu.io import writing_whole
from fpemu.targets.host import STREAM_FROM
from fpemu.targets.threads import PARALLEL_FROM

BEGIN, END = "<!-- benchmark table: begin -->", "<!-- benchmark table: end -->"
ROOT = Path(__file__).resolve().parent.parent
SHORT, LONG = ROOT / "README.md", ROOT / "benchmarks" / "README.md"

# Rows of the short table: every work of these groups; of the others the one that comes worst.
EVERY = ("encode to 16 bits", "encode to 8 bits", "quantize to 16 bits", "quantize to 8 bits", "decode")
BESIDE = ("torch", "ml_dtypes", "numpy")  # its columns
BESIDE_MAC = ("mmasim", "apytypes")  # and those of matrix products
ROOF = {"elem": "a copy", "MAC": "sgemm"}  # what shares are of


class TableError(Exception):
    """A file has no place for its table; the message names it."""


# ---- numbers as a person says them -----------------------------------------------------------------------------------
def significant(value: float, digits: int = 2) -> str:
    """At least so many digits, without an exponent."""
    decimals = 0
    while decimals < 6 and abs(value) * 10**decimals < 10 ** (digits - 1):
        decimals += 1
    return f"{value:,.{decimals}f}"


def gelem(rate: float) -> str:
    """Elements, or multiply-adds, a second in units of 10^9."""
    return significant(rate / 1e9)


def seconds_text(value: float) -> str:
    """A time in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{significant(value / scale)} {unit}"
    return f"{value / 1e-9:.0f} ns"


def count(elements: int) -> str:
    """A number of elements, in binary units where it is a multiple of one."""
    for unit, scale in (("Mi", 1 << 20), ("Ki", 1 << 10)):
        if elements and elements % scale == 0:
            return f"{elements // scale:,} {unit}"
    return f"{elements:,}"


def times(ratio: float) -> str:
    """How many times as fast."""
    return f"×{significant(ratio)}"


def share_text(share: float) -> str:
    """A share of the roofline."""
    return f"{share:.2f}" if share >= 0.1 else significant(share, 1)


def value_text(target: Target, value: float) -> str:
    """What was measured for a target."""
    say = {SHARE: share_text, TIMES: times, RATE: gelem, SECONDS: seconds_text}
    return say[target.measure](value)


def _targets(row: Measured | Wait) -> str:
    """The targets of a row, each with whether it is met."""
    texts = []
    for target in TARGETS.get(row.group, ()):
        value = row.value(target)
        texts.append(f"{target} {'(not measured)' if value is None else '✓' if target.met(value) else '✗'}")
    return ", ".join(texts)


TEXT = ("", "work", "contender", "waiting for", "target")  # headings of columns of text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; text flush left, numbers right."""
    ruler = ["---" if name in TEXT else "--:" for name in header]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


# ---- the short table -------------------------------------------------------------------------------------------------
def short(results: Results) -> str:
    """Our rate, its share of the roofline, peers and targets; the main works, and the worst of every other group."""
    parts, differ = [], False
    for unit, beside in (("elem", BESIDE), ("MAC", BESIDE_MAC)):
        rows = [_short_row(work, label, beside) for work, label in _chosen(results.works) if work.unit == unit]
        differ |= any("†" in cell for row in rows for cell in row)
        header = ("work", f"G{unit}/s", f"of {ROOF[unit]}", *(f"against {name}" for name in beside), "target")
        parts += [table(header, rows)] if rows else []
    waits = [(wait.name, seconds_text(median(wait.seconds)), _targets(wait)) for wait in results.waits if wait.ours]
    if waits:
        parts.append(table(("waiting for", "median", "target"), waits))
    parts.append(_made(results))
    if any(work.unit == "MAC" for work in results.works):
        parts.append(SGEMM)
    if differ:
        parts.append("† Its results differ from ours: [how many](benchmarks/README.md).")
    return "\n\n".join(parts)


def _chosen(works: Sequence[Measured]) -> Iterator[tuple[Measured, str]]:
    for group, members in groupby(works, key=lambda work: work.group):
        found = list(members)
        if group in EVERY or found[0].unit == "MAC" or len(found) == 1:
            yield from ((work, work.name) for work in found)
        else:
            worst = min(found, key=lambda work: median(work.share(work.ours)))
            yield worst, f"{group}, the slowest of {len(found)}: {worst.name}"


def _short_row(work: Measured, label: str, beside: Sequence[str]) -> list[str]:
    peers = [work.peer(name) for name in beside]
    return [
        arrows(label),
        gelem(median(work.ours.rates)),
        share_text(median(work.share(work.ours))),
        *("" if peer is None else times(median(work.times(peer))) + "†" * bool(peer.differing) for peer in peers),
        _targets(work),
    ]


def arrows(name: str) -> str:
    """The name of a work as it is printed."""
    return name.replace("->", "→")


def _made(results: Results) -> str:
    about, packages = results.environment, results.packages
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    return (
        f"Median of {results.rounds} rounds on {count(results.size)} elements, {results.threads} threads "
        f"({about['cpu']}, {about['cores']} cores), {results.date}. fpemu {about['fpemu']}, numba {about['numba']}, "
        f"{versions}. A copy moves the same bytes in the same threads, through the cache or past it, whichever is the "
        f"faster; for works that write nothing it is a read. "
        f"×n: fpemu does n times as many elements a second; ml_dtypes and numpy use one thread."
    )


# ---- the long table --------------------------------------------------------------------------------------------------
SGEMM = (
    "A matrix product is counted in multiply-adds (MAC); beside it stands the float32 product of NumPy's BLAS of the "
    "same values, which emulates nothing."
)


def _header(unit: str) -> tuple[str, ...]:
    return (
        "contender", "threads", "elements" if unit == "elem" else unit, f"G{unit}/s, best", "median",
        "slowest to fastest round", f"of {ROOF[unit]}", "fpemu against it", "results that differ",
    )  # fmt: skip


def long(results: Results) -> str:
    """Every work and contender, targets, waiting times and crossings."""
    parts = [_about(results), "### Targets", _target_table(results)]
    for group, members in groupby(results.works, key=lambda work: work.group):
        parts.append(f"### {group[0].upper()}{group[1:]}")
        for work in members:
            parts.append(f"**{arrows(work.name)}** ({_moves(work)})")
            parts.append(table(_header(work.unit), [_long_row(work, row) for row in work.contenders]))
    for group, waits in groupby(results.waits, key=lambda wait: wait.group):
        parts.append(f"### {group[0].upper()}{group[1:]}")
        rows = [[wait.name, *_spread(wait.seconds), str(len(wait.seconds))] for wait in waits]
        parts.append(table(("waiting for", "best", "median", "slowest", "samples"), rows))
    for choice, crossings in groupby(results.crossings, key=lambda crossing: crossing.choice):
        parts += [f"### From which size on {choice} pay", _crossings(list(crossings), _said(choice, results.threads))]
    return "\n\n".join(parts)


def _moves(work: Measured) -> str:
    if work.unit == "MAC":
        side = round(work.elements ** (1 / 3))
        return f"{side} × {side} × {side}"
    written = f", writes {work.bytes_written}" if work.bytes_written else ""
    return f"reads {work.bytes_read} bytes an element{written}"


def _about(results: Results) -> str:
    facts = {
        "measured": results.date,
        "elements": count(results.size),
        "threads": str(results.threads),
        "rounds": str(results.rounds),
        **{name: str(value) for name, value in results.environment.items()},
        **results.packages,
    }
    return table(("", ""), list(facts.items()))


def _target_table(results: Results) -> str:
    rows = [
        [
            arrows(name),
            str(target),
            "not measured" if value is None else value_text(target, value),
            "" if value is None else "met" if target.met(value) else "**not met**",
        ]
        for name, target, value in results.verdicts()
    ]
    return table(("work", "target", "measured", ""), rows)


def _long_row(work: Measured, row: Timed) -> list[str]:
    if row.refused:
        return [row.name, str(row.threads), "", "", "", "", "", "", f"refuses: {_cell(row.refused)}"]
    rates = row.rates
    return [
        row.name + (", new array" if row.allocates and row.role == PEER else ""),
        str(row.threads),
        count(row.elements),
        gelem(max(rates)),
        gelem(median(rates)),
        f"{gelem(min(rates))} to {gelem(max(rates))}",
        "" if row.role == ROOFLINE else share_text(median(work.share(row))),
        "" if row.role == ROOFLINE or row is work.ours else times(median(work.times(row))),
        _agreement(row, work),
    ]


def _agreement(row: Timed, work: Measured) -> str:
    if row.role == ROOFLINE or row is work.ours:
        return ""
    policy = f" ({row.overflow})" if row.overflow else ""
    return (f"**{row.differing:,} of {row.compared:,}**" if row.differing else f"none of {row.compared:,}") + policy


def _spread(samples: list[float]) -> list[str]:
    return [seconds_text(value) for value in (min(samples), median(samples), max(samples))]


def _said(choice: str, threads: int) -> str:
    if choice == THREADS:
        return f"{threads} threads against one, by size. fpemu uses threads from {count(PARALLEL_FROM)} elements on."
    return (
        "Stores past the cache against ordinary ones, by size, the same arrays again and again. fpemu stores past it "
        f"from {count(STREAM_FROM)}B on, those read and those written taken together."
    )


def _crossings(crossings: Sequence[Crossing], said: str) -> str:
    sizes = sorted({size for crossing in crossings for size in crossing.sizes})
    header = ("work", *(count(size) for size in sizes), "pays from")
    rows = []
    for one in crossings:
        gains = dict(zip(one.sizes, one.gains, strict=True))
        pays = "no size" if one.pays_from is None else count(one.pays_from)
        rows.append([arrows(one.work), *(times(gains[size]) if size in gains else "" for size in sizes), pays])
    return f"{said}\n\n{table(header, rows)}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- files -----------------------------------------------------------------------------------------------------------
def replaced(text: str, content: str, name: str) -> str:
    """The text with the content between its marks.  TableError where the marks are not there, once and in order."""
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin or text.count(BEGIN) + text.count(END) != 2:
        raise TableError(f"{name} has no place for the table: it needs {BEGIN} and {END}, once, in this order")
    return f"{text[: begin + len(BEGIN)]}\n{content}\n{text[end:]}"


def pages(results: Results, readme: Path, own: Path) -> dict[Path, tuple[str, str]]:
    """For each file what it says and what it should say."""
    found = {}
    for path, content in ((readme, short(results)), (own, long(results))):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise TableError(f"{path.name}: {error.strerror or error}") from None
        found[path] = text, replaced(text, content, path.name)
    return found


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    with writing_whole(path) as stream:
        stream.write(text.encode())
