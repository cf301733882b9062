"""Are loss scalers where the originals would be, step by step?"""

import numpy as np
import pytest

from fpemu.scaling.loss import ScalerStopped, loss_scaler
from fpemu.scaling.loss_simulation import simulate


def test_torch_loses_its_scale_after_166_overflows():
    scaler = loss_scaler("torch")
    for step in range(1, 167):
        assert scaler.scale > 0
        assert not scaler.step(True)
        assert (scaler.inverse == np.inf) == (step >= 144)  # 2^-128
    assert scaler.scale == 0 and scaler.dead_zone == "scale 0"


def test_growth_is_on_the_last_step_of_the_interval():
    for name, steps in {"torch": 3, "deepspeed": 3, "deepspeed-config": 4}.items():
        scaler = loss_scaler(name, interval=3)
        before = scaler.scale
        for _ in range(steps):
            assert scaler.scale == before
            assert scaler.step(False)
        assert scaler.scale == 2 * before


@pytest.mark.parametrize(("name", "kept"), [("megatron", False), ("megatron-consecutive", True)])
def test_hysteresis(name, kept):
    scaler = loss_scaler(name)
    for overflow in (True, False, True):
        scaler.step(overflow)
    assert (scaler.scale == 2.0**32) == kept


# The smallest cases in which runs on GPUs contradicted a row or a docstring: overflows (x) and good steps, and the last scale.
CONTRADICTED = {
    "ZeRO of 0.9: growth after 100 steps": ("deepspeed-config-0.8", {"interval": 100}, "xx" + "." * 100, 2.0**16),
    "ZeRO from 0.17.1: after 101": ("deepspeed-config", {"interval": 100}, "xx" + "." * 100, 2.0**15),
    "ZeRO, a lone overflow once hysteresis is spent": ("deepspeed-config-0.8", {"init": 2.0**20}, "xxxx.x", 2.0**16),
    "Megatron, the same": ("megatron", {"init": 2.0**20}, "xxxx.x", 2.0**16),
    "Megatron's docstring": ("megatron-consecutive", {"init": 2.0**20}, "xxxx.x", 2.0**17),
    "apex, a cap of 512": ("apex", {"cap": 512.0}, "x", 256.0),
    "ZeRO until 0.6.4, at the floor": ("deepspeed-config-0.3", {}, "x" * 100, 1.0),
    "ZeRO's optimizers without it fall below 1": ("deepspeed-unfused", {}, "x" * 100, 0.25),
}


@pytest.mark.parametrize("case", CONTRADICTED)
def test_what_runs_on_gpus_contradicted(case):
    name, settings, steps, last = CONTRADICTED[case]
    scaler = loss_scaler(name, **settings)
    for step in steps:
        scaler.step(step == "x")
    assert scaler.scale == last


@pytest.mark.parametrize("name", ["deepspeed-config", "deepspeed-config-0.8", "deepspeed-config-0.6.5"])
def test_zero_stops_at_the_34th_overflow_from_2_32(name):
    """As a run by 0.15.1 did: one of hysteresis, 32 halvings, and one at the floor."""
    scaler = loss_scaler(name, init=2.0**32)
    for _ in range(33):
        scaler.step(True)
    assert scaler.scale == 1
    with pytest.raises(ScalerStopped, match="overflow at scale 1, floor 1"):
        scaler.step(True)


def test_stops():
    scaler = loss_scaler("deepspeed", init=2.0)
    scaler.step(True)
    with pytest.raises(ScalerStopped):
        scaler.step(True)
    scaler = loss_scaler("fairseq", init=4e-4)
    scaler.step(True)
    with pytest.raises(ScalerStopped):
        scaler.step(True)  # half of 2e-4 is on the floor
    assert scaler.scale == 2e-4
    with pytest.raises(ValueError, match="there are torch"):
        loss_scaler("none")


def test_a_scale_of_2_32_costs_17_skips():
    replay = simulate(loss_scaler("torch", init=2.0**32), [0.0] * 100)
    assert replay.summary()["skips"] == replay.summary()["longest_skip"] == 17
    assert replay.applied[17:].all() and replay.scale[-1] == 2.0**15


@pytest.mark.parametrize(("ceiling", "skips"), [(24, 6), (25, 5)])
def test_the_sawtooth_of_a_short_interval(ceiling, skips):
    """Steady gradients: a climb from 2^16, then one skip every 201 steps."""
    replay = simulate(loss_scaler("torch", interval=200), np.full(3000, 15.5 - ceiling))
    climb = 200 * (ceiling + 1 - 16)  # the first step with a scale too large
    assert np.flatnonzero(replay.overflow).tolist() == list(range(climb, 3000, 201))
    assert replay.summary()["skips"] == skips
    assert replay.scale.max() == 2.0 ** (ceiling + 1)


def test_overflow_begins_at_the_tie():
    below = np.nextafter(np.log2(65520.0), 0)
    static = loss_scaler("static", init=1.0)
    assert simulate(static, [np.log2(65520.0), below, np.inf, np.nan, -np.inf]).overflow.tolist() == [1, 0, 1, 1, 0]


def test_log_max():
    scaler = loss_scaler("logmax")
    for _ in range(5):
        assert scaler.step(3.0)
    assert scaler.scale == pytest.approx(2.0**13, rel=1e-4)
    assert not scaler.step(np.inf)
    assert scaler.scale == 1.0  # 2^16 among the logarithms
    # Without deviation it aims at 2^16, which FP16 does not hold: a constant trace overflows at the second step.
    assert simulate("logmax", [3.0] * 5).overflow.tolist()[:3] == [False, True, False]
    scaler = loss_scaler("logmax")
    scaler.step(-np.inf)
    assert np.isnan(scaler.scale)
