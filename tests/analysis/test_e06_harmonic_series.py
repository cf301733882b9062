"""Does the series end where NumPy's ends, and where Higham says?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from analysis.experiment import Profile, load
from tests.analysis.lab import Tables, drawn, measured

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
e06: Any = load("e06_harmonic_series")


@pytest.fixture(scope="module")
def tables() -> Tables:
    return measured(e06, Profile())


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("float32", np.float32)])
def test_partial_sums_are_those_of_numpy(tables: Tables, name: str, dtype: type) -> None:
    running = np.cumsum((1 / np.arange(1, 2**22 + 1)).astype(dtype), dtype=dtype)
    rows = tables["sums"].query("format == @name")
    np.testing.assert_array_equal(rows["sum"], running[rows.terms - 1].astype(np.float64))
    end = tables["ends"].set_index("format").loc[name]
    assert end["first_lost"] == 2 + np.flatnonzero(running[1:] > running[:-1])[-1] + 1
    assert end["value"] == running[-1]


def test_the_first_lost_term_is_at_most_half_a_step(tables: Tables) -> None:
    """Of what is above the sum: a power of two has half the step below."""
    for end in tables["ends"].to_dict("records"):
        format = e06._format(end)
        code = int(fp.encode(end["value"], format))
        above = float(fp.decode(np.array([code + 1], format.code_dtype), format)[0]) - end["value"]
        assert end["last_term"] <= above / 2, end


def test_the_harmonic_numbers_are_right_on_both_sides_of_the_switch() -> None:
    for count in (1, 2, 1000, 1024, 1025, 5000):
        assert e06.harmonic(count) == pytest.approx(sum(1 / n for n in range(1, count + 1)), abs=1e-12)


def test_verdict_and_figure_follow(tables: Tables) -> None:
    assert e06.verdict(tables).status == "holds"
    drawn(e06, tables)
    for column in ("value", "first_lost"):
        wrong = tables["ends"].copy()
        wrong.loc[wrong.format == "bfloat16", column] += 1
        assert e06.verdict({**tables, "ends": wrong}).status == "does not hold at this scale"
