"""Do the grids reach the driver as they should: which, how large, on which stream?  On a pretended driver, without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from pretend_driver import build, needs_compiler

pytest.importorskip("cuda.bindings.nvjitlink", reason="needs numba-cuda[cu13] (tox -e ptx)")

pytestmark = [
    pytest.mark.ptx,
    needs_compiler,
    pytest.mark.skipif(bool(numba.config.ENABLE_CUDASIM), reason="the simulator has no driver"),
]

WORK = """
import warnings
import numpy as np
from numba import cuda
import fpemu as fp

warnings.simplefilter("error")

class On:
    "Memory said to be used on a stream."
    def __init__(self, x, **facts):
        self.x, self.__cuda_array_interface__ = x, dict(x.__cuda_array_interface__) | facts

x = np.ones(5000, np.float32)
there = cuda.to_device(x)
codes = fp.encode(there, "e4m3")
assert type(codes) is type(there) and codes.dtype == np.uint8 and codes.shape == (5000,)
fp.encode(On(there, stream=2), "e4m3")
fp.encode(On(there, stream=0x5A), "e4m3")
fp.encode(On(there, shape=(50, 20), strides=(80, 8)), "e4m3")
fp.encode(On(there, stream=1), "e2m1")
fp.decode(cuda.to_device(np.zeros(256, np.uint8)), "binary8p1ue")
queued = cuda.to_device(x, stream=cuda.stream())
assert fp.encode(queued, "e4m3").stream is queued.stream
assert fp.quantize(there, "e4m3", out=there) is there
fp.tensor_stats(there, ["e4m3"])
fp.tensor_stats(there, ["e4m3"], 3.0)
# Into an output of another stream and layout: all on the stream of the input.
out = cuda.to_device(np.zeros((50, 40), np.uint8))
x = On(there, shape=(50, 20), strides=None, stream=0x5A)
fp.encode(x, "e4m3", out=On(out, shape=(50, 20), strides=(40, 2), stream=0x66))
fp.encode(x, "e4m3", out=On(out, shape=(50, 20), strides=(40, 2), stream=0x66), via="fp16")
# Products and sums: 3 x 2 tiles of 16 x 16 in each of two matrices; of a stack that has no common stride, two grids of three.
a, b = cuda.to_device(np.ones((2, 40, 20), np.uint16)), cuda.to_device(np.ones((20, 30), np.uint16))
fp.matmul(On(a, stream=0x5A), b, engine="hopper.mma.fp16.fp32")
a = On(a, shape=(2, 3, 4, 20), strides=(1600, 80, 240, 2), stream=0x5A)
fp.matmul(a, b, engine="fp16")
a = cuda.to_device(np.ones((2, 40), np.float32))
assert fp.matmul(a, cuda.to_device(np.ones((40, 3))), engine="bf16").dtype == np.float32
fp.add(On(there, stream=2), 1.5, "bf16")
fp.negate(cuda.to_device(np.zeros(5000, np.uint8)), "e4m3")
fp.compare(On(queued, stream=2), On(queued, stream=2), "e4m3")
for wrong in (">f4", "|V3"):
    try:
        fp.encode(On(there, typestr=wrong), "e4m3")
    except TypeError:
        continue
    raise AssertionError(wrong)
"""

#: Grid, blocks and stream of each launch, in order; a tile is 4,096 elements.
LAUNCHES = [
    ("conversion", 2, None),
    ("conversion", 2, 2),
    ("conversion", 2, 0x5A),
    ("strided", 1, None),
    ("first_nan", 2, 1),
    ("conversion", 2, 1),
    ("table", 1, None),
    ("conversion", 2, 0x77),
    ("conversion", 2, None),
    ("histogram", 1, None),
    ("loss", 1, None),
    ("histogram", 1, None),
    ("loss", 1, None),
    ("strided", 1, 0x5A),
    ("conversion", 1, 0x5A),
    ("conversion", 1, 0x5A),
    ("strided", 1, 0x5A),
    ("sum", 12, 0x5A),
    ("chain", 6, 0x5A),
    ("chain", 6, 0x5A),
    ("conversion", 1, None),
    ("conversion", 1, None),
    ("chain", 1, None),
    ("conversion", 1, None),
    ("conversion", 2, 2),
    ("operation", 2, 2),
    ("conversion", 2, 2),
    ("signs", 2, None),
    ("conversion", 2, 2),
    ("conversion", 2, 2),
    ("relation", 2, 2),
]


def test_launches(tmp_path: Path) -> None:
    library = build(tmp_path)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    done = subprocess.run(
        [sys.executable, "-c", WORK], capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"launch \S*?(\w+)_kernel\S*, (\d+) blocks of 256, stream (\S+)", done.stderr)
    names = [(re.sub(r".*?([a-z]+(?:_nan)?)$", r"\1", name), int(blocks)) for name, blocks, _ in found]
    streams = [None if stream == "(nil)" else int(stream, 16) for _, _, stream in found]
    assert [(*name, stream) for name, stream in zip(names, streams, strict=True)] == LAUNCHES
