"""Do functions of two formats take them by name, and say so to those who do not?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fpemu as fp
from fpemu import reference
from fpemu.engines import chain
from fpemu.testing import assert_conversion, check_conversion, check_stochastic

CODES = np.arange(16, dtype=np.uint8)
STACK = fp.STACKS["torch>=2.13"]
ROWS: list[tuple[Callable[[], Any], str]] = [
    (lambda: fp.cast(CODES, "e4m3", "e5m2"), 'fp.cast(codes, source="e4m3", target="e5m2")'),
    (lambda: fp.cast(CODES, "e5m2", source="e4m3"), 'fp.cast(codes, source="e4m3", target="e5m2")'),
    (lambda: STACK.cast("e4m3", "float64"), 'stack.cast(target="e4m3", source="float64")'),
    (lambda: STACK.note("e4m3", "float64"), 'stack.note(target="e4m3", source="float64")'),
    (lambda: STACK.row("e4m3", "float64"), 'stack.row(target="e4m3", source="float64")'),
    (lambda: check_conversion(abs, "float32", "e4m3"), 'check_conversion(function, source="float32", target="e4m3")'),
    (lambda: assert_conversion(abs, "float32", "e4m3"), 'assert_conversion(function, source="float32", target="e4m3")'),
    (lambda: check_stochastic(abs, "float32", "e4m3"), 'check_stochastic(function, source="float32", target="e4m3")'),
    (lambda: reference.encode(1.0, "e4m3", None, "float32"), 'reference.encode(x, "e4m3", source="float32")'),
    (lambda: reference.explain(1.0, "e4m3", None, "float32"), 'reference.explain(x, "e4m3", source="float32")'),
    (lambda: chain("fp32", "fp16"), 'engines.chain("fp32", inputs="fp16")'),
]


@pytest.mark.parametrize(("call", "line"), ROWS, ids=[line.partition("(")[0] for _, line in ROWS])
def test_a_format_by_position_is_told_how_to_write_it(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value).endswith(f"write {line}") and "by name" in str(error.value)


def test_the_line_that_is_shown_works() -> None:
    np.testing.assert_array_equal(
        fp.cast(CODES, source="e4m3", target="e5m2"), fp.encode(fp.decode(CODES, "e4m3"), "e5m2")
    )
    assert STACK.cast(target="e4m3", source="float64") == STACK.cast("e4m3", source="float64")


def test_signatures_say_what_is_taken() -> None:
    for function in (fp.cast, check_conversion, check_stochastic, fp.stacks.Stack.cast):
        assert inspect.signature(function).parameters["source"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(fp.cast).parameters["target"].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="target"):
        fp.cast(CODES, source="e4m3")  # type: ignore[call-arg]
