"""What the experiments on sums share: seeded terms, sums without error, and the unit of error of a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import fpemu as fp
from fpemu.formats import FloatFormat, as_format

Codes = NDArray[np.unsignedinteger[Any]]


def unit_roundoff(format: FloatFormat | str) -> float:
    """u = 2**-p: the largest relative error of one rounding to nearest."""
    return float(2.0 ** -as_format(format).precision)


def lengths(first: int, last: int, per_decade: int) -> list[int]:
    """Whole numbers from ``first`` to ``last``, evenly spaced on a logarithmic axis, both ends among them."""
    count = max(2, round(np.log10(last / first) * per_decade) + 1)
    return sorted({round(n) for n in np.geomspace(first, last, count)})


def exact_sums(codes: Codes, format: FloatFormat | str, counts: Sequence[int]) -> NDArray[np.float64]:
    """Sums of the first ``counts`` terms of each row, correctly rounded to float64: shape (rows, counts)."""
    values = fp.decode(codes, format).astype(np.float64).tolist()
    return np.array([[fsum(row[:count]) for count in counts] for row in values])


def sums(
    codes: Codes,
    format: FloatFormat | str,
    counts: Sequence[int],
    methods: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
) -> pd.DataFrame:
    """A row for every method, number of terms and row of ``codes``: the sum, and what it is without error.

    ``methods``: what ``fpemu.sum`` is told, by name. The magnitude is the sum of absolute values, to which bounds refer.
    """
    exact = exact_sums(codes, format, counts)
    magnitude = exact_sums(np.asarray(fp.absolute(codes, format)), format, counts)
    tables = [
        pd.DataFrame(
            {
                "method": method,
                "terms": count,
                "draw": np.arange(len(codes)),
                "sum": fp.decode(fp.sum(codes[:, :count], format, seed=seed, **how), format).astype(np.float64),
                "exact": exact[:, place],
                "magnitude": magnitude[:, place],
            }
        )
        for method, how in methods.items()
        for place, count in enumerate(counts)
    ]
    return pd.concat(tables, ignore_index=True)
