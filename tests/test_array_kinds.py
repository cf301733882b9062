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
from verbs import CODE_VERBS, VALUE_VERBS

import fpemu as fp

# ---- what an array says beside its values ---------------------------------------------------------------------------
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
