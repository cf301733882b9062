"""A finished result as it lies on disk: reports/<experiment>/result.json and the tables and figures it lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.experiment import KINDS, PROFILES, STATUSES, Experiment, Profile, Unit
from analysis.files import digest
from analysis.shape import RECORD, misfit
from analysis.store import Tables, from_csv
from analysis.tables import listed
from fpemu.reading import first_line, read_whole, strict_json

RESULT = "result.json"

MOST_RECORD = 1 << 26  # bytes of a result.json


class ResultError(Exception):
    """A result is missing or is not what the runner writes; a line for each file, which it names."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def seal(record: Mapping[str, Any]) -> str:
    """The checksum of a record: of all in it but that checksum, however it is laid out."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return digest(json.dumps(rest, sort_keys=True, allow_nan=False).encode())


@dataclass(frozen=True)
class Result:
    """One experiment's folder and its result.json."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Read and check a folder; ResultError names what is wrong with which file."""
        path = folder / RESULT
        try:
            record = strict_json(read_whole(path, MOST_RECORD))
        except OSError as error:
            raise ResultError(f"{folder.name}/{RESULT}: {error.strerror or error}") from None
        except ValueError as error:
            raise ResultError(f"{folder.name}/{RESULT}: not JSON ({error})") from None
        wrong = _wrong(record)
        if wrong:
            raise ResultError(f"{folder.name}/{RESULT}: {wrong}")
        if record["experiment"] != folder.name:
            raise ResultError(f"{folder.name}/{RESULT}: belongs to {record['experiment']}")
        return cls(folder, record)

    def tables(self) -> Tables:
        """Every table; ResultError if one is missing or does not fit its record."""
        tables: Tables = {}
        for entry in self.record["tables"]:
            try:
                tables[entry["name"]] = from_csv(read_whole(self.folder / entry["file"]), entry["columns"])
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise ResultError(f"{self.folder.name}/{entry['file']}: {first_line(error)}") from None
        return tables

    def seeds_run(self) -> dict[str, int]:
        """How many seeds were run, by what else a unit is of (a task, a format); 0 where no unit has a seed.

        A plan may give its parts more seeds than the profile, and what has no chance in it has none.
        """
        found: dict[str, set[Any]] = {}
        for entry in self.record["units"]:
            parts = {key: value for key, value in entry["unit"].items() if key != "seed"}
            name = " ".join(str(value) for value in parts.values())
            found.setdefault(name, set()).update({entry["unit"]["seed"]} if "seed" in entry["unit"] else ())
        return {name: len(seeds) for name, seeds in found.items()}

    def seeds_told(self) -> str:
        """``3 seeds``; ``8 seeds (MLP), 5 (convnet) and 5 (GPT)`` where they differ; ``no seeds`` where nothing is drawn."""
        counts = self.seeds_run()
        first, *others = counts.values()
        told = "no seeds" if not first else f"{first} seed{'' if first == 1 else 's'}"
        if all(count == first for count in others):
            return told
        names = list(counts)
        return listed([f"{told} ({names[0]})", *(f"{counts[name] or 'none'} ({name})" for name in names[1:])])

    def stale_tables(self) -> list[str]:
        """Files of tables that are missing or are not the ones the result was made with."""
        return [entry["file"] for entry in self.record["tables"] if self._digest(entry["file"]) != entry["sha256"]]

    def missing_figures(self) -> list[str]:
        """Files of figures that are not there."""
        return [entry["file"] for entry in self.record["figures"] if not (self.folder / entry["file"]).is_file()]

    def changed_figures(self) -> list[str]:
        """Files of figures that are there and are not the ones the result was made with, where it says which those are."""
        entries = [entry for entry in self.record["figures"] if (self.folder / entry["file"]).is_file()]
        return [
            entry["file"]
            for entry in entries
            if self._digest(entry["file"]) != entry.get("sha256", self._digest(entry["file"]))
        ]

    def _digest(self, file: str) -> str | None:
        try:
            return digest(read_whole(self.folder / file))
        except (OSError, ValueError):
            return None


def shortfall(there: Result, experiment: Experiment, profile: Profile, units: Sequence[Unit]) -> str | None:
    """In what a run would be less than the result that is there, in a few words; None where it is not less in anything.

    Less is a quick run than a full one, one of fewer seeds, and, where an experiment has an ``extent``, one that covers
    less of what there is to measure (libraries, recordings).
    """
    record = there.record
    if PROFILES.index(profile.name) < PROFILES.index(record["profile"]):
        return f"{record['profile']}, this run {profile.name}"
    if profile.seeds < record["seeds"]:
        return f"{record['seeds']} seeds, this run {profile.seeds}"
    extent = getattr(experiment, "extent", None)
    if extent is not None:
        covered, covers = extent([entry["unit"] for entry in record["units"]]), extent(units)
        if profile.name == record["profile"] and covers < covered:
            return f"it covers {covered}, this run {covers}"
    return None


def _wrong(record: Any) -> str | None:
    """What is wrong with the shape of a result, in a few words."""
    wrong = misfit(record, RECORD)
    if wrong:
        return wrong
    if not record["units"]:
        return "units need one entry or more"
    unknown = [claim["kind"] for claim in record["claims"] if claim["kind"] not in KINDS]
    if unknown:
        return f"a claim is one of {', '.join(KINDS)}, not {unknown[0]!r}"
    if record["profile"] not in PROFILES:
        return f"profile {record['profile']!r} is not one of: {', '.join(PROFILES)}"
    if record["verdict"]["status"] not in STATUSES:
        return f"verdict.status is not one of: {', '.join(STATUSES)}"
    for entry in [*record["tables"], *record["figures"]]:
        if Path(entry["file"]).name != entry["file"]:
            return f"{entry['file']!r} is not a plain file name"
    return None


def read_all(reports: Path) -> list[Result]:
    """Every finished result under a folder, by name; ResultError with a line for each that is damaged."""
    found: list[Result] = []
    damaged: list[str] = []
    for path in sorted(reports.glob(f"*/{RESULT}")):
        try:
            found.append(Result.read(path.parent))
        except ResultError as error:
            damaged += error.lines
    if damaged:
        raise ResultError(*damaged)
    return found
