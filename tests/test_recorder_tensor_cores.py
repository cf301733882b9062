"""Is what tensor cores do recorded whole, resumed, replayed, and every difference found and named? (Here a stand-in multiplies.)"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from implementations import JIT
from tensor_core_stand_in import Fault, TensorCores

import fpemu as fp
import fpemu.engines
from analysis.files import digest
from analysis.gpu import __main__ as command
from analysis.gpu import recording as recordings
from analysis.gpu import tensor_cores, tiles
from analysis.gpu.compare import DIFFERS, IDENTICAL, NAN_CODES, Comparison, compare, tidy
from analysis.gpu.driver import DriverError
from analysis.gpu.engines import CHIPS, engine_of, multiplied
from analysis.gpu.inputs import EVERYTHING, Codes, Coverage
from analysis.gpu.kinds import CONVERSIONS, TENSOR_CORES
from analysis.gpu.multiply import MMA, WGMMA, Product
from analysis.gpu.part import NoPrediction, Part
from analysis.gpu.probes import PROBES, cases
from analysis.gpu.products import LibraryProduct
from analysis.gpu.record import CannotRecord, record
from analysis.gpu.recording import MANIFEST, MOST_BYTES, MOST_FILES, Recording, RecordingError
from analysis.gpu.tensor_cores import Instruction, Multiplication, Probing
from analysis.gpu.tiles import CLASSES, Shape, key_of, operands_of, small_integers, words_of
from fpemu import FORMATS
from fpemu.engines import ENGINES, matmul
from fpemu.engines.definition import dot
from fpemu.kernels.random import GOLDEN, random_word, seed_key

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")

PARTS = TENSOR_CORES.parts
HOPPER = {"compute_capability": "9.0"}
MMA_FP16, WGMMA_E4M3, TF32 = "mma-fp16-fp32-k16", "wgmma-e4m3-fp32-k32", "mma-tf32-fp32-k8"
PROBED = "mma-bf16-fp32-probes"
FIRST = Coverage(((0, 1),))  # of each class the first chunk
HUNDRED = 1 << 7


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 outputs, or a tile: the definition takes half a millisecond for a dot product."""
    monkeypatch.setattr(tensor_cores, "CHUNK", HUNDRED)


def quiet(line: str) -> None:
    """What the recorder tells is not looked at."""


def recorded(out: Path, *names: str, coverage: Coverage = FIRST, **stand_in: Any) -> Path:
    parts = [PARTS[name] for name in names or (MMA_FP16, PROBED)]
    return record(TensorCores(**stand_in), out, kind=TENSOR_CORES, parts=parts, coverage=coverage, tell=quiet)


def compared(folder: Path, **options: Any) -> dict[str, Comparison]:
    return {found.part.name: found for found in compare(Recording.read(folder), **options)}


def instruction(name: str) -> Multiplication:
    part = PARTS[name]
    assert isinstance(part, Multiplication)
    return part


def at(number: int, change: int) -> Fault:
    """A fault: the code of one output has some bits flipped."""

    def fault(codes: Codes, first: int) -> Codes:
        codes = codes.copy()
        if first <= number < first + codes.size:
            codes[number - first] ^= codes.dtype.type(change)
        return codes

    return fault


# ---- words and tiles ------------------------------------------------------------------------------------------------
def test_words_are_the_frozen_ones() -> None:
    assert key_of("test/a") == 0x96159DFACD31ED1
    words = words_of("test/a", np.array([0, 3]), (2, 2)).reshape(-1)
    assert [hex(word) for word in words[[0, 3, 4]]] == [
        "0x893b92ba1154a02a",
        "0xc208a29452252867",
        "0xfdf6b081ee051e12",
    ]


def test_words_are_those_of_the_counter() -> None:
    """The high half is the random word of stochastic rounding, whose known answers are frozen."""
    words = words_of("test/b", np.array([5, 2]), (3, 7))
    for place, tile in enumerate((5, 2)):
        for i, word in enumerate(words[place].reshape(-1).tolist()):
            counter = (key_of("test/b") + (21 * tile + i) * GOLDEN) % 2**64
            assert word >> 32 == int(random_word(np.uint64(counter)))
            assert word == seed_key((counter - GOLDEN) % 2**64)


def test_words_depend_on_no_thread(threads: None) -> None:
    found = []
    for count in (1, 2, 5):
        fp.set_threads(count)
        found.append(words_of("test/c", np.arange(50), (16, 16)))
    assert all(np.array_equal(words, found[0]) for words in found)


SHAPES = {
    name: Shape("test", 16, 8, k, FORMATS[a], FORMATS[b], FORMATS[c])
    for name, k, a, b, c in (
        ("fp16", 16, "fp16", "fp16", "fp16"),
        ("bf16", 16, "bf16", "bf16", "fp32"),
        ("tf32", 8, "fp32", "fp32", "fp32"),
        ("fp8", 32, "e4m3", "e5m2", "fp32"),
    )
}
FROZEN: dict[tuple[str, str], str] = {
    ("fp16", "raw"): "f7ef68432bff",
    ("fp16", "normal"): "8205856a7387",
    ("fp16", "spread"): "1467b1f7b00b",
    ("fp16", "cancellation"): "5f3a92816c03",
    ("fp16", "tiny"): "49cfced7039c",
    ("fp16", "near-overflow"): "868a5e313085",
    ("fp16", "zeros"): "246bbce01a45",
    ("fp16", "specials"): "36fc6a76c68b",
    ("fp16", "positive"): "ae2e18a905e6",
    ("bf16", "raw"): "85f6e184868a",
    ("bf16", "normal"): "9868dbc27540",
    ("bf16", "spread"): "c6d103209fbd",
    ("bf16", "cancellation"): "92b119689418",
    ("bf16", "tiny"): "f64a057466fc",
    ("bf16", "near-overflow"): "326f465613c9",
    ("bf16", "zeros"): "d67b2283aca1",
    ("bf16", "specials"): "b2b2b211c05d",
    ("bf16", "positive"): "f96ec7c53cac",
    ("tf32", "raw"): "68b9fa573e5d",
    ("tf32", "normal"): "80290a57d56b",
    ("tf32", "spread"): "ebfc99b34c9a",
    ("tf32", "cancellation"): "d029d01220c1",
    ("tf32", "tiny"): "6120a1107d12",
    ("tf32", "near-overflow"): "b9c4586ed001",
    ("tf32", "zeros"): "d5a83fe36d3b",
    ("tf32", "specials"): "6ad22549883d",
    ("tf32", "positive"): "e61a72779f02",
    ("fp8", "raw"): "6c05c4a4d0c1",
    ("fp8", "normal"): "a726709be8e7",
    ("fp8", "spread"): "1bc8f73116e6",
    ("fp8", "cancellation"): "3b69c368c83b",
    ("fp8", "tiny"): "1db2f0976485",
    ("fp8", "near-overflow"): "1665f8dc126b",
    ("fp8", "zeros"): "ec86294453b4",
    ("fp8", "specials"): "3147712de94d",
    ("fp8", "positive"): "85367b42c2fc",
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("input_class", CLASSES)
def test_tiles_are_the_frozen_ones_wherever_they_lie(name: str, input_class: str) -> None:
    """Recordings hold no inputs: a changed bit of any operand would make every one of them worthless."""
    shape = SHAPES[name]
    found = operands_of(shape, input_class, np.arange(6))
    alone = operands_of(shape, input_class, np.array([4]))
    for role in ("a", "b", "c"):
        codes = getattr(found, role)
        assert np.array_equal(codes[4], getattr(alone, role)[0])
        assert codes.flags.c_contiguous
    content = b"".join(
        getattr(found, role).astype(getattr(found, role).dtype.newbyteorder("<")).tobytes() for role in "abc"
    )
    assert digest(content)[:12] == FROZEN[name, input_class]


def values_of(shape: Shape, input_class: str, tiles: int = 64) -> list[np.ndarray[Any, Any]]:
    found = operands_of(shape, input_class, np.arange(tiles))
    with np.errstate(invalid="ignore"):
        return [
            fp.decode(codes, format, dtype=np.float64)
            for codes, format in ((found.a, shape.a), (found.b, shape.b), (found.c, shape.accumulator))
        ]


@pytest.mark.parametrize("name", SHAPES)
def test_classes_are_what_they_say(name: str) -> None:
    shape = SHAPES[name]
    target = shape.accumulator
    sums = {}
    for input_class in set(CLASSES) - {"raw", "specials"}:
        a, b, c = values_of(shape, input_class)
        assert np.isfinite(a).all() and np.isfinite(b).all() and np.isfinite(c).all()
        sums[input_class] = a @ b.swapaxes(1, 2), np.abs(a) @ np.abs(b.swapaxes(1, 2)), c
    total, size, _ = sums["cancellation"]
    assert np.median(np.abs(total) / size) < 0.02 < np.median(np.abs(sums["normal"][0]) / sums["normal"][1])
    total, _, c = sums["tiny"]
    assert (c == 0).mean() > 0.5
    if target.emin > shape.a.emin + shape.b.emin:  # products can be that small
        assert 0.05 < (np.abs(total + c) < target.smallest_normal).mean() < 0.95
    total, _, c = sums["near-overflow"]
    assert (np.abs(c) > target.max / 16).mean() > 0.3
    if shape.a.emax + shape.b.emax > target.emax:
        assert 0.2 < (np.abs(total + c) > target.max).mean() < 0.9
    a, b, c = values_of(shape, "zeros")
    assert all(0.4 < (x == 0).mean() < 0.6 and np.signbit(x[x == 0]).any() for x in (a, b, c))
    a, b, c = values_of(shape, "specials")
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(a @ b.swapaxes(1, 2) + c).mean()
    assert 0.5 < finite < 0.9 and np.isnan(a).any() and np.isnan(b).any() and np.isinf(c).any()
    assert (sums["positive"][0] > 0).all() and not sums["positive"][2].any()


def test_the_check_is_exact_in_every_engine() -> None:
    products = {part.product for part in PARTS.values() if isinstance(part, Instruction)}
    for product in {replace(one, n=8) for one in products}:
        formats = product.a_format, product.b_format, product.accumulator_format
        shape = Shape("check", product.m, product.n, 4 * product.k, *formats)
        given, wanted = small_integers(shape, 2, product.sign, product.scale_d)
        a = given.a ^ given.a.dtype.type(product.a_format.sign_mask if product.sign < 0 else 0)
        c = given.c if product.scale_d else None
        got = matmul(a, given.b.swapaxes(1, 2), c, engine=f"hopper.{product.engine}")
        assert np.array_equal(got, wanted), product


# ---- parts ----------------------------------------------------------------------------------------------------------
def test_parts_are_consistent() -> None:
    names = list(PARTS)
    assert len({part.file for part in PARTS.values()}) <= MOST_FILES
    for name, part in PARTS.items():
        assert part.name == name and name == name.lower() and "." not in name
        whole = part.cover(EVERYTHING).chunks
        assert np.array_equal(whole, np.arange(part.chunks_in_all))
        assert part.chunk * part.chunks_in_all < 1 << 32, "a surprise is numbered in 32 bits"
        if part.base is not None:
            base = PARTS[part.base]
            assert names.index(base.name) < names.index(name), "a base comes first"
            assert (base.file, base.holder, base.cover(EVERYTHING)) == (part.file, part.holder, part.cover(EVERYTHING))
        kinds = part.class_of_chunks(whole)
        if kinds is not None:
            numbers = whole * part.chunk
            assert np.array_equal(part.classify(numbers), kinds) and np.array_equal(
                part.classify(numbers + part.chunk - 1), kinds
            )


def test_every_instruction_has_an_engine_on_hopper() -> None:
    products = {part.product for part in PARTS.values() if isinstance(part, Instruction)}
    assert len(products) >= 32
    for product in products:
        engine = ENGINES[engine_of(product, "hopper")]
        assert (engine.a, engine.b, engine.accumulator) == (
            product.a_format, product.b_format, product.accumulator_format,
        )  # fmt: skip


def test_chips_are_in_the_catalogue() -> None:
    assert {name.split(".")[0] for name in ENGINES} >= set(CHIPS.values())


def test_a_whole_recording_is_small_enough() -> None:
    """Without compression; every file and all together."""
    sizes: dict[str, int] = {}
    for part in PARTS.values():
        chunks = np.arange(part.chunks_in_all)
        codes = 0 if isinstance(part, Probing) or part.base else part.kept_numbers(chunks).size
        sizes[part.file] = sizes.get(part.file, 0) + codes * part.holder.bits // 8 + 16 * chunks.size
    assert max(sizes.values()) < MOST_BYTES and sum(sizes.values()) < 25 << 20


def test_wrong_instructions_are_refused() -> None:
    for wrong, message in (
        ({"family": "dot"}, "family"),
        ({"k": 8, "family": WGMMA}, "16 bytes"),
        ({"b": "e4m3"}, "same width"),
        ({"n": 16}, "n = 8"),
        ({"from_registers": True}, "no scales"),
        ({"accumulator": "fp16", "promote": 4}, "float32 is promoted"),
    ):
        facts = {"family": MMA, "n": 8, "k": 16, "a": "fp16", "b": "fp16", "accumulator": "fp32", **wrong}
        with pytest.raises(ValueError, match=message):
            Product(**facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("tiles", [1, 7, 8, 9, 17])
def test_tiles_beside_one_another_do_not_mix(tiles: int) -> None:
    """Predictions put tiles along the diagonal of larger products; NaNs and infinities stay where they belong."""
    shape = SHAPES["bf16"]
    given = operands_of(shape, "specials", np.arange(tiles))
    engine = "hopper.mma.bf16.fp32"
    one_by_one = [matmul(given.a[i], given.b[i].T, given.c[i], engine=engine) for i in range(tiles)]
    assert np.array_equal(multiplied(engine, given.a, given.b, given.c), np.stack(one_by_one))


# ---- probes ---------------------------------------------------------------------------------------------------------
def test_probes_are_all_there() -> None:
    assert {probe.group for probe in PROBES} == {f"P{number}" for number in range(1, 16)}
    probed = {
        probe for part in PARTS.values() if isinstance(part, Probing) for probe in (t.probe for t, *_ in part.trials)
    }
    assert probed == set(PROBES), "each is tried on some instruction"


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if isinstance(part, Probing)])
def test_predicted_bits_are_those_of_the_engine(name: str) -> None:
    """In every lane; and the definition agrees, with the first product in the first and the last lane."""
    part = PARTS[name]
    assert isinstance(part, Probing)
    engine = ENGINES[engine_of(part.product, "hopper")]
    tried = list(cases(part.product))
    a, b = (np.stack([case[role] for case in tried]) for role in (1, 2))
    c = np.array([trial.probe.c for trial, *_ in tried], part.holder.code_dtype)
    got = matmul(a[:, None, :], b[:, :, None], c[:, None, None], engine=engine).reshape(-1)
    wrong = [(trial, hex(code)) for (trial, *_), code in zip(tried, got, strict=True) if code != trial.probe.predicted]
    assert not wrong
    for trial, row, column in tried:
        if trial.lane in (0, part.product.k - 1):
            assert dot(row.tolist(), column.tolist(), trial.probe.c, engine) == trial.probe.predicted


def test_every_lane_is_probed() -> None:
    part = PARTS[PROBED]
    assert isinstance(part, Probing)
    for name in ("P1", "P7 k=10", "P11 sum"):
        assert [t.lane for t, *_ in part.trials if t.probe.name == name] == list(range(16))


# ---- recording and replaying ----------------------------------------------------------------------------------------
def worth_a_replay(part: Part) -> bool:
    """All but the longest chains and large products of libraries, which take long on a CPU."""
    if isinstance(part, LibraryProduct):
        return part.m * part.n * part.k <= 1 << 20
    return not isinstance(part, Multiplication) or part.product.k * part.steps <= 1 << 10


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nearly every part, a chunk of each class."""
    names = [name for name, part in PARTS.items() if worth_a_replay(part)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_cores, "CHUNK", HUNDRED)
        return recorded(tmp_path_factory.mktemp("recordings"), *names)


@pytest.mark.usefixtures("small")
def test_every_part_replays_identically(complete: Path) -> None:
    found = compared(complete)
    assert len(found) > 130
    assert {name: one.status for name, one in found.items()} == dict.fromkeys(found, IDENTICAL)
    assert all(one.deterministic and one.unpredicted == 0 and not one.is_failure for one in found.values())
    rows = found[MMA_FP16].rows()
    assert [row["class"] for row in rows] == list(tensor_cores.INPUTS)
    assert all(row["replayed"] == row["proved"] == row["kept"] == row["identical"] == HUNDRED for row in rows)
    table = tidy(Recording.read(complete), list(found.values()))
    assert len(table) == sum(len(one.part.classes) for one in found.values())
    assert {row["hardware"] for row in table} == {"CPU stand-in (no GPU)"}
    assert rows[0]["engine"] == "mma.fp16.fp32" and rows[0]["example"] == "none" and rows[0]["k"] == 16


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [MMA_FP16, "mma-e4m3xe5m2-fp32-k32", "mma-e5m2-fp16-k16", "mma-tf32-fp32-k4"])
def test_the_definition_replays_identically(tmp_path: Path, name: str) -> None:
    """Dot by dot, on all classes of inputs."""
    folder = recorded(tmp_path, name, slow=True)
    assert compared(folder)[name].status == IDENTICAL


@pytest.mark.usefixtures("small")
def test_kept_outputs_are_those_of_the_definition(complete: Path) -> None:
    """Of every instruction, variant and short chain the first and the last kept output of each class, from the file."""
    recording = Recording.read(complete)
    for name, data in recording.parts.items():
        part = recording.kind.parts[name]
        if not isinstance(part, Multiplication) or data.codes is None or part.product.k * part.steps > 256:
            continue
        product = part.product
        engine = ENGINES[f"hopper.{product.engine}"]
        if product.promote:
            engine = fp.engines.promoted(engine, tensor_cores.PROMOTED_EVERY)
        numbers = part.kept_numbers(data.coverage.chunks)
        for place in [(i, j) for i in range(numbers.shape[0]) for j in (0, -1)]:
            a, b, c = part.operands_at(int(numbers[place]))
            if product.negate_a != product.negate_b:
                b = b ^ b.dtype.type(product.b_format.sign_mask)
            wanted = dot(a.tolist(), b.tolist(), c if product.scale_d else 0, engine)
            assert int(data.codes[place]) == wanted, (name, place)


@pytest.mark.usefixtures("small")
def test_the_manifest_tells_how_it_was_made(complete: Path) -> None:
    manifest = json.loads((complete / MANIFEST).read_text())
    assert manifest["kind"] == TENSOR_CORES.title and complete.name.endswith("-tensor-cores")
    assert manifest["device"]["compute_capability"] == "9.0" and manifest["timings"] == []
    assert manifest["hash"]["inputs"] == tiles.DEFINITION
    entries = {entry["name"]: entry for entry in manifest["parts"]}
    assert "mma.sync.aligned.m16n8k16" in entries[MMA_FP16]["kernel"]["source"]
    assert entries["mma-fp16-fp32-chain-64"]["kernel"] == {"same_as": MMA_FP16}
    assert entries[MMA_FP16]["unpredicted_by_class"] == dict.fromkeys(tensor_cores.INPUTS, 0)
    files = {entry["file"]: entry for entry in manifest["files"]}
    assert len(files) <= MOST_FILES and {path.name for path in complete.iterdir()} == {*files, MANIFEST}
    for text in ("/work", "/home", "/tmp"):
        assert text not in (complete / MANIFEST).read_text()


def test_kinds_do_not_mix(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    assert recordings.recordings(tmp_path, CONVERSIONS) == []
    assert recordings.recordings(tmp_path, TENSOR_CORES) == recordings.recordings(tmp_path) == [folder]


@pytest.mark.usefixtures("small")
def test_only_every_nth_chunk(tmp_path: Path) -> None:
    part = instruction(MMA_FP16)
    late = part.chunk * 7  # a chunk of which nothing is kept
    folder = recorded(tmp_path, MMA_FP16, coverage=Coverage(((0, 8),)), faults={MMA_FP16: at(late, 1)})
    assert compared(folder, stride=2)[MMA_FP16].status == IDENTICAL
    found = compared(folder)[MMA_FP16]
    assert found.status == DIFFERS and found.differing.tolist() == [7]
    assert [one.input for one in found.examples] == [late], "a surprise, which is kept"
    raw = found.rows()[0]
    assert (raw["replayed"], raw["proved"], raw["kept"], raw["identical"]) == (8 * 128, 7 * 128, 4 * 128, 4 * 128)
    assert raw["unpredicted"] == 1 and f"output {late} (raw)" in raw["example"]


# ---- what differs is found and named --------------------------------------------------------------------------------
@pytest.mark.usefixtures("small")
def test_one_wrong_bit_is_named(tmp_path: Path) -> None:
    part = instruction(MMA_FP16)
    number = part.chunk * part.chunks_of_class * 3 + 21  # row 2, column 5 of a cancelling tile
    folder = recorded(tmp_path, faults={MMA_FP16: at(number, 4)})
    found = compared(folder)
    wrong = found[MMA_FP16]
    assert wrong.status == DIFFERS and wrong.is_failure and found[PROBED].status == IDENTICAL
    (example,) = wrong.examples
    assert (example.input, example.input_class, example.device) == (number, "cancellation", example.fpemu ^ 4)
    shown = wrong.record()["examples"][0]
    given = operands_of(part.shape, "cancellation", np.array([0]))
    assert shown["a"] == [f"0x{code:04x}" for code in given.a[0, 2]]
    assert shown["b"] == [f"0x{code:04x}" for code in given.b[0, 5]]
    assert shown["c"] == f"0x{given.c[0, 2, 5]:08x}"
    codes = [int(code, 16) for code in shown["a"]], [int(code, 16) for code in shown["b"]]
    assert dot(*codes, int(shown["c"], 16), ENGINES["hopper.mma.fp16.fp32"]) == example.fpemu
    counts = {row.input_class: row for row in wrong.classes}
    assert counts["cancellation"].differing == 1 and counts["cancellation"].identical == HUNDRED - 1
    assert counts["cancellation"].proved == 0 and counts["raw"].proved == HUNDRED
    text = wrong.text()
    assert "127 of 128 kept outputs identical" in text and f"fpemu {example.fpemu:#010x}" in text


@pytest.mark.usefixtures("small")
def test_other_nan_codes_are_told_apart(tmp_path: Path) -> None:
    folder = recorded(
        tmp_path,
        MMA_FP16,
        faults={MMA_FP16: lambda codes, first: np.where(codes == 0x7FFFFFFF, 0x7FC00000, codes).astype(np.uint32)},
    )
    found = compared(folder)[MMA_FP16]
    assert found.status == NAN_CODES and not found.differing.size
    assert {row.input_class for row in found.classes if row.status == NAN_CODES} == {"raw", "specials"}
    assert {(one.device, one.fpemu) for one in found.examples} == {(0x7FC00000, 0x7FFFFFFF)}


# What hardware could do instead: a change of the engine, and the classes of inputs that must show it.
def other(**facts: Any) -> Any:
    def change(engine: Any) -> Any:
        return replace(engine, arithmetic=replace(engine.arithmetic, **facts))

    return change


MUTATIONS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "one bit less": (MMA_FP16, other(fraction_bits=24), ("normal", "cancellation", "positive")),
    "one bit more": (MMA_FP16, other(fraction_bits=26), ("normal", "cancellation")),
    "shorter blocks": (MMA_FP16, other(length=8), ("normal", "zeros")),
    "another limit": ("wgmma-bf16-fp32-k16", other(zero_exponent=-132), ("tiny",)),
    "another limit of FP16": ("wgmma-fp16-fp16-k16", other(zero_exponent=-133), ("tiny",)),
    "to nearest": (MMA_FP16, other(rounding=fp.Rounding.NEAREST_EVEN), ("normal", "spread")),
    "14 bits": (WGMMA_E4M3, other(fraction_bits=14), ("normal",)),
    "a float32 accumulator": (WGMMA_E4M3, other(grid=FORMATS["fp32"]), ("normal", "raw")),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", MUTATIONS)
def test_other_hardware_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A device of other parameters: the classes that should show it do."""
    part, change, classes = MUTATIONS[name]
    engine = ENGINES[f"hopper.{instruction(part).product.engine}"]
    with monkeypatch.context() as patch:
        patch.setattr("tensor_core_stand_in.ENGINES", {engine.name: change(engine)})
        folder = recorded(tmp_path, part, coverage=Coverage(((0, 4),)))
    found = compared(folder)[part]
    assert found.status == DIFFERS
    assert {row.input_class for row in found.classes if row.differing} >= set(classes) & set(found.part.classes)
    assert found.unpredicted is not None and found.unpredicted > 0


@pytest.mark.usefixtures("small")
def test_a_wrong_probe_is_named(tmp_path: Path) -> None:
    part = PARTS[PROBED]
    assert isinstance(part, Probing)
    case = next(i for i, (trial, *_) in enumerate(part.trials) if trial.probe.name == "P7 k=10" and trial.lane == 3)

    def fault(codes: Codes, first: int) -> Codes:
        codes = codes.copy()
        start = case * part.tile - first
        if 0 <= start < codes.size:
            codes[start : start + part.tile] = 0
        return codes

    found = compared(recorded(tmp_path, faults={PROBED: fault}))[PROBED]
    assert {row.input_class: row.differing for row in found.classes if row.differing} == {"P7 k=10": part.tile}
    assert found.examples[0].input_class == "P7 k=10" and found.examples[0].fpemu == 1


@pytest.mark.usefixtures("small")
def test_what_does_not_repeat_is_flagged(tmp_path: Path) -> None:
    calls = iter(range(100))
    folder = recorded(
        tmp_path, MMA_FP16, faults={MMA_FP16: lambda codes, first: codes ^ codes.dtype.type(next(calls) == 3)}
    )
    found = compared(folder)[MMA_FP16]
    assert found.is_identical and not found.deterministic and found.is_failure


def test_a_library_that_differs_is_told_and_no_failure(tmp_path: Path) -> None:
    name = "library-matmul-fp16-16x16x16"
    folder = recorded(tmp_path, name, PROBED, gpu=True, faults={name: at(17, 1)})
    found = compared(folder)[name]
    assert found.status == DIFFERS and not found.is_failure
    assert "row 1, column 1" in found.text()
    assert command.main(["compare", str(folder)]) == 0


# ---- other chips ----------------------------------------------------------------------------------------------------
def test_other_chips_have_engines_of_their_own() -> None:
    part = instruction(MMA_FP16)
    assert part.prediction({"compute_capability": "8.0"}).engine == "ampere.mma.fp16.fp32"
    assert PARTS[PROBED].prediction(HOPPER) is None
    assert PARTS[PROBED].prediction({"compute_capability": "8.0"}).engine == "ampere.mma.bf16.fp32"
    for about in ({"compute_capability": "3.5"}, {}):
        with pytest.raises(NoPrediction, match="no engine is known of compute capability"):
            part.prediction(about)
    with pytest.raises(NoPrediction, match=r"there is no engine ampere\.wgmma"):
        PARTS[WGMMA_E4M3].prediction({"compute_capability": "8.0"})


@pytest.mark.usefixtures("small")
def test_an_unknown_chip_is_recorded_and_not_compared(tmp_path: Path) -> None:
    folder = recorded(tmp_path, MMA_FP16, compute_capability="99.0")
    entry = json.loads((folder / MANIFEST).read_text())["parts"][0]
    assert entry["unpredicted"] is None and "99.0" in entry["prediction_failed"]
    with pytest.raises(RecordingError, match=r"no engine is known of compute capability 99\.0"):
        compared(folder)


# ---- interrupted, incomplete, damaged -------------------------------------------------------------------------------
class Failing(TensorCores):
    """Fails at the first request for one part."""

    def __init__(self, at: str, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def codes(self, part: Part, first: int, stop: int) -> Codes:
        if part.name == self.at:
            raise self.error
        return super().codes(part, first, stop)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("error", [DriverError("cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"), KeyboardInterrupt()])
def test_an_interrupted_run_goes_on(tmp_path: Path, error: BaseException) -> None:
    parts = [PARTS[name] for name in (MMA_FP16, PROBED, TF32)]
    options: dict[str, Any] = {"kind": TENSOR_CORES, "parts": parts, "coverage": FIRST, "tell": quiet}
    with pytest.raises(type(error)):
        record(Failing(TF32, error), tmp_path, **options)
    again = TensorCores()
    folder = record(again, tmp_path, **options)
    assert set(again.asked) == {TF32}
    assert {name: one.status for name, one in compared(folder).items()} == dict.fromkeys(
        (MMA_FP16, PROBED, TF32), IDENTICAL
    )
    with pytest.raises(CannotRecord, match="is a finished recording"):
        record(TensorCores(), tmp_path, **options)


@pytest.mark.usefixtures("small")
def test_what_cannot_be_recorded_is_said(tmp_path: Path) -> None:
    folder = recorded(tmp_path, MMA_FP16, WGMMA_E4M3, missing=(WGMMA_E4M3,))
    manifest = json.loads((folder / MANIFEST).read_text())
    assert [(entry["name"], entry["reason"]) for entry in manifest["not_recorded"]] == [(WGMMA_E4M3, "not here")]
    library = "library-matmul-fp16-16x16x16"
    with pytest.raises(CannotRecord, match="not one hardware instruction"):
        recorded(tmp_path / "library", library)


@pytest.mark.usefixtures("small")
def test_damaged_recordings_are_refused(tmp_path: Path) -> None:
    folder = recorded(tmp_path, MMA_FP16)
    manifest = json.loads((folder / MANIFEST).read_text())

    def rewritten(**changes: Any) -> None:
        (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))

    rewritten(hash={**manifest["hash"], "inputs": "fpemu tiles 0"})
    with pytest.raises(RecordingError, match="inputs or kept outputs are defined otherwise"):
        Recording.read(folder)
    rewritten(kind=CONVERSIONS.title)
    with pytest.raises(RecordingError, match="part 'mma-fp16-fp32-k16' is unknown"):
        Recording.read(folder)
    rewritten()
    with np.load(folder / "mma-fp32.npz") as archive:
        arrays = dict(archive)
    arrays[f"{MMA_FP16}.codes"][0, 0] ^= 1
    content = recordings.archive(arrays)
    (folder / "mma-fp32.npz").write_bytes(content)
    with pytest.raises(RecordingError, match="is not the file that was recorded"):
        Recording.read(folder)
    rewritten(files=[{**manifest["files"][0], "sha256": digest(content)}])
    with pytest.raises(RecordingError, match="where the hashes of their chunks do not"):
        compared(folder)


# ---- the command line -----------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("small")
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CudaDevice", lambda: TensorCores(gpu=True))
    arguments = ["record", "tensor-cores", "--out", str(tmp_path), "--quick", "--parts"]
    assert command.main([*arguments, "mma-tf32-fp32-k[48]"]) == 0
    (folder,) = recordings.recordings(tmp_path)
    data = Recording.read(folder).parts[TF32]
    assert data.coverage.chunks.size == 8 * 16
    assert command.main(["compare", str(folder)]) == 0
    assert "2 of 2 parts identical" in capsys.readouterr().out
    assert command.main(["compare", "--json", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0]["parts"][0]["classes"][0]["class"] == "raw"
    assert command.main([*arguments, "nothing"]) == 1
    assert command.main(["record", "conversions", "--quick", "--out", str(tmp_path)]) == 1
    assert "no quick recording of conversions" in capsys.readouterr().err
