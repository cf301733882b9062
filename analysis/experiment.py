"""What an experiment is: the records it is made of, and the check that a module is one.

An experiment is a module ``analysis/experiments/eNN_<name>.py`` that reads from top to bottom as question, claims, ``plan``
(the resumable pieces of work), ``measure`` (one piece -> tidy tables, never a picture), ``draw`` (tables -> figures, never a
measurement), captions, ``verdict`` (the numbers stated before beside the measured ones).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import analysis.experiments

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

T = TypeVar("T")

Unit = dict[str, str | int | float]  # one resumable piece of work, as a key that JSON can hold: {"seed": 0}

PROFILES = ("quick", "full")
NO_CLAIM = "no claim"  # with this verdict, and only then, an experiment may draw no figures: it has nothing to show yet
STATUSES = ("holds", "holds with conditions", "does not hold at this scale", NO_CLAIM)


# What kind of thing a claim is, and the word that pages put before its number: only what others published is "Published".
KINDS = {
    "published": "Published",
    "second-hand": "Published (read second-hand)",
    "pilot": "Our own pilot",
    "derived": "Derived here",
    "predicted": "Predicted here",
    "common": "Commonly held",
    "target": "Aimed at",
}
NO_NUMBER = "no number"
NOT_PUBLISHED = "not published"


@dataclass(frozen=True)
class Claim:
    """A claim in words, where it stands, its number, and its kind, one of KINDS.

    Kinds: published and read first-hand; published and read second-hand; found in an earlier, smaller trial of this project
    (pilot); derived or predicted by it; common knowledge; its own target.
    """

    text: str
    source: str
    stated: str
    kind: str = "published"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a claim is one of {', '.join(KINDS)}, not {self.kind!r}")


@dataclass(frozen=True)
class Finding:
    """One quantity, as stated before and as measured; both are text that carries its unit.

    ``stated`` is what was published, unless it says in brackets what else it is: "77 % (pilot)".
    """

    quantity: str
    stated: str
    measured: str


@dataclass(frozen=True)
class Verdict:
    """What came of the claims. ``status`` is one of STATUSES; ``summary`` is one sentence with measured numbers."""

    status: str
    summary: str
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"verdict status {self.status!r} is not one of: {', '.join(STATUSES)}")
        if not self.summary.strip():
            raise ValueError("a verdict needs a summary")


@dataclass(frozen=True)
class Profile:
    """How much work to do: ``quick`` (minutes on a laptop) or ``full``, and the number of seeds, at least one."""

    name: str = "quick"
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.name not in PROFILES:
            raise ValueError(f"profile {self.name!r} is not one of: {', '.join(PROFILES)}")
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, int) or self.seeds < 1:
            raise ValueError(f"seeds must be a whole number of at least 1, not {self.seeds!r}")

    def pick(self, *, quick: T, full: T) -> T:
        """The value that belongs to this profile."""
        return quick if self.name == "quick" else full


class Experiment(Protocol):
    """The face of an experiment module.

    One that measures what it finds (libraries, recordings) may have ``extent(units)`` too: how many of them a plan
    covers. A result that covers fewer does not take the place of one that covers more.
    """

    __name__: str
    __file__: str | None
    TITLE: str
    QUESTION: str
    CLAIMS: tuple[Claim, ...]
    CAPTIONS: dict[str, str]

    def plan(self, profile: Profile) -> list[Unit]: ...
    def measure(self, unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]: ...
    def draw(self, tables: dict[str, pd.DataFrame]) -> dict[str, Figure]: ...
    def verdict(self, tables: dict[str, pd.DataFrame]) -> Verdict: ...


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_claims(value: object) -> bool:
    return isinstance(value, Sequence) and all(isinstance(claim, Claim) for claim in value)


def _are_captions(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_text(k) and _is_text(v) for k, v in value.items())


_CONTRACT: dict[str, tuple[Callable[[object], bool], str]] = {
    "__doc__": (_is_text, "a module docstring"),
    "TITLE": (_is_text, "a text"),
    "QUESTION": (_is_text, "a text"),
    "CLAIMS": (_are_claims, "a tuple of Claim"),
    "CAPTIONS": (_are_captions, "a dict from figure name to caption"),
    "plan": (callable, "a function plan(profile)"),
    "measure": (callable, "a function measure(unit, profile)"),
    "draw": (callable, "a function draw(tables)"),
    "verdict": (callable, "a function verdict(tables)"),
}


def validate(module: Any) -> Experiment:
    """The same module, if it keeps the contract; else a TypeError that lists everything it lacks."""
    missing = [
        f"{name} ({what})" for name, (holds, what) in _CONTRACT.items() if not holds(getattr(module, name, None))
    ]
    if missing:
        raise TypeError(f"experiment {short_name(module)} does not keep the contract; it lacks: {'; '.join(missing)}")
    return cast(Experiment, module)


def short_name(module: Any) -> str:
    """``e02_format_atlas`` for ``analysis.experiments.e02_format_atlas``."""
    return str(module.__name__).rpartition(".")[2]


def names() -> list[str]:
    """Every experiment there is, in order; importing none of them."""
    found = pkgutil.iter_modules(analysis.experiments.__path__)
    return sorted(module.name for module in found if module.name[:1] == "e" and module.name[1:3].isdigit())


def resolve(name: str) -> str:
    """The full name of an experiment from its name or its number (``e02``); ValueError lists the valid ones."""
    valid = names()
    hits = [full for full in valid if name in (full, full.partition("_")[0])]
    if len(hits) != 1:
        raise ValueError(f"no experiment {name!r}; there are: {', '.join(valid) or 'none'}")
    return hits[0]


def load(name: str) -> Experiment:
    """Import an experiment by name or number and check it. ValueError: no such one; TypeError: not an experiment."""
    return validate(importlib.import_module(f"analysis.experiments.{resolve(name)}"))
