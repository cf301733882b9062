"""Does any array lose what it says beside its values: a mask, the meaning of a subclass, a byte order?

A mask or a subclass is refused; memory maps are plain arrays; byte-swapped arrays of ml_dtypes are read as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fpemu as fp
from fpemu import scaling

# ---- what an array says beside its values ---------------------------------------------------------------------------
VALUE_VERBS: dict[str, Callable[[Any], Any]] = {
    "encode": lambda x: fp.encode(x, "e4m3"),
    "quantize": lambda x: fp.quantize(x, "e4m3"),
    "add": lambda x: fp.add(x, x, "fp16"),
    "fma": lambda x: fp.fma(x, 1.0, 1.0, "fp16"),
    "sqrt": lambda x: fp.sqrt(x, "fp16"),
    "compare": lambda x: fp.compare(x, 1.0, "fp16"),
    "sum": lambda x: fp.sum(x, "fp16"),
    "dot": lambda x: fp.dot(x, x, "fp16"),
    "matmul": lambda x: fp.matmul(x, x, engine="bf16"),
    "matmul, float64": lambda x: fp.matmul(x, x, engine="b200.mma.fp64.fp64"),
    "explain_dot": lambda x: fp.explain_dot(x[0], x[0], engine="hopper.wgmma.bf16.fp32").record,
    "tensor_stats": lambda x: fp.tensor_stats(x, ["fp16", "e4m3"]).rows(),
    "exponent_histogram": lambda x: fp.exponent_histogram(x).counts,
    "mx": lambda x: (q := scaling.mx(x, "e4m3"), q.codes, q.scales)[1:],
    "nvfp4": lambda x: (q := scaling.nvfp4(x), q.codes, q.scales)[1:],
    "tiles": lambda x: (q := scaling.tiles(x, "e4m3"), q.codes, q.scales)[1:],
    "per_tensor": lambda x: (q := scaling.per_tensor(x, "e4m3"), q.codes, q.scales)[1:],
    "hadamard": lambda x: scaling.hadamard(x, 4),
    "DelayedScaling": lambda x: scaling.DelayedScaling("e4m3").quantize(x).codes,
}
CODE_VERBS: dict[str, Callable[[Any], Any]] = {
    "decode": lambda x: fp.decode(x, "e2m1"),
    "cast": lambda x: fp.cast(x, source="e2m1", target="e4m3"),
    "add": lambda x: fp.add(x, x, "e2m1"),
    "sum": lambda x: fp.sum(x, "e2m1"),
    "matmul": lambda x: fp.matmul(x, x, engine="b200.tcgen05.e2m1.fp32"),
    "pack": lambda x: fp.pack(x, "e2m1"),
    "unpack": lambda x: fp.unpack(x, "e2m1"),
    "as_ml_dtype": lambda x: fp.as_ml_dtype(x, "e2m1").view(np.uint8),
}
VALUES_2D = (np.random.default_rng(3).standard_normal((4, 4)) * 2).astype(np.float32)
CODES_2D = np.random.default_rng(4).integers(0, 16, (4, 4)).astype(np.uint8)
VERBS = [(verb, call, VALUES_2D) for verb, call in VALUE_VERBS.items()] + [
    (verb, call, CODES_2D) for verb, call in CODE_VERBS.items()
]


class Metres(np.ndarray):
    """A subclass that means something."""


SAYS_MORE: dict[str, Callable[[np.ndarray], Any]] = {
    "masked": lambda x: np.ma.array(x, mask=x == x[0, 0]),
    "nothing masked": lambda x: np.ma.array(x),
    "matrix": lambda x: x.view(np.matrix),
    "of a user": lambda x: x.view(Metres),
    "a list of masked": lambda x: list(np.ma.array(x, mask=x == x[0, 0])),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", SAYS_MORE)
@pytest.mark.parametrize(("verb", "call", "x"), VERBS, ids=[f"{verb} {x.dtype}" for verb, _, x in VERBS])
def test_a_mask_or_a_subclass_is_refused_and_never_lost(verb: str, call: Any, x: np.ndarray, kind: str) -> None:
    with pytest.raises(TypeError, match=r"masked arrays are not taken|numpy\.asarray|explain"):
        call(SAYS_MORE[kind](x))


@pytest.mark.parametrize(("verb", "call", "x"), VERBS, ids=[f"{verb} {x.dtype}" for verb, _, x in VERBS])
def test_a_memory_map_is_an_array(verb: str, call: Any, x: np.ndarray, tmp_path: Path) -> None:
    held = np.memmap(tmp_path / "x", x.dtype, "w+", shape=x.shape)
    held[...] = x
    got, right = call(held), call(x)
    assert type(got) is type(right)
    np.testing.assert_equal(got, right)


def test_an_output_of_a_subclass_is_refused() -> None:
    with pytest.raises(TypeError, match="out"):
        fp.decode(CODES_2D, "e4m3", out=np.ma.zeros((4, 4), np.float32))
    with pytest.raises(TypeError, match="out"):
        fp.add(CODES_2D, CODES_2D, "e4m3", out=CODES_2D.view(Metres))
    with pytest.raises(TypeError, match="out"):
        fp.matmul(VALUES_2D, VALUES_2D, engine="bf16", out=np.ma.zeros((4, 4), np.float32))
    with pytest.raises(TypeError, match="out"):
        fp.scaling.mx(VALUES_2D, "e4m3", out=np.ma.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize(
    "verb",
    [
        *(verb for verb in VALUE_VERBS if verb != "matmul, float64"),
        "decode",
        "cast",
        "add codes",
        "save",
        "as_ml_dtype",
    ],
)
def test_byte_swapped_ml_dtypes_arrays_are_read_as_they_are(verb: str, name: str, tmp_path: Path) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    x = VALUES_2D.astype(dtype)
    swapped = x.byteswap().view(dtype.newbyteorder(">" if sys.byteorder == "little" else "<"))
    assert x.dtype.itemsize == 1 or not swapped.dtype.isnative

    def saved(x: Any) -> Any:
        fp.save(tmp_path / "codes.npz", x)
        return fp.load(tmp_path / "codes.npz")[0]

    more: dict[str, Callable[[Any], Any]] = {
        "decode": lambda x: fp.decode(x),
        "cast": lambda x: fp.cast(x, target="e5m2"),
        "add codes": lambda x: fp.add(x, x, name),
        "save": saved,
        "as_ml_dtype": lambda x: fp.as_ml_dtype(x, name).view(f"u{x.dtype.itemsize}"),
    }
    call = (VALUE_VERBS | more)[verb]
    np.testing.assert_equal(call(swapped), call(x))
