"""Are errors of sums those of NumPy, exact sums exact, and a bias seen?"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from analysis.experiment import Profile, load
from analysis.sums import exact_sums, lengths, sums, unit_roundoff
from tests.analysis.lab import Tables, drawn, measured

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
e07: Any = load("e07_stochastic_growth")


@pytest.fixture(scope="module")
def tables() -> Tables:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(e07, "DRAWS", {"quick": 10})
        return measured(e07, Profile("quick", 2))


def test_lengths_hold_both_ends_and_grow() -> None:
    assert lengths(10, 1000, per_decade=2) == [10, 32, 100, 316, 1000]
    assert unit_roundoff("bfloat16") == 2**-8


def test_exact_sums_are_exact() -> None:
    codes = fp.encode(np.random.default_rng(0).standard_normal((3, 200)) * 2.0 ** np.arange(-100, 100), "bfloat16")
    values = [[Fraction(float(x)) for x in row] for row in fp.decode(codes, "bfloat16")]
    assert exact_sums(codes, "bfloat16", [7, 200]).tolist() == [
        [float(sum(row[:n])) for n in (7, 200)] for row in values
    ]


def test_a_table_of_sums_knows_magnitude_and_sum() -> None:
    values = np.random.default_rng(1).standard_normal((4, 300)).astype(np.float16)
    table = sums(values.view(np.uint16), "float16", [50, 300], {"plain": {}})
    running = np.cumsum(values, axis=1, dtype=np.float16)
    assert table["sum"].tolist() == [*running[:, 49], *running[:, 299]]
    expected = [np.abs(values[:, :n].astype(float)).sum(axis=1) for n in (50, 300)]
    np.testing.assert_allclose(table.magnitude, np.concatenate(expected), rtol=1e-14)


def test_draws_are_numbered_through_and_differ(tables: Tables) -> None:
    errors = tables["errors"]
    assert sorted(errors.draw.unique()) == list(range(20))
    last = errors.query("terms == 100000 and method == 'stochastic' and format == 'bfloat16'")
    assert last.error.nunique() > 15


def test_verdict_and_figure_follow(tables: Tables) -> None:
    assert e07.verdict(tables).status == "holds"
    drawn(e07, tables)
    errors = tables["errors"]
    stochastic = errors.method == e07.STOCHASTIC
    biased = errors.assign(error=errors.error + 0.2 * errors.error.abs().where(stochastic, 0).max())
    wide = errors.assign(error=errors.error.where(~stochastic, 3 * errors.error))
    for wrong in (biased, wide):
        assert e07.verdict({"errors": wrong}).status == "does not hold at this scale"
