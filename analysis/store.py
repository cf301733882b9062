"""Tidy tables on disk: units as .npz while a run lasts, CSV when it is done. Whole or not at all, and no pickles.

A table has a plain index and columns of numbers, booleans or text. CSV keeps every float exactly (shortest repr), and
the column types travel beside it, so that a table read back is the table that was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.files import write_whole
from fpemu.reading import load_arrays, read_whole

Tables = dict[str, pd.DataFrame]

FILE_NAME = re.compile(r"[a-z][a-z0-9_]*")


# ---- what a table may hold ------------------------------------------------------------------------------------------
def tidy(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with a plain index and settled column types; TypeError or ValueError names what cannot be kept."""
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"table name {name!r} must be lower-case letters, digits and underscores")
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table {name} must be a pandas DataFrame, not {type(table).__name__}")
    columns = list(table.columns)
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise TypeError(f"table {name}: every column needs a name")
    if len(set(columns)) < len(columns):
        raise ValueError(f"table {name}: column names repeat")
    return pd.DataFrame({column: _settle(table[column], f"table {name}, column {column}") for column in columns})


def _settle(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    """A column as int, float, bool or str."""
    plain = column.reset_index(drop=True)
    if isinstance(plain.dtype, np.dtype) and plain.dtype.kind in "iufb":
        return plain
    values = plain.tolist()
    if values and all(isinstance(value, str) for value in values):
        return pd.Series(values, dtype="str")
    if not values:
        return pd.Series(values, dtype="str")
    inferred = pd.Series(values).infer_objects()
    if all(value is None or value is pd.NA for value in values):
        inferred = pd.Series([np.nan] * len(values))
    if isinstance(inferred.dtype, np.dtype) and inferred.dtype.kind in "iufb":
        return inferred
    raise TypeError(f"{where}: only numbers, booleans or text without gaps can be kept")


def column_types(table: pd.DataFrame) -> dict[str, str]:
    """Column name -> type name, as ``from_csv`` takes it."""
    return {str(column): str(table[column].dtype) for column in table.columns}


# ---- CSV --------------------------------------------------------------------------------------------------------------
def to_csv(table: pd.DataFrame) -> bytes:
    """A tidy table as CSV (UTF-8, newline endings, NaN as ``nan``)."""
    return str(table.to_csv(index=False, lineterminator="\n", na_rep="nan")).encode()


def from_csv(content: bytes, types: Mapping[str, str]) -> pd.DataFrame:
    """The tidy table that ``to_csv`` wrote; ValueError if it does not fit ``types``."""
    texts = pd.read_csv(StringIO(content.decode()), dtype="str", keep_default_na=False, na_filter=False)
    if list(texts.columns) != list(types):
        raise ValueError(f"columns {list(texts.columns)} are not the recorded {list(types)}")
    return pd.DataFrame({column: pd.Series(_parse(texts[column].tolist(), kind)) for column, kind in types.items()})


_TRUTH = {"True": True, "False": False}


def _parse(texts: list[str], kind: str) -> Any:
    """A column of texts as the type it was written from."""
    if kind == "str":
        return pd.array(texts, dtype="str")
    dtype = np.dtype(kind)
    if dtype.kind == "b":
        return np.array([_TRUTH[text] for text in texts], dtype=bool)
    return np.array([int(text) if dtype.kind in "iu" else float(text) for text in texts], dtype=dtype)


# ---- units --------------------------------------------------------------------------------------------------------------
def save_unit(path: Path, key: Mapping[str, Any], tables: Tables, facts: Mapping[str, Any]) -> None:
    """Keep the tables of one unit, with the key they belong to and some facts (time taken), in one file."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    layout: dict[str, dict[str, str]] = {}
    for name, table in tables.items():
        layout[name] = column_types(table)
        for column in table.columns:
            values = table[column]
            arrays[f"{len(arrays)}"] = values.to_numpy(dtype=np.str_ if str(values.dtype) == "str" else None)
    about = json.dumps({"key": key, "layout": layout, "facts": facts}).encode()
    buffer = BytesIO()
    np.savez_compressed(buffer, about=np.frombuffer(about, np.uint8), **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())


def load_unit(path: Path, key: Mapping[str, Any]) -> tuple[Tables, dict[str, Any]] | None:
    """Tables and facts of a unit; None if it was never kept, is damaged, or belongs to another key."""
    try:
        arrays = load_arrays(read_whole(path))
        about = json.loads(arrays["about"].tobytes())
        if about["key"] != key:
            return None
        columns = iter(range(len(arrays)))
        tables = {
            name: pd.DataFrame(
                {column: pd.Series(arrays[str(next(columns))], dtype=kind) for column, kind in types.items()}
            )
            for name, types in about["layout"].items()
        }
        return tables, about["facts"]
    except Exception:
        return None
