"""Are converters held against the inputs they were given, whatever they write to and whatever memory they return?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from implementations import JIT

import fpemu as fp
from fpemu.cli import main
from fpemu.testing import assert_conversion, check_conversion, check_roundtrip, check_stochastic
from fpemu.testing.layouts import LAYOUTS

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")


# ---- wrong converters that work in place -----------------------------------------------------------------------------
def clips(x: Array) -> Array:
    np.clip(x, -448, 448, out=x)
    return fp.quantize(x, "e4m3")


def drops_nan(x: Array) -> Array:
    np.nan_to_num(x, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return fp.encode(x, "e4m3")


def doubles(x: Array) -> Array:
    x *= 2
    return fp.encode(x, "e4m3")


def loses_sign(x: Array) -> Array:
    np.abs(x, out=x)
    return fp.encode(x, "e4m3")


def masks_codes(codes: Array) -> Array:
    codes &= 0x7F
    return fp.cast(codes, source="e5m2", target="e4m3")


IN_PLACE: dict[str, tuple[Callable[[Array], Array], dict[str, Any]]] = {
    "clip": (clips, {"source": "float32"}),
    "clip, half": (clips, {"source": "float16"}),
    "nan_to_num": (drops_nan, {"source": "float64"}),
    "times two": (doubles, {"source": "float32"}),
    "abs": (loses_sign, {"source": "bfloat16"}),
    "codes": (masks_codes, {"source": "e5m2", "takes": "codes"}),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_wrong_converter_that_works_in_place_is_found(name: str) -> None:
    function, more = IN_PLACE[name]
    report = check_conversion(function, "e4m3", **more)
    assert report.failing, report
    with pytest.raises(AssertionError):
        assert_conversion(function, "e4m3", **more)


def test_round_trips_do_not_share_memory_either() -> None:
    def decoder(codes: Array) -> Array:
        codes &= 0x7F
        return fp.decode(codes, "e4m3")

    def encoder(values: Array) -> Array:
        np.abs(values, out=values)
        return fp.encode(values, "e4m3")

    right_decoder, right_encoder = (lambda c: fp.decode(c, "e4m3")), (lambda v: fp.encode(v, "e4m3"))
    assert check_roundtrip(decoder, right_encoder, "e4m3").failing == 127  # all negative numbers, and -0
    assert check_roundtrip(right_decoder, encoder, "e4m3").failing == 127
    assert check_roundtrip(right_decoder, right_encoder, "e4m3").conforms


def test_stochastic_converters_neither() -> None:
    rng = np.random.default_rng(5)

    def doubled(x: Array) -> Array:
        x *= 2
        return fp.quantize(x, "e4m3", rounding="stochastic", seed=int(rng.integers(2**62)))

    assert not check_stochastic(doubled, "e4m3", draws=1 << 12).conforms

    def scribbling(x: Array) -> Array:
        values = fp.quantize(x, "e4m3", rounding="stochastic", seed=int(rng.integers(2**62)))
        x[...] = 3
        return values

    assert check_stochastic(scribbling, "e4m3", draws=1 << 12, fresh=True).conforms
    report = check_stochastic(scribbling, "e4m3", draws=1 << 12, forbid_mutation=True)
    assert [fault.name for fault in report.faults] == ["changes its argument"]


# ---- right ones ------------------------------------------------------------------------------------------------------
def scribbles(x: Array) -> Array:
    codes = fp.encode(x, "e4m3")
    x[...] = 3
    return codes


def same_array(x: Array) -> Array:
    return fp.quantize(x, "e4m3", out=x)


def view_of_the_argument(x: Array) -> Array:
    x[...] = fp.quantize(x, "e4m3")
    return x[:]


class OneBuffer:
    """A converter that returns the same memory each time, and fills it with something else at the next call."""

    def __init__(self) -> None:
        self.buffer = np.zeros(1 << 20, np.uint8)

    def __call__(self, x: Array) -> Array:
        self.buffer[:] = 0x55
        out = self.buffer[: x.size].reshape(x.shape)
        out[...] = fp.encode(x, "e4m3")
        return out


class OneNumber:
    """One element at a time, always in the same 0-d array."""

    def __init__(self) -> None:
        self.buffer = np.zeros((), np.uint8)

    def __call__(self, x: Any) -> Array:
        if np.ndim(x):
            raise TypeError("one at a time")
        self.buffer[()] = fp.encode(x, "e4m3")
        return self.buffer


@pytest.mark.parametrize("function", [scribbles, same_array, view_of_the_argument, OneBuffer()])
def test_right_converters_may_use_their_argument(function: Any) -> None:
    assert check_conversion(function, "e4m3", source="float32").conforms


def test_a_buffer_of_one_element_is_copied_at_once() -> None:
    assert check_conversion(OneNumber(), "e4m3", source="float8_e5m2").conforms


@pytest.mark.parametrize(("function", "changes"), [(scribbles, True), (same_array, True), (OneBuffer(), False)])
def test_writing_to_the_argument_is_a_finding_on_demand(function: Any, changes: bool) -> None:
    report = check_conversion(function, "e4m3", source="float16", forbid_mutation=True)
    assert (report.fault, report.conforms, report.failing) == (
        "changes its argument" if changes else None,
        not changes,
        0,
    )
    assert ("changes its argument" in str(report)) == changes


def test_round_trips_can_forbid_it_too() -> None:
    report = check_roundtrip(lambda c: fp.decode(c, "e4m3"), scribbles, "e4m3", forbid_mutation=True)
    assert report.fault == "changes its argument" and "scribbles" in report.faults[0].detail
    assert check_roundtrip(lambda c: fp.decode(c, "e4m3"), scribbles, "e4m3").conforms


# ---- arrays of every kind --------------------------------------------------------------------------------------------
def test_every_layout_is_what_it_says() -> None:
    bits = np.arange(64, dtype=np.uint32) * 7
    for layout in LAYOUTS:
        view = layout.view(layout.buffer(bits).view(np.float32))
        seen = np.ascontiguousarray(view).astype("=f4").view(np.uint32).reshape(-1)
        np.testing.assert_array_equal(seen, bits[: 0 if layout.name == "empty" else None], err_msg=layout.name)
    shape = {layout.name: layout.view(layout.buffer(bits).view(np.float32)) for layout in LAYOUTS}
    assert shape["non-contiguous"].strides == (8,) and shape["reversed"].strides == (-4,)
    assert shape["transposed"].strides == (4, 16) and not shape["read-only"].flags.writeable
    assert not shape["byte-swapped"].dtype.isnative and shape["empty"].size == 0


def _memory_of(x: Array) -> Array:
    """The elements that follow in memory, as a function sees them that goes by the address alone."""
    import ctypes

    return np.frombuffer((ctypes.c_char * x.nbytes).from_address(x.ctypes.data), x.dtype).reshape(x.shape)


def _only_if(bad: Callable[[Array], bool]) -> Callable[[Array], Array]:
    """Right, but for arrays of one kind, of which it makes zeros."""
    return lambda x: np.zeros(x.shape, np.uint8) if x.size and bad(x) else fp.encode(x, "e4m3")


BY_LAYOUT: dict[str, tuple[Callable[[Array], Array], tuple[str, ...]]] = {
    "address": (lambda x: fp.encode(_memory_of(x), "e4m3"), ("non-contiguous", "transposed", "reversed")),
    "bytes": (lambda x: fp.encode(x.view("=f4"), "e4m3"), ("byte-swapped",)),
    "read-only": (_only_if(lambda x: not x.flags.writeable), ("read-only",)),
    "0-d": (_only_if(lambda x: x.ndim == 0), ("0-d",)),
}


@pytest.mark.parametrize("name", BY_LAYOUT)
def test_a_wrong_result_for_a_layout_is_named(name: str) -> None:
    function, layouts = BY_LAYOUT[name]
    report = check_conversion(function, "e4m3", source="float32")
    assert not report.conforms and report.failing == 0
    assert [fault.name for fault in report.faults] == [f"wrong on {layout} input" for layout in layouts]
    assert report.counterexample is not None and "wrong on" in str(report)
    assert check_conversion(function, "e4m3", source="float32", layouts=False).conforms


REFUSES: dict[str, Callable[[Array], bool]] = {
    "non-contiguous": lambda x: not x.flags.c_contiguous and not x.flags.f_contiguous and x.strides[0] > 0,
    "reversed": lambda x: x.ndim == 1 and x.strides[0] < 0,
    "transposed": lambda x: x.ndim == 2,
    "read-only": lambda x: not x.flags.writeable,
    "byte-swapped": lambda x: not x.dtype.isnative,
    "empty": lambda x: x.size == 0,
    "0-d": lambda x: x.ndim == 0,
}


@pytest.mark.parametrize("layout", REFUSES)
def test_a_refusal_is_noted_and_no_fault(layout: str) -> None:
    def refuses(x: Array) -> Array:
        if REFUSES[layout](x):
            raise BufferError("not this one")
        return fp.encode(x, "e4m3")

    report = check_conversion(refuses, "e4m3", source="float16")
    assert report.conforms and len(report.notes) == 1
    assert report.notes[0].startswith(f"refuses {layout} input: ") and "not this one" in str(report)


# ---- the same input twice --------------------------------------------------------------------------------------------
def test_a_function_that_changes_its_mind_is_told_first() -> None:
    rng = np.random.default_rng(1)

    def drawn(x: Array) -> Array:
        return fp.encode(x, "e5m2", rounding="stochastic", overflow="saturate", seed=int(rng.integers(2**62)))

    report = check_conversion(drawn, "e5m2", source="float32")
    assert [fault.name for fault in report.faults] == ["not deterministic"] and not report.conforms
    assert report.counterexample is not None and ", then " in str(report.counterexample)


def test_a_right_first_call_is_not_enough() -> None:
    calls: list[int] = []

    def tires(x: Array) -> Array:
        calls.append(1)
        return fp.encode(x, "e4m3", overflow="ieee" if len(calls) < 3 else "saturate")

    report = check_conversion(tires, "e4m3", source="float16")
    assert report.fault == "not deterministic" and report.failing == 0
    assert not check_roundtrip(lambda c: fp.decode(c, "e4m3"), _alternating(), "e4m3").conforms


def _alternating() -> Callable[[Array], Array]:
    state = [0]

    def encoder(values: Array) -> Array:
        state[0] += 1
        return np.asarray(fp.encode(values, "e4m3") ^ np.uint8(state[0] > 2))

    return encoder


def test_a_result_that_depends_on_the_other_elements_is_named() -> None:
    def by_size(x: Array) -> Array:
        return fp.encode(x, "e4m3", overflow="ieee" if x.size > 5000 else "saturate")

    report = check_conversion(by_size, "e4m3", source="float32")
    assert report.fault == "depends on other elements" and report.failing == 0


# ---- the command -----------------------------------------------------------------------------------------------------
MODULE = """
import numpy as np, fpemu as fp
def clips(x):
    np.clip(x, -448, 448, out=x)
    return fp.quantize(x, "e4m3")
def scribbles(x):
    codes = fp.encode(x, "e4m3")
    x[...] = 0
    return codes
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "in_place_converters.py").write_text(MODULE)
    runs = [(["clips"], 1), (["scribbles"], 0), (["scribbles", "--forbid-mutation"], 1)]
    for (function, *more), code in runs:
        result = CliRunner().invoke(main, ["check", f"in_place_converters:{function}", "--to", "e4m3", *more])
        assert result.exit_code == code, result.output
    assert "changes its argument" in result.output
