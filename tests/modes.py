"""The floating-point modes of this thread, set through C's ``fenv.h``: for tests that nothing depends on them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fpemu.targets.environment import REGISTER

# Of MXCSR (Intel SDM, volume 1, 10.2.3).
ROUNDINGS = {"nearest": 0, "down": 0x2000, "up": 0x4000, "toward-zero": 0x6000}
FLUSHES = {"keep": 0, "FTZ": 0x8000, "DAZ": 0x40, "FTZ+DAZ": 0x8040}
MODES = {f"{rounding} {flush}": r | f for rounding, r in ROUNDINGS.items() for flush, f in FLUSHES.items()}

needs_modes = pytest.mark.skipif(
    REGISTER is None or REGISTER.place is None or REGISTER.default != 0x1F80,
    reason="the modes are set through glibc's or musl's fenv_t of x86-64",
)


def current() -> int:
    """The modes of this thread."""
    words = (ctypes.c_uint32 * 16)()
    ctypes.PyDLL(None).fegetenv(words)
    assert REGISTER is not None and REGISTER.place is not None
    return words[REGISTER.place] & REGISTER.modes


def _set(modes: int) -> None:
    words, library = (ctypes.c_uint32 * 16)(), ctypes.PyDLL(None)
    library.fegetenv(words)
    assert REGISTER is not None and REGISTER.place is not None
    words[REGISTER.place] = words[REGISTER.place] & ~REGISTER.modes | REGISTER.default | modes
    library.fesetenv(words)


@contextmanager
def thread_in(modes: int) -> Iterator[None]:
    """This thread in other modes than the default; what it leaves behind is the default."""
    _set(modes)
    try:
        yield
    finally:
        _set(0)
