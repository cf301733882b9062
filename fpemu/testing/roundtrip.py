"""``check_roundtrip``: do all codes survive decoding and encoding?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu import reference
from fpemu.arrays import decode
from fpemu.formats import FloatFormat, FormatName, as_format
from fpemu.policies import Cast
from fpemu.targets.environment import in_default_environment
from fpemu.testing.conversion import CHANGES, NOT_DETERMINISTIC
from fpemu.testing.functions import Function, NotAConversion, Subject
from fpemu.testing.report import Counterexample, Fault, Report
from fpemu.testing.results import as_values, same

WRONG_VALUE, CHANGED = "wrong value", "code changes"


@in_default_environment
def check_roundtrip(
    decoder: Function, encoder: Function, format: FormatName, *, forbid_mutation: bool = False
) -> Report:
    """Whether ``decoder`` gives the value of every code, and ``encoder`` every code again.

    Each is called twice, with a writable copy each time; a difference is told before anything else.

    Parameters
    ----------
    decoder: takes codes of the format, an array or one at a time, and returns values.
    encoder: takes what ``decoder`` returned, and returns codes.
    format: of at most 16 bits, whose values float64 holds.
    forbid_mutation: whether it is a fault to write to the argument.

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
    right = decode(codes, target)
    decoding, encoding = Subject(decoder, target), Subject(encoder, target)
    returned = decoding.returned(codes)
    values = as_values(decoding.settled(returned, codes), target)
    back = encoding(returned)
    if back.dtype.kind == "f":
        raise NotAConversion("the encoder returns values, not codes")
    first = [Fault(NOT_DETERMINISTIC, f"{subject.name} gave two results for {differ:,} of {codes.size:,} inputs")
             for subject, x, before in ((decoding, codes, values), (encoding, returned, back))
             if (differ := int(np.count_nonzero(~same(subject(x), before, target))))]  # fmt: skip
    if forbid_mutation:
        first += [Fault(CHANGES, subject.name) for subject in (decoding, encoding) if subject.changed]
    wrong_value = ~same(values, right, target)
    changed = ~same(back, codes, target) & ~wrong_value
    faults = [fault for kind, wrong, got in ((WRONG_VALUE, wrong_value, values), (CHANGED, changed, as_values(back, target)))
              for fault in _faults(kind, wrong, got, target)]  # fmt: skip
    failing = sum(fault.count for fault in faults)
    name = f"{decoding.name} and {encoding.name}"
    all_codes = f"all codes of {target.name}"
    return Report(name, Cast(target), all_codes, codes.size, failing, True, (*first, *faults), failing, failing)


def _faults(kind: str, wrong: NDArray[np.bool_], got: NDArray[Any], target: FloatFormat) -> list[Fault]:
    """The fault of these codes, where there is one."""
    if not wrong.any():
        return []
    at = int(np.flatnonzero(wrong)[0])
    real = reference.value(at, target)
    made = reference.as_real(float(got[at]))
    example = Counterexample(real, f"code {at:#x}", made, real, at, "the same value", kind)
    return [Fault(kind, "", {"codes": int(np.count_nonzero(wrong))}, example)]
