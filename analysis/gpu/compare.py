"""Replay a recording on the CPU and say where fpemu and the device differ: which parts, chunks, inputs, classes.

Hashes decide; the kept codes and the surprises give examples.  A difference in NaN codes alone (every NaN is a NaN on
both sides) is told apart from any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.gpu.hashing import Hashes, chunk_hashes, is_nan
from analysis.gpu.part import REPLAYED, NoPrediction, Numbers, Part, hexadecimal
from analysis.gpu.recording import PartData, Recording, RecordingError

IDENTICAL, NAN_CODES, DIFFERS = "identical", "other NaN codes", "differs"
EXAMPLES = 8

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Example:
    """One output by its number (of a conversion: its input), what the device gave and what fpemu does."""

    input: int
    device: int
    fpemu: int
    input_class: str


@dataclass(frozen=True)
class ClassCount:
    """Of the kept outputs of a class: how many there are, how many differ, how many only in the code of a NaN.

    Where a chunk is of one class also ``replayed`` and ``proved``: outputs of all replayed chunks of the class, and of
    those whose hashes are the device's, all of whose outputs are identical; and ``unpredicted``, how many of all
    recorded outputs surprised when they were recorded (None where that was not looked at).
    """

    input_class: str
    kept: int
    differing: int
    nan_codes: int
    replayed: int | None = None
    proved: int | None = None
    unpredicted: int | None = None

    @property
    def status(self) -> str:
        """One of IDENTICAL, NAN_CODES, DIFFERS."""
        return DIFFERS if self.differing else NAN_CODES if self.nan_codes else IDENTICAL

    @property
    def identical(self) -> int:
        """Kept outputs that are the device's, bit for bit."""
        return self.kept - self.differing - self.nan_codes

    def record(self) -> dict[str, Any]:
        """The same as plain data."""
        counts = {
            "class": self.input_class,
            "kept": self.kept,
            "differing": self.differing,
            "nan_codes": self.nan_codes,
        }
        if self.replayed is not None:
            counts |= {"replayed": self.replayed, "proved": self.proved, "unpredicted": self.unpredicted}
        return counts

    def text(self) -> str:
        """How many outputs of the class are identical, of how many."""
        words = f"{self.input_class:<18} {self.identical:>7,} of {self.kept:,} kept outputs identical"
        if self.nan_codes:
            words += f", {self.nan_codes:,} differ in NaN codes alone"
        if self.replayed is not None:
            words += f"; {self.proved:,} of {self.replayed:,} in chunks that are identical"
        if self.unpredicted:
            words += f"; {self.unpredicted:,} unpredicted when recorded"
        return words


@dataclass(frozen=True)
class Comparison:
    """One part, replayed.

    Attributes
    ----------
    part, prediction: what was recorded, and what it was held against.
    chunks, in_all: how many chunks were replayed, of how many that were recorded.
    differing, nan_codes: numbers of the chunks that differ, and of those that differ only in codes of NaNs; by their
        hashes, and where they were not replayed by their kept codes.
    classes: the kept outputs by class. examples: inputs that differ, the gravest first.
    deterministic: whether the device gave the same twice.
    unpredicted: how many of all recorded outputs surprised when they were recorded; None where that was not looked at.
    """

    part: Part
    prediction: Any
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

    @property
    def is_failure(self) -> bool:
        """Whether there is a difference that is no matter of a library's version."""
        return not self.part.ages and not (self.is_identical and self.deterministic)

    def record(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "part": self.part.name,
            "how": self.part.how,
            **self.part.facts(),
            "prediction": self.part.described(self.prediction),
            "status": self.status,
            "chunks_replayed": self.chunks,
            "chunks_recorded": self.in_all,
            "chunks_differing": ranges(self.differing, most=None),
            "chunks_with_other_nan_codes": ranges(self.nan_codes, most=None),
            "unpredicted_inputs": self.unpredicted,
            "deterministic": self.deterministic,
            "classes": [row.record() for row in self.classes],
            "examples": [
                {
                    **self.part.shown(example.input),
                    "device": hexadecimal(example.device, self.part.holder),
                    "fpemu": hexadecimal(example.fpemu, self.part.holder),
                    "class": example.input_class,
                }
                for example in self.examples
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """The same as tidy rows, one a class of inputs: facts of the part, counts, and the first output that differs."""
        facts = {"part": self.part.name, "how": self.part.how, **self.part.facts(), "deterministic": self.deterministic}
        first = {example.input_class: example for example in reversed(self.examples)}
        rows = []
        for row in self.classes:
            example = first.get(row.input_class)
            rows.append({**facts, **row.record(), "identical": row.identical, "example": self._line(example)})
        return rows

    def _line(self, example: Example | None) -> str:
        if example is None:
            return "none"
        return (
            f"{self.part.sketched(example.input, example.input_class)}: "
            f"device {hexadecimal(example.device, self.part.holder)}, "
            f"fpemu {hexadecimal(example.fpemu, self.part.holder)}"
        )

    def text(self) -> str:
        """What there is to say of the part, in one line if it is identical."""
        outputs = self.chunks * self.part.chunk
        lines = [f"{self.part.name:<28} {self.status:<16} {outputs:>13,} outputs  {self.part.how}"]
        for words, chunks in (("differ", self.differing), ("differ in NaN codes", self.nan_codes)):
            if chunks.size:
                lines.append(f"    {chunks.size:,} of {self.in_all:,} chunks {words}: {', '.join(ranges(chunks))}")
        if self.unpredicted:
            were = "output was" if self.unpredicted == 1 else "outputs were"
            lines.append(f"    {self.unpredicted:,} {were} not predicted when it was recorded")
        if not self.deterministic:
            lines.append("    not the same when repeated on the device")
        if not self.is_identical:
            lines += [f"    {row.text()}" for row in self.classes if row.kept]
        lines += [f"    {self._line(example)}" for example in self.examples]
        numbers = [example for example in self.examples if example.input_class != "NaN"]  # a NaN needs no explanation
        if numbers:
            lines += [f"    {line}" for line in self.part.explained(self.prediction, numbers[0].input)]
        return "\n".join(lines)


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
    RecordingError: hashes and kept codes of a part contradict each other, or nothing is known of such a device.
    ValueError: a stride below 1.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, not {stride}")
    replays: dict[Any, tuple[Hashes, Hashes]] = {}  # parts of the same prediction are replayed once
    found = []
    for name, data in recording.parts.items():
        watch(name)
        part = recording.kind.parts[name]
        try:
            prediction = part.prediction(recording.about)
            key = (part.replay_key(prediction), data.coverage)
            if key not in replays:
                replays[key] = _replay(part, prediction, data.coverage.chunks[::stride])
            found.append(_compared(part, prediction, data, stride, examples, replays[key]))
        except (RecordingError, NoPrediction) as error:
            raise RecordingError(f"{recording.name}: {name}: {error}") from None
    return found


def tidy(recording: Recording, found: list[Comparison]) -> list[dict[str, Any]]:
    """A comparison as tidy rows, one a part and class of inputs.

    Columns: recording, hardware; part, how, and the facts of its kind (engine, shape, formats, k; or call and sizes); class; kept,
    identical, differing, nan_codes (of the kept outputs); where chunks are of one class replayed and proved (outputs in
    replayed chunks, and in those whose hashes are the device's) and unpredicted (of all, when recorded); deterministic;
    example, the first output that differs in words, or "none".
    """
    facts = {"recording": recording.name, "hardware": recording.hardware}
    return [{**facts, **row} for one in found for row in one.rows()]


def _replay(part: Part, prediction: Any, chunks: Numbers) -> tuple[Hashes, Hashes]:
    """The hashes and class hashes that chunks should have."""
    found = [(np.empty(0, np.uint64), np.empty(0, np.uint64))]
    for start in range(0, chunks.size, REPLAYED):
        codes = part.predicted(prediction, chunks[start : start + REPLAYED])
        found.append(chunk_hashes(codes, part.holder, part.chunk))
    raw, by_class = zip(*found, strict=True)
    return np.concatenate(raw), np.concatenate(by_class)


def _compared(
    part: Part, prediction: Any, data: PartData, stride: int, most: int, replay: tuple[Hashes, Hashes]
) -> Comparison:
    chunks = data.coverage.chunks
    replayed = slice(None, None, stride)
    other = data.hashes[replayed] != replay[0]
    grave = data.class_hashes[replayed] != replay[1]
    state = np.full(chunks.size, -1)  # of each chunk: not replayed, identical, other NaN codes, differs
    state[replayed] = other.astype(int) + grave
    classes, examples, from_kept = _kept(part, prediction, data, state, most)
    classes = _with_chunks(classes, part, data, state)
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


def _with_chunks(
    rows: tuple[ClassCount, ...], part: Part, data: PartData, state: NDArray[np.int64]
) -> tuple[ClassCount, ...]:
    """The counts with those of whole chunks, where a chunk is of one class."""
    kinds = part.class_of_chunks(data.coverage.chunks)
    if kinds is None:
        return rows
    surprised = data.facts.get("unpredicted_by_class") or {}
    return tuple(
        replace(
            row,
            replayed=int(np.count_nonzero((kinds == number) & (state >= 0))) * part.chunk,
            proved=int(np.count_nonzero((kinds == number) & (state == 0))) * part.chunk,
            unpredicted=surprised.get(row.input_class),
        )
        for number, row in enumerate(rows)
    )


def _kept(
    part: Part, prediction: Any, data: PartData, state: NDArray[np.int64], most: int
) -> tuple[tuple[ClassCount, ...], list[Example], NDArray[np.int64]]:
    """The kept codes by class, those that differ, and the state of each chunk as far as they tell it.

    RecordingError where they differ in a chunk whose hash does not.
    """
    if data.codes is None:
        return (), [], np.full(state.size, -1)
    chunks = data.coverage.chunks
    numbers = part.kept_numbers(chunks)
    places = np.searchsorted(chunks, part.kept_chunks(chunks))  # of the chunks of which codes are kept
    ours = part.predicted_at(prediction, numbers)
    other = data.codes != ours
    nans = other & is_nan(data.codes, part.holder) & is_nan(ours, part.holder)
    of_kept = state[places]
    if np.any(other & (of_kept == 0)[:, None]) or np.any((other & ~nans) & (of_kept == 1)[:, None]):
        raise RecordingError("kept codes differ where the hashes of their chunks do not")
    kinds = part.classify(numbers)
    rows = tuple(
        ClassCount(
            name,
            int(np.count_nonzero(here := kinds == number)),
            int(np.count_nonzero(here & other & ~nans)),
            int(np.count_nonzero(here & nans)),
        )
        for number, name in enumerate(part.classes)
    )
    examples = []
    for wrong in (other & ~nans, nans):
        for number, name in enumerate(part.classes):
            for place in map(tuple, np.argwhere(wrong & (kinds == number))[:most]):
                examples.append(Example(int(numbers[place]), int(data.codes[place]), int(ours[place]), name))
    told = np.full(state.size, -1)
    told[places] = np.where((other & ~nans).any(axis=1), 2, np.where(nans.any(axis=1), 1, -1))
    return rows, examples, told


def _surprised(part: Part, prediction: Any, data: PartData, most: int) -> list[Example]:
    """The surprises of the recording that are still some."""
    if not data.surprises.size:
        return []
    numbers = data.surprises[:, 0].astype(np.int64)
    if np.any(numbers >= part.chunk * part.chunks_in_all):
        raise RecordingError("a surprise is no output of it")
    codes = data.surprises[:, 1].astype(part.holder.code_dtype)
    ours = part.predicted_at(prediction, numbers)
    kinds = part.classify(numbers)
    return [
        Example(int(numbers[i]), int(codes[i]), int(ours[i]), part.classes[kinds[i]])
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
