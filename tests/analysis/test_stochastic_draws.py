"""Is every stochastic rounding of a run drawn anew: by role, layer, step, tensor and seed?"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

import fpemu as fp
from analysis.training import networks, numerics, optimizers
from analysis.training.draws import OPERAND, UPDATE, draw_seed
from analysis.training.numerics import BY_INPUT, BY_WEIGHT, FORWARD, Numerics
from analysis.training.optimizers import Optimizer, Rule
from analysis.training.recipes import NVFP4_STOCHASTIC, RECIPES, Operand, Recipe
from analysis.training.trainer import Plan, train

F32 = np.float32
RNG = np.random.default_rng(3)
X, LABELS = RNG.standard_normal((16, 16)).astype(F32), RNG.integers(0, 16, 16)


def test_seeds_of_places_are_distinct() -> None:
    """Also where counts pass 2^12 and 2^32, and for seeds that need more than 64 bits."""
    numbers = [0, 1, 2, 4095, 4096, 4097, 2**20, 2**32, 2**32 + 1]
    seeds = [0, 1, 2, 2**24, 2**32, 2**32 + 1, 2**63, 2**100]
    found = [draw_seed(seed, what, n) for seed in seeds for what in (OPERAND, UPDATE) for n in numbers]
    found += [draw_seed(seed, UPDATE, step, place) for seed in seeds for step in numbers for place in numbers]
    assert len(set(found)) == len(found) and all(0 <= one < 2**64 for one in found)
    assert draw_seed(7, OPERAND, 3) == draw_seed(7, OPERAND, 3)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all stochastic roundings, as the library is asked for them."""
    seeds: list[int] = []

    def spied(original: Any) -> Any:
        def spy(*arguments: Any, **options: Any) -> Any:
            if options.get("rounding") == "stochastic":
                seeds.append(options["seed"])
            return original(*arguments, **options)

        return spy

    for name in ("nvfp4", "tiles", "mx", "per_tensor"):
        monkeypatch.setattr(numerics.scaling, name, spied(getattr(numerics.scaling, name)))
    delayed = numerics.scaling.DelayedScaling
    monkeypatch.setattr(delayed, "quantize", spied(delayed.quantize))
    monkeypatch.setattr(optimizers.fp, "quantize", spied(fp.quantize))  # (numerics' too: one module)
    return seeds


def run(seed: int, steps: int, **changes: Any) -> None:
    recipe = RECIPES["nvfp4"].but(master="bf16", update="stochastic", exempt=(), **changes)
    batches = ((X, LABELS) for _ in range(steps))
    train(networks.mlp((16, 16, 16)), batches, recipe, Plan(Rule(rate=0.01), steps=steps, seed=seed))


def test_no_two_draws_of_a_run_share_a_seed(drawn: list[int]) -> None:
    """Per step: two gradients in two products of each layer, and four parameters."""
    run(0, 5)
    assert len(set(drawn)) == len(drawn) == 5 * (2 * 2 + 4)
    first = list(drawn)
    run(1, 5)
    assert len(set(drawn)) == 2 * len(first)
    drawn.clear()
    run(0, 5)
    assert drawn == first


@pytest.mark.parametrize("scaling", ["none", "current", "delayed", "tiles", "mx", "nvfp4"])
def test_every_role_draws_anew(scaling: str, drawn: list[int]) -> None:
    """Under every scaling: three roles, in three products of two layers, twice."""
    block = {"tiles": (1, 128), "nvfp4": (1, 16), "mx": 32}.get(scaling)
    operand = Operand("e2m1" if scaling == "nvfp4" else "e4m3", "stochastic", "saturate", scaling, block)
    run = Numerics(Recipe("x", operand, operand, operand), seed=5)
    for _ in range(2):
        for layer in ("a", "b"):
            for kind in (FORWARD, BY_INPUT, BY_WEIGHT):
                run.product(kind, layer, X, X)
        run.end_step()
    assert len(set(drawn)) == len(drawn) == 24


def halves(shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Half way between neighbours of BF16: up or down with probability 1/2 each."""
    return (1 + (RNG.integers(0, 64, shape) + 0.5) / 128).astype(F32)


def independent(ups: list[np.ndarray[Any, Any]]) -> None:
    """Every draw goes up, and agrees with every other, in half of the cases: within 6 sigma of a binomial.

    For the 66 statements made of 12 draws and their pairs a right run fails once in 7 million (2 x 1e-9 each).
    """
    sigma = 0.5 / sqrt(ups[0].size)
    for place, one in enumerate(ups):
        assert abs(one.mean() - 0.5) < 6 * sigma
        for other in ups[:place]:
            assert abs((one == other).mean() - 0.5) < 6 * sigma


def test_gradients_round_independently_by_layer_product_and_step() -> None:
    g, unit = halves((64, 64)), np.eye(64, dtype=F32)
    run = Numerics(Recipe("x", gradient=Operand("bf16", "stochastic")), seed=1)
    ups = []
    for _ in range(2):
        for layer in ("a", "b", "c"):
            ups.append(run.product(BY_INPUT, layer, g, unit) > g)
            ups.append(run.product(BY_WEIGHT, layer, unit, g) > g)
        run.end_step()
    independent(ups)


def test_weights_round_independently_by_tensor_step_and_seed() -> None:
    w = halves((64, 64))
    ups = []
    for seed in range(3):
        optimizer = Optimizer(Rule(rate=1.0, momentum=0.0), RECIPES["bf16-stochastic"], seed)
        for _ in range(2):
            start = optimizer.start({name: np.ones_like(w) for name in ("a", "b")})
            optimizer.step(start, dict.fromkeys(start, 1 - w))
            ups += [start[name] > w for name in start]
    independent(ups)


def test_signs_of_the_transform_are_the_seed_s() -> None:
    """Both operands of one run get the same signs, which the product needs; another seed's are others."""
    x = np.eye(16, dtype=F32)
    one, other = (Numerics("nvfp4", seed=seed)._transformed(x, 0) for seed in (1, 2))
    assert np.array_equal(np.abs(one), np.abs(other)) and not np.array_equal(one, other)
    assert NVFP4_STOCHASTIC.rounding == "stochastic"
