"""Hypothesis profiles, and what the test run prints about itself; the markers are in setup.cfg."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import hypothesis
import numba
import numpy as np
import pytest

from tests.telling import tell_of

# What is said of compiling depends on what an earlier run has kept; tests of it set this back.
os.environ["FPEMU_QUIET"] = "1"

# The first call of a kernel compiles it, and the machine may be busy: nothing is judged by the time it takes.
TIMELESS = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("dev", **TIMELESS)
hypothesis.settings.register_profile("ci", **TIMELESS, derandomize=True, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_report_header() -> str:
    from fpemu.targets.threads import get_threads

    jit = "off (plain Python)" if numba.config.DISABLE_JIT else "on"
    profile = hypothesis.settings.get_current_profile_name()
    return (
        f"fpemu: numpy {np.__version__}, numba {numba.__version__}, JIT {jit}, {get_threads()} threads, "
        f"{platform.machine()}, hypothesis profile {profile}"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    tell_of(session)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    from fpemu.targets.threads import set_threads

    yield
    set_threads(None)
