"""What is recorded of tensor cores, as data: instructions over seeded inputs, chains, probes, and libraries' products.

Outputs are numbered class by class, and in a class tile by tile, row by row.  A chunk is 4,096 outputs, or a tile where
that is larger; all of it is of one class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.gpu import tiles
from analysis.gpu.engines import chip_of, engine_of, multiplied
from analysis.gpu.inputs import Codes, Coverage
from analysis.gpu.multiply import MMA, OPERANDS, WGMMA, Product
from analysis.gpu.part import Numbers, Part, hexadecimal
from analysis.gpu.probes import Trial, cases
from analysis.gpu.tiles import Operands, Shape, operands_of
from fpemu.formats import FloatFormat

CHUNK = 1 << 12
KEPT_CHUNKS = 4  # of each class: 16,384 outputs
OUTPUTS = 1 << 20  # of each class
FEWER = 1 << 16  # of what is a variant of another part
QUICK = Coverage(((0, 16),))  # of each class 65,536 outputs
INPUT_FACTS: dict[str, Any] = {"chunk": CHUNK, "kept_chunks": KEPT_CHUNKS, "inputs": tiles.DEFINITION}

INPUTS = ("raw", "normal", "spread", "cancellation", "tiny", "near-overflow", "zeros", "specials")
CHAIN_INPUTS = ("normal", "positive", "spread", "cancellation")
CHAIN_LENGTHS = (64, 256, 1024, 4096)
PROMOTED_EVERY = 128
HOPPER = "hopper"


@dataclass(frozen=True)
class Prediction:
    """An engine by its name, and every how many products its sum is promoted."""

    engine: str
    promote_every: int | None = None


class Instruction(Part):
    """A part that is an instruction over tiles."""

    product: Product
    steps = 1

    @property
    def is_hardware(self) -> bool:
        """See Part."""
        return True

    @property
    def kernel(self) -> str | None:
        """See Part."""
        return self.product.source

    @property
    def holder(self) -> FloatFormat:
        """See Part."""
        return self.product.accumulator_format

    @property
    def tile(self) -> int:
        """Outputs of a tile."""
        return self.product.m * self.product.n

    @abstractmethod
    def operands(self, chunks: Numbers) -> Operands:
        """The operands of chunks, whose tiles follow one another."""

    def facts(self) -> dict[str, Any]:
        """See Part."""
        return {
            "engine": self.product.engine,
            "shape": self.product.shape,
            "a": self.product.a_format.name,
            "b": self.product.b_format.name,
            "accumulator": self.holder.name,
            "k": self.product.k * self.steps,
        }

    def operands_at(self, number: int) -> tuple[Codes, Codes, int]:
        """The row of A, the column of B and the C of an output."""
        operands = self.operands(np.array([number // self.chunk]))
        tile, place = divmod(number % self.chunk, self.tile)
        row, column = divmod(place, self.product.n)
        return operands.a[tile, row], operands.b[tile, column], int(operands.c[tile, row, column])

    def shown(self, number: int) -> dict[str, Any]:
        """See Part."""
        a, b, c = self.operands_at(number)
        return {
            "output": number,
            "a": [hexadecimal(int(code), self.product.a_format) for code in a],
            "b": [hexadecimal(int(code), self.product.b_format) for code in b],
            "c": hexadecimal(c, self.holder),
        }

    def sketched(self, number: int, input_class: str) -> str:
        """See Part."""
        shown = self.shown(number)
        a, b = (" ".join(code[2:] for code in shown[role][:MOST_SHOWN]) for role in ("a", "b"))
        more = f" and {len(shown['a']) - MOST_SHOWN} more" if len(shown["a"]) > MOST_SHOWN else ""
        return f"output {number} ({input_class}), a {a}{more}, b {b}{more}, c {shown['c']}"


MOST_SHOWN = 64  # codes of a row in a line of text


@dataclass(frozen=True)
class Multiplication(Instruction):
    """An instruction over classes of seeded inputs.

    Attributes
    ----------
    product: the instruction. classes: of inputs. outputs: of each class.
    steps: how often the instruction is issued into the same accumulator.
    inputs: the name of its inputs; parts of the same name and shape have the same.
    c: None, or the code of all C instead of the seeded ones.
    """

    name: str
    file: str
    product: Product
    inputs: str
    classes: tuple[str, ...] = INPUTS
    outputs: int = OUTPUTS
    steps: int = 1
    kept: int = KEPT_CHUNKS
    c: int | None = None
    base: str | None = None

    block_chunks = 1 << 7

    @property
    def how(self) -> str:  # type: ignore[override]
        """See Part."""
        words = [self.product.ptx]
        if self.steps > 1:
            words.append(f"x {self.steps}")
        words += [
            text
            for text, applies in (
                (f"promoted every {self.product.promote * self.product.k}", self.product.promote),
                ("A from registers", self.product.from_registers),
                ("scale-d 0", not self.product.scale_d),
                ("imm-scale-a -1", self.product.negate_a),
                ("imm-scale-b -1", self.product.negate_b),
                (f"C = {self.c or 0:#x}", self.c is not None),
            )
            if applies
        ]
        return ", ".join(words)

    @property
    def chunk(self) -> int:
        """See Part."""
        return max(CHUNK, self.tile)

    @property
    def chunks_of_class(self) -> int:
        """How many chunks a class has."""
        return self.outputs // self.chunk

    @property
    def chunks_in_all(self) -> int:
        """See Part."""
        return self.chunks_of_class * len(self.classes)

    def cover(self, coverage: Coverage) -> Coverage:
        """The ranges are of each class."""
        ranges: list[tuple[int, int]] = []
        for number in range(len(self.classes)):
            base = number * self.chunks_of_class
            for first, stop in coverage.ranges:
                cut = base + first, base + min(stop, self.chunks_of_class)
                if cut[0] < cut[1] and ranges and ranges[-1][1] == cut[0]:
                    ranges[-1] = ranges[-1][0], cut[1]
                elif cut[0] < cut[1]:
                    ranges.append(cut)
        return Coverage(tuple(ranges))

    def kept_chunks(self, chunks: Numbers) -> Numbers:
        """The first of each class."""
        return np.asarray(chunks[chunks % self.chunks_of_class < self.kept])

    def kept_offsets(self) -> NDArray[np.intp]:
        """All of them, of a chunk larger than usual the first."""
        return np.arange(CHUNK)

    @cached_property
    def shape(self) -> Shape:
        product = self.product
        k = product.k * self.steps
        formats = product.a_format, product.b_format, product.accumulator_format
        return Shape(self.inputs, product.m, product.n, k, *formats)

    def facts(self) -> dict[str, Any]:
        """See Part; also where the inputs come from."""
        return {**super().facts(), "inputs_name": self.inputs, "outputs_of_class": self.outputs}

    def operands(self, chunks: Numbers) -> Operands:
        """See Instruction."""
        classes, inside = np.divmod(chunks, self.chunks_of_class)
        per_chunk = self.chunk // self.tile
        found = []
        for number in np.unique(classes):  # chunks rise, and so do classes
            here = inside[classes == number]
            places = (here[:, None] * per_chunk + np.arange(per_chunk)).reshape(-1)
            found.append(operands_of(self.shape, self.classes[number], places))
        a, b, c = (np.concatenate([getattr(one, role) for one in found]) for role in ("a", "b", "c"))
        return Operands(a, b, c if self.c is None else np.full_like(c, self.c))

    def prediction(self, about: Mapping[str, str]) -> Prediction:
        """See Part."""
        every = self.product.promote * self.product.k
        return Prediction(engine_of(self.product, chip_of(about)), every or None)

    def described(self, prediction: Prediction) -> str:
        """See Part."""
        every = prediction.promote_every
        return prediction.engine if every is None else f"{prediction.engine}, promoted every {every}"

    def predicted(self, prediction: Prediction, chunks: Numbers) -> Codes:
        """See Part."""
        given = self.operands(chunks)
        a, b = given.a, given.b
        if self.product.negate_a:
            a = a ^ a.dtype.type(self.product.a_format.sign_mask)
        if self.product.negate_b:
            b = b ^ b.dtype.type(self.product.b_format.sign_mask)
        c = given.c if self.product.scale_d else np.zeros_like(given.c)
        return multiplied(prediction.engine, a, b, c, prediction.promote_every).reshape(-1)

    def replay_key(self, prediction: Prediction) -> Hashable:
        """See Part."""
        return prediction, self.inputs, self.shape, self.classes, self.outputs, self.c, self._sign_and_scale

    @property
    def _sign_and_scale(self) -> tuple[bool, bool, bool]:
        return self.product.scale_d, self.product.negate_a, self.product.negate_b

    def classify(self, numbers: Numbers) -> NDArray[np.uint8]:
        """See Part."""
        return (numbers // (self.chunk * self.chunks_of_class)).astype(np.uint8)

    def class_of_chunks(self, chunks: Numbers) -> NDArray[np.uint8]:
        """See Part."""
        return (chunks // self.chunks_of_class).astype(np.uint8)


@dataclass(frozen=True)
class Probing(Instruction):
    """All trials of the probes for an instruction: a tile of equal rows and columns each, so that every output of a tile
    is the same dot product; a chunk is a tile."""

    name: str
    file: str
    product: Product
    base: str | None = None

    @property
    def how(self) -> str:  # type: ignore[override]
        """See Part."""
        return f"{self.product.ptx}, probes"

    @cached_property
    def trials(self) -> list[tuple[Trial, Codes, Codes]]:
        return list(cases(self.product))

    @property
    def chunk(self) -> int:
        """See Part."""
        return self.tile

    @property
    def chunks_in_all(self) -> int:
        """See Part."""
        return len(self.trials)

    def cover(self, coverage: Coverage) -> Coverage:
        """Always all: they are few."""
        return Coverage(((0, self.chunks_in_all),))

    def kept_chunks(self, chunks: Numbers) -> Numbers:
        """See Part."""
        return chunks

    def kept_offsets(self) -> NDArray[np.intp]:
        """See Part."""
        return np.arange(self.tile)

    def operands(self, chunks: Numbers) -> Operands:
        """See Instruction."""
        chosen = [self.trials[number] for number in chunks]
        m, n, k = self.product.m, self.product.n, self.product.k
        a = np.stack([np.broadcast_to(row, (m, k)) for _, row, _ in chosen])
        b = np.stack([np.broadcast_to(column, (n, k)) for _, _, column in chosen])
        codes = np.array([trial.probe.c for trial, _, _ in chosen], self.holder.code_dtype)
        return Operands(a, b, np.repeat(codes, m * n).reshape(-1, m, n))

    def prediction(self, about: Mapping[str, str]) -> Prediction | None:
        """None: the bits that are written beside the probes, of Hopper; of other chips what their engine says."""
        chip = chip_of(about)
        return None if chip == HOPPER else Prediction(engine_of(self.product, chip))

    def described(self, prediction: Prediction | None) -> str:
        """See Part."""
        return "the bits written beside the probes" if prediction is None else prediction.engine

    def predicted(self, prediction: Prediction | None, chunks: Numbers) -> Codes:
        """See Part."""
        if prediction is not None:
            given = self.operands(chunks)
            return multiplied(prediction.engine, given.a, given.b, given.c).reshape(-1)
        bits = [self.trials[number][0].probe.predicted for number in chunks]
        return np.repeat(np.array(bits, self.holder.code_dtype), self.tile)

    def replay_key(self, prediction: Prediction | None) -> Hashable:
        """See Part."""
        return self.name, prediction

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The probes' names."""
        return tuple(dict.fromkeys(trial.probe.name for trial, _, _ in self.trials))

    def classify(self, numbers: Numbers) -> NDArray[np.uint8]:
        """See Part."""
        of_case = np.array([self.classes.index(trial.probe.name) for trial, _, _ in self.trials], np.uint8)
        return np.asarray(of_case[numbers // self.tile])


# ---- the parts ------------------------------------------------------------------------------------------------------
_FP8_PAIRS = [(a, b) for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")]
_K = {name: 32 * 8 // format.bits for name, format in OPERANDS.items()}  # of whole instructions: 32 bytes


def _products() -> list[Product]:
    """The instructions of Hopper: all of ``wgmma``'s with n = 8, ``mma`` with both of its k."""
    found = []
    for family in (WGMMA, MMA):
        wide = [("tf32", "fp32"), ("bf16", "fp32"), ("fp16", "fp32"), ("fp16", "fp16")]
        for kind, accumulator in wide:
            found.append(Product(family, 8, _K[kind], kind, kind, accumulator))
        for accumulator in ("fp32", "fp16"):
            found += [Product(family, 8, _K[a], a, b, accumulator) for a, b in _FP8_PAIRS]
    short = [
        replace(product, k=product.k // 2) for product in found if product.family == MMA and product.a == product.b
    ]
    return [*found, *short]


def _named(product: Product, *words: str) -> str:
    return "-".join([product.engine.replace(".", "-"), *words])


def _file(product: Product) -> str:
    """Files of much the same size, each below the limit."""
    if product.accumulator == "fp16":
        return "fp16"
    if product.family == WGMMA:
        return "wgmma-fp32"
    return "mma-fp8" if product.a_format.bits == 8 else "mma-fp32"


def _inputs(product: Product) -> str:
    """Inputs that all variants of an instruction share."""
    return f"{product.engine} {product.shape}"


def _instructions() -> list[Part]:
    return [
        Multiplication(_named(product, f"k{product.k}"), _file(product), product, _inputs(product))
        for product in _products()
    ]


def _variants() -> list[Part]:
    """What should make no difference, or a known one: same inputs as the instruction with n = 8, but for n = 256."""
    found: list[Part] = []
    for a, accumulator in (("fp16", "fp32"), ("fp16", "fp16"), ("e4m3", "fp32"), ("e4m3", "fp16"), ("tf32", "fp32")):
        plain = Product(WGMMA, 8, _K[a], a, a, accumulator)
        rows: tuple[tuple[str, Product, int | None, str | None], ...] = (
            # the variant, the instruction, C, and which earlier variant should give the same
            ("registers", replace(plain, from_registers=True), None, None),
            ("c-plus-zero", plain, 0, None),
            ("c-minus-zero", plain, plain.accumulator_format.sign_mask, "c-plus-zero"),
            ("scale-d-0", replace(plain, scale_d=False), None, "c-plus-zero"),  # C is stale, NaNs included
            ("negative-a", replace(plain, negate_a=True), None, None),
            ("negative-b", replace(plain, negate_b=True), None, "negative-a"),
        )
        for word, product, c, base in rows:
            found.append(
                Multiplication(
                    _named(product, word),
                    "variants",
                    product,
                    _inputs(plain),
                    outputs=FEWER,
                    kept=1,
                    c=c,
                    base=None if base is None else _named(product, base),
                )
            )
        wide = replace(plain, n=256)
        found.append(Multiplication(_named(wide, "n256"), "variants", wide, _inputs(wide), kept=0))
    return found


_PROMOTED = ("wgmma.e4m3.fp32", "wgmma.e5m2.fp32")


def _chains() -> list[Part]:
    """The same accumulator over long k, and moved into another every 128 products."""
    found: list[Part] = []
    kinds = (("tf32", "fp32"), ("bf16", "fp32"), ("fp16", "fp32"), ("fp16", "fp16"), ("e4m3", "fp32"), ("e4m3", "fp16"))
    plain = [Product(WGMMA, 8, _K[a], a, a, accumulator) for a, accumulator in (*kinds, ("e5m2", "fp32"))]
    plain += [Product(MMA, 8, _K[a], a, a, "fp32") for a in ("fp16", "e4m3")]
    promoted = [replace(one, promote=PROMOTED_EVERY // one.k) for one in plain if one.engine in _PROMOTED]
    for product in (*plain, *promoted):
        for k in CHAIN_LENGTHS:
            if product.promote and k % PROMOTED_EVERY:
                continue
            words = ("chain", str(k), *(["promoted"] if product.promote else []))
            steps, inputs = k // product.k, f"{_inputs(product)} chain {k}"
            found.append(
                Multiplication(_named(product, *words), "chains", product, inputs, CHAIN_INPUTS, CHUNK, steps, kept=1)
            )
    return found


def _probes() -> list[Part]:
    whole = [product for product in _products() if product.a == product.b and product.k == _K[product.a]]
    return [Probing(_named(product, "probes"), "chains", product) for product in whole]


PARTS: dict[str, Part] = {part.name: part for part in (*_instructions(), *_variants(), *_chains(), *_probes())}
