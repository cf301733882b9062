"""Are the orders those they are said to be, by NumPy's arithmetic, and bounds that are broken seen?"""

from __future__ import annotations

from collections.abc import Callable
from math import fsum
from typing import Any

import numpy as np
import pytest
from implementations import JIT

from analysis.experiment import Profile, load
from analysis.sums import sums
from tests.analysis.lab import Tables, drawn, measured

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
e10: Any = load("e10_orders")


@pytest.fixture(scope="module")
def tables() -> Tables:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(e10, "DRAWS", {"quick": 5})
        return measured(e10, Profile("quick", 2))


def _one_by_one(x: Any) -> Any:
    return np.cumsum(x, dtype=x.dtype)[-1]


def _pairs(x: Any) -> Any:
    return x[0] if len(x) == 1 else _pairs(x[: len(x) // 2]) + _pairs(x[len(x) // 2 :])


def _chunks(x: Any) -> Any:
    return _one_by_one(np.array([_one_by_one(x[start : start + 64]) for start in range(0, len(x), 64)]))


def _kahan(x: Any) -> Any:
    total, lost = x[0], x.dtype.type(0)
    for value in x[1:]:
        y = value - lost
        new = total + y
        lost = (new - total) - y
        total = new
    return total


BY_HAND: dict[str, Callable[[Any], Any]] = dict(zip(e10.WAYS, (_one_by_one, _chunks, _pairs, _kahan), strict=True))


@pytest.mark.parametrize("way", e10.WAYS)
@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_orders_are_those_of_numpy(way: str, count: int) -> None:
    values = np.random.default_rng(count).standard_normal((3, count)).astype(np.float16)
    found = sums(values.view(np.uint16), "float16", [count], {way: {"order": e10.WAYS[way].order}})
    assert found["sum"].tolist() == [float(BY_HAND[way](row)) for row in values]
    assert found.exact.tolist() == [fsum(row.tolist()) for row in values]


def test_verdict_and_figure_follow(tables: Tables) -> None:
    assert e10.verdict(tables).status == "holds"
    drawn(e10, tables)
    errors = tables["errors"]
    for way, factor, status in (
        (e10.PAIRS, 20, "does not hold at this scale"),
        (e10.KAHAN, 20, "holds with conditions"),
    ):
        wrong = errors.assign(error=errors.error.where(errors.method != way, errors.error * factor))
        assert e10.verdict({"errors": wrong}).status == status, way
