"""Is what a recording says of a step right at every scale, and does a replay count no overflow of the recorder twice?"""

from __future__ import annotations

from math import inf, log2, nan
from typing import Any

import numpy as np
import pytest

from fpemu.scaling import LOSS_POLICIES, Recording, loss_scaler, simulate, tournament

FADING = np.random.default_rng(3).normal(-4, 4, 400)  # log2(amax)


def recorded(policy: str, logs: np.ndarray, **settings: Any) -> Recording:
    """What a run of these gradients logs: infinity, and the scale, where its own scaler overflowed."""
    seen = simulate(loss_scaler(policy, **settings), logs)
    return Recording(np.where(seen.overflow, inf, logs), seen.scale)


@pytest.mark.parametrize("format", ["fp16", "bf16", "e5m2", "e4m3"])
def test_what_is_said_of_a_step_is_true_at_every_scale(format: str) -> None:
    """Beside the gradients themselves: a step said to overflow does, one said not to does not, and no others are left open."""
    seen = recorded("torch", FADING, interval=20)
    for exponent in range(-4, 40, 3):
        static = loss_scaler("static", init=2.0**exponent)
        truth = simulate(static, FADING, format)
        told = simulate(static, seen, format)
        open_steps = told.undetermined
        np.testing.assert_array_equal(told.overflow[~open_steps], truth.overflow[~open_steps])
        assert not open_steps[~seen.overflow].any() and told.applied[open_steps].all()
        below = static.scale < seen.bounds(format)[1]
        np.testing.assert_array_equal(open_steps, seen.overflow & below)
        worse = simulate(static, seen, format, undetermined="overflow")
        np.testing.assert_array_equal(worse.undetermined, open_steps)
        np.testing.assert_array_equal(worse.overflow, seen.overflow & open_steps | told.overflow)


def test_the_end_of_each_format() -> None:
    """At S an overflow, below it open: in FP16 to the last bit; in another format where 65520 / S reaches its end."""
    odd = 2.0**16 * 0.7
    seen = Recording([inf], scale=[odd])
    assert seen.bounds()[1].tolist() == [odd]
    for scale, said in (
        (odd, (True, False)),
        (np.nextafter(odd, 0), (False, True)),
        (np.nextafter(odd, inf), (True, False)),
    ):
        replay = simulate(loss_scaler("static", init=scale), seen)
        assert (replay.overflow[0], replay.undetermined[0]) == said
    assert seen.bounds("e5m2")[1][0] == pytest.approx(odd * 61440 / 65520, rel=1e-14)


@pytest.mark.parametrize("policy", [name for name, row in LOSS_POLICIES.items() if not row.log_max])
def test_under_its_own_scaler_a_recording_is_what_it_was(policy: str) -> None:
    logs = FADING[:200] - log2(loss_scaler(policy).scale) + 20
    was = simulate(policy, logs)
    again = simulate(policy, recorded(policy, logs))
    np.testing.assert_array_equal(again.overflow, was.overflow)
    np.testing.assert_array_equal(again.scale, was.scale)
    assert was.overflow.any() and not again.undetermined.any() and again.stopped == was.stopped


def test_a_first_scale_of_2_to_the_32_is_not_torchs() -> None:
    """Sixteen overflows of DeepSpeed's from 2^31 down to 2^16: one of them would be torch's, fifteen are not determined."""
    seen = recorded("deepspeed", np.full(40, log2(65520) - 15.5), init=2.0**31)
    assert seen.overflow.sum() == 16
    row, other = simulate("torch", seen).summary(), simulate("torch", seen, undetermined="overflow").summary()
    assert (row["skips"], row["undetermined"]) == (1, 15)
    assert (other["skips"], other["undetermined"]) == (16, 16)  # at 2^1 the last one, too, is at a smaller scale
    assert (
        simulate("torch", seen.log2_amax).summary()["skips"] == 16
    )  # numbers without a scale: infinite at every scale
    assert tournament(["torch"], seen) == [row]


def test_without_a_scale_nothing_is_certain() -> None:
    seen = Recording([inf, -8.0, nan], overflow=None)
    found = simulate(loss_scaler("torch", init=2.0**120), seen)
    assert found.undetermined.tolist() == [True, False, True] and found.overflow.tolist() == [False, True, False]
    assert simulate(loss_scaler("torch", init=inf), seen).overflow.tolist() == [True] * 3  # nothing is finite there


def test_an_amax_of_another_tensor() -> None:
    """A flag beside a finite amax: an overflow from S on, and where this amax overflows, too."""
    seen = Recording([0.0], scale=[2.0**20], overflow=[True])
    said = {}
    for exponent in (14, 15, 16, 20):
        found = simulate(loss_scaler("static", init=2.0**exponent), seen)
        said[exponent] = (bool(found.overflow[0]), bool(found.undetermined[0]))
    assert said == {14: (False, True), 15: (False, True), 16: (True, False), 20: (True, False)}


def test_steps_whose_amax_was_not_recorded() -> None:
    """No overflow at S: none up to S, and above it nothing is known; a recorded step without one beats an amax that says it."""
    seen = Recording([nan, 1.0], scale=[2.0**10, 2.0**16], overflow=[0, 0])
    for scale, over, unsure in (
        (2.0**10, [0, 0], [0, 0]),
        (2.0**11, [0, 0], [1, 0]),
        (2.0**16, [0, 0], [1, 0]),
        (2.0**17, [0, 1], [1, 0]),
    ):
        found = simulate(loss_scaler("static", init=scale), seen)
        assert found.overflow.tolist() == over and found.undetermined.tolist() == unsure, scale
        assert np.isnan(found.headroom[0])


def test_log_max_learns_nothing_from_what_is_not_known() -> None:
    logs = [-3.0, -4.0, -5.0]
    alone = simulate("logmax", logs)
    beside = simulate(
        "logmax", Recording([-3.0, inf, -4.0, nan, -5.0], overflow=[0, 1, 0, 0, 0], scale=[1, 2.0**40, 1, 1, 1])
    )
    assert beside.undetermined.tolist() == [False, True, False, True, False] and beside.applied.all()
    assert beside.scale[[0, 2, 4]].tolist() == alone.scale.tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"log2_amax": [inf], "overflow": [0]}, ValueError, "step 0: log2_amax is inf, but no overflow"),
        ({"log2_amax": [1, 2], "overflow": [0, 3]}, ValueError, "step 1: overflow is 3, which is neither 0 nor 1"),
        ({"log2_amax": [1, 2], "overflow": [0, nan]}, ValueError, "step 1: overflow is nan, which is neither"),
        ({"log2_amax": [1, 2], "scale": [1, 0]}, ValueError, "step 1: scale is 0, which is not positive and finite"),
        ({"log2_amax": [1, 2], "scale": [1, inf]}, ValueError, "step 1: scale is inf, which is not positive"),
        ({"log2_amax": [1, 2], "scale": [1]}, ValueError, "log2_amax has 2 steps, scale has 1"),
        ({"log2_amax": [[1]]}, ValueError, "log2_amax has one value a step, one dimension, not 2"),
        ({"log2_amax": ["a"]}, TypeError, "log2_amax is numbers, not <U1"),
        ({"log2_amax": np.ma.array([1.0])}, TypeError, "masked"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Recording(**arguments)


def test_units_are_named() -> None:
    assert Recording.of_magnitudes([0.25, 0, inf]).log2_amax.tolist() == [-2.0, -inf, inf]
    with pytest.raises(ValueError, match=r"step 1: amax is -0\.5, and a magnitude is never negative"):
        Recording.of_magnitudes([1, -0.5])
    with pytest.raises(ValueError, match=r"\"applied\" or \"overflow\", not 'skip'"):
        simulate("torch", [0.0], undetermined="skip")  # type: ignore[arg-type]
    for number in (65504.0, -1075.0):
        with pytest.raises(
            ValueError,
            match=f"step 1: log2_amax is {number:g}, which is log2 of no float64: -1074 to 1024; of_magnitudes",
        ):
            Recording([0.0, number])
        with pytest.raises(
            ValueError, match=f"step 1: {number:g} is log2 of no float64; Recording.of_magnitudes takes amax itself"
        ):
            simulate("torch", [0.0, number])
    given = np.array([1.0, 2.0])
    kept = Recording(given)
    given[:] = inf
    assert kept.log2_amax.tolist() == [1.0, 2.0] and not kept.log2_amax.flags.writeable
