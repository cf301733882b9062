"""The results as they are committed, whatever a run of the lab has left in the checkout."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
COPIES = ExitStack()  # closed at the end of the test run: workers of xdist end without what Python does at exit


def _git(*arguments: str, given: bytes = b"") -> bytes:
    """What git says in the checkout; nothing where there is no git, or no repository."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, input=given, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


@cache
def committed_reports() -> Path:
    """reports/ as it was last committed or staged; in a copy without a repository, as it is."""
    files = _git("ls-files", "-z", "reports")
    if not files or not _git("status", "--porcelain", "--", "reports").strip():
        return ROOT / "reports"
    folder = COPIES.enter_context(TemporaryDirectory(prefix="fpemu-reports-"))
    _git("checkout-index", "-z", "--stdin", f"--prefix={folder}/", given=files)
    return Path(folder) / "reports"
