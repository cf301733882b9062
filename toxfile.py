"""What tox does before anything else: say how long it takes, and find uv a cache. (tox reads this file by its name.)"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tox.config.sets import ConfigSet
from tox.plugin import impl
from tox.session.state import State

# Measured on 2 cores that other programs used too, environments installed; of the last two no whole run has been timed.
TAKES = {
    "": "about 10 minutes on 2 cores, of which the compiled tests (py) take about 7",
    "py": "about 7 minutes on 2 cores",
    "nojit": "about 1 minute on 2 cores",
    "cudasim": "about 1 minute on 2 cores",
    "lab": "4 to 6 minutes on 2 cores",
    "exhaustive": "tens of minutes",
    "ptx": "10 minutes on 2 cores",
    "torch": "a few minutes",
    "mutation": "half an hour or more",
}
RUNS = ("legacy", "run", "run-parallel")


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    options = state.conf.options
    if options.command not in RUNS or getattr(options, "list_envs", False):
        return
    chosen = [] if options.env.is_default_list else list(options.env)
    for name in chosen or [""]:
        if name in TAKES:
            install = "; installing what it needs takes 1 to 2 minutes more the first time"
            print(f"{name or 'all tests'}: {TAKES[name]}{install}", file=sys.stderr, flush=True)
    _find_uv_a_cache(Path(core_conf["work_dir"]))


def _find_uv_a_cache(work_dir: Path) -> None:
    """uv gives up where it cannot write its cache, which is in the home folder unless it is told another."""
    if "UV_CACHE_DIR" in os.environ:
        return
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    try:
        usual.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=usual).close()
    except OSError:
        os.environ["UV_CACHE_DIR"] = str(work_dir / "uv-cache")
