"""All 2^32 float32 inputs against NumPy and ml_dtypes (``pytest -m exhaustive``: minutes).

Where each format's other exhaustive tests are: midpoints and round trips of the whole P3109 family in
test_conversion.py, under the same marker.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial

import numpy as np
import pytest
from implementations import JIT, TABLE

from fpemu import FORMATS, Cast, Overflow, reference

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not JIT, reason="takes days without the compiler"),
]

CHUNK = 1 << 23
ROWS = [
    ("float16", Overflow.IEEE, "numpy"),
    ("bfloat16", Overflow.IEEE, "ml_dtypes"),
    ("float8_e4m3fn", Overflow.IEEE, "ml_dtypes"),
    ("float8_e5m2", Overflow.IEEE, "ml_dtypes"),
    ("float8_e4m3fn", Overflow.SATURATE, "torch"),
    ("float8_e5m2", Overflow.IEEE, "torch"),
]


@lru_cache(maxsize=1)
def nan_codes(name: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    values = [reference.value(code, name) for code in range(1 << FORMATS[name].bits)]
    return np.array([value != value for value in values])


def differing(name: str, overflow: Overflow, peer: str, start: int) -> list[str]:
    """The first differences in one chunk of bit patterns: the general kernel and the frozen one."""
    cast, is_nan = Cast(name, overflow=overflow), nan_codes(name)
    x = np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
    theirs = TABLE[peer](x, cast)
    found = []
    for ours in ("runtime", "frozen"):
        codes = TABLE[ours](x, cast)
        index = np.flatnonzero(codes != theirs)
        index = index[~(is_nan[codes[index]] & is_nan[theirs[index]])]
        found += [f"{ours}: {float(x[i]).hex()} -> {codes[i]:#x}, {peer} {theirs[i]:#x}" for i in index[:3]]
    return found


@pytest.mark.parametrize(("name", "overflow", "peer"), ROWS)
def test_every_float32(name: str, overflow: Overflow, peer: str) -> None:
    """NaN by class, since peers write other NaN codes or keep payloads.

    In processes: NumPy's cast to float16 holds the interpreter lock.
    """
    if peer not in TABLE or not TABLE[peer].handles(np.dtype(np.float32), Cast(name, overflow=overflow)):
        pytest.skip(f"no {peer} that does this")
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        chunks = pool.map(partial(differing, name, overflow, peer), range(0, 1 << 32, CHUNK), chunksize=4)
        wrong = [line for lines in chunks for line in lines]
    assert not wrong, f"{len(wrong)} or more differ, first {wrong[:3]}"
