"""Are the passes of every network the derivatives of its loss, and does a recipe do what its row says, and nothing else?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

import fpemu as fp
from analysis.training import digits, networks, scenes, text
from analysis.training.layers import Linear, names_of
from analysis.training.losses import cross_entropy
from analysis.training.networks import Network
from analysis.training.numerics import FORWARD, Numerics, engine_of
from analysis.training.optimizers import Optimizer, Rule, Visibility
from analysis.training.recipes import RECIPES, Operand, Recipe, as_recipe
from analysis.training.trainer import History, Plan, train
from fpemu.cli import main

RNG = np.random.default_rng(20)
NETWORKS: dict[str, tuple[Network, Any, Any]] = {
    "mlp": (networks.mlp((5, 7, 4)), RNG.standard_normal((6, 5)), RNG.integers(0, 4, 6)),
    "convnet": (networks.convnet((3, 4)), RNG.standard_normal((2, 8, 8, 1)), RNG.integers(0, 10, 2)),
    "gpt": (networks.gpt(11, 6, 8, 2, 2), RNG.integers(0, 11, (3, 6)), RNG.integers(0, 11, (3, 6))),
    "tied gpt": (networks.gpt(11, 6, 8, 1, 2, tied=True), RNG.integers(0, 11, (3, 6)), RNG.integers(0, 11, (3, 6))),
    "detector": (
        networks.detector(3, 4, (2, 3)),
        RNG.standard_normal((2, 16, 16, 1)),
        (RNG.integers(0, 3, (2, 256)), RNG.standard_normal((2, 256, 4))),
    ),
}


# ---- gradients ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_central_differences(name: str) -> None:
    """In float64, along a random direction of every parameter: (L(p + h d) - L(p - h d)) / 2h = <g, d> + O(h^2)."""
    network, x, targets = NETWORKS[name]
    rng, numerics, h = np.random.default_rng(1), Numerics("fp32"), 1e-6
    parameters = {
        key: value + 0.1 * rng.standard_normal(value.shape) for key, value in network.initialise(1, np.float64).items()
    }
    _, gradients = network.step(parameters, x, targets, numerics)
    assert set(gradients) == set(parameters)
    for key, value in parameters.items():
        direction = rng.standard_normal(value.shape)
        above, below = (
            network.step({**parameters, key: value + sign * h * direction}, x, targets, numerics)[0] for sign in (1, -1)
        )
        expected = float((gradients[key] * direction).sum())
        # Rounding errors of the losses, about 1e-15 of them, are divided by 2h.
        assert_allclose((above - below) / (2 * h), expected, rtol=1e-5, atol=1e-8, err_msg=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float32_pass_is_the_float64_one(name: str) -> None:
    network, x, targets = NETWORKS[name]
    single = x.astype(np.float32) if np.asarray(x).dtype.kind == "f" else x
    loss, gradients = network.step(network.initialise(2), single, targets, Numerics("fp32"))
    exact_loss, exact = network.step(network.initialise(2, np.float64), x, targets, Numerics("fp32"))
    assert_allclose(loss, exact_loss, rtol=1e-5)
    for key, g in gradients.items():
        assert g.dtype == np.float32
        assert_allclose(g, exact[key], rtol=2e-3, atol=2e-5 * np.abs(exact[key]).max() + 1e-9, err_msg=key)


def test_a_scale_multiplies_every_gradient() -> None:
    network, x, targets = NETWORKS["mlp"]
    parameters = network.initialise(0)
    once, scaled = (
        network.step(parameters, x.astype(np.float32), targets, Numerics("fp32"), scale)[1] for scale in (1.0, 2.0**10)
    )
    for key in once:
        assert_array_equal(once[key] * np.float32(2.0**10), scaled[key])


def test_cross_entropy_by_hand() -> None:
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    value, gradient = cross_entropy(logits, np.array([1, 0]))
    assert_allclose(value, -(np.log(0.75) + np.log(0.5)) / 2)
    assert_allclose(gradient, np.array([[0.25, -0.25], [-0.5, 0.5]]) / 2)


# ---- recipes --------------------------------------------------------------------------------------------------------
def test_recipes_are_rows_of_text() -> None:
    for recipe in RECIPES.values():
        assert all(
            isinstance(value, str) and value
            for key, value in recipe.row().items()
            if key not in ("scaler_options", "exempt")
        )
    with pytest.raises(ValueError, match="there are: fp32"):
        as_recipe("fp7")
    with pytest.raises(ValueError, match="not one of: none, current"):
        Operand("e4m3", scaling="global")
    with pytest.raises(ValueError, match="not one of: nearest-even"):
        Recipe("x", master="bf16", update="up")
    with pytest.raises(ValueError, match="needs a master format"):
        Recipe("x", update="kahan")


def test_the_engine_is_the_one_for_the_operands() -> None:
    e4m3, e5m2, fp16 = Operand("e4m3"), Operand("e5m2"), Operand("fp16")
    assert engine_of("hopper.wgmma", "fp32", None, fp16, fp16).name == "hopper.wgmma.fp16.fp32"
    assert engine_of("hopper.wgmma", "fp32", None, e5m2, e4m3).name == "hopper.wgmma.e5m2xe4m3.fp32"
    assert engine_of("fp32", "fp32", None, fp16, fp16).name == "sequential.fma.float32.float32"
    with pytest.raises(ValueError, match="takes bfloat16, which does not hold fp16"):
        engine_of("bf16", "fp32", None, fp16, fp16)
    with pytest.raises(KeyError, match="unknown engine"):
        engine_of("volta.mma", "fp32", None, e4m3, e4m3)


def test_a_fp16_layer_by_hand() -> None:
    """Operands to FP16, the tensor core's sums, the bias added in float32, one rounding."""
    layer, rng = Linear("fc", 40, 3), np.random.default_rng(0)
    parameters = {
        "fc.weight": rng.standard_normal((40, 3)).astype(np.float32),
        "fc.bias": rng.standard_normal(3).astype(np.float32),
    }
    x = rng.standard_normal((5, 40)).astype(np.float32)
    y, _ = layer.forward(parameters, x, Numerics("fp16"))
    sums = fp.matmul(
        fp.quantize(x, "fp16"), fp.quantize(parameters["fc.weight"], "fp16"), engine="hopper.wgmma.fp16.fp32"
    )
    assert_array_equal(y, fp.quantize(sums + fp.quantize(parameters["fc.bias"], "fp16"), "fp16"))


def test_exempt_layers_get_what_is_kept() -> None:
    recipe = RECIPES["fp8-unscaled"].but("x", exempt=("head", "block1"))
    assert recipe.operand("weight", "head") == Operand("bf16") == recipe.operand("gradient", "block1.up")
    assert recipe.operand("weight", "header") == recipe.weight


def test_any_engine_of_the_catalogue_multiplies() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((4, 64)).astype(np.float32), rng.standard_normal((64, 4)).astype(np.float32)
    seen = {
        family: Numerics(RECIPES["fp16"].but(engine=family)).product(FORWARD, "fc", a, b).tobytes()
        for family in ("volta.mma", "ampere.mma", "hopper.wgmma", "fp32", "blas.fp32")
    }
    assert len({seen["volta.mma"], seen["ampere.mma"], seen["hopper.wgmma"]}) == 3


def test_the_watch_sees_what_is_kept() -> None:
    seen: list[tuple[str, str]] = []

    def watch(role: str, layer: str, before: Any, after: Any) -> None:
        seen.append((role, layer))
        if role != "operand":
            assert_array_equal(fp.quantize(before, "fp16"), after)

    network, x, targets = NETWORKS["mlp"]
    network.step(network.initialise(0), x.astype(np.float32), targets, Numerics("fp16", watch=watch))
    assert set(seen) >= {("gradient", "fc1"), ("weight", "fc1"), ("operand", "fc1"), ("gradient", "head")}


# ---- optimizers -----------------------------------------------------------------------------------------------------
def _steps(recipe: Recipe | str, rule: Rule, w: float, gradients: list[float], seed: int = 0) -> list[float]:
    optimizer = Optimizer(rule, as_recipe(recipe), seed)
    parameters = optimizer.start({"w": np.full(1, w, np.float32)})
    found = []
    for g in gradients:
        optimizer.step(parameters, {"w": np.full(1, g, np.float32)})
        found.append(float(parameters["w"][0]))
    return found


def test_adam_by_the_formula() -> None:
    rule, g = Rule("adam", rate=1e-3), [1.0, -2.0, 0.5]
    m = v = 0.0
    w, expected = 1.0, []
    for t, one in enumerate(g, start=1):
        m, v = 0.9 * m + 0.1 * one, 0.999 * v + 0.001 * one * one
        w -= 1e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        expected.append(w)
    assert_allclose(_steps("fp32", rule, 1.0, g), expected, rtol=1e-6)


def test_weight_decay_is_decoupled_and_spares_vectors() -> None:
    recipe, rule = RECIPES["fp32"], Rule("adam", rate=0.1, decay=0.5)
    parameters = {"matrix": np.ones((1, 1), np.float32), "vector": np.ones(1, np.float32)}
    Optimizer(rule, recipe).step(parameters, {name: np.zeros_like(value) for name, value in parameters.items()})
    assert_allclose([parameters["matrix"][0, 0], parameters["vector"][0]], [0.95, 1.0])


def test_bf16_adam_stalls_at_one_and_kahan_does_not() -> None:
    """An update of 1e-3 is below half a spacing of BF16 below 1, 2^-9: to nearest, w stays at 1.0 for ever."""
    rule, g = Rule("adam", rate=1e-3), [1.0] * 100
    assert set(_steps("bf16-pure", rule, 1.0, g)) == {1.0}
    single = {"momentum": None, "second_moment": None}  # (a second moment in BF16 stalls too)
    assert_allclose(_steps(RECIPES["bf16-kahan"].but(**single), rule, 1.0, g)[-1], 0.9, atol=2.0**-9)
    stochastic = [_steps(RECIPES["bf16-stochastic"].but(**single), rule, 1.0, g, seed)[-1] for seed in range(40)]
    # Of 100 steps a share p = 1e-3 / 2^-8 moves by a spacing of 2^-8 below 1; mean of 40, at 5 sigma of a binomial.
    sigma = 2.0**-8 * (100 * 0.256 * 0.744) ** 0.5 / 40**0.5
    assert abs(np.mean(stochastic) - 0.9) < 5 * sigma


def test_visibility_counts_cancelled_updates() -> None:
    seen = Visibility()
    seen.add(np.array([1.0, 2.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0, -2.0]))
    assert (seen.intended, seen.cancelled, seen.cancelled_share) == (3, 1, 1 / 3)
    assert_allclose([seen.cosine, seen.gain], [3 / 30**0.5, 0.5])
    assert np.isnan(Visibility().cosine)
    with pytest.raises(ValueError, match="sgd or adam"):
        Rule("lion")


# ---- training -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def data() -> digits.Digits:
    return digits.load(seed=0)


def _feed(data: digits.Digits, seed: int) -> Iterator[tuple[Any, Any]]:
    for rows in digits.batches(len(data.train_labels), 32, seed):
        yield data.train_images[rows], data.train_labels[rows]


def _train(data: digits.Digits, recipe: Recipe | str, **plan: Any) -> History:
    network = networks.mlp((64, 16, 10))
    return train(network, _feed(data, 1), recipe, Plan(Rule(rate=0.05), **plan))


def test_training_repeats_and_learns(data: digits.Digits) -> None:
    one, two = (_train(data, "fp16-dynamic", steps=60) for _ in range(2))
    assert_array_equal(one.steps.loss, two.steps.loss)
    assert one.final_loss() < 0.5 * one.steps.loss[0]
    assert one.diverged is None and one.steps.applied.mean() > 0.9  # one scale in 2^16 is a power too high


def test_a_scale_too_high_skips_until_it_fits(data: digits.Digits) -> None:
    recipe = RECIPES["fp16-dynamic"].but("high", scaler_options={"init": 2.0**40})
    history = _train(data, recipe, steps=40)
    skipped = ~history.steps.applied
    assert skipped[0] and not skipped.iloc[-1] and history.steps.scale.is_monotonic_decreasing
    assert_array_equal(skipped, history.steps.overflow)
    assert history.steps.cancelled[skipped].isna().all()


def test_without_a_scaler_an_overflow_reaches_the_weights(data: digits.Digits) -> None:
    recipe = RECIPES["fp16-static"].but("hot", scaler_options={"init": 2.0**40})
    assert _train(data, recipe, steps=5).steps.applied.sum() == 0  # a static scaler skips, and never recovers
    hot = train(networks.mlp((64, 16, 10)), _feed(data, 1), "fp16", Plan(Rule(rate=1e9), steps=10))
    assert hot.diverged is not None and hot.final_loss() == np.inf and len(hot.steps) == hot.diverged + 1


def test_capture_measures_against_a_float32_pass(data: digits.Digits) -> None:
    history = _train(data, "fp16", steps=5, capture=(0, 4), keep=("fc1",))
    assert set(history.layers.step) == {0, 4}
    assert set(history.layers.role) == {"gradient", "weight", "operand", "shadow", "update"}
    updates = history.layers[(history.layers.role == "update") & (history.layers.step == 4)]
    assert set(updates.layer) == {"fc1.weight", "fc1.bias", "head.weight", "head.bias"}
    assert updates.new_zero.sum() / updates.nonzero.sum() == history.steps.cancelled[4]
    shadow = history.layers[history.layers.role == "shadow"]
    assert set(shadow.layer) == {"fc1.weight", "fc1.bias", "head.weight", "head.bias"}
    assert (shadow.cosine > 0.999).all()
    kept = history.tensors["4/weight/fc1"]
    assert kept.shape == (64, 16) and "0/gradient/fc1" in history.tensors


def test_kept_gradients_can_be_inspected(data: digits.Digits, tmp_path: Path) -> None:
    path = tmp_path / "gradients.npz"
    history = _train(data, "fp16", steps=2, capture=(1,), keep=("head",))
    history.save_tensors(path)
    result = CliRunner().invoke(main, ["inspect", str(path), "--json"])
    shown = {one["name"]: one for one in json.loads(result.stdout)["files"][0]["tensors"]}
    assert set(shown) == {"1.gradient.head", "1.operand.head", "1.weight.head"}
    weight = history.tensors["1/weight/head"]
    assert shown["1.weight.head"]["casts"][0]["new_zero"] == fp.tensor_stats(weight, ["fp16"])["fp16"].new_zero


def test_rates_rise_and_fall() -> None:
    plan = Plan(Rule(rate=1.0), steps=10, warmup=2, decay=0.5)
    assert_allclose([plan.rate(step) for step in range(10)], [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


# ---- data -----------------------------------------------------------------------------------------------------------
def test_text_is_characters_and_targets_are_one_on() -> None:
    found = text.load()
    assert len(found.train) > 100_000 and len(found.alphabet) > 60
    x, y = next(text.batches(found.train, 4, 16, 0))
    assert x.shape == y.shape == (4, 16)
    assert_array_equal(x[:, 1:], y[:, :-1])
    with pytest.raises(ValueError, match="strictly between"):
        text.load(1.0)


def test_scenes_are_mostly_background() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (20, 64)).astype(np.float32), rng.integers(0, 10, 20)
    canvas, (classes, boxes) = next(scenes.batches(images, labels, 2, 3, 0))
    assert canvas.shape == (2, 32, 32, 1) and canvas.min() >= 0 and canvas.max() <= 1
    assert classes.shape == (2, 1024) and boxes.shape == (2, 1024, 4)
    positive = classes > 0
    assert 0 < positive.mean() < 0.1
    assert (boxes[~positive] == 0).all()
    grid = scenes.anchors()
    assert_array_equal(scenes.offsets(grid[:1], grid[0]), np.zeros((1, 4)))
    assert_allclose(scenes.overlap(grid[:1], grid[0]), 1)


def test_names_of_layers_with_products() -> None:
    assert names_of(NETWORKS["gpt"][0].body.layers)[:2] == ["block1.attention.inputs", "block1.attention.output"]
    assert names_of(networks.convnet().body.layers) == ["conv1", "conv2", "head"]
