"""Is what a device does recorded whole, resumed, replayed, and every difference found and named? (Here the device is a stand-in.)"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_stand_in import SOME, Fault, StandIn
from implementations import JIT

import fpemu as fp
from analysis.files import digest
from analysis.gpu import __main__ as command
from analysis.gpu import recording as recordings
from analysis.gpu.classes import CLASSES, classify
from analysis.gpu.compare import DIFFERS, IDENTICAL, NAN_CODES, Comparison, compare, ranges
from analysis.gpu.driver import DriverError
from analysis.gpu.hashing import chunk_hashes, is_nan, mix
from analysis.gpu.inputs import EVERYTHING, LOW_HALVES, Codes, Coverage, kept_patterns, patterns
from analysis.gpu.parts import PARTS, Conversion, converted, release
from analysis.gpu.record import CannotRecord, record
from analysis.gpu.recording import MANIFEST, MOST_BYTES, MOST_FILES, Recording, RecordingError
from analysis.gpu.speed import missing, timing
from fpemu import FORMATS
from fpemu.kernels.random import GOLDEN, random_word, seed_key

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")

F32, BF16 = FORMATS["fp32"], FORMATS["bf16"]
TO_FP16, TO_E4M3, TO_TF32 = "ptx-fp32-fp16-rn", "ptx-fp32-e4m3-rn-satfinite", "ptx-fp32-tf32-rna"
FEW = Coverage(((0x3F80, 0x3F82), (0x7F80, 0x7F81)))


def quiet(line: str) -> None:
    """What the recorder tells is not looked at."""


def recorded(out: Path, *names: str, coverage: Coverage = FEW, **stand_in: Any) -> Path:
    parts = [PARTS[name] for name in names or (TO_FP16, TO_E4M3)]
    return record(StandIn(**stand_in), out, parts=parts, coverage=coverage, tell=quiet)


def compared(folder: Path, **options: Any) -> dict[str, Comparison]:
    return {found.part.name: found for found in compare(Recording.read(folder), **options)}


def at(pattern: int, change: int) -> Fault:
    """A fault: the code of one input has some bits flipped."""

    def fault(inputs: Codes, codes: Codes) -> Codes:
        return np.where(inputs == pattern, codes ^ codes.dtype.type(change), codes)

    return fault


# ---- the hash -------------------------------------------------------------------------------------------------------
def by_hand(codes: list[int]) -> int:
    """The definition of the hash, in Python's integers."""
    return sum(seed_key(code + i * GOLDEN) for i, code in enumerate(codes)) % 2**64


def test_the_hash_is_the_frozen_one() -> None:
    raw, _ = chunk_hashes(np.array([0, 1, 2, 0xFFFF, 7, 7, 7, 7], np.uint16), FORMATS["fp16"], 4)
    assert [hex(value) for value in raw] == ["0x5dab814a29b1ee8", "0xe3eb4aad6f5dc7c0"]


@pytest.mark.parametrize("name", ["e4m3", "fp16", "fp32"])
def test_the_hash_is_its_definition(name: str) -> None:
    format = FORMATS[name]
    codes = np.random.default_rng(1).integers(0, 1 << format.bits, 96, np.uint64).astype(format.code_dtype)
    raw, by_class = chunk_hashes(codes, format, 32)
    as_classes = np.where(is_nan(codes, format), format.magnitude_mask, codes)
    for chunk in range(3):
        here = slice(32 * chunk, 32 * chunk + 32)
        assert raw[chunk] == by_hand(codes[here].tolist())
        assert by_class[chunk] == by_hand(as_classes[here].tolist())


def test_the_mix_is_that_of_the_random_words() -> None:
    """The high half of the finaliser is what stochastic rounding uses, whose known answers are frozen."""
    for counter in np.random.default_rng(2).integers(0, 2**64, 100, np.uint64):
        assert int(mix(counter)) >> 32 == int(random_word(counter))


def test_the_hash_knows_order_and_nan() -> None:
    format = FORMATS["fp16"]
    codes = np.array([1, 2, 0x7E00, 4], np.uint16)
    swapped, other_nan, number = codes[[1, 0, 2, 3]], codes.copy(), codes.copy()
    other_nan[2], number[2] = 0xFFFF, 0x7C00
    hashes = [chunk_hashes(case, format, 4) for case in (codes, swapped, other_nan, number)]
    assert len({int(raw[0]) for raw, _ in hashes}) == 4
    assert hashes[0][1] == hashes[2][1]
    assert len({int(by_class[0]) for _, by_class in hashes}) == 3


def test_the_hash_does_not_depend_on_threads(threads: None) -> None:
    codes = np.random.default_rng(3).integers(0, 1 << 16, 1 << 20, np.uint16)
    found = []
    for count in (1, 2, 5):
        fp.set_threads(count)
        found.append(chunk_hashes(codes, FORMATS["fp16"], 1 << 16))
    assert all(np.array_equal(raw, found[0][0]) and np.array_equal(cls, found[0][1]) for raw, cls in found)


def test_codes_that_are_no_whole_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="whole chunks"):
        chunk_hashes(np.zeros(5, np.uint8), FORMATS["e4m3"], 4)
    with pytest.raises(ValueError, match="minus zero"):
        chunk_hashes(np.zeros(4, np.uint8), FORMATS["e4m3fnuz"], 4)


# ---- inputs and classes ---------------------------------------------------------------------------------------------
def test_coverage_counts_every_input_once() -> None:
    assert EVERYTHING.of(F32).chunks.size * (1 << 16) == 1 << 32
    assert EVERYTHING.of(BF16) == FEW.of(BF16) == Coverage(((0, 1),))
    blocks = [np.arange(*ends) for ends in SOME.blocks(8)]
    assert np.array_equal(np.concatenate(blocks), SOME.chunks) and len(list(EVERYTHING.blocks(8))) == 8192
    inputs = patterns(F32, np.array([0x3F80, 0xFFFF]))
    assert inputs[0] == 0x3F800000 and inputs[65536] == 0xFFFF0000 and inputs[-1] == 0xFFFFFFFF
    assert np.array_equal(patterns(FORMATS["fp16"], np.array([0])), np.arange(1 << 16))
    kept = kept_patterns(F32, np.array([0x3F80]))
    assert kept.tolist() == [[0x3F800000 + low for low in LOW_HALVES]]
    assert kept_patterns(FORMATS["e5m2"], np.array([0])).tolist() == [list(range(256))]


CLASSED = {
    "float16": {
        "NaN": (0x7F800001, 0xFFFFFFFF),
        "infinite": (0x7F800000, 0xFF800000),
        "zero": (0, 0x80000000),
        "overflow": (0x477FE001, 0x477FF000, 0xFF7FFFFF),  # 65504 is the largest finite value
        "tie": (0x3F801000, 0xBF803000, 0x33000000),  # 2^-25 is half of the smallest subnormal
        "subnormal result": (0x33000001, 0x387FFFFF, 0x00000001),
        "normal": (0x3F800000, 0x477FE000, 0x38800000),
    },
    "float8_e4m3fn": {
        "overflow": (0x43E00001, 0x43E80000),
        "normal": (0x43E00000,),
        "tie": (0x3F880000, 0x43D80000),  # 1.0625 lies between 1 and 1.125, 432 between 416 and 448
    },
}


@pytest.mark.parametrize("target", CLASSED)
def test_inputs_are_in_their_class(target: str) -> None:
    for name, inputs in CLASSED[target].items():
        found = classify(np.array(inputs, np.uint32), F32, FORMATS[target])
        assert [CLASSES[number] for number in found] == [name] * len(inputs)


# ---- what is predicted ----------------------------------------------------------------------------------------------
PREDICTED = [  # part, input, code; the sources are those of analysis/gpu/parts.py
    (TO_FP16, 0x477FEFFF, 0x7BFF),  # just below 65520
    (TO_FP16, 0x477FF000, 0x7C00),  # 65520
    (TO_FP16, 0xFFC12345, 0x7FFF),  # the sign of a NaN is dropped
    (TO_FP16, 0xB3000000, 0x8000),  # -2^-25
    ("ptx-fp32-fp16-rn-satfinite", 0xFF800000, 0xFBFF),
    ("ptx-fp32-fp16-rz", 0x7F7FFFFF, 0x7BFF),
    ("ptx-fp32-fp16-rz", 0x7F800000, 0x7C00),
    ("ptx-fp32-fp16-rp", 0x00000001, 0x0001),
    ("ptx-fp32-fp16-rm", 0x80000001, 0x8001),
    ("ptx-fp32-bf16-rn", 0x7F7F8000, 0x7F80),
    ("ptx-fp32-bf16-rn", 0x00008001, 0x0001),  # a subnormal of float32
    (TO_TF32, 0x3F801000, 0x3F802000),  # a tie, away from zero
    (TO_TF32, 0x7F7FFFFF, 0x7F800000),
    (TO_TF32, 0x7F800001, 0x7F800000),  # a NaN whose payload is all in the bits that go
    (TO_TF32, 0xFFC12345, 0xFFC12000),
    ("ptx-fp32-tf32-rna-satfinite", 0x7F800000, 0x7F7FE000),
    ("ptx-fp32-tf32-rna-satfinite", 0xFFC12345, 0xFFC10000),
    ("ptx-fp32-tf32-rn", 0x3F801000, 0x3F800000),
    (TO_E4M3, 0x7F800000, 0x7E),
    (TO_E4M3, 0xFFFFFFFF, 0x7F),
    (TO_E4M3, 0xBA800000, 0x80),  # -2^-10
    ("ptx-fp32-e5m2-rn-satfinite", 0xC7700000, 0xFB),  # -61440
    ("ptx-fp16-fp32", 0xFE00, 0x7FFFFFFF),
    ("ptx-bf16-fp32", 0xFF81, 0xFF810000),
    ("torch-fp32-e4m3", 0x43E80000, 0x7E),  # 464
    ("torch-fp32-e4m3", 0xC3E80001, 0xFF),
    ("torch-fp32-e5m2", 0x47700000, 0x7C),  # 61440
]


@pytest.mark.parametrize(("name", "pattern", "code"), PREDICTED)
def test_predictions(name: str, pattern: int, code: int) -> None:
    part = PARTS[name]
    inputs = np.array([pattern], part.source.code_dtype)
    got = converted(part, part.prediction({"torch": "2.11.0+cu130"}), inputs)
    assert got.dtype == part.holder.code_dtype and hex(got[0]) == hex(code)


def test_torch_saturates_since_2_13() -> None:
    part = PARTS["torch-fp32-e4m3"]
    infinity = np.array([0x7F800000], np.uint32)
    for version, code in (("2.12.1", 0x7F), ("2.13.0+cu130", 0x7E), ("absent", 0x7F)):
        assert converted(part, part.prediction({"torch": version}), infinity)[0] == code
    assert release("2.13.0a0+git") == (2, 13) and release("absent") == ()


def test_parts_are_consistent() -> None:
    names = list(PARTS)
    assert len({part.file for part in PARTS.values()}) <= MOST_FILES
    for name, part in PARTS.items():
        assert part.name == name
        if part.base is not None:
            base = PARTS[part.base]
            assert names.index(base.name) < names.index(name), "a base comes first"
            assert (base.source, base.target, base.file) == (part.source, part.target, part.file)


# ---- recording and replaying ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every part, over a few chunks of every region."""
    return record(StandIn(), tmp_path_factory.mktemp("recordings"), coverage=SOME, tell=quiet)


def test_every_part_replays_identically(complete: Path) -> None:
    """The stand-in shares no code with fpemu, except for fpemu's own parts."""
    found = compared(complete)
    assert list(found) == list(PARTS)
    assert {name: one.status for name, one in found.items()} == dict.fromkeys(PARTS, IDENTICAL)
    assert all(one.chunks == one.in_all == SOME.of(one.part.source).chunks.size for one in found.values())
    assert all(one.deterministic and one.unpredicted == 0 for one in found.values())


def test_kept_inputs_cover_every_class(complete: Path) -> None:
    for name, one in compared(complete, stride=1000).items():
        counts = {row.input_class: row.kept for row in one.classes}
        wanted = set(CLASSES)
        if one.part.target.bits > one.part.source.bits or one.part.target.name == "bfloat16":
            wanted &= {"NaN", "zero", "normal"}  # wider targets hold everything
        if one.part.source.name == "float8_e4m3fn":
            wanted -= {"infinite"}
        assert all(counts[kind] for kind in wanted), name
        data = Recording.read(complete).parts[name]
        assert data.codes is not None and sum(counts.values()) == data.codes.size


def test_the_manifest_tells_how_it_was_made(complete: Path) -> None:
    manifest = json.loads((complete / MANIFEST).read_text())
    assert manifest["device"] == {"is_gpu": False, "name": "CPU stand-in (no GPU)"}
    assert manifest["fpemu"] == fp.__version__ and manifest["software"]["torch"] == "2.11.0+cu130"
    assert len(manifest["sources_sha256"]) == 64
    assert complete.name.startswith("cpu-stand-in-no-gpu-20")
    assert {entry["name"] for entry in manifest["parts"]} == set(PARTS)
    assert manifest["timings"][0]["gigabytes_per_second"] == 12.0
    files = {entry["file"]: entry for entry in manifest["files"]}
    assert len(files) <= MOST_FILES and {path.name for path in complete.iterdir()} == {*files, MANIFEST}
    for name, entry in files.items():
        content = (complete / name).read_bytes()
        assert entry["sha256"] == digest(content) and entry["bytes"] == len(content) <= MOST_BYTES
    for text in ("/work", "/home", "/tmp"):
        assert text not in (complete / MANIFEST).read_text()


def test_a_base_that_is_not_there_is_done_without(tmp_path: Path) -> None:
    folder = recorded(tmp_path, "ptx-fp32-fp16-rn-satfinite", "torch-fp32-fp16")
    entry = json.loads((folder / MANIFEST).read_text())["parts"]
    assert [part["base"] for part in entry] == [None, None]
    assert all(one.status == IDENTICAL for one in compared(folder).values())


def test_only_every_nth_chunk(tmp_path: Path) -> None:
    folder = recorded(tmp_path, TO_FP16, faults={TO_FP16: at(0x3F811234, 1)})
    assert compared(folder, stride=2)[TO_FP16].status == IDENTICAL
    assert compared(folder, stride=2)[TO_FP16].chunks == 2
    kept = recorded(tmp_path / "kept", TO_FP16, faults={TO_FP16: at(0x3F811000, 1)})
    assert compared(kept, stride=2)[TO_FP16].differing.tolist() == [0x3F81], "kept codes are all compared"
    assert compared(folder, stride=1)[TO_FP16].status == DIFFERS
    with pytest.raises(ValueError, match="at least 1"):
        compared(folder, stride=0)


# ---- what differs is found and named --------------------------------------------------------------------------------
@pytest.mark.parametrize("pattern", [0x3F811000, 0x3F812345], ids=["kept", "known by its hash alone"])
def test_one_wrong_bit_is_named(tmp_path: Path, pattern: int) -> None:
    folder = recorded(tmp_path, faults={TO_FP16: at(pattern, 1)})
    found = compared(folder)
    wrong = found[TO_FP16]
    assert (wrong.status, wrong.differing.tolist(), wrong.nan_codes.tolist()) == (DIFFERS, [0x3F81], [])
    right = int(fp.encode(np.array(pattern, np.uint32).view(np.float32), "fp16"))
    assert [(one.input, one.device, one.fpemu) for one in wrong.examples] == [(pattern, right ^ 1, right)]
    assert wrong.unpredicted == 1
    assert "0x3f81" in wrong.text() and f"{pattern:#010x}" in wrong.text() and "rule" in wrong.text()
    assert wrong.record()["chunks_differing"] == ["0x3f81"]
    assert found[TO_E4M3].status == IDENTICAL


def test_other_nan_codes_are_told_apart(tmp_path: Path) -> None:
    """A canonical NaN of another code, for every NaN of one sign."""
    folder = recorded(
        tmp_path,
        coverage=SOME,
        faults={TO_FP16: lambda inputs, codes: np.where(codes == 0x7FFF, 0x7E00, codes).astype(np.uint16)},
    )
    found = compared(folder)[TO_FP16]
    assert found.status == NAN_CODES and not found.differing.size
    assert found.nan_codes.tolist() == [0x7F80, 0x7F81, 0xFF80, 0xFFFF]
    assert {row.input_class for row in found.classes if row.status != IDENTICAL} == {"NaN"}
    assert {(one.device, one.fpemu, one.input_class) for one in found.examples} == {(0x7E00, 0x7FFF, "NaN")}
    assert found.unpredicted == 0


def test_a_number_where_a_nan_is_due_is_no_other_nan_code(tmp_path: Path) -> None:
    folder = recorded(
        tmp_path, faults={TO_E4M3: lambda inputs, codes: np.where(codes == 0x7F, 0x7E, codes).astype(np.uint8)}
    )
    found = compared(folder)[TO_E4M3]
    assert found.status == DIFFERS and found.differing.tolist() == [0x7F80]
    assert {row.input_class for row in found.classes if row.differing} == {"NaN"}


def test_whole_classes_that_differ(tmp_path: Path) -> None:
    """A device that flushes subnormal results: the classes say so."""

    def flush(inputs: Codes, codes: Codes) -> Codes:
        return np.where(codes & 0x7C00 == 0, codes & 0x8000, codes).astype(np.uint16)

    folder = recorded(tmp_path, TO_FP16, coverage=SOME, faults={TO_FP16: flush})
    found = compared(folder)[TO_FP16]
    assert {row.input_class for row in found.classes if row.differing} == {"subnormal result"}
    assert found.examples[0].input_class == "subnormal result" and len(found.examples) == 8
    more = compared(folder, examples=20)[TO_FP16].examples
    assert len(more) == len({one.input for one in more}) == 20


def test_what_does_not_repeat_is_flagged(tmp_path: Path) -> None:
    calls = iter(range(100))

    def flaky(inputs: Codes, codes: Codes) -> Codes:
        return codes ^ codes.dtype.type(1) if next(calls) == 3 else codes

    folder = recorded(tmp_path, TO_FP16, faults={TO_FP16: flaky})
    part = json.loads((folder / MANIFEST).read_text())["parts"][0]
    assert part["deterministic"] is False and part["chunks_differing_on_repeat"] == 1
    assert not compared(folder)[TO_FP16].deterministic
    rewritten(folder, lambda manifest: manifest["device"].update(is_gpu=True))
    assert command.main(["compare", str(folder)]) == 1


def test_ranges_of_chunks() -> None:
    assert ranges(np.array([1, 2, 3, 9, 0x7F80])) == ["0x0001-0x0003", "0x0009", "0x7f80"]
    assert ranges(np.array([], np.int64)) == []
    assert ranges(np.arange(0, 60, 2), most=2) == ["0x0000", "0x0002", "and 28 ranges more"]


# ---- interrupted, repeated, incomplete ------------------------------------------------------------------------------
class Failing(StandIn):
    """Fails at the first request for one part."""

    def __init__(self, at: str, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def codes(self, part: Conversion, first: int, stop: int) -> Codes:
        if part.name == self.at:
            raise self.error
        return super().codes(part, first, stop)


NAMES = (TO_FP16, TO_E4M3, TO_TF32)


@pytest.mark.parametrize("error", [DriverError("cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"), KeyboardInterrupt()])
def test_an_interrupted_run_goes_on(tmp_path: Path, error: BaseException) -> None:
    parts = [PARTS[name] for name in NAMES]
    with pytest.raises(type(error)):
        record(Failing(TO_TF32, error), tmp_path, parts=parts, coverage=FEW, tell=quiet)
    assert [path.name for path in tmp_path.iterdir()] == [".partial"]
    again = StandIn()
    folder = record(again, tmp_path, parts=parts, coverage=FEW, tell=quiet)
    assert set(again.asked) == {TO_TF32}
    assert list(compared(folder)) == list(NAMES)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing partial is left"


def test_a_damaged_or_foreign_part_is_recorded_again(tmp_path: Path) -> None:
    parts = [PARTS[name] for name in NAMES]
    with pytest.raises(DriverError):
        record(Failing(TO_TF32, DriverError("gone")), tmp_path, parts=parts, coverage=FEW, tell=quiet)
    kept = next(tmp_path.glob(f".partial/*/{TO_FP16}.npz"))
    kept.write_bytes(kept.read_bytes()[:-40])
    again = StandIn()
    record(again, tmp_path, parts=parts, coverage=FEW, tell=quiet)
    assert set(again.asked) == {TO_FP16, TO_TF32}


def test_other_inputs_are_recorded_again(tmp_path: Path) -> None:
    with pytest.raises(DriverError):
        record(
            Failing(TO_E4M3, DriverError("gone")),
            tmp_path,
            parts=[PARTS[TO_FP16], PARTS[TO_E4M3]],
            coverage=FEW,
            tell=quiet,
        )
    again = StandIn()
    record(again, tmp_path, parts=[PARTS[TO_FP16]], coverage=SOME, tell=quiet)
    assert set(again.asked) == {TO_FP16}


def test_a_finished_recording_is_not_written_again(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    device = StandIn()
    with pytest.raises(CannotRecord, match="is a finished recording"):
        record(device, tmp_path, coverage=FEW, tell=quiet)
    assert not device.asked and before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_cannot_be_recorded_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    folder = record(
        StandIn(missing=(TO_E4M3, "torch-fp32-fp16")),
        tmp_path,
        parts=[PARTS[name] for name in (*NAMES, "torch-fp32-fp16")],
        coverage=FEW,
        tell=said.append,
    )
    manifest = json.loads((folder / MANIFEST).read_text())
    assert [(entry["name"], entry["reason"]) for entry in manifest["not_recorded"]] == [
        (TO_E4M3, "not here"),
        ("torch-fp32-fp16", "not here"),
    ]
    assert f"{TO_E4M3}: not recorded: not here" in said
    assert set(manifest["not_asked_for"]) == set(PARTS) - {*NAMES, "torch-fp32-fp16"}
    assert list(compared(folder)) == [TO_FP16, TO_TF32]


def test_nothing_but_libraries_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(CannotRecord, match="not one hardware instruction could be recorded: not here"):
        recorded(tmp_path, TO_FP16, "torch-fp32-fp16", missing=(TO_FP16,))
    assert not list(tmp_path.glob("*/manifest.json"))


def test_too_large_files_lose_codes_not_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ptx-fp32-fp16-rn", "ptx-fp32-fp16-rz")
    whole = (recorded(tmp_path / "whole", *names, coverage=SOME) / "fp16.npz").stat().st_size
    monkeypatch.setattr(recordings, "MOST_BYTES", whole - 1)
    folder = recorded(tmp_path, *names, coverage=SOME)
    parts = json.loads((folder / MANIFEST).read_text())["parts"]
    assert parts[0]["codes"] == "kept" and parts[1]["codes"].startswith("left out")
    found = compared(folder)
    assert [one.status for one in found.values()] == [IDENTICAL] * 2
    assert not found["ptx-fp32-fp16-rz"].classes
    monkeypatch.setattr(recordings, "MOST_BYTES", 300)
    with pytest.raises(ValueError, match="hashes alone"):
        recorded(tmp_path / "more", coverage=SOME)


def test_a_failing_prediction_does_not_lose_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Codes:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Conversion, "predicted", broken)
    part = json.loads((recorded(tmp_path, TO_FP16) / MANIFEST).read_text())["parts"][0]
    assert part["unpredicted"] is None and part["prediction_failed"] == "RuntimeError: a fault of ours"


# ---- damaged recordings ---------------------------------------------------------------------------------------------
def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    content = bytearray((folder / "fp16.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "fp16.npz").write_bytes(content)
    with pytest.raises(RecordingError, match=r"fp16\.npz: is not the file that was recorded"):
        Recording.read(folder)
    (folder / "fp16.npz").unlink()
    with pytest.raises(RecordingError, match=r"fp16\.npz: No such file"):
        Recording.read(folder)


def rewritten(folder: Path, change: Any) -> None:
    """The manifest with a change."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGES: dict[str, tuple[Any, str]] = {
    "kind": (lambda m: m.update(kind="a cake"), "is no 'fpemu recording"),
    "schema": (lambda m: m.update(schema=99), "of schema 1"),
    "field": (lambda m: m.pop("parts"), "parts is missing"),
    "part": (lambda m: m["parts"][0].pop("chunks"), "a part lacks chunks"),
    "unknown part": (lambda m: m["parts"][0].update(name="x"), "part 'x' is unknown"),
    "path": (lambda m: m["files"][0].update(file="../x.npz"), "not a plain file name"),
    "hash": (lambda m: m["hash"].update(definition="crc32"), "defined otherwise"),
    "chunks": (lambda m: m["parts"][0].update(chunks=[[0, 1]]), "of shape"),
    "far chunks": (lambda m: m["parts"][0].update(chunks=[[0, 10**15]]), "it has chunks 0 to 65535"),
    "no name": (lambda m: m["parts"][0].update(name=[]), r"part \[\] is unknown"),
    "base": (lambda m: m["parts"][0].update(base="nothing"), "nothing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_refused(tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    folder = recorded(tmp_path, TO_FP16)
    rewritten(folder, change)
    with pytest.raises(RecordingError, match=message):
        Recording.read(folder)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"manifest\.json: No such file"):
        Recording.read(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(RecordingError, match="not JSON"):
        Recording.read(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    folder = recorded(tmp_path, TO_FP16)
    np.savez(folder / "fp16.npz", **{f"{TO_FP16}.hashes": np.array([{}], object)})  # type: ignore[arg-type]
    content = (folder / "fp16.npz").read_bytes()
    rewritten(folder, lambda manifest: manifest["files"][0].update(sha256=digest(content)))
    with pytest.raises(RecordingError, match="pickled objects are refused"):
        Recording.read(folder)


def test_kept_codes_that_contradict_their_hashes_are_refused(tmp_path: Path) -> None:
    folder = recorded(tmp_path, TO_FP16)
    with np.load(folder / "fp16.npz") as archive:
        arrays = dict(archive)
    arrays[f"{TO_FP16}.codes"][0, 0] ^= 1
    (folder / "fp16.npz").write_bytes(recordings.archive(arrays))
    content = (folder / "fp16.npz").read_bytes()
    rewritten(folder, lambda manifest: manifest["files"][0].update(sha256=digest(content)))
    with pytest.raises(RecordingError, match="where the hashes of their chunks do not"):
        compared(folder)


# ---- the command line -----------------------------------------------------------------------------------------------
def test_a_stand_in_is_never_shown_as_hardware(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["compare", str(complete)]) == 2
    out, err = capsys.readouterr()
    assert not out and "was made by a stand-in, not by a GPU" in err


def test_compare_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    same = recorded(tmp_path / "same", gpu=True)
    other = recorded(tmp_path / "other", gpu=True, faults={TO_FP16: at(0x3F811000, 1)})
    assert command.main(["compare", str(same)]) == 0
    assert "2 of 2 parts identical" in capsys.readouterr().out
    assert command.main(["compare", str(same), str(other)]) == 1
    assert "0x3f811000 (tie): device 0x3c09, fpemu 0x3c08" in capsys.readouterr().out
    assert command.main(["compare", "--json", str(other)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told[0]["parts"][0]["examples"][0]["input"] == "0x3f811000"
    assert command.main(["compare", str(tmp_path / "nowhere")]) == 2
    assert command.main(["compare", "--stride", "0", str(same)]) == 2
    monkeypatch.setattr(command, "RECORDINGS", tmp_path / "none")
    assert command.main(["compare"]) == 2
    assert "no recording yet" in capsys.readouterr().err
    monkeypatch.setattr(command, "RECORDINGS", tmp_path / "same")
    assert command.main(["compare"]) == 0


def test_record_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["record", "conversions", "--out", str(tmp_path), "--parts", "ptx-bf16-*"]
    monkeypatch.setattr(command, "CudaDevice", lambda: StandIn(gpu=True))
    assert command.main(arguments) == 0
    assert "wrote" in capsys.readouterr().out
    assert command.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / ".partial").exists()
    assert command.main(["record", "conversions", "--parts", "nothing"]) == 1
    assert "no part matches 'nothing'" in capsys.readouterr().err
    monkeypatch.setattr(command, "CudaDevice", lambda: Failing("ptx-bf16-fp32", KeyboardInterrupt()))
    assert command.main([*arguments[:-3], str(tmp_path / "new"), *arguments[-2:]]) == 130
    assert command.main([]) == command.main(["record", "cakes"]) == 2


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    """In a process of its own, as a user runs it; a machine that has one records nothing, by the pattern."""
    done = subprocess.run(
        [sys.executable, "-m", "analysis.gpu", "record", "conversions", "--out", str(tmp_path), "--parts", "none"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.startswith("error: ")


def test_the_recorder_imports_nothing_of_the_laboratory() -> None:
    """It runs from a bare checkout: the standard library, NumPy and Numba."""
    script = (
        "import sys, analysis.gpu.__main__\n"
        "heavy = 'pandas matplotlib click rich jinja2 sklearn PIL hypothesis ml_dtypes gfloat torch cupy cuda'\n"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]", done.stderr


# ---- rows of the timing ---------------------------------------------------------------------------------------------
def test_rows_of_the_timing() -> None:
    row = timing("float8_e4m3fn", "torch", 1 << 20, 5 << 20, [0.004, 0.001, 0.002], 0.001)
    assert row["of_copy"] == 0.5 and row["gigabytes_per_second"] == pytest.approx((5 << 20) / 0.002 / 1e9)
    row = missing("float16", "torch", 4, 24, ValueError("two\nlines"))
    assert row["reason"] == "ValueError: two lines" and row["of_copy"] is None


# ---- every input ----------------------------------------------------------------------------------------------------
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name", [name for name, part in PARTS.items() if part.instruction and part.target.name == "tfloat32"]
)
def test_every_float32_to_tf32(name: str) -> None:
    """The predictions for TF32 against plain integer arithmetic; the other targets are in test_exhaustive.py."""
    part, device = PARTS[name], StandIn()
    prediction = part.prediction({})
    for first, stop in EVERYTHING.blocks(64):
        inputs = patterns(F32, np.arange(first, stop))
        wrong = np.flatnonzero(converted(part, prediction, inputs) != device.codes(part, first, stop))
        assert not wrong.size, f"{wrong.size} differ, first {inputs[wrong[0]]:#x}"
