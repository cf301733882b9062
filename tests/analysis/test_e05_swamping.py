"""Do sums stall where NumPy's do, and does the verdict see one that does not?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from analysis.experiment import Profile, load
from tests.analysis.lab import Tables, drawn, measured

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
e05: Any = load("e05_swamping")


@pytest.fixture(scope="module")
def tables() -> Tables:
    return measured(e05, Profile("quick", 2))


def test_sums_one_by_one_are_those_of_numpy() -> None:
    values = np.random.default_rng(3).uniform(*e05.ENDS, 20_000).astype(np.float16)
    running = np.cumsum(
        values, dtype=np.float16
    )  # one after another; float16 additions through float32 are exact or innocuous
    found = e05.stall(values.view(np.uint16), fp.FORMATS["float16"])
    assert found["stalled_at"] == running[-1] == 8192
    assert found["terms"] == 1 + np.flatnonzero(running == running[-1])[0]


def test_every_sum_to_nearest_stalls_at_the_predicted_power_of_two(tables: Tables) -> None:
    stalls = tables["stalls"]
    assert (stalls.stalled_at == stalls.predicted).all()
    expected = {("e6m9", "uniform"): 4096, ("float16", "uniform"): 8192, ("bfloat16", "uniform"): 1024}
    expected |= {("e6m9", "ones"): 2**10, ("float16", "ones"): 2**11, ("bfloat16", "ones"): 2**8}
    found = stalls.groupby(["format", "values"]).predicted.unique().to_dict()
    assert {key: list(values) for key, values in found.items()} == {key: [value] for key, value in expected.items()}


def test_errors_are_those_of_the_sums(tables: Tables) -> None:
    sums = tables["sums"]
    assert len(sums) == len(e05.FORMATS) * 2 * len(e05.METHODS) * len(e05.LENGTHS["quick"])
    finite = sums[np.isfinite(sums["sum"])]
    np.testing.assert_array_equal(finite.error, (finite["sum"] - finite.exact).abs() / finite.exact)
    assert set(sums[~np.isfinite(sums["sum"])].format) == {"float16"}


def test_verdict_and_figure_follow(tables: Tables) -> None:
    assert e05.verdict(tables).status == "holds"
    drawn(e05, tables)
    moved = tables["stalls"].assign(stalled_at=lambda t: t.stalled_at * 2)
    assert e05.verdict({**tables, "stalls": moved}).status == "does not hold at this scale"
    worse = tables["sums"].assign(error=lambda t: t.error + 0.2)
    assert e05.verdict({**tables, "sums": worse}).status == "does not hold at this scale"
