"""Recipes in pairs: intervals, bounds and words of a ladder against textbook numbers worked out by other means."""

from __future__ import annotations

from math import inf, isnan, nan, sqrt
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import ladders, pairs, scaled, sums
from analysis.landmarks import log2_of, window
from analysis.tables import medians, percent, spread, where
from fpemu.formats import FORMATS, FloatFormat
from tests.analysis.plants.common import BASES, BOUND, HALF, SPREAD, STUDENT_2, down, runs, up

# Quantiles of Student's t as tables print them: degrees of freedom, then 90, 95 and 99 % two-sided.
STUDENT = {
    1: (6.313752, 12.706205, 63.656741),
    2: (2.919986, 4.302653, 9.924843),
    3: (2.353363, 3.182446, 5.840909),
    4: (2.131847, 2.776445, 4.604095),
    7: (1.894579, 2.364624, 3.499483),
    9: (1.833113, 2.262157, 3.249836),
    29: (1.699127, 2.045230, 2.756386),
}


@pytest.mark.parametrize("freedom", STUDENT)
@pytest.mark.parametrize(("place", "level"), [(0, 0.90), (1, 0.95), (2, 0.99)])
def test_intervals_by_the_table_of_student(freedom: int, place: int, level: float) -> None:
    values = np.random.default_rng(freedom).exponential(3, freedom + 1).tolist()
    one = pairs.interval(values, level)
    half = STUDENT[freedom][place] * stdev(values) / sqrt(len(values))
    assert one.values == freedom + 1 and one.mean == pytest.approx(mean(values))
    assert (one.low, one.high) == pytest.approx(
        (mean(values) - half, mean(values) + half), abs=1e-6 * half * len(values)
    )
    if level == 0.95:
        assert pairs.interval(values) == one
    assert pytest.approx(STUDENT[2][1], abs=1e-6) == STUDENT_2


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95.0, nan])
def test_levels_lie_between_nothing_and_all(level: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        pairs.interval([1.0, 2.0], level)


def test_within_and_beyond_at_their_ends() -> None:
    one = pairs.Interval(0.0, -2.0, 1.0, 3)
    assert one.within(2.0) and not one.within(down(2.0)) and not one.beyond(0.0)
    other = pairs.Interval(0.0, -1.0, 2.0, 3)
    assert other.within(2.0) and not other.within(down(2.0))
    above, below = pairs.Interval(2.0, 1.0, 3.0, 3), pairs.Interval(-2.0, -3.0, -1.0, 3)
    for one in (above, below):
        assert one.beyond(down(1.0)) and not one.beyond(1.0) and not one.within(down(3.0)) and one.within(3.0)
    lone = pairs.Interval(0.5, nan, nan, 1)
    assert not lone.within(9) and not lone.beyond(0.1)


@pytest.mark.parametrize("bad", [inf, nan, -inf])
def test_one_run_that_diverged_is_the_whole_interval(bad: float) -> None:
    one = pairs.interval([1.0, bad, 2.0])
    assert one == pairs.Interval(inf, inf, inf, 3) and one.text() == "diverged"


def _tables(low: float) -> pd.DataFrame:
    """Of a task whose seeds move less (beside it one with ten times the spread), and a recipe whose interval begins at ``low``."""
    table = runs(
        ("a", "b"), ("base", "x", "y"), "base", {("a", "x"): low, ("a", "y"): 0.5, ("b", "x"): -0.5, ("b", "y"): inf}
    )
    wider = table.loss.mask((table.task == "b") & (table.recipe == "base"), table.loss * 10)
    return table.assign(loss=wider)


def test_the_bound_is_the_deviation_of_the_base_alone() -> None:
    table = _tables(0.0)
    assert ladders.bound(table, "base", "a") == pytest.approx(stdev(BASES)) == pytest.approx(BOUND)
    assert ladders.bound(table, "base", "b") == pytest.approx(10 * stdev(BASES))
    assert ladders.bound(table, "x", "a") == pytest.approx(
        stdev(table[(table.task == "a") & (table.recipe == "x")].loss)
    )


@pytest.mark.parametrize(
    ("low", "worse", "costs"),
    [
        (1.00001, True, True),
        (0.99999, False, True),
        (0.51, False, True),
        (1e-6, False, True),
        (-1e-6, False, False),
        (-9.0, False, False),
    ],
)
def test_worse_begins_at_the_bound_and_costs_at_zero(low: float, worse: bool, costs: bool) -> None:
    """``low``: in units of the bound."""
    table = _tables(low * BOUND)
    assert ladders.worse(table, "base", "a", "x") is worse
    assert ladders.costs(table, "base", "a", "x") is costs
    one = ladders.gaps(table, "base")["a", "x"]
    assert one == ladders.gap(table, "base", "a", "x") and one.values == 3
    assert one.mean == pytest.approx(low * BOUND + HALF)
    assert (one.low, one.high) == pytest.approx((low * BOUND, low * BOUND + 2 * HALF), abs=1e-12)
    assert ladders.told(table, "base", "a", "x") == one.text(1e-3)


def test_what_diverged_is_worse_and_told_so() -> None:
    table = _tables(0.0)
    assert ladders.worse(table, "base", "b", "y") and ladders.costs(table, "base", "b", "y")
    assert ladders.told(table, "base", "b", "y") == "diverged in 1 of 3"
    assert ladders.gaps(table, "base")["b", "y"].text() == "diverged"


def test_a_single_seed_proves_nothing() -> None:
    table = _tables(9.0)
    alone = table[table.seed == 0]
    assert not ladders.worse(alone, "base", "a", "x") and not ladders.costs(alone, "base", "a", "x")
    assert isnan(ladders.bound(alone, "base", "a"))


def test_rows_of_a_ladder_by_hand() -> None:
    """Of a task that does not train: what each column is the sum, the share or the mean of."""
    steps = pd.DataFrame(
        {
            "applied": [True, False, False, True],
            "cancelled": [0.0, 0.5, 0.5, 1.0],
            "update_cosine": [1.0, 1.0, 0.5, 0.5],
        }
    )
    asked: list[Any] = []

    def run(recipe: Any, seed: int) -> Any:
        asked.append((recipe, seed))
        return SimpleNamespace(steps=steps, final_loss=lambda last: 100.0 + last)

    task: Any = SimpleNamespace(run=run, loss=lambda history: 2.5)
    rungs = {"one": ladders.Rung("fp32", "One", "k"), "two": ladders.Rung("bf16", "Two", "r")}
    rows = ladders.run_rungs("t", task, rungs, 5)
    assert asked == [("fp32", 5), ("bf16", 5)] and [row["recipe"] for row in rows] == ["one", "two"]
    for row in rows:
        assert row.pop("ms") >= 0
        expected = {
            "task": "t",
            "recipe": row["recipe"],
            "seed": 5,
            "loss": 2.5,
            "train_loss": 110.0,
            "steps": 4,
            "skipped": 2,
        }
        assert row == expected | {"cancelled": 0.5, "update_cosine": 0.75}


def test_the_picture_of_a_ladder_shades_the_bound_and_draws_intervals() -> None:
    import matplotlib.pyplot as plt

    rungs = {name: ladders.Rung("fp32", name, "k") for name in ("base", "x", "y")}
    figure = ladders.draw_gaps(_tables(0.5), rungs, "base")
    left, right = figure.axes
    box: Any = left.patches[0]
    low, high = box.get_x(), box.get_x() + box.get_width()
    assert (low, high) == pytest.approx((-1e3 * BOUND, 1e3 * BOUND))
    bars = [
        list(map(float, line.get_xdata()))
        for line in left.lines
        if len(line.get_xdata()) == 2 and line.get_linewidth() == 2.5
    ]  # type: ignore[arg-type]
    assert bars[0] == pytest.approx([500.0, 500 + 2e3 * HALF])
    dots: Any = left.collections[0].get_offsets()
    assert sorted(float(x) for x, _ in dots) == pytest.approx([1e3 * (0.5 + HALF + SPREAD * k) for k in (-1, 0, 1)])
    assert left.get_title() == "a (3 seeds)" and "1 diverged" in [text.get_text() for text in right.texts]
    plt.close(figure)


# ---- what tables are asked ------------------------------------------------------------------------------------------
def test_tables_by_hand() -> None:
    table = pd.DataFrame({"seed": [0, 1, 2] * 2, "n": [1] * 3 + [2] * 3, "v": [1.0, 2.0, 9.0, 4.0, nan, 6.0]})
    assert where(table, n=1, seed=2).v.tolist() == [9.0]
    ends = spread(table, "n", "v")
    assert ends.loc[1].tolist() == [1.0, 2.0, 9.0] and ends.loc[2].isna().all()
    assert medians(table[:3], "n") == {1: {"seed": 1.0, "v": 2.0}}
    assert set(medians(table, "n", "seed")) == {(n, seed) for n in (1, 2) for seed in (0, 1, 2)}
    assert (percent(0.12345), percent(0.12345, 2), percent(1.0, 0)) == ("12.3 %", "12.35 %", "100 %")


def test_distributions_are_what_they_are_called() -> None:
    """Moments of 2**18 values within 6 standard errors (a false alarm in 10^8 for each)."""
    count = 1 << 18
    drawn = {name: scaled.drawn(name, (512, 512), 3).astype(np.float64).ravel() for name in scaled.DISTRIBUTIONS}
    for name, x in drawn.items():
        assert abs(x.mean()) < 6 * x.std() / sqrt(count), name
        assert np.array_equal(x, scaled.drawn(name, (512, 512), 3).ravel()) and not np.array_equal(
            x, scaled.drawn(name, (512, 512), 4).ravel()
        )
    assert abs(drawn["Gaussian"].var() - 1) < 6 * sqrt(2 / count)
    assert abs(drawn["Laplace"].var() - 2) < 6 * sqrt(20 / count)  # fourth moment 24, less 2 squared
    logs = np.log(np.abs(drawn["lognormal"]))
    assert abs(logs.mean()) < 6 * 1.5 / sqrt(count) and abs(logs.std() - 1.5) < 6 * 1.5 / sqrt(2 * count)
    share = float(
        (np.abs(drawn["outliers"]) > 6).mean()
    )  # 64 |g| > 6 for 92.53 % of the outliers, |g| > 6 for none else
    assert abs(share - 0.9253 / 256) < 6 * sqrt(0.0036 / count) + 1e-6


def test_sums_and_lengths_by_hand() -> None:
    assert (
        sums.unit_roundoff("bf16") == 2**-8
        and sums.unit_roundoff("fp16") == 2**-11
        and sums.unit_roundoff("e4m3") == 2**-4
    )
    assert sums.lengths(10, 1000, 1) == [10, 100, 1000] and sums.lengths(1, 100, 2) == [1, 3, 10, 32, 100]
    codes = np.uint16([[0x3C00, 0xC000, 0x1000], [0x3C00, 0x3C00, 0x0001]])  # 1, -2, 2^-11; 1, 1, 2^-24
    assert sums.exact_sums(codes, "fp16", [1, 2, 3]).tolist() == [[1, -1, -1 + 2**-11], [1, 2, 2 + 2**-24]]
    table = sums.sums(codes, "fp16", [2, 3], {"plain": {}})
    assert table[["terms", "draw"]].to_numpy().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    assert table["sum"].tolist() == [-1, 2, -1 + 2**-11, 2] and table.exact.tolist() == [-1, 2, -1 + 2**-11, 2 + 2**-24]
    assert table.magnitude.tolist() == [3, 2, 3 + 2**-11, 2 + 2**-24]


def test_landmarks_of_formats_by_hand() -> None:
    e4m3 = window("e4m3")
    assert (e4m3.smallest, e4m3.normal, e4m3.largest) == (-9, -6, pytest.approx(np.log2(448)))
    fp16 = FORMATS["fp16"]
    assert log2_of(fp16, 1) == -24 and log2_of(fp16, 3) == pytest.approx(np.log2(3) - 24) and log2_of(fp16, 0x3C00) == 0
    huge = window(FloatFormat.ieee(15, 1))  # far beyond float64
    assert (
        huge.normal == -(2**14 - 2)
        and huge.smallest == huge.normal - 1
        and huge.largest == pytest.approx(2**14 - 1 + np.log2(1.5))
    )
    assert up(1.0) > 1 > down(1.0)
