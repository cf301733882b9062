"""Hypothesis strategies for formats, their codes, and the inputs where conversions go wrong.

They shrink to what is easy to read: within a region to numbers of few significant bits and near 1, a format of the
catalogue before one that nobody has named, codes toward +0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import DTypeLike, NDArray

from fpemu.formats import FORMATS, FloatFormat, FormatName, as_format
from fpemu.testing.regions import REGIONS, input_dtype, points
from fpemu.testing.simplicity import simplest_first

NAMED = tuple(name for name in FORMATS if not name.startswith("binary"))


def formats(*, min_bits: int = 2, max_bits: int = 16, named: bool = False) -> st.SearchStrategy[FloatFormat]:
    """Formats of ``min_bits`` to ``max_bits``: of the catalogue, and unless ``named`` any other whose values float64 holds.

    Raises ValueError where no format has so many bits.
    """
    catalogue = [f for f in FORMATS.values() if min_bits <= f.bits <= max_bits and f.holds_in_float64]
    if not catalogue:
        raise ValueError(f"no format of the catalogue has {min_bits} to {max_bits} bits; they have 3 to 32")
    ours = st.sampled_from(sorted(catalogue, key=lambda f: (f.name not in NAMED, f.bits)))
    return ours if named else ours | _others(min_bits, min(max_bits, 32))


@st.composite
def _others(draw: st.DrawFn, min_bits: int, max_bits: int) -> FloatFormat:
    bits = draw(st.integers(max(min_bits, 3), max_bits))
    signed = draw(st.booleans())
    precision = draw(st.integers(1, max(1, min(bits - signed - 1, 24))))
    exponent_bits = bits - signed - (precision - 1)
    middle = 2 ** (min(exponent_bits, 9) - 1) - 1
    facts = {
        "bias": middle + draw(st.integers(-8, 8)),
        "signed": signed,
        "infinities": draw(st.booleans()),
        "high_nans": draw(st.integers(0, 3)),
        "negative_zero": draw(st.booleans()),
    }
    try:
        format = FloatFormat(f"e{exponent_bits}m{precision - 1}", bits, precision, **facts)
    except ValueError:  # too few codes for its specials
        format = FloatFormat(f"e{exponent_bits}m{precision - 1}", bits, precision, facts["bias"], signed, False, 0)
    return format if format.holds_in_float64 else FORMATS["float16"]


def codes(format: FormatName, *, finite: bool = False) -> st.SearchStrategy[int]:
    """Codes of a format as ints, NaNs and infinities among them unless ``finite``; they shrink toward +0."""
    target = as_format(format)
    magnitudes = st.integers(0, target.max_code if finite else target.magnitude_mask)
    if not target.signed:
        return magnitudes
    signed = st.builds(lambda m, negative: m | target.sign_mask * negative, magnitudes, st.booleans())
    lone = target.sign_mask if finite and not target.negative_zero else None  # a NaN
    return signed.filter(lambda code: code != lone)


@lru_cache(maxsize=512)
def _simplest_first(region: str, format: FloatFormat, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The points of a region, those first that are easy to read."""
    found = points(region, format, dtype)
    return np.asarray(found[simplest_first(found)])


def values(
    format: FormatName, dtype: DTypeLike = "float32", *, regions: Sequence[str] = REGIONS, signs: bool = True
) -> st.SearchStrategy[Any]:
    """Inputs of a conversion to ``format`` as NumPy scalars, from each region as often as from any other.

    Parameters
    ----------
    format: the target of the conversion under test.
    dtype: float16, float32 or float64.
    regions: of ``fpemu.testing.REGIONS``.
    signs: whether negative numbers are drawn too.

    Raises
    ------
    ValueError: no such region, or none of them has a number of that dtype.
    """
    target, kind = as_format(format), input_dtype(dtype)
    filled = [found for region in regions if (found := _simplest_first(region, target, kind)).size]
    if not filled:
        raise ValueError(f"no number of {kind} lies in any of: {', '.join(regions)}")
    magnitudes = st.one_of([st.integers(0, found.size - 1).map(found.__getitem__) for found in filled])
    return st.builds(lambda x, minus: -x if minus else x, magnitudes, st.booleans()) if signs else magnitudes


def arrays(
    format: FormatName,
    dtype: DTypeLike = "float32",
    shape: int | tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    *,
    regions: Sequence[str] = REGIONS,
) -> st.SearchStrategy[NDArray[Any]]:
    """Arrays of such inputs; ``shape`` as for ``hypothesis.extra.numpy.arrays`` (default: any of up to 2 axes)."""
    kind = input_dtype(dtype)
    if shape is None:
        shape = arrays_of.array_shapes(min_dims=0, max_dims=2, max_side=6)
    return arrays_of.arrays(kind, shape, elements=values(format, kind, regions=regions))
