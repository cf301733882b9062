"""Profiles, markers and what the test run prints about itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import hypothesis
import numba
import numpy as np
import pytest

# The first call of a kernel compiles it: a deadline would fail there.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

MARKERS = {
    "exhaustive": "minutes long: every input there is; runs only where -m names it",
    "slow": "takes more than about ten seconds",
    "nojit": "small enough to run, all the same, with NUMBA_DISABLE_JIT=1",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_report_header() -> str:
    from fpemu.targets.threads import get_threads

    jit = "off (plain Python)" if numba.config.DISABLE_JIT else "on"
    profile = hypothesis.settings.get_current_profile_name()
    return (
        f"fpemu: numpy {np.__version__}, numba {numba.__version__}, JIT {jit}, {get_threads()} threads, "
        f"{platform.machine()}, hypothesis profile {profile}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "exhaustive" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if "exhaustive" in item.keywords]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "exhaustive" not in item.keywords]


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    from fpemu.targets.threads import set_threads

    yield
    set_threads(None)
