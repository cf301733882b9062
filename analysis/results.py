"""A finished result as it lies on disk: reports/<experiment>/result.json and the tables and figures it lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.experiment import KINDS, PROFILES, STATUSES, Experiment, Profile, Unit
from analysis.files import digest
from analysis.store import Tables, from_csv
from analysis.tables import listed

RESULT = "result.json"

_SHAPE: dict[str, type] = {
    "experiment": str,
    "title": str,
    "question": str,
    "claims": list,
    "verdict": dict,
    "profile": str,
    "seeds": int,
    "units": list,
    "seconds": float,
    "started": str,
    "finished": str,
    "fingerprint": str,
    "environment": dict,
    "tables": list,
    "figures": list,
}
_PARTS: dict[str, tuple[str, ...]] = {
    "claims": ("text", "source", "stated", "kind"),
    "units": ("unit", "seconds"),
    "tables": ("name", "file", "rows", "columns", "sha256"),
    "figures": ("name", "file", "caption", "width", "height"),
}


class ResultError(Exception):
    """A result is missing or is not what the runner writes; the message names the file."""


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
            record = json.loads(path.read_bytes())
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
                tables[entry["name"]] = from_csv((self.folder / entry["file"]).read_bytes(), entry["columns"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ResultError(f"{self.folder.name}/{entry['file']}: {error}") from None
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

    def _digest(self, file: str) -> str | None:
        try:
            return digest((self.folder / file).read_bytes())
        except OSError:
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
    if not isinstance(record, dict):
        return "not an object"
    for key, kind in _SHAPE.items():
        if not isinstance(record.get(key), (int, float) if kind is float else kind):
            return f"{key} is missing or not of type {kind.__name__}"
    for key, fields in _PARTS.items():
        if not all(isinstance(entry, dict) and set(fields) <= set(entry) for entry in record[key]):
            return f"an entry of {key} lacks one of: {', '.join(fields)}"
    if not all(isinstance(entry.get("unit"), dict) for entry in record["units"]) or not record["units"]:
        return "units need one entry or more, each with its unit"
    unknown = [claim["kind"] for claim in record["claims"] if claim["kind"] not in KINDS]
    if unknown:
        return f"a claim is one of {', '.join(KINDS)}, not {unknown[0]!r}"
    if record["profile"] not in PROFILES:
        return f"profile {record['profile']!r} is not one of: {', '.join(PROFILES)}"
    verdict = record["verdict"]
    if verdict.get("status") not in STATUSES or not isinstance(verdict.get("findings"), list | tuple):
        return f"verdict needs findings and a status of: {', '.join(STATUSES)}"
    for entry in [*record["tables"], *record["figures"]]:
        if Path(entry["file"]).name != entry["file"]:
            return f"{entry['file']!r} is not a plain file name"
    return None


def read_all(reports: Path) -> list[Result]:
    """Every finished result under a folder, by name; ResultError at the first that is damaged."""
    return [Result.read(path.parent) for path in sorted(reports.glob(f"*/{RESULT}"))]
