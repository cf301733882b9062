"""Does PyTorch (CPU) cast as the policies say it does?  (``tox -e torch``; skipped where torch is not installed.)"""

from __future__ import annotations

import numpy as np
import pytest

import fpemu as fp
from analysis.gpu.hashing import is_nan
from analysis.gpu.inputs import patterns
from analysis.gpu.libraries import torch_codes as recorded_codes
from analysis.gpu.parts import PARTS, TORCH, converted

torch = pytest.importorskip("torch", reason="torch is not installed: tox -e torch")

# Format, torch dtype, and the overflow policy of torch 2.13 (E4M3 saturates since then, pytorch#178817).
CASTS = [
    ("float16", "float16", "ieee"),
    ("bfloat16", "bfloat16", "ieee"),
    ("float8_e4m3fn", "float8_e4m3fn", "saturate"),
    ("float8_e5m2", "float8_e5m2", "ieee"),
    ("float8_e4m3fnuz", "float8_e4m3fnuz", "ieee"),
    ("float8_e5m2fnuz", "float8_e5m2fnuz", "ieee"),
]
LOW_HALVES = (0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


def structured_float32() -> np.ndarray:
    """Every upper half of a float32 with the lower halves around the ties."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    return (high[:, None] | np.array(LOW_HALVES, np.uint32)).reshape(-1).view(np.float32)


def torch_codes(x: np.ndarray, dtype: str) -> np.ndarray:
    """torch's codes of the values of ``x``."""
    cast = torch.from_numpy(x).to(getattr(torch, dtype))
    return cast.view(torch.uint8 if cast.element_size() == 1 else torch.int16).numpy().view(f"u{cast.element_size()}")


def assert_same(ours: np.ndarray, theirs: np.ndarray, x: np.ndarray, format: str) -> None:
    """Equal codes; NaNs by class, since libraries differ in their canonical one."""
    both_nan = np.isnan(fp.decode(ours, format)) & np.isnan(fp.decode(theirs, format))
    wrong = np.flatnonzero((ours != theirs) & ~both_nan)
    first = wrong[:3]
    assert not wrong.size, f"{wrong.size} of {x.size} differ, e.g. {x[first]}: {ours[first]} against {theirs[first]}"


@pytest.mark.parametrize(("format", "dtype", "overflow"), CASTS)
def test_float32_casts(format: str, dtype: str, overflow: str) -> None:
    x = structured_float32()
    assert_same(fp.encode(x, format, overflow=overflow), torch_codes(x, dtype), x, format)


@pytest.mark.parametrize(("format", "dtype", "overflow"), CASTS)
def test_float64_is_rounded_twice(format: str, dtype: str, overflow: str) -> None:
    """torch narrows float64 through float32: our ``via`` says the same, and a single rounding does not."""
    grid = fp.decode(np.arange(fp.FORMATS[format].max_code, dtype=fp.FORMATS[format].code_dtype), format)
    values = grid.astype(np.float64)
    middle = (values[:-1] + values[1:]) / 2
    x = np.concatenate([np.nextafter(middle, np.inf), np.nextafter(middle, 0), middle])
    theirs = torch_codes(x, dtype)
    assert_same(fp.encode(x, format, overflow=overflow, via="float32"), theirs, x, format)
    assert np.any(fp.encode(x, format, overflow=overflow) != theirs)


@pytest.mark.parametrize(("format", "dtype", "overflow"), CASTS)
def test_decoding(format: str, dtype: str, overflow: str) -> None:
    target = fp.FORMATS[format]
    codes = np.arange(1 << target.bits, dtype=target.code_dtype)
    tensor = torch.from_numpy(codes.view(np.uint8 if target.bits == 8 else np.int16)).view(getattr(torch, dtype))
    np.testing.assert_array_equal(fp.decode(codes, format), tensor.to(torch.float32).numpy())


RECORDED = [name for name, part in PARTS.items() if part.stack == TORCH]


@pytest.mark.parametrize("name", RECORDED)
def test_what_the_recorder_asks_of_torch(name: str) -> None:
    """The inputs it makes and the codes it reads are those of the range it was asked for; here on the CPU."""
    part = PARTS[name]
    for first, stop in ((0x3F80, 0x3F82), (0x7FFF, 0x8001), (0xC3E0, 0xC3E9)) if part.source.bits == 32 else ((0, 1),):
        theirs = recorded_codes(part, first, stop, device="cpu")
        ours = converted(
            part, part.prediction({"torch": torch.__version__}), patterns(part.source, np.arange(first, stop))
        )
        assert theirs.dtype == ours.dtype and theirs.shape == ours.shape
        both_nan = is_nan(theirs, part.target) & is_nan(ours, part.target)
        assert np.array_equal(theirs[~both_nan], ours[~both_nan])
        assert np.array_equal(is_nan(theirs, part.target), is_nan(ours, part.target))


# ---- conversions of tensors held against a policy --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "target", "overflow"),
    [
        ("float32", "float8_e5m2", "ieee"),
        ("bfloat16", "float8_e4m3fn", "saturate"),
        ("float8_e5m2", "float8_e4m3fn", "saturate"),
        ("float32", "bfloat16", "ieee"),
    ],
)
def test_check_conversion_takes_tensors_and_what_they_become(source: str, target: str, overflow: str) -> None:
    from fpemu.testing import check_conversion

    report = check_conversion(
        lambda x: x.to(getattr(torch, target)), source=source, target=target, takes="torch", overflow=overflow
    )
    assert report.conforms, report
    # Values as well as codes, and tensors of what were arrays.
    as_values = check_conversion(
        lambda x: x.to(getattr(torch, target)).to(torch.float64),
        source=source,
        target=target,
        takes="torch",
        overflow=overflow,
    )
    assert as_values.conforms, as_values


def test_a_wrong_conversion_of_tensors_is_told() -> None:
    from fpemu.testing import NotAConversion, check_conversion

    report = check_conversion(
        lambda x: x.to(torch.float8_e4m3fn), source="float64", target="e4m3", takes="torch", overflow="saturate"
    )
    assert report.fault == "double rounding"
    with pytest.raises(NotAConversion, match="it returns float8_e5m2, not float8_e4m3fn"):
        check_conversion(lambda x: x.to(torch.float8_e5m2), source="float32", target="e4m3", takes="torch")
    with pytest.raises(NotAConversion, match=r"it raised ZeroDivisionError for a tensor of [\d,]+ torch.float32"):
        check_conversion(lambda x: 1 // 0, source="float32", target="e4m3", takes="torch")
    with pytest.raises(ValueError, match="torch has no dtype for float6_e2m3fn"):
        check_conversion(lambda x: x, source="float6_e2m3fn", target="e4m3", takes="torch")


@pytest.mark.parametrize("rows", [64, 4096])  # whole arrays, and the compiled pass
def test_mx_does_not_depend_on_flushed_subnormals(rows: int) -> None:
    """torch.set_flush_denormal changes what the machine does with subnormals, in this thread; MX codes, scales and flags stay."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((rows, 32)) * 2.0 ** rng.integers(-148, -110, (rows, 1))).astype(np.float32)
    threads = fp.get_threads()
    fp.set_threads(1)
    try:
        for name in ("e4m3", "e5m2", "e2m1"):
            kept = fp.scaling.mx(x, name)
            assert torch.set_flush_denormal(True)
            flushed = fp.scaling.mx(x, name)
            torch.set_flush_denormal(False)
            for what in ("codes", "scales", "fates"):
                assert np.array_equal(getattr(kept, what), getattr(flushed, what)), (name, what)
    finally:
        torch.set_flush_denormal(False)
        fp.set_threads(threads)
