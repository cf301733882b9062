"""The conversions themselves: round trips of all codes, and every midpoint of every format under every rounding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edges import ALL_16, DEFAULT, NAMED, NARROW, around, specials
from implementations import JIT, OURS, TABLE
from neighbours import expected, place

import fpemu as fp
from fpemu import FORMATS, Cast, FloatFormat, Overflow, Rounding, reference
from tests.children import PATIENCE

DETERMINISTIC = tuple(rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC)
REDUCED = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu",
           "float4_e2m1fn", "binary8p3se", "binary8p1uf")  # fmt: skip


def any_nan(format: FloatFormat) -> str:
    """A policy under which no NaN raises."""
    return "canonical" if format.has_nan else "max"


def some(x: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
    """At most about that many of the inputs, evenly spread, and all of the special ones at the end."""
    return x if x.size <= most else np.concatenate([x[: -14 : -(-x.size // most)], x[-14:]])


# ---- codes ----------------------------------------------------------------------------------------------------------
def _round_trip(format: FloatFormat) -> None:
    codes = np.arange(1 << format.bits, dtype=np.uint32).astype(format.code_dtype)
    nan = np.array([isinstance(v := reference.value(c, format), float) and v != v for c in codes])
    cast = Cast(format, nan=any_nan(format))
    values = fp.decode(codes, format)
    back = fp.encode(values, cast)
    np.testing.assert_array_equal(back[~nan], codes[~nan])
    assert np.array_equal(np.isnan(values), nan)
    canonical = reference.canonical_nan(format)
    for code, got in zip(codes[nan], back[nan], strict=True):
        sign = int(code) & format.sign_mask if format.high_nans else 0
        assert got == canonical | sign


@pytest.mark.parametrize("name", [name for name in DEFAULT if FORMATS[name].holds_in_float64])
def test_round_trip_of_all_codes(name: str) -> None:
    """Decode, then encode: the identity, but for NaN codes, which become the canonical one of their sign."""
    _round_trip(FORMATS[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [n for n in ALL_16 if FORMATS[n].holds_in_float64 and n not in DEFAULT])
def test_round_trip_of_all_codes_of_the_rest(name: str) -> None:
    _round_trip(FORMATS[name])


@pytest.mark.nojit
@pytest.mark.parametrize("name", NARROW if JIT else REDUCED[2:])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_decode_gives_the_exact_values(name: str, dtype: str) -> None:
    format = FORMATS[name]
    codes = np.arange(1 << format.bits, dtype=format.code_dtype)
    finite = [v for v in (reference.value(c, format) for c in codes) if not isinstance(v, float)]
    with np.errstate(over="ignore"):
        held = all(float(np.array(reference.as_float(v)).astype(dtype)) == v for v in finite)
    if not held:
        with pytest.raises(ValueError, match=f"{dtype} cannot hold every finite value of {name}"):
            fp.decode(codes, format, dtype=dtype)
        return
    values = fp.decode(codes, format, dtype=dtype)
    assert values.dtype == dtype
    for code, value in zip(codes, values, strict=True):
        right = reference.as_float(reference.value(code, format))
        assert (np.isnan(value) and np.isnan(right)) or (value == right and np.signbit(value) == np.signbit(right))


@pytest.mark.parametrize("name", [n for n in NAMED if FORMATS[n].bits <= 16])
def test_decode_agrees_with_ml_dtypes_and_numpy(name: str) -> None:
    format = FORMATS[name]
    dtype = np.float16 if name == "float16" else getattr(pytest.importorskip("ml_dtypes"), name)
    codes = np.arange(1 << format.bits, dtype=format.code_dtype)
    ours = fp.decode(codes, format)
    with np.errstate(invalid="ignore"):
        theirs = codes.view(dtype).astype(ours.dtype)
    np.testing.assert_array_equal(ours, theirs)
    assert np.array_equal(np.signbit(ours)[ours == 0], np.signbit(theirs)[ours == 0])


@pytest.mark.nojit
def test_wide_formats_round_trip_on_samples() -> None:
    rng = np.random.default_rng(0)
    for name in ("tfloat32", "float32"):
        format = FORMATS[name]
        codes = rng.integers(0, 1 << format.bits, 2000 if JIT else 200).astype(np.uint32)
        values = fp.decode(codes, format)
        back = fp.encode(values, format)
        number = ~np.isnan(values)
        np.testing.assert_array_equal(back[number], codes[number])
        nan = np.uint32(reference.canonical_nan(format) or 0) | codes[~number] & np.uint32(format.sign_mask)
        np.testing.assert_array_equal(back[~number], nan)


# ---- the short ways -------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not JIT, reason="the general way is compiled here; test_every_midpoint takes the short ones too")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_short_ways_agree_with_the_general_one(dtype: str) -> None:
    """Casts that discard a fixed number of bits, and those whose results are mirrored, against neither."""
    from fpemu.kernels.spec import LANE32, LANE64, encode_plan, encode_spec, fits_lane
    from fpemu.targets import cpu
    from fpemu.targets.chain import Stages

    lane = LANE32 if dtype == "float32" else LANE64
    taken: set[tuple[int, int]] = set()
    for name in (*NAMED, *DEFAULT[::9]):
        x = around(FORMATS[name], dtype) if FORMATS[name].bits <= 16 else specials(dtype)
        for overflow in (Overflow.IEEE, Overflow.SATURATE, Overflow.PROPAGATE, Overflow.NAN):
            for rounding in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC, Rounding.UP):
                cast = Cast(name, rounding, overflow, nan=any_nan(FORMATS[name]))
                plan = encode_plan(cast, lane)
                if not fits_lane(cast, lane) or not (plan.fixed_shift or plan.mirrored):
                    continue
                stages = Stages(to=encode_spec(cast, lane, lane.emin))
                codes = []
                for way in (plan, plan._replace(fixed_shift=0, mirrored=0)):
                    driver = cpu.conversion_driver(
                        (False, True, False), way, lane, np.dtype(lane.code), cast.format.code_dtype
                    )
                    codes.append(np.empty(x.shape, cast.format.code_dtype))
                    driver(x.view(lane.code), codes[-1], cpu.numbers_of(stages, lane), np.uint64(0), np.uint64(0))
                np.testing.assert_array_equal(codes[0], codes[1], err_msg=f"{cast}")
                taken.add((plan.fixed_shift, plan.mirrored))
    assert {(0, 1), (2, 0), (2, 1)} <= taken


@pytest.mark.nojit
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_the_main_formats_take_the_short_ways(name: str) -> None:
    from fpemu.kernels.spec import LANE32, SHIFT_FIXED, SHIFT_FIXED_OR_FLOAT, encode_plan

    for rounding in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC):
        plan = encode_plan(Cast(name, rounding), LANE32)
        assert plan.fixed_shift == (SHIFT_FIXED if name == "bfloat16" else SHIFT_FIXED_OR_FLOAT) and plan.mirrored


# ---- values: every midpoint -----------------------------------------------------------------------------------------
def _every_midpoint(format: FloatFormat, dtype: str) -> None:
    x = around(format, dtype)
    placed = place(x, format)
    for rounding in DETERMINISTIC:
        cast = Cast(format, rounding, nan=any_nan(format))
        np.testing.assert_array_equal(fp.encode(x, cast), expected(placed, cast), err_msg=rounding.value)
    # What the overflow rows change lies at the top, at zero and among negatives: take those inputs alone.
    with np.errstate(invalid="ignore"):
        top = np.flatnonzero(~(np.abs(x) < np.abs(x[np.isfinite(x)]).max() / 16) | (np.abs(x) < 1e-300))
    x = np.concatenate([x[top][:4000], x[top][-4000:], x[:40], x[-40:]])
    placed = place(x, format)
    for overflow in Overflow:
        for rounding in DETERMINISTIC:
            cast = Cast(format, rounding, overflow, nan=any_nan(format))
            np.testing.assert_array_equal(
                fp.encode(x, cast), expected(placed, cast), err_msg=f"{rounding.value} {overflow.value}"
            )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", DEFAULT)
def test_every_midpoint(name: str, dtype: str) -> None:
    """Values, midpoints, and one ulp of the input's type to either side, in every rounding and overflow row."""
    _every_midpoint(FORMATS[name], dtype)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in ALL_16 if name not in DEFAULT])
def test_every_midpoint_of_the_rest(name: str) -> None:
    for dtype in ("float32", "float64"):
        _every_midpoint(FORMATS[name], dtype)


@pytest.mark.parametrize("name", NARROW)
def test_all_float16_inputs(name: str) -> None:
    """float16 is a source of its own: all 65,536 patterns."""
    format = FORMATS[name]
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    placed = place(x, format)
    for rounding in DETERMINISTIC:
        cast = Cast(format, rounding, nan=any_nan(format))
        np.testing.assert_array_equal(fp.encode(x, cast), expected(placed, cast), err_msg=rounding.value)


@pytest.mark.nojit
@pytest.mark.parametrize("name", ["tfloat32", "float32"])
def test_wide_targets_around_limits(name: str) -> None:
    """Too many codes for a table of midpoints: powers of two and their midpoints against the reference itself."""
    format = FORMATS[name]
    rng = np.random.default_rng(1)
    rungs = np.concatenate(
        [np.arange(3), format.smallest_normal_code + np.arange(-2, 3), format.max_code - np.arange(3)]
    )
    rungs = np.concatenate([rungs, rng.integers(0, format.max_code, 60)])
    points = [(reference.rung(int(n), format) + reference.rung(int(n) + 1, format)) / 2 for n in rungs]
    points += [reference.rung(int(n), format) for n in rungs]
    middle = np.array([float(p) for p in points])
    x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, 0), specials(np.float64)])
    x = np.concatenate([x, -x])
    for rounding in DETERMINISTIC:
        for overflow in (Overflow.IEEE, Overflow.SATURATE):
            cast = Cast(format, rounding, overflow)
            np.testing.assert_array_equal(fp.encode(x, cast), [reference.encode(value, cast) for value in x])


# ---- all implementations, one table ---------------------------------------------------------------------------------
FROZEN = ("float16", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu")


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("implementation", "name", "dtype"),
    [
        pytest.param(
            implementation,
            name,
            dtype,
            # (A loop with its numbers frozen is compiled for every format: seconds each, and the same code paths.)
            marks=[pytest.mark.cuda] * (implementation == "cuda")
            + [pytest.mark.exhaustive] * (implementation == "frozen" and (name not in FROZEN or dtype != "float32")),
        )
        for implementation in OURS
        for name in REDUCED
        for dtype in ("float16", "float32", "float64")
    ],
)
def test_implementations_agree(implementation: str, name: str, dtype: str) -> None:
    """The kernels compiled for any format, frozen for one, as plain Python, and through quantize."""
    ours, format = TABLE[implementation], FORMATS[name]
    with np.errstate(over="ignore"):
        x = around(format, "float32" if dtype == "float16" else dtype).astype(dtype)
    x = some(x, 4000 if ours.per_second > 1e6 else 120)
    placed = place(x, format)
    for rounding in DETERMINISTIC:
        for overflow in (Overflow.IEEE, Overflow.SATURATE) if ours.per_second > 1e6 else (Overflow.IEEE,):
            cast = Cast(format, rounding, overflow, nan=any_nan(format))
            np.testing.assert_array_equal(ours(x, cast), expected(placed, cast), err_msg=f"{rounding} {overflow}")


@pytest.mark.parametrize("name", [name for name in NAMED if FORMATS[name].bits <= 16])
def test_quantize_is_decode_of_encode(name: str) -> None:
    format = FORMATS[name]
    for dtype in ("float32", "float64"):
        x = around(format, dtype)
        for rounding in (Rounding.NEAREST_EVEN, Rounding.UP, Rounding.STOCHASTIC):
            cast = Cast(format, rounding, "saturate", nan=any_nan(format))
            one_pass = fp.quantize(x, cast, seed=3)
            two = fp.decode(fp.encode(x, cast, seed=3), format, dtype=dtype)
            assert one_pass.dtype == x.dtype
            unsigned = {4: np.uint32, 8: np.uint64}[x.itemsize]
            np.testing.assert_array_equal(one_pass.view(unsigned), two.view(unsigned))


TO_AND_FRO = ("float16", "float8_e4m3fn", "float8_e8m0fnu", "binary8p4uf", "binary15p2ue", "bfloat16", "float8_e5m2",
              "float8_e4m3fnuz", "binary8p3se", "float4_e2m1fn")  # fmt: skip


@pytest.mark.parametrize("names", [TO_AND_FRO[:5], pytest.param(TO_AND_FRO, marks=pytest.mark.exhaustive)], ids=len)
def test_cast_between_formats_rounds_the_exact_value_once(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(2)
    for source in (FORMATS[name] for name in names if FORMATS[name].holds_in_float64):
        codes = np.arange(1 << source.bits, dtype=source.code_dtype)
        codes = codes if codes.size <= 256 else rng.choice(codes, 256)
        for target in (FORMATS[name] for name in names):
            to = Cast(target, rng.choice(np.array(DETERMINISTIC)), "saturate", nan=any_nan(target))
            right = [reference.encode(reference.value(c, source), to, source=source) for c in codes]
            np.testing.assert_array_equal(fp.cast(codes, source=source, target=to), right, err_msg=f"{source} to {to}")


# ---- with and without the compiler ----------------------------------------------------------------------------------
SCRIPT = """
import sys
import numpy as np, numba, fpemu as fp
sys.stdout.write(str(bool(numba.config.DISABLE_JIT)))
x = np.random.default_rng(0).integers(0, 2**32, 300, dtype=np.uint32).view(np.float32)
x = np.concatenate([x, np.float32(2) ** np.arange(-30, 18), np.float32(1.5) * np.float32(2) ** np.arange(-30, 18)])
for name in ("fp16", "bf16", "e4m3", "e5m2", "e8m0", "binary8p3se"):
    for rounding in fp.Rounding:
        for wide in (x, x.astype(np.float64) * (1 + 2.0**-40)):
            codes = fp.encode(wide, name, rounding=rounding, seed=5)
            sys.stdout.write("\\n" + codes.tobytes().hex() + fp.decode(codes, name).tobytes().hex())
"""


def _run(script: str, folder: Path, **environment: str) -> str:
    """The output of a fresh interpreter that imports fpemu from a folder."""
    kept = {key: value for key, value in os.environ.items() if key not in ("NUMBA_DISABLE_JIT", "NUMBA_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=kept | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


PACKAGE = Path(fp.__file__).resolve().parent


@pytest.mark.exhaustive
def test_the_same_bits_without_the_compiler() -> None:
    """All roundings and both lanes, in two fresh interpreters."""
    compiled = _run(SCRIPT, PACKAGE.parent)
    interpreted = _run(SCRIPT, PACKAGE.parent, NUMBA_DISABLE_JIT="1")
    assert (compiled.splitlines()[0], interpreted.splitlines()[0]) == ("False", "True")
    assert compiled.splitlines()[1:] == interpreted.splitlines()[1:]
    assert len(compiled.splitlines()) == 1 + 6 * 7 * 2


ENCODE = """
import numpy as np, fpemu as fp
print(fp.encode(np.array([1.0, 1.0625, 3.3]), "e4m3").tolist())
print(fp.decode(np.array([56], np.uint8), "e4m3").tolist())
"""


def _edit(path: Path, name: str, line: str) -> None:
    """Wrap a kernel in its own file, so that only the files that call it see the change."""
    path.write_text(path.read_text() + f"\n\n_unedited = {name}\n\n\n@kernel\ndef {name}(*arguments):\n    {line}\n")


@pytest.mark.exhaustive
@pytest.mark.skipif(not JIT, reason="the cache belongs to the compiler")
def test_editing_a_kernel_changes_the_result(tmp_path: Path) -> None:
    """Numba's cache looks at the file of the function it compiled, not at the files of what that calls."""
    shutil.copytree(PACKAGE, tmp_path / "fpemu", ignore=shutil.ignore_patterns("__pycache__"))
    before = _run(ENCODE, tmp_path)
    assert before == "[56, 56, 69]\n[1.0]\n"
    assert list((tmp_path / "fpemu").rglob("*.nbc")), "nothing was cached: the test would prove nothing"
    assert _run(ENCODE, tmp_path) == before
    _edit(tmp_path / "fpemu/kernels/pack.py", "pack", "return _unedited(*arguments) + 1")
    assert _run(ENCODE, tmp_path) == "[57, 57, 70]\n[1.0]\n"
