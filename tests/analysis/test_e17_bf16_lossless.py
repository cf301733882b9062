"""Are the runs of a pair alike, and does the verdict see a recipe that loses?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from implementations import JIT

from analysis.experiment import Profile, load
from analysis.training.small_tasks import digits_mlp
from tests.analysis.lab import Tables, drawn, measured

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
e17: Any = load("e17_bf16_lossless")


@pytest.fixture(scope="module")
def tables() -> Tables:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(e17, "SIZES", {"quick": {e17.MLP: e17.Size(12, 2), e17.GPT: e17.Size(3, 2)}})
        return measured(e17, Profile("quick", 2))


def test_runs_of_a_pair_start_alike(tables: Tables) -> None:
    first = tables["curves"][tables["curves"].step == 0].groupby(["task", "seed"]).loss.agg(["min", "max"])
    np.testing.assert_allclose(first["min"], first["max"], rtol=1e-3)
    assert first["min"].nunique() == len(first)


def test_held_out_loss_is_that_of_the_final_weights() -> None:
    task = digits_mlp(3, (64, 8, 10))
    history = task.run("fp32", 1)
    x = task.held_out[0].astype(np.float64)
    p = history.parameters
    logits = np.maximum(x @ p["fc1.weight"] + p["fc1.bias"], 0) @ p["head.weight"] + p["head.bias"]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(task.loss(history), -logs[np.arange(len(x)), task.held_out[1]].mean(), rtol=1e-5)
    history.diverged = 2
    assert task.loss(history) == np.inf


def test_verdict_and_figures_follow(tables: Tables) -> None:
    drawn(e17, tables)
    runs = tables["runs"].copy()
    base = runs.set_index(["task", "recipe", "seed"]).loss
    same = runs.assign(loss=[base[row.task, "fp32", row.seed] for row in runs.itertuples()])
    assert e17.verdict({"runs": same}).status == "holds"
    for shift, status in (((0.0, 5.0), "holds with conditions"), ((9.0, 9.1), "does not hold at this scale")):
        lost = same.loss + np.where(same.recipe == "bf16", np.array(shift)[same.seed], 0)
        assert e17.verdict({"runs": same.assign(loss=lost)}).status == status
    gone = same.assign(loss=same.loss.where(same.recipe != "fp16-dynamic", np.inf))
    assert e17.verdict({"runs": gone}).status == "does not hold at this scale"
    drawn(e17, {**tables, "runs": gone})
