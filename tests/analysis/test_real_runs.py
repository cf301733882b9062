"""Are the scales that GPUs logged those of the rows, would other scalers be noticed, and are all placements of an event tried?

The logs are no part of this project: tests that need them find them through $FPEMU_GPU_RUNS, and are skipped without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import real_runs
from analysis.experiment import Profile, load
from analysis.real_runs import Explained, RealRun, Seen, balanced_share, course_of, explain, prints, variants
from fpemu.scaling import LOSS_POLICIES, LossPolicy, LossScaler, ScalerStopped

FOLDER = real_runs.folder()
RUNS = {run.name: run for run in real_runs.read_runs(FOLDER)} if FOLDER else {}
needs_logs = pytest.mark.skipif(
    FOLDER is None, reason=f"{real_runs.ENVIRONMENT} names no folder with logs of real runs"
)

FACTS = {"framework": "torch GradScaler", "init": "8", "window": "3", "max_scale": "", "hysteresis": "", "steps": "20"}


def log_of(*seen: Seen, **facts: str) -> RealRun:
    return RealRun("mine", FACTS | facts, seen, "")


# ---- what GPUs logged -----------------------------------------------------------------------------------------------
@needs_logs
@pytest.mark.parametrize("name", RUNS or ["none"])
def test_a_row_gives_every_scale_that_was_logged(name: str) -> None:
    """Before and after every event, and wherever else it was printed: nothing is unexplained."""
    run = RUNS[name]
    found = explain(run)
    assert found.explained == found.events == int(run.facts["events"])
    assert found.contradicted == 0
    assert sum(one.skips for one in run.seen) == int(run.facts["overflows"])


@needs_logs
def test_nothing_but_a_run_s_configuration_is_given() -> None:
    given_ = {"init", "interval", "cap", "hysteresis"}
    for run in RUNS.values():
        row = LOSS_POLICIES[real_runs.ROWS[run.facts["framework"]]]
        changed = {one.name for one in fields(row) if getattr(row, one.name) != getattr(run.policy, one.name)}
        assert changed <= given_, run.name
        assert (
            run.policy.hysteresis == row.hysteresis or run.name == "deepspeed-08"
        )  # the one whose configuration states another
    assert len(RUNS) == 29
    counts = [explain(run) for name, run in RUNS.items() if name != "openai-01"]
    assert sum(found.events for found in counts) + 569 == 1370 and sum(found.prints for found in counts) == 1909


# Could it have failed?  Events that a wrong scaler explains, of how many.
FAILED: list[tuple[str, int, dict[str, Any], int]] = [
    ("torch-03", 19, {"interval": 1999}, 9), ("torch-03", 19, {"interval": 2001}, 9), ("torch-03", 19, {"delay": 1}, 9),
    ("torch-05", 13, {"interval": 1999}, 8), ("torch-05", 13, {"interval": 2001}, 8), ("torch-05", 13, {"delay": 1}, 8),
    ("nvidia-gnmt-01", 126, {"interval": 127}, 121), ("nvidia-gnmt-01", 126, {"interval": 129}, 121),
    ("nvidia-gnmt-01", 126, {"hysteresis": 2}, 76), ("nvidia-gnmt-03", 102, {"interval": 127}, 84),
    ("nvidia-gnmt-03", 102, {"interval": 129}, 84), ("nvidia-gnmt-03", 102, {"cap": 2.0**24}, 77),
    ("nvidia-gnmt-04", 67, {"interval": 127}, 43), ("apex-01", 40, {"interval": 136}, 38), ("apex-01", 40, {"hysteresis": 2}, 9),
    ("apex-03", 12, {"interval": 1000}, 3), ("apex-04", 7, {"interval": 1000}, 3), ("fairseq-01", 9, {"interval": 1000}, 6),
    ("fairseq-01", 9, {"interval": 4000}, 5), ("fairseq-01", 9, {"hysteresis": 2}, 4), ("fairseq-05", 7, {"interval": 2000}, 6),
    ("fairseq-05", 7, {"interval": 500}, 6), ("deepspeed-01", 139, {"delay": 1}, 78), ("deepspeed-01", 139, {"hysteresis": 1}, 72),
    ("deepspeed-01", 139, {"interval": 101}, 77), ("deepspeed-02", 20, {"hysteresis": 2}, 15), ("deepspeed-10", 18, {"interval": 1000}, 10),
    ("megatron-01", 20, {"refill": "good step"}, 19), ("megatron-03", 100, {"refill": "good step"}, 99),
    ("megatron-05", 10, {"refill": "good step"}, 9),
    ("openai-01", 569, {"logarithm": False, "growth": 2**0.001, "backoff": 0.5}, 313),
]  # fmt: skip
# These the logs are too coarse to tell.
COARSE: list[tuple[str, dict[str, Any]]] = [
    ("apex-01", {"interval": 127}), ("apex-03", {"interval": 1980}), ("fairseq-02", {"interval": 1000}), ("deepspeed-01", {"interval": 99}),
    ("deepspeed-02", {"delay": 0}), ("megatron-04", {"refill": "good step"}),
]  # fmt: skip


@needs_logs
@pytest.mark.parametrize(("name", "events", "changes", "explained"), FAILED, ids=str)
def test_a_wrong_scaler_explains_less(name: str, events: int, changes: dict[str, Any], explained: int) -> None:
    found = explain(RUNS[name], replace(RUNS[name].policy, **changes))
    assert (found.events, found.explained) == (events, explained) and explained < events


@needs_logs
@pytest.mark.parametrize(("name", "changes"), COARSE, ids=str)
def test_what_the_logs_are_too_coarse_to_tell(name: str, changes: dict[str, Any]) -> None:
    found = explain(RUNS[name], replace(RUNS[name].policy, **changes))
    assert found.explained == found.events


@needs_logs
def test_the_row_that_was_thought_right_for_zero_is_not() -> None:
    """Before 0.17.1 a growth needs no further step: OPT-1.3B's run by DeepSpeed 0.9 is not that of the newest row."""
    run = RUNS["deepspeed-01"]
    newest = replace(LOSS_POLICIES["deepspeed-config"], init=2.0**16, interval=100)
    assert explain(run, newest).explained == 78 < explain(run).explained == 139


@needs_logs
def test_a_trace_that_is_changed_is_noticed() -> None:
    """One scale of one event, one print, one step: each leaves something unexplained."""
    run = RUNS["torch-03"]
    place = next(k for k, one in enumerate(run.seen) if one.kind == "skip")
    for changes in (
        {"after": "262144"},
        {"before": "65536"},
        {"first": 4282, "last": 4282, "kind": "growth", "skips": 0},
    ):
        seen = (*run.seen[:place], replace(run.seen[place], **changes), *run.seen[place + 1 :])
        found = explain(replace(run, seen=seen))
        assert found.explained < found.events, changes
    printed = replace(run.seen[0], after="32768")
    assert explain(replace(run, seen=(printed, *run.seen[1:]))).contradicted == 1


# ---- all placements -------------------------------------------------------------------------------------------------
def every_placement(run: RealRun, policy: LossPolicy) -> Iterator[bool]:
    """Whether each placement of the events gives the log, step by step; growths and skips are at one step each."""
    steps = int(run.facts["steps"])
    ranges = [range(one.first, one.last + 1) for one in run.seen]
    logs_growth = any(one.kind == "growth" for one in run.seen)
    for at in product(*ranges):
        if any(a >= b for a, b in pairwise(at)):
            continue
        yield _gives(run, policy, dict(zip(at, run.seen, strict=True)), steps, logs_growth)


def _gives(run: RealRun, policy: LossPolicy, seen: dict[int, Seen], steps: int, logs_growth: bool) -> bool:
    scaler = LossScaler(policy)
    for step in range(max(seen, default=-1) + 1):
        here, before = seen.get(step), scaler.scale
        try:
            scaler.step(here is not None and here.kind == "skip")
        except ScalerStopped:
            return False
        if here is None or here.kind == "skip":
            if here is None and logs_growth and scaler.moved:
                return False
        elif not scaler.moved:
            return False
        if here is not None and not (prints(before, here.before) and prints(scaler.scale, here.after)):
            return False
    return True


SETTINGS = st.fixed_dictionaries(
    {"interval": st.integers(1, 4), "delay": st.integers(0, 1), "hysteresis": st.integers(1, 2), "refill": st.sampled_from(["growth", "good step"])}
)  # fmt: skip


@given(
    truth=SETTINGS, claimed=SETTINGS, overflows=st.sets(st.integers(0, 11), min_size=1, max_size=4), slack=st.integers(0, 2), growths=st.booleans()
)  # fmt: skip
def test_an_event_is_explained_where_a_placement_obeys_every_bound(
    truth: dict[str, Any], claimed: dict[str, Any], overflows: set[int], slack: int, growths: bool
) -> None:
    """Against trying every placement, one by one, of logs that one scaler wrote and another is to explain."""
    base = LossPolicy("mine", "here", 8.0)
    scaler, seen = LossScaler(replace(base, **truth)), []
    for step in range(12):
        before = scaler.scale
        scaler.step(step in overflows)
        if step in overflows or (growths and scaler.moved and len(seen) < 6):
            kind = "skip" if step in overflows else "growth"
            bounds = max(step - slack, 0), min(step + slack, 11)
            seen.append(Seen(kind, *bounds, f"{before:g}", f"{scaler.scale:g}", int(kind == "skip")))
        elif growths and scaler.moved:
            break  # further growths would be unlogged ones
    run = log_of(*seen[:6])
    for settings, sure in ((truth, True), (claimed, False)):
        policy = replace(base, **settings)
        found = explain(run, policy)
        whole = any(every_placement(run, policy))
        assert (found.explained == found.events) == whole
        assert whole or not sure


def test_counts_are_placed_anywhere_in_their_steps() -> None:
    """Hysteresis 2: three overflows of five steps from 8 end at 2 if they are in a row, by a rule that good steps restore; else at 4."""
    base = LossPolicy("mine", "here", 8.0, interval=1000, hysteresis=2)
    ends = {
        end: {refill: explain(log_of(Seen("count", 0, 4, "", end, 3)), replace(base, refill=refill)).explained for refill in ("growth", "good step")}
        for end in ("1", "2", "4", "8")
    }  # fmt: skip
    assert ends == {
        "1": {"growth": 0, "good step": 0}, "2": {"growth": 1, "good step": 1}, "4": {"growth": 0, "good step": 1}, "8": {"growth": 0, "good step": 1},
    }  # fmt: skip


@pytest.mark.parametrize(("step", "explained"), [(5, 2), (6, 1)])
def test_a_log_that_has_growths_has_all_of_them(step: int, explained: int) -> None:
    """Every third good step; the second growth is at the cap and changes nothing, but is not logged: the skip comes before it, or is unexplained."""
    policy = LossPolicy("mine", "here", 8.0, interval=3, cap=16.0)
    skip = Seen("skip", step, step, "16", "8", 1)
    assert explain(log_of(Seen("growth", 2, 2, "8", "16", 0), skip), policy).explained == explained
    assert explain(log_of(skip), policy).explained == 1  # a log without growths says nothing of them


def test_what_is_printed_narrows_the_steps_before_it() -> None:
    """Every third good step. The first skip was at step 0, 1 or 2; still 4 after step 4: at 2, so that the next one cannot have been at 8."""
    policy = LossPolicy("mine", "here", 8.0, interval=3)
    first, second = Seen("skip", 0, 2, "8", "4", 1), Seen("skip", 5, 5, "8", "4", 1)
    printed = Seen("print", 4, 4, "", "4", 0)
    assert explain(log_of(first, second), policy).explained == 2
    assert explain(log_of(first, printed, second), policy) == Explained(events=2, explained=1, prints=1, contradicted=0)


def test_after_what_is_not_explained_it_goes_on() -> None:
    """From the logged scale, with as much hysteresis as helps; a print only counts."""
    log = (
        Seen("skip", 1, 1, "8", "1", 1),
        Seen("skip", 2, 2, "1", "1", 1),
        Seen("print", 3, 3, "7", "", 0),
        Seen("print", 4, 4, "1", "1", 0),
        Seen("skip", 5, 5, "1", "0.5", 1),
    )
    policy = LossPolicy("mine", "here", 8.0, interval=100, hysteresis=2)
    assert explain(log_of(*log), policy) == Explained(events=3, explained=2, prints=2, contradicted=1)


# ---- reading and counting -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("scale", "text", "same"),
    [(8.0, "", True), (8.0, "8", True), (8.0, "8.0", True), (0.5, "0.5", True), (2.0**0.5, "1.414", True), (2.0**0.5, "1.4142", True),
     (2.0**0.5, "1.4143", False), (8.0, "4", False)],
)  # fmt: skip
def test_scales_are_compared_as_printed(scale: float, text: str, same: bool) -> None:
    assert prints(scale, text) == same


def test_lines_of_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the loss alone says nothing of the scale; without the environment's name, or a folder, there are no runs."""
    header = "line,step,loss_scale_before,loss_scale_after,overflow,hysteresis,loss,grad_norm,step_min,step_max\n"
    lines = ("1,0,,8,,,0.5,,0,0", "2,1,8,4,1,,,,1,3", "3,4,,,,,0.5,,4,4", "4,5,4,8,0,,,,5,6", "5,9,,8,2,,0.4,,7,9")
    (tmp_path / "mine.csv").write_text(header + "\n".join(lines) + "\n")
    (tmp_path / "manifest.csv").write_text(f"file,{','.join(FACTS)}\nmine.csv,{','.join(FACTS.values())}\n")
    (run,) = real_runs.read_runs(tmp_path)
    assert run.name == "mine" and run.policy == replace(LOSS_POLICIES["torch"], init=8.0, interval=3)
    assert [(one.kind, one.first, one.last, one.before, one.after, one.skips) for one in run.seen] == [
        ("print", 0, 0, "", "8", 0), ("skip", 1, 3, "8", "4", 1), ("growth", 5, 6, "4", "8", 0), ("count", 7, 9, "", "8", 2),
    ]  # fmt: skip
    monkeypatch.setenv(real_runs.ENVIRONMENT, str(tmp_path))
    assert real_runs.folder() == tmp_path
    e38: Any = load("e38")
    (unit,) = e38.plan(Profile())
    assert unit == {"run": "mine", "log": run.digest[:16]} and e38.extent([unit]) == 1
    for named in ("", str(tmp_path / "nowhere")):
        monkeypatch.setenv(real_runs.ENVIRONMENT, named)
        assert real_runs.folder() is None
    (none,) = e38.plan(Profile())
    assert e38.extent([none]) == 0
    tables = e38.measure(none, Profile())
    assert all(table.empty for table in tables.values()) and e38.draw(tables) == {}
    assert e38.verdict(tables).status == "no claim"


def test_the_course_of_a_run_by_hand() -> None:
    """Two skips, a growth, a skip: the warm-up is the first two, the scale is between 2 and 4 after it."""
    run = log_of(Seen("print", 0, 0, "", "8", 0), Seen("skip", 1, 1, "8", "4", 1), Seen("skip", 3, 5, "4", "2", 1),
                 Seen("skip", 11, 12, "4", "2", 1), Seen("print", 15, 15, "", "2", 0))  # fmt: skip
    assert course_of(run) == real_runs.Course(skips=3, warm_skips=2, rest=16, low=1.0, high=2.0)
    counted = log_of(Seen("count", 0, 4, "", "2", 3), Seen("count", 5, 9, "", "2", 0))
    assert course_of(counted) == real_runs.Course(skips=3, warm_skips=3, rest=15, low=1.0, high=1.0)
    never = log_of(Seen("growth", 2, 2, "8", "16", 0))
    assert course_of(never) == real_runs.Course(skips=0, warm_skips=0, rest=20, low=3.0, high=4.0)


def test_shares_at_balance() -> None:
    found = {
        name: balanced_share(LOSS_POLICIES[name]) for name in ("torch", "megatron", "guided-diffusion", "paddle-static")
    }
    assert found["torch"] == 1 / 2001 and found["megatron"] == 2 / 1002
    assert found["guided-diffusion"] == pytest.approx(1 / 1001, rel=1e-12)
    assert found["paddle-static"] == pytest.approx(
        2 / (2 + 321.93), rel=1e-4
    )  # log2(1 / 0.8) of a doubling's 1,000 steps


def test_variants_differ_in_one_setting() -> None:
    for name in ("torch", "deepspeed-config-0.8", "deepspeed-fused", "megatron"):
        row = LOSS_POLICIES[name]
        for variant, changed in variants(row).items():
            different = [one.name for one in fields(row) if getattr(row, one.name) != getattr(changed, one.name)]
            assert len(different) == 1, variant
        assert len(variants(row)) == (6 if row.hysteresis == 1 else 8)
    assert set(variants(LOSS_POLICIES["guided-diffusion"])) == {"a product of factors", "twice the growth"}
