from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import analysis.experiments
from tests.analysis import committed
from tests.analysis.fakes import Fakes


def pytest_unconfigure() -> None:
    committed.COPIES.close()


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """Fake experiments only: the real ones are out of sight, so that `run` without names means the fakes."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    monkeypatch.setattr(analysis.experiments, "__path__", [str(folder)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    kept = {name for name in sys.modules if name.startswith("analysis.experiments.")}
    hidden = {name: sys.modules.pop(name) for name in kept}
    yield Fakes(folder)
    for name in [name for name in sys.modules if name.startswith("analysis.experiments.")]:
        del sys.modules[name]
    sys.modules.update(hidden)
    importlib.invalidate_caches()


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return tmp_path / "reports"
