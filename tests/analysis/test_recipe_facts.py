"""Are the presets those of the stacks they are named after, and what a recipe does not say, unscaled float32?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.training.numerics import BY_INPUT, FORWARD, Numerics, engine_of
from analysis.training.recipes import RECIPES, Operand, Recipe, as_recipe

PURE = {"kept", "residual", "weight_gradient", "master", "momentum", "second_moment"}
AMP = {"kept", "weight_gradient"}
HOPPER, BLACKWELL = "hopper.wgmma", "b200.tcgen05"
# What differs from a plain float32 recipe, operands aside (their products are another test's question).
FACTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32-blas": {"engine": "blas.fp32"},
    "tf32": {"engine": HOPPER},
    "fp16-pure": {"engine": HOPPER, **dict.fromkeys(PURE, "fp16")},
    "fp16": {"engine": HOPPER, **dict.fromkeys(AMP, "fp16")},
    "fp16-static": {
        "engine": HOPPER, **dict.fromkeys(AMP, "fp16"), "loss_scaler": "static", "scaler_options": {"init": 1024.0},
    },
    "fp16-dynamic": {"engine": HOPPER, **dict.fromkeys(AMP, "fp16"), "loss_scaler": "torch"},
    "bf16": {"engine": HOPPER, **dict.fromkeys(AMP, "bf16")},
    "bf16-pure": {"engine": HOPPER, **dict.fromkeys(PURE, "bf16")},
    "bf16-stochastic": {"engine": HOPPER, **dict.fromkeys(PURE, "bf16"), "update": "stochastic"},
    "bf16-kahan": {"engine": HOPPER, **dict.fromkeys(PURE, "bf16"), "update": "kahan"},
    "fp8-delayed": {"engine": HOPPER, "kept": "bf16", "promote_every": 128},
    "fp8-current": {"engine": HOPPER, "kept": "bf16", "promote_every": 128},
    "fp8-current-e4m3": {"engine": HOPPER, "kept": "bf16", "promote_every": 128},
    "fp8-unscaled": {"engine": HOPPER, "kept": "bf16", "promote_every": 128},
    "fp8-blocks": {"engine": HOPPER, "kept": "bf16", "promote_every": 128},
    "mxfp8": {"engine": BLACKWELL, "kept": "bf16"},
    "mxfp8-e5m2": {"engine": BLACKWELL, "kept": "bf16"},
    "mxfp4": {"engine": BLACKWELL, "kept": "bf16"},
    "nvfp4": {"engine": BLACKWELL, "kept": "bf16", "hadamard": 16, "exempt": ("head",)},
    "nvfp4-plain": {"engine": BLACKWELL, "kept": "bf16"},
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "kept": None, "residual": None, "weight_gradient": None, "master": None, "update": "nearest-even", "momentum": None,
    "second_moment": None, "engine": "fp32", "accumulator": "fp32", "promote_every": None, "loss_scaler": None,
    "scaler_options": {}, "exempt": (), "hadamard": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_presets(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name and as_recipe(name) is recipe and as_recipe(recipe) is recipe
    assert {fact: getattr(recipe, fact) for fact in PLAIN} == {**PLAIN, **FACTS[name]}


def test_operands_of_presets() -> None:
    """What the products of the table test cannot tell: how values beyond the range are meant, and lengths of histories."""
    assert Operand() == Operand(None, "nearest-even", "ieee", "none", None, "floor", 1024, 0)
    for name in ("fp8-delayed", "fp8-current", "fp8-unscaled"):
        assert {getattr(RECIPES[name], role).overflow for role in ("weight", "activation", "gradient")} == {"saturate"}
    assert RECIPES["fp16"].weight.overflow == "ieee"


def test_rows_of_text() -> None:
    row = RECIPES["nvfp4"].row()
    assert row["weight"] == "e2m1, nvfp4 (16, 16)" and row["gradient"] == "e2m1, stochastic, nvfp4 (1, 16)"
    assert row["master"] == "as computed" and row["loss_scaler"] == "none" and row["exempt"] == "head"
    assert row["hadamard"] == "16" and row["kept"] == "bf16"
    assert RECIPES["fp16-static"].row()["scaler_options"] == "init 1024.0"
    assert RECIPES["fp16"].but(scaler_options={"a": 1, "b": 2}).row()["scaler_options"] == "a 1, b 2"
    assert RECIPES["fp16"].but(exempt=("a", "b")).row()["exempt"] == "a, b"
    assert RECIPES["fp16-static"].row()["loss_scaler"] == "static"
    shown = {name: str(RECIPES[name].weight) for name in ("fp32", "tf32", "mxfp8", "fp8-current", "fp8-blocks")}
    assert shown == {
        "fp32": "as computed",
        "tf32": "tf32, toward-zero",
        "mxfp8": "e4m3, mx 32 (rceil)",
        "fp8-current": "e4m3, current",
        "fp8-blocks": "e4m3, tiles (128, 128)",
    }


def test_changing_a_recipe() -> None:
    recipe = RECIPES["fp16"]
    assert recipe.but(kept=None).name == "fp16" and recipe.but("mine", kept=None) == recipe.but(name="mine", kept=None)
    assert recipe.kept == "fp16" and recipe.but(kept=None).kept is None and recipe.but() == recipe
    bare = Recipe("x", master="bf16", update="kahan")
    assert bare.weight == bare.activation == bare.gradient == Operand()


def test_engines_of_mixed_operands() -> None:
    """A family's row has the accumulator asked for; 16-bit products are not promoted, nor are engines named whole."""
    e4m3, fp16, plain = Operand("e4m3"), Operand("fp16"), Operand()
    assert engine_of("hopper.wgmma", "fp16", None, fp16, fp16).name == "hopper.wgmma.fp16.fp16"
    assert engine_of("hopper.wgmma", "fp32", None, plain, plain) == engine_of("fp32", "fp32", None, e4m3, fp16)
    assert getattr(engine_of("hopper.wgmma", "fp32", 128, fp16, fp16).arithmetic, "span", None) == 0
    for format in ("e4m3", "e5m2"):
        assert engine_of("hopper.wgmma", "fp32", 64, Operand(format), e4m3).arithmetic.span == 64  # type: ignore[union-attr]
    mx, nv = Operand("e2m1", scaling="mx"), Operand("e2m1", scaling="nvfp4")
    assert engine_of("b200.tcgen05", "fp32", None, mx, mx).name == "b200.tcgen05.e2m1.mxf8f6f4.fp32"
    assert engine_of("b200.tcgen05", "fp32", None, nv, nv).name == "b200.tcgen05.e2m1.nvf4.fp32"
    with pytest.raises(KeyError, match="unknown engine"):
        engine_of("hopper.wgmma", "fp32", None, mx, nv)
    with pytest.raises(ValueError, match="takes float8_e4m3fn, which does not hold fp16"):
        engine_of("hopper.wgmma.e4m3.fp32", "fp32", None, e4m3, fp16)
    with pytest.raises(ValueError, match="takes float8_e4m3fn, which does not hold fp16"):
        engine_of("hopper.wgmma.e4m3.fp32", "fp32", None, fp16, e4m3)


def test_operands_scaled_in_two_ways_are_refused() -> None:
    x = np.ones((256, 256), np.float32)
    scaled = {scaling: Operand("e4m3", scaling=scaling) for scaling in ("none", "current", "delayed")}
    scaled |= {str(n): Operand("e4m3", scaling="tiles", block=(n, n)) for n in (64, 128)}
    for left, right, message in (
        ("none", "current", "one operand is scaled"),
        ("delayed", "none", "one operand is scaled"),
        ("128", "current", "scaled in two ways"),
        ("current", "64", "scaled in two ways"),
        ("64", "128", "tiles of 64 and 128 along the sum"),
    ):
        recipe = RECIPES["fp8-current"].but("mine", activation=scaled[left], weight=scaled[right])
        with pytest.raises(ValueError, match=message):
            Numerics(recipe).product(FORWARD, "fc", x, x)
    both = RECIPES["fp8-current"].but("mine", activation=scaled["delayed"], weight=scaled["current"])
    assert (Numerics(both).product(FORWARD, "fc", x, x) == 256).all()


def test_beyond_fp16_is_infinity_and_beyond_fp8_its_largest() -> None:
    a, b = np.float32([[1e6, 0]]), np.float32([[1], [0]])
    assert Numerics("fp16").product(FORWARD, "fc", a, b) == np.inf
    assert Numerics("fp8-unscaled").product(FORWARD, "fc", a, b) == 448
    assert Numerics("fp8-unscaled").product(BY_INPUT, "fc", a, b) == 57344
