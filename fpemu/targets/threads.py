"""Threads for the loops: parts of an array run side by side, each in compiled code that holds no lock.

How the work is split never shows in a result: elements are independent, and random words depend on the index alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache, partial
from typing import TypeVar

from fpemu.targets.environment import take_default

# Below this many elements one thread is faster: handing over a part costs about 30 us, in which a thread converts
# some 10**5 elements (benchmarks/threshold.py measures the crossing).
PARALLEL_FROM = 1 << 18

Item = TypeVar("Item")
Result = TypeVar("Result")

_threads: int | None = None


def get_threads() -> int:
    """How many threads conversions use: ``set_threads``, else NUMBA_NUM_THREADS, else the cores of this process."""
    if _threads is not None:
        return _threads
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def set_threads(count: int | None) -> None:
    """Use ``count`` threads from now on (None: the default again).  Results do not depend on it.

    Raises TypeError for anything but an int, ValueError for less than 1.
    """
    global _threads
    if count is not None:
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"count must be an int or None, not {type(count).__name__}")
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
    _threads = count


@lru_cache(maxsize=4)
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    """The pool of this process: threads do not survive a fork, so the process is part of the key."""
    return ThreadPoolExecutor(count, thread_name_prefix="fpemu", initializer=take_default)


def split(size: int, parts: int, unit: int = 1) -> list[tuple[int, int]]:
    """``[start, stop)`` of at most ``parts`` parts of a range, each but the last a multiple of ``unit``."""
    step = -(-size // max(parts, 1))
    step = max(-(-step // unit) * unit, 1)
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def map_parts(work: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    """``[work(item) for item in items]``, in threads."""
    count = get_threads() if len(items) > 1 else 1
    return _side_by_side([partial(work, item) for item in items], count)


def useful_threads(elements: int) -> int:
    """How many threads so many elements are worth."""
    return get_threads() if elements >= PARALLEL_FROM else 1


def run_parts(work: Callable[[int, int], None], size: int, unit: int = 64, elements: int | None = None) -> None:
    """Call ``work(start, stop)`` over the whole range, in threads where that is faster.

    ``elements``: how many there are, where the range counts something else.
    """
    count = useful_threads(size if elements is None else elements)
    if count == 1:
        work(0, size)
    else:
        _side_by_side([partial(work, start, stop) for start, stop in split(size, count, unit)], count)


def _side_by_side(calls: list[Callable[[], Result]], count: int) -> list[Result]:
    """The results of all calls, in so many threads; when it raises, no call is still running."""
    if count == 1:
        return [call() for call in calls]
    pool = _pool(count, os.getpid())
    futures: list[Future[Result]] = []
    try:
        try:
            for call in calls:
                futures.append(pool.submit(call))
        except RuntimeError:
            pass  # the interpreter exits, or there are no more threads: what is left is done here
        rest = [call() for call in calls[len(futures) :]]
        return [future.result() for future in futures] + rest
    except BaseException:  # an interrupt among them: nobody writes into the caller's arrays behind his back
        for future in futures:
            future.cancel()
        wait(futures)
        raise
