"""Replay a recording on the CPU and say where fpemu and the device differ: which parts, chunks, inputs, classes.

Hashes decide; the kept codes and the surprises give examples.  A difference in NaN codes alone (every NaN is a NaN on
both sides) is told apart from any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.gpu.classes import CLASSES, classify
from analysis.gpu.hashing import Hashes, chunk_hashes, is_nan
from analysis.gpu.inputs import chunk_inputs, kept_patterns, patterns
from analysis.gpu.parts import PARTS, Part, Prediction
from analysis.gpu.recording import PartData, Recording, RecordingError
from analysis.gpu.replay import BLOCK_CHUNKS, predicted
from fpemu import reference
from fpemu.testing.report import describe, told

IDENTICAL, NAN_CODES, DIFFERS = "identical", "other NaN codes", "differs"
EXAMPLES = 8

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Example:
    """One input, what the device made of it and what fpemu does; all bit patterns."""

    input: int
    device: int
    fpemu: int
    input_class: str


@dataclass(frozen=True)
class ClassCount:
    """Of the kept inputs of a class: how many there are, how many differ, how many only in the code of a NaN."""

    input_class: str
    kept: int
    differing: int
    nan_codes: int

    @property
    def status(self) -> str:
        """One of IDENTICAL, NAN_CODES, DIFFERS."""
        return DIFFERS if self.differing else NAN_CODES if self.nan_codes else IDENTICAL


@dataclass(frozen=True)
class Comparison:
    """One part, replayed.

    Attributes
    ----------
    part, prediction: what was recorded, and what it was held against.
    chunks, in_all: how many chunks were replayed, of how many that were recorded.
    differing, nan_codes: numbers of the chunks that differ, and of those that differ only in codes of NaNs; by their
        hashes, and where they were not replayed by their kept codes.
    classes: the kept inputs by class. examples: inputs that differ, the gravest first.
    deterministic: whether the device gave the same twice.
    unpredicted: how many of all recorded inputs surprised when they were recorded; None where that was not looked at.
    """

    part: Part
    prediction: Prediction
    chunks: int
    in_all: int
    differing: NDArray[np.int64]
    nan_codes: NDArray[np.int64]
    classes: tuple[ClassCount, ...]
    examples: tuple[Example, ...]
    deterministic: bool
    unpredicted: int | None

    @cached_property
    def status(self) -> str:
        """One of IDENTICAL, NAN_CODES, DIFFERS."""
        return DIFFERS if self.differing.size else NAN_CODES if self.nan_codes.size else IDENTICAL

    @property
    def is_identical(self) -> bool:
        """Whether every replayed code is the device's, those of NaNs included."""
        return self.status == IDENTICAL

    def record(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "part": self.part.name,
            "how": self.part.how,
            "source": self.part.source.name,
            "target": self.part.target.name,
            "prediction": described(self.prediction),
            "status": self.status,
            "chunks_replayed": self.chunks,
            "chunks_recorded": self.in_all,
            "chunks_differing": ranges(self.differing, most=None),
            "chunks_with_other_nan_codes": ranges(self.nan_codes, most=None),
            "unpredicted_inputs": self.unpredicted,
            "deterministic": self.deterministic,
            "classes": [
                {"class": row.input_class, "kept": row.kept, "differing": row.differing, "nan_codes": row.nan_codes}
                for row in self.classes
            ],
            "examples": [
                {
                    "input": _hex(example.input, self.part.source.bits),
                    "device": _hex(example.device, self.part.holder.bits),
                    "fpemu": _hex(example.fpemu, self.part.holder.bits),
                    "class": example.input_class,
                }
                for example in self.examples
            ],
        }

    def text(self) -> str:
        """What there is to say of the part, in one line if it is identical."""
        inputs = self.chunks * chunk_inputs(self.part.source)
        lines = [f"{self.part.name:<28} {self.status:<16} {inputs:>13,} inputs   {self.part.how}"]
        for words, chunks in (("differ", self.differing), ("differ in NaN codes", self.nan_codes)):
            if chunks.size:
                lines.append(f"    {chunks.size:,} of {self.in_all:,} chunks {words}: {', '.join(ranges(chunks))}")
        if self.unpredicted:
            were = "input was" if self.unpredicted == 1 else "inputs were"
            lines.append(f"    {self.unpredicted:,} {were} not predicted when it was recorded")
        if not self.deterministic:
            lines.append("    not the same when repeated on the device")
        for example in self.examples:
            lines.append(
                f"    {_hex(example.input, self.part.source.bits)} ({example.input_class}): "
                f"device {_hex(example.device, self.part.holder.bits)}, "
                f"fpemu {_hex(example.fpemu, self.part.holder.bits)}"
            )
        numbers = [example for example in self.examples if example.input_class != "NaN"]  # a NaN needs no explanation
        if numbers:
            value = reference.value(numbers[0].input, self.part.source)
            shown = told(value, self.prediction.cast, self.part.source)
            lines += [
                f"    {_hex(numbers[0].input, self.part.source.bits)} by {described(self.prediction)}:",
                *("      " + line for line in shown.splitlines()),
            ]
        return "\n".join(lines)


def described(prediction: Prediction) -> str:
    """A prediction in words."""
    words = describe(prediction.cast)
    if prediction.nan_rule is not None:
        return f"{words}, NaN codes {prediction.nan_rule.__name__.replace('_', ' ')}"
    code = prediction.cast.nan_code
    return words if code is None else f"{words} as {code:#x}"


def _hex(code: int, bits: int) -> str:
    return f"0x{code:0{-(-bits // 4)}x}"


def ranges(numbers: NDArray[np.int64], most: int | None = 12) -> list[str]:
    """Rising numbers of chunks as hexadecimal ranges, ``0x7f80-0x7fff``; beyond ``most`` ranges, how many more."""
    ends = np.flatnonzero(np.diff(numbers) != 1)
    firsts = numbers[np.concatenate([[0], ends + 1])] if numbers.size else numbers
    lasts = numbers[np.concatenate([ends, [numbers.size - 1]])] if numbers.size else numbers
    found = [
        f"{first:#06x}" if first == last else f"{first:#06x}-{last:#06x}"
        for first, last in zip(firsts, lasts, strict=True)
    ]
    return found if most is None or len(found) <= most else [*found[:most], f"and {len(found) - most} ranges more"]


# ---- replaying ------------------------------------------------------------------------------------------------------
def silent(line: str) -> None:
    """A watch that tells nobody."""


def compare(
    recording: Recording, *, stride: int = 1, examples: int = EXAMPLES, watch: Watch = silent
) -> list[Comparison]:
    """Replay every part of a recording.

    Parameters
    ----------
    recording: as read. stride: replay every so many-th chunk (1: all); kept codes are all compared.
    examples: how many differing inputs to show of each part, as far as their codes are known.
    watch: called with the name of each part before its replay.

    Returns
    -------
    list: one Comparison a part, in the order of the recording.

    Raises
    ------
    RecordingError: hashes and kept codes of a part contradict each other.
    ValueError: a stride below 1.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, not {stride}")
    software = {str(name): str(version) for name, version in recording.manifest["software"].items()}
    replays: dict[Any, tuple[Hashes, Hashes]] = {}  # parts of the same prediction are replayed once
    found = []
    for name, data in recording.parts.items():
        watch(name)
        part = PARTS[name]
        prediction = part.prediction(software)
        chunks = data.coverage.chunks[::stride]
        key = (part.source, part.target, prediction, data.coverage)
        if key not in replays:
            replays[key] = _replay(part, prediction, chunks)
        try:
            found.append(_compared(part, prediction, data, stride, examples, replays[key]))
        except RecordingError as error:
            raise RecordingError(f"{recording.name}: {name}: {error}") from None
    return found


def _replay(part: Part, prediction: Prediction, chunks: NDArray[np.int64]) -> tuple[Hashes, Hashes]:
    """The hashes and class hashes that chunks should have."""
    found = [(np.empty(0, np.uint64), np.empty(0, np.uint64))]
    for start in range(0, chunks.size, BLOCK_CHUNKS):
        codes = predicted(part, prediction, patterns(part.source, chunks[start : start + BLOCK_CHUNKS]))
        found.append(chunk_hashes(codes, part.holder, chunk_inputs(part.source)))
    raw, by_class = zip(*found, strict=True)
    return np.concatenate(raw), np.concatenate(by_class)


def _compared(
    part: Part, prediction: Prediction, data: PartData, stride: int, most: int, replay: tuple[Hashes, Hashes]
) -> Comparison:
    chunks = data.coverage.chunks
    replayed = slice(None, None, stride)
    other = data.hashes[replayed] != replay[0]
    grave = data.class_hashes[replayed] != replay[1]
    state = np.full(chunks.size, -1)  # of each chunk: not replayed, identical, other NaN codes, differs
    state[replayed] = other.astype(int) + grave
    classes, examples, from_kept = _kept(part, prediction, data, state, most)
    state = np.maximum(state, from_kept)  # a chunk that was not replayed can differ by its kept codes
    examples += _surprised(part, prediction, data, most)
    return Comparison(
        part,
        prediction,
        chunks=int(chunks[replayed].size),
        in_all=int(chunks.size),
        differing=chunks[state == 2],
        nan_codes=chunks[state == 1],
        classes=classes,
        examples=_chosen(examples, most),
        deterministic=data.facts["deterministic"] is True,
        unpredicted=data.facts.get("unpredicted"),
    )


def _kept(
    part: Part, prediction: Prediction, data: PartData, state: NDArray[np.int64], most: int
) -> tuple[tuple[ClassCount, ...], list[Example], NDArray[np.int64]]:
    """The kept codes by class, those that differ, and the state of each chunk as far as they tell it.

    RecordingError where they differ in a chunk whose hash does not.
    """
    if data.codes is None:
        return (), [], np.full(state.size, -1)
    inputs = kept_patterns(part.source, data.coverage.chunks)
    ours = predicted(part, prediction, inputs.reshape(-1)).reshape(inputs.shape)
    other = data.codes != ours
    nans = other & is_nan(data.codes, part.holder) & is_nan(ours, part.holder)
    if np.any(other & (state == 0)[:, None]) or np.any((other & ~nans) & (state == 1)[:, None]):
        raise RecordingError("kept codes differ where the hashes of their chunks do not")
    kinds = classify(inputs.reshape(-1), part.source, part.target).reshape(inputs.shape)
    rows = tuple(
        ClassCount(
            name,
            int(np.count_nonzero(here := kinds == number)),
            int(np.count_nonzero(here & other & ~nans)),
            int(np.count_nonzero(here & nans)),
        )
        for number, name in enumerate(CLASSES)
    )
    examples = []
    for wrong in (other & ~nans, nans):
        for number, name in enumerate(CLASSES):
            for place in map(tuple, np.argwhere(wrong & (kinds == number))[:most]):
                examples.append(Example(int(inputs[place]), int(data.codes[place]), int(ours[place]), name))
    told = np.where((other & ~nans).any(axis=1), 2, np.where(nans.any(axis=1), 1, -1))
    return rows, examples, told


def _surprised(part: Part, prediction: Prediction, data: PartData, most: int) -> list[Example]:
    """The surprises of the recording that are still some."""
    if not data.surprises.size:
        return []
    inputs = data.surprises[:, 0].astype(part.source.code_dtype)
    codes = data.surprises[:, 1].astype(part.holder.code_dtype)
    ours = predicted(part, prediction, inputs)
    kinds = classify(inputs, part.source, part.target)
    return [
        Example(int(inputs[i]), int(codes[i]), int(ours[i]), CLASSES[kinds[i]])
        for i in np.flatnonzero(codes != ours)[:most]
    ]


def _chosen(examples: list[Example], most: int) -> tuple[Example, ...]:
    """At most ``most``, each input once, the first of every class before the second of any."""
    unique = {example.input: example for example in reversed(examples)}
    order = {example.input: place for place, example in enumerate(examples)}
    seen: dict[str, int] = {}
    ranked = []
    for example in sorted(unique.values(), key=lambda example: order[example.input]):
        seen[example.input_class] = seen.get(example.input_class, 0) + 1
        ranked.append((seen[example.input_class], example))
    return tuple(example for _, example in sorted(ranked, key=lambda pair: pair[0])[:most])
