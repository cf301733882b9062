"""Are NVFP4's scales and codes those of Transformer Engine and of torchao, to the bit, whatever the largest magnitudes are?

The models below are each original's float32 arithmetic written again, block by block, in NumPy; E4M3 and E2M1 are ml_dtypes'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import fpemu as fp
from fpemu.scaling import SCALE_FORMATS, Fate, NVFP4Rule, nvfp4

F32 = np.float32
Array = np.ndarray[Any, Any]
BIGGEST = np.finfo(F32).max
TENSORS = 10_000
AMAXES = [0.0, np.inf, 1e-45, 1e-42, 3e-39, 2.0**-126, 2.0**-117, 1.0, 6.0, 2688.0, 3e38, BIGGEST]


class Made(NamedTuple):
    scales: Array
    codes: Array
    g: Any


def to_scale(wanted: Array) -> tuple[Array, Array]:
    """Saturated to E4M3: codes and values."""
    with np.errstate(invalid="ignore"):
        narrow = np.clip(wanted, F32(0), F32(448)).astype(ml_dtypes.float8_e4m3fn)
    return narrow.view(np.uint8), narrow.astype(F32)


def to_element(scaled: Array) -> Array:
    return np.clip(scaled, F32(-6), F32(6)).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)


def transformer_engine(x: Array, amax: Any = None) -> Made:
    """Of rows of 16: fmaxf, 2688 / amax, amax_b (S (1 / 6)), 1 / (s (1 / S)), and cvt.rn.satfinite, whose NaN is 6."""
    block = np.fmax(np.fmax.reduce(np.abs(x), axis=1, keepdims=True), F32(0))
    amax = block.max() if amax is None else F32(amax)
    encode = np.minimum(F32(2688) / amax, BIGGEST)
    encode = F32(1) if amax == 0 or encode == 0 else encode
    decode = F32(1) / encode
    codes, scales = to_scale(np.minimum(block * (encode * (F32(1) / F32(6))), BIGGEST))
    scaled = x * np.minimum(F32(1) / (scales * decode), BIGGEST)
    return Made(codes, to_element(np.where(np.isnan(scaled), F32(6), scaled)), decode)


def torchao(x: Array, amax: Any = None) -> Made:
    """Of rows of 16: amax / 2688, (amax_b / 6) / g, not below 2^-6, (1 / g) / s; what NaN becomes means nothing: 0."""
    block = np.abs(x).max(axis=1, keepdims=True)
    g = (block.max() if amax is None else F32(amax)) / F32(2688)
    codes, scales = to_scale(np.maximum(block / F32(6) / g, F32(2.0**-6)))
    scaled = x * (F32(1) / g / scales)
    return Made(codes & 0x7F, to_element(np.where(np.isnan(scaled), F32(0), scaled)), g)


MODELS = {"transformer-engine": transformer_engine, "torchao": torchao}


SCALES = np.arange(1, 0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
SCALE_TIES = (SCALES[1:] + SCALES[:-1]) / 2
ELEMENT_TIES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


def at_ties(x: Array, rng: np.random.Generator) -> None:
    """Makes largest magnitudes of three blocks, and some elements, such that they or their scales lie within 3 ulps of a tie.

    That is where one order of operations rounds up and another down.
    """
    g = float(np.abs(x[0]).max()) / 2688
    ties = rng.choice(SCALE_TIES, 3)
    for row, tie in zip(x[1:], ties, strict=True):
        row[0] = F32(6 * tie * g)
        row[1:] = F32(rng.choice(ELEMENT_TIES, 15) * g) * F32(rng.choice(SCALES[tie >= SCALES], 15))
        row[1:] = np.clip(row[1:], -row[0], row[0])
        row.view(np.int32)[:] += rng.integers(-3, 4, 16).astype(np.int32) * (row > 2.0**-100)
        row[1:] = np.clip(row[1:], -row[0], row[0]) * rng.choice([-1, 1], 15)


def tensors(count: int, nans: bool) -> Iterator[Array]:
    """Four blocks each, from far apart to alike; every amax of the list, and any other; some zeros, infinities, NaNs in the midst."""
    rng = np.random.default_rng(7)
    for index in range(count):
        x = rng.standard_normal((4, 16)) * 2.0 ** rng.integers(-14 * (index % 3), 1, (4, 1))
        amax = AMAXES[index // 2 % len(AMAXES)] if index % 2 else 2.0 ** rng.uniform(-149, 128)
        with np.errstate(all="ignore"):
            x = (x / np.abs(x).max() * min(amax, float(BIGGEST))).astype(F32)
        if index % 4 == 0:
            x[0, 0] = np.abs(x).max()
            at_ties(x, rng)
        if amax == np.inf:
            x[rng.integers(4), rng.integers(16)] = rng.choice([np.inf, -np.inf])
        if index % 5 == 0:
            x[rng.integers(4)] = rng.choice([0.0, -0.0])
        if nans and index % 7 == 0:
            x[rng.integers(4), rng.integers(16)] = rng.choice([np.nan, -np.nan])
        yield x


@pytest.mark.parametrize("rule", MODELS)
def test_ten_thousand_tensors(rule: str) -> None:
    seen = {"zero": 0, "infinite": 0, "NaN": 0, "subnormal g": 0, "NaN scale": 0}
    for x in tensors(TENSORS, nans=True):
        with np.errstate(all="ignore"):
            expected = MODELS[rule](x)
        found = nvfp4(x, rule=rule)
        nan = expected.scales == 0x7F  # of a block with such a scale, codes mean nothing
        assert np.array_equal(found.scales, expected.scales), x
        assert np.array_equal(found.codes, np.where(nan, 0, expected.codes)), x
        assert np.array_equal(found.global_scale, expected.g, equal_nan=True), x  # type: ignore[arg-type]
        seen["zero"] += not x.any()
        seen["infinite"] += bool(np.isinf(x).any())
        seen["NaN"] += bool(np.isnan(x).any())
        seen["subnormal g"] += bool(0 < expected.g < 2.0**-126)
        seen["NaN scale"] += bool(nan.any())
    assert all(count > 100 for case, count in seen.items() if (rule, case) != ("transformer-engine", "NaN scale")), seen


@pytest.mark.parametrize("rule", MODELS)
def test_a_largest_magnitude_that_is_known(rule: str) -> None:
    for amax in (1.0, 0.1, 37.5, 1e-30, 3e38, 0.0):
        for x in tensors(60, nans=False):
            with np.errstate(all="ignore"):
                expected = MODELS[rule](x, amax)
            found = nvfp4(x, rule=rule, amax=amax)
            assert np.array_equal(found.scales, expected.scales) and found.global_scale == expected.g
            assert np.array_equal(found.codes, np.where(expected.scales == 0x7F, 0, expected.codes))


def test_torchao_itself() -> None:
    """Where it is installed: scales and codes of its own function, on a CPU, but for what a NaN becomes."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    for x in tensors(TENSORS, nans=False):
        amax = torch.from_numpy(x).abs().max()
        scales, packed = module.nvfp4_quantize(torch.from_numpy(x), 16, module.per_tensor_amax_to_scale(amax))
        scales = scales.view(torch.uint8).numpy().reshape(4, 1) & 0x7F
        codes = np.stack([packed.numpy() & 15, packed.numpy() >> 4], axis=-1).reshape(4, 16)
        found = nvfp4(x, rule="torchao")
        with np.errstate(all="ignore"):
            g = np.abs(x).max() / F32(2688)
            lost = np.isnan(x * (F32(1) / g / fp.decode(scales, "e4m3")))
        assert np.array_equal(found.scales, scales), x
        assert np.array_equal(found.codes, np.where(lost, 0, codes)), x


def test_rules_differ_where_they_say() -> None:
    """The same formula: g differs for a quarter of amaxes, a code for few of a million elements."""
    rng = np.random.default_rng(3)
    amaxes = (2.0 ** rng.uniform(-20, 20, 1000)).astype(F32)
    one = np.ones((1, 16), F32)
    g = {rule: np.array([nvfp4(one * a, rule=rule).global_scale for a in amaxes]) for rule in NVFP4Rule}
    share = float((g[NVFP4Rule.DIVISION] != g[NVFP4Rule.TRANSFORMER_ENGINE]).mean())
    assert 0.1 < share < 0.5 and np.array_equal(g[NVFP4Rule.DIVISION], g[NVFP4Rule.TORCHAO])
    x = rng.standard_normal((62_500, 16)).astype(F32)
    usual = nvfp4(x, minimum_scale=2.0**-6)
    for rule in (NVFP4Rule.TRANSFORMER_ENGINE, NVFP4Rule.TORCHAO):
        other = nvfp4(x, rule=rule)
        assert (usual.scales != other.scales).mean() < 1e-4
        assert (usual.codes != other.codes).mean() < 1e-4


def test_specials() -> None:
    """One infinity, one NaN and a number, in blocks of their own, by each rule."""
    x = F32([[1.0, -3.0], [np.inf, 2.0], [np.nan, -2.0], [0.0, -0.0]])
    own = nvfp4(x, (1, 2))
    assert own.scales.ravel().tolist() == [0x7E, 0x7F, 0x7F, 0] and own.codes.tolist() == [
        [4, 15],
        [0, 0],
        [0, 0],
        [0, 0],
    ]
    assert own.nan == 2
    engine = nvfp4(x, (1, 2), rule="transformer-engine")  # S = 1: 3 / 6, infinity, 2 / 6 -> 0.34375
    assert engine.scales.ravel().tolist() == [0x30, 0x7E, 0x2B, 0] and engine.global_scale == 1 and engine.nan == 0
    assert engine.codes.tolist() == [[4, 15], [7, 0], [7, 15], [0, 8]]
    ao = nvfp4(x, (1, 2), rule="torchao")
    assert (ao.scales == 0x7F).all() and np.isnan(ao.dequantize()).all() and ao.nan == 4
    infinite = nvfp4(
        x[:2], (1, 2), rule="torchao"
    )  # g is infinite: a finite block has the least scale, and decodes to NaN
    assert infinite.scales.ravel().tolist() == [0x08, 0x7F] and infinite.codes.tolist() == [[0, 8], [0, 0]]
    assert infinite.nan == 2 and np.isnan(infinite.dequantize()).all()


def test_minimum_scale_exempts_no_block() -> None:
    """Blocks of zeros have it too, as torchao's have; its default is torchao's alone."""
    x = F32([[1.0, 2.0], [0.0, 0.0], [1e-9, 0.0]])
    for rule, least in (("division", 0), ("transformer-engine", 0), ("torchao", 0x08)):
        assert nvfp4(x, (1, 2), rule=rule).scales.ravel().tolist() == [0x7E, least, least]
        assert nvfp4(x, (1, 2), rule=rule, minimum_scale=2.0**-5).scales.ravel().tolist() == [0x7E, 0x10, 0x10]
        assert nvfp4(x, (1, 2), rule=rule, minimum_scale=0.0).scales.ravel().tolist() == [0x7E, 0, 0]
    dead = nvfp4(
        x, (1, 2), rule="transformer-engine"
    )  # 1e-9 x the largest float32: the code of 6, of a scale that is zero
    assert dead.codes[2].tolist() == [7, 0] and not dead.dequantize()[2].any()
    assert dead.which(Fate.DEAD).ravel().tolist() == [False, False, True] and dead.clipped == 0


def test_formats_of_scales() -> None:
    """UE4M3 has E4M3's codes; UE5M3 reaches from 2^-17 to 114,688, so fewer blocks die, and none without a tensor's scale."""
    three, five = SCALE_FORMATS["ue4m3"], SCALE_FORMATS["ue5m3"]
    assert (three.max, three.smallest_normal, three.smallest_subnormal, three.nan_code) == (448, 2**-6, 2**-9, 0x7F)
    assert (five.max, five.smallest_normal, five.smallest_subnormal, five.nan_code) == (114688, 2**-14, 2**-17, 0xFF)
    assert np.array_equal(
        fp.decode(np.arange(127, dtype=np.uint8), three), fp.decode(np.arange(127, dtype=np.uint8), "e4m3")
    )
    assert fp.decode(np.uint8(0x78), five) == 1 and five.infinity_code is None and not five.signed
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((256, 16)) * 2.0 ** rng.integers(-30, 1, (256, 1))).astype(F32)
    x[3, 4] = np.nan
    for rule in NVFP4Rule:
        signed, unsigned = (nvfp4(x, rule=rule, scale_format=name) for name in ("e4m3", "UE4M3"))
        assert np.array_equal(signed.scales, unsigned.scales) and np.array_equal(signed.codes, unsigned.codes)
        assert np.array_equal(signed.dequantize(), unsigned.dequantize(), equal_nan=True)
    wide, narrow = nvfp4(x, scale_format="ue5m3"), nvfp4(x)
    assert wide.dead < narrow.dead and wide.scales[3, 0] == 0xFF and wide.nan == 1
    amax = np.nanmax(np.abs(x))
    assert wide.global_scale == amax / F32(6 * 114688) and "float4_e2m1fn x ue5m3" in repr(wide)
    alone = nvfp4(x[4:], scale_format="ue5m3", global_scale=1.0)
    expected = np.abs(x[4:]).max(axis=1) / F32(6)
    assert np.array_equal(fp.decode(alone.scales, five).ravel(), fp.quantize(expected, five, overflow="saturate"))


def test_wrong_ones() -> None:
    x = np.ones((2, 16), F32)
    for options, message in (
        ({"rule": "cutlass"}, "division, transformer-engine, torchao"),
        ({"scale_format": "e8m0"}, "must have a zero, a NaN and at most 8 bits; float8_e8m0fnu does not"),
        ({"scale_format": "fp16"}, "at most 8 bits; float16 does not"),
        ({"scale_format": "e2m1"}, "a NaN"),
        ({"scale_format": "ue9m9"}, "unknown format"),
        ({"amax": -1.0}, "amax must be a magnitude"),
        ({"amax": np.nan}, "amax must be a magnitude"),
        ({"amax": 1.0, "global_scale": 1.0}, "give one of them"),
        ({"rule": "torchao", "four_over_six": True}, "torchao has no four over six; the rules that have: division, transformer-engine"),
        ({"scale_format": "ue5m3", "minimum_scale": 2.0**-18}, "value of ue5m3"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            nvfp4(x, **options)
    with pytest.raises(TypeError, match="a format is a name, a FloatFormat or a dtype"):
        nvfp4(x, scale_format=8)  # type: ignore[arg-type]
    small = fp.FloatFormat("small", bits=6, precision=3, bias=19, signed=False, infinities=False, high_nans=1)
    for format in (fp.FORMATS["binary8p1uf"], small):  # 6 x 2^126 is no float32, 6 x 0.09 no divisor
        with pytest.raises(ValueError, match=r"a largest value of 0\.166667 to 5\.67"):
            nvfp4(x, scale_format=format)
