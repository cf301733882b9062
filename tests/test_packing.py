"""Do packed codes lie where the order says, and come back?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fpemu.formats import FORMATS, FloatFormat
from fpemu.packing import pack, packed_bytes, unpack

NARROW = [format for format in FORMATS.values() if format.bits < 8 and (format.bits != 7 or format.precision == 3)]
ONE_PER_WIDTH = {format.bits: format for format in NARROW}


def bit_stream(codes: list[int], bits: int) -> list[int]:
    """The definition: one little-endian integer, the first code lowest."""
    whole = sum(code << (bits * i) for i, code in enumerate(codes))
    return list(whole.to_bytes(-(-len(codes) * bits // 8), "little"))


def written_bits(codes: list[int], bits: int) -> list[int]:
    """The definition of high-first: the codes' bits as they are written, cut into bytes."""
    text = "".join(f"{code:0{bits}b}" for code in codes)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


DEFINITIONS = {"low-first": bit_stream, "high-first": written_bits}


def test_the_first_fp4_code_is_the_low_nibble() -> None:
    assert pack(np.array([0x1, 0xA, 0x7], np.uint8), "e2m1").tolist() == [0xA1, 0x07]


def test_four_fp6_codes_take_three_bytes() -> None:
    a, b, c, d = 0b000001, 0b110010, 0b101100, 0b111111
    expected = [a | (b & 0b11) << 6, b >> 2 | (c & 0b1111) << 4, c >> 4 | d << 2]
    assert pack(np.array([a, b, c, d], np.uint8), "e2m3").tolist() == expected


@pytest.mark.parametrize("format", ONE_PER_WIDTH.values(), ids=str)
@pytest.mark.parametrize("count", range(18))
def test_bytes_are_those_of_the_definition(format: FloatFormat, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, 1 << format.bits, count).astype(np.uint8)
    assert pack(codes, format).tolist() == bit_stream(codes.tolist(), format.bits)
    for order, definition in DEFINITIONS.items():
        packed = pack(codes, format, order=order)
        assert packed.tolist() == definition(codes.tolist(), format.bits)
        assert packed.size == packed_bytes(count, format)
        assert np.array_equal(unpack(packed, format, count, order=order), codes)


@pytest.mark.parametrize("order", DEFINITIONS)
def test_bits_that_belong_to_no_code_are_refused(order: str) -> None:
    packed = pack(np.array([1, 2, 3], np.uint8), "e2m1", order=order)
    spoilt = packed | np.array([0, {"low-first": 0x10, "high-first": 0x01}[order]], np.uint8)
    assert unpack(packed, "e2m1", 3, order=order).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="not zero"):
        unpack(spoilt, "e2m1", 3, order=order)
    with pytest.raises(ValueError, match=r"low-first.*high-first"):
        pack(np.zeros(2, np.uint8), "e2m1", order="big")
    with pytest.raises(ValueError, match=r"low-first.*high-first"):
        unpack(packed, "e2m1", order="big")


@pytest.mark.parametrize("format", NARROW, ids=str)
def test_every_code_in_every_place_comes_back(format: FloatFormat) -> None:
    # 8 codes fill whole bytes at any width; each code stands in each of the places, its neighbours zero or all ones.
    top = (1 << format.bits) - 1
    rows = []
    for code, place, rest in itertools.product(range(1 << format.bits), range(8), (0, top)):
        row = [rest] * 8
        row[place] = code
        rows.append(row)
    codes = np.array(rows, np.uint8)
    packed = pack(codes, format)
    assert packed.shape == (len(rows), format.bits)
    assert np.array_equal(unpack(packed, format), codes)


@pytest.mark.parametrize("format", ["e2m1", "e3m2"])
def test_all_groups_of_two_fp4_or_fp6_codes_come_back(format: str) -> None:
    every = np.arange(1 << FORMATS[format].bits, dtype=np.uint8)
    pairs = np.stack(np.meshgrid(every, every), -1).reshape(-1, 2)
    packed = pack(pairs, format)
    assert np.array_equal(unpack(packed, format, 2), pairs)
    assert np.unique(packed, axis=0).shape[0] == len(pairs)


def test_rows_are_padded_each_for_itself() -> None:
    codes = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    packed = pack(codes, "e2m1")
    assert packed.tolist() == [[0x21, 0x03], [0x54, 0x06]]
    assert np.array_equal(unpack(packed, "e2m1", 3), codes)
    assert unpack(packed, "e2m1").shape == (2, 4)


def test_strided_wide_and_empty_codes() -> None:
    wide = np.arange(16, dtype=np.int64).reshape(2, 8)[:, ::-2]
    assert np.array_equal(unpack(pack(wide, "e2m1"), "e2m1"), wide)
    assert pack(np.zeros((3, 0), np.uint8), "e2m1").shape == (3, 0)
    assert unpack(np.zeros((3, 0), np.uint8), "e2m1").shape == (3, 0)


def test_ml_dtypes_arrays_bring_their_format() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([0.5, -6.0, 1.0], ml_dtypes.float4_e2m1fn)
    assert pack(x).tolist() == [0xF1, 0x02]


@pytest.mark.parametrize(
    ("codes", "format", "error", "message"),
    [
        (np.array([16], np.uint8), "e2m1", ValueError, "found 16"),
        (np.array([-1]), "e2m1", ValueError, "found -1"),
        (np.array([1.5]), "e2m1", TypeError, "encode"),
        (np.uint8(1), "e2m1", ValueError, "axis"),
        (np.zeros(2, np.uint8), "e4m3", ValueError, "8 bits"),
        (np.zeros(2, np.uint8), "e9m9", ValueError, "unknown format"),
    ],
)
def test_what_cannot_be_packed(codes: object, format: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pack(codes, format)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("packed", "count", "error", "message"),
    [
        (np.zeros(2, np.uint8), 5, ValueError, "take 3 bytes, not 2"),
        (np.zeros(2, np.uint8), 2, ValueError, "take 1 bytes, not 2"),
        (np.zeros(2, np.uint8), -1, ValueError, "negative"),
        (np.zeros(2, np.uint8), 3.0, TypeError, "count must be an int"),
        (np.zeros(2, np.uint8), True, TypeError, "count must be an int"),
        (np.array([0, 0x10], np.uint8), 3, ValueError, "not zero"),
        (np.zeros(2, np.int8), None, TypeError, "uint8"),
        (np.uint8(0), None, ValueError, "axis"),
    ],
)
def test_what_cannot_be_unpacked(packed: object, count: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        unpack(packed, "e2m1", count)  # type: ignore[arg-type]
