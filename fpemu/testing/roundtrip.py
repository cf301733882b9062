"""``check_roundtrip``: do all codes survive decoding and encoding?"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu import reference
from fpemu.arrays import decode
from fpemu.formats import FloatFormat, as_format
from fpemu.policies import Cast
from fpemu.testing.functions import Function, NotAConversion, called
from fpemu.testing.report import Counterexample, Report

WRONG_VALUE, CHANGED = "wrong value", "code changes"


def check_roundtrip(decoder: Function, encoder: Function, format: FloatFormat | str) -> Report:
    """Whether ``decoder`` gives the value of every code, and ``encoder`` every code again.

    Parameters
    ----------
    decoder: takes codes of the format, an array or one at a time, and returns values.
    encoder: takes what ``decoder`` returned, and returns codes.
    format: of at most 16 bits, whose values float64 holds.

    Returns
    -------
    Report of all codes.  Any NaN code is right where a NaN was.

    Raises
    ------
    NotAConversion: one of them raised, or the decoder returned no floats or the encoder no codes.
    ValueError: a wider format.
    """
    target = as_format(format)
    if target.bits > 16:
        raise ValueError(f"all codes are tried of formats of at most 16 bits, not of {target.name}")
    codes = np.arange(1 << target.bits, dtype=np.uint32).astype(target.code_dtype)
    right = decode(codes, target, dtype=np.float64)
    values = called(decoder, codes, target)
    if values.dtype.kind != "f":
        values = decode(values, target, dtype=np.float64)
    back = called(encoder, _as_returned(decoder, codes), target)
    if back.dtype.kind == "f":
        raise NotAConversion("the encoder returns values, not codes")
    nan = np.isnan(right)
    wrong_value = ~((values == right) & (np.signbit(values) == np.signbit(right)) | (np.isnan(values) & nan))
    changed = ~((back == codes) | (np.isnan(decode(back, target, dtype=np.float64)) & nan)) & ~wrong_value
    kinds = Counter({WRONG_VALUE: int(wrong_value.sum()), CHANGED: int(changed.sum())})
    failing = int((wrong_value | changed).sum())
    example = None
    if failing:
        at = int(np.flatnonzero(wrong_value if wrong_value.any() else changed)[0])
        kind = WRONG_VALUE if wrong_value.any() else CHANGED
        got = values[at] if wrong_value.any() else decode(back[at : at + 1], target, dtype=np.float64)[0]
        real = reference.value(at, target)
        example = Counterexample(real, f"code {at:#x}", reference.as_real(float(got)), real, at, "the same value", kind)
    name = f"{_name(decoder)} and {_name(encoder)}"
    found = {kind: count for kind, count in kinds.most_common() if count}
    return Report(name, Cast(target), f"all codes of {target.name}", codes.size, failing, True, example, faults=found)


def _as_returned(decoder: Function, codes: NDArray[Any]) -> NDArray[Any]:
    """What the decoder returns, in its own dtype."""
    try:
        found = np.asarray(decoder(codes))
    except Exception:
        found = np.zeros(0)
    return found if found.shape == codes.shape else np.array([decoder(code) for code in codes])


def _name(function: Function) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__
