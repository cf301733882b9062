"""Every verdict turns where it says, and says what its tables say: planted numbers just inside and just outside each threshold."""

from __future__ import annotations

from typing import Any

import pytest

from analysis import experiment
from tests.analysis.plants import ladders, scaling, sums, training
from tests.analysis.plants.common import Cases, found, said
from tests.analysis.plants.phrases import PHRASES
from tests.analysis.plants.texts import SAID

CASES: Cases = {**sums.CASES, **training.CASES, **ladders.CASES, **scaling.CASES}
ELSEWHERE = {"e02", "e03", "e04"}  # test_verdicts_of_formats.py


def test_every_verdict_has_plants() -> None:
    assert {name.partition("_")[0] for name in experiment.names()} == CASES.keys() | ELSEWHERE
    assert CASES.keys() == SAID.keys()


@pytest.mark.parametrize(
    ("name", "changes", "status"),
    [(name, *case) for name, (_, cases) in CASES.items() for case in cases],
    ids=str,
)
def test_a_verdict_turns_where_it_says(name: str, changes: dict[str, Any], status: str) -> None:
    assert experiment.load(name).verdict(CASES[name][0](**changes)).status == status


@pytest.mark.parametrize("name", SAID)
def test_a_verdict_says_what_its_tables_say(name: str) -> None:
    changes, numbers, findings = SAID[name]
    verdict = experiment.load(name).verdict(CASES[name][0](**changes))
    assert " ".join(said(verdict)) == numbers
    assert found(verdict) == findings


@pytest.mark.parametrize(("name", "changes", "phrase"), PHRASES, ids=str)
def test_a_sentence_follows_the_tables(name: str, changes: dict[str, Any], phrase: str) -> None:
    verdict = experiment.load(name).verdict(CASES[name][0](**changes))
    assert phrase in " ".join((verdict.summary, *found(verdict)))
