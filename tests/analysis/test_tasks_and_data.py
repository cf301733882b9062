"""Are networks, losses, batches and tasks what their descriptions say?"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from math import exp, inf, log, sqrt
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits

from analysis.training import digits, networks, scenes, small_tasks, text
from analysis.training.losses import cross_entropy, detection
from analysis.training.networks import Network
from analysis.training.numerics import Numerics
from analysis.training.optimizers import Rule
from analysis.training.recipes import RECIPES
from analysis.training.trainer import History

F32 = np.float32
RNG = np.random.default_rng(31)


# ---- networks -------------------------------------------------------------------------------------------------------
def linear(name: str, inputs: int, outputs: int, gain: float = 1.0) -> list[tuple[str, tuple[int, ...], float]]:
    return [(f"{name}.weight", (inputs, outputs), gain / sqrt(inputs)), (f"{name}.bias", (outputs,), 0.0)]


def block(name: str, width: int, shrunk: float) -> list[tuple[str, tuple[int, ...], float]]:
    """A deviation of 1 in a vector: ones."""
    return [
        (f"{name}.norm1.gain", (width,), 1.0), (f"{name}.norm1.bias", (width,), 0.0),
        *linear(f"{name}.attention.inputs", width, 3 * width), *linear(f"{name}.attention.output", width, width, shrunk),
        (f"{name}.norm2.gain", (width,), 1.0), (f"{name}.norm2.bias", (width,), 0.0),
        *linear(f"{name}.up", width, 4 * width), *linear(f"{name}.down", 4 * width, width, shrunk),
    ]  # fmt: skip


def gpt(
    tokens: int, context: int, width: int, depth: int, tied: bool = False
) -> list[tuple[str, tuple[int, ...], float]]:
    shrunk = 1 / sqrt(2 * depth)
    blocks = [row for place in range(depth) for row in block(f"block{place + 1}", width, shrunk)]
    ends = [("norm.gain", (width,), 1.0), ("norm.bias", (width,), 0.0)]
    head = [] if tied else linear("head", width, tokens)[:1]
    tables = [("embedding.tokens", (tokens, width), 0.02), ("embedding.positions", (context, width), 0.02)]
    return [*tables, *blocks, *ends, *head]


HE = sqrt(2)
NETWORKS: dict[str, tuple[Network, list[tuple[str, tuple[int, ...], float]]]] = {
    "mlp": (
        networks.mlp((5, 7, 6, 4)),
        [*linear("fc1", 5, 7, HE), *linear("fc2", 7, 6, HE), *linear("head", 6, 4, HE)],
    ),
    "convnet": (
        networks.convnet(),
        [*linear("conv1", 9, 16, HE), *linear("conv2", 144, 32, HE), *linear("head", 512, 10)],
    ),
    "small convnet": (
        networks.convnet((2, 3), 12, 7),
        [*linear("conv1", 9, 2, HE), *linear("conv2", 18, 3, HE), *linear("head", 108, 7)],
    ),
    "gpt": (networks.gpt(13), gpt(13, 64, 64, 2)),
    "tied gpt": (networks.gpt(11, 6, 8, 3, 2, tied=True), gpt(11, 6, 8, 3, tied=True)),
    "detector": (
        networks.detector(),
        [*linear("conv1", 9, 16, HE), *linear("conv2", 144, 32, HE), *linear("head", 32, 60)],
    ),
    "small detector": (
        networks.detector(3, 2, (4, 5)),
        [*linear("conv1", 9, 4, HE), *linear("conv2", 36, 5, HE), *linear("head", 5, 14)],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_parameters(name: str) -> None:
    """Normal deviates of one generator in the order of the layers; zeros for biases, ones for gains."""
    network, rows = NETWORKS[name]
    for dtype in (np.float32, np.float64):
        made, rng = network.initialise(3, dtype), np.random.default_rng(3)
        assert list(made) == [row[0] for row in rows]
        for key, shape, deviation in rows:
            w = rng.standard_normal(shape) * deviation if len(shape) > 1 else np.full(shape, deviation)
            assert made[key].dtype == dtype and made[key].shape == shape
            assert_allclose(made[key], w.astype(dtype), rtol=1e-6 if dtype is np.float32 else 1e-14)
    assert network.initialise(3)[rows[0][0]].dtype == np.float32


def test_heads_of_attention_and_the_order_of_layers() -> None:
    """Four heads of a quarter of the width; ReLU between layers and none at the end."""
    four, two = (networks.gpt(5, 4, 8, 1, **heads) for heads in ({}, {"heads": 2}))
    assert four.body.layers[1].inner.layers[1].heads == 4 and two.body.layers[1].inner.layers[1].heads == 2  # type: ignore[attr-defined]
    kinds = {name: [type(one).__name__ for one in NETWORKS[name][0].body.layers] for name in NETWORKS}
    assert kinds["mlp"] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert kinds["convnet"] == ["Convolution", "ReLU", "Convolution", "ReLU", "Flatten", "Linear"]
    assert kinds["detector"] == ["Convolution", "ReLU", "Convolution", "ReLU", "Convolution", "Anchors"]
    assert kinds["gpt"] == ["Embedding", *["Residual"] * 4, "LayerNorm", "Linear"]
    y, _ = networks.detector(3, 2, (4, 5)).forward(
        networks.detector(3, 2, (4, 5)).initialise(0), np.ones((2, 8, 8, 1), F32), Numerics("fp32")
    )
    assert y.shape == (2, 4 * 4 * 2, 7)


def test_a_step_scales_the_gradient_of_the_loss() -> None:
    network, x, labels = networks.mlp((3, 2)), RNG.standard_normal((4, 3)).astype(F32), np.array([0, 1, 1, 0])
    p = network.initialise(0)
    loss, gradients = network.step(p, x, labels, Numerics("fp32"), 8.0)
    y = x.astype(np.float64) @ p["head.weight"]
    share = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(share[np.arange(4), labels]).mean(), rel=1e-6)
    share[np.arange(4), labels] -= 1
    assert_allclose(gradients["head.bias"], 8 * share.sum(axis=0) / 4, rtol=1e-5)
    assert_allclose(gradients["head.weight"], 8 * x.T @ share / 4, rtol=1e-5)
    assert_allclose(network.step(p, x, labels, Numerics("fp32"))[1]["head.bias"] * 8, gradients["head.bias"])
    for scale in (1e38, inf):  # no warnings: an overflow is the trainer's business
        network.step(p, x * F32(1e30), labels, Numerics("fp16"), scale)


# ---- losses ---------------------------------------------------------------------------------------------------------
def test_cross_entropy_over_any_axes() -> None:
    logits, labels = RNG.standard_normal((2, 3, 4)), RNG.integers(0, 4, (2, 3))
    value, gradient = cross_entropy(logits, labels)
    expected = 0.0
    for place in np.ndindex(2, 3):
        row, label = logits[place].tolist(), labels[place]
        total = sum(exp(one) for one in row)
        expected += (log(total) - row[label]) / 6
        assert_allclose(
            gradient[place], [(exp(one) / total - (k == label)) / 6 for k, one in enumerate(row)], rtol=1e-12
        )
    assert value == pytest.approx(expected, rel=1e-14)
    assert cross_entropy(logits.astype(F32), labels).gradient.dtype == F32


def test_detection_by_its_words() -> None:
    """Cross-entropy of all anchors and smooth L1 of positive ones, both over the number of all; errors within, at and beyond 1."""
    outputs, labels, boxes = (
        RNG.standard_normal((2, 3, 7)),
        np.array([[0, 2, 1], [0, 0, 1]]),
        RNG.standard_normal((2, 3, 4)),
    )
    outputs[0, 1, 3:] = boxes[0, 1] + [0.5, -1.0, 3.0, -2.5]
    value, gradient = detection(outputs, (labels, boxes))
    confidence = cross_entropy(outputs[..., :3], labels)
    expected, slopes = confidence.value, np.zeros((2, 3, 4))
    for place in np.ndindex(2, 3, 4):
        if labels[place[:2]] > 0:
            error = float(outputs[place[0], place[1], 3 + place[2]] - boxes[place])
            expected += (0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5) / 6
            slopes[place] = max(-1.0, min(1.0, error)) / 6
    assert value == pytest.approx(expected, rel=1e-14)
    assert_allclose(gradient, np.concatenate([confidence.gradient, slopes], axis=-1), rtol=1e-13)
    single = detection(outputs.astype(F32), (labels, boxes.astype(F32)))
    assert single.gradient.dtype == F32 and single.value == pytest.approx(value, rel=1e-6)


# ---- data -----------------------------------------------------------------------------------------------------------
def test_text() -> None:
    prose = "\n".join(topics[name] for name in sorted(topics))
    alphabet = "\n" + "".join(chr(code) for code in range(32, 127))
    kept = [character for character in prose if character in set(alphabet)]
    found = text.load()
    assert found.alphabet == alphabet == text.ALPHABET and len(alphabet) == 96
    numbers = np.concatenate([found.train, found.test])
    assert "".join(alphabet[number] for number in numbers) == "".join(kept)
    assert len(found.test) == round(len(kept) * 0.1) and numbers.dtype == np.int64
    assert len(text.load(0.25).test) == round(len(kept) * 0.25)
    for share in (0.0, 1.0, -0.1, 1.5):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            text.load(share)


def test_windows_of_text() -> None:
    """Every window that fits, each as often as another (6 sigma of a binomial; 8 of them: a false alarm in 60 million)."""
    tokens, count = np.arange(100, 112), 4000
    seen: Counter[int] = Counter()
    for x, y in islice(text.batches(tokens, 4, 4, seed=2), count // 4):
        assert x.shape == y.shape == (4, 4)
        assert_array_equal(x, x[:, :1] + np.arange(4))
        assert_array_equal(y, x + 1)
        seen.update(x[:, 0].tolist())
    assert set(seen) == set(range(100, 108))
    assert all(abs(one - count / 8) < 6 * sqrt(count * 7 / 64) for one in seen.values())
    first, second, other = (next(text.batches(tokens, 4, 4, seed))[0] for seed in (2, 2, 3))
    assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_anchors() -> None:
    found = scenes.anchors()
    assert found.shape == (16 * 16 * 4, 4) and found.dtype == F32
    expected = [(2 * i + 1, 2 * j + 1, side, side) for i in range(16) for j in range(16) for side in (4, 8, 12, 16)]
    assert found.tolist() == [list(map(float, one)) for one in expected]


def test_overlaps_and_offsets_by_hand() -> None:
    boxes = F32([[2, 2, 4, 4], [4, 2, 4, 4], [2, 3, 4, 4], [9, 9, 2, 2], [2, 2, 2, 2], [2, 6, 4, 4]])
    assert_allclose(scenes.overlap(boxes, F32([2, 2, 4, 4])), [1, 8 / 24, 12 / 20, 0, 4 / 16, 0])
    assert_allclose(scenes.overlap(boxes[:1], F32([3, 4, 4, 8])), [4 * 3 / (16 + 32 - 12)])
    assert_allclose(
        scenes.offsets(boxes[:2], F32([3, 5, 8, 2])), [[0.25, 0.75, log(2), log(0.5)], [-0.25, 0.75, log(2), log(0.5)]]
    )


def test_scenes() -> None:
    """Digits at places drawn uniformly, the brighter pixel on top; anchors that overlap a digit by half or more are its."""
    images, labels = RNG.integers(0, 17, (9, 64)).astype(F32), RNG.integers(0, 10, 9)
    stream = scenes.batches(images, labels, 3, 4, seed=5)
    rng, grid = np.random.default_rng(5), scenes.anchors()
    for canvas, (classes, boxes) in islice(stream, 2):
        for scene in range(3):
            expected, kinds, where = np.zeros((32, 32)), np.zeros(1024, int), np.zeros((1024, 4))
            for which in rng.integers(0, 9, 4):
                y, x = rng.integers(0, 25, 2)
                for r, c in np.ndindex(8, 8):
                    expected[y + r, x + c] = max(expected[y + r, x + c], images[which, 8 * r + c] / 16)
                for place, (my, mx, side, _) in enumerate(grid.tolist()):
                    heights = min(y + 8, my + side / 2) - max(y, my - side / 2)
                    widths = min(x + 8, mx + side / 2) - max(x, mx - side / 2)
                    both = max(heights, 0) * max(widths, 0)
                    if both / (64 + side * side - both) >= 0.5:
                        kinds[place] = 1 + labels[which]
                        where[place] = (y + 4 - my) / side, (x + 4 - mx) / side, log(8 / side), log(8 / side)
            assert_array_equal(canvas[scene, :, :, 0], expected.astype(F32))
            assert_array_equal(classes[scene], kinds)
            assert_allclose(boxes[scene], where, rtol=1e-6)
        assert canvas.dtype == boxes.dtype == F32 and classes.dtype == np.int64 and (classes > 0).any()


def test_digits() -> None:
    """A split by a permutation of the seed; standardised by the training part."""
    images, labels = load_digits(return_X_y=True)
    for seed, share in ((0, 0.2), (3, 0.4)):
        found, order = digits.load(seed, share), np.random.default_rng(seed).permutation(1797)
        test = round(1797 * share)
        assert_array_equal(np.concatenate([found.train_labels, found.test_labels]), labels[order])
        assert len(found.test_labels) == len(found.test_images) == test and digits.CLASSES == 10
        part = images[order[:-test]]
        deviation = part.std(axis=0)
        expected = (images[order] - part.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
        assert_allclose(np.concatenate([found.train_images, found.test_images]), expected, atol=2e-5, rtol=2e-5)
        assert found.train_images.dtype == found.test_images.dtype == F32 and found.train_labels.dtype == np.int64
    assert_array_equal(digits.load(0).test_labels, digits.load(0, 0.2).test_labels)


def test_batches_of_digits() -> None:
    rng = np.random.default_rng(4)
    stream = digits.batches(7, 3, 4)
    for _ in range(3):
        order = rng.permutation(7)
        assert_array_equal(next(stream), order[:3])
        assert_array_equal(next(stream), order[3:6])
    assert sorted(next(digits.batches(5, 5, 0))) == [0, 1, 2, 3, 4] and next(digits.batches(5, 1, 0)).shape == (1,)


# ---- tasks ----------------------------------------------------------------------------------------------------------
def shapes(task: small_tasks.Task) -> dict[str, tuple[int, ...]]:
    return {name: w.shape for name, w in task.network.initialise(0).items()}


def test_tasks_are_what_they_say() -> None:
    sgd = Rule(rate=0.02)
    for task, rows, shape, plan in (
        (small_tasks.digits_mlp(9), linear("fc1", 64, 64) + linear("fc2", 64, 64) + linear("head", 64, 10), (64, 64), (sgd, 9, 5, 0.5)),
        (small_tasks.digits_mlp(9, (64, 8, 10), 16), linear("fc1", 64, 8) + linear("head", 8, 10), (16, 64), (sgd, 9, 5, 0.5)),
        (small_tasks.digits_convnet(7), linear("conv1", 9, 8) + linear("conv2", 72, 16) + linear("head", 256, 10), (32, 8, 8, 1), (sgd, 7, 5, 0.5)),
        (small_tasks.small_gpt(6), gpt(96, 32, 32, 2), (4, 32), (Rule("adam", rate=1e-2), 6, 10, 0.5)),
        (small_tasks.small_gpt(6, 8, 1, 16, 3, 4, 0.5), gpt(96, 16, 8, 1), (3, 16), (Rule("adam", rate=0.5), 6, 10, 0.5)),
        (small_tasks.small_detector(5), NETWORKS["detector"][1], (8, 32, 32, 1), (Rule(rate=0.5), 5, 10, 0.5)),
        (small_tasks.small_detector(5, 2, rate=0.1), NETWORKS["detector"][1], (2, 32, 32, 1), (Rule(rate=0.1), 5, 10, 0.5)),
    ):  # fmt: skip
        assert shapes(task) == {name: size for name, size, _ in rows}
        x, targets = next(task.batches(3))
        assert x.shape == shape
        again, other = next(task.batches(3))[0], next(task.batches(4))[0]
        assert_array_equal(x, again)
        assert not np.array_equal(x, other)
        assert (task.plan.rule, task.plan.steps, task.plan.warmup, task.plan.decay) == plan
        y, _ = task.network.forward(task.network.initialise(0), x, Numerics("fp32-blas"))
        assert np.isfinite(task.network.loss(y, targets).value)
    assert small_tasks.small_gpt(6).network.body.layers[1].inner.layers[1].heads == 2  # type: ignore[attr-defined]


def test_examples_held_out_are_not_trained_on() -> None:
    split = digits.load(0)
    for task, shape in ((small_tasks.digits_mlp(2), (64,)), (small_tasks.digits_convnet(2), (8, 8, 1))):
        assert_array_equal(task.held_out[0], split.test_images.reshape(-1, *shape))
        assert_array_equal(task.held_out[1], split.test_labels)
        x, labels = next(task.batches(1))
        rows = next(digits.batches(len(split.train_labels), len(x), 1))
        assert_array_equal(x.reshape(len(x), 64), split.train_images[rows])
        assert_array_equal(labels, split.train_labels[rows])
    prose, gpt = text.load(), small_tasks.small_gpt(2)
    windows = list(islice(text.batches(prose.test, 64, 32, 0), 2))
    assert_array_equal(gpt.held_out[0], np.concatenate([windows[0][0], windows[1][0]]))
    assert_array_equal(gpt.held_out[1], np.concatenate([windows[0][1], windows[1][1]]))
    assert_array_equal(next(gpt.batches(1))[0], next(text.batches(prose.train, 4, 32, 1))[0])
    images, labels = load_digits(return_X_y=True)
    images, first = images.astype(F32), 1797 * 4 // 5
    detector = small_tasks.small_detector(2)
    expected = next(scenes.batches(images[first:], labels[first:], 32, 3, 0))
    assert_array_equal(detector.held_out[0], expected[0])
    assert_array_equal(detector.held_out[1][0], expected[1][0])
    assert_array_equal(next(detector.batches(1))[0], next(scenes.batches(images[:first], labels[:first], 8, 3, 1))[0])


def test_runs_of_tasks() -> None:
    task = small_tasks.digits_mlp(3, (64, 8, 10), 16)
    history = task.run("fp16", 7, capture=(1,), keep=("fc1",))
    again = task.run(RECIPES["fp16"], 7)
    assert_array_equal(history.steps.loss, again.steps.loss)
    assert set(history.layers.step) == {1} and "1/weight/fc1" in history.tensors and again.layers.empty
    assert not np.array_equal(history.steps.loss, task.run("fp16", 8).steps.loss)
    x, labels = task.held_out
    y, _ = task.network.forward(history.parameters, x, Numerics("fp32"))
    assert task.loss(history) == pytest.approx(cross_entropy(y, labels).value, rel=1e-5)


def test_a_run_that_ended_early_has_no_loss() -> None:
    task = small_tasks.digits_mlp(1, (64, 10), 16)
    weights: Any = task.network.initialise(0)
    recipe = RECIPES["fp32"]
    assert np.isfinite(task.loss(History(recipe, parameters=weights)))
    assert task.loss(History(recipe, parameters=weights, diverged=0)) == inf
    assert task.loss(History(recipe, parameters=weights, stopped="at the floor")) == inf
    huge = {name: np.full_like(w, 3e38) for name, w in weights.items()}
    assert task.loss(History(recipe, parameters=huge)) == inf
