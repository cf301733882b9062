"""Is a run the plain loop that its description gives, and is what it keeps of it what happened?"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, log2
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from analysis.training import networks
from analysis.training.numerics import Numerics
from analysis.training.optimizers import Optimizer, Rule
from analysis.training.recipes import RECIPES, Recipe
from analysis.training.trainer import History, Plan, train

F32 = np.float32
NETWORK = networks.mlp((32, 16, 10))
DYNAMIC = {"loss_scaler": "torch", "scaler_options": {"init": 2.0**18, "interval": 3}}
RECIPE_ROWS = {
    "fp32": RECIPES["fp32"],
    "fp16": RECIPES["fp16"].but("x", **DYNAMIC),
    "fp8": RECIPES["fp8-delayed"].but("x", loss_scaler="static", scaler_options={"init": 8.0}),
    "nvfp4": RECIPES["nvfp4"].but("x", master="bf16", update="stochastic", kept="fp16", **DYNAMIC),
    "kahan": RECIPES["bf16-kahan"],
}


def batches(count: int) -> Iterator[tuple[Any, Any]]:
    rng = np.random.default_rng(9)
    for _ in range(count):
        yield rng.standard_normal((16, 32)).astype(F32), rng.integers(0, 10, 16)


@pytest.mark.parametrize("row", RECIPE_ROWS)
def test_a_run_is_its_loop(row: str) -> None:
    recipe, rule, seed = RECIPE_ROWS[row], Rule("adam", rate=0.02, decay=0.1), 6
    history = train(NETWORK, batches(12), recipe, Plan(rule, steps=12, seed=seed, warmup=4, decay=0.25))
    numerics, optimizer = Numerics(recipe, seed), Optimizer(rule, recipe, seed)
    weights = optimizer.start(NETWORK.initialise(seed))
    scale, good = {"torch": 2.0**18, "static": 8.0, None: 1.0}[recipe.loss_scaler], 0
    for step, (x, labels) in enumerate(batches(12)):
        loss, gradients = NETWORK.step(weights, x, labels, numerics, scale)
        numerics.end_step()
        gradients = {name: g * F32(1 / scale) for name, g in gradients.items()}
        amax = max(float(np.abs(g).max()) for g in gradients.values())
        found = history.steps.iloc[step]
        assert (found.step, found.loss, found.scale, found.overflow) == (step, loss, scale, not np.isfinite(amax))
        assert found.log2_amax == (log2(amax) if np.isfinite(amax) else inf)
        assert found.applied == np.isfinite(amax)
        if found.applied:
            rate = 0.02 * min(1, (step + 1) / 4) * min(1, (12 - step) / 3)
            seen = optimizer.step(weights, gradients, rate)
            assert (found.cancelled, found.update_cosine, found.update_gain) == (
                seen.cancelled_share, seen.cosine, seen.gain,
            )  # fmt: skip
            good += 1
        if recipe.loss_scaler == "torch":  # torch.amp.GradScaler
            scale, good = (scale * 2, 0) if good == 3 else (scale, good) if found.applied else (scale / 2, 0)
    assert len(history.steps) == 12 and history.diverged is history.stopped is None and history.recipe is recipe
    for name, w in weights.items():
        assert_array_equal(history.parameters[name], w)
    if recipe.loss_scaler == "torch":
        assert 0 < history.steps.applied.sum() < 12 and history.steps.scale.nunique() > 2


def test_where_a_run_starts() -> None:
    """With given weights, which it leaves alone; else with the seed's, rounded to the master format."""
    start = NETWORK.initialise(77)
    kept = {name: w.copy() for name, w in start.items()}
    frozen = Plan(Rule(rate=0.0), steps=1, seed=5)
    found = train(NETWORK, batches(1), "bf16-pure", frozen, start)
    for name, w in kept.items():
        assert_array_equal(start[name], w)
        assert_array_equal(found.parameters[name], w.astype(ml_dtypes.bfloat16).astype(F32))
    for name, w in NETWORK.initialise(5).items():
        assert_array_equal(train(NETWORK, batches(1), "fp32", frozen).parameters[name], w)


def test_a_run_ends_with_its_batches() -> None:
    assert len(train(NETWORK, batches(3), "fp32", Plan(steps=9)).steps) == 3
    source = batches(5)
    assert len(train(NETWORK, source, "fp32", Plan(steps=4)).steps) == 4
    assert len(list(source)) == 1


def test_a_scaler_that_gives_up_ends_the_run() -> None:
    recipe = RECIPES["fp16"].but("x", loss_scaler="deepspeed", scaler_options={"init": 2.0**40, "floor": 2.0**38})
    history = train(NETWORK, batches(9), recipe, Plan(steps=9))
    assert history.steps.scale.tolist() == [2.0**40, 2.0**39, 2.0**38] and not history.steps.applied.any()
    assert history.stopped is not None and "overflow at scale" in history.stopped and history.diverged is None
    assert history.final_loss() == inf
    for name, w in NETWORK.initialise(0).items():
        assert_array_equal(history.parameters[name], w)


def test_a_scaler_of_logarithms_hears_them() -> None:
    recipe = RECIPES["fp32"].but("x", loss_scaler="logmax")
    history = train(NETWORK, batches(3), recipe, Plan(steps=3))
    assert history.steps.scale[0] == 1.0
    assert_allclose(np.log2(history.steps.scale[1]), 16 - history.steps.log2_amax[0], atol=1e-3)


def test_a_weight_that_is_no_number_ends_the_run() -> None:
    """A logit of -infinity has probability 0: where its label is another, the loss is finite."""
    start = NETWORK.initialise(0)
    start["head.bias"][3] = -np.inf
    x, labels = next(batches(1))
    history = train(NETWORK, iter([(x, np.where(labels == 3, 4, labels))] * 5), "fp32", Plan(steps=5), start)
    assert np.isfinite(history.steps.loss).all()
    assert history.diverged == 0 and len(history.steps) == 1 and history.final_loss() == inf


@pytest.mark.parametrize("recipe", ["fp16-dynamic", "bf16-kahan", "nvfp4", "fp8-delayed", "fp16", "fp32"])
def test_no_error_state_of_the_caller_reaches_a_run(recipe: str) -> None:
    """Overflow and underflow are what is measured: with scales, rates and inputs far too large, and far too small."""
    chosen = (
        RECIPES[recipe]
        if RECIPES[recipe].loss_scaler is None
        else RECIPES[recipe].but(scaler_options={"init": 2.0**120})
    )
    for size, rate in ((1e30, 1e30), (1e-30, 1e-35), (1.0, 1e38)):
        scaled = [(F32(size) * x, labels) for x, labels in batches(3)]
        plan = Plan(Rule("adam", rate=rate, epsilon=0.0), steps=3, capture=(0, 1, 2))
        with np.errstate(all="raise"):
            assert len(train(NETWORK, iter(scaled), chosen, plan).steps) >= 1


def test_gradients_that_are_all_zero() -> None:
    """Lost below FP16: the largest is 0, its logarithm minus infinity, and the step is applied."""
    recipe = RECIPES["fp16"].but("x", loss_scaler="static", scaler_options={"init": 2.0**-60})
    steps = train(NETWORK, batches(2), recipe, Plan(steps=2, capture=(0,))).steps
    assert steps.log2_amax.tolist() == [-inf, -inf] and steps.applied.all() and not steps.overflow.any()
    assert steps.cancelled.isna().all()


def test_final_loss() -> None:
    steps = pd.DataFrame({"loss": np.arange(30.0)})
    assert History(RECIPES["fp32"], steps).final_loss() == np.arange(10.0, 30.0).mean()
    assert History(RECIPES["fp32"], steps).final_loss(3) == 28.0
    assert History(RECIPES["fp32"], steps, diverged=0).final_loss() == inf
    assert History(RECIPES["fp32"], steps, stopped="over").final_loss() == inf


def test_plans() -> None:
    plan = Plan()
    assert (plan.rule, plan.steps, plan.seed, plan.warmup, plan.decay) == (Rule(), 200, 0, 0, 0.0)
    assert plan.rate(0) == plan.rate(199) == 0.05 and tuple(plan.capture) == tuple(plan.keep) == ()
    falling = Plan(Rule(rate=2.0), steps=8, decay=0.5)
    assert [falling.rate(step) for step in (0, 3, 4, 5, 7)] == [2.0, 2.0, 2.0, 1.5, 0.5]
    assert [Plan(Rule(rate=2.0), warmup=4).rate(step) for step in (0, 2, 3, 4)] == [0.5, 1.5, 2.0, 2.0]


# ---- what is captured -----------------------------------------------------------------------------------------------
PROBED = Recipe("probed", kept="e5m2", residual="bf16", weight_gradient="e4m3", engine="fp32")
SMALLEST_NORMAL = {"gradient": 2.0**-14, "weight": 2.0**-6, "operand": 0.0, "shadow": 0.0}


def measured(g: Any, e: Any, role: str) -> dict[str, float]:
    """By the words of ``History.layers``."""
    g, e = np.asarray(g, np.float64).ravel(), np.asarray(e, np.float64).ravel()
    lost, nonzero = (g != 0) & (e == 0), (g != 0).sum()
    size = np.abs(e)
    subnormal = ((size > 0) & (size < SMALLEST_NORMAL[role])).sum()
    return {
        "size": g.size, "nonzero": nonzero, "new_zero": lost.sum(), "subnormal": subnormal, "nonfinite": 0,
        "new_zero_share": lost.sum() / nonzero, "subnormal_share": subnormal / nonzero,
        "energy_lost": (g[lost] ** 2).sum() / (g @ g), "sqnr_db": 10 * np.log10((g @ g) / ((e - g) @ (e - g))) if (e != g).any() else inf,
        "cosine": (e @ g) / np.sqrt((e @ e) * (g @ g)), "gain": (e @ g) / (g @ g),
    }  # fmt: skip


def test_what_is_captured() -> None:
    """At the chosen steps alone: every gradient as it was kept, and gradients by weights against a float32 pass."""
    plan = Plan(Rule(rate=0.1), steps=3, seed=2, capture=(0, 2), keep=("fc1",))
    history = train(NETWORK, batches(3), PROBED, plan)
    assert sorted(history.layers.step.unique()) == [0, 2]
    seen: list[tuple[str, str, Any, Any]] = []
    numerics = Numerics(PROBED, 2, lambda *facts: seen.append(facts))
    optimizer = Optimizer(plan.rule, PROBED, 2)
    weights = optimizer.start(NETWORK.initialise(2))
    kept = set()
    for step, (x, labels) in enumerate(batches(3)):
        seen.clear()
        _, gradients = NETWORK.step(weights, x, labels, numerics)
        if step in plan.capture:
            exact = NETWORK.step(weights, x, labels, Numerics("fp32"))[1]
            seen += [("shadow", name, exact[name], g) for name, g in gradients.items()]
            rows = history.layers[(history.layers.step == step) & (history.layers.role != "update")]
            assert len(rows) == len(seen)
            for (role, layer, before, after), (_, row) in zip(seen, rows.iterrows(), strict=True):
                assert (row.role, row.layer) == (role, layer)
                expected = measured(before, after, role)
                assert_allclose(
                    row[list(expected)].astype(float), list(expected.values()), rtol=1e-9, err_msg=f"{role} {layer}"
                )
                if layer == "fc1":
                    kept.add(f"{step}/{role}/{layer}")
                    assert_array_equal(history.tensors[f"{step}/{role}/{layer}"], before)
        optimizer.step(weights, gradients)
        if step in plan.capture:
            rows = history.layers[(history.layers.step == step) & (history.layers.role == "update")].set_index("layer")
            for name, one in optimizer.seen.items():
                row = rows.loc[name]
                assert (row.nonzero, row.new_zero, row.new_zero_share) == (
                    one.intended,
                    one.cancelled,
                    one.cancelled_share,
                )
                assert (row.cosine, row.gain) == (one.cosine, one.gain)
    assert set(history.tensors) == kept
    assert history.layers.subnormal.sum() > 0 and history.layers.new_zero.sum() > 0
    assert train(NETWORK, batches(3), PROBED, Plan(steps=3)).layers.empty


def test_what_overflowed_is_counted_and_not_measured() -> None:
    """A gradient beyond FP16 as it is kept, whose noise is infinite; what was infinite before is left out."""
    recipe = RECIPES["fp16"].but("x", loss_scaler="static", scaler_options={"init": 2.0**23})
    layers = train(NETWORK, batches(1), recipe, Plan(steps=1, capture=(0,))).layers
    head = layers[(layers.role == "gradient") & (layers.layer == "head")].iloc[0]
    assert head.nonfinite > 0 and np.isnan(head[["cosine", "gain", "energy_lost"]].astype(float)).all()
    assert head.sqnr_db == -np.inf
    assert not ((layers.role == "gradient") & (layers.layer == "fc1")).any()


def test_kept_gradients_in_a_file(tmp_path: Path) -> None:
    history = History(RECIPES["fp32"], tensors={"3/weight/fc1": np.arange(6.0).reshape(2, 3)})
    history.save_tensors(tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz") as found:
        assert found.files == ["3.weight.fc1"]
        assert_array_equal(found["3.weight.fc1"], np.arange(6.0).reshape(2, 3))
