"""What the recorder asks of a part, of whatever kind: numbered outputs in chunks, and what fpemu predicts of them.

A part is one implementation whose outputs are numbered from 0: the number of an output stands for its input.  Chunks of
outputs are hashed; of some chunks some codes are kept.  Recording, storing and comparing know no more than this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.gpu.inputs import Codes, Coverage
from fpemu.formats import FloatFormat

Numbers = NDArray[np.int64]


class Part(ABC):
    """One implementation of something, over numbered inputs.

    Attributes
    ----------
    name: fit for a file name. how: the instruction, or the call. file: which file of a recording holds it.
    base: a part whose outputs are nearly the same; what is stored is the exclusive or with them.
    """

    name: str
    how: str
    file: str
    base: str | None

    ages = False  # whether a difference speaks of a library's version and no more; it is told, and is no failure
    block_chunks = 1 << 10  # chunks asked of a device at a time

    @property
    @abstractmethod
    def is_hardware(self) -> bool:
        """Whether an instruction is on trial, and no library."""

    # ---- outputs ----------------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def holder(self) -> FloatFormat:
        """The format whose codes the outputs are."""

    @property
    @abstractmethod
    def chunk(self) -> int:
        """How many outputs a chunk holds."""

    @property
    @abstractmethod
    def chunks_in_all(self) -> int:
        """How many chunks hold every output."""

    @abstractmethod
    def cover(self, coverage: Coverage) -> Coverage:
        """The chunks of this part that a coverage asks for."""

    @abstractmethod
    def kept_chunks(self, chunks: Numbers) -> Numbers:
        """Of these chunks those of which codes are kept, in the same order."""

    @abstractmethod
    def kept_offsets(self) -> NDArray[np.intp]:
        """The places in such a chunk whose codes are kept."""

    def kept_numbers(self, chunks: Numbers) -> Numbers:
        """The numbers of the kept outputs of covered chunks, shape (kept chunks, offsets)."""
        return np.asarray(self.kept_chunks(chunks)[:, None] * self.chunk + self.kept_offsets()[None, :], np.int64)

    # ---- predictions ------------------------------------------------------------------------------------------------
    @abstractmethod
    def prediction(self, about: Mapping[str, str]) -> Any:
        """What to hold the outputs against, from the versions of the software and ``compute_capability``.

        Raises NoPrediction where nothing is known of such a device.
        """

    @abstractmethod
    def described(self, prediction: Any) -> str:
        """A prediction in words."""

    @abstractmethod
    def predicted(self, prediction: Any, chunks: Numbers) -> Codes:
        """All outputs of chunks, flat, in the holder's ``code_dtype``."""

    def predicted_at(self, prediction: Any, numbers: Numbers) -> Codes:
        """Single outputs, in the shape of ``numbers``."""
        wanted, place = np.unique(numbers // self.chunk, return_inverse=True)
        codes = np.empty(numbers.size, self.holder.code_dtype)
        place, inside = place.reshape(-1), (numbers % self.chunk).reshape(-1)
        for start in range(0, wanted.size, REPLAYED):
            block = self.predicted(prediction, wanted[start : start + REPLAYED])
            here = np.flatnonzero((place >= start) & (place < start + REPLAYED))
            codes[here] = block[(place[here] - start) * self.chunk + inside[here]]
        return codes.reshape(numbers.shape)

    @abstractmethod
    def replay_key(self, prediction: Any) -> Hashable:
        """Parts of equal keys have equal outputs by prediction, and are replayed once."""

    # ---- inputs -----------------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of inputs."""

    @abstractmethod
    def classify(self, numbers: Numbers) -> NDArray[np.uint8]:
        """The class of the input of each output, as its place in ``classes``; in the shape of ``numbers``."""

    def class_of_chunks(self, chunks: Numbers) -> NDArray[np.uint8] | None:
        """The class of every chunk where all of a chunk is of one class; None where it is not."""
        return None

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a manifest and a comparison say of the part beside its name."""

    @abstractmethod
    def shown(self, number: int) -> dict[str, Any]:
        """The input of an output, as plain data for JSON."""

    @abstractmethod
    def sketched(self, number: int, input_class: str) -> str:
        """The same in a line."""

    def explained(self, prediction: Any, number: int) -> list[str]:
        """How the predicted output comes about, in lines; none where nothing more can be said."""
        return []

    @property
    def kernel(self) -> str | None:
        """The source of the kernel, where there is one: a part recorded with another source is recorded again."""
        return None


REPLAYED = 64  # chunks replayed at a time: at most 2**22 outputs, whose codes stay in the cache of a core or two


class Unavailable(Exception):
    """This part cannot be recorded here, for the reason given; the others can."""


class NoPrediction(Exception):
    """Nothing is known of such a device or such software; one line."""


def hexadecimal(code: int, format: FloatFormat) -> str:
    """A code with all its digits, ``0x3c00``."""
    return f"0x{code:0{-(-format.bits // 4)}x}"
