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
    def __init__(self, interval: int, maximum: float = 2.0**24) -> None:
        self.scale, self.maximum = min(2.0**16, maximum), maximum
        self.unskipped, self.interval = 0, interval

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.scale, self.unskipped = self.scale / 2, 0
        else:
            self.unskipped += 1
        if self.unskipped == self.interval:
            self.scale, self.unskipped = min(self.maximum, self.scale * 2), 0
        return not overflow


class Megatron:
    def __init__(self, interval: int, refill: bool, up: float = 2.0, down: float = 0.5) -> None:
        self.scale, self.growth, self.hysteresis, self.interval, self.refill = F32(2.0**32), 0, 2, interval, refill
        self.up, self.down = F32(up), F32(down)  # tensors, like the scale

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.growth = 0
            self.hysteresis -= 1
            if self.hysteresis <= 0:
                self.scale = max(self.scale * self.down, F32(1))
            return False
        if self.refill:
            self.hysteresis = 2
        self.growth += 1
        if self.growth == self.interval:
            self.growth, self.hysteresis = 0, 2
            with np.errstate(over="ignore"):
                self.scale = self.scale * self.up
        return True


class DeepSpeed:
    def __init__(self, init: float, interval: int, shift: int, newer: bool, raises: bool, minimum: float = 1.0) -> None:
        self.minimum = minimum
        self.scale, self.iteration, self.last, self.window = init, 0, -1, interval
        self.shift = self.hysteresis = shift
        self.newer, self.raises = newer, raises

    def step(self, overflow: bool) -> bool:
        if overflow:
            if self.shift == 1 or self.hysteresis == 1:
                if self.scale == self.minimum and self.raises:
                    raise Stop
                self.scale = max(self.scale / 2, self.minimum)
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


class Metaseq:
    def __init__(self, window: int, init: float = 4.0) -> None:
        self.scale, self.window, self.iteration, self.last = init, window, 0, -1

    def step(self, overflow: bool) -> bool:
        if overflow:
            before, self.last = self.scale, self.iteration
            self.scale, self.window = self.scale / 2, max(int(self.window / 2), 1)
            if self.scale < 2.0**-5:
                self.scale = before
        elif (self.iteration - self.last) % self.window == 0:
            self.scale, self.window = self.scale * 2, self.window * 2
        self.iteration += 1
        return not overflow


class Gnmt:
    """Not yet capped at its start."""

    def __init__(self, interval: int, init: float = 8192.0) -> None:
        self.scale, self.valid, self.interval = init, 0, interval

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.scale /= 2
            self.valid = 0
        else:
            self.valid += 1
        if self.valid >= self.interval:
            self.scale, self.valid = min(self.scale * 2, 8192.0), 0
        return not overflow


class GuidedDiffusion:
    def __init__(self) -> None:
        self.lg = 20.0

    @property
    def scale(self) -> float:
        return 2**self.lg

    def step(self, overflow: bool) -> bool:
        self.lg += -1 if overflow else 1e-3
        return not overflow


class Flax:
    def __init__(self, interval: int) -> None:
        self.scale, self.finite, self.interval = F32(65536), 0, interval

    def step(self, overflow: bool) -> bool:
        grow = self.finite == self.interval
        if overflow:
            self.scale = max(self.scale * F32(0.5), np.finfo(F32).tiny)
        elif grow:
            with np.errstate(over="ignore"):
                self.scale = min(self.scale * F32(2), np.finfo(F32).max)
        self.finite = 0 if grow or overflow else self.finite + 1
        return not overflow


class Paddle:
    """``static``: the operator's floor and its refusal of an infinite scale; the rest is that of dynamic graphs too."""

    def __init__(self, init: float, every: int, bad: int, down: float, static: bool) -> None:
        self.scale, self.every, self.bad, self.down, self.static = F32(init), every, bad, F32(down), static
        self.good_count = self.bad_count = 0

    def step(self, overflow: bool) -> bool:
        if overflow:
            self.good_count, self.bad_count = 0, self.bad_count + 1
            if self.bad_count == self.bad:
                self.scale, self.bad_count = self.scale * self.down, 0
                if self.static and self.scale < 1:
                    self.scale = F32(1)
            return False
        self.bad_count, self.good_count = 0, self.good_count + 1
        if self.good_count == self.every:
            with np.errstate(over="ignore"):
                grown = self.scale * F32(2)
            self.scale = grown if np.isfinite(grown) or not self.static else self.scale
            self.good_count = 0
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
    "deepspeed-config-0.8": lambda: DeepSpeed(2.0**16, N, 2, newer=False, raises=True),
    "deepspeed-config-0.6.5": lambda: DeepSpeed(2.0**32, N, 2, newer=False, raises=True),
    "deepspeed-config-0.3": lambda: DeepSpeed(2.0**32, N, 2, newer=False, raises=False),
    "deepspeed-fused": lambda: DeepSpeed(2.0**32, N, 1, newer=True, raises=False),
    "deepspeed-unfused": lambda: DeepSpeed(2.0**16, N, 1, newer=True, raises=False, minimum=0.25),
    "megatron": lambda: Megatron(N, refill=False),
    "megatron-consecutive": lambda: Megatron(N, refill=True),
    "fairseq": lambda: Fairseq(2.0**15, N),
    "fairseq-trainer": lambda: Fairseq(2.0**7, N),
    "metaseq": lambda: Metaseq(N),
    "nvidia-gnmt": lambda: Gnmt(N),
    "guided-diffusion": GuidedDiffusion,
    "flax": lambda: Flax(N),
    "paddle": lambda: Paddle(2.0**16, N, 1, 0.5, static=False),
    "paddle-static": lambda: Paddle(2.0**15, N, 2, 0.8, static=True),
    "jmp": lambda: Torch(2.0**15, N, floor=1.0),
    "tensorflow": lambda: Torch(2.0**15, N, floor=1.0),
    "keras3": lambda: Torch(2.0**15, N, ceiling=False),
    "static": Static,
}
FIXED = {"static", "guided-diffusion"}  # without an interval that could be set
# What rows become when their attributes are changed.
OVERRIDDEN: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "apex's kernel": ("megatron-consecutive", lambda: ApexHysteresis(N), {"at_floor": "none", "finite_growth": True}),
    "fairseq's tolerance": ("fairseq", lambda: Fairseq(2.0**15, N, 0.25), {"tolerance": 0.25}),
    "apex with a cap": ("apex", lambda: Apex(N, 512.0), {"cap": 512.0}),
    "metaseq above its floor": ("metaseq", lambda: Metaseq(N, 3.0), {"init": 3.0}),
    "GNMT above its cap": ("nvidia-gnmt", lambda: Gnmt(N, 2.0**15), {"init": 2.0**15}),
    "Megatron's factors": ("megatron", lambda: Megatron(N, False, 1.1, 0.3), {"growth": 1.1, "backoff": 0.3}),
    "Paddle until 2.4": ("paddle", lambda: Paddle(2.0**15, N, 2, 0.5, static=False), {"init": 2.0**15, "hysteresis": 2}),
    "Paddle, three bad steps": ("paddle", lambda: Paddle(2.0**16, N, 3, 0.7, static=False), {"backoff": 0.7, "hysteresis": 3}),
}  # fmt: skip
# Long runs of either kind, as training has them; alternating bits would never grow or reach a floor.
TRACES = st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=8).map(
    lambda runs: [overflow for overflow, length in runs for _ in range(length)]
)


@pytest.mark.parametrize("name", ORIGINALS)
@given(trace=TRACES)
def test_a_rule_is_its_original(name: str, trace: list[bool]) -> None:
    follow(ORIGINALS[name](), loss_scaler(name, **({} if name in FIXED else {"interval": N})), trace)


@pytest.mark.parametrize("case", OVERRIDDEN)
@given(trace=st.one_of(TRACES, st.lists(st.booleans(), max_size=60)))
def test_an_overridden_rule_is_its_original(case: str, trace: list[bool]) -> None:
    name, original, changed = OVERRIDDEN[case]
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


@pytest.mark.parametrize("case", OVERRIDDEN)
@pytest.mark.parametrize("trace", [[True] * 200 + [False] * 900 + [True] * 3, [False] * 900])
def test_its_ends_overridden(case: str, trace: list[bool]) -> None:
    test_an_overridden_rule_is_its_original.hypothesis.inner_test(case=case, trace=trace)  # type: ignore[attr-defined]
