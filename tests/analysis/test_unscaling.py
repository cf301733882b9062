"""Are gradients what they would be without a scale, at every scale, and are steps skipped exactly where one overflowed?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from analysis.training import networks
from analysis.training.optimizers import Rule
from analysis.training.recipes import RECIPES, Recipe
from analysis.training.trainer import History, Plan, largest, train, unscaled
from fpemu.scaling import loss_scaler

F32 = np.float32
SCALES = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0, 2.0**12, 1e4, 2.0**24, 2.0**-3]
NETWORK = networks.mlp((6, 5, 4))
RNG = np.random.default_rng(8)
X, LABELS = RNG.standard_normal((9, 6)).astype(F32), RNG.integers(0, 4, 9)


def trained(recipe: Recipe, steps: int = 3, **facts: Any) -> History:
    return train(NETWORK, ((X, LABELS) for _ in range(steps)), recipe, Plan(Rule(**facts), steps=steps))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["static", "torch"])
def test_gradients_are_multiplied_by_the_inverse(name: str, scale: float) -> None:
    """In float32: g times float32(1 / scale); a float32 scale is rounded first."""
    g = {"a": F32([[1.0, -3.7], [2.0**-140, np.inf]]), "b": F32([0.0])}
    found = unscaled(g, loss_scaler(name, init=scale))
    inverse = F32(1 / (float(F32(scale)) if name == "torch" else scale))
    for key, one in g.items():
        assert found[key].dtype == F32
        assert_array_equal(found[key], one * inverse)
        assert_array_equal(unscaled(g, None)[key], one)


@pytest.mark.parametrize("rule", [{"kind": "sgd"}, {"kind": "adam", "rate": 0.01, "decay": 0.1}])
@pytest.mark.parametrize("scale", SCALES)
def test_training_does_not_see_the_scale(scale: float, rule: dict[str, Any]) -> None:
    """In float32 a power of two changes no bit of any weight; another scale rounds twice."""
    plain = trained(RECIPES["fp32"], **rule)
    scaled = trained(RECIPES["fp32"].but("scaled", loss_scaler="static", scaler_options={"init": scale}), **rule)
    exact = np.log2(scale) % 1 == 0
    for key, w in plain.parameters.items():
        if exact:
            assert_array_equal(scaled.parameters[key], w)
        else:
            assert_allclose(scaled.parameters[key], w, rtol=1e-4, atol=1e-6)
    assert_allclose(scaled.steps.log2_amax, plain.steps.log2_amax, atol=0 if exact else 1e-6)
    assert_array_equal(scaled.steps.scale, np.full(3, scale))
    assert_array_equal(plain.steps.scale, np.ones(3))
    assert scaled.steps.applied.all() and not scaled.steps.overflow.any()


def test_float64_gradients_are_unscaled_in_float64() -> None:
    g = {"w": np.array([1.0 / 3])}
    assert unscaled(g, loss_scaler("static", init=3.0))["w"][0] == 1.0 / 3 * (1 / 3.0)


def test_the_largest_of_all() -> None:
    assert largest({"a": F32([1, -5]), "b": F32([[2.0]]), "c": np.zeros((0, 3), F32)}) == 5
    assert largest({"a": F32([0])}) == 0
    assert largest({"a": F32([1, -np.inf])}) == np.inf
    assert np.isnan(largest({"a": F32([1, np.nan]), "b": F32([np.inf])}))


@pytest.mark.parametrize(("bad", "place"), [(np.inf, 0), (-np.inf, 1), (np.nan, 0), (np.nan, 1)])
@pytest.mark.parametrize("scaler", ["torch", "static", None])
def test_one_gradient_that_is_no_number_skips_the_whole_step(
    scaler: str | None, bad: float, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights stay, the optimizer counts no step; without a scaler it reaches the weights, and training ends."""
    original, calls = networks.Network.step, []

    def step(self: Any, *arguments: Any) -> Any:
        loss, gradients = original(self, *arguments)
        if len(calls) == 1:
            name = ("fc1.weight", "head.bias")[place]
            gradients[name] = gradients[name].copy()
            gradients[name].flat[-1] = bad
        calls.append({name: w.copy() for name, w in arguments[0].items()})
        return loss, gradients

    monkeypatch.setattr(networks.Network, "step", step)
    history = trained(RECIPES["fp32"].but(loss_scaler=scaler), 4, kind="adam", rate=0.1)
    assert history.steps.overflow.tolist()[:2] == [False, True]
    if scaler is None:
        assert history.diverged == 1 and len(history.steps) == 2 and history.steps.applied.all()
        return
    assert history.steps.applied.tolist() == [True, False, True, True] and history.diverged is None
    assert history.steps.scale.tolist() == ([2.0**16] * 2 + [2.0**15 if scaler == "torch" else 2.0**16] * 2)
    assert history.steps.cancelled.isna().tolist() == [False, True, False, False]
    log = history.steps.log2_amax
    assert np.isfinite(log[0]) and log[1] == np.inf
    monkeypatch.undo()
    without = trained(RECIPES["fp32"], 3, kind="adam", rate=0.1)  # the same, the skipped step left out
    for key in without.parameters:
        assert_array_equal(calls[1][key], calls[2][key])
        assert_array_equal(history.parameters[key], without.parameters[key])


@pytest.mark.parametrize(
    ("scale", "gradient", "overflow", "weight"),
    [
        (2.0**16, 1.0, False, -(2.0**-16)), (2.0**16, np.inf, True, 0.0), (2.0**16, np.nan, True, 0.0),
        (2.0**-127, 1e-44, False, -F32(1e-44) * 2.0**127), (2.0**-128, 1e-44, False, -np.inf),  # 1 / 2^-128 is infinite
        (2.0**-149, 1e-44, False, -np.inf), (2.0**-128, -np.inf, True, 0.0), (2.0**-128, np.nan, True, 0.0),
        (2.0**127, 3e38, False, -F32(3e38) * 2.0**-127), (2.0**127, np.inf, True, 0.0),
    ],
)  # fmt: skip
def test_overflow_is_judged_before_unscaling(
    scale: float, gradient: float, overflow: bool, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's GradScaler does: finite gradients are applied though the inverse of the scale makes them infinite."""
    found = one_step("torch", scale, gradient, monkeypatch)
    assert found.steps.overflow.tolist() == [overflow] and found.steps.applied.tolist() == [not overflow]
    assert found.parameters["w"].tolist() == [weight] and found.diverged == (0 if np.isinf(weight) else None)
    assert found.steps.log2_amax[0] == (np.inf if overflow or np.isinf(weight) else np.log2(float(-weight)))


@pytest.mark.parametrize(("scale", "weight"), [(2.0**128, -(2.0**-28)), (2.0**149, -(2.0**-49)), (2.0**200, 0.0)])
def test_scales_beyond_float32(scale: float, weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that is a Python float: its inverse rounds to a subnormal or to zero, and what was finite is an update all the same."""
    found = one_step("static", scale, 2.0**100, monkeypatch)
    assert found.steps.applied.all() and not found.steps.overflow.any() and found.parameters["w"].tolist() == [weight]
    assert found.steps.log2_amax[0] == (np.log2(-weight) if weight else -np.inf)
    monkeypatch.undo()
    for gradient in (np.inf, np.nan):
        skipped = one_step("static", scale, gradient, monkeypatch)
        assert skipped.steps.overflow.all() and not skipped.steps.applied.any()
        assert skipped.steps.log2_amax[0] == np.inf and skipped.parameters["w"].tolist() == [0.0]
        monkeypatch.undo()


def one_step(scaler: str, scale: float, gradient: float, monkeypatch: pytest.MonkeyPatch) -> History:
    """One weight, 0 at first, whose scaled gradient is given; the rate is 1."""
    monkeypatch.setattr(networks.Network, "step", lambda *arguments: (1.0, {"w": F32([gradient])}))
    recipe = RECIPES["fp32"].but(loss_scaler=scaler, scaler_options={"init": scale})
    with np.errstate(all="ignore"):
        return train(NETWORK, iter([(X, LABELS)]), recipe, Plan(Rule(rate=1.0), steps=1), {"w": F32([0.0])})
