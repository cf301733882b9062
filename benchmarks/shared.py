"""tests/implementations.py: which peer claims to be right for what.  Tests and benchmarks share that table."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

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
    return next((one for one in asked if row.handles(dtype, one)), cast)
