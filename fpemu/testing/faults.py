"""What kind of fault wrong results are: explained region by region, so that one fault does not hide another.

Inputs lie in REGIONS.  What becomes of NaN, infinity, zero, of negative numbers in an unsigned format and of numbers
beyond the largest finite value is told by what came out.  For all others a hypothesis is sought that gives exactly the
function's results, right and wrong ones, of all of them, else of the subnormal and of the other ones apart, else of the
binades and signs in which something is wrong.  Signs are held apart from magnitudes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.testing.ends import overflow, specials
from fpemu.testing.evidence import Evidence, Named, joined, matches
from fpemu.testing.hypotheses import Hypothesis, hypotheses
from fpemu.testing.places import Places

Array = NDArray[Any]
Mask = NDArray[np.bool_]

NEIGHBOUR, VALUE, NOT_MONOTONE = "wrong neighbour", "wrong value", "not monotone"
GENERIC = (NEIGHBOUR, VALUE, NOT_MONOTONE)
FEW = 1024  # right inputs, and wrong ones, that a hypothesis is tried on first


def explained(evidence: Evidence) -> list[Named]:
    """The faults, the commonest first and those without a name of their own last."""
    _signs(evidence)
    _off_by_one(evidence)
    _rounding(evidence)
    overflow(evidence)
    specials(evidence)
    _generic(evidence)
    return sorted(evidence.found, key=lambda one: (one.name in GENERIC, -one.where.size))


# ---- signs --------------------------------------------------------------------------------------------------------------
def _signs(of: Evidence) -> None:
    """Signs that are not the input's; magnitudes are compared without them from here on."""
    format = of.cast.format
    if not format.signed:
        return
    with np.errstate(invalid="ignore"):
        other = (np.signbit(of.got) != np.signbit(of.x)) & ~np.isnan(of.got) & ~np.isnan(of.x)
        nonzero = other & (of.got != 0)
        nothing = (of.right == 0) | (
            of.places.magnitude < format.smallest_normal
        )  # where a zero is the magnitude's business
        zero = other & nothing & (of.got == 0) if format.negative_zero else (of.got == 0) & np.signbit(of.got)
    for negative, detail in ((True, "negative numbers become positive"), (False, "positive numbers become negative")):
        mine = np.signbit(of.x) == negative
        turned, zeros = nonzero & mine, zero & mine
        if turned.any():
            _name_sign(of, turned | zeros, "wrong sign", detail)
        else:
            _name_sign(of, zeros, "loses -0" if negative and format.negative_zero else "makes -0", "")


def _name_sign(of: Evidence, where: Mask, name: str, detail: str) -> None:
    """Named; what has a wrong magnitude too stays open."""
    magnitude = np.abs(of.got) == np.abs(of.right)
    still = of.open & where & ~magnitude
    of.name(where, name, detail)
    of.open |= still


# ---- the largest finite value -------------------------------------------------------------------------------------------
def _off_by_one(of: Evidence) -> None:
    """Nothing becomes the largest finite value, or something becomes the value after it."""
    below, largest, beyond = of.largest
    size, finite = np.abs(of.got), np.isfinite(of.x) & ~of.among("negative")
    name = "largest finite value off by one"
    for mine in (~np.signbit(of.x), np.signbit(of.x)):
        should = mine & finite & (np.abs(of.right) == largest)
        gone = size == below
        inside, before = should & ~of.among("overflow"), mine & finite & (np.abs(of.right) == below)
        reached = not before.any() or 2 * np.count_nonzero(gone[before]) > np.count_nonzero(before)
        if inside.any() and reached and (of.wrong & (gone | ~np.isfinite(of.got)))[should].all():
            of.name(should | mine & gone & of.among("overflow", "infinity"), name, f"ends at {below:g}")
    over = (size > largest) & np.isfinite(size)
    if (size[over] == beyond).all():
        of.name(over & of.among("overflow", "infinity"), name, f"goes on to {beyond:g}")


# ---- rounding -----------------------------------------------------------------------------------------------------------
def _rounding(of: Evidence) -> None:
    """Among the normal and the subnormal numbers."""
    inside = of.among("tie", "subnormal", "normal")
    small = of.places.magnitude < of.cast.format.smallest_normal
    for symptoms in (False, True):
        if symptoms:
            _symptoms(of, inside)
        if _fit(of, inside):
            return
    cells = inside & _cells(of, inside & of.open)
    if _fit(of, cells, _extent(of, cells)):
        return
    for part in (inside & ~small, inside & small):
        if not _fit(of, part):
            cells = part & _cells(of, part & of.open)
            _fit(of, cells, _extent(of, cells))
        _nearly(of, part)


def _symptoms(of: Evidence, inside: Mask) -> None:
    """Results that no rounding gives."""
    of.name(inside & of.open & np.isnan(of.got), "finite to NaN")
    of.name(inside & of.open & np.isinf(of.got), "finite to infinity")
    large = of.places.magnitude >= of.cast.format.smallest_normal
    of.name(inside & of.open & large & (of.got == 0), "finite to zero")
    with np.errstate(invalid="ignore"):
        got = Places.of(of.got, of.cast.format)
        off = (got.position != 0) & np.isfinite(of.got)
    of.name(inside & of.open & off, "off-grid result")


def _cells(of: Evidence, wrong: Mask) -> Mask:
    """The inputs in those binades, and of those signs, in which something is wrong."""
    binade = np.frexp(of.x)[1].astype(np.int64) * 2 + np.signbit(of.x)
    return np.isin(binade, np.unique(binade[wrong]))


def _extent(of: Evidence, cells: Mask) -> str:
    """What these inputs have in common, in words."""
    x = of.x[cells]
    if not x.size:
        return ""
    size = np.frexp(x)[1]
    sign = "negative " if np.signbit(x).all() else "positive " if not np.signbit(x).any() else ""
    return f"only of {sign}numbers from {np.ldexp(1.0, int(size.min()) - 1):g} to {np.ldexp(1.0, int(size.max())):g}"


def _fit(of: Evidence, group: Mask, detail: str = "") -> bool:
    """Find what gives all results of a group (but those that are explained otherwise), and name it; True if there is any."""
    open_ = np.flatnonzero(group & of.open)
    if not open_.size:
        return True
    settled = np.flatnonzero(group & ~of.wrong)
    few = np.concatenate([_some(open_), _some(settled)])
    every = np.concatenate([open_, settled])
    for hypothesis in hypotheses(of.cast, of.source):
        if all(matches(hypothesis.results(of.x[some]), of.got[some]).all() for some in (few, every)):
            _credit(of, group & of.open, hypothesis, detail)
            return True
    return False


def _some(indices: Array) -> Array:
    return indices[np.linspace(0, indices.size - 1, min(indices.size, FEW)).astype(np.intp)]


def _credit(of: Evidence, where: Mask, hypothesis: Hypothesis, detail: str) -> None:
    """Name a hypothesis; of two parts each gets the inputs that it explains alone, the first what only both explain."""
    of.fitted, of.extent = hypothesis, detail
    at = np.flatnonzero(where)
    parts = [(part, one) for part in hypothesis.names for one in _singles(of) if one.names == (part,)]
    left = np.ones(at.size, np.bool_)
    credited = []
    for part, one in parts if len(hypothesis.names) > 1 else []:
        alone = left & matches(one.results(of.x[at]), of.got[at])
        left &= ~alone
        credited.append((part, alone))
    first = hypothesis.names[0]
    credited.append((first, left))
    for (name, more), which in credited:
        mask = np.zeros_like(where)
        mask[at[which]] = True
        of.name(mask, name, joined(more, detail))


def _singles(of: Evidence) -> list[Hypothesis]:
    return [one for one in hypotheses(of.cast, of.source) if len(one.names) == 1]


def _nearly(of: Evidence, group: Mask) -> None:
    """Name what explains most of what is left and contradicts little of what is right, as often as there is such a thing."""
    for _ in range(4):
        left = np.flatnonzero(group & of.open)
        if not left.size:
            return
        right = np.flatnonzero(group & ~of.wrong)
        best, most = None, 0
        for one in _singles(of):
            explains = matches(one.results(of.x[left]), of.got[left])
            count = int(np.count_nonzero(explains))
            if (
                count > most
                and 4 * count >= left.size
                and 10 * np.count_nonzero(~matches(one.results(of.x[right]), of.got[right])) <= count
            ):
                best, most = (one, left[explains]), count
        if best is None:
            return
        mask = np.zeros_like(group)
        mask[best[1]] = True
        _credit(of, mask, best[0], "of most of these inputs")


# ---- what is left ---------------------------------------------------------------------------------------------------------
def _generic(of: Evidence) -> None:
    """What has no name of its own; a lack of order is told, as it shows what the function is not."""
    with np.errstate(invalid="ignore"):
        neighbour = (np.abs(of.got) == of.places.inner) | (np.abs(of.got) == of.places.outer)
    if of.open.any() and not is_monotone(of.x, of.got):
        near = np.count_nonzero(of.open & neighbour)
        of.name(
            of.open,
            NOT_MONOTONE,
            f"{near:,} wrong neighbours, {np.count_nonzero(of.open) - near:,} other values",
        )
    of.name(of.open & neighbour, NEIGHBOUR)
    of.name(of.open, VALUE)


def is_monotone(x: Array, values: Array) -> bool:
    """Whether larger inputs never give smaller results, NaNs aside."""
    kept = ~(np.isnan(x) | np.isnan(values))
    order = np.argsort(x[kept])
    sorted_x, sorted_values = x[kept][order], values[kept][order]
    drops = sorted_values[1:] < sorted_values[:-1]
    return not bool((drops & (sorted_x[1:] > sorted_x[:-1])).any())
