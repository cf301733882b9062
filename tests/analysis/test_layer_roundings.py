"""Is each layer what its formula says, and is everything it leaves behind rounded where the recipe says, and nowhere else?"""

from __future__ import annotations

from math import erf, exp, pi, sqrt, tanh
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from analysis.training.layers import (
    GELU,
    Attention,
    Convolution,
    Embedding,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    Parameters,
    ReLU,
    Residual,
    chain,
    names_of,
)
from analysis.training.networks import Anchors
from analysis.training.numerics import Numerics, Product
from analysis.training.recipes import Recipe

F32 = np.float32
Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(12)
EXACT = Numerics("fp32")  # float64 passes through it unrounded


class Traced(Numerics):
    """Writes down what is asked of it; the passes are float64."""

    def __init__(self) -> None:
        super().__init__("fp32")
        self.asked: list[str] = []

    def _note(self, *words: str) -> None:
        self.asked.append(" ".join(words))

    def kept(self, x: Array) -> Array:
        self._note("kept")
        return x

    def carried(self, x: Array) -> Array:
        self._note("carried")
        return x

    def weight(self, w: Array) -> Array:
        self._note("weight")
        return w

    def bias(self, b: Array) -> Array:
        self._note("bias")
        return b

    def gradient_kept(self, layer: str, g: Array) -> Array:
        self._note("gradient", layer)
        return g

    def weight_gradient(self, layer: str, g: Array) -> Array:
        self._note("weight gradient", layer)
        return g

    def carried_gradient(self, layer: str, g: Array) -> Array:
        self._note("carried gradient", layer)
        return g

    def product(self, kind: Product, layer: str, a: Array, b: Array) -> Array:
        self._note(kind.left, "x", kind.right, layer)
        return a @ b

    def attention_product(self, a: Array, b: Array) -> Array:
        self._note("attention product")
        return a @ b


def linear(name: str, back: bool = False, bias: bool = True) -> list[str]:
    if not back:
        return [f"activation x weight {name}", *(["bias"] if bias else []), "kept"]
    biases = [f"weight gradient {name}.bias"] if bias else []
    products = [f"activation x gradient {name}", f"weight gradient {name}"]
    return [f"gradient {name}", *products, *biases, f"gradient x weight {name}", "kept"]


TOKENS = np.array([[0, 2, 1], [2, 2, 4]])
# A layer, its input, and what it asks for: forward, and backward.
LAYERS: dict[str, tuple[Layer, Array, list[str], list[str]]] = {
    "linear": (Linear("a", 4, 3), RNG.standard_normal((2, 5, 4)), linear("a"), linear("a", True)),
    "without bias": (
        Linear("a", 4, 3, bias=False),
        RNG.standard_normal((5, 4)),
        linear("a", bias=False),
        linear("a", True, bias=False),
    ),
    "relu": (ReLU(), RNG.standard_normal((3, 4)), [], []),
    "gelu": (GELU(), RNG.standard_normal((3, 4)), ["kept"], ["kept"]),
    "norm": (
        LayerNorm("n", 4),
        RNG.standard_normal((2, 3, 4)),
        ["weight", "weight", "carried"],
        ["carried gradient n.gain", "carried gradient n.bias", "carried"],
    ),
    "embedding": (
        Embedding("e", 5, 4, 6),
        TOKENS,
        ["weight", "weight", "carried"],
        ["carried gradient e.tokens", "carried gradient e.positions"],
    ),
    "attention": (
        Attention("t", 6, 2),
        RNG.standard_normal((2, 4, 6)),
        [
            *linear("t.inputs"),
            *["attention product", "kept", "kept"],
            *["attention product", "kept"],
            *linear("t.output"),
        ],
        [
            *linear("t.output", True),
            *["attention product", "kept"] * 2,
            *["kept", "kept"],
            *["attention product", "kept"] * 2,
            *linear("t.inputs", True),
        ],
    ),
    "convolution": (
        Convolution("c", 2, 3),
        RNG.standard_normal((2, 4, 5, 2)),
        linear("c"),
        [*linear("c", True), "kept"],
    ),
    "flatten": (Flatten(), RNG.standard_normal((2, 3, 4)), [], []),
    "anchors": (Anchors(3), RNG.standard_normal((2, 3, 4, 6)), [], []),
    "residual": (
        Residual(chain(Linear("a", 4, 4), ReLU())),
        RNG.standard_normal((3, 4)),
        [*linear("a"), "carried"],
        [*linear("a", True), "carried"],
    ),
}


def initial(layer: Layer) -> Parameters:
    return {
        name: w + 0.3 * RNG.standard_normal(w.shape) for name, w in layer.initialise(np.random.default_rng(0)).items()
    }


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_rounded(name: str) -> None:
    layer, x, forward, backward = LAYERS[name]
    n, p, gradients = Traced(), initial(layer), {}
    y, saved = layer.forward(p, x, n)
    assert n.asked == forward
    n.asked.clear()
    dx = layer.backward(p, saved, RNG.standard_normal(y.shape), n, gradients)
    assert n.asked == backward
    assert set(gradients) == set(p) and all(gradients[key].shape == p[key].shape for key in p)
    assert dx.shape == (x.shape if name != "embedding" else y.shape)


# ---- formulas -------------------------------------------------------------------------------------------------------
def forward(layer: Layer, p: Parameters, x: Array) -> Array:
    return layer.forward(p, x, EXACT)[0]


def test_linear() -> None:
    layer, x = Linear("a", 4, 3), RNG.standard_normal((2, 5, 4))
    p = initial(layer)
    assert_allclose(forward(layer, p, x), np.einsum("bti,io->bto", x, p["a.weight"]) + p["a.bias"], rtol=1e-14)
    tied = Linear("b", 4, 3, bias=False, tied="table")
    assert tied.initialise(RNG) == {}
    table = RNG.standard_normal((3, 4))
    assert_allclose(forward(tied, {"table": table}, x), x @ table.T, rtol=1e-14)
    gradients = {"table": np.ones((3, 4))}
    tied.backward({"table": table}, x, np.ones((2, 5, 3)), EXACT, gradients)
    assert_allclose(gradients["table"], 1 + np.ones((3, 10)) @ x.reshape(10, 4), rtol=1e-13)


def test_relu_and_gelu() -> None:
    x = np.array([-2.0, -0.0, 0.0, 0.5, 3.0])
    y, saved = ReLU().forward({}, x, EXACT)
    assert y.tolist() == [0, 0, 0, 0.5, 3] and saved.tolist() == [False, False, False, True, True]
    assert ReLU().backward({}, saved, np.full(5, np.inf), EXACT, {}).tolist() == [0, 0, 0, np.inf, np.inf]
    assert (ReLU().forward({}, F32([1]), EXACT)[0]).dtype == F32
    for one, y in zip(x.tolist(), forward(GELU(), {}, x).tolist(), strict=True):
        assert y == pytest.approx(0.5 * one * (1 + tanh(sqrt(2 / pi) * (one + 0.044715 * one**3))), abs=1e-15)
        assert y == pytest.approx(one * (1 + erf(one / sqrt(2))) / 2, abs=1e-3)  # x Phi(x)


def test_layer_norm() -> None:
    layer, x = LayerNorm("n", 5), 10 + 3 * RNG.standard_normal((2, 4, 5))
    p = initial(layer)
    for place in np.ndindex(2, 4):
        row = x[place].tolist()
        mean = sum(row) / 5
        variance = sum((one - mean) ** 2 for one in row) / 5
        expected = (x[place] - mean) / sqrt(variance + 1e-5) * p["n.gain"] + p["n.bias"]
        assert_allclose(forward(layer, p, x)[place], expected, rtol=1e-12)
    flat = forward(
        LayerNorm("n", 2, epsilon=0.5), {"n.gain": np.ones(2), "n.bias": np.zeros(2)}, np.array([[1.0, 2.0]])
    )
    assert_allclose(flat, [[-0.5 / sqrt(0.75), 0.5 / sqrt(0.75)]])
    plain = layer.initialise(np.random.default_rng(0))
    assert plain["n.gain"].tolist() == [1] * 5 and plain["n.bias"].tolist() == [0] * 5


def test_embedding() -> None:
    layer = Embedding("e", 5, 4, 6)
    p = initial(layer)
    y, saved = layer.forward(p, TOKENS, EXACT)
    for b, t in np.ndindex(2, 3):
        assert_array_equal(y[b, t], p["e.tokens"][TOKENS[b, t]] + p["e.positions"][t])
    dy, gradients = RNG.standard_normal(y.shape), {}
    assert layer.backward(p, saved, dy, EXACT, gradients) is dy
    for token in range(5):
        assert_allclose(gradients["e.tokens"][token], dy[token == TOKENS].sum(axis=0), atol=1e-14)
    assert_allclose(gradients["e.positions"][:3], dy.sum(axis=0), atol=1e-14)
    assert (gradients["e.positions"][3:] == 0).all()


def test_attention() -> None:
    """Head by head, place by place: a mix of the values up to here, by the softmax of scaled products."""
    layer, x = Attention("t", 6, 2), RNG.standard_normal((2, 4, 6))
    p = initial(layer)
    joined = x @ p["t.inputs.weight"] + p["t.inputs.bias"]
    mixed = np.zeros((2, 4, 6))
    for b, t, head in np.ndindex(2, 4, 2):
        query, key, value = (joined[b, :, part * 6 + head * 3 :][:, :3] for part in range(3))
        scores = [exp(float(query[t] @ key[s]) / sqrt(3)) for s in range(t + 1)]
        mixed[b, t, head * 3 : head * 3 + 3] = sum(w * value[s] for s, w in enumerate(scores)) / sum(scores)
    assert_allclose(forward(layer, p, x), mixed @ p["t.output.weight"] + p["t.output.bias"], rtol=1e-11)
    far = x * 1e3  # (large scores neither overflow nor underflow)
    assert np.isfinite(forward(layer, p, far)).all()


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1), (5, 2)])
def test_convolution(size: int, stride: int) -> None:
    """Zeros around the image; output (i, j) is centred on input (stride i, stride j); patches by row, column, channel."""
    layer, x = Convolution("c", 2, 3, size, stride), RNG.standard_normal((2, 6, 7, 2))
    p = initial(layer)
    kernel, edge = p["c.weight"].reshape(size, size, 2, 3), size // 2
    y = forward(layer, p, x)
    assert y.shape == (2, -(-6 // stride), -(-7 // stride), 3)
    for b, i, j in np.ndindex(*y.shape[:3]):
        expected = p["c.bias"].copy()
        for di, dj in np.ndindex(size, size):
            r, c = stride * i + di - edge, stride * j + dj - edge
            if 0 <= r < 6 and 0 <= c < 7:
                expected += x[b, r, c] @ kernel[di, dj]
        assert_allclose(y[b, i, j], expected, rtol=1e-12, atol=1e-14)
    # <dy, y(x)> is linear in x: its gradient by x applied to x is itself, the bias aside.
    _, saved = layer.forward(p, x, EXACT)
    dy = RNG.standard_normal(y.shape)
    dx = layer.backward(p, saved, dy, EXACT, {})
    assert_allclose((dx * x).sum(), (dy * (y - p["c.bias"])).sum(), rtol=1e-10)
    shifted = x + np.eye(6, 7)[None, :, :, None]
    assert_allclose((dx * (shifted - x)).sum(), (dy * (forward(layer, p, shifted) - y)).sum(), rtol=1e-8)


def test_shapes_alone() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    y, saved = Flatten().forward({}, x, EXACT)
    assert_array_equal(y, np.arange(24.0).reshape(2, 12))
    assert_array_equal(Flatten().backward({}, saved, y, EXACT, {}), x)
    y, saved = Anchors(2).forward({}, x.reshape(2, 1, 3, 4), EXACT)
    assert_array_equal(y, np.arange(24.0).reshape(2, 6, 2))
    assert_array_equal(Anchors(2).backward({}, saved, y, EXACT, {}), x.reshape(2, 1, 3, 4))


def test_residuals_and_chains() -> None:
    inner = chain(Linear("a", 4, 4), ReLU(), Linear("b", 4, 4))
    p, x = initial(inner), RNG.standard_normal((3, 4))
    first = np.maximum(x @ p["a.weight"] + p["a.bias"], 0)
    assert_allclose(forward(inner, p, x), first @ p["b.weight"] + p["b.bias"], rtol=1e-13)
    assert_allclose(forward(Residual(inner), p, x), x + first @ p["b.weight"] + p["b.bias"], rtol=1e-13)
    layers = [inner, Residual(chain(Attention("t", 4, 1), GELU(), Convolution("c", 1, 1))), Linear("d", 1, 1)]
    assert names_of(layers) == ["a", "b", "t.inputs", "t.output", "c", "d"]


def test_initial_weights() -> None:
    """Normal deviates in order, times gain / sqrt(inputs), or a deviation of their own."""

    def drawn(*shape: int, times: float) -> Array:
        return np.random.default_rng(4).standard_normal(shape) * times

    rng = np.random.default_rng
    assert_allclose(Linear("a", 9, 2, 5.0).initialise(rng(4))["a.weight"], drawn(9, 2, times=5 / 3), rtol=1e-15)
    assert_allclose(Linear("a", 9, 2).initialise(rng(4))["a.weight"], drawn(9, 2, times=1 / 3), rtol=1e-15)
    assert Linear("a", 9, 2).initialise(rng(4))["a.bias"].tolist() == [0, 0]
    assert_allclose(Convolution("c", 4, 2).initialise(rng(4))["c.weight"], drawn(36, 2, times=sqrt(2) / 6), rtol=1e-15)
    attention = Attention("t", 4, 2, gain=0.5).initialise(rng(4))
    assert_allclose(attention["t.inputs.weight"], drawn(4, 12, times=1 / 2), rtol=1e-15)
    assert_allclose(attention["t.output.weight"], drawn(16, 4, times=0.25)[12:], rtol=1e-15)
    assert_allclose(Embedding("e", 3, 2, 4).initialise(rng(4))["e.tokens"], drawn(3, 4, times=0.02), rtol=1e-15)
    assert Embedding("e", 3, 2, 4).initialise(rng(4))["e.positions"].shape == (2, 4)
    assert Embedding("e", 9, 7, 4, deviation=3.0).initialise(rng(4))["e.positions"].std() > 1


# ---- what ``Numerics`` does where it is asked -----------------------------------------------------------------------
FORMATS = {"kept": np.float16, "residual": ml_dtypes.bfloat16, "weight_gradient": ml_dtypes.float8_e5m2}
MIXED = Recipe("mixed", kept="fp16", residual="bf16", weight_gradient="e5m2")


def test_each_kind_of_tensor_is_kept_in_its_format() -> None:
    seen: list[tuple[Any, ...]] = []
    n = Numerics(MIXED, watch=lambda *facts: seen.append(facts))
    x = (RNG.standard_normal(200) * 2.0 ** RNG.integers(-20, 17, 200)).astype(F32)
    with np.errstate(over="ignore"):
        expected = {name: x.astype(dtype).astype(F32) for name, dtype in FORMATS.items()}
    for found, name in (
        (n.kept(x), "kept"),
        (n.bias(x), "kept"),
        (n.carried(x), "residual"),
        (n.weight(x), "residual"),
    ):
        assert_array_equal(found, expected[name])
    assert not seen
    for ask, role, name in (
        (n.gradient_kept, "gradient", "kept"),
        (n.weight_gradient, "weight", "weight_gradient"),
        (n.carried_gradient, "weight", "residual"),
    ):
        found = ask("fc", x)
        assert_array_equal(found, expected[name])
        was = seen.pop()
        assert was[:2] == (role, "fc") and was[2] is x and was[3] is found
    wide = x.astype(np.float64)
    assert n.kept(wide) is wide and Numerics("fp32").kept(x) is x


def test_the_watch_sees_operands_as_products_get_them() -> None:
    """Of gradients alone; scaled ones by what their codes stand for."""
    from analysis.training.numerics import BY_INPUT, BY_WEIGHT, FORWARD

    g, w = RNG.standard_normal((8, 16)).astype(F32), RNG.standard_normal((16, 4)).astype(F32)
    for name, dtype, largest in (("fp8-current", ml_dtypes.float8_e5m2, 57344), ("bf16", ml_dtypes.bfloat16, None)):
        seen: list[tuple[Any, ...]] = []
        n = Numerics(name, watch=lambda *facts: seen.append(facts))  # noqa: B023
        n.product(FORWARD, "fc", g, w)
        n.product(BY_WEIGHT, "fc", g, w)
        assert not seen
        n.product(BY_INPUT, "fc", g, w)
        scale = F32(1) if largest is None else F32(largest) / np.abs(g).max()
        assert [one[:2] for one in seen] == [("operand", "fc")] and seen[0][2] is g
        assert_array_equal(seen[0][3], (g * scale).astype(dtype).astype(F32) * (F32(1) / scale))
    n = Numerics("fp32", watch=lambda *facts: seen.append(facts))
    n.product(BY_INPUT, "fc", g, w)
    assert len(seen) == 1
