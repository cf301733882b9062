"""Tensor cores of the GPU at hand: operands to the device, the kernel of an instruction over its tiles, results back."""

from __future__ import annotations

from ctypes import c_uint, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.gpu import compiler
from analysis.gpu.driver import Context
from analysis.gpu.inputs import Codes
from analysis.gpu.multiply import ENTRY, THREADS, Product
from analysis.gpu.part import Unavailable
from analysis.gpu.tensor_cores import Instruction
from analysis.gpu.tiles import Operands, Shape, small_integers

_MOST_BLOCKS = 4096
_CHECKED_TILES, _CHECKED_STEPS = 64, 4


class Multipliers:
    """Kernels by the source of their instruction, each compiled and checked at its first use.

    The check: small integers, whose sums are exact in every engine, arrive in their places.  Without it a mistaken
    layout of registers or of shared memory would look like strange hardware.
    """

    def __init__(self, context: Context, architecture: str) -> None:
        self._context, self._architecture = context, architecture
        self._kernels: dict[Product, tuple[Any, bytes]] = {}
        self._memory: dict[str, tuple[Any, int]] = {}
        self._last: tuple[object, Operands] | None = None

    def codes(self, part: Instruction, first: int, stop: int) -> Codes:
        """The outputs of chunks ``[first, stop)``.  Raises Unavailable where the GPU has no such instruction."""
        kernel, _ = self._kernel(part.product)
        asked = part.name, first, stop
        if self._last is None or self._last[0] != asked:  # every block is asked for twice
            self._last = asked, part.operands(np.arange(first, stop))
        return self._run(kernel, part.product, part.steps, self._last[1]).reshape(-1)

    def detail(self, part: Instruction) -> dict[str, Any]:
        """The source of the kernel and its opcodes."""
        _, cubin = self._kernel(part.product)
        opcodes = compiler.opcodes(cubin)
        return {"source": part.product.source, **({} if opcodes is None else {"opcodes": opcodes})}

    def _kernel(self, product: Product) -> tuple[Any, bytes]:
        if product not in self._kernels:
            architecture = self._architecture + product.architecture_suffix
            try:
                cubin, _ = compiler.compile_source(product.source, architecture)
            except compiler.CannotCompile as error:
                raise Unavailable(f"does not compile for {architecture}: {error}") from None
            kernel = self._context.load(cubin, ENTRY)
            self._check(kernel, product)
            self._kernels[product] = kernel, cubin
        return self._kernels[product]

    def _check(self, kernel: Any, product: Product) -> None:
        steps = product.promote or _CHECKED_STEPS
        formats = product.a_format, product.b_format, product.accumulator_format
        shape = Shape("check", product.m, product.n, product.k * steps, *formats)
        operands, wanted = small_integers(shape, _CHECKED_TILES, product.sign, product.scale_d)
        got = self._run(kernel, product, steps, operands)
        wrong = np.argwhere(got != wanted)
        if wrong.size:
            tile, row, column = wrong[0]
            raise Unavailable(
                f"{len(wrong):,} of {got.size:,} exact sums of small integers are wrong, first in tile {tile}, row {row}, "
                f"column {column}: {got[tile, row, column]:#x} for {wanted[tile, row, column]:#x}"
            )

    def _run(self, kernel: Any, product: Product, steps: int, operands: Operands) -> Codes:
        given = {"a": operands.a, "b": operands.b, "c": operands.c}
        for role, codes in given.items():
            self._context.copy_to_device(self._room(role, codes.nbytes), np.ascontiguousarray(codes))
        tiles = operands.c.shape[0]
        memory = [(self._room(role, 0), c_void_p) for role in given]
        result = self._room("d", operands.c.nbytes)
        blocks = max(1, min(_MOST_BLOCKS, tiles))
        arguments = (*memory, (result, c_void_p), (tiles, c_uint), (steps, c_uint))
        self._context.launch(kernel, blocks, THREADS[product.family], *arguments)
        out: NDArray[Any] = np.empty_like(operands.c, order="C")
        self._context.copy_to_host(out, result)
        return out

    def _room(self, role: str, size: int) -> Any:
        """Device memory of at least ``size`` bytes, one piece a role."""
        memory, have = self._memory.get(role, (None, 0))
        if memory is None or have < size:
            if memory is not None:
                self._context.free(memory)
            memory, have = self._context.allocate(max(size, 1 << 20)), max(size, 1 << 20)
            self._memory[role] = memory, have
        return memory
