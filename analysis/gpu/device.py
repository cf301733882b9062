"""The GPU as the recorder sees it: facts for the manifest, and the codes of a part for a range of inputs."""

from __future__ import annotations

import platform
import subprocess
from ctypes import c_uint, c_ulonglong, c_void_p
from functools import cached_property
from importlib import metadata
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis import environment
from analysis.gpu import compiler
from analysis.gpu.driver import Context
from analysis.gpu.inputs import CHUNK, Codes, chunk_inputs
from analysis.gpu.instructions import ENTRY
from analysis.gpu.libraries import fpemu_codes, torch_codes
from analysis.gpu.multipliers import Multipliers
from analysis.gpu.part import Part, Unavailable
from analysis.gpu.parts import FPEMU, PTX, TORCH, Conversion
from analysis.gpu.products import LibraryProduct, Products
from analysis.gpu.speed import Timing, timings
from analysis.gpu.tensor_cores import Instruction

LIBRARIES = ("numpy", "numba", "numba-cuda", "cuda-bindings", "torch", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas")
_MOST_BLOCKS, _BLOCK = 4096, 256  # of a launch: blocks, and threads of each
BLOCK_CHUNKS = 1 << 10  # chunks converted at a time: 2**26 inputs, at most 256 MiB of codes


class Device(Protocol):
    """What the recorder asks of a device."""

    block_chunks: int

    def facts(self) -> dict[str, Any]:
        """Of the device; ``is_gpu`` says whether it is hardware."""

    def software(self) -> dict[str, str]:
        """Names and versions of everything that took part."""

    def codes(self, part: Part, first: int, stop: int) -> Codes:
        """The codes of a part for the inputs of chunks ``[first, stop)``, on the host; valid until the next call.

        Raises Unavailable where the part cannot be recorded here.
        """

    def detail(self, part: Part) -> dict[str, Any]:
        """What else the manifest says of a part: the source of its kernel, its opcodes."""

    def timings(self) -> list[Timing]:
        """How fast our kernels and torch's casts are beside a copy of the same bytes."""


class CudaDevice:
    """The first GPU of this machine.  Raises driver.DriverError where there is none."""

    block_chunks = BLOCK_CHUNKS

    def __init__(self) -> None:
        self._context = Context()
        self._kernels: dict[str, tuple[Any, bytes, str]] = {}
        self._multipliers = Multipliers(self._context, self.architecture)
        self._products = Products()

    @property
    def architecture(self) -> str:
        """What the compiler calls this GPU, ``sm_90``."""
        return "sm_{}{}".format(*self._context.compute_capability)

    def facts(self) -> dict[str, Any]:
        """See Device."""
        return {
            "is_gpu": True,
            "name": self._context.name,
            "compute_capability": "{}.{}".format(*self._context.compute_capability),
        }

    def software(self) -> dict[str, str]:
        """See Device."""
        found = {name: environment.version(name) for name in LIBRARIES}
        return {
            "driver": _driver_version(),
            "cuda_of_driver": self._context.cuda_version,
            "nvrtc_and_ptxas": compiler.version(),
            "torch_cuda": _torch_cuda(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            **{name: version for name, version in found.items() if version != "absent"},
        }

    @cached_property
    def _buffers(self) -> tuple[Any, NDArray[np.uint8]]:
        """Memory for the codes of a block of conversions, on the device and on the host."""
        size = BLOCK_CHUNKS * CHUNK * 4
        return self._context.allocate(size), self._context.host_buffer(size)

    def codes(self, part: Part, first: int, stop: int) -> Codes:
        """See Device."""
        if isinstance(part, Instruction):
            return self._multipliers.codes(part, first, stop)
        if isinstance(part, Conversion) and part.stack == PTX:
            return self._hardware(part, first, stop)
        try:
            if isinstance(part, LibraryProduct):
                return self._products.codes(part)
            assert isinstance(part, Conversion)
            return {TORCH: torch_codes, FPEMU: fpemu_codes}[part.stack](part, first, stop)
        except Exception as error:  # of a library, whatever it is: the hardware's parts do not depend on it
            raise Unavailable(f"{type(error).__name__}: {' '.join(str(error).split())}") from error

    def _hardware(self, part: Conversion, first: int, stop: int) -> Codes:
        assert part.instruction is not None
        memory, host = self._buffers
        size = chunk_inputs(part.source)
        start, count = first * size, (stop - first) * size
        kernel, _, _ = self._kernel(part)
        threads = count // part.instruction.shape.lanes
        blocks = max(1, min(_MOST_BLOCKS, -(-threads // _BLOCK)))
        arguments = (memory, c_void_p), (start, c_uint), (threads, c_ulonglong)
        self._context.launch(kernel, blocks, _BLOCK, *arguments)
        dtype = part.holder.code_dtype
        codes: Codes = host[: count * dtype.itemsize].view(dtype)
        self._context.copy_to_host(codes, memory)
        return codes

    def _kernel(self, part: Conversion) -> tuple[Any, bytes, str]:
        """The loaded kernel of a part, its machine code and its PTX."""
        if part.name not in self._kernels:
            assert part.instruction is not None
            try:
                cubin, ptx = compiler.compile_source(part.instruction.source, self.architecture)
            except compiler.CannotCompile as error:
                raise Unavailable(f"does not compile for {self.architecture}: {error}") from None
            self._kernels[part.name] = self._context.load(cubin, ENTRY), cubin, ptx
        return self._kernels[part.name]

    def detail(self, part: Part) -> dict[str, Any]:
        """See Device."""
        if isinstance(part, Instruction):
            return self._multipliers.detail(part)
        if isinstance(part, LibraryProduct):
            return self._products.detail(part)
        assert isinstance(part, Conversion)
        if part.instruction is None:
            return {}
        _, cubin, _ = self._kernel(part)
        opcodes = compiler.opcodes(cubin)
        return {"source": part.instruction.source, **({} if opcodes is None else {"opcodes": opcodes})}

    def timings(self) -> list[Timing]:
        """See Device."""
        return timings(self._context)


def _driver_version() -> str:
    """The driver's own version, as nvidia-smi gives it; "unknown" without that tool."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _torch_cuda() -> str:
    """The CUDA version torch was built with; "absent" without torch."""
    try:
        metadata.version("torch")
        import torch
    except (metadata.PackageNotFoundError, ImportError):
        return "absent"
    return str(torch.version.cuda)
