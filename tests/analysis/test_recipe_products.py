"""Does every recipe multiply what its row says, forward and backward, bit for bit?

Each product is written out again from facts spelt out here: operands are cast by ml_dtypes and NumPy under scales worked out in a few
lines, sums are those of ``fpemu.engines.definition``, and scales outside the engine multiply in float32.  Nothing of the lab's numerics
or of the scaling kernels takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_stochastic import word

import fpemu as fp
from analysis.training import numerics as under_test
from analysis.training.numerics import BY_INPUT, BY_WEIGHT, FORWARD, Numerics
from analysis.training.recipes import RECIPES
from fpemu import reference
from fpemu.engines import definition
from fpemu.engines.model import promoted

F32, F64 = np.float32, np.float64
Array = np.ndarray[Any, Any]
TYPES: dict[str, tuple[Any, float]] = {  # the dtype of a format, and its largest value
    "fp16": (np.float16, 65504.0),
    "bf16": (ml_dtypes.bfloat16, 3.3895313892515355e38),
    "e4m3": (ml_dtypes.float8_e4m3fn, 448.0),
    "e5m2": (ml_dtypes.float8_e5m2, 57344.0),
    "e2m1": (ml_dtypes.float4_e2m1fn, 6.0),
}


class Side(NamedTuple):
    """An operand (rows along the sum): codes, what one code of them is multiplied by, and the factor of all."""

    codes: Array
    scales: Array | None = None  # float32 factors of elements, or the codes of an engine's block scales
    factor: Any = None


Maker = Callable[[Array, Any], Side]


# ---- operands: x (K, columns), the sum along axis 0 -----------------------------------------------------------------
def saturated(x: Array, format: str) -> Array:
    dtype, largest = TYPES[format]
    return np.clip(x, -largest, largest).astype(dtype).view(np.uint8)


def as_is(x: Array, _: Any) -> Side:
    return Side(x.view(np.uint32))


def truncated_to_tf32(x: Array, _: Any) -> Side:
    return Side(x.view(np.uint32) & np.uint32(0xFFFFE000))


def cast(format: str) -> Maker:
    """As IEEE has it: beyond the largest value, infinity."""
    return lambda x, _: Side(x.astype(TYPES[format][0]).view(np.uint16))


def unscaled(format: str) -> Maker:
    return lambda x, _: Side(saturated(x, format))


def by_amax(format: str) -> Maker:
    """``before``: what the scale is taken from, the tensor itself unless scaling is delayed."""

    def side(x: Array, before: Array | None) -> Side:
        scale = F32(TYPES[format][1]) / np.abs(x if before is None else before).max()
        return Side(saturated(x * scale, format), factor=F32(1) / scale)

    return side


def by_tiles(format: str, along: int, across: int) -> Maker:
    def side(x: Array, _: Any) -> Side:
        scales = np.zeros_like(x)
        for k in range(0, x.shape[0], along):
            for j in range(0, x.shape[1], across):
                tile = np.s_[k : k + along, j : j + across]
                scales[tile] = 2.0 ** np.floor(np.log2(F64(F32(TYPES[format][1]) / np.abs(x[tile]).max())))
        return Side(saturated(x * scales, format), 1 / scales)

    return side


def by_mx(format: str, rule: str) -> Maker:
    def side(x: Array, _: Any) -> Side:
        largest = TYPES[format][1]
        amax = np.array([np.abs(x[k : k + 32]).max(axis=0) for k in range(0, len(x), 32)], F64)
        if rule == "rceil":  # the smallest power of two under which amax fits
            exponents = np.ceil(np.log2(amax / largest))
        else:  # the largest below amax over the largest of the format
            exponents = np.floor(np.log2(amax)) - np.floor(np.log2(largest))
        spread = np.repeat(exponents, 32, axis=0)[: len(x)]
        return Side(saturated(F64(x) / 2.0**spread, format), (exponents + 127).astype(np.uint8))

    return side


def by_nvfp4(across: int, stochastic: bool = False) -> Maker:
    def side(x: Array, seed: Any) -> Side:
        g = np.abs(x).max() / F32(2688)
        scales, units = np.zeros((-(-len(x) // 16), x.shape[1]), np.uint8), np.zeros_like(x)
        for k in range(0, len(x), 16):
            for j in range(0, x.shape[1], across):
                block = np.s_[k : k + 16, j : j + across]
                scale = saturated(np.abs(x[block]).max() / F32(6) / g, "e4m3")
                scales[k // 16, j : j + across] = scale
                units[block] = scale.view(ml_dtypes.float8_e4m3fn).astype(F32) * g
        quotients = np.divide(x, units, out=np.zeros_like(x), where=units > 0)
        return Side(stochastic_e2m1(quotients, *seed) if stochastic else saturated(quotients, "e2m1"), scales, g)

    return side


def stochastic_e2m1(x: Array, seed: int, transposed: bool, columns: list[int]) -> Array:
    """Some columns, by the random words of the elements' indices in the operand as it was given."""
    to, codes = fp.Cast("e2m1", "stochastic", overflow="saturate"), np.zeros(x.shape, np.uint8)
    for k, j in ((k, j) for k in range(len(x)) for j in columns):
        index = j * x.shape[0] + k if transposed else k * x.shape[1] + j
        codes[k, j] = reference.encode(float(x[k, j]), to, word(seed, index))
    return codes


def transformed(x: Array, seed: int) -> Array:
    """Blocks of 16 along the sum times S H / 4: signs are the top bits of random words, H = [[H, H], [H, -H]], in float32."""

    def times_h(x: Array) -> Array:
        if len(x) == 1:
            return x
        first, second = times_h(x[: len(x) // 2]), times_h(x[len(x) // 2 :])
        return np.concatenate([first + second, first - second])

    signs = F32([[-1 if word(seed, i) >> 31 else 1] for i in range(16)])
    return np.concatenate([times_h(signs * x[k : k + 16]) / F32(4) for k in range(0, len(x), 16)])


# ---- products -------------------------------------------------------------------------------------------------------
def product(a: Side, b: Side, engine: fp.Engine, i: int, j: int) -> np.float32:
    """One element: codes through the engine (with its block scales), times what scales lie outside it."""
    left, right = a.codes[:, i].tolist(), b.codes[:, j].tolist()

    def summed(part: slice, *scales: list[int]) -> np.float32:
        code = definition.dot(left[part], right[part], 0, engine, *scales)
        return F32(reference.value(code, engine.accumulator))

    if engine.scaling is not None:
        sums = summed(np.s_[:], a.scales[:, i].tolist(), b.scales[:, j].tolist())  # type: ignore[index]
    elif a.scales is not None and b.scales is not None:  # a tile after the other, added in float32
        sums = F32(0)
        for k in range(0, len(left), 128):
            sums += summed(np.s_[k : k + 128]) * (a.scales[k, i] * b.scales[k, j])
    else:
        sums = summed(np.s_[:])
    return sums if a.factor is None else sums * (a.factor * b.factor)


# Operands of activations, weights, gradients: one along the sum of the forward product, one of the backward products.
E4M3, E5M2 = "e4m3", "e5m2"
Sides = dict[str, Maker]


def all_of(side: Maker) -> Sides:
    return {"activation": side, "weight": side, "gradient": side}


def roles(
    activation: Maker,
    weight: Maker,
    gradient: Maker,
) -> Sides:
    return {"activation": activation, "weight": weight, "gradient": gradient}


H, B = "hopper.wgmma", "b200.tcgen05"
FP16 = (all_of(cast("fp16")), [f"{H}.fp16.fp32"] * 3)
BF16 = (all_of(cast("bf16")), [f"{H}.bf16.fp32"] * 3)
MIXED = [f"{H}.e4m3.fp32", f"{H}.e5m2xe4m3.fp32", f"{H}.e4m3xe5m2.fp32"]  # forward, by input, by weight
SAME = [f"{H}.e4m3.fp32"] * 3
TABLE: dict[str, tuple[Sides, list[str]]] = {
    "fp32": (all_of(as_is), ["fp32"] * 3),
    "tf32": (all_of(truncated_to_tf32), [f"{H}.tf32.fp32"] * 3),
    "fp16-pure": FP16,
    "fp16": FP16,
    "fp16-static": FP16,
    "fp16-dynamic": FP16,
    "bf16": BF16,
    "bf16-pure": BF16,
    "bf16-stochastic": BF16,
    "bf16-kahan": BF16,
    "fp8-delayed": (roles(by_amax(E4M3), by_amax(E4M3), by_amax(E5M2)), MIXED),
    "fp8-current": (roles(by_amax(E4M3), by_amax(E4M3), by_amax(E5M2)), MIXED),
    "fp8-current-e4m3": (all_of(by_amax(E4M3)), SAME),
    "fp8-unscaled": (roles(unscaled(E4M3), unscaled(E4M3), unscaled(E5M2)), MIXED),
    "fp8-blocks": (roles(by_tiles(E4M3, 128, 1), by_tiles(E4M3, 128, 128), by_tiles(E4M3, 128, 1)), SAME),
    "mxfp8": (all_of(by_mx(E4M3, "rceil")), [f"{B}.e4m3.mxf8f6f4.fp32"] * 3),
    "mxfp8-e5m2": (
        roles(by_mx(E4M3, "rceil"), by_mx(E4M3, "rceil"), by_mx(E5M2, "rceil")),
        [f"{B}.e4m3.mxf8f6f4.fp32", f"{B}.e5m2xe4m3.mxf8f6f4.fp32", f"{B}.e4m3xe5m2.mxf8f6f4.fp32"],
    ),
    "mxfp4": (all_of(by_mx("e2m1", "floor")), [f"{B}.e2m1.mxf8f6f4.fp32"] * 3),
    "nvfp4": (roles(by_nvfp4(1), by_nvfp4(16), by_nvfp4(1, stochastic=True)), [f"{B}.e2m1.nvf4.fp32"] * 3),
    "nvfp4-plain": (all_of(by_nvfp4(1)), [f"{B}.e2m1.nvf4.fp32"] * 3),
}
PROMOTED = ("fp8-delayed", "fp8-current", "fp8-current-e4m3", "fp8-unscaled", "fp8-blocks")  # every 128 products
KINDS = (FORWARD, BY_INPUT, BY_WEIGHT)
ROLES = (("activation", "weight"), ("gradient", "weight"), ("activation", "gradient"))
SHAPES = ((16, 256, 77), (256, 77, 16), (77, 16, 256))  # tokens, inputs, outputs: each is K of one product
SPREAD = {"activation": (-6, 3), "weight": (-9, 0), "gradient": (-18, 3)}  # exponents that elements are multiplied by


def tensor(role: str, shape: tuple[int, int], seed: int) -> Array:
    """Numbers over many binades, larger from one block to the next; some beyond the range of E4M3, some below E5M2's."""
    rng = np.random.default_rng((seed, *role.encode()))
    ramp = np.add.outer(np.arange(shape[0]) // 16 % 5, np.arange(shape[1]) // 16 % 3)
    x = rng.standard_normal(shape) * 2.0 ** (rng.integers(*SPREAD[role], shape) + ramp)
    x[rng.random(shape) < 0.05] = 0
    x[shape[0] // 2, shape[1] // 2] = 450 + 150 * seed + 50 * ROLES[1].index(role) if role in ROLES[1] else 700 * seed
    return x.astype(F32)


def operands(tokens: int, inputs: int, outputs: int, seed: int) -> dict[str, Array]:
    shapes = {"activation": (tokens, inputs), "weight": (inputs, outputs), "gradient": (tokens, outputs)}
    return {role: tensor(role, shape, seed) for role, shape in shapes.items()}


def given(kind: int, of: dict[str, Array]) -> tuple[Array, Array]:
    """The operands of a product: y = x W, dx = dy W', dW = x' dy."""
    x, w, g = of["activation"], of["weight"], of["gradient"]
    return ((x, w), (g, w.T), (x.T, g))[kind]


def places(rows: int, columns: int) -> list[tuple[int, int]]:
    """Corners, the middle (the large element), and what lies in other blocks and tiles."""
    return [
        (0, 0),
        (rows - 1, columns - 1),
        (rows // 2, columns // 2),
        (min(rows - 1, 130), 3),
        (5, min(columns - 1, 129)),
    ]


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the stochastic roundings, in order: how they are chosen is another test's question."""
    found: list[int] = []
    original = under_test.scaling.nvfp4

    def spy(x: Array, **options: Any) -> Any:
        if options["rounding"] == "stochastic":
            found.append(options["seed"])
        return original(x, **options)

    monkeypatch.setattr(under_test.scaling, "nvfp4", spy)
    return found


def test_no_recipe_is_left_out() -> None:
    assert set(TABLE) | {"fp32-blas"} == set(RECIPES)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", TABLE)
def test_products(name: str, shape: tuple[int, int, int], seeds: list[int]) -> None:
    """All three, in a second pass: what scales are delayed, those of the first pass give."""
    sides, engines = TABLE[name]
    first, second = (operands(*shape, seed) for seed in (1, 2))
    numerics = Numerics(name, seed=3)
    for kind in range(3):
        numerics.product(KINDS[kind], "fc", *given(kind, first))
    numerics.end_step()
    for kind, pair in enumerate(ROLES):
        seeds.clear()
        found = numerics.product(KINDS[kind], "fc", *given(kind, second))
        engine = fp.ENGINES[engines[kind]]
        engine = promoted(engine, 128) if name in PROMOTED else engine
        made = []
        for side, (role, x) in enumerate(zip(pair, given(kind, second), strict=True)):
            x = np.ascontiguousarray(x if side else x.T)
            if name == "nvfp4" and KINDS[kind] is BY_WEIGHT and len(x) % 16 == 0:
                x = transformed(x, 3)
            past = (
                first[role]
                if name == "fp8-delayed"
                else (*seeds, side == 0, [at[side] for at in places(*found.shape)])
                if seeds
                else None
            )
            made.append(sides[role](x, past))
        assert found.dtype == F32
        for i, j in places(*found.shape):
            assert_array_equal(found[i, j], product(*made, engine, i, j), err_msg=f"{pair} [{i}, {j}]")


def test_blas_products_are_those_of_float32() -> None:
    """A library adds in an order of its own: |error| <= K u / (1 - K u) times the sum of magnitudes, in any (Higham, 3.5)."""
    for shape in SHAPES:
        of = operands(*shape, 2)
        for kind in range(3):
            a, b = given(kind, of)
            found, u = Numerics("fp32-blas").product(KINDS[kind], "fc", a, b), len(b) * 2.0**-24
            assert (np.abs(found - F64(a) @ F64(b)) <= u / (1 - u) * (np.abs(F64(a)) @ np.abs(F64(b)))).all()


OTHER = {"fp8-delayed": H, "fp8-blocks": H, "mxfp8": B, "nvfp4": B}


@pytest.mark.parametrize("name", OTHER)
def test_products_of_attention_and_of_exempt_layers_are_in_what_is_kept(name: str) -> None:
    """BF16, sums not promoted; attention's for every head."""
    of, engine = operands(2, 256, 5, 2), fp.ENGINES[f"{OTHER[name]}.bf16.fp32"]
    x, w = np.stack([of["activation"], -of["activation"] / 3]), np.stack([of["weight"], of["weight"][::-1]])
    numerics = Numerics(RECIPES[name].but(exempt=("head", "out")))
    attention = numerics.attention_product(x, w)
    for head in range(2):
        a, b = cast("bf16")(x[head].T, None), cast("bf16")(w[head], None)
        for kind, layer in ((FORWARD, "head"), (BY_INPUT, "out.a"), (BY_WEIGHT, "head.b")):
            found = numerics.product(kind, layer, x[head], w[head])
            assert_array_equal(found, attention[head])
        for i, j in ((0, 0), (1, 4), (1, 2)):
            assert attention[head, i, j] == product(a, b, engine, i, j)


@pytest.mark.parametrize("name", ["fp8-current", "fp8-blocks", "mxfp8", "nvfp4-plain"])
def test_an_engine_that_takes_no_codes_gets_values(name: str) -> None:
    """Of codes times scales, in float32: the ordinary accumulator's sums of them, not promoted."""
    of = operands(40, 256, 5, 2)
    x, w = given(0, of)
    found = Numerics(RECIPES[name].but(engine="fp32", promote_every=None)).product(FORWARD, "fc", x, w)
    values = []
    for role, one in (("activation", np.ascontiguousarray(x.T)), ("weight", w)):
        side, format = TABLE[name][0][role](one, None), "e2m1" if name == "nvfp4-plain" else "e4m3"
        decoded = side.codes.view(TYPES[format][0]).astype(F32)
        if side.scales is None:
            values.append(decoded * side.factor)
        elif side.scales.dtype == F32:
            values.append(decoded * side.scales)
        else:
            dtype = ml_dtypes.float8_e4m3fn if side.factor is not None else ml_dtypes.float8_e8m0fnu
            scales = side.scales.view(dtype).astype(F32) * (1 if side.factor is None else side.factor)
            values.append(decoded * np.repeat(scales, len(one) // len(scales), axis=0))
    for i, j in ((0, 0), (39, 4), (20, 2)):
        assert found[i, j] == product(
            Side(values[0].view(np.uint32)), Side(values[1].view(np.uint32)), fp.ENGINES["fp32"], i, j
        )


@pytest.mark.parametrize("name", ["fp8-current", "fp8-blocks", "mxfp8", "nvfp4-plain"])
@pytest.mark.parametrize("kind", range(3))
def test_products_of_stacks(name: str, kind: int) -> None:
    """Each of its own: the rows of one reversed and the signs of the other turned, the same numbers turn up there."""
    a, b = given(kind, operands(256, 160, 256, 2))
    alone = Numerics(name).product(KINDS[kind], "fc", a, b)
    both = Numerics(name).product(KINDS[kind], "fc", np.stack([a, a[::-1]]), np.stack([b, -b]))
    assert_array_equal(both, np.stack([alone, -alone[::-1]]))


def test_lengths_of_mx_blocks() -> None:
    """32 where none is said; another where the engine does not mind."""
    of = operands(16, 256, 77, 2)
    x, w = given(0, of)
    none = replace(RECIPES["mxfp8"].weight, block=None)
    plain = Numerics("mxfp8").product(FORWARD, "fc", x, w)
    assert_array_equal(Numerics(RECIPES["mxfp8"].but(weight=none, activation=none)).product(FORWARD, "fc", x, w), plain)
    single = RECIPES["mxfp8"].but(engine="fp32")
    found = {}
    for block in (8, 32):
        operand = replace(none, block=block)
        found[block] = Numerics(single.but(weight=operand, activation=operand)).product(FORWARD, "fc", x, w)
    assert_array_equal(found[32], Numerics(single).product(FORWARD, "fc", x, w))
    assert np.abs(found[8] - F64(x) @ w).sum() < np.abs(found[32] - F64(x) @ w).sum()
