"""The inputs of ``check_stochastic``: values that must not move, and points in gaps of every region, all in one array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.formats import FloatFormat
from fpemu.policies import Cast, Subnormals
from fpemu.testing.hypotheses import converted
from fpemu.testing.places import Places
from fpemu.testing.results import as_values

Array = NDArray[Any]

#: Gaps by what they lie between; "lowest" is the gap above zero, "overflow" the one above the largest finite value.
GAPS = ("lowest", "subnormal", "normal", "last binade", "overflow")
EXACT, REPEATED, ROW = "exact", "repeated", "row"  # values that must not move; some values often; one value in a row
VALUES, COPIES = 256, 16  # of "repeated"
EACH = 1 << 14  # at most, of a gap and sign
MOST_CODES = 1 << 12  # of a wide format that are tried as exact values
CERTAIN = (
    32.0  # how many draws should go outward, so that none does by a fault only: exp(-32) is below every test's share
)


@dataclass(frozen=True)
class Inputs:
    """Inputs and what may become of them.

    Attributes
    ----------
    x: the inputs in the dtype of the source. kind: an index into ``kinds`` for each: a gap, a gap and the number of a
        random bit, EXACT, REPEATED or ROW. negative: their signs.
    inner, outer: what the two neighbours become by the policy, with their signs, float64; the same where nothing is left
        to chance. position: how far up the gap.
    """

    x: Array
    kinds: tuple[str, ...]
    kind: Array
    negative: Array
    inner: Array
    outer: Array
    position: Array

    @property
    def open(self) -> Array:
        """Where it is left to chance."""
        return np.asarray(~((self.inner == self.outer) | np.isnan(self.inner) & np.isnan(self.outer)))

    def at(self, where: Any) -> Inputs:
        """Some of them."""
        ends = self.inner[where], self.outer[where]
        return Inputs(self.x[where], self.kinds, self.kind[where], self.negative[where], *ends, self.position[where])


def inputs(cast: Cast, dtype: np.dtype[Any], draws: int, seed: int) -> Inputs:
    """Shuffled, but for a row of one value in the middle."""
    rng = np.random.default_rng(seed)
    parts = {**_gaps(cast.format, dtype, min(draws // 8, EACH), rng), **_bits(cast, dtype, draws, rng)}
    middles = _middles(cast.format, dtype)
    parts[REPEATED] = np.repeat(middles, max(COPIES, VALUES * COPIES // max(middles.size, 1)))
    parts = {name: _signed(x, rng) if cast.format.signed else x for name, x in parts.items()}
    parts[EXACT] = np.tile(_exact(cast.format, dtype), 4)
    kinds = (*parts, ROW)
    x = np.concatenate(list(parts.values()))
    kind = np.repeat(np.arange(len(parts)), [part.size for part in parts.values()])
    order = rng.permutation(x.size)
    row = _row(cast.format, dtype, draws)
    x, kind = x[order], kind[order]
    half = x.size // 2
    x = np.concatenate([x[:half], row, x[half:]])
    kind = np.concatenate([kind[:half], np.full(row.size, len(parts)), kind[half:]])
    return _placed(x, kinds, kind, cast)


# ---- what may become of them -----------------------------------------------------------------------------------------
def _placed(x: Array, kinds: tuple[str, ...], kind: Array, cast: Cast) -> Inputs:
    with np.errstate(all="ignore"):
        y = x.astype(np.float64)
        first = converted(y, cast.via) if cast.via is not None else y
        if cast.subnormals is Subnormals.FLUSH_INPUT:
            small = np.abs(first) < np.finfo(x.dtype).smallest_normal
            first = np.where(small, np.copysign(0.0, first), first)
        places = Places.of(first, cast.format)
        position, inner, outer = places.position, places.inner, places.outer
        if cast.subnormals is Subnormals.ROUND_TO_MIN:
            least = cast.format.smallest_normal
            small = np.abs(first) < least
            position = np.where(small, np.abs(first) / least, position)
            inner, outer = np.where(small, 0.0, inner), np.where(small, least, outer)
        chance = np.isfinite(first) & (position > 0) & (inner <= cast.format.max) & (cast.format.signed | (first > 0))
        to = _fates(cast)
        sure = converted(first, to)
        below = converted(np.copysign(np.where(chance, inner, 1.0), first), to)
        above = converted(np.copysign(np.where(chance, outer, 1.0), first), to)
    if cast.subnormals is Subnormals.FLUSH_OUTPUT_BEFORE:
        chance &= np.abs(first) >= cast.format.smallest_normal
    ends = [np.where(chance, end, sure) for end in (below, above)]
    return Inputs(x, kinds, kind, np.signbit(y), ends[0], ends[1], np.where(chance, position, 0.0))


def _fates(cast: Cast) -> Cast:
    """What becomes of an end of a gap: it needs no rounding, but may overflow or be flushed."""
    kept = Subnormals.KEEP if cast.subnormals is Subnormals.FLUSH_INPUT else cast.subnormals
    return cast.replace(subnormals=kept, via=None)


# ---- values that must not move ------------------------------------------------------------------------------------------
def _exact(format: FloatFormat, dtype: np.dtype[Any]) -> Array:
    """Values of the format, what lies far beyond them, zeros, infinities and NaNs, with both signs."""
    last = format.max_code
    codes = np.arange(last + 1) if last < MOST_CODES else np.unique(np.linspace(0, last, MOST_CODES).astype(np.int64))
    values = as_values(codes.astype(format.code_dtype), format)
    beyond = Places.of(values[-1:], format).outer * np.array([1.0, 1.25, 2.0, 3.5, 1024.0])
    with np.errstate(over="ignore"):
        every = np.concatenate([values, beyond, [0.0, np.inf, np.nan]])
        held = every.astype(dtype)
    held = held[(held == every) | np.isnan(every)]
    return np.concatenate([held, -held])


# ---- points in gaps ---------------------------------------------------------------------------------------------------
def _gaps(format: FloatFormat, dtype: np.dtype[Any], each: int, rng: np.random.Generator) -> dict[str, Array]:
    """So many points of each sign in each kind of gap, in a gap and at a position drawn evenly."""
    last, normal = format.max_code, format.smallest_normal_code
    binade = last & ~((1 << format.trailing_bits) - 1)
    codes = {"lowest": (0, min(normal, 1)), "subnormal": (1, normal), "normal": (normal, binade),
             "last binade": (max(binade, normal), last), "overflow": (last, last + 1)}  # fmt: skip
    found = {}
    for name, (start, stop) in codes.items():
        if start < stop:
            inner = as_values(rng.integers(start, stop, 2 * each).astype(format.code_dtype), format)
            found[name] = _held(inner, Places.of(inner, format).outer, rng.random(2 * each), dtype, format)
    return {name: x for name, x in found.items() if x.size}


def _held(inner: Array, outer: Array, position: Array, dtype: np.dtype[Any], format: FloatFormat) -> Array:
    """Points that the dtype has inside of their gaps."""
    with np.errstate(all="ignore"):
        x = (inner + position * (outer - inner)).astype(dtype)
        wide = x.astype(np.float64)
    return np.asarray(x[(wide > inner) & (wide < outer)])


def _signed(x: Array, rng: np.random.Generator) -> Array:
    return np.asarray(np.where(rng.integers(0, 2, x.size), -x, x))


def _middles(format: FloatFormat, dtype: np.dtype[Any]) -> Array:
    """Some middles of gaps, from where either way is as likely with any number of random bits."""
    codes = _binades(format, dtype)
    inner = as_values(codes[:: max(1, codes.size // VALUES)], format)
    return _held(inner, Places.of(inner, format).outer, np.full(inner.size, 0.5), dtype, format)


# ---- points that only some random bit moves -------------------------------------------------------------------------------
def _bits(cast: Cast, dtype: np.dtype[Any], draws: int, rng: np.random.Generator) -> dict[str, Array]:
    """For each random bit j that so many draws show: points just below 2^-j of a gap, and at the other end of it.

    With j random bits of variant A such a point never goes outward, with more it does with a probability near 2^-j.
    """
    format, found = cast.format, {}
    discarded = np.finfo(dtype).nmant + 1 - format.precision
    draws *= 1 if cast.stochastic.value == "A" else 2  # B and C show j bits only at j + 1
    most = min(cast.random_bits, int(np.log2(draws / CERTAIN)))
    codes = _binades(format, dtype)
    for j in range(1, most + 1):
        size = int(min(draws, 1.4 * CERTAIN * 2**j))
        if j < discarded and codes.size:
            inner, top = as_values(rng.choice(codes, size), format), 1 << (discarded - j)
            step = rng.integers(top - max(top >> 4, 1), top, size) / (1 << discarded)
            found[f"normal, bit {j}"] = _held(inner, Places.of(inner, format).outer, step, dtype, format)
        if format.has_zero:
            step = (1 - rng.integers(1, 64, size) / 1024) / 2.0**j
            zero = np.zeros(size)
            x = _held(zero, zero + format.smallest_subnormal, step, dtype, format)
            exact = x.astype(np.float64) == step[: x.size] * format.smallest_subnormal if x.size == size else x != x
            found[f"lowest, bit {j}"] = x[exact]
    if discarded > 1 and codes.size:
        inner = as_values(rng.choice(codes, draws), format)
        found["normal, near the outer end"] = _held(
            inner, Places.of(inner, format).outer, np.full(draws, 1 - 1 / (1 << discarded)), dtype, format
        )
    return {name: x for name, x in found.items() if x.size}


def _binades(format: FloatFormat, dtype: np.dtype[Any]) -> Array:
    """Normal codes whose gaps the dtype divides as finely as it can."""
    codes = np.arange(format.smallest_normal_code, format.max_code)
    codes = codes[:: max(1, codes.size // MOST_CODES)]
    values = as_values(codes, format)
    info = np.finfo(dtype)
    return np.asarray(codes[(values >= float(info.smallest_normal)) & (2 * values <= float(info.max))])


def _row(format: FloatFormat, dtype: np.dtype[Any], draws: int) -> Array:
    """One value in the middle of its gap, over and over."""
    size = min(max(draws // 4, 1024), 1 << 16)
    codes = _binades(format, dtype)
    if not codes.size:
        return np.zeros(0, dtype)
    one = codes[int(np.argmin(np.abs(np.log2(as_values(codes, format)))))]
    inner = as_values(np.array([one]), format)
    x = _held(inner, Places.of(inner, format).outer, np.array([0.5]), dtype, format)
    return np.repeat(x, size)
