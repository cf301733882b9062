"""Rounds: every contender once, then every contender again, so that what slows the machine slows them all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

# A pool that has just worked may still spin (OpenMP does so for about a millisecond) and take a core from the next one.
PAUSE = 0.003
# OpenBLAS's pool does so for a tenth of a second. A contender beside it works untimed for as long: then its own threads are awake, too.
LEAD = 0.15


class Run(NamedTuple):
    """Something prepared, to be timed."""

    call: Callable[[], object]  #: does the work once
    result: Callable[[], Array]  #: what the last call left behind


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of one call, to the nanosecond."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e9


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection meanwhile."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm_up(call: Callable[[], object], seconds: float) -> None:
    """Call until so much time has passed."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()


def interleaved(
    calls: Sequence[Callable[[], object]], rounds: int, pause: float = 0.0, lead: float = 0.0
) -> list[list[float]]:
    """Seconds of every call in every round, one list a call; each round begins with another call."""
    seconds: list[list[float]] = [[0.0] * rounds for _ in calls]
    with undisturbed():
        for done in range(rounds):
            for place in range(len(calls)):
                which = (done + place) % len(calls)
                time.sleep(pause)
                warm_up(calls[which], lead)
                seconds[which][done] = seconds_of(calls[which])
    return seconds
