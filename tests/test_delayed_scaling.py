"""Does delayed scaling do what Transformer Engine's bulk update does, whatever its passes saw?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fpemu as fp
from fpemu.scaling import DelayedScaling

F32 = np.float32
BIGGEST = np.finfo(F32).max
TRACES = 10_000
SEEN = [0.0, 1.0, 30.0, 1e-3, 448.0, np.inf, np.nan, 1e-42, 1e-45, float(BIGGEST)]


def bulk_update(history: list[Any], scale: Any, algorithm: str, scaled_max: Any) -> tuple[list[Any], Any]:
    """kernel_bulk of recipe/delayed_scaling.cu, of one tensor: the new history and scale."""
    last, amax = history[0], F32(0)
    if last != 0:
        rolled = []
        for i in range(len(history)):
            a = history[i + 1] if i < len(history) - 1 else last
            amax = np.fmax(amax, a)
            rolled.append(a if i > 0 else F32(0))
        history = rolled
    if algorithm == "most-recent":
        amax = last
    if np.isfinite(amax) and amax > 0:
        scale = scaled_max / amax
    return history, BIGGEST if np.isinf(scale) else scale


def test_ten_thousand_traces() -> None:
    """Every algorithm; histories of 1 to 5 slots; margins as far as they go; zeros, infinities and NaNs, and several tensors a pass.

    (A tenth of the traces quantises tensors; the others write down largest magnitudes, which is faster.)
    """
    rng = np.random.default_rng(5)
    kept = frozen = clamped = 0
    for trace in range(TRACES):
        name, algorithm = rng.choice(["e4m3", "e5m2"]), rng.choice(["max", "most-recent"])
        margin = int(rng.choice([0, 0, 1, 2, 8, -3, *rng.integers(-100, 130, 1)]))
        history, scale = [F32(0)] * int(rng.integers(1, 6)), F32(1)
        state = DelayedScaling(name, history=len(history), algorithm=algorithm, margin=margin)
        with np.errstate(all="ignore"):
            scaled_max = F32(fp.FORMATS[name].max) * F32(2.0) ** F32(-margin)
            for _ in range(7):
                for _ in range(1 + (rng.random() < 0.2)):
                    amax = F32(rng.choice(SEEN) if rng.random() < 0.6 else 2.0 ** rng.uniform(-149, 128))
                    history[0] = np.fmax(history[0], amax)
                    if trace % 10:
                        state.history[0] = history[0]
                    else:
                        assert state.quantize(F32([amax / 2, -amax])).encode_scales == scale
                before, (history, scale) = scale, bulk_update(history, scale, algorithm, scaled_max)
                state.update()
                assert state.scale == scale and np.array_equal(state.history, history)
                kept, frozen = kept + (history[0] == 0 and scale == before), frozen + bool(np.isinf(history).any())
                clamped += scale == BIGGEST
    assert min(kept, frozen, clamped) > TRACES / 10


def test_elements_are_scaled_by_the_past() -> None:
    state = DelayedScaling("e4m3", history=2)
    for x in (F32([3.0, -7.0]), F32([0.0, 0.0]), F32([1e-3, 2e-3]), F32([np.nan, 100.0])):
        with np.errstate(over="ignore"):
            assert np.array_equal(state.quantize(x).codes, fp.encode(x * state.scale, "e4m3", overflow="saturate"))
        state.update()


def test_a_pass_of_zeros_changes_nothing() -> None:
    """100, 1, 1, 0 in three slots: 100 has left the history but is in the scale still, where a kernel that always rolls drops it."""
    for roll_zeros, scale, history in ((False, 4.48, [0, 1, 1]), (True, 448.0, [0, 1, 0])):
        state = DelayedScaling("e4m3", history=3, roll_zeros=roll_zeros)
        for value in (100.0, 1.0, 1.0, 0.0):
            state.quantize(F32([value, 0.0]))
            state.update()
        assert state.scale == F32(scale) and state.history.tolist() == history


def test_a_nan_is_left_out_and_an_infinity_keeps_the_scale() -> None:
    state = DelayedScaling("e4m3", history=3)
    scales = []
    for values in ([np.nan, 7.0], [np.nan, np.nan], [np.inf, 1.0], [14.0], [14.0], [28.0]):
        state.quantize(F32(values))
        state.update()
        scales.append(float(state.scale))
    assert scales == [
        64.0,
        64.0,
        64.0,
        64.0,
        64.0,
        16.0,
    ]  # infinity fills its three passes; NaNs alone are a pass of zeros


def test_a_spike_stays_for_as_many_passes_as_there_are_slots() -> None:
    """Its own pass and n - 1 more: the slot that is zeroed is one of the n."""
    state = DelayedScaling("e4m3", history=8)
    scales = []
    for step in range(12):
        state.quantize(F32([1000.0 if step == 0 else 1.0]))
        state.update()
        scales.append(float(state.scale))
    assert scales == [float(F32(448) / F32(1000))] * 8 + [448.0] * 4
    rolled = DelayedScaling("e4m3", history=3, roll_zeros=True)
    for value in (5.0, 0.0, 0.0):
        rolled.quantize(F32([value]))
        rolled.update()
    assert rolled.history.max() == 0 and rolled.scale == F32(448) / F32(5)


def test_several_tensors_of_a_pass_share_a_slot() -> None:
    state = DelayedScaling("e5m2", history=4)
    for value in (2.0, 8.0, 4.0):
        state.quantize(F32([value]))
    state.update()
    assert state.scale == F32(57344 / 8)


def test_margins() -> None:
    """A power of two off the largest value, before the division: where max / amax is infinite, it need not be."""
    state = DelayedScaling("e4m3", margin=60)
    state.quantize(F32([2.0**-125]))
    state.update()
    assert state.scale == 448 * 2.0 ** (125 - 60)
    for name, least, most in (("e4m3", -119, 149), ("e5m2", -112, 149)):
        for margin in (least, most, np.int64(most)):
            assert DelayedScaling(name, margin=margin).margin == margin
        for margin in (least - 1, most + 1, 10**9, -(10**9)):
            with pytest.raises(
                ValueError, match=f"margin {margin} makes .* in float32; it must be positive and finite"
            ):
                DelayedScaling(name, margin=margin)


def test_wrong_ones() -> None:
    for options, error, message in (
        ({"history": 0}, ValueError, "history must be at least 1"),
        ({"history": 2.0}, TypeError, "history must be an int"),
        ({"algorithm": "mean"}, ValueError, "max, most-recent"),
        ({"margin": 1.5}, TypeError, "margin must be an int, not float"),
        ({"margin": True}, TypeError, "margin must be an int, not bool"),
        ({"roll_zeros": 1}, TypeError, "roll_zeros must be a bool, not int"),
    ):
        with pytest.raises(error, match=message):
            DelayedScaling("e4m3", **options)  # type: ignore[arg-type]
