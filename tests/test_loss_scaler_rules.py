"""Is every loss scaler the rule of its original?  Each is written out again, as plainly as its source has it, and fed the same overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpemu.scaling import LossScaler, ScalerStopped, loss_scaler

F32 = np.float32


class Stop(Exception):
    """Where an original raises."""


class Torch:
    def __init__(self, init: float = 2.0**16, interval: int = 2000, ceiling: bool = True, floor: float = 0.0) -> None:
        self.scale: Any = F32(init)
        self.tracker, self.interval, self.finite, self.floor = 0, interval, ceiling, F32(floor)

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.scale, self.tracker = max(self.scale * F32(0.5), self.floor), 0
            return False
        self.tracker += 1
        if self.tracker == self.interval:
            with np.errstate(over="ignore"):
                grown = self.scale * F32(2)
            if np.isfinite(grown) or not self.finite:
                self.scale = grown
            self.tracker = 0
        return True


class Apex:
    def __init__(self, interval: int) -> None:
        self.scale, self.unskipped, self.interval = 2.0**16, 0, interval

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.scale, self.unskipped = self.scale / 2, 0
        else:
            self.unskipped += 1
        if self.unskipped == self.interval:
            self.scale, self.unskipped = min(2.0**24, self.scale * 2), 0
        return not overflow


class Megatron:
    def __init__(self, interval: int, refill: bool) -> None:
        self.scale, self.growth, self.hysteresis, self.interval, self.refill = F32(2.0**32), 0, 2, interval, refill

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.growth = 0
            self.hysteresis -= 1
            if self.hysteresis <= 0:
                self.scale = max(self.scale * F32(0.5), F32(1))
            return False
        if self.refill:
            self.hysteresis = 2
        self.growth += 1
        if self.growth == self.interval:
            self.growth, self.hysteresis = 0, 2
            with np.errstate(over="ignore"):
                self.scale = self.scale * F32(2)
        return True


class DeepSpeed:
    def __init__(self, init: float, interval: int, shift: int, newer: bool, raises: bool) -> None:
        self.scale, self.iteration, self.last, self.window = init, 0, -1, interval
        self.shift = self.hysteresis = shift
        self.newer, self.raises = newer, raises

    def step(self, overflow: bool) -> bool:
        if overflow:
            if self.shift == 1 or self.hysteresis == 1:
                if self.scale == 1 and self.raises:
                    raise Stop
                self.scale = max(self.scale / 2, 1.0)
            else:
                self.hysteresis -= 1
            self.last = self.iteration
        else:
            stable = self.iteration - self.last - self.newer
            if stable > 0 and stable % self.window == 0:
                self.hysteresis = self.shift
                self.scale *= 2
        self.iteration += 1
        return not overflow


class ApexHysteresis:
    """The CUDA kernel: it has no floor, and leaves out a growth to infinity."""

    def __init__(self, interval: int) -> None:
        self.scale, self.growth, self.hysteresis, self.interval = F32(2.0**32), 0, 2, interval

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.hysteresis -= 1
            self.growth = 0
            if self.hysteresis <= 0:
                self.scale = F32(self.scale * 0.5)
            return False
        self.growth += 1
        if self.growth == self.interval:
            self.growth = 0
            with np.errstate(over="ignore"):
                grown = F32(np.float64(self.scale) * 2.0)
            self.scale = grown if np.isfinite(grown) else self.scale
        self.hysteresis = 2
        return True


class Fairseq:
    def __init__(self, init: float, interval: int, tolerance: float = 0.0) -> None:
        self.scale, self.iteration, self.last, self.window = init, 0, -1, interval
        self.tolerance, self.rescaled, self.overflows = tolerance, -1, 0

    def step(self, overflow: bool) -> bool:
        if overflow:
            before, self.last = self.scale, self.iteration
            self.overflows += 1
            if self.overflows / (self.iteration - self.rescaled) >= self.tolerance:
                self.scale /= 2
                self.rescaled, self.overflows = self.iteration, 0
            if self.scale <= 1e-4:
                self.scale = before
                raise Stop
            self.iteration += 1
            return False
        if (self.iteration - self.last) % self.window == 0:
            self.scale *= 2
            self.rescaled = self.iteration
        self.iteration += 1
        return True


class Static:
    def __init__(self) -> None:
        self.scale = 2.0**16

    def step(self, overflow: bool) -> bool:
        return not overflow


N = 5  # the growth interval in these traces
ORIGINALS: dict[str, Any] = {
    "torch": lambda: Torch(interval=N),
    "apex": lambda: Apex(N),
    "deepspeed": lambda: DeepSpeed(2.0**32, N, 1, newer=False, raises=True),
    "deepspeed-config": lambda: DeepSpeed(2.0**16, N, 2, newer=True, raises=True),
    "deepspeed-fused": lambda: DeepSpeed(2.0**32, N, 1, newer=True, raises=False),
    "megatron": lambda: Megatron(N, refill=False),
    "megatron-consecutive": lambda: Megatron(N, refill=True),
    "fairseq": lambda: Fairseq(2.0**15, N),
    "fairseq-trainer": lambda: Fairseq(2.0**7, N),
    "jmp": lambda: Torch(2.0**15, N, floor=1.0),
    "tensorflow": lambda: Torch(2.0**15, N, floor=1.0),
    "keras3": lambda: Torch(2.0**15, N, ceiling=False),
    "static": Static,
}
# What a row becomes when its attributes are changed.
OVERRIDDEN: dict[str, Any] = {
    "megatron-consecutive": (lambda: ApexHysteresis(N), {"at_floor": "none", "finite_growth": True}),
    "fairseq": (lambda: Fairseq(2.0**15, N, 0.25), {"tolerance": 0.25}),
}
# Long runs of either kind, as training has them; alternating bits would never grow or reach a floor.
TRACES = st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=8).map(
    lambda runs: [overflow for overflow, length in runs for _ in range(length)]
)


@pytest.mark.parametrize("name", ORIGINALS)
@given(trace=TRACES)
def test_a_rule_is_its_original(name: str, trace: list[bool]) -> None:
    follow(ORIGINALS[name](), loss_scaler(name, **({} if name == "static" else {"interval": N})), trace)


@pytest.mark.parametrize("name", OVERRIDDEN)
@given(trace=st.one_of(TRACES, st.lists(st.booleans(), max_size=60)))
def test_an_overridden_rule_is_its_original(name: str, trace: list[bool]) -> None:
    original, changed = OVERRIDDEN[name]
    follow(original(), loss_scaler(name, interval=N, **changed), trace)


def follow(original: Any, ours: LossScaler, trace: list[bool]) -> None:
    """Both take every step of the trace, to where the original raises."""
    for step, overflow in enumerate(trace):
        assert float(original.scale) == ours.scale, step
        try:
            applied = original.step(overflow)
        except Stop:
            with pytest.raises(ScalerStopped):
                ours.step(overflow)
            assert ours.scale == original.scale
            return
        assert ours.step(overflow) == applied, step
    assert float(original.scale) == ours.scale


@pytest.mark.parametrize("name", ORIGINALS)
def test_its_ends(name: str) -> None:
    """Overflows until it stops or rests, then growth: the ends that short random traces seldom reach."""
    test_a_rule_is_its_original.hypothesis.inner_test(name=name, trace=[True] * 200 + [False] * 900 + [True] * 3)  # type: ignore[attr-defined]
    test_a_rule_is_its_original.hypothesis.inner_test(name=name, trace=[False] * 900)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", OVERRIDDEN)
@pytest.mark.parametrize("trace", [[True] * 200 + [False] * 900 + [True] * 3, [False] * 900])
def test_its_ends_overridden(name: str, trace: list[bool]) -> None:
    test_an_overridden_rule_is_its_original.hypothesis.inner_test(name=name, trace=trace)  # type: ignore[attr-defined]
