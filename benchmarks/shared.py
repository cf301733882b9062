"""tests/implementations.py: which peer claims to be right for what.  Tests and benchmarks share that table."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fpemu import Cast, Overflow

TESTS = Path(__file__).resolve().parent.parent / "tests"


@cache
def implementations() -> Any:
    """The module."""
    sys.path.append(str(TESTS))
    try:
        return importlib.import_module("implementations")
    finally:
        sys.path.remove(str(TESTS))


def followed(peer: str, dtype: Any, cast: Cast) -> Cast:
    """The cast with the overflow policy that a peer follows; as it is where the peer claims nothing."""
    row = implementations().TABLE.get(peer)
    if row is None:
        return cast
    asked = (cast, *(cast.replace(overflow=one) for one in Overflow))
    # What it claims of float32 tells its policy for dtypes that it rounds twice, too.
    return next((one for of in (dtype, np.dtype(np.float32)) for one in asked if row.handles(of, one)), cast)
