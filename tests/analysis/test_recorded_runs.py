"""Do real runs, replayed as recordings, overflow where they did under their own scaler, and nowhere twice under another?

The logs are no part of this project: tests find them through $FPEMU_GPU_RUNS, and are skipped without.
"""

from __future__ import annotations

import csv
from math import inf

import numpy as np
import pytest

from analysis.real_runs import RealRun, folder, prints, read_runs
from fpemu.scaling import LossScaler, Recording, simulate

FOLDER = folder()
MOST_STEPS = 8000
OTHERS = ("torch", "deepspeed", "megatron")

pytestmark = pytest.mark.skipif(FOLDER is None, reason="$FPEMU_GPU_RUNS names no folder of logs")


def runs() -> list[RealRun]:
    """Those whose log has a line a skip; a count of skips in an interval does not say which they were."""
    assert FOLDER is not None
    each = [run for run in read_runs(FOLDER) if all(seen.kind != "count" for seen in run.seen)]
    return [run for run in each if int(run.facts["steps"]) <= MOST_STEPS]


def recording_of(run: RealRun) -> tuple[Recording, dict[int, str]]:
    """Overflows and the scale before them, as logged, at one placement that obeys all bounds; the scale after each.

    Nothing else overflows (amax 0): what the logs do not say is no matter here.
    """
    assert FOLDER is not None
    logs = np.full(int(run.facts["steps"]), -inf)
    scale, after = np.full(len(logs), np.nan), {}
    with (FOLDER / run.facts["file"]).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["overflow"] == "1":
                step = int(row["step"])
                logs[step], scale[step], after[step] = inf, float(row["loss_scale_before"]), row["loss_scale_after"]
    return Recording(logs, scale), after


def test_under_their_own_row_recordings_are_what_they_were() -> None:
    events = 0
    for run in runs():
        seen, after = recording_of(run)
        found = simulate(LossScaler(run.policy), seen)
        np.testing.assert_array_equal(found.overflow, seen.overflow, run.name)
        assert not found.undetermined.any() and len(found.scale) == len(seen), run.name
        for step, text in after.items():
            assert found.scale[step] == seen.scale[step], (run.name, step)
            assert step + 1 == len(seen) or prints(found.scale[step + 1], text), (run.name, step)
        events += len(after)
    assert events > 300


@pytest.mark.parametrize("policy", OTHERS)
def test_under_another_row_no_overflow_counts_twice(policy: str) -> None:
    """An overflow is one of the recorder's at a scale of this scaler that is at least as large, and open at a smaller one."""
    unsure = 0
    for run in runs():
        seen, _ = recording_of(run)
        found = simulate(policy, seen)
        steps = len(found.scale)  # where it gives up
        over = seen.overflow[:steps]
        np.testing.assert_array_equal(found.overflow, over & (found.scale >= seen.scale[:steps]), run.name)
        np.testing.assert_array_equal(found.undetermined, over & (found.scale < seen.scale[:steps]), run.name)
        unsure += int(found.undetermined.sum())
    assert unsure > 0


def test_a_deepspeed_run_under_torch() -> None:
    """Its 23 overflows go from 2^32, twice there by its hysteresis, to 2^11: torch, from 2^16, would have had the last six."""
    run = next(run for run in runs() if run.name == "deepspeed-06")
    seen, _ = recording_of(run)
    assert np.log2(seen.scale[seen.overflow]).tolist() == [32, *range(32, 10, -1)]
    row = simulate("torch", seen).summary()
    assert (row["skips"], row["undetermined"]) == (6, 17)
