"""Does every scheme mean by default what it says, draw the random bits it is told to, and give back the values it stands for?"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scaling_inputs import blocks, with_specials
from test_stochastic import word

import fpemu as fp
from fpemu import FORMATS, Cast, reference
from fpemu.scaling import Algorithm, DelayedScaling, Fate, Scaled, hadamard, mx, nvfp4, per_tensor, tiles
from fpemu.scaling.values import element_format, host_values, single_values

F32 = np.float32
RNG = np.random.default_rng(17)
X = (RNG.standard_normal((6, 260)) * 2.0 ** RNG.integers(-8, 3, (6, 260))).astype(F32)
X[2, :40] = 0


def same(one: Scaled, other: Scaled) -> bool:
    fields = ("codes", "scales", "fates", "encode_scales", "global_scale")
    alike = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)
    return alike and (one.cut, one.format, one.scale_format) == (other.cut, other.format, other.scale_format)


def test_defaults() -> None:
    """Spelt out, they change nothing."""
    plain: Any = {"rounding": "nearest-even", "random_bits": 32, "stochastic": "A", "seed": 0, "offset": 0}
    random: Any = {"rounding": "stochastic"}
    spelt: Any = {**plain, **random}
    for default, full in (
        (mx(X, "e4m3"), mx(X, "e4m3", block=32, axis=-1, rule="floor", special="nan-block", **plain)),
        (per_tensor(X, "e4m3"), per_tensor(X, "e4m3", power_of_two=False, **plain)),
        (tiles(X, "e4m3"), tiles(X, "e4m3", (1, 128), power_of_two=True, **plain)),
        (nvfp4(X), nvfp4(X, (1, 16), rule="division", scale_format="e4m3", amax=None, **plain)),
        (nvfp4(X), nvfp4(X, global_scale=None, minimum_scale=None, four_over_six=False)),
        (nvfp4(X), nvfp4(X, minimum_scale=0.0, amax=np.abs(X).max())),
        (DelayedScaling("e4m3").quantize(X), DelayedScaling("e4m3").quantize(X, **plain)),
        (mx(X, "e4m3", **random), mx(X, "e4m3", **spelt)),
        (per_tensor(X, "e4m3", **random), per_tensor(X, "e4m3", **spelt)),
        (tiles(X, "e4m3", **random), tiles(X, "e4m3", **spelt)),
        (nvfp4(X, **random), nvfp4(X, **spelt)),
        (DelayedScaling("e4m3").quantize(X, **random), DelayedScaling("e4m3").quantize(X, **spelt)),
    ):
        assert same(default, full)
    state = DelayedScaling("e4m3")
    assert state.history.shape == (1024,) and (state.margin, state.algorithm, state.roll_zeros) == (
        0,
        Algorithm.MAX,
        False,
    )
    assert state.scale == 1 and not state.history.any()
    assert np.array_equal(hadamard(X[:, :256]), hadamard(X[:, :256], 16, axis=-1, seed=0, inverse=False))
    assert tiles(X, "e4m3").cut == (1, 128) and nvfp4(X).cut == (1, 16) and mx(X, "e4m3").cut == (1, 32)
    assert per_tensor(X, "e4m3").cut == X.shape and not nvfp4(X[:, :0]).scales.size


SCHEMES: dict[str, Callable[..., Scaled]] = {
    "mx": lambda x, **policies: mx(x, "e4m3", block=8, **policies),
    "per_tensor": lambda x, **policies: per_tensor(x, "e4m3", **policies),
    "tiles": lambda x, **policies: tiles(x, "e4m3", (2, 8), **policies),
    "nvfp4": lambda x, **policies: nvfp4(x, (2, 8), **policies),
    "delayed": lambda x, **policies: DelayedScaling("e4m3").quantize(x, **policies),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_random_words_are_those_of_the_element(name: str) -> None:
    """Of its C-order index in the array plus the offset; as many bits as were asked for; by the variant asked for."""
    x = np.ascontiguousarray(X[:4, :20])
    for bits, variant, seed, offset in ((32, "A", 3, 0), (8, "A", 2**63, 1000), (32, "B", 0, 7), (3, "C", 5, 2)):
        policies: Any = {"rounding": "stochastic", "random_bits": bits, "stochastic": variant}
        found = SCHEMES[name](x, seed=seed, offset=offset, **policies)
        if found.encode_scales is not None:
            factors = np.broadcast_to(repeated(found.encode_scales, found.cut, x.shape), x.shape)
            scaled = x * factors
        else:
            scaled = x / repeated(found.scale_values(), found.cut, x.shape)
        to = Cast(found.format, overflow="saturate", **policies)
        for index, value in enumerate(scaled.ravel().tolist()):
            expected = reference.encode(value, to, word(seed, index + offset) >> (32 - bits))
            assert found.codes.ravel()[index] == expected, (index, value)


def repeated(of_blocks: Any, cut: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    return of_blocks[np.ix_(*(np.arange(length) // extent for length, extent in zip(shape, cut, strict=True)))]


@pytest.mark.parametrize("name", SCHEMES)
def test_values_are_codes_times_scales(name: str) -> None:
    """Exact in float64; in float32 the product of scales is rounded, then that with the code."""
    found = SCHEMES[name](X)
    scales = [Fraction(float(one)) for one in found.scales.ravel()] if found.scale_format == FORMATS["float32"] else [
        Fraction(reference.value(int(one), found.scale_format)) for one in found.scales.ravel()
    ]  # fmt: skip
    factor = Fraction(1) if found.global_scale is None else Fraction(float(found.global_scale))
    at = repeated(np.arange(len(scales)).reshape(found.scales.shape), found.cut, X.shape)
    double, single = found.dequantize(np.float64), found.dequantize()
    assert double.dtype == np.float64 and single.dtype == F32 and found.shape == X.shape == double.shape
    assert [Fraction(float(one)) for one in found.scale_values(np.float64).ravel()] == [s * factor for s in scales]
    assert found.scale_values().dtype == F32
    for place in ((0, 0), (2, 3), (5, 259), (3, 128), (1, 77)):
        scale, code = scales[at[place]], Fraction(reference.value(int(found.codes[place]), found.format))
        assert Fraction(float(double[place])) == scale * factor * code
        assert single[place] == F32(float(code)) * F32(float(scale * factor))
    with np.errstate(over="ignore"):
        assert np.isfinite(found.dequantize(np.dtype("f8"))).all()
    for dtype in (np.float16, np.int32):
        with pytest.raises(TypeError, match="must be float32 or float64"):
            found.dequantize(dtype)


def test_values_beyond_float32_are_infinite_there_alone() -> None:
    """Codes times scales that no float32 holds, and below its smallest; without a warning."""
    x = np.array([[1.5 * 2.0**127, 1.0, -(2.0**127) * 1.75]])
    found = mx(x, "e4m3", block=3, rule="ceil")
    huge = Scaled(found.codes, found.scales + np.uint8(7), found.format, found.scale_format, found.cut, found.fates)
    assert np.isinf(huge.dequantize()[0, [0, 2]]).all() and huge.dequantize(np.float64)[0, 0] == 1.5 * 2.0**134
    tiny = per_tensor(F32([3e38, 2.0**120]), "e5m2")
    small = Scaled(tiny.codes, F32([1e-44]), tiny.format, tiny.scale_format, tiny.cut, tiny.fates, F32(1e-5))
    assert not small.dequantize().any() and small.dequantize(np.float64).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*SCHEMES, "four over six", "float32 scales", "elements"])
def test_what_overflows_or_underflows_is_no_error(name: str, dtype: Any) -> None:
    """Under any error state of the caller: from the smallest subnormal to the largest value, with infinities and NaN."""
    schemes: dict[str, Callable[..., Scaled]] = {
        **SCHEMES,
        "four over six": lambda x: nvfp4(x, (1, 8), four_over_six=True),
        "float32 scales": lambda x: tiles(x, "e2m1", (1, 8), power_of_two=False),
        "elements": lambda x: mx(x, "e5m2", block=8, special="element", rounding="stochastic"),
    }
    plain = blocks(FORMATS["e4m3"], dtype, 8)
    for x in (plain, plain[::-1] if name == "float32 scales" else with_specials(plain)):  # (E2M1 has no code for NaN)
        quiet = schemes[name](x)
        with np.errstate(all="raise"):
            loud = schemes[name](x)
            assert same(quiet, loud)
            loud.dequantize()
            loud.dequantize(np.float64)
        if name == "delayed":
            state = DelayedScaling("e4m3", margin=140)
            with np.errstate(all="raise"):
                state.quantize(F32([3e38]))
                state.update()
                state.quantize(F32([1e-45, 3e38]))


def test_counts_are_of_the_flags() -> None:
    flags = np.array([[1, 3, 3 | 8], [4, 3 | 16, 3 | 32]], np.uint8)
    found = Scaled(np.zeros((2, 3), np.uint8), flags, FORMATS["e4m3"], FORMATS["e8m0"], (1, 1), flags)
    counts = (found.blocks, found.occupied, found.several, found.nan, found.dead, found.clipped, found.single_code)
    assert counts == (6, 5, 4, 1, 1, 1, 1)
    with pytest.raises(AttributeError):
        found.cut = (2, 2)  # type: ignore[misc]
    assert found.which(Fate.DEAD | Fate.CLIPPED).tolist() == [[False, False, True], [False, True, False]]
    assert repr(found) == (
        "Scaled(float8_e4m3fn x float8_e8m0fnu, shape=(2, 3), cut=(1, 1), blocks=6, dead=1, clipped=1, single_code=1, nan=1)"
    )


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "float8_e4m3fnuz"])
def test_ends_of_float32(name: str) -> None:
    """Scales beyond float32 stay at its largest value (rounded down, 2^127); so do those of histories; zeros, infinities, NaN: 1."""
    largest, format = np.finfo(F32).max, FORMATS[name]
    for amax, scale in (
        (1e-42, largest),
        (0.0, 1.0),
        (np.inf, 1.0),
        (np.nan, 1.0),
        (F32(3e38), F32(format.max) / F32(3e38)),
    ):
        x = F32([[amax, 0.0]])
        for made in (per_tensor(x, name), tiles(x, name, (1, 2), power_of_two=False)):
            assert made.encode_scales is not None and made.encode_scales[0, 0] == F32(scale)
            assert made.scales[0, 0] == F32(1) / F32(scale)
        down = per_tensor(x, name, power_of_two=True).encode_scales
        assert down is not None and down[0, 0] == 2.0 ** np.floor(np.log2(float(scale)))
    state = DelayedScaling(name)
    state.quantize(F32([1e-42]))
    state.update()
    assert state.scale == largest
    raised, lowered = DelayedScaling(name, margin=-3), DelayedScaling(name, margin=3)
    for one, factor in ((raised, 8), (lowered, 1 / 8)):
        one.quantize(F32([3.0, -7.0]))
        one.update()
        assert one.scale == F32(format.max) / F32(7) * F32(factor)


def test_what_is_clipped_is_counted_before_rounding() -> None:
    """448 fits, what lies an ulp above it does not, though it rounds to it."""
    state = DelayedScaling("e4m3")
    for x, clipped in ((448.0, 0), (np.nextafter(F32(448), F32(500)), 1), (-449.0, 1), (np.inf, 1)):
        found = state.quantize(F32([x, 1.0]))
        assert found.clipped == clipped and abs(float(found.dequantize()[0])) == 448
    for x, clipped in ((6.0, 0), (6.001, 1)):
        assert nvfp4(F32([[x, 1.0]]), (1, 2), global_scale=1 / 448, minimum_scale=448.0).clipped == clipped


def test_four_over_six_block_by_block() -> None:
    """Whatever the shape of blocks: of both candidates, the one with less squared error, and usual where none is finite."""
    x = (RNG.standard_normal((10, 12)) * 2.0 ** RNG.integers(-4, 5, (10, 12))).astype(F32)
    x[0, 0], x[4, 5], x[2:4, 8:] = np.nan, np.inf, 0
    for block in ((1, 4), (2, 4), (3, 5)):
        usual, chosen = nvfp4(x, block), nvfp4(x, block, four_over_six=True)
        assert usual.global_scale == chosen.global_scale
        better = 0
        for place in np.ndindex(*usual.scales.shape):
            part = tuple(slice(i * extent, (i + 1) * extent) for i, extent in zip(place, block, strict=True))
            xs = x[part].astype(np.float64)
            if not np.isfinite(xs).all() or not xs.any():
                for one in (usual, chosen):
                    assert np.array_equal(one.scales[place], usual.scales[place]) and not one.codes[part].any()
                    assert one.fates[place] == usual.fates[place]
                continue
            candidates = []
            for divisor in (6, 4):
                wanted = np.abs(x[part]).max() / F32(divisor) / usual.global_scale
                scale = np.asarray(fp.encode(wanted, "e4m3", overflow="saturate"))
                unit = np.asarray(fp.decode(scale, "e4m3")) * usual.global_scale
                codes = np.asarray(fp.encode(x[part] / unit, "e2m1", overflow="saturate"))
                exact = np.asarray(fp.decode(scale, "e4m3", dtype=np.float64)) * np.float64(usual.global_scale)
                error = ((np.asarray(fp.decode(codes, "e2m1", dtype=np.float64)) * exact - xs) ** 2).sum()
                candidates.append((error, int(scale), codes, bool((np.abs(x[part] / unit) > 6).any())))
            best = candidates[int(candidates[1][0] < candidates[0][0])]
            better += best is candidates[1]
            assert chosen.scales[place] == best[1] and np.array_equal(chosen.codes[part], best[2])
            assert bool(chosen.which(Fate.CLIPPED)[place]) == best[3]
        assert 0 < better < usual.scales.size


def test_signs_of_the_transform() -> None:
    """Sign i is the top bit of random word i of the seed, for every block alike."""
    for seed in (0, 3, 2**64 - 1):
        signs = np.array([-1.0 if word(seed, i) >> 31 else 1.0 for i in range(16)])
        x = np.zeros((16, 32))
        x[np.arange(16), np.arange(16)] = 1
        y = hadamard(x, seed=seed)
        assert np.array_equal(y[:, 0] * 4, signs) and not y[:, 16:].any()
        assert np.array_equal(hadamard(np.roll(x, 16, axis=1), seed=seed)[:, 16] * 4, signs)
        assert np.array_equal(hadamard(y, seed=seed, inverse=True), x)
    for size in (1, 2, 4, 64):
        x = RNG.standard_normal((2, 64)).astype(F32)
        assert np.allclose(hadamard(hadamard(x, size, seed=9), size, seed=9, inverse=True), x, atol=1e-5)


def test_products_survive_the_transform_of_both_operands() -> None:
    """Exactly, for small integers: sums of 16 of them are exact, and 1/4 is."""
    a, b = (RNG.integers(-8, 9, shape).astype(F32) for shape in ((5, 64), (64, 7)))
    turned = hadamard(a, seed=4) @ hadamard(b, axis=0, seed=4)
    assert np.array_equal(turned, a @ b)
    assert not np.allclose(hadamard(a, seed=4) @ b, a @ b)
    assert not np.allclose(hadamard(a, seed=4) @ hadamard(b, axis=0, seed=5), a @ b)


def test_what_is_scaled() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = [1.5, -0.25, 3.0]
    for dtype, wide in (
        (np.float16, F32), (F32, F32), (np.float64, np.float64), (ml_dtypes.bfloat16, F32), (ml_dtypes.float8_e5m2, F32),
        (">f4", F32), (">f8", np.float64),
    ):  # fmt: skip
        x = np.array(values).astype(dtype)
        assert host_values(x).tolist() == single_values(x).tolist() == values
        assert host_values(x).dtype == wide and host_values(x).dtype.isnative and single_values(x).dtype == F32
    assert host_values(values).dtype == np.float64
    third = np.array([1 / 3, 1e300, -1e300])
    assert host_values(third) is third and single_values(third).tolist() == [float(F32(1 / 3)), np.inf, -np.inf]
    with pytest.raises(TypeError, match="int64"):
        host_values(np.ones(3, np.int64))


def test_formats_of_elements() -> None:
    assert element_format("e4m3") is FORMATS["e4m3"] and element_format(FORMATS["float32"]) is FORMATS["float32"]
    for name, message in (
        ("e8m0", "need a sign and a zero; float8_e8m0fnu lacks one"),
        ("binary16p1se", "float32 holds"),
    ):
        with pytest.raises(ValueError, match=message):
            element_format(name)
    unsigned = next(format for format in FORMATS.values() if not format.signed and format.has_zero)
    with pytest.raises(ValueError, match="need a sign and a zero"):
        element_format(unsigned)


def test_scales_that_are_given_are_checked() -> None:
    x = np.ones((2, 16), F32)
    for wrong in (0.0, -1.0, np.inf, np.nan, 1e-60, 1e60):
        with pytest.raises(ValueError, match="global_scale must be a positive finite float32"):
            nvfp4(x, global_scale=wrong)
    for wrong in (0.3, -1.0, 500.0, np.nan, 2.0**-10):
        with pytest.raises(ValueError, match="minimum_scale must be 0 or a positive value of float8_e4m3fn"):
            nvfp4(x, minimum_scale=wrong)
    for fine in (0.0, 2.0**-9, 448.0):
        assert nvfp4(x, global_scale=2.0**-149, minimum_scale=fine).global_scale == F32(2.0**-149)
    for wrong in (True, 1.0, None):
        with pytest.raises(TypeError, match="margin must be an int"):
            DelayedScaling("e4m3", margin=wrong)
    frozen = np.zeros((2, 16), np.uint8)
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match="writeable"):
        mx(x, "e4m3", out=frozen)
