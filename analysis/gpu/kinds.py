"""The kinds of recordings: what each is called, its parts, and what its inputs are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from analysis.gpu import parts, products, tensor_cores
from analysis.gpu.inputs import EVERYTHING, Coverage
from analysis.gpu.part import Part


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of recording.

    Attributes
    ----------
    name: on the command line. suffix: of a recording's folder, ``<gpu>-<date><suffix>``. title: in the manifest.
    parts: by name, in their order. inputs: facts of the inputs, which a recording must share with this code.
    quick: what is covered of every part in a quick run; None where there is none.
    timed: whether conversions are timed too.
    """

    name: str
    suffix: str
    title: str
    parts: Mapping[str, Part]
    inputs: Mapping[str, Any]
    quick: Coverage | None = None
    timed: bool = False

    def coverage(self, quick: bool) -> Coverage:
        """Everything, or what a quick run covers; ValueError where the kind has none."""
        if not quick:
            return EVERYTHING
        if self.quick is None:
            raise ValueError(f"there is no quick recording of {self.name}")
        return self.quick


CONVERSIONS = Kind(
    "conversions", "", "fpemu recording: conversions", MappingProxyType(parts.PARTS), parts.INPUT_FACTS, timed=True
)
TENSOR_CORES = Kind(
    "tensor-cores",
    "-tensor-cores",
    "fpemu recording: tensor cores",
    MappingProxyType(tensor_cores.PARTS | {part.name: part for part in products.PARTS}),
    tensor_cores.INPUT_FACTS,
    quick=tensor_cores.QUICK,
)
KINDS = MappingProxyType({kind.name: kind for kind in (CONVERSIONS, TENSOR_CORES)})
