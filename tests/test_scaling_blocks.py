"""Are arrays cut into the blocks that were asked for, and does each block get what its own elements give?"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fpemu.scaling.blocks import as_axis, as_extent, blocks_shape, cut_along, cut_last, reduce_blocks, spread, whole

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(2)
# Blocks that fit, that do not, that are longer than their axis, of one element; up to three axes.
CUTS = [
    ((12,), (4,)), ((13,), (4,)), ((3,), (8,)), ((5,), (1,)), ((6, 8), (2, 4)), ((6, 8), (1, 4)), ((6, 8), (3, 1)), ((7, 9), (2, 4)),
    ((7, 9), (7, 2)), ((7, 9), (2, 9)), ((4, 6, 5), (2, 3, 2)), ((4, 6, 5), (1, 4, 5)), ((1, 1), (1, 1)), ((), ()),
]  # fmt: skip


def elements(place: tuple[int, ...], cut: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(i * extent, (i + 1) * extent) for i, extent in zip(place, cut, strict=True))


@pytest.mark.parametrize(("shape", "cut"), CUTS)
def test_each_block_is_reduced_alone(shape: tuple[int, ...], cut: tuple[int, ...]) -> None:
    for ufunc, x in (
        (np.maximum, RNG.standard_normal(shape).astype(np.float32)),
        (np.minimum, RNG.integers(0, 255, shape).astype(np.uint8)),
        (np.add, RNG.integers(0, 9, shape).astype(np.uint32)),
        (np.maximum, np.asarray(RNG.random(shape) < 0.2)),
        (np.add, np.asarray(RNG.standard_normal(shape))),
    ):
        found = reduce_blocks(ufunc, x, cut)
        assert found.dtype == x.dtype
        assert found.shape == blocks_shape(shape, cut) == tuple(-(-n // m) for n, m in zip(shape, cut, strict=True))
        for place in np.ndindex(*found.shape):
            expected = ufunc.reduce(x[elements(place, cut)], axis=None, dtype=x.dtype)
            assert found[place] == pytest.approx(expected, abs=1e-12), place


@pytest.mark.parametrize(("shape", "cut"), CUTS)
def test_each_element_gets_what_is_its_block_s(shape: tuple[int, ...], cut: tuple[int, ...]) -> None:
    of_blocks = np.arange(np.prod(blocks_shape(shape, cut), dtype=int)).reshape(blocks_shape(shape, cut))
    found = np.broadcast_to(spread(of_blocks, cut, shape), shape)
    for place in np.ndindex(*shape):
        assert found[place] == of_blocks[tuple(i // extent for i, extent in zip(place, cut, strict=True))]


def test_nothing_has_no_blocks() -> None:
    for shape, cut, blocks in (((0,), (4,), (0,)), ((3, 0), (2, 4), (2, 0)), ((0, 5), (1, 4), (0, 2))):
        found = reduce_blocks(np.maximum, np.zeros(shape, np.float32), cut)
        assert found.shape == blocks and found.dtype == np.float32 and not found.any()


def test_cuts() -> None:
    assert cut_along(0, 4, (5, 6, 7)) == (4, 1, 1) and cut_along(-1, 4, (5, 6, 7)) == (1, 1, 4)
    assert cut_along(np.int64(1), 3, (5, 6)) == (1, 3)
    assert cut_last((2, 3), (5, 6, 7), "tile") == (1, 2, 3) and cut_last([3], (5, 6), "tile") == (1, 3)
    assert cut_last((1, 16), (64,), "tile") == (16,) and cut_last((1, 1, 4), (5, 6), "tile") == (1, 4)
    assert cut_last((1, 1), (5,), "tile") == (1,) and cut_last((), (5, 6), "tile") == (1, 1)
    assert whole((5, 0, 7)) == (5, 1, 7) and whole(()) == ()


def test_axes_and_extents() -> None:
    assert [as_axis(axis, 3) for axis in (-3, -1, 0, 2)] == [0, 2, 0, 2]
    assert as_extent("block", 1) == 1 and type(as_extent("block", np.uint8(7))) is int
    for bad, kind, message in (
        (lambda: as_axis(3, 3), ValueError, "there is no axis 3; valid: -3 to 2"),
        (lambda: as_axis(-4, 3), ValueError, "there is no axis -4; valid: -3 to 2"),
        (lambda: as_axis(0, 0), ValueError, "a 0-d array has none"),
        (lambda: as_axis(True, 3), TypeError, "axis must be an int, not bool"),
        (lambda: as_axis(1.0, 3), TypeError, "axis must be an int, not float"),
        (lambda: as_extent("block", 0), ValueError, "block must be at least 1, not 0"),
        (lambda: as_extent("block", True), TypeError, "block must be an int, not bool"),
        (lambda: as_extent("block", 2.0), TypeError, "block must be an int, not float"),
        (lambda: cut_last(4, (5,), "tile"), TypeError, "tile must be a tuple of ints, not int"),
        (
            lambda: cut_last((2, 4), (5,), "tile"),
            ValueError,
            r"blocks of \(2, 4\) need at least 2 axes; the array has 1",
        ),
        (lambda: cut_last((1, 1), (), "tile"), ValueError, "need at least 1 axes; the array has 0"),
        (lambda: cut_last((2, 0), (5, 6), "tile"), ValueError, "tile must be at least 1, not 0"),
        (lambda: blocks_shape((5, 6), (2,)), ValueError, "shorter"),
    ):
        with pytest.raises(kind, match=message):
            bad()


def test_every_small_shape_and_cut() -> None:
    """All of up to four elements an axis: sums of blocks add up, and spreading counts them back."""
    for shape in product(range(1, 5), repeat=2):
        x = RNG.integers(0, 100, shape)
        for cut in product(range(1, 6), repeat=2):
            sums = reduce_blocks(np.add, x, cut)
            assert sums.sum() == x.sum() and sums.shape == blocks_shape(shape, cut)
            members = reduce_blocks(np.add, np.ones(shape, int), cut)
            assert (1 / np.broadcast_to(spread(members, cut, shape), shape)).sum() == pytest.approx(members.size)
