"""Are the numbers of every loss scaler those of its source, and is a replay's account of a trace right to the step?"""

from __future__ import annotations

from math import inf, log2, nan
from typing import Any

import numpy as np
import pytest

from fpemu.scaling import LOSS_POLICIES, LossScaler, loss_scaler, simulate, tournament
from fpemu.scaling.loss import LogMaxScaler, ScalerStopped
from fpemu.scaling.loss_policies import LossPolicy
from fpemu.scaling.loss_simulation import ceiling

F32 = np.float32
# The first scale, its factors, steps until it grows (and further ones after an overflow), floor, cap, overflows until it backs off.
NUMBERS = {
    "torch": (2**16, 2, 0.5, 2000, 0, 0, inf, 1),
    "apex": (2**16, 2, 0.5, 2000, 0, 0, 2**24, 1),
    "deepspeed": (2**32, 2, 0.5, 1000, 0, 1, inf, 1),
    "deepspeed-config": (2**16, 2, 0.5, 1000, 1, 1, inf, 2),
    "deepspeed-config-0.8": (2**16, 2, 0.5, 1000, 0, 1, inf, 2),
    "deepspeed-config-0.6.5": (2**32, 2, 0.5, 1000, 0, 1, inf, 2),
    "deepspeed-config-0.3": (2**32, 2, 0.5, 1000, 0, 1, inf, 2),
    "deepspeed-fused": (2**32, 2, 0.5, 1000, 1, 1, inf, 1),
    "deepspeed-unfused": (2**16, 2, 0.5, 1000, 1, 0.25, inf, 1),
    "megatron": (2**32, 2, 0.5, 1000, 0, 1, inf, 2),
    "megatron-consecutive": (2**32, 2, 0.5, 1000, 0, 1, inf, 2),
    "fairseq": (2**15, 2, 0.5, 2000, 0, 1e-4, inf, 1),
    "fairseq-trainer": (2**7, 2, 0.5, 2**14, 0, 1e-4, inf, 1),
    "metaseq": (4, 2, 0.5, 256, 0, 2**-5, inf, 1),
    "nvidia-gnmt": (8192, 2, 0.5, 128, 0, 0, 8192, 1),
    "guided-diffusion": (2**20, 0.001, -1, 1, 0, 0, inf, 1),
    "flax": (2**16, 2, 0.5, 2000, 1, float(np.finfo(F32).tiny), float(np.finfo(F32).max), 1),
    "jmp": (2**15, 2, 0.5, 2000, 0, 1, inf, 1),
    "tensorflow": (2**15, 2, 0.5, 2000, 0, 1, inf, 1),
    "keras3": (2**15, 2, 0.5, 2000, 0, 0, inf, 1),
    "paddle": (2**16, 2, 0.5, 2000, 0, 0, inf, 1),
    "paddle-static": (2**15, 2, 0.8, 1000, 0, 1, inf, 2),
    "logmax": (1, 2, 0.5, None, 0, 1, 2**24, 1),
    "static": (2**16, 2, 1, None, 0, 0, inf, 1),
    "nvidia-guide": (2**24, 2, 0.5, 2000, 0, 0, inf, 1),
    "nnabla": (8, 2, 0.5, 2000, 0, 0, inf, 1),
}
ENDS = {  # what happens on the floor, where it is not just left behind
    "deepspeed": "raise", "deepspeed-config": "raise", "deepspeed-config-0.8": "raise", "deepspeed-config-0.6.5": "raise",
    "deepspeed-config-0.3": "clamp", "deepspeed-fused": "clamp", "deepspeed-unfused": "clamp", "megatron": "clamp",
    "megatron-consecutive": "clamp", "fairseq": "raise before", "fairseq-trainer": "raise before", "metaseq": "keep", "flax": "clamp",
    "jmp": "clamp", "tensorflow": "clamp", "paddle-static": "clamp",
}  # fmt: skip
REFILLS = {
    "megatron-consecutive": "good step",
    "paddle": "good step or backoff",
    "paddle-static": "good step or backoff",
}
SINGLE_FACTORS = {"megatron", "megatron-consecutive", "flax", "jmp", "tensorflow", "keras3", "paddle", "paddle-static"}
FLAGS = {  # the rows for which each holds
    "single": SINGLE_FACTORS | {"torch", "logmax"},
    "single_factors": SINGLE_FACTORS,
    "finite_growth": {"torch", "jmp", "tensorflow", "paddle-static"},
    "caps_first": {"apex"},
    "delays_always": {"flax"},
    "stretches": {"metaseq"},
    "logarithm": {"guided-diffusion"},
    "log_max": {"logmax"},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    row = LOSS_POLICIES[name]
    found = (row.init, row.growth, row.backoff, row.interval, row.delay, row.floor, row.cap, row.hysteresis)
    assert found == NUMBERS[name] and row.name == name and row.source and row.version
    assert row.at_floor == ENDS.get(name, "none")
    for flag, rows in FLAGS.items():
        assert getattr(row, flag) == (name in rows), flag
    assert row.refill == REFILLS.get(name, "growth")
    assert row.divides_by == ("next" if name.startswith("deepspeed") else "used")
    assert row.tolerance == 0 and row.verified == (name != "nvidia-guide")
    assert set(LOSS_POLICIES) == set(NUMBERS)


def test_what_counts_as_an_overflow() -> None:
    """Words, for the page: most look at every gradient, DeepSpeed at sums until 0.13, others at the norm."""
    kinds = {name: row.overflow for name, row in LOSS_POLICIES.items()}
    sums = {name for name, words in kinds.items() if words.startswith("a gradient whose sum")}
    assert sums == {name for name in kinds if name.startswith("deepspeed")} - {"deepspeed-config"}
    assert {name for name, words in kinds.items() if "(from 0.14)" in words} == {"deepspeed", "deepspeed-config-0.8"}
    norms = {"fairseq", "fairseq-trainer", "metaseq", "nvidia-gnmt", "guided-diffusion"}
    assert {name for name, words in kinds.items() if words.startswith("a norm")} == norms
    assert kinds["torch"] == LossPolicy("x", "y").overflow == "a gradient that is infinite or NaN"


def test_scales_are_numbers_of_their_kind() -> None:
    """A float32 scale is rounded to it, and its inverse too; a Python float is not."""
    for name, kind in (("torch", F32), ("apex", float)):
        scaler = loss_scaler(name, init=1 / 3, growth=1.1, interval=1)
        assert scaler.scale == float(kind(1 / 3)) and scaler.inverse == float(kind(1 / scaler.scale))
        before = scaler.scale
        assert scaler.step(False) and scaler.scale == float(kind(before * 1.1))
    assert loss_scaler("torch", init=0.0).inverse == inf and loss_scaler("apex", init=2.0**-1030).inverse == inf
    assert loss_scaler("torch", init=2.0**200).scale == inf


DEAD = {
    0.0: "scale 0",
    inf: "scale is infinite",
    2.0**-128: "1/scale is infinite",
    0.5: "scale < 1",
    1.0: None,
    2.0: None,
}


@pytest.mark.parametrize(("init", "zone"), [*DEAD.items(), (nan, "scale is infinite")])
def test_dead_zones(init: float, zone: str | None) -> None:
    assert loss_scaler("torch", init=init).dead_zone == zone


def test_names_and_attributes_are_checked() -> None:
    with pytest.raises(ValueError, match="no loss scaler 'x'; there are torch, apex"):
        loss_scaler("x")
    with pytest.raises(TypeError, match="speed"):
        loss_scaler("torch", speed=1)
    with pytest.raises(TypeError, match=r"torch takes whether the step overflowed, a bool, not 3\.0"):
        loss_scaler("torch").step(3.0)
    with pytest.raises(TypeError, match=r"logmax takes log2\(amax\), a float, not True"):
        loss_scaler("logmax").step(True)
    assert type(loss_scaler("logmax")) is LogMaxScaler and type(loss_scaler("torch")) is LossScaler


def test_tolerance_counts_overflows_since_the_scale_moved() -> None:
    """A quarter: 1 in 5 is borne, 2 in 6 are not; growth starts the count of steps anew, the overflows stay."""
    scaler = loss_scaler("fairseq", tolerance=0.25, interval=50)
    scales = []
    for overflow in (False, False, False, False, True, True, False, True):
        scaler.step(overflow)
        scales.append(scaler.scale)
    assert scales == [2.0**15] * 5 + [2.0**14] * 2 + [2.0**13]


def test_log_max_is_its_formula() -> None:
    """Moving averages over 100 and 1,000 steps, their start corrected, bit for bit; 2^16 among the logarithms where a step overflowed."""
    scaler, rng, one = loss_scaler("logmax"), np.random.default_rng(5), F32(1)
    mean = slow = square = F32(0)
    fast_power = slow_power = one
    for t in range(1, 60):
        x = inf if t % 17 == 0 else nan if t == 40 else float(rng.normal(-6, 2))
        assert scaler.step(x) == np.isfinite(x)
        taken = F32(x) if np.isfinite(x) else F32(2**16)
        mean, slow = F32(0.99) * mean + F32(1 - 0.99) * taken, F32(0.999) * slow + F32(1 - 0.999) * taken
        square = F32(0.999) * square + F32(1 - 0.999) * (taken * taken)
        fast_power, slow_power = fast_power * F32(0.99), slow_power * F32(0.999)
        average = slow / (one - slow_power)
        variance = max(square / (one - slow_power) - average * average, F32(0))
        exponent = F32(16) - (np.sqrt(variance) * F32(3.09) + mean / (one - fast_power))
        with np.errstate(over="ignore"):
            assert scaler.scale == min(max(F32(2) ** exponent, one), F32(2**24)), t
    for x, end in ((-300.0, 2.0**24), (300.0, 1.0)):
        bounded = loss_scaler("logmax")
        bounded.step(x)
        assert bounded.scale == end


# ---- replays --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("format", "end"),
    [("fp16", 65520.0), ("bf16", 2.0**128 * (1 - 2.0**-9)), ("e5m2", 61440.0), ("e4m3", 464.0), ("e2m1", 7.0), ("float32", 2.0**128 * (1 - 2.0**-25))],
)  # fmt: skip
def test_ceilings(format: str, end: float) -> None:
    assert ceiling(format) == pytest.approx(log2(end), rel=1e-15)


def test_a_replay_by_hand() -> None:
    """A scaler that halves and, after two good steps, doubles; amaxes of 2^10 around FP16's end, one step of zeros, one of NaN."""
    scaler = loss_scaler("torch", init=64.0, interval=2)
    found = simulate(scaler, [10.0, 9.5, -inf, 2.0, nan, inf, 9.0, 0.0])
    assert found.scale.tolist() == [64, 32, 32, 64, 64, 32, 16, 16]
    assert found.overflow.tolist() == [True, False, False, False, True, True, False, False]
    assert found.applied.tolist() == [not one for one in found.overflow.tolist()]
    top = log2(65520)
    expected = [top - 16, top - 14.5, nan, top - 8, nan, nan, top - 13, top - 4]
    np.testing.assert_allclose(found.headroom, expected, rtol=1e-15)
    np.testing.assert_array_equal(found.gain, np.where(found.applied, 1.0, nan))
    assert (found.policy, found.format, found.stopped, found.dead_zone_at) == ("torch", "float16", None, None)
    row = found.summary()
    wasted = sum(expected[i] for i in (1, 3, 6, 7)) / 4
    assert row.pop("wasted_exponents") == pytest.approx(wasted, rel=1e-14)
    assert row == {
        "policy": "torch", "steps": 8, "skips": 3, "longest_skip": 2, "steps_to_recover": [1, 2], "dead_zone_at": None, "stopped": None,
        "misdivided": 0, "undetermined": 0,
    }  # fmt: skip
    assert scaler.scale == 32


def test_a_replay_that_ends() -> None:
    """Where the scaler gives up, that step is the last; a scale below 1 is a dead zone from its first step on."""
    found = simulate(loss_scaler("deepspeed", init=2.0), [20.0] * 5)
    assert found.scale.tolist() == [2.0, 1.0] and found.applied.tolist() == [False, False] and found.stopped == 1
    assert found.summary()["stopped"] == 1 and found.dead_zone_at is None
    falling = simulate(loss_scaler("torch", init=2.0), [inf, inf, inf, 0.0, 0.0])
    assert falling.dead_zone_at == 2 and falling.summary()["dead_zone_at"] == 2
    lost = simulate(loss_scaler("apex", init=0.0), [0.0, inf])
    assert lost.overflow.tolist() == [False, True] and np.isnan(lost.headroom).all() and lost.dead_zone_at == 0
    above = simulate(loss_scaler("torch", init=inf), [-inf, 0.0])
    assert above.overflow.tolist() == [True, True]
    empty = simulate("torch", [])
    assert empty.summary()["longest_skip"] == empty.summary()["steps"] == 0 and np.isnan(
        empty.summary()["wasted_exponents"]
    )


def test_deepspeed_divides_by_the_next_scale() -> None:
    """Growth after the second and the fourth good step: these updates are half as large, and no others."""
    trace = [0.0, 0.0, 0.0, 0.0, inf, 0.0]
    found = simulate(loss_scaler("deepspeed", init=8.0, interval=2), trace)
    assert found.scale.tolist() == [8, 8, 16, 16, 32, 16]
    np.testing.assert_array_equal(found.gain, [1, 0.5, 1, 0.5, nan, 1])
    assert found.summary()["misdivided"] == 2
    assert simulate(loss_scaler("apex", init=8.0, interval=2), trace).summary()["misdivided"] == 0
    stops = simulate(loss_scaler("deepspeed", init=1.0), [0.0, inf, 0.0])
    np.testing.assert_array_equal(stops.gain, [1, nan])
    lost = simulate("logmax", [-inf, 0.0, 0.0])  # a scale that is NaN is still the one divided by
    assert np.isnan(lost.scale[1:]).all() and lost.summary()["misdivided"] == 0


def test_bursts() -> None:
    """Runs of skips at the start, in the middle and at the end."""
    trace = [inf, inf, 0.0, inf, 0.0, 0.0, inf, inf, inf]
    row = simulate(loss_scaler("static", init=1.0), trace, "bf16").summary()
    assert (row["skips"], row["longest_skip"], row["steps_to_recover"]) == (6, 3, [2, 1, 3])
    assert simulate("static", [-9.0] * 3).summary()["steps_to_recover"] == []


def test_formats_and_shapes() -> None:
    assert simulate(loss_scaler("static", init=1.0), [9.0], "e4m3").overflow.tolist() == [True]
    assert simulate(loss_scaler("static", init=1.0), [8.0], "e4m3").overflow.tolist() == [False]
    with pytest.raises(ValueError, match="a trace has one dimension, this one 2"):
        simulate("torch", np.zeros((2, 2)))
    rows: list[dict[str, Any]] = tournament(["torch", "static"], [0.0, inf], "bf16")
    assert [row["policy"] for row in rows] == ["torch", "static"] and rows == [
        simulate(name, [0.0, inf], "bf16").summary() for name in ("torch", "static")
    ]
    with pytest.raises(ScalerStopped, match=r"deepspeed: overflow at scale 1, floor 1"):
        loss_scaler("deepspeed", init=1.0).step(True)
