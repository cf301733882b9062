"""Who agrees: every contender's result is compared with ours before it is timed."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

import fpemu as fp
from benchmarks import contenders
from benchmarks.contenders import Contender
from benchmarks.results import PEER, ROOFLINE
from benchmarks.shared import followed
from benchmarks.works import BITS, Array, Work, edges


class Agreement(NamedTuple):
    """How a contender's results compare with ours."""

    compared: int  #: results
    differing: int
    overflow: str  #: the overflow policy it follows, if it is not the work's
    refused: str  #: the error it raised instead


def of(contender: Contender, work: Work, threads: int) -> Agreement:
    """Compare on the edges (the roofline converts nothing).  A peer that raises has refused; an error of ours is an error."""
    if contender.role == ROOFLINE:
        return Agreement(0, 0, "", "")
    theirs_cast = followed(contender.name, work.reads, work.cast) if contender.role == PEER and len(work.casts) == 1 else None
    same = theirs_cast is None or theirs_cast == work.cast
    asked = work if same or theirs_cast is None else replace(work, casts=(theirs_cast,))
    x = edges(work)
    try:
        run = contender.prepare(work, x, threads)
        run.call()
        theirs = run.result()
    except Exception as error:
        if contender.role != PEER:
            raise
        return Agreement(0, 0, "", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    run = contenders.fpemu_at(asked).prepare(asked, x, threads)
    run.call()
    overflow = "" if same or theirs_cast is None else theirs_cast.overflow.value
    return Agreement(theirs.size, differing(run.result(), theirs, work), overflow, "")


def differing(ours: Array, theirs: Array, work: Work) -> int:
    """How many results differ: in their bits, NaNs by class; statistics (float sums) by more than 1e-9."""
    if ours.shape != theirs.shape:
        raise ValueError(f"{work.name}: results of shape {theirs.shape} where ours have {ours.shape}")
    if work.writes is None:
        return int(np.count_nonzero(~np.isclose(ours, theirs, rtol=1e-9, atol=0)))
    if theirs.dtype != ours.dtype:
        raise TypeError(f"{work.name}: results of dtype {theirs.dtype} where ours are {ours.dtype}")
    differ = ours.view(BITS[ours.itemsize]) != theirs.view(BITS[theirs.itemsize])
    some = np.flatnonzero(differ)
    return int(np.count_nonzero(~(_is_nan(ours[some], work) & _is_nan(theirs[some], work))))


def _is_nan(results: Array, work: Work) -> Array:
    values = fp.decode(results, work.cast.format) if work.kind == "encode" else results
    return np.isnan(values)
