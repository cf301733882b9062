"""Does delayed scaling keep a history for every tensor in every role, and nothing of one in another?"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from analysis.training.numerics import BY_INPUT, BY_WEIGHT, FORWARD, Numerics, Product
from analysis.training.recipes import RECIPES, Operand, Recipe

F32 = np.float32
LARGEST = {"e4m3": F32(448), "e5m2": F32(57344)}
DTYPES = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
FORMATS = {"activation": "e4m3", "weight": "e4m3", "gradient": "e5m2"}
KINDS = {"forward": FORWARD, "by input": BY_INPUT, "by weight": BY_WEIGHT}


def recipe(history: int = 1024, margin: int = 0) -> Recipe:
    roles = {
        role: Operand(format, overflow="saturate", scaling="delayed", history=history, margin=margin)
        for role, format in FORMATS.items()
    }
    return RECIPES["fp8-delayed"].but(**roles)


def expected(kind: Product, a: float, b: float, amaxes: tuple[float | None, float | None], margin: int = 0) -> Any:
    """A product of two numbers, from the largest values that each history holds (None: nothing yet, scale 1)."""
    sums, factor = F32(1), F32(1)
    for x, role, amax in zip((a, b), kind, amaxes, strict=True):
        format = FORMATS[role]
        scale = F32(1) if amax is None else LARGEST[format] / F32(amax) / F32(2**margin)
        clipped = np.clip(F32(x) * scale, -LARGEST[format], LARGEST[format])
        sums, factor = sums * F32(clipped.astype(DTYPES[format])), factor * (F32(1) / scale)
    return sums * factor


def of(n: Numerics, kind: str, a: float, b: float, layer: str = "fc") -> Any:
    return n.product(KINDS[kind], layer, F32([[a]]), F32([[b]]))[0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0, 3])
def test_a_scale_comes_from_the_past_of_its_tensor(kind: str, margin: int) -> None:
    n = Numerics(recipe(margin=margin))
    assert of(n, kind, 3.3, -0.7) == expected(KINDS[kind], 3.3, -0.7, (None, None))
    assert of(n, kind, 0.9, 0.3) == expected(KINDS[kind], 0.9, 0.3, (None, None))  # the pass is not over
    n.end_step()
    assert of(n, kind, 2.2, 9.1) == expected(KINDS[kind], 2.2, 9.1, (3.3, 0.7), margin)
    n.end_step()
    assert of(n, kind, 0.01, 0.02) == expected(KINDS[kind], 0.01, 0.02, (3.3, 9.1), margin)


@pytest.mark.parametrize("spiked", [(layer, kind) for layer in ("a", "b") for kind in KINDS])
def test_a_spike_in_one_tensor_moves_no_other(spiked: tuple[str, str]) -> None:
    """1000 as the left operand of one product of one layer; every other tensor keeps the scale of its own past."""
    n, pasts = Numerics(recipe()), {}
    values = iter(np.linspace(0.3, 2.1, 12))
    for layer in ("a", "b"):
        for kind in KINDS:
            left, right = float(next(values)), float(next(values))
            left = 1000.0 if (layer, kind) == spiked else left
            of(n, kind, left, right, layer)
            for role, x in zip(KINDS[kind], (left, right), strict=True):
                pasts[layer, role] = max(pasts.get((layer, role), 0.0), x)
    n.end_step()
    assert sum(amax == 1000 for amax in pasts.values()) == 1 and len(set(pasts.values())) == 6
    for layer in ("a", "b"):
        for kind, (left, right) in KINDS.items():
            amaxes = (pasts[layer, left], pasts[layer, right])
            assert of(n, kind, 0.77, 1.3, layer) == expected(KINDS[kind], 0.77, 1.3, amaxes), (layer, kind)


def test_a_spike_stays_as_long_as_the_history() -> None:
    """Three slots: its own pass and two more; the recipe's history is 1,024."""
    for length, kept in ((3, 3), (1, 1), (1024, 8)):
        n = Numerics(recipe(history=length))
        seen = []
        for step in range(8):
            of(n, "forward", 1000.0 if step == 0 else 1.0, 1.0)
            n.end_step()
            seen.append(of(n, "forward", 0.77, 0.77) == expected(FORWARD, 0.77, 0.77, (1000.0, 1.0)))
        assert seen == [True] * kept + [False] * (8 - kept)
    assert RECIPES["fp8-delayed"].weight.history == 1024 and RECIPES["fp8-delayed"].weight.margin == 0
