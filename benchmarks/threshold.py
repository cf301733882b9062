"""From which size on threads pay: fpemu.targets.threads.PARALLEL_FROM is chosen by this.

One thread and all threads take turns on arrays of growing size, threads forced on for every size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import fpemu as fp
from benchmarks import contenders, ours, timing
from benchmarks.results import Crossing
from benchmarks.works import Inputs, Work
from fpemu.targets import host
from fpemu.targets import threads as pool

SIZES = tuple(1 << power for power in range(host.CHUNK.bit_length() - 1, 23))  # below a chunk no thread is asked
SAMPLE = 1 << 22  # elements of a sample: as many calls as it takes
FEW = 9  # rounds

WORKS: tuple[tuple[Work, contenders.Prepare], ...] = (
    (Work("encode to 8 bits", "encode", (fp.Cast("e4m3"),)), ours.encode),
    (Work("quantize to 8 bits", "quantize", (fp.Cast("e4m3"),)), ours.quantize),
    (Work("decode", "decode", (fp.Cast("e4m3"),)), ours.decode),
)


def crossing(work: Work, prepare: contenders.Prepare, threads: int, rounds: int, largest: int) -> Crossing:
    """Measure one work up to a size."""
    sizes = [size for size in SIZES if size <= largest]
    one: list[list[float]] = []
    many: list[list[float]] = []
    for size in sizes:
        x, calls = Inputs(size).of(work), max(SAMPLE // size, 1)
        runs = [partial(_repeat, prepare(work, x, count).call, calls) for count in (1, threads)]
        with threads_always():
            for run in runs:
                run()
            samples = timing.interleaved(runs, min(rounds, FEW), pause=0)
        for kept, seconds in zip((one, many), samples, strict=True):
            kept.append([sample / calls for sample in seconds])
    return Crossing(work.name, sizes, one, many)


@contextmanager
def threads_always() -> Iterator[None]:
    """Threads for arrays of every size."""
    kept, pool.PARALLEL_FROM = pool.PARALLEL_FROM, 0
    try:
        yield
    finally:
        pool.PARALLEL_FROM = kept


def _repeat(call: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        call()
