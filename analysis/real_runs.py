"""Loss scales that GPUs logged while they trained: what a log says, and whether a loss scaler explains it.

The logs are public and no part of this project: a folder that $FPEMU_GPU_RUNS names holds one CSV a run and ``manifest.csv``,
which says whose run it was and how its scaler was set.  Overflows are the input; what is put to the test is every scale
before and after, and when it grew.

Where a log gives a step only within bounds, a scaler explains an event if some placement of it, and of all before it, obeys
every bound.  So all placements are followed at once: a state of the scaler, and the steps at which it may have been reached.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2
from pathlib import Path
from typing import Any

import numpy as np

from fpemu.reading import read_whole
from fpemu.scaling.loss import LossScaler, ScalerStopped
from fpemu.scaling.loss_policies import LOSS_POLICIES, LossPolicy

ENVIRONMENT = "FPEMU_GPU_RUNS"
MANIFEST = "manifest.csv"

# Which row a framework of the manifest is; the DeepSpeed runs are of 0.8 to 0.15.
ROWS = {
    "torch GradScaler": "torch",
    "NVIDIA GNMT Fp16Optimizer": "nvidia-gnmt",
    "apex amp": "apex",
    "apex amp (max_loss_scale 512)": "apex",
    "fairseq DynamicLossScaler": "fairseq",
    "fairseq": "fairseq-trainer",
    "DeepSpeed ZeRO, loss_scaler.py": "deepspeed-config-0.8",
    "DeepSpeed ZeRO-2 (MS-AMP), loss_scaler.py": "deepspeed-config-0.8",
    "DeepSpeed ZeRO, HF Trainer": "deepspeed-config-0.8",
    "DeepSpeed FP16_Optimizer (fused)": "deepspeed-fused",
    "Megatron-LM": "megatron",
    "OpenAI guided-diffusion MixedPrecisionTrainer": "guided-diffusion",
}
# What a run's configuration states, of which nothing else of a row is changed.
SETTINGS = (
    ("init", "init", float),
    ("window", "interval", int),
    ("max_scale", "cap", float),
    ("hysteresis", "hysteresis", int),
)


@dataclass(frozen=True)
class Seen:
    """What a log says of the scale: that a step was skipped ("skip"), that it grew ("growth"), what it was ("print"), or how many of some
    steps were skipped and what it was after the last ("count").

    first, last: bounds of the step, of a count the first and last step. before, after: the scale as printed, "" where it is not.
    """

    kind: str
    first: int
    last: int
    before: str
    after: str
    skips: int


@dataclass(frozen=True)
class RealRun:
    """A run: its name, its line of the manifest, what its log says of the scale, and the SHA-256 of its file."""

    name: str
    facts: dict[str, str]
    seen: tuple[Seen, ...]
    digest: str

    @property
    def policy(self) -> LossPolicy:
        """The row of LOSS_POLICIES, with what the run's configuration states."""
        row = LOSS_POLICIES[ROWS[self.facts["framework"]]]
        given: dict[str, Any] = {
            name: kind(self.facts[column]) for column, name, kind in SETTINGS if self.facts[column]
        }
        return replace(row, **given)

    @cached_property
    def events(self) -> tuple[Seen, ...]:
        return tuple(one for one in self.seen if one.kind != "print")


@dataclass(frozen=True)
class Explained:
    """How many events a scaler explains, and how many further printed scales contradict it."""

    events: int
    explained: int
    prints: int
    contradicted: int


# ---- reading --------------------------------------------------------------------------------------------------------
def folder() -> Path | None:
    """Where the logs are, if they are anywhere."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named and (Path(named) / MANIFEST).is_file() else None


def read_runs(place: Path) -> list[RealRun]:
    """Every run of a folder, in order of the manifest.  Raises OSError where a file is missing or none, KeyError where a column is."""
    lines = read_whole(place / MANIFEST).decode().splitlines()
    return [_read(place / facts["file"], facts) for facts in csv.DictReader(lines)]


def _read(path: Path, facts: dict[str, str]) -> RealRun:
    content = read_whole(path)
    lines = csv.DictReader(content.decode().splitlines())
    seen = tuple(one for line in lines if (one := _seen(line)) is not None)
    return RealRun(path.stem, facts, seen, hashlib.sha256(content).hexdigest())


def _seen(line: dict[str, str]) -> Seen | None:
    """What a line says of the scale; None for one of the loss alone."""
    before, after, overflow = line["loss_scale_before"], line["loss_scale_after"], line["overflow"]
    if not (before or after or overflow):
        return None
    kind = "print" if not overflow else "count" if not before else "growth" if overflow == "0" else "skip"
    return Seen(kind, int(line["step_min"]), int(line["step_max"]), before, after, int(overflow or 0))


def prints(scale: float, text: str) -> bool:
    """Whether a scale is printed so, to as many decimals; an empty text says nothing."""
    return not text or f"{scale:.{len(text.partition('.')[2])}f}" == text


# ---- explaining -----------------------------------------------------------------------------------------------------
class _Ahead:
    """A scaler, and what good steps make of it: after how many its scale is what, and which of them are growths."""

    def __init__(self, scaler: LossScaler) -> None:
        self._kept = {0: scaler}
        self._furthest = copy(scaler)
        self._scales, self._growths = [scaler.scale], [False]

    def __getitem__(self, good: int) -> LossScaler:
        """The scaler after so many good steps."""
        if good not in self._kept:
            if good == len(self._scales) - 1:
                self._kept[good] = copy(self._furthest)
            else:
                last = max(steps for steps in self._kept if steps < good)
                self._kept[good] = copy(self._kept[last])
                for _ in range(good - last):
                    self._kept[good].step(False)
        return self._kept[good]

    def _go(self, good: int) -> None:
        while len(self._scales) <= good:
            self._furthest.step(False)
            self._scales.append(self._furthest.scale)
            self._growths.append(self._furthest.moved)

    def scale(self, good: int) -> float:
        self._go(good)
        return self._scales[good]

    def growth(self, most: int) -> int | None:
        """The good step that is the first growth, if it is one of so many."""
        self._go(most)
        return next((good for good in range(1, most + 1) if self._growths[good]), None)

    @cached_property
    def state(self) -> tuple[Any, ...]:
        """What decides all that follows: scalers of one state need not be told apart.  (No run has a tolerance: what a scaler counts for it
        decides nothing.)"""
        passing = ("policy", "moved", "_since_move", "_overflows")
        return tuple(value for name, value in vars(self._kept[0]).items() if name not in passing)


# By state: the scaler, and the steps that may have brought it there.
Places = dict[tuple[Any, ...], tuple[_Ahead, set[int]]]


def _gathered(found: Iterable[tuple[_Ahead, Iterable[int]]]) -> Places:
    places: Places = {}
    for ahead, steps in found:
        places.setdefault(ahead.state, (ahead, set()))[1].update(steps)
    return {state: place for state, place in places.items() if place[1]}


def explain(run: RealRun, policy: LossPolicy | None = None) -> Explained:
    """Whether a policy (the run's own by default) can have written the log.

    After an event that it does not explain it goes on from the scale that was logged, with its hysteresis whatever would help.
    """
    chosen = policy or run.policy
    logs_growth = any(one.kind == "growth" for one in run.seen)
    places = _gathered([(_Ahead(LossScaler(chosen)), [-1])])
    events = explained = printed = contradicted = 0
    for seen in run.seen:
        following = _gathered(_PLACED[seen.kind](places, seen, logs_growth))
        if seen.kind == "print":
            printed += 1
            contradicted += not following
            places = following or places
        else:
            events += 1
            explained += bool(following)
            places = following or _resumed(chosen, seen)
    return Explained(events, explained, printed, contradicted)


Found = Iterator[tuple[_Ahead, Iterable[int]]]


def _skipped(places: Places, seen: Seen, logs_growth: bool) -> Found:
    """An overflow at one of the steps, after good ones (without a growth, where the log would have it)."""
    for ahead, steps in places.values():
        most = seen.last - 1 - min(steps)
        growth = ahead.growth(most) if logs_growth else None
        after: dict[tuple[Any, ...], tuple[_Ahead, list[int]]] = {}
        for good in range(max(seen.first - 1 - max(steps), 0), most + 1 if growth is None else growth):
            if prints(ahead.scale(good), seen.before):
                scaler = _overflowed(ahead[good])
                if scaler is not None and prints(scaler.scale, seen.after):
                    found = _Ahead(scaler)
                    after.setdefault(found.state, (found, []))[1].append(good)
        for found, goods in after.values():
            at = np.add.outer(np.array(list(steps)), np.array(goods)) + 1
            yield found, np.unique(at[(at >= seen.first) & (at <= seen.last)]).tolist()


def _overflowed(scaler: LossScaler) -> LossScaler | None:
    """The scaler after an overflow; None where it gives up."""
    after = copy(scaler)
    try:
        after.step(True)
    except ScalerStopped:
        return None
    return after


def _grown(places: Places, seen: Seen, _: bool) -> Found:
    """The first growth, at one of the steps."""
    for ahead, steps in places.values():
        good = ahead.growth(seen.last - min(steps))
        if good and prints(ahead.scale(good - 1), seen.before) and prints(ahead.scale(good), seen.after):
            yield _Ahead(ahead[good]), [at for step in steps if seen.first <= (at := step + good) <= seen.last]


def _counted(places: Places, seen: Seen, _: bool) -> Found:
    """So many overflows among the steps, wherever they were."""
    starts = [ahead[seen.first - 1 - step] for ahead, steps in places.values() for step in steps]
    here = {(0, _Ahead(scaler).state): scaler for scaler in starts}
    for _step in range(seen.first, seen.last + 1):
        following: dict[tuple[int, tuple[Any, ...]], LossScaler] = {}
        for (skips, _state), scaler in here.items():
            good = copy(scaler)
            good.step(False)
            following[skips, _Ahead(good).state] = good
            bad = _overflowed(scaler) if skips < seen.skips else None
            if bad is not None:
                following[skips + 1, _Ahead(bad).state] = bad
        here = following
    for (skips, _state), scaler in here.items():
        if skips == seen.skips and prints(scaler.scale, seen.after):
            yield _Ahead(scaler), [seen.last]


def _printed(places: Places, seen: Seen, _: bool) -> Found:
    """The places whose scale is the printed one, at that step (before) or after it."""

    def fits(ahead: _Ahead, good: int) -> bool:
        used = good < 1 or prints(ahead.scale(good - 1), seen.before)
        return used and (good < 0 or prints(ahead.scale(good), seen.after))

    for ahead, steps in places.values():
        yield ahead, [step for step in steps if fits(ahead, seen.last - step)]


_PLACED = {"skip": _skipped, "growth": _grown, "count": _counted, "print": _printed}


def _resumed(policy: LossPolicy, seen: Seen) -> Places:
    """Scalers at the scale that was logged after an event, with any of their hysteresis spent."""
    scale = float(seen.after)
    doubled = scale * 2.0**-policy.backoff if policy.logarithm else scale / policy.backoff
    spent = range(policy.hysteresis + 1) if seen.kind != "growth" else (0,)
    found: list[tuple[_Ahead, Iterable[int]]] = []
    for overflows in spent:
        init = doubled if overflows == policy.hysteresis else scale
        try:
            scaler = LossScaler(replace(policy, init=init, caps_first=False))
            for _ in range(overflows):
                scaler.step(True)
        except (ValueError, ScalerStopped):  # it is never at such a scale
            continue
        found.append((_Ahead(scaler), range(seen.first, seen.last + 1)))
    return _gathered(found)


# ---- what the scale did ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Course:
    """What became of the scale in a run.

    warm_skips: skipped steps before it first grew. rest: steps after the last of these. skips: of all.
    low, high: log2 of its ends from then on (over the whole run, where nothing was skipped).
    """

    skips: int
    warm_skips: int
    rest: int
    low: float
    high: float


def course_of(run: RealRun) -> Course:
    """What the events and prints of a log say of the scale."""
    steps, skips, warm, last = int(run.facts["steps"]), 0, 0, -1
    grown, scale = False, run.policy.init
    settled = [scale]
    for seen in run.seen:
        for text in (seen.before, seen.after):
            if text:
                grown = grown or float(text) > scale
                scale = float(text)
                settled.append(scale)
        skips += seen.skips
        if seen.skips and not grown:
            warm, last, settled = skips, seen.first if seen.kind == "skip" else seen.last, [scale]
    return Course(skips, warm, steps - 1 - last, log2(min(settled)), log2(max(settled)))


def balanced_share(policy: LossPolicy) -> float:
    """H / (W + H): the share of skipped steps where each climb ends in an overflow: W good steps regain a back-off, H overflows make one."""
    steps = -policy.backoff / policy.growth if policy.logarithm else -log2(policy.backoff) / log2(policy.growth)
    window = (policy.interval or 0) * steps
    return policy.hysteresis / (window + policy.hysteresis)


CONSECUTIVE = "hysteresis of overflows in a row"  # restored by every good step


def variants(policy: LossPolicy) -> dict[str, LossPolicy]:
    """Scalers that are almost the policy, by what is wrong with them: a log that they explain as well cannot tell them apart."""
    window = policy.interval or 0
    found: dict[str, dict[str, Any]]
    if policy.logarithm:
        product = {"logarithm": False, "growth": 2.0**policy.growth, "backoff": 2.0**policy.backoff}
        found = {"a product of factors": product, "twice the growth": {"growth": 2 * policy.growth}}
    else:
        found = {
            "half the interval": {"interval": window // 2},
            "interval - 1": {"interval": window - 1},
            "interval + 1": {"interval": window + 1},
            "twice the interval": {"interval": 2 * window},
            "the other delay": {"delay": int(not policy.delay)},
            "hysteresis + 1": {"hysteresis": policy.hysteresis + 1},
        }
    if policy.hysteresis > 1:
        found |= {"hysteresis - 1": {"hysteresis": policy.hysteresis - 1}, CONSECUTIVE: {"refill": "good step"}}
    return {name: replace(policy, **changes) for name, changes in found.items()}
