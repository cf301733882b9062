"""``build``: pretend_driver.c as the library that stands for the CUDA driver's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def build(folder: Path) -> Path:
    """The library, in a folder."""
    library = folder / "libcuda.so.1"
    source = Path(__file__).with_suffix(".c")
    options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}"]
    subprocess.run(["cc", *options, "-o", library, source, "-ldl"], check=True)
    return library
