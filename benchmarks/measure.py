"""One work, measured: agree first, then fit, then take turns."""

from __future__ import annotations

from benchmarks import agreement, contenders, timing
from benchmarks.agreement import Agreement
from benchmarks.contenders import Contender
from benchmarks.results import PEER, Measured, Timed
from benchmarks.timing import Run
from benchmarks.works import ARITY, ELEM, Array, Inputs, Work

PROBE = 1 << 15  # elements, or multiply-adds, from which the speed of a peer is guessed
LONGEST = 0.03  # seconds: peers on one thread get as many elements as they take in about this time, a power of two


def measure(work: Work, inputs: Inputs, threads: int, rounds: int) -> Measured:
    """The work on all its contenders, side by side."""
    x = inputs.of(work)
    rows = contenders.of(work)
    agreements = [agreement.of(row, work, threads) for row in rows]
    runs: dict[int, tuple[Run, int]] = {}
    for place, (row, agreed) in enumerate(zip(rows, agreements, strict=True)):
        if not agreed.refused:
            given = fitting(row, work, x, threads)
            runs[place] = row.prepare(work, given, threads), work.units(given)
            runs[place][0].call()  # touches its memory
    calls = [run.call for run, _ in runs.values()]
    lead = timing.LEAD if work.kind == "matmul" else 0.0
    seconds = dict(zip(runs, timing.interleaved(calls, rounds, timing.PAUSE, lead), strict=True))
    return Measured(
        work.name,
        work.group,
        work.units(x),
        work.reads.itemsize * ARITY.get(work.operation, 1),
        work.writes.itemsize if work.writes is not None else 0,
        [
            _timed(row, agreed, threads, runs[place][1] if place in runs else 0, seconds.get(place, []))
            for place, (row, agreed) in enumerate(zip(rows, agreements, strict=True))
        ],
        work.unit,
    )


def fitting(row: Contender, work: Work, x: Array, threads: int) -> Array:
    """What a contender gets of an input: all, but for slow peers."""
    size = work.units(x)
    if row.role != PEER or (row.threaded and work.unit == ELEM) or size <= PROBE:
        return x
    probe = row.prepare(work, work.part(x, PROBE), threads).call
    probe()
    rate = PROBE / min(timing.seconds_of(probe) for _ in range(2))
    while size > PROBE and size > rate * LONGEST:
        size = work.units(work.part(x, size - 1)) if work.kind == "matmul" else size // 2
    return work.part(x, size)


def _timed(row: Contender, agreed: Agreement, threads: int, elements: int, seconds: list[float]) -> Timed:
    return Timed(
        row.name,
        row.role,
        threads if row.threaded else 1,
        row.allocates,
        elements,
        **agreed._asdict(),
        seconds=seconds,
    )
