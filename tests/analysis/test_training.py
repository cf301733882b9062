"""Is the training real, and is an emulated backward pass the float32 one with rounding and nothing else?"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fpemu as fp
from analysis.training import capture, digits, mlp
from analysis.training.agreement import agree
from analysis.training.emulated import Emulation

SMALL = capture.Recipe(widths=(64, 16, 12, 10), batch=32, rate=0.05)


@pytest.fixture(scope="module")
def data() -> digits.Digits:
    return digits.load(seed=0)


@pytest.fixture(scope="module")
def snapshot(data: digits.Digits) -> capture.Snapshot:
    return capture.train(data, seed=0, keep=[20], recipe=SMALL).snapshots[0]


# ---- data -----------------------------------------------------------------------------------------------------------
def test_the_split_keeps_every_image_once(data: digits.Digits) -> None:
    assert data.train_images.shape == (1438, 64)
    assert data.test_images.shape == (359, 64)
    assert data.train_images.dtype == np.float32
    both = np.concatenate([data.train_labels, data.test_labels])
    assert_array_equal(
        np.bincount(both), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )  # the UCI test set's counts


def test_pixels_are_standardised_by_the_training_part(data: digits.Digits) -> None:
    deviation = data.train_images.std(axis=0)
    assert_allclose(data.train_images.mean(axis=0), 0, atol=1e-5)
    assert_allclose(deviation[deviation > 0], 1, rtol=1e-4)
    assert 0 < np.count_nonzero(deviation == 0) < 8  # a few border pixels never change
    assert abs(data.test_images.mean(axis=0)).max() > 1e-3  # the test part has other moments: nothing leaked


def test_a_seed_fixes_the_split() -> None:
    assert_array_equal(digits.load(3).train_labels, digits.load(3).train_labels)
    assert np.any(digits.load(3).train_labels != digits.load(4).train_labels)


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5])
def test_an_empty_part_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        digits.load(0, test_share=share)


def test_an_epoch_shows_no_image_twice() -> None:
    stream = digits.batches(count=10, size=3, seed=0)
    epochs = [np.concatenate([next(stream) for _ in range(3)]) for _ in range(2)]
    assert all(len(np.unique(epoch)) == 9 for epoch in epochs)
    assert np.any(epochs[0] != epochs[1])


@pytest.mark.parametrize("size", [0, 11])
def test_an_impossible_batch_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"in 1\.\.10"):
        next(digits.batches(count=10, size=size, seed=0))


# ---- network --------------------------------------------------------------------------------------------------------
def test_every_gradient_agrees_with_central_differences() -> None:
    rng = np.random.default_rng(5)
    parameters = mlp.initialise((5, 7, 6, 4), seed=1, dtype=np.float64)
    for bias in parameters.biases:
        bias += rng.normal(0, 0.1, bias.shape)
    images, labels = rng.standard_normal((9, 5)), rng.integers(0, 4, 9)
    trace = mlp.forward(parameters, images)
    gradients = mlp.backward(parameters, trace, mlp.logit_gradient(trace.logits, labels))

    def numerical(array: np.ndarray, at: tuple[int, ...], step: float = 1e-6) -> float:
        """The slope of the loss by one entry, changed in place and restored."""
        kept, losses = array[at], []
        for sign in (1, -1):
            array[at] = kept + sign * step
            losses.append(mlp.loss(mlp.forward(parameters, images).logits, labels))
        array[at] = kept
        return (losses[0] - losses[1]) / (2 * step)

    pairs = [
        *zip(parameters.weights, gradients.weights, strict=True),
        *zip(parameters.biases, gradients.biases, strict=True),
        (images, gradients.images),
    ]
    for array, gradient in pairs:
        expected = [numerical(array, at) for at in np.ndindex(array.shape)]
        assert_allclose(gradient.ravel(), expected, rtol=1e-5, atol=1e-9)


def test_activation_gradients_sum_to_the_bias_gradients(snapshot: capture.Snapshot) -> None:
    for dz, bias in zip(snapshot.gradients.activations, snapshot.gradients.biases, strict=True):
        assert_allclose(dz.astype(np.float64).sum(axis=0), bias, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_over_the_batch() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 10))
    labels = np.arange(6)
    twice = np.concatenate([logits, logits]), np.concatenate([labels, labels])
    assert mlp.loss(*twice) == pytest.approx(mlp.loss(logits, labels))
    assert_allclose(mlp.logit_gradient(*twice)[:6], mlp.logit_gradient(logits, labels) / 2)
    assert_allclose(mlp.logit_gradient(logits, labels).sum(axis=1), 0, atol=1e-15)


def test_huge_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    assert mlp.loss(logits, np.array([1])) == pytest.approx(2e4)
    assert np.isfinite(mlp.logit_gradient(logits, np.array([1]))).all()


def test_a_closed_gate_drops_an_infinity() -> None:
    parameters = mlp.Parameters([np.array([[1.0, -1.0]]), np.ones((2, 1))], [np.zeros(2), np.zeros(1)])
    trace = mlp.forward(parameters, np.array([[2.0]]))
    assert_array_equal(trace.gates[0], [[True, False]])
    with np.errstate(invalid="ignore"):  # the weight gradient of the closed unit is 0 x infinity
        gradients = mlp.backward(parameters, trace, np.array([[np.inf]]))
    assert_array_equal(gradients.activations[0], [[np.inf, 0.0]])


@pytest.mark.parametrize("widths", [(4,), (4, 0, 2)])
def test_a_network_without_layers_is_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two positive"):
        mlp.initialise(widths, seed=0)


# ---- training -------------------------------------------------------------------------------------------------------
def test_training_learns_the_digits(data: digits.Digits) -> None:
    progress = capture.train(data, seed=0, keep=[], watch=[0, 150]).progress
    (_, first_loss, first_accuracy), (_, last_loss, last_accuracy) = progress
    assert first_accuracy < 0.3
    assert last_accuracy > 0.9
    assert last_loss < 0.1 * first_loss


def test_training_repeats_bit_for_bit(data: digits.Digits) -> None:
    runs = [capture.train(data, seed=7, keep=[5], recipe=SMALL).snapshots[0] for _ in range(2)]
    for (_, _, a), (_, _, b) in zip(*(capture.tensors(run.gradients) for run in runs), strict=True):
        assert_array_equal(a, b)


def test_a_snapshot_is_not_touched_by_later_steps(data: digits.Digits) -> None:
    early = capture.train(data, seed=0, keep=[3, 30], recipe=SMALL).snapshots[0]
    again = mlp.backward(early.parameters, early.trace, early.logit_gradient)
    for (_, _, kept), (_, _, recomputed) in zip(capture.tensors(early.gradients), capture.tensors(again), strict=True):
        assert_array_equal(kept, recomputed)


def test_tensors_are_named_from_the_images_to_the_loss(snapshot: capture.Snapshot) -> None:
    named = list(capture.tensors(snapshot.gradients))
    assert [(kind, layer) for kind, layer, _ in named] == [
        (kind, layer) for kind in (capture.ACTIVATION, capture.WEIGHT) for layer in (1, 2, 3)
    ]
    assert_array_equal(named[2][2], snapshot.logit_gradient)
    assert named[3][2].shape == (64, 16)


def test_divergence_is_an_error_not_a_result(data: digits.Digits) -> None:
    wild = capture.Recipe(widths=(64, 16, 10), rate=1e30)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="diverged at step"):
        capture.train(data, seed=0, keep=[50], recipe=wild)


@pytest.mark.parametrize("keep", [[], [-1]])
def test_steps_are_checked(data: digits.Digits, keep: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        capture.train(data, seed=0, keep=keep)


# ---- the emulated pass ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("log2_scale", [0, -9, 13])
def test_a_pass_in_float32_is_the_float32_pass(snapshot: capture.Snapshot, log2_scale: int) -> None:
    emulated = Emulation(snapshot.parameters, snapshot.trace, "float32").backward(snapshot.logit_gradient, log2_scale)
    for (_, _, expected), (_, _, got) in zip(
        capture.tensors(snapshot.gradients), capture.tensors(emulated), strict=True
    ):
        assert_array_equal(got, expected)
    assert_array_equal(emulated.images, snapshot.gradients.images)
    for bias, expected in zip(emulated.biases, snapshot.gradients.biases, strict=True):
        assert_array_equal(bias, expected)


def test_a_pass_in_float16_rounds_where_it_says(snapshot: capture.Snapshot) -> None:
    """The same pass spelt out with NumPy's float16, for the last two layers."""
    scale = np.float32(2.0**5)

    def half(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float16).astype(np.float32)

    dz = half(snapshot.logit_gradient * scale)
    inputs = [half(a) for a in snapshot.trace.inputs]
    weights = [half(w) for w in snapshot.parameters.weights]
    last = half(inputs[2].T @ dz)
    dz_before = np.where(snapshot.trace.inputs[2] > 0, half(dz @ weights[2].T), np.float32(0))
    before = half(inputs[1].T @ dz_before)

    got = Emulation(snapshot.parameters, snapshot.trace, "float16").backward(snapshot.logit_gradient, 5)
    assert_array_equal(got.activations[2], dz / scale)
    assert_array_equal(got.weights[2], last / scale)
    assert_array_equal(got.activations[1], dz_before / scale)
    assert_array_equal(got.weights[1], before / scale)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_every_gradient_of_a_pass_is_a_value_of_the_format(snapshot: capture.Snapshot, name: str) -> None:
    got = Emulation(snapshot.parameters, snapshot.trace, name).backward(snapshot.logit_gradient, 4)
    for _, _, gradient in capture.tensors(got):
        scaled = gradient * np.float32(2.0**4)
        assert_array_equal(fp.quantize(scaled, name), scaled)
        assert np.count_nonzero(scaled) > 0


def test_an_overflow_stays_visible(snapshot: capture.Snapshot) -> None:
    got = Emulation(snapshot.parameters, snapshot.trace, "float16").backward(snapshot.logit_gradient, 40)
    results = [
        agree(g, e)
        for (_, _, g), (_, _, e) in zip(capture.tensors(snapshot.gradients), capture.tensors(got), strict=True)
    ]
    assert all(result.overflowed for result in results)
    assert all(np.isnan(result.cosine) and result.sqnr_db == -np.inf for result in results)


def test_a_cast_with_policies_is_followed(snapshot: capture.Snapshot) -> None:
    saturating = fp.Cast("float16", overflow="saturate")
    got = Emulation(snapshot.parameters, snapshot.trace, saturating).backward(snapshot.logit_gradient, 40)
    assert all(np.isfinite(g).all() for _, _, g in capture.tensors(got))
    assert abs(got.activations[-1]).max() * 2.0**40 == fp.FORMATS["float16"].max


# ---- agreement ------------------------------------------------------------------------------------------------------
def test_agreement_counts_and_sums_by_hand() -> None:
    g = np.array([3.0, 4.0, 0.0, 1.0, -2.0], np.float32)
    e = np.array([3.0, 2.0, 0.0, 0.0, -0.0], np.float32)
    result = agree(g, e)
    assert (result.size, result.nonzero, result.new_zero, result.nonfinite) == (5, 4, 2, 0)
    assert result.new_zero_of_nonzero == 2 / 4  # of the non-zeros, and -0 is a zero
    assert result.energy_lost == pytest.approx(5 / 30)
    assert result.sqnr_db == pytest.approx(10 * np.log10(30 / 9))
    assert result.cosine == pytest.approx(17 / np.sqrt(30 * 13))
    assert result.gain == pytest.approx(17 / 30)


def test_pooling_is_the_agreement_of_the_joined_tensors() -> None:
    rng = np.random.default_rng(0)
    parts = [(g, g + rng.normal(0, 0.1, n).astype(np.float32)) for n in (5, 8) for g in [rng.random(n, np.float32)]]
    for (_, e), zeros in zip(parts, (2, 3), strict=True):
        e[:zeros] = 0
    joined = agree(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    pooled = agree(*parts[0]) + agree(*parts[1])
    assert pooled.cosine == pytest.approx(joined.cosine, abs=1e-14)
    assert pooled.sqnr_db == pytest.approx(joined.sqnr_db)
    assert (pooled.size, pooled.nonzero, pooled.new_zero) == (13, joined.nonzero, 5)
    assert (pooled.energy, pooled.energy_zeroed) == pytest.approx((joined.energy, joined.energy_zeroed))


def test_one_overflow_spoils_the_pool() -> None:
    one = np.ones(3, np.float32)
    pooled = agree(one, one) + agree(one, np.array([1, np.inf, 1], np.float32))
    assert pooled.overflowed
    assert np.isnan([pooled.cosine, pooled.gain, pooled.energy_lost]).all() and pooled.sqnr_db == -np.inf
    assert pooled.new_zero_of_nonzero == 0


def test_nothing_over_nothing_is_nan() -> None:
    zero = np.zeros(4, np.float32)
    result = agree(zero, zero)
    assert np.isnan([result.new_zero_of_nonzero, result.energy_lost, result.sqnr_db, result.cosine, result.gain]).all()
    one = np.ones(4, np.float32)
    assert agree(one, one).sqnr_db == np.inf
    assert np.isnan(agree(one, zero).cosine)
    assert agree(one, zero).energy_lost == 1


def test_agreement_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        agree(np.ones(3), np.ones((3, 1)))
    with pytest.raises(ValueError, match="reference gradient holds"):
        agree(np.array([1.0, np.nan]), np.ones(2))
