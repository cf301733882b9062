"""Are tensors and tiles with float32 scales, NVFP4 and the Hadamard transform those of their definitions?"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scaling_inputs import blocks, with_specials
from test_scaling_mx import names
from test_stochastic import word

import fpemu as fp
from fpemu import FORMATS, Cast
from fpemu.scaling import SCALE_FORMATS, DelayedScaling, Scaled, definition, hadamard, nvfp4, per_tensor, tiles

F32, F64 = np.float32, np.float64
ELEMENTS = ["e4m3", "e5m2", "e2m1"]


def cells(shape: tuple[int, int], cut: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[slice, slice]]]:
    """The blocks of a matrix: where each stands, and its elements."""
    rows, columns = (range(0, length, extent) for length, extent in zip(shape, cut, strict=True))
    return [
        ((r // cut[0], c // cut[1]), (slice(r, min(r + cut[0], shape[0])), slice(c, min(c + cut[1], shape[1]))))
        for r in rows
        for c in columns
    ]


def words_of(x: Any, where: tuple[slice, slice], seed: int | None) -> list[int | None]:
    index = np.arange(x.size).reshape(x.shape)[where].reshape(-1)
    return [None if seed is None else word(seed, int(i)) for i in index]


def found_in(result: Scaled, place: tuple[int, int], where: tuple[slice, slice]) -> tuple[Any, list[int], set[str]]:
    scale = result.scales[place]
    value: Any = Fraction(float(scale)) if result.scale_format == FORMATS["float32"] else int(scale)
    return value, [int(code) for code in result.codes[where].reshape(-1)], names(int(result.fates[place]))


SMALL = ["binary3p1se", "binary4p2sf", "binary4p3se", "binary5p3sf", "binary8p7sf"]  # largest values from 1 to 3.5
TINY = fp.FloatFormat.ieee(3, 2, "tiny", bias=100)  # 1.75 x 2^-94: max / amax is no float32 for most amaxes


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("rule", ["transformer-engine", "torchao"])
@pytest.mark.parametrize("format", [*ELEMENTS, *SMALL, TINY], ids=str)
def test_tiles(format: fp.FloatFormat | str, rule: str, power_of_two: bool) -> None:
    """NaNs count for no largest magnitude; of finite values, scales and inverses are positive and finite in every format."""
    format = FORMATS[format] if isinstance(format, str) else format
    own = rule == "transformer-engine"
    x = blocks(format, F32, 5, count=20)
    if format.has_nan and own:
        x = np.concatenate([x, with_specials(x[:20])])
    for tile in ((1, 3), (4, 4)):
        result = tiles(x, format, tile, rule=rule, power_of_two=power_of_two)
        assert result.encode_scales is not None
        for scales in (result.scales, result.encode_scales):
            assert (scales > 0).all() and np.isfinite(scales).all()
        for place, where in cells(x.shape, tile):
            xs = [float(value) for value in x[where].reshape(-1)]
            amax = max((abs(value) for value in xs if value == value), default=0.0)
            scale = definition.float_scale(amax, format, power_of_two, 0.0 if own else 1e-12)
            expected = definition.scaled_block(xs, scale, Cast(format, overflow="saturate"), words_of(x, where, None))
            assert found_in(result, place, where) == tuple(expected), (xs, format.name)


def test_the_smallest_scale_has_an_inverse() -> None:
    """1 / 2^-128 is no float32. A format whose largest value is 1 clips at float32's end for it, and no other changes."""
    largest, least = np.finfo(F32).max, F32(2.0**-128) + F32(2.0**-149)
    x = F32([[largest, 1.0]])
    for name, scale in (
        ("binary3p1se", least),
        ("binary4p3se", F32(1.5) / largest),
        ("binary5p3sf", F32(3.5) / largest),
    ):
        found, down = per_tensor(x, name), per_tensor(x, name, power_of_two=True)
        assert found.encode_scales == scale and found.scales == F32(1) / scale and np.isfinite(found.scales).all()
        assert down.encode_scales == max(2.0 ** np.floor(np.log2(float(scale))), 2.0**-127)
        assert found.dequantize()[0, 0] > 0.74 * largest


def test_amax_rules() -> None:
    """Of zeros, of what lies below 1e-12, of infinities and NaNs: Transformer Engine's scale and torchao's."""
    tiny = float(F32(F64(448) / F64(1e-12)))
    nan, inf = float("nan"), float("inf")
    for x, engine, ao in (
        ([0.0, -0.0], 1, tiny), ([1e-13, 0.0], F32(448) / F32(1e-13), tiny), ([2.0, -4.0], 112, 112), ([nan, nan], 1, nan),
        ([nan, -4.0], 112, nan), ([inf, 4.0], 1, 0), ([1e-45, 0.0], np.finfo(F32).max, tiny),
    ):  # fmt: skip
        for rule, expected in (("transformer-engine", engine), ("torchao", ao)):
            for power_of_two in (False, True):
                found = per_tensor(F32(x), "e4m3", rule=rule, power_of_two=power_of_two)
                scale = expected
                if power_of_two and 0 < expected < inf:
                    scale = 2.0 ** np.floor(np.log2(float(expected)))
                assert np.array_equal(found.encode_scales, F32([scale]), equal_nan=True), (x, rule)  # type: ignore[arg-type]
                assert same_scaled(found, tiles(F32(x), "e4m3", (2,), rule=rule, power_of_two=power_of_two))
    assert np.isnan(per_tensor(F32([inf, 4.0]), "e4m3", rule="torchao").dequantize()).all()  # 0 / 0 there
    with pytest.raises(ValueError, match="transformer-engine, torchao"):
        per_tensor(F32([1.0]), "e4m3", rule="deepseek")


def same_scaled(one: Scaled, other: Scaled) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in ("scales", "codes", "fates")
    )


def test_torchao_s_own_amax_to_scale() -> None:
    """Where it is installed: codes and scales of 10,000 tensors, infinities and NaNs among them."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchao.float8.float8_utils")
    rng = np.random.default_rng(2)
    dtypes = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
    for index in range(10_000):
        name = ("e4m3", "e5m2")[index % 2]
        with np.errstate(all="ignore"):
            x = (rng.standard_normal(4) * 2.0 ** rng.uniform(-149, 128)).astype(F32)
        if index % 10 == 0:
            x[rng.integers(4)] = rng.choice([0, np.inf, -np.inf, np.nan])
        if index % 50 == 0:
            x[:] = 0
        scale = module.amax_to_scale(module.tensor_to_amax(torch.from_numpy(x)), dtypes[name])
        codes = module.to_fp8_saturated(torch.from_numpy(x) * scale, dtypes[name]).view(torch.uint8).numpy()
        found = per_tensor(x, name, rule="torchao")
        assert np.array_equal(found.encode_scales, [scale.numpy()], equal_nan=True), x  # type: ignore[arg-type]
        same = np.array_equal(fp.decode(found.codes, name), fp.decode(codes, name), equal_nan=True)
        assert same and ((found.codes == codes) | np.isnan(fp.decode(codes, name))).all(), x


def test_one_tile_is_the_tensor() -> None:
    x = np.random.default_rng(0).standard_normal((6, 7)).astype(F32)
    for power_of_two in (False, True):
        one, other = (
            per_tensor(x, "e4m3", power_of_two=power_of_two),
            tiles(x, "e4m3", (6, 7), power_of_two=power_of_two),
        )
        assert np.array_equal(one.codes, other.codes) and one.scales.shape == (1, 1) and one.scales == other.scales
    assert np.abs(per_tensor(x, "e4m3").dequantize()).max() == pytest.approx(np.abs(x).max(), rel=2**-22)
    assert per_tensor(F32(3), "e4m3").scales.shape == () and per_tensor(F32(3), "e4m3").dequantize() == F32(3)


RULES = ["division", "transformer-engine", "torchao"]


@pytest.mark.parametrize("rounding", [None, "stochastic", "toward-zero"])
@pytest.mark.parametrize("block", [(1, 4), (3, 2)])
@pytest.mark.parametrize("scale_format", ["e4m3", "ue5m3"])
@pytest.mark.parametrize("rule", RULES)
def test_nvfp4(rule: str, scale_format: str, block: tuple[int, int], rounding: str | None) -> None:
    """Tensors of every size; blocks of one tensor are far apart, so some die; one of zeros has the smallest scale there is."""
    seed = 9 if rounding == "stochastic" else None
    cast = Cast("e2m1", rounding or "nearest-even", overflow="saturate")
    base = np.random.default_rng(1).standard_normal((9, 8)).astype(F32)
    ladder = (base * 2.0 ** np.random.default_rng(2).integers(-24, 1, (9, 1))).astype(F32)
    ladder[3] = 0
    if rule == "division":  # (what the others do with these: test_nvfp4_rules.py)
        ladder[4, 1], ladder[5, 2] = np.inf, np.nan
    to = SCALE_FORMATS.get(scale_format, FORMATS["e4m3"])
    scales = [ladder, ladder * F32(1e30), ladder * F32(1e-31 if rule == "torchao" else 1e-38), ladder * F32(1e38)]
    for x in scales if rule == "torchao" else [*scales, np.zeros((4, 4), F32)]:
        for options in ({}, {"minimum_scale": 2.0**-6}, {"global_scale": 0.001}, {"amax": 30.0}):
            result = nvfp4(
                x, block, rule=rule, scale_format=scale_format, rounding=cast.rounding, seed=seed or 0, **options
            )
            amax = max(abs(Fraction(float(v))) for v in x.reshape(-1) if np.isfinite(v))
            tensor = definition.nvfp4_tensor(Fraction(options.get("amax", amax)), rule, to)
            if "global_scale" in options:
                g = Fraction(float(F32(options["global_scale"])))
                tensor = definition.NVFP4Scale(definition.single(1 / g), g)
            assert Fraction(float(result.global_scale)) == tensor.decode  # type: ignore[arg-type]
            usual = to.smallest_normal if rule == "torchao" else 0.0
            least = Fraction(options.get("minimum_scale", usual))
            for place, where in cells(x.shape, block):
                xs = [float(value) for value in x[where].reshape(-1)]
                words = words_of(x, where, seed)
                expected = definition.nvfp4_block(xs, tensor, cast, words, None, least, rule, to)
                assert found_in(result, place, where) == tuple(expected), (xs, options)


@pytest.mark.parametrize("rule", ["division", "transformer-engine"])
def test_four_over_six(rule: str) -> None:
    """[4, 4 / 6 x 5]: under the usual scale 5 is a tie that errs by a sixth; with 4 at the top it is 3.33, near 3."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((192, 16)).astype(F32)
    tensor = definition.nvfp4_tensor(Fraction(float(np.abs(x[:64]).max())), rule)
    for row, code in zip(
        x[64:], rng.integers(8, 0x70, 128), strict=True
    ):  # scales an ulp or two beside ties, of 4 or of 6
        tie = sum(fp.reference.value(int(code) + step, FORMATS["e4m3"]) for step in (0, 1)) / 2
        amax = F32(float(tensor.decode) * tie * rng.choice([4, 6]))
        row *= F32(0.9) * amax / np.abs(row).max()
        row[0] = np.minimum((amax.view(np.int32) + np.int32(rng.integers(-2, 3))).view(F32), np.abs(x[:64]).max())
    usual, chosen = nvfp4(x, rule=rule), nvfp4(x, rule=rule, four_over_six=True)
    for row in range(len(x)):
        xs = [float(v) for v in x[row]]
        errors = []
        for divisor in (6, 4):
            block = definition.nvfp4_block(
                xs, tensor, Cast("e2m1", overflow="saturate"), [None] * 16, divisor, rule=rule
            )
            unit = Fraction(fp.reference.value(int(block.scale), FORMATS["e4m3"])) * tensor.decode
            values = [Fraction(fp.reference.value(code, FORMATS["e2m1"])) * unit for code in block.codes]
            errors.append((sum((v - Fraction(x)) ** 2 for v, x in zip(values, xs, strict=True)), block))
        best = errors[1] if errors[1][0] < errors[0][0] else errors[0]
        assert (int(chosen.scales[row, 0]), chosen.codes[row].tolist()) == (best[1].scale, best[1].codes)
    error = [((r.dequantize(np.float64) - x) ** 2).sum() for r in (usual, chosen)]
    assert error[1] < error[0]
    assert 0 < (usual.scales != chosen.scales).mean() < 1


def test_nvfp4_published_numbers() -> None:
    """20.43 dB on Gaussian values; blocks below 2.2e-6 of the largest die: half of the smallest E4M3 value, over 448."""
    x = np.random.default_rng(3).standard_normal((8192, 16)).astype(F32)
    noise = ((nvfp4(x).dequantize(np.float64) - x) ** 2).sum(1)
    power = (x.astype(np.float64) ** 2).sum(1)
    spread = power / power.mean() - noise / noise.mean()
    error = 10 / np.log(10) * spread.std() / np.sqrt(len(x))
    assert abs(10 * np.log10(power.sum() / noise.sum()) - 20.43) < 5 * np.sqrt(2) * error + 0.005
    ratio = 2.0**-10 / 448
    for factor, dead in ((0.99, 1), (1.01, 0)):
        pair = np.zeros((2, 16), F32)
        pair[0], pair[1] = 1, ratio * factor
        assert nvfp4(pair).dead == dead
    assert nvfp4(pair, minimum_scale=2.0**-6).dead == 0  # 0.38 of the smallest scale there is then: 0.5
    assert nvfp4(pair * F32([[1], [0.6]]), minimum_scale=2.0**-6).dead == 1


def test_ties_of_e2m1() -> None:
    """Transformer Engine's table: 0.25 -> 0, 0.75 -> 1, 1.25 -> 1, 1.75 -> 2, 2.5 -> 2, 3.5 -> 4, 5 -> 4."""
    x = F32([[0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]])
    assert nvfp4(x * F32(448), (1, 8)).dequantize().tolist() == [[v * 448 for v in (0, 1, 1, 2, 2, 4, 4, 6)]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hadamard(dtype: Any) -> None:
    """Against the matrix of Sylvester's construction; orthogonal; products along the axis are kept."""
    rng = np.random.default_rng(6)
    for size in (1, 2, 16, 32):
        matrix = np.ones((1, 1))
        while len(matrix) < size:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        x = rng.standard_normal((3, 2 * size, 5)).astype(dtype)
        y = hadamard(x, size, axis=1, seed=3)
        signs = hadamard(np.eye(size, dtype=dtype), size, seed=3)[:, 0] * size**0.5  # column 0 of S H: the signs
        assert set(np.round(signs, 5)) <= {1, -1}
        expected = np.einsum("bkin,ij->bkjn", x.reshape(3, 2, size, 5), np.diag(signs) @ matrix / size**0.5)
        tolerance = 20 * np.finfo(dtype).eps
        np.testing.assert_allclose(y, expected.reshape(x.shape), atol=tolerance * 4)
        np.testing.assert_allclose(hadamard(y, size, axis=1, seed=3, inverse=True), x, atol=tolerance * 4)
        assert y.dtype == dtype
    assert len({hadamard(np.eye(16, dtype=F32), 16, seed=seed).tobytes() for seed in range(4)}) == 4


def test_errors() -> None:
    x = np.ones((4, 4), F32)
    for bad, error, message in (
        (lambda: per_tensor(np.ones(4, int), "e4m3"), TypeError, "int64"),
        (lambda: tiles(x, "e4m3", 4), TypeError, "tile must be a tuple"),  # type: ignore[arg-type]
        (lambda: tiles(x, "e4m3", (0, 4)), ValueError, "at least 1"),
        (lambda: tiles(x[0], "e4m3", (2, 4)), ValueError, "at least 2 axes"),
        (lambda: nvfp4(x, (2, 2, 4)), ValueError, "at least 3 axes"),
        (lambda: nvfp4(x, global_scale=0.0), ValueError, "positive finite"),
        (lambda: nvfp4(x, minimum_scale=0.3), ValueError, "value of float8_e4m3fn"),
        (lambda: hadamard(x, 3), ValueError, "power of two"),
        (lambda: hadamard(x, 8), ValueError, "does not divide"),
        (lambda: DelayedScaling("e4m3", history=0), ValueError, "at least 1"),
        (lambda: DelayedScaling("e4m3", algorithm="mean"), ValueError, "max, most-recent"),
        (lambda: DelayedScaling("e4m3", margin=1.5), TypeError, "margin"),  # type: ignore[arg-type]
        (lambda: per_tensor(x, "e8m0"), ValueError, "sign and a zero"),
        (lambda: per_tensor(x, "e4m3", seed=-1), ValueError, "seed"),
    ):
        with pytest.raises(error, match=message):
            bad()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, F32)
    for result in (per_tensor(x, "e4m3"), tiles(x, "e4m3", (4,)), nvfp4(x, (16,)), DelayedScaling("e4m3").quantize(x)):
        assert result.codes.shape == shape and result.dequantize().shape == shape
