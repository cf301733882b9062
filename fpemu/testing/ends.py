"""What becomes of numbers beyond the largest finite value, of NaN, infinity and zero, and of negative ones in unsigned formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.policies import OVERFLOW_RULES, Overflow
from fpemu.testing.evidence import Evidence, by_words, joined, matches, words
from fpemu.testing.hypotheses import TRUNCATES, policy

Array = NDArray[Any]
Mask = NDArray[np.bool_]


# ---- overflow -----------------------------------------------------------------------------------------------------------
def overflow(of: Evidence) -> None:
    """Beyond the largest finite value: by the rounding that was found, under any policy; else by what came out."""
    for negative in (False, True):
        mine = of.among("overflow") & (np.signbit(of.x) == negative)
        if (mine & of.open).any():
            _fit_overflow(of, np.flatnonzero(mine & (of.open | ~of.wrong)))
            _by_threshold(of, mine & of.open)


def _fit_overflow(of: Evidence, every: Array) -> None:
    """Find the policy, and the rounding, that give all of these, and name what differs."""
    x, got = of.x[every], of.got[every]
    for rule in (of.cast.overflow, *(one for one in Overflow if one is not of.cast.overflow)):
        for rounds, results in _thresholds(of, x, rule):
            if matches(results, got).all():
                _name_overflow(of, every, rounds, rule)
                return


def _thresholds(of: Evidence, x: Array, rule: Overflow) -> Iterator[tuple[bool, Array]]:
    """Results of these inputs under an overflow policy: by the policy's rounding, by the one that was found, and chopped."""
    own, found = policy(of.cast, of.source), of.fitted
    yield False, own.results(x, rule)
    yield True, found.results(x, rule)
    if any(name == TRUNCATES for name, _ in found.names):
        beyond = np.abs(x) >= of.largest[2]
        apart = (
            OVERFLOW_RULES[rule].infinite != OVERFLOW_RULES[rule].finite
        )  # what infinities become tells nothing then
        far = own.results(x if apart else np.copysign(np.inf, x), rule)
        yield True, np.where(beyond, far, np.copysign(of.largest[1], x))


def _name_overflow(of: Evidence, every: Array, rounds: bool, rule: Overflow) -> None:
    mask = np.zeros_like(of.open)
    mask[every] = True
    mask &= of.open
    if rounds:
        by_policy = policy(of.cast, of.source).results(of.x[every], rule)
        threshold = np.zeros_like(of.open)
        threshold[every] = ~matches(by_policy, of.got[every])
        at = mask & threshold
        _credit_rounding(of, at)
    by_words(of, mask, "wrong overflow result")


def _credit_rounding(of: Evidence, where: Mask) -> None:
    for name, detail in of.fitted.names[:1]:
        of.name(where, name, joined(detail, of.extent))


def _by_threshold(of: Evidence, where: Mask) -> None:
    """Near the largest finite value a wrong threshold, as long as the result is one that is seen further out."""
    near = where & (of.places.magnitude <= 2 * of.largest[2] - of.largest[1])
    further = of.among("overflow") & ~near
    got, right = words(of.got, of), words(of.right, of)
    seen = {*got[further].tolist(), *right[of.among("overflow")].tolist()}
    ends = seen & {"NaN", "infinity", "the largest finite value"}
    of.name(near & np.isin(got, sorted(ends)) & of.open, "wrong overflow threshold")
    by_words(of, where, "wrong overflow result")


# ---- NaN, infinity, zero, negative numbers ------------------------------------------------------------------------------
def specials(of: Evidence) -> None:
    by_words(of, of.among("NaN"), "wrong result of NaN", dropped="NaN dropped")
    by_words(of, of.among("infinity"), "wrong result of infinity")
    by_words(of, of.among("zero"), "wrong result of zero")
    negative = of.among("negative") & of.open
    if negative.any():
        opposite, got, mask = -of.x[negative], of.got[negative], np.zeros_like(negative)
        both = (of.fitted, policy(of.cast, of.source))
        mask[negative] = np.logical_or.reduce([matches(one.results(opposite), got) for one in both])
        if 2 * np.count_nonzero(mask) > np.count_nonzero(negative):
            of.name(mask, "wrong result of negative numbers", "the sign is dropped")
        by_words(of, negative, "wrong result of negative numbers")
