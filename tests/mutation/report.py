"""What a run says: a table by file, the share killed with its interval, and every survivor with its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

from tests.mutation.campaign import KILLED, SURVIVED, TIMED_OUT, UNCOVERED, Outcome
from tests.mutation.candidates import Mutant

REASONS = Path(__file__).with_name("survivors.toml")
ALIVE = (SURVIVED, UNCOVERED)


@dataclass(frozen=True)
class Reason:
    """Why a mutant survives; equivalent: no test could tell it, because nothing that is promised changes."""

    file: str
    where: str
    old: str
    new: str
    equivalent: bool
    reason: str

    @property
    def spot(self) -> tuple[str, str, str, str]:
        return self.file, self.where, self.old, self.new


def spot(mutant: Mutant) -> tuple[str, str, str, str]:
    return mutant.file, mutant.where, mutant.old, mutant.new


def reasons(path: Path = REASONS) -> dict[tuple[str, str, str, str], Reason]:
    """By file, place and changed lines. Raises TypeError for a row that says too much or too little."""
    rows = [Reason(**row) for row in tomllib.loads(path.read_text()).get("survivor", [])]
    return {row.spot: row for row in rows}


def wilson(successes: int, number: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, without correction for continuity)."""
    interval = binomtest(successes, number).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Result:
    """drawn mutants with their outcomes, and the known reasons."""

    drawn: Sequence[Mutant]
    outcomes: Mapping[str, Outcome]
    known: Mapping[tuple[str, str, str, str], Reason]

    def alive(self, mutant: Mutant) -> bool:
        return self.outcomes[mutant.key].status in ALIVE

    def equivalent(self, mutant: Mutant) -> bool:
        known = self.known.get(spot(mutant))
        return self.alive(mutant) and known is not None and known.equivalent

    @property
    def killed(self) -> int:
        return sum(not self.alive(mutant) for mutant in self.drawn)

    @property
    def counted(self) -> int:
        """The mutants that a test could tell: all drawn but the equivalent."""
        return sum(not self.equivalent(mutant) for mutant in self.drawn)

    @property
    def contradicted(self) -> list[Mutant]:
        """Killed, though called equivalent."""
        told = [mutant for mutant in self.drawn if not self.alive(mutant) and spot(mutant) in self.known]
        return [mutant for mutant in told if self.known[spot(mutant)].equivalent]

    @property
    def lower(self) -> float:
        """The lower end of the interval of the share killed among those counted."""
        return wilson(self.killed, self.counted)[0] if self.counted else 0.0

    def text(self, contents: Mapping[str, bytes]) -> str:
        """All of it, as Markdown."""
        parts = [
            self._table(),
            self._shares(),
            *(self._survivor(m, contents[m.file]) for m in self.drawn if self.alive(m)),
        ]
        parts += [
            f"Called equivalent, but {self.outcomes[m.key].killer} tells it: {m.file}:{m.line} {m.new}"
            for m in self.contradicted
        ]
        return "\n\n".join(parts) + "\n"

    def _table(self) -> str:
        lines = [
            "| file | drawn | killed | timed out | survived | of them not covered | equivalent |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for file in dict.fromkeys(mutant.file for mutant in self.drawn):
            own = [mutant for mutant in self.drawn if mutant.file == file]
            states = [self.outcomes[mutant.key].status for mutant in own]
            counts = [
                len(own),
                states.count(KILLED),
                states.count(TIMED_OUT),
                sum(map(self.alive, own)),
                states.count(UNCOVERED),
            ]
            lines.append(f"| {file} | " + " | ".join(map(str, [*counts, sum(map(self.equivalent, own))])) + " |")
        return "\n".join(lines)

    def _shares(self) -> str:
        late = sum(outcome.status == TIMED_OUT for outcome in self.outcomes.values())
        cut = sum(self.alive(mutant) and self.outcomes[mutant.key].left_out > 0 for mutant in self.drawn)
        lines = [f"{_share(self.killed, self.counted)} of the mutants not equivalent"]
        lines += [f"{_share(self.killed, len(self.drawn))} of all drawn"]
        lines += [
            f"{late} of the killed ran out of time; {cut} of the survivors had more tests than their time allowed"
        ]
        return "\n".join(lines)

    def _survivor(self, mutant: Mutant, content: bytes) -> str:
        outcome, known = self.outcomes[mutant.key], self.known.get(spot(mutant))
        reason = "no reason given"
        if known is not None:
            reason = f"equivalent: {known.reason}" if known.equivalent else known.reason
        tests = f"{outcome.tests - outcome.left_out} tests passed" + (
            f", {outcome.left_out} left out" if outcome.left_out else ""
        )
        head = (
            f"### {mutant.file}:{mutant.line} {mutant.where} ({mutant.operator})\n{outcome.status}; {tests}; {reason}"
        )
        return f"{head}\n```diff\n{mutant.diff(content)}\n```"


def _share(killed: int, number: int) -> str:
    low, high = wilson(killed, number)
    return f"killed {killed} of {number} = {killed / number:.1%}, 95 % interval {low:.1%} to {high:.1%},"
