"""Is every step of every optimizer, in every format and way to round, what its formula gives, bit for bit?"""

from __future__ import annotations

from math import sqrt
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_stochastic import word

import fpemu as fp
from analysis.training.draws import UPDATE, draw_seed
from analysis.training.optimizers import Optimizer, Rule, Visibility
from analysis.training.recipes import RECIPES, Recipe
from fpemu import reference

F32 = np.float32
Array = np.ndarray[Any, Any]
DTYPES: dict[str | None, Any] = {
    None: F32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
}
RULES = {
    "sgd": Rule(rate=0.3, momentum=0.0),
    "momentum": Rule(rate=0.07, momentum=0.9),
    "adam": Rule("adam", rate=0.01),
    "adam with other numbers": Rule("adam", rate=0.03, betas=(0.8, 0.95), epsilon=0.5),
    "adamw": Rule("adam", rate=0.02, decay=0.7),
}
RECIPE_ROWS = {
    "masters in float32": Recipe("x"),
    "state in 8 bits": Recipe("x", momentum="e5m2", second_moment="bf16"),
    "fp16": RECIPES["fp16-pure"],
    "bf16": RECIPES["bf16-pure"],
    "bf16, stochastic": RECIPES["bf16-stochastic"],
    "bf16, kahan": RECIPES["bf16-kahan"],
    "8 bits, kahan": Recipe("x", master="e5m2", update="kahan", momentum="bf16", second_moment="fp16"),
    "weights alone in 16 bits": Recipe("x", master="bf16"),
}
SEED = 11


def rn(x: Array, format: str | None) -> Array:
    return x.astype(DTYPES[format]).astype(F32)


class Definition:
    """One parameter, from the formulas: every operation one of float32, what is kept rounded once."""

    def __init__(self, rule: Rule, recipe: Recipe, w: Array, place: int) -> None:
        self.rule, self.recipe, self.place, self.w = rule, recipe, place, rn(w, recipe.master)
        self.m = self.v = self.c = np.zeros_like(w)

    def step(self, g: Array, t: int, rate: float) -> None:
        rule, recipe, w = self.rule, self.recipe, self.w
        if rule.kind == "sgd":  # v = momentum v + g; w -= rate v
            self.m = rn(F32(rule.momentum) * self.m + g, recipe.momentum)
            delta = -F32(rate) * self.m
        else:  # Kingma and Ba, algorithm 1; Loshchilov and Hutter, algorithm 2
            b1, b2 = rule.betas
            self.m = rn(F32(b1) * self.m + F32(1 - b1) * g, recipe.momentum)
            self.v = rn(F32(b2) * self.v + F32(1 - b2) * g * g, recipe.second_moment)
            root = np.sqrt(self.v) / F32(sqrt(1 - b2**t)) + F32(rule.epsilon)
            delta = -F32(rate / (1 - b1**t)) * self.m / root
            if w.ndim > 1:
                delta = delta - F32(rate * rule.decay) * w
        if recipe.update == "kahan":
            c = self.c + delta
            self.w = rn(w + c, recipe.master)
            self.c = rn(c + (w - self.w), recipe.master)
        elif recipe.update == "stochastic":
            self.w = stochastic(w + delta, draw_seed(SEED, UPDATE, t, self.place))
        else:
            self.w = rn(w + delta, recipe.master)


def stochastic(x: Array, seed: int) -> Array:
    to = fp.Cast("bf16", "stochastic")
    codes = [reference.encode(float(v), to, word(seed, i)) for i, v in enumerate(x.ravel())]
    return np.array(codes, np.uint16).view(ml_dtypes.bfloat16).astype(F32).reshape(x.shape)


@pytest.mark.parametrize("row", RECIPE_ROWS)
@pytest.mark.parametrize("name", RULES)
def test_steps(name: str, row: str) -> None:
    """Ten of them, of a matrix and two vectors, at rates that change; weights and updates from 1e-4 to 10 times one another."""
    rule, recipe, rng = RULES[name], RECIPE_ROWS[row], np.random.default_rng(4)
    shapes = {"a.weight": (5, 3), "a.bias": (4,), "b.bias": (4,)}
    start = {
        key: (rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 4, shape)).astype(F32)
        for key, shape in shapes.items()
    }
    optimizer = Optimizer(rule, recipe, SEED)
    found = optimizer.start(start)
    expected = {key: Definition(rule, recipe, w, place) for place, (key, w) in enumerate(start.items())}
    for t in range(1, 11):
        rate = None if t < 3 else rule.rate * (1 - 0.05 * t)
        g = {
            key: (rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 2, shape)).astype(F32)
            for key, shape in shapes.items()
        }
        g["a.bias"][1] = 0
        before = {key: w.copy() for key, w in found.items()}
        total, given = optimizer.step(found, g, rate), {key: one.copy() for key, one in g.items()}
        for key, one in expected.items():
            one.step(g[key], t, rule.rate if rate is None else rate)
            assert_array_equal(found[key], one.w, err_msg=f"{key}, step {t}")
            assert_array_equal(optimizer.first[key], one.m)
            assert_array_equal(g[key], given[key])
            moved = found[key] - before[key]
            assert_allclose(optimizer.seen[key].ee, float((moved.astype(np.float64) ** 2).sum()), rtol=1e-12)
            if rule.kind == "adam":
                assert_array_equal(optimizer.second[key], one.v)
            if recipe.update == "kahan":
                assert_array_equal(optimizer.compensation[key], one.c)
        assert total.intended == sum(one.intended for one in optimizer.seen.values())
        assert total.uu == pytest.approx(sum(one.uu for one in optimizer.seen.values()))
    assert optimizer.steps == 10


def test_kahan_keeps_what_bf16_cannot_show() -> None:
    """1 - 3 x 2^-10: below half a spacing each, together above; the compensation, 2^-10 (1 + 2^-9), is itself rounded to BF16."""
    optimizer = Optimizer(Rule(rate=1.0, momentum=0.0), Recipe("x", master="bf16", update="kahan"))
    w = optimizer.start({"w": F32([1.0])})
    for g, weight, compensation in (
        (2.0**-10, 1.0, -(2.0**-10)),
        (2.0**-10 + 2.0**-19, 1 - 2.0**-8, 2.0**-9),
        (2.0**-12, 1 - 2.0**-8, 2.0**-9 - 2.0**-12),
    ):
        optimizer.step(w, {"w": F32([g])})
        assert float(w["w"][0]) == weight and float(optimizer.compensation["w"][0]) == compensation


def test_float64_is_never_rounded() -> None:
    for update in ("nearest-even", "stochastic", "kahan"):
        recipe = RECIPES["bf16-pure"].but(update=update)
        optimizer = Optimizer(Rule("adam", rate=1e-3), recipe)
        w = optimizer.start({"w": np.array([1.0, 1 / 3])})
        assert w["w"][1] == 1 / 3
        optimizer.step(w, {"w": np.array([1.0, -1 / 7])})
        assert_allclose(w["w"], [1 - 1e-3, 1 / 3 + 1e-3], rtol=1e-7)
        assert w["w"].dtype == np.float64 and optimizer.first["w"][1] == pytest.approx(-0.1 / 7, rel=1e-15)


def test_defaults_are_the_usual_ones() -> None:
    rule = Rule()
    assert (rule.kind, rule.rate, rule.momentum, rule.betas, rule.epsilon, rule.decay) == (
        "sgd", 0.05, 0.9, (0.9, 0.999), 1e-8, 0.0,
    )  # fmt: skip
    assert Optimizer(rule, RECIPES["fp32"]).seed == Optimizer(rule, RECIPES["fp32"]).steps == 0


def test_what_was_seen_adds_up() -> None:
    """Over tensors; of no updates, or none that are effective, ratios are NaN."""
    one, two = Visibility(), Visibility()
    one.add(F32([[3.0, -1.0], [0.0, 2.0]]), F32([[2.0, 0.0], [0.0, 1.0]]))
    two.add(F32([1.0, 0.0]), F32([1.0, 5.0]))
    assert one == Visibility(3, 1, 14.0, 5.0, 8.0) and two == Visibility(1, 0, 1.0, 26.0, 1.0)
    both = one + two
    assert both == Visibility(4, 1, 15.0, 31.0, 9.0)
    assert both.cancelled_share == 0.25 and both.gain == 0.6 and both.cosine == pytest.approx(9 / sqrt(15 * 31))
    one.add(F32([1.0, 0.0]), F32([1.0, 5.0]))
    assert one == both
    still = Visibility()
    still.add(F32([1.0]), F32([0.0]))
    assert np.isnan(still.cosine) and still.gain == 0 and still.cancelled_share == 1
    assert all(np.isnan([Visibility().cancelled_share, Visibility().cosine, Visibility().gain]))
