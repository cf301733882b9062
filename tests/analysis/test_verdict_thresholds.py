"""Every verdict turns where it says, and says what its tables say: planted numbers just inside and just outside each threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import experiment
from tests.analysis.plants import ladders, real_runs, scaling, sums, training
from tests.analysis.plants.common import Cases, found, said
from tests.analysis.plants.phrases import PHRASES
from tests.analysis.plants.texts import SAID

CASES: Cases = {**sums.CASES, **training.CASES, **ladders.CASES, **scaling.CASES, **real_runs.CASES}
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
    assert phrase in " ".join((verdict.summary, *found(verdict), *(finding.quantity for finding in verdict.findings)))


# ---- helpers of single verdicts -------------------------------------------------------------------------------------
def test_a_correlation_needs_three_pairs() -> None:
    e30: Any = experiment.load("e30")
    layers = pd.DataFrame({"count": [0.1, 0.3, 0.2, np.nan], "turned": [1e-3, 2e-3, 3e-3, 1.0]})
    assert np.isnan(e30.correlation(layers[:2], "count"))
    assert e30.correlation(layers[:3], "count") == pytest.approx(0.5)  # ranks 1 3 2 and 1 2 3
    assert e30.correlation(layers, "count") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (None, "none"),
        ((-19, 25), "2^-19 to 2^25"),
        ((-20, 25), "2^-20 (end of the sweep) to 2^25"),
        ((0, 26), "2^0 to 2^26 (end of the sweep)"),
    ],
)
def test_a_range_that_the_sweep_ends_says_so(window: tuple[int, int] | None, text: str) -> None:
    e01: Any = experiment.load("e01")
    assert e01._window(window) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (448.0, "448"),
        (0.5, "0.5"),
        (7.5, "7.5"),
        (2.0**-24, "2^-24"),
        (2.0**127, "2^127"),
        (999_999.0, "999999"),
        (2.0**20, "2^20"),
        (1e6, "1000000.0"),
        (0.0625, "0.0625"),
        (2.0**-6, "2^-6"),
        (2.0**19, "524288"),
        (448.5, "448.5"),
    ],
)
def test_limits_are_written_exactly(value: float, text: str) -> None:
    e02: Any = experiment.load("e02")
    assert e02._exact(value) == text
