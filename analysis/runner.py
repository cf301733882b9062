"""Run one experiment: measure unit by unit, keep each, and when all are there write the result whole.

    reports/.partial/<experiment>/<profile>-<seeds>/<unit>.npz    what is kept of an unfinished run
    reports/<experiment>/                                         result.json, one CSV a table, one PNG a figure

A unit is measured once for its key (experiment, profile, seeds, unit, fingerprint of sources and machine). A kept file
that is damaged or has another key is measured again. The folder of a result is made aside and moved into place, so
that there is always the old one or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from analysis import environment, fingerprint
from analysis.experiment import NO_CLAIM, Experiment, Profile, Unit, Verdict, short_name
from analysis.files import digest, write_whole
from analysis.results import RESULT, Result, ResultError, seal, shortfall
from analysis.store import FILE_NAME, Tables, column_types, from_csv, load_unit, save_unit, tidy, to_csv

# What a result says about the run itself; everything else in it is made anew from the tables.
RUN_FACTS = ("profile", "seeds", "units", "seconds", "started", "finished", "fingerprint", "environment")

Watch = Callable[[int, int, str], None]  # (units done, units in all, what is being done now)


class Interrupted(Exception):
    """Ctrl-C: how much of which experiment is kept."""

    def __init__(self, experiment: str, done: int, units: int) -> None:
        super().__init__(f"{experiment}: {done} of {units} units are kept")
        self.experiment, self.done, self.units = experiment, done, units


class Failed(Exception):
    """An experiment raised: one line that says where and what."""


class Fuller(Exception):
    """The result that is there is fuller than the run would be, and stays."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to. ``measured``: units measured now, the others having been kept from before."""

    experiment: str
    verdict: Verdict
    units: int
    measured: int
    seconds: float


def silent(done: int, units: int, doing: str) -> None:
    """A watch that tells nobody."""


def unit_label(unit: Unit) -> str:
    """``seed=0 format=e4m3``."""
    return " ".join(f"{key}={value}" for key, value in unit.items()) or "all of it"


def run(
    experiment: Experiment,
    profile: Profile,
    reports: Path,
    *,
    fresh: bool = False,
    replace: bool = False,
    watch: Watch = silent,
) -> Outcome:
    """Run an experiment to its end, reusing what is kept unless ``fresh``.

    Raises Interrupted on Ctrl-C and Failed where the experiment raises; in both cases every unit done so far is kept.
    Raises Fuller, before anything is measured, where the result there is fuller (``results.shortfall``), unless told to
    ``replace`` it.
    """
    job = _Job(experiment, profile, reports, replace)
    try:
        return job.run(fresh, watch)
    except KeyboardInterrupt:
        raise Interrupted(job.name, job.done, job.total) from None
    except Fuller:
        raise
    except Exception as error:
        note = job.note_failure()
        message = " ".join(str(error).split()) or "no message"
        raise Failed(
            f"{job.name} failed ({job.doing}): {type(error).__name__}: {message} [traceback: {note}]"
        ) from error


def redraw(experiment: Experiment, reports: Path) -> Verdict:
    """Make words, verdict and figures of the result that is there anew, from its tables; nothing is measured.

    What the result says of its run stays (RUN_FACTS), the fingerprint of the sources it was measured with among it.
    Raises ResultError where there is no result, or one whose tables are not those it was made with.
    """
    there = Result.read(reports / short_name(experiment))
    if there.stale_tables():
        raise ResultError(f"{there.folder.name}/{there.stale_tables()[0]}: is not the table the result was made with")
    facts = {key: there.record[key] for key in RUN_FACTS}
    job = _Job(experiment, Profile(facts["profile"], facts["seeds"]), reports, replace=True)
    return job.finish(there.tables(), facts, [entry["unit"] for entry in facts["units"]])


class _Job:
    def __init__(self, experiment: Experiment, profile: Profile, reports: Path, replace: bool) -> None:
        self.experiment, self.profile, self.reports, self.replace = experiment, profile, reports, replace
        self.name = short_name(experiment)
        self.partial = reports / ".partial" / self.name
        self.units_folder = self.partial / f"{profile.name}-{profile.seeds}"
        self.done, self.total, self.doing = 0, 0, "plan"

    def run(self, fresh: bool, watch: Watch) -> Outcome:
        recover(self.reports)
        self.fingerprint = fingerprint.of(self.experiment)
        units = self._plan()
        self.total = len(units)
        self._spare_the_fuller(units)
        if fresh:
            shutil.rmtree(self.units_folder, ignore_errors=True)
        finished = None if fresh else self._finished(units)
        if finished:
            self.done = self.total
            tables, measured = finished.tables(), 0
            record = {key: finished.record[key] for key in RUN_FACTS}
        else:
            tables, record, measured = self._measure(units, watch)
        self._tell(watch, "figures and verdict")
        verdict = self.finish(tables, record, units)
        self._forget_units()
        self._tell(watch, "done")
        return Outcome(self.name, verdict, self.total, measured, record["seconds"])

    def _tell(self, watch: Watch, doing: str) -> None:
        self.doing = doing
        watch(self.done, self.total, doing)

    def note_failure(self) -> str:
        """Keep the traceback beside the units; returns where, relative to the reports."""
        path = self.partial / "failure.txt"
        _hide(self.reports)
        write_whole(path, traceback.format_exc().encode())
        return path.relative_to(self.reports.parent).as_posix()

    # ---- measuring --------------------------------------------------------------------------------------------------
    def _plan(self) -> list[Unit]:
        units = self.experiment.plan(self.profile)
        keys = [json.dumps(unit, sort_keys=True) for unit in units]
        if not units:
            raise ValueError("plan() returned no units")
        if len(set(keys)) < len(keys):
            raise ValueError("plan() returned the same unit twice")
        return units

    def _key(self, unit: Unit) -> dict[str, Any]:
        return {
            "experiment": self.name,
            "profile": self.profile.name,
            "seeds": self.profile.seeds,
            "unit": unit,
            "fingerprint": self.fingerprint,
        }

    def _measure(self, units: Sequence[Unit], watch: Watch) -> tuple[Tables, dict[str, Any], int]:
        """All tables in plan order, the facts of the run, and how many units were measured now."""
        parts: list[Tables] = []
        facts: list[dict[str, Any]] = []
        measured = 0
        _hide(self.reports)
        for unit in units:
            self._tell(watch, unit_label(unit))
            key = self._key(unit)
            path = self.units_folder / f"{digest(json.dumps(key, sort_keys=True).encode())[:24]}.npz"
            kept = load_unit(path, key)
            if kept is None:
                kept = self._measure_one(unit)
                save_unit(path, key, *kept)
                measured += 1
            parts.append(kept[0])
            facts.append(kept[1])
            self.done += 1
        record = {
            "profile": self.profile.name,
            "seeds": self.profile.seeds,
            "units": [{"unit": unit, "seconds": fact["seconds"]} for unit, fact in zip(units, facts, strict=True)],
            "seconds": round(sum(fact["seconds"] for fact in facts), 3),
            "started": min(fact["started"] for fact in facts),
            "finished": _now(),
            "fingerprint": self.fingerprint,
            "environment": environment.describe(),
        }
        return _join(parts), record, measured

    def _measure_one(self, unit: Unit) -> tuple[Tables, dict[str, Any]]:
        started, clock = _now(), time.perf_counter()
        tables = self.experiment.measure(unit, self.profile)
        seconds = round(time.perf_counter() - clock, 3)
        return {name: tidy(name, table) for name, table in tables.items()}, {"seconds": seconds, "started": started}

    # ---- finishing --------------------------------------------------------------------------------------------------
    def _finished(self, units: Sequence[Unit]) -> Result | None:
        """The result that is there, if it is of these very units, sources and machine, and undamaged."""
        try:
            result = Result.read(self.reports / self.name)
        except ResultError:
            return None
        same = (
            result.record["fingerprint"] == self.fingerprint
            and result.record["profile"] == self.profile.name
            and result.record["seeds"] == self.profile.seeds
            and [entry["unit"] for entry in result.record["units"]] == list(units)
        )
        return result if same and not result.stale_tables() else None

    def _spare_the_fuller(self, units: Sequence[Unit]) -> None:
        """Raise Fuller where the result that is there is more than this run would be."""
        try:
            there = None if self.replace else Result.read(self.reports / self.name)
        except ResultError:
            return
        why = shortfall(there, self.experiment, self.profile, units) if there else None
        if why:
            raise Fuller(f"{self.name}: the result there is fuller ({why}) and stays; --replace replaces it")

    def finish(self, tables: Tables, facts: Mapping[str, Any], units: Sequence[Unit]) -> Verdict:
        files = {f"{name}.csv": to_csv(table) for name, table in tables.items()}
        tables = {name: _read_back(name, table, files[f"{name}.csv"]) for name, table in tables.items()}
        verdict = self.experiment.verdict(tables)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"verdict() must return a Verdict, not {type(verdict).__name__}")
        pictures, figures = _draw(self.experiment, tables, verdict)
        files.update(pictures)
        record = {
            "experiment": self.name,
            "title": self.experiment.TITLE,
            "question": self.experiment.QUESTION,
            "claims": [asdict(claim) for claim in self.experiment.CLAIMS],
            "verdict": asdict(verdict),
            **facts,
            "tables": [
                {
                    "name": name,
                    "file": f"{name}.csv",
                    "rows": len(table),
                    "columns": column_types(table),
                    "sha256": digest(files[f"{name}.csv"]),
                }
                for name, table in tables.items()
            ],
            "figures": figures,
        }
        record["sha256"] = seal(record)
        files[RESULT] = (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._spare_the_fuller(units)  # which another run may have put there in the meantime
        self._publish(files)
        return verdict

    def _publish(self, files: Mapping[str, bytes]) -> None:
        """Make the folder aside, then move it into place."""
        made, replaced, place = self.partial / "finished", self.partial / "replaced", self.reports / self.name
        _hide(self.reports)
        shutil.rmtree(made, ignore_errors=True)
        for name, content in files.items():
            write_whole(made / name, content)
        if place.exists():
            os.replace(place, replaced)
        os.replace(made, place)
        shutil.rmtree(replaced, ignore_errors=True)
        self._tidy()

    def _forget_units(self) -> None:
        """Once the result is there nothing partial is needed any more."""
        shutil.rmtree(self.units_folder, ignore_errors=True)
        (self.partial / "failure.txt").unlink(missing_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        """Leave no empty folders."""
        _remove_if_empty(self.partial)
        if self.partial.parent.is_dir() and [path.name for path in self.partial.parent.iterdir()] == [".gitignore"]:
            shutil.rmtree(self.partial.parent)


def recover(reports: Path) -> None:
    """Put back results that a kill caught between being moved out of the way and being replaced."""
    for replaced in reports.glob(".partial/*/replaced"):
        place = reports / replaced.parent.name
        if place.exists():
            shutil.rmtree(replaced)
        else:
            os.replace(replaced, place)


def _hide(reports: Path) -> None:
    """Partial files exist, and version control does not see them."""
    note = reports / ".partial" / ".gitignore"
    if not note.exists():
        write_whole(note, b"*\n")


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _join(parts: Sequence[Tables]) -> Tables:
    """The tables of all units one below the other, in plan order."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    joined: Tables = {}
    for name in names:
        pieces = [part[name] for part in parts if name in part]
        columns = list(pieces[0].columns)
        if any(list(piece.columns) != columns for piece in pieces):
            raise ValueError(f"table {name} has different columns in different units")
        joined[name] = tidy(name, pd.concat(pieces, ignore_index=True))
    if not joined:
        raise ValueError("measure() returned no tables")
    return joined


def _read_back(name: str, table: pd.DataFrame, content: bytes) -> pd.DataFrame:
    """The table as its CSV gives it, which must be the table itself: figures are drawn from what is published."""
    again = from_csv(content, column_types(table))
    if not again.equals(table):
        raise ValueError(f"table {name} does not survive its CSV")
    return again


def _draw(experiment: Experiment, tables: Tables, verdict: Verdict) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Files of the figures, and what the result says of each."""
    matplotlib.use("agg")
    from matplotlib import pyplot  # after the choice of backend

    from analysis import figures

    with figures.style(), warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message=".*(layout not applied|missing from font)"
        )  # a spoilt figure is an error
        drawn = experiment.draw(tables)
        nothing_yet = not drawn and verdict.status == NO_CLAIM
        if set(drawn) != set(experiment.CAPTIONS) and not nothing_yet:
            raise ValueError(f"figures {sorted(drawn)} and captions {sorted(experiment.CAPTIONS)} differ")
        files, records = {}, []
        for name, figure in drawn.items():
            if not FILE_NAME.fullmatch(name):
                raise ValueError(f"figure name {name!r} must be lower-case letters, digits and underscores")
            try:
                files[f"{name}.png"] = figures.png_bytes(figure)
            except ValueError as error:
                raise ValueError(f"figure {name}: {error}") from None
            width, height = (round(100 * inches) for inches in figure.get_size_inches())
            caption = experiment.CAPTIONS[name]
            records.append(
                {"name": name, "file": f"{name}.png", "caption": caption, "width": width, "height": height}
                | {"sha256": digest(files[f"{name}.png"])}
            )
        pyplot.close("all")
    return files, records
