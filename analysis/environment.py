"""Where a result was made: versions, machine, state of the sources. Nothing that names a person, a host or a path."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import fpemu

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "numba", "llvmlite", "pandas", "matplotlib", "scikit-learn")


def version(package: str) -> str:
    """The installed version of a package, or "absent"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


@cache
def cpu_model() -> str:
    """The processor as it calls itself; on Linux from /proc/cpuinfo, since platform.processor() is empty there."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> str | None:
    """The commit of the checkout, with "+changes" if fpemu/ or analysis/ differ from it; None outside a repository."""
    head = _git("rev-parse", "--verify", "--short=12", "HEAD")
    if head is None:
        return None
    return f"{head}+changes" if _git("status", "--porcelain", "--", "fpemu", "analysis") else head


def fpemu_version() -> str:
    """The version of the library, "source" where it says none."""
    return str(getattr(fpemu, "__version__", "source"))


def describe() -> dict[str, str | int | None]:
    """Everything of this module in one record that JSON can hold."""
    return {
        "fpemu": fpemu_version(),
        "commit": commit(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "cpu": cpu_model(),
        "cores": cores(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
