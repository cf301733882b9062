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
    """Compare on the edges: all but the roofline, which converts nothing, and fpemu, which is what is compared with.

    A peer that raises has refused; an error of ours is an error.
    """
    if contender.role == ROOFLINE or contender.name == contenders.NAME:
        return Agreement(0, 0, "", "")
    asked, x = _as_followed(contender, work), edges(work)
    try:
        theirs = _result(contender, work, x, threads)
    except Exception as error:
        if contender.role != PEER:
            raise
        return Agreement(0, 0, "", f"{type(error).__name__}: {error}")
    ours = _result(contenders.fpemu_at(asked), asked, x, threads)
    return Agreement(theirs.size, differing(ours, theirs, work), "" if asked == work else asked.cast.overflow.value, "")


def _as_followed(contender: Contender, work: Work) -> Work:
    """The work with the overflow policy of the contender."""
    if contender.role != PEER or len(work.casts) != 1:
        return work
    return replace(work, casts=(followed(contender.name, work.reads, work.cast),))


def _result(contender: Contender, work: Work, x: Array, threads: int) -> Array:
    run = contender.prepare(work, x, threads)
    run.call()
    return run.result()


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
    if work.kind == "matmul":
        results = np.asarray(fp.decode(results, work.engine.accumulator))
    values = fp.decode(results, work.cast.format) if work.kind in ("encode", "arithmetic") else results
    return np.isnan(values)
