"""CUDA C to machine code with NVRTC (the package cuda-bindings, which numba-cuda brings); needs no GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_OPCODE = re.compile(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")


class CannotCompile(Exception):
    """The compiler refused a source; the message is the first line of what it said."""


def _checked(result: tuple[Any, ...]) -> Any:
    error, *values = result
    if int(error):
        raise CannotCompile(f"NVRTC: {getattr(error, 'name', error)}")
    return values[0] if len(values) == 1 else tuple(values)


@cache
def _nvrtc() -> Any:
    """The module of NVRTC; CannotCompile where it or its library is missing."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise CannotCompile(f"no NVRTC: {' '.join(str(error).split())}") from None
    return nvrtc


def version() -> str:
    """The version of NVRTC, ``13.0``, whose assembler is the ptxas of that toolkit; "absent" without it."""
    try:
        major, minor = _checked(_nvrtc().nvrtcVersion())
    except CannotCompile:
        return "absent"
    return f"{major}.{minor}"


def compile_source(source: str, architecture: str) -> tuple[bytes, str]:
    """Machine code (cubin) and PTX of a CUDA C source, for ``sm_90`` or another real architecture.

    Raises CannotCompile where the compiler or its assembler refuses.
    """
    nvrtc = _nvrtc()
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []))
    try:
        options = [f"--gpu-architecture={architecture}".encode()]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(error):
            log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            lines = [line for line in log.decode(errors="replace").splitlines() if "error" in line.lower()]
            raise CannotCompile(lines[0].strip() if lines else f"NVRTC: {error.name}")
        cubin = _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return cubin, ptx.decode(errors="replace").rstrip("\0")


def _text(size_of: Callable[[Any], Any], fill: Callable[[Any, bytes], Any], program: Any) -> bytes:
    buffer = bytes(_checked(size_of(program)))  # NVRTC writes into it
    _checked((*fill(program, buffer), None))
    return buffer


def disassembler() -> str | None:
    """Where nvdisasm is: on the PATH, in the toolkit's folder, or with nvidia-cuda-nvdisasm; None if nowhere."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    packages = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin"))
    return shutil.which("nvdisasm") or next(filter(None, map(_nvdisasm_in, [toolkit, *packages])), None)


def _nvdisasm_in(folder: Path) -> str | None:
    return shutil.which("nvdisasm", path=str(folder))


def opcodes(cubin: bytes) -> list[str] | None:
    """The opcodes of a kernel in the order of its machine code, each once; None where there is no disassembler."""
    tool = disassembler()
    if tool is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        try:
            done = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
    return list(dict.fromkeys(_OPCODE.findall(done.stdout))) or None
