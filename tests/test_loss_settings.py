"""Are settings of loss scalers checked when they are given, with a text that says what is valid, and those that originals take taken?"""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from syrupy.assertion import SnapshotAssertion

from fpemu.scaling import LOSS_POLICIES, LossPolicy, loss_scaler

WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("torch", {"margin": 2}, TypeError, "torch has no setting 'margin'; there are name, source, init, growth, backoff, interval"),
    ("torch", {"init": "2"}, TypeError, "torch: init must be a number, not '2'"),
    ("torch", {"growth": True}, TypeError, "torch: growth must be a number, not True"),
    ("torch", {"interval": 2000.0}, TypeError, r"torch: interval must be a whole number or None, not 2000\.0"),
    ("torch", {"delay": None}, TypeError, "torch: delay must be a whole number, not None"),
    ("megatron", {"hysteresis": True}, TypeError, "megatron: hysteresis must be a whole number, not True"),
    ("torch", {"single": 1}, TypeError, "torch: single must be True or False, not 1"),
    ("torch", {"interval": 0}, ValueError, "torch: interval must be at least 1, not 0"),
    ("torch", {"delay": -1}, ValueError, "torch: delay must be at least 0, not -1"),
    ("megatron", {"hysteresis": 0}, ValueError, "megatron: hysteresis must be at least 1, not 0"),
    ("megatron", {"init": 0.5}, ValueError, r"megatron: init must be at least the floor, 1, not 0\.5"),
    ("torch", {"init": -1.0}, ValueError, r"torch: init must be at least the floor, 0, not -1\.0"),
    ("jmp", {"floor": 2.0**16}, ValueError, "jmp: init must be at least the floor, 65536, not 32768"),
    ("torch", {"growth": 0.0}, ValueError, r"torch: growth must be at least 1 and finite, not 0\.0"),
    ("torch", {"growth": 0.999}, ValueError, r"torch: growth must be at least 1 and finite, not 0\.999"),
    ("torch", {"growth": inf}, ValueError, "torch: growth must be at least 1 and finite, not inf"),
    ("torch", {"growth": nan}, ValueError, "torch: growth must be at least 1 and finite, not nan"),
    ("torch", {"backoff": 0}, ValueError, "torch: backoff must be above 0 and at most 1, not 0"),
    ("torch", {"backoff": 1.5}, ValueError, r"torch: backoff must be above 0 and at most 1, not 1\.5"),
    ("torch", {"backoff": -0.5}, ValueError, r"torch: backoff must be above 0 and at most 1, not -0\.5"),
    ("megatron", {"backoff": 1e-46}, ValueError, "megatron: backoff must be above 0 and at most 1 in float32, not 1e-46"),
    ("megatron", {"growth": 1e39}, ValueError, r"megatron: growth must be at least 1 and finite in float32, not 1e\+39"),
    ("guided-diffusion", {"growth": -1e-3}, ValueError, "growth must be 0 or more and finite: it is added to log2 of the scale"),
    ("guided-diffusion", {"backoff": 0.5}, ValueError, "backoff must be 0 or less and finite: it is added to log2 of the scale"),
    ("guided-diffusion", {"cap": 2.0**24}, ValueError, "kept as its logarithm is a positive Python float without floor or cap"),
    ("guided-diffusion", {"init": 0.0}, ValueError, "kept as its logarithm is a positive Python float without floor or cap"),
    ("fairseq", {"tolerance": 1.5}, ValueError, r"fairseq: tolerance must be between 0 and 1, not 1\.5"),
    ("jmp", {"floor": -1.0}, ValueError, r"jmp: floor must be 0 or more and finite, not -1\.0"),
    ("jmp", {"cap": 0.5}, ValueError, r"jmp: cap must be above 0 and at least the floor, 1, not 0\.5"),
    ("apex", {"floor": 1.0}, ValueError, r'apex: a floor needs at_floor, which says what happens there, "clamp" for example'),
    ("torch", {"at_floor": "stop"}, ValueError, "at_floor 'stop' is not one of: clamp, keep, raise, raise before, none"),
    ("megatron", {"refill": "never"}, ValueError, "refill 'never' is not one of: growth, good step, good step or backoff"),
    ("torch", {"divides_by": "last"}, ValueError, "divides_by 'last' is not one of: used, next"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "error", "text"), WRONG, ids=str)
def test_a_wrong_setting_is_refused_when_given(
    name: str, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        loss_scaler(name, **changes)


RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("torch", {"init": 0.0}), ("torch", {"init": inf}), ("torch", {"init": 3, "growth": 1, "backoff": 1}),
    ("torch", {"init": np.float32(8), "interval": np.int64(3)}), ("static", {"interval": None}), ("torch", {"growth": 1e39}),
    ("apex", {"floor": 1.0, "at_floor": "clamp"}), ("jmp", {"floor": 2.0**15}), ("fairseq", {"tolerance": 1}), ("logmax", {"floor": 0.5}),
    ("guided-diffusion", {"growth": 0.0, "backoff": 0.0}), ("guided-diffusion", {"init": 2.0**-20}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), RIGHT, ids=str)
def test_a_right_setting_is_taken(name: str, changes: dict[str, Any]) -> None:
    policy = loss_scaler(name, **changes).policy
    assert {one: getattr(policy, one) for one in changes} == changes


def test_a_row_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match="mine: init must be at least the floor, 4, not 2"):
        LossPolicy("mine", "here", 2.0, floor=4.0, at_floor="clamp")


def test_factors_are_numbers_of_their_kind() -> None:
    """Megatron's are float32 tensors, GradScaler's float64 numbers: from a scale of 3 they grow by 1.1 to different bits."""
    after = {}
    for name in ("megatron", "torch"):
        scaler = loss_scaler(name, init=3.0, growth=1.1, interval=1)
        scaler.step(False)
        after[name] = scaler.scale
    assert after["megatron"] == float(np.float32(3) * np.float32(1.1))
    assert after["torch"] == float(np.float32(3 * 1.1))
    assert after["megatron"] != after["torch"]


def test_the_rows_say_what_was_read_in_their_sources(snapshot: SnapshotAssertion) -> None:
    assert "\n".join(str(row) for row in LOSS_POLICIES.values()) == snapshot
