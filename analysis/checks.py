"""Is a result what its tables say, and are its files those it was made with?  Every way in which it is not, a line each.

Words and verdict are made anew by the experiment, from the tables; tables and figures have checksums; and so has the record itself, which
also holds what nothing can be made anew from (when, where, how long).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from analysis.experiment import Experiment, Verdict, load
from analysis.results import RESULT, Result, ResultError, seal

ANEW = "python -m analysis redraw makes it anew"


def problems(result: Result) -> list[str]:
    """What is wrong with a result and its files; empty where nothing is."""
    name = result.folder.name
    found = [*file_problems(result), *_seal_problems(result)]
    if not result.stale_tables():
        found += [f"{name}/{RESULT}: {wrong}" for wrong in _word_problems(result)]
    return found


def file_problems(result: Result) -> list[str]:
    """Tables and figures that are missing, or are not those of the result."""
    name = result.folder.name
    return [
        *(f"{name}/{file}: is not the table the result was made with" for file in result.stale_tables()),
        *(f"{name}/{file}: figure is missing" for file in result.missing_figures()),
        *(f"{name}/{file}: is not the figure the result was made with" for file in result.changed_figures()),
    ]


def _seal_problems(result: Result) -> Iterator[str]:
    where = f"{result.folder.name}/{RESULT}"
    sealed = result.record.get("sha256")
    if sealed is None or any("sha256" not in entry for entry in result.record["figures"]):
        yield f"{where}: has no checksums of its figures and of itself; {ANEW}"
    elif sealed != seal(result.record):
        yield f"{where}: was altered after it was made (its checksum differs)"


def _word_problems(result: Result) -> Iterator[str]:
    """Where words, verdict or the tables' facts are not what the experiment makes of the tables."""
    try:
        experiment = load(result.folder.name)
    except Exception as error:
        yield f"its experiment cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())})"
        return
    try:
        tables = result.tables()
    except ResultError as error:
        yield f"its tables are not what it says: {error}"
        return
    for entry in result.record["tables"]:
        if entry["rows"] != len(tables[entry["name"]]):
            yield f"{entry['file']} has {len(tables[entry['name']])} rows, not {entry['rows']}"
    for what, told, made in _words(experiment, result.record):
        if told != made:
            yield f"{what} is not that of the experiment; {ANEW}"
    yield from _verdict_problems(experiment, result, tables)


def _words(experiment: Experiment, record: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What a result says in words, as it stands there and as the experiment says it."""
    yield "title", record["title"], experiment.TITLE
    yield "question", record["question"], experiment.QUESTION
    yield "claims", record["claims"], [asdict(claim) for claim in experiment.CLAIMS]
    for figure in record["figures"]:
        name = figure["name"]
        yield f"the caption of {name}", figure["caption"], experiment.CAPTIONS.get(name)


def _verdict_problems(experiment: Experiment, result: Result, tables: Any) -> Iterator[str]:
    told = result.record["verdict"]
    try:
        verdict = experiment.verdict(tables)
        made = asdict(verdict) if isinstance(verdict, Verdict) else {}
    except Exception as error:
        yield f"no verdict follows from its tables ({type(error).__name__}: {' '.join(str(error).split())})"
        return
    made["findings"] = list(made.get("findings", ()))
    if told["status"] != made.get("status"):
        yield f"the verdict says {told['status']!r}, its tables say {made.get('status')!r}"
    if told["summary"] != made.get("summary"):
        yield "the verdict's sentence is not what its tables say"
    if told["findings"] != made["findings"]:
        yield "the verdict's findings are not what its tables say"
