"""What a record read from JSON must look like, as data: a type, a list of one shape, a table of names that must be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCALAR = (str, int, float)
Shape = type | tuple[type, ...] | list[Any] | Mapping[Any, Any]

UNIT: dict[Any, Any] = {str: SCALAR}  # any names
RECORD: dict[str, Any] = {
    "experiment": str,
    "title": str,
    "question": str,
    "claims": [{"text": str, "source": str, "stated": str, "kind": str}],
    "verdict": {
        "status": str,
        "summary": str,
        "findings": [{"quantity": str, "stated": str, "measured": str}],
    },
    "profile": str,
    "seeds": int,
    "units": [{"unit": UNIT, "seconds": float}],
    "seconds": float,
    "started": str,
    "finished": str,
    "fingerprint": str,
    "environment": {"cpu": str, "cores": int, "system": str, "fpemu": str, "python": str, "numpy": str, "numba": str},
    "tables": [{"name": str, "file": str, "rows": int, "columns": {str: str}, "sha256": str}],
    "figures": [{"name": str, "file": str, "caption": str, "width": int, "height": int}],
}


def misfit(value: Any, shape: Shape, name: str = "") -> str | None:
    """Where a value is not of a shape, in a few words; None where it is.  Names beyond those of a shape are free."""
    if isinstance(shape, Mapping):
        return _misfit_of_table(value, shape, name)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is missing or not of type list"
        return next((wrong for at, one in enumerate(value) if (wrong := misfit(one, shape[0], f"{name}[{at}]"))), None)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return None
    if float in kinds and type(value) is int:
        return None
    return f"{name} is missing or not of type {' or '.join(kind.__name__ for kind in kinds)}"


def _misfit_of_table(value: Any, shape: Mapping[Any, Any], name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name} is missing or not of type dict" if name else "not an object"
    free = shape.get(str)
    parts = dict.fromkeys(value, free) if free is not None else shape
    dot = f"{name}." if name else ""
    return next((wrong for key, part in parts.items() if (wrong := misfit(value.get(key), part, f"{dot}{key}"))), None)
