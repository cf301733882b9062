"""Do calls work while the interpreter exits, and does nothing run on after an interrupt?"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from fpemu.targets import threads as ours

PROGRAM = """
import atexit, threading, time
import numpy as np
import fpemu as fp
from fpemu.targets.threads import PARALLEL_FROM

x = np.linspace(-500, 500, 2 * PARALLEL_FROM + 3, dtype=np.float32)
fp.set_threads(2)
{before}

def call():
    print(int(fp.encode(x, "e4m3").sum(dtype=np.int64)), fp.tensor_stats(x, "e4m3").rows()[0]["saturated"], flush=True)

{when}
"""
WHEN = {
    "now": "call()",
    "atexit": "atexit.register(call)",
    "a thread that outlives the main one": "threading.Thread(target=lambda: (threading.main_thread().join(), time.sleep(0.3), call())).start()",
}


@pytest.mark.parametrize("before", ["", "fp.encode(x, 'e4m3')"], ids=["a first call", "a pool that is there"])
def test_calls_while_the_interpreter_exits_have_their_results(before: str) -> None:
    said = {}
    for name, when in WHEN.items():
        program = PROGRAM.format(before=before, when=when)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0 and not run.stderr, (name, run.stderr)
        said[name] = run.stdout
    assert len(set(said.values())) == 1 and said["now"].split()


def test_no_part_runs_on_after_an_interrupt(threads: None) -> None:
    ours.set_threads(2)
    finished, begun = [], threading.Barrier(2)

    def work(number: int) -> None:
        if number < 2:
            begun.wait(30)
        if number == 0:
            raise KeyboardInterrupt
        time.sleep(0.2)
        finished.append(number)

    with pytest.raises(KeyboardInterrupt):
        ours.map_parts(work, list(range(200)))
    known = list(finished)
    time.sleep(0.5)
    assert 1 in known and finished == known and len(known) < 100


def test_where_no_thread_can_be_had_the_parts_run_here(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise RuntimeError("can't start new thread")

    ours.set_threads(3)
    monkeypatch.setattr(ours._pool(3, ours.os.getpid()), "submit", refuse)
    parts: list[tuple[int, int]] = []
    ours.run_parts(lambda start, stop: parts.append((start, stop)), ours.PARALLEL_FROM + 1)
    assert sorted(parts) == ours.split(ours.PARALLEL_FROM + 1, 3, 64)
    assert ours.map_parts(lambda n: 2 * n, [1, 2, 3]) == [2, 4, 6]
