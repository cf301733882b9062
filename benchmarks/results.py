"""results.json: every sample, and how numbers follow from samples.

Rates are elements a second.  Ratios are taken between contenders of one round, which the machine's other load slows
alike, and the median of the rounds is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.targets import RATE, SHARE, TARGETS, TIMES, Target
from fpemu.io import writing_whole

FILE = Path(__file__).with_name("results.json")
VERSION = 2
_NUMBERS = re.compile(r"\[[-+\d.e,\s]+\]")
ROOFLINE, OURS, PEER = "roofline", "ours", "peer"  # roles
THREADS, PAST = "threads", "stores past the cache"  # what crossings are of


class ResultsError(Exception):
    """results.json is missing or is not what a run writes; the message names the file."""


def _positive(samples: Iterable[float]) -> None:
    if not all(isinstance(sample, (int, float)) and isfinite(sample) and sample > 0 for sample in samples):
        raise ValueError("a sample is not a positive number of seconds")


@dataclass(frozen=True)
class Timed:
    """A contender at one work."""

    name: str
    role: str
    threads: int
    allocates: bool
    elements: int
    compared: int  #: results set beside ours before timing
    differing: int
    overflow: str  #: the overflow policy it follows where that is not the work's
    refused: str  #: the error it raised instead of doing the work
    seconds: list[float]  #: of each round

    def __post_init__(self) -> None:
        if bool(self.seconds) == bool(self.refused) or self.role not in (ROOFLINE, OURS, PEER):
            raise ValueError(f"{self.name}: a contender has a role, and either samples or a reason to have none")
        _positive(self.seconds)

    @property
    def rates(self) -> list[float]:
        """Elements a second, of each round."""
        return [self.elements / seconds for seconds in self.seconds]


@dataclass(frozen=True)
class Measured:
    """A work and its contenders."""

    name: str
    group: str
    elements: int
    bytes_read: int  #: of an element
    bytes_written: int
    contenders: list[Timed]
    unit: str = "elem"  #: what elements are: elements, or multiply-adds (MAC)

    def __post_init__(self) -> None:
        roles = [row.role for row in self.contenders]
        if not roles.count(ROOFLINE) or roles[roles.count(ROOFLINE) :][:1] != [OURS]:
            raise ValueError(f"{self.name}: a roofline and fpemu come first")
        if len({len(row.seconds) for row in self.contenders if row.seconds}) != 1:
            raise ValueError(f"{self.name}: contenders have different numbers of rounds")

    @property
    def roofline(self) -> list[float]:
        """Rates of the faster copy, or of the read, of each round."""
        return [
            max(rates) for rates in zip(*(row.rates for row in self.contenders if row.role == ROOFLINE), strict=True)
        ]

    @property
    def ours(self) -> Timed:
        """fpemu as it comes."""
        return next(row for row in self.contenders if row.role == OURS)

    def peer(self, name: str) -> Timed | None:
        """The peer of that name, if it did the work."""
        return next((row for row in self.contenders if row.name == name and row.role == PEER and row.seconds), None)

    def share(self, row: Timed) -> list[float]:
        """Rates over those of the roofline, of each round."""
        return [rate / copy for rate, copy in zip(row.rates, self.roofline, strict=True)]

    def times(self, row: Timed) -> list[float]:
        """Our rates over those of another, of each round."""
        return [rate / other for rate, other in zip(self.ours.rates, row.rates, strict=True)]

    def value(self, target: Target) -> float | None:
        """What there is to set against a target; None if its peer is not there."""
        if target.measure == RATE:
            return median(self.ours.rates)
        if target.measure == SHARE:
            return median(self.share(self.ours))
        peer = self.peer(target.peer) if target.measure == TIMES else None
        return None if peer is None else median(self.times(peer))


@dataclass(frozen=True)
class Wait:
    """Samples of one waiting time."""

    group: str
    name: str
    seconds: list[float]
    ours: bool = False  #: the targets are for it

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError(f"{self.name}: no samples")
        _positive(self.seconds)

    def value(self, target: Target) -> float | None:
        """Seconds, the median."""
        return median(self.seconds)


@dataclass(frozen=True)
class Crossing:
    """Seconds of a call without and with something, by size: a list of rounds each."""

    choice: str  #: THREADS or PAST
    work: str
    sizes: list[int]
    without: list[list[float]]
    having: list[list[float]]

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.without) == len(self.having):
            raise ValueError(f"{self.work}: sizes without samples")
        for rounds in (*self.without, *self.having):
            _positive(rounds)

    @property
    def gains(self) -> list[float]:
        """How many times as fast a call is with it, by size."""
        pairs = zip(self.without, self.having, strict=True)
        return [median(a / b for a, b in zip(without, having, strict=True)) for without, having in pairs]

    @property
    def pays_from(self) -> int | None:
        """The smallest measured size from which on it never loses; None if there is none."""
        best = None
        for size, gain in zip(reversed(self.sizes), reversed(self.gains), strict=True):
            if gain < 1:
                break
            best = size
        return best


@dataclass(frozen=True)
class Results:
    """A whole run."""

    date: str  #: UTC
    size: int
    threads: int
    rounds: int
    environment: dict[str, Any]
    packages: dict[str, str]  #: versions of the peers, "absent" for those that are not installed
    works: list[Measured]
    waits: list[Wait]
    crossings: list[Crossing]

    def __post_init__(self) -> None:
        missing = {"fpemu", "numba", "cpu", "cores"} - set(self.environment)
        if missing:
            raise ValueError(f"the environment lacks {', '.join(sorted(missing))}")

    def verdicts(self) -> list[tuple[str, Target, float | None]]:
        """Every target with what was measured for it: (work, target, value)."""
        rows: list[Measured | Wait] = [*self.works, *(wait for wait in self.waits if wait.ours)]
        return [(row.name, target, row.value(target)) for row in rows for target in TARGETS.get(row.group, ())]

    def write(self, path: Path = FILE) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1)
        text = _NUMBERS.sub(lambda found: " ".join(found[0].split()), text)  # a list of samples is one line
        with writing_whole(path) as stream:
            stream.write(text.encode() + b"\n")

    @classmethod
    def read(cls, path: Path = FILE) -> Results:
        """Read and check the file.  ResultsError says in one line what is wrong with it."""
        try:
            record = json.loads(path.read_bytes())
            if record.pop("version") != VERSION:
                raise ValueError(f"not of version {VERSION}")
            works = [
                Measured(**{**work, "contenders": [Timed(**row) for row in work["contenders"]]})
                for work in record.pop("works")
            ]
            waits = [Wait(**wait) for wait in record.pop("waits")]
            crossings = [Crossing(**crossing) for crossing in record.pop("crossings")]
            return cls(works=works, waits=waits, crossings=crossings, **record)
        except FileNotFoundError:
            raise ResultsError(f"{path.name} is not there: python -m benchmarks run makes it") from None
        except OSError as error:
            raise ResultsError(f"{path.name}: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResultsError(f"{path.name} is not what a run writes: {type(error).__name__}: {error}") from None
