"""From which size on something pays that costs something: the constants of fpemu.targets are chosen by this.

Two ways to do a work take turns on arrays of growing size: one thread and all (threads.PARALLEL_FROM), stores through
the cache and past it (host.STREAM_FROM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import fpemu as fp
from benchmarks import contenders, ours, timing
from benchmarks.results import PAST, THREADS, Crossing
from benchmarks.works import Inputs, Work
from fpemu.targets import host
from fpemu.targets import threads as pool

SAMPLE = 1 << 22  # elements of a sample: as many calls as it takes
FEW = 9  # rounds
NEVER = 1 << 62


@dataclass(frozen=True)
class Choice:
    """A constant below which something is left alone."""

    name: str
    module: ModuleType
    constant: str
    sizes: tuple[int, ...]  #: in elements
    counts: tuple[int | None, int | None] = (None, None)  #: threads without and with it, if not those of the run


CHOICES = (
    # Below a chunk no thread is asked.
    Choice(THREADS, pool, "PARALLEL_FROM", tuple(1 << n for n in range(host.CHUNK.bit_length() - 1, 23)), (1, None)),
    Choice(PAST, host, "STREAM_FROM", tuple(1 << n for n in range(20, 26))),
)
WORKS: tuple[tuple[Work, contenders.Prepare], ...] = (
    (Work("encode to 8 bits", "encode", (fp.Cast("e4m3"),)), ours.encode),
    (Work("quantize to 8 bits", "quantize", (fp.Cast("e4m3"),)), ours.quantize),
    (Work("decode", "decode", (fp.Cast("e4m3"),)), ours.decode),
)


def crossing(
    choice: Choice, work: Work, prepare: contenders.Prepare, threads: int, rounds: int, largest: int
) -> Crossing:
    """Measure one work up to a size."""
    sizes = [size for size in choice.sizes if size <= largest]
    without: list[list[float]] = []
    having: list[list[float]] = []
    for size in sizes:
        x, calls = Inputs(size).of(work), max(SAMPLE // size, 1)
        runs = [
            partial(_repeat, choice, limit, prepare(work, x, count or threads).call, calls)
            for limit, count in zip((NEVER, 0), choice.counts, strict=True)
        ]
        for run in runs:
            run()
        samples = timing.interleaved(runs, min(rounds, FEW))
        for kept, seconds in zip((without, having), samples, strict=True):
            kept.append([sample / calls for sample in seconds])
    return Crossing(choice.name, work.name, sizes, without, having)


@contextmanager
def from_size(choice: Choice, limit: int) -> Iterator[None]:
    """It, from that size on."""
    kept = getattr(choice.module, choice.constant)
    setattr(choice.module, choice.constant, limit)
    try:
        yield
    finally:
        setattr(choice.module, choice.constant, kept)


def _repeat(choice: Choice, limit: int, call: Callable[[], object], calls: int) -> None:
    with from_size(choice, limit):
        for _ in range(calls):
            call()
