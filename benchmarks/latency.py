"""How long one waits: a call on a small array, the import, the first call of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fpemu as fp
from benchmarks import contenders, timing
from benchmarks.results import OURS, PEER, Wait
from benchmarks.works import Inputs, Work

SMALL = 1024  # elements
CALLS = 200  # of a sample
FEW = 5  # rounds of new processes
FORMAT = "float8_e4m3fn"

Group = Callable[[str, int, int], Iterator[Wait]]  # (name, threads, rounds)


# ---- small calls -----------------------------------------------------------------------------------------------------
def small_calls(group: str, threads: int, rounds: int) -> Iterator[Wait]:
    """float32 to E4M3 and back, as a user writes it, and of every contender into an array that is there."""
    work, x = Work("quantize to 8 bits", "quantize", (fp.Cast(FORMAT),)), Inputs(SMALL).floats
    as_written = f'fp.quantize(x, "e4m3"), {SMALL:,} elements'
    calls: dict[str, Callable[[], object]] = {as_written: partial(fp.quantize, x, "e4m3")}
    for row in contenders.of(work):
        if row.role in (OURS, PEER):
            kind = "new array" if row.allocates else "into an array"
            calls[f"{row.name}, {kind}"] = row.prepare(work, x, threads).call
    for call in calls.values():
        call()
    seconds = timing.interleaved([partial(_repeat, call) for call in calls.values()], rounds)
    for place, (name, samples) in enumerate(zip(calls, seconds, strict=True)):
        yield Wait(group, name, [sample / CALLS for sample in samples], ours=place == 0)


def _repeat(call: Callable[[], object]) -> None:
    for _ in range(CALLS):
        call()


# ---- new processes ---------------------------------------------------------------------------------------------------
# What is timed stands between the two marks of the clock; the interpreter's own start is not.
_CLOCK = "from time import perf_counter as now\n{before}\nstart = now()\n{timed}\nprint(now() - start)"
_VALUES = "import numpy as np, fpemu as fp\nx = np.ones({size}, np.float32)"
_CALL = 'fp.quantize(x, "e4m3")'
LARGE = 1 << 20  # from here on kernels have the format frozen


def imports(group: str, threads: int, rounds: int) -> Iterator[Wait]:
    """Importing fpemu, what it needs, and its peers, in a new process with warm disk caches."""
    names = ["fpemu", *(name for name in contenders.PACKAGES if find_spec(name) is not None)]
    scripts = [_CLOCK.format(before="", timed=f"import {name}") for name in names]
    for name, samples in zip(names, _in_turn(scripts, rounds), strict=True):
        yield Wait(group, f"import {name}", samples, ours=name == "fpemu")


def first_calls(group: str, threads: int, rounds: int) -> Iterator[Wait]:
    """The first quantize of a process: kernels from Numba's cache, and compiled because the cache is empty."""
    sizes = {f"{SMALL:,} elements": SMALL, f"{LARGE:,} elements": LARGE}
    scripts = [_CLOCK.format(before=_VALUES.format(size=size), timed=_CALL) for size in sizes.values()]
    for name, samples in zip(sizes, _in_turn(scripts, rounds), strict=True):
        yield Wait(group, f"first call, {name}", samples, ours=True)
    for name, script in zip(sizes, scripts, strict=True):
        with TemporaryDirectory() as empty:
            yield Wait(group, f"first call, {name}, nothing compiled yet", [_process(script, NUMBA_CACHE_DIR=empty)])


def _in_turn(scripts: list[str], rounds: int) -> list[list[float]]:
    for script in scripts:
        _process(script)  # fills caches
    samples: list[list[float]] = [[] for _ in scripts]
    for _ in range(min(rounds, FEW)):
        for script, seconds in zip(scripts, samples, strict=True):
            seconds.append(_process(script))
    return samples


def _process(script: str, **environment: str) -> float:
    """What a script prints, in a new process that sees the same fpemu as this one."""
    root = str(Path(fp.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    known: dict[str, Any] = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=known, check=False)
    if done.returncode:
        raise RuntimeError(f"a new process failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout)


GROUPS: dict[str, Group] = {
    "quantize 1,024 elements": small_calls,
    "import": imports,
    "first call": first_calls,
}
