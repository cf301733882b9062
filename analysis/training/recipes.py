"""Precision recipes: what every tensor of a training step is kept and multiplied in.  A recipe is a record of facts.

Roles: *operands* are what matrix products get of weights, activations and output gradients; *kept* is what products and
elementwise operations leave behind; then the weight gradients, the weights themselves and the optimizer's state.
``None`` as a format means: as computed, float32 (or float64, where a pass runs in it).

The presets are those of real stacks: FP16 and BF16 as torch.autocast has them (products in 16 bits with FP32 accumulators;
LayerNorm, softmax, loss and the residual stream in FP32), FP8, MXFP8 and NVFP4 as Transformer Engine (products of linear
layers scaled, everything else BF16; NVFP4's scales are worked out by the default rule of ``fpemu.scaling.nvfp4``, not in that
library's order: one scale of a million differs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

WEIGHT, ACTIVATION, GRADIENT = "weight", "activation", "gradient"
SCALINGS = ("none", "current", "delayed", "tiles", "mx", "nvfp4")
UPDATES = ("nearest-even", "stochastic", "kahan")


@dataclass(frozen=True)
class Operand:
    """What a matrix product gets of a tensor.

    Attributes
    ----------
    format, rounding, overflow: of its elements.
    scaling: ``none``; per tensor by its own amax (``current``) or by the past's (``delayed``); ``tiles``; ``mx``; ``nvfp4``.
    block: elements that share a scale: (1, n) along the sum, or (n, n) (tiles, nvfp4); n for mx.
    rule: of MX scales.  history, margin: of delayed scaling, as ``fpemu.scaling.DelayedScaling`` has them.
    """

    format: str | None = None
    rounding: str = "nearest-even"
    overflow: str = "ieee"
    scaling: str = "none"
    block: tuple[int, int] | int | None = None
    rule: str = "floor"
    history: int = 1024
    margin: int = 0

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling {self.scaling!r} is not one of: {', '.join(SCALINGS)}")

    def __str__(self) -> str:
        text = self.format or "as computed"
        if self.rounding != "nearest-even":
            text += f", {self.rounding}"
        if self.scaling != "none":
            block = "" if self.block is None else f" {self.block}"
            text += f", {self.scaling}{block}" + (f" ({self.rule})" if self.scaling == "mx" else "")
        return text


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    Attributes
    ----------
    weight, activation, gradient: what products of linear layers get.  Those of attention get what is ``kept``.
    kept: format of what linear layers, ReLU and GELU leave behind, forward and backward.
    residual: format of embeddings, of the residual stream and of LayerNorm's outputs, and of their gradients.
    weight_gradient: format of the gradients of linear layers' parameters, before they are unscaled; those of embeddings and
        LayerNorm are kept as the residual stream is.
    master: format of the weights that are updated.  update: how they are rounded, ``kahan`` with a compensation of the same
        format.  momentum, second_moment: formats of the optimizer's state.
    engine: a name in ``fpemu.ENGINES``, or a family of it (``hopper.wgmma``), of which the row for the operands is taken.
    accumulator: of a family's row.  promote_every: as for ``fpemu.matmul``.
    loss_scaler: a name in ``fpemu.scaling.LOSS_POLICIES``, or None.  scaler_options: attributes of that row, changed.
    exempt: layers whose products get ``kept`` operands; a name stands for all that begin with it.
    hadamard: size of the random Hadamard transform of weight-gradient products; 0: none.
    """

    name: str
    weight: Operand = Operand()
    activation: Operand = Operand()
    gradient: Operand = Operand()
    kept: str | None = None
    residual: str | None = None
    weight_gradient: str | None = None
    master: str | None = None
    update: str = "nearest-even"
    momentum: str | None = None
    second_moment: str | None = None
    engine: str = "fp32"
    accumulator: str = "fp32"
    promote_every: int | None = None
    loss_scaler: str | None = None
    scaler_options: Mapping[str, Any] = field(default_factory=dict)
    exempt: tuple[str, ...] = ()
    hadamard: int = 0

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise ValueError(f"update {self.update!r} is not one of: {', '.join(UPDATES)}")
        if self.master is None and self.update != "nearest-even":
            raise ValueError(
                f"{self.name}: weights kept as computed are not rounded; update {self.update!r} needs a master format"
            )

    def operand(self, role: str, layer: str) -> Operand:
        """What a product of a layer gets of a tensor in a role."""
        if any(layer == name or layer.startswith(f"{name}.") for name in self.exempt):
            return Operand(self.kept)
        found: Operand = getattr(self, role)
        return found

    def but(self, name: str | None = None, **changes: Any) -> Recipe:
        """This recipe with some facts changed."""
        return replace(self, name=name or self.name, **changes)

    def row(self) -> dict[str, str]:
        """As one row of a table: every fact as text, ``as computed`` for None."""

        def text(value: Any) -> str:
            if isinstance(value, Mapping):
                return ", ".join(f"{key} {one}" for key, one in value.items())
            return "as computed" if value is None else ", ".join(value) if isinstance(value, tuple) else str(value)

        shown = {one.name: text(getattr(self, one.name)) for one in fields(self)}
        return {**shown, "loss_scaler": self.loss_scaler or "none"}


def _amp(name: str, format: str, family: str = "hopper.wgmma", **facts: Any) -> Recipe:
    """torch.autocast: 16-bit products, FP32 weights and everything around them."""
    operand = Operand(format)
    return Recipe(
        name, operand, operand, operand, kept=format, weight_gradient=format, engine=family, **facts
    )  # fmt: skip


def _pure(name: str, format: str, update: str = "nearest-even") -> Recipe:
    """Everything that is kept in 16 bits, weights and optimizer included."""
    return _amp(name, format).but(residual=format, master=format, momentum=format, second_moment=format, update=update)


def _scaled(name: str, weight: Operand, activation: Operand, gradient: Operand, **facts: Any) -> Recipe:
    """Scaled operands in linear layers; BF16 around them, FP32 weights."""
    return Recipe(name, weight, activation, gradient, kept="bf16", **facts)


def _fp8(name: str, backward: str, **scaling: Any) -> Recipe:
    forward, back = (Operand(format, overflow="saturate", **scaling) for format in ("e4m3", backward))
    return _scaled(name, forward, forward, back, engine="hopper.wgmma", promote_every=128)


def _blocks(name: str) -> Recipe:
    """Float8BlockScaling: 1 x 128 along the sum, 128 x 128 for weights, E4M3."""
    small, large = Operand("e4m3", scaling="tiles", block=(1, 128)), Operand("e4m3", scaling="tiles", block=(128, 128))
    return _scaled(name, large, small, small, engine="hopper.wgmma", promote_every=128)


def _mx(name: str, forward: str, backward: str, rule: str) -> Recipe:
    one, other = (Operand(format, scaling="mx", block=32, rule=rule) for format in (forward, backward))
    return _scaled(name, one, one, other, engine="b200.tcgen05")


TF32 = Operand("tf32", rounding="toward-zero")  # tensor cores ignore the low bits of what they are given
NVFP4 = Operand("e2m1", scaling="nvfp4", block=(1, 16))
NVFP4_STOCHASTIC = replace(NVFP4, rounding="stochastic")
NVFP4_SQUARE = replace(NVFP4, block=(16, 16))

_ROWS = (
    Recipe("fp32"),
    Recipe("fp32-blas", engine="blas.fp32"),
    Recipe("tf32", TF32, TF32, TF32, engine="hopper.wgmma"),
    _pure("fp16-pure", "fp16"),
    _amp("fp16", "fp16"),
    _amp("fp16-static", "fp16", loss_scaler="static", scaler_options={"init": 2.0**10}),
    _amp("fp16-dynamic", "fp16", loss_scaler="torch"),
    _amp("bf16", "bf16"),
    _pure("bf16-pure", "bf16"),
    _pure("bf16-stochastic", "bf16", "stochastic"),
    _pure("bf16-kahan", "bf16", "kahan"),
    _fp8("fp8-delayed", "e5m2", scaling="delayed"),
    _fp8("fp8-current", "e5m2", scaling="current"),
    _fp8("fp8-current-e4m3", "e4m3", scaling="current"),
    _fp8("fp8-unscaled", "e5m2"),
    _blocks("fp8-blocks"),
    _mx("mxfp8", "e4m3", "e4m3", "rceil"),
    _mx("mxfp8-e5m2", "e4m3", "e5m2", "rceil"),
    _mx("mxfp4", "e2m1", "e2m1", "floor"),
    _scaled("nvfp4", NVFP4_SQUARE, NVFP4, NVFP4_STOCHASTIC, engine="b200.tcgen05", hadamard=16, exempt=("head",)),
    _scaled("nvfp4-plain", NVFP4, NVFP4, NVFP4, engine="b200.tcgen05"),
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({row.name: row for row in _ROWS})


def as_recipe(recipe: Recipe | str) -> Recipe:
    """A recipe from itself or its name.  Raises ValueError, listing what is valid, for an unknown name."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"no recipe {recipe!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[recipe]
