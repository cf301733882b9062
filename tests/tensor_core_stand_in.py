"""A stand-in for the tensor cores of a GPU, for tests alone: a Hopper that multiplies as fpemu's engines do.

``slow``: dot by dot with the definition, in Python's integers; otherwise with ``matmul``.  What operands an instruction
works on (signs, C, promotion) is said here once more, apart from the predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fpemu as fp
from analysis.gpu.inputs import Codes
from analysis.gpu.part import Part, Unavailable
from analysis.gpu.products import LibraryProduct
from analysis.gpu.tensor_cores import Instruction
from fpemu.engines import ENGINES, matmul
from fpemu.engines.definition import dot
from fpemu.engines.model import promoted

Fault = Callable[[Codes, int], Codes]  # from codes, and the number of the first, to codes


class TensorCores:
    """A Device without a GPU. ``faults``: by name of a part, what is done to its codes; ``missing``: what is Unavailable."""

    block_chunks = 8

    def __init__(
        self,
        faults: dict[str, Fault] | None = None,
        missing: tuple[str, ...] = (),
        gpu: bool = False,
        slow: bool = False,
        compute_capability: str = "9.0",
    ) -> None:
        self.faults, self.missing, self.gpu, self.slow = faults or {}, missing, gpu, slow
        self.compute_capability = compute_capability
        self.asked: list[str] = []

    def facts(self) -> dict[str, Any]:
        return {
            "is_gpu": self.gpu,
            "name": "CPU stand-in (no GPU)",
            "compute_capability": self.compute_capability,
        }

    def software(self) -> dict[str, str]:
        return {"numpy": np.__version__, "torch": "2.11.0+cu130"}

    def detail(self, part: Part) -> dict[str, Any]:
        return {} if part.kernel is None else {"source": part.kernel}

    def timings(self) -> list[Any]:
        raise AssertionError("products are not timed")

    def codes(self, part: Part, first: int, stop: int) -> Codes:
        self.asked.append(part.name)
        if part.name in self.missing:
            raise Unavailable("not here")
        codes = self._library(part) if isinstance(part, LibraryProduct) else self._instruction(part, first, stop)
        assert codes.dtype == part.holder.code_dtype and codes.size == (stop - first) * part.chunk
        return self.faults.get(part.name, lambda codes, number: codes)(codes, first * part.chunk)

    def _instruction(self, part: Part, first: int, stop: int) -> Codes:
        assert isinstance(part, Instruction)
        product, given = part.product, part.operands(np.arange(first, stop))
        engine = ENGINES[f"hopper.{product.engine}"]
        if product.promote:
            engine = promoted(engine, product.promote * product.k)
        a, c = given.a, given.c if product.scale_d else np.zeros_like(given.c)
        if product.negate_a != product.negate_b:  # the sign of a product is all that the scales change
            a = a ^ a.dtype.type(1 << (product.a_format.bits - 1))
        if not self.slow:
            return matmul(a, given.b.swapaxes(1, 2), c, engine=engine).reshape(-1)
        tiles, rows, columns = c.shape
        return np.array(
            [
                dot(a[t, i].tolist(), given.b[t, j].tolist(), int(c[t, i, j]), engine)
                for t in range(tiles)
                for i in range(rows)
                for j in range(columns)
            ],
            c.dtype,
        )

    def _library(self, part: LibraryProduct) -> Codes:
        call, given = part.call, part.operands()
        name = call.a if call.a == call.b else f"{call.a}x{call.b}"
        every = None if call.scales is None or call.fast else 128
        sums = matmul(given.a[0], given.b[0].T, engine=f"hopper.wgmma.{name}.fp32", promote_every=every)
        values = fp.decode(sums, "fp32")
        if call.scales is not None:
            of_a, of_b = part.scales()
            values = np.float32(of_b) * (np.float32(of_a) * values)
        return fp.encode(values, part.holder).reshape(-1)
