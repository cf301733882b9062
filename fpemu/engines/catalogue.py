"""ENGINES: the matrix engines of real chips, and ordinary accumulators beside them, as rows of data.

The algorithm and its parameters: F. A. Khattak and M. Mikaitis, "Accurate Models of NVIDIA Tensor Cores"
(arXiv 2512.07004, repository north-numerical-computing/MATLAB-tensor-core); P. Xie et al., "MMA-Sim" (arXiv 2511.10909, package
mmasim 2.1.1).  Both measured real chips.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from fpemu.engines.model import E8M13, FLOAT64, TF32_IGNORED, BlockSum, Chain, Engine, Library, Scaling, chain
from fpemu.formats import FORMATS, FloatFormat
from fpemu.policies import Cast, Rounding

FP16, BF16, FP32 = FORMATS["float16"], FORMATS["bfloat16"], FORMATS["float32"]
E4M3, E5M2, E2M3, E3M2, E2M1 = (FORMATS[name] for name in ("e4m3", "e5m2", "e2m3", "e3m2", "e2m1"))
E8M0 = FORMATS["e8m0"]

MODELS = ("arXiv 2512.07004", "arXiv 2511.10909")
HARDWARE = "vectors of real chips: "
MMA_SIM = "MMA-Sim 2.1.1"
SAME_STEPS = "b200.mma, which takes the same steps with one format on both sides, and agrees with a B200"

RZ, RNE = Rounding.TOWARD_ZERO, Rounding.NEAREST_EVEN


def _block(length: int, bits: int, accumulator: FloatFormat, chip_bits: int | None = None, **more: object) -> BlockSum:
    """The block of a chip whose full datapath has ``chip_bits`` fraction bits; fewer (FP8) are of the same datapath.

    The exponent of zeros is that of the smallest value the datapath resolves: 2**-108 and 2**4, less its fraction bits.
    """
    full = bits if chip_bits is None else chip_bits
    if accumulator == FP16:
        return BlockSum(length, bits, 4 - full, FP16, RNE, **more)  # type: ignore[arg-type]
    grid = E8M13 if bits == 13 else FP32
    return BlockSum(length, bits, -108 - full, grid, RZ, **more)  # type: ignore[arg-type]


def _name(chip: str, a: str, b: str, accumulator: str, scheme: str = "") -> str:
    return ".".join(part for part in (chip, a if a == b else f"{a}x{b}", scheme, accumulator) if part)


SHORT = {"fp16": FP16, "bf16": BF16, "e4m3": E4M3, "e5m2": E5M2, "e2m3": E2M3, "e3m2": E3M2, "e2m1": E2M1}
FP8 = ("e4m3", "e5m2")
FP8_FP6_FP4 = (*FP8, "e2m3", "e3m2", "e2m1")


def _halves(
    chip: str, length: int, bits: int, kinds: tuple[str, ...] = ("fp16", "bf16"), evidence: tuple[str, ...] = (MMA_SIM,)
) -> Iterator[Engine]:
    """FP16 with both accumulators, BF16 and TF32 with float32; TF32 takes half as many products at a time."""
    for kind in kinds:
        yield Engine(
            _name(chip, kind, kind, "fp32"), SHORT[kind], SHORT[kind], FP32, _block(length, bits, FP32),
            sources=MODELS, evidence=evidence,
        )  # fmt: skip
    yield Engine(
        _name(chip, "fp16", "fp16", "fp16"),
        FP16,
        FP16,
        FP16,
        _block(length, bits, FP16),
        sources=MODELS,
        evidence=evidence,
    )


def _tf32(chip: str, length: int, bits: int, evidence: tuple[str, ...] = (MMA_SIM,)) -> Engine:
    return Engine(
        _name(chip, "tf32", "tf32", "fp32"), FP32, FP32, FP32, _block(length, bits, FP32), TF32_IGNORED,
        sources=MODELS, evidence=evidence,
    )  # fmt: skip


def _narrow(
    chip: str, kinds: tuple[str, ...], length: int, bits: int, chip_bits: int, evidence: Mapping[str, tuple[str, ...]]
) -> Iterator[Engine]:
    """Any two of the FP8, FP6 and FP4 formats, with both accumulators."""
    for a in kinds:
        for b in kinds:
            for accumulator, format in (("fp32", FP32), ("fp16", FP16)):
                yield Engine(
                    _name(chip, a, b, accumulator), SHORT[a], SHORT[b], format,
                    _block(length, bits, format, chip_bits), sources=MODELS,
                    evidence=evidence[accumulator] if a == b else (MMA_SIM,),
                )  # fmt: skip


def _emulated(chip: str, evidence: Mapping[str, tuple[str, ...]]) -> Iterator[Engine]:
    """FP8 ``mma.sync`` where the chip has no such instruction: FP16 ones on two halves of 32 products, then an addition.

    (What ptxas makes of it for sm_90: the low half of each register of four codes, then the high half, from zero; FADD or HADD2.)
    """
    for a in FP8:
        for b in FP8:
            for accumulator, format in (("fp32", FP32), ("fp16", FP16)):
                block = _block(16, 25, format, span=32, picks=((0, 1), (2, 3)))
                yield Engine(
                    _name(chip, a, b, accumulator), SHORT[a], SHORT[b], format, block,
                    sources=("SASS of ptxas 12.9 for sm_90", *MODELS),
                    evidence=evidence[accumulator] if a == b else (SAME_STEPS,),
                )  # fmt: skip


def _block_scaled(chip: str) -> Iterator[Engine]:
    """OCP MX and NVFP4 operands: the scales' exponents join those of the products, or scale exact sums of 16."""
    block = _block(32, 25, FP32)
    for a in FP8_FP6_FP4:
        for b in FP8_FP6_FP4:
            yield Engine(
                _name(chip, a, b, "fp32", "mxf8f6f4"), SHORT[a], SHORT[b], FP32, block, scaling=Scaling(E8M0, 32),
                sources=MODELS[1:], evidence=(MMA_SIM,),
            )  # fmt: skip
    groups = BlockSum(64, 35, -139, FP32, RZ, group=16)
    for scheme, scaling in (("mxf4", Scaling(E8M0, 32)), ("nvf4", Scaling(E4M3, 16, unsigned=True))):
        yield Engine(
            _name(chip, "e2m1", "e2m1", "fp32", scheme), E2M1, E2M1, FP32, groups, scaling=scaling,
            sources=MODELS[1:], evidence=(MMA_SIM,),
        )  # fmt: skip


def _on(*chips: str) -> tuple[str, ...]:
    return (HARDWARE + ", ".join(chips), MMA_SIM)


def _catalogue() -> Iterator[Engine]:
    only = {"fp32": (MMA_SIM,), "fp16": (MMA_SIM,)}
    yield from _halves("volta.mma", 4, 23, ("fp16",), _on("V100"))
    yield from _halves("turing.mma", 8, 24, ("fp16",))
    yield from _halves("ampere.mma", 8, 24, evidence=_on("A100", "A2"))
    yield _tf32("ampere.mma", 4, 24, _on("A100", "A2"))
    yield from _halves("ada.mma", 8, 24, evidence=_on("L40S", "Ada"))
    yield _tf32("ada.mma", 4, 24, _on("L40S", "Ada"))
    yield from _narrow("ada.mma", FP8, 16, 13, 24, {"fp32": _on("L40S", "Ada"), "fp16": _on("Ada")})
    yield from _halves("hopper.mma", 16, 25, evidence=_on("H100", "H200"))
    yield _tf32("hopper.mma", 8, 25, _on("H100", "H200"))
    yield from _emulated("hopper.mma", {"fp32": (SAME_STEPS,), "fp16": (HARDWARE + "H100, H200",)})
    yield from _halves("hopper.wgmma", 16, 25)
    yield _tf32("hopper.wgmma", 8, 25)
    yield from _narrow("hopper.wgmma", FP8, 32, 13, 25, {"fp32": _on("H100", "H200"), "fp16": (MMA_SIM,)})
    yield from _halves("b200.mma", 16, 25, evidence=_on("B200"))
    yield _tf32("b200.mma", 8, 25, _on("B200"))
    yield from _emulated("b200.mma", dict.fromkeys(("fp32", "fp16"), (HARDWARE + "B200",)))
    yield from _halves("b200.tcgen05", 16, 25)
    yield _tf32("b200.tcgen05", 8, 25)
    yield from _narrow("b200.tcgen05", FP8_FP6_FP4, 32, 25, 25, only)
    yield from _block_scaled("b200.tcgen05")
    yield from _halves("rtx-blackwell.mma", 16, 25)
    yield _tf32("rtx-blackwell.mma", 8, 25)
    yield from _narrow("rtx-blackwell.mma", FP8_FP6_FP4, 32, 25, 25, only)
    yield from _block_scaled("rtx-blackwell.mma")

    for name in ("ampere.mma", "hopper.mma", "b200.mma"):
        yield Engine(
            _name(name, "fp64", "fp64", "fp64"),
            FLOAT64,
            FLOAT64,
            FLOAT64,
            Chain(Cast(FLOAT64)),
            sources=MODELS[1:],
            evidence=(MMA_SIM,),
        )
    for accumulator in (FP32, FP16, BF16):
        for inputs in (accumulator, *((FP16, BF16, E4M3, E5M2) if accumulator == FP32 else ())):
            for fused in (True, False):
                yield chain(accumulator, inputs=inputs, fused=fused)
    yield Engine("blas.fp32", FP32, FP32, FP32, Library("float32"), sources=("numpy.matmul",))


ALIASES: Mapping[str, str] = {
    "fp32": "sequential.fma.float32.float32",
    "fp16": "sequential.fma.float16.float16",
    "bf16": "sequential.fma.bfloat16.bfloat16",
    "blas": "blas.fp32",
}


class Engines(Mapping[str, Engine]):
    """Read-only mapping from names and aliases to engines; iteration gives canonical names only."""

    def __init__(self, engines: Iterator[Engine], aliases: Mapping[str, str]) -> None:
        self._engines = {engine.name: engine for engine in engines}
        self._aliases = dict(aliases)

    def __getitem__(self, name: str) -> Engine:
        try:
            key = name.strip().lower()
            return self._engines[self._aliases.get(key, key)]
        except (KeyError, AttributeError):
            raise KeyError(self._unknown(name)) from None

    def _unknown(self, name: object) -> str:
        names = [*self._engines, *self._aliases]
        near = difflib.get_close_matches(str(name), names, 4, 0.5)
        chips = dict.fromkeys(".".join(one.split(".")[:2]) for one in self._engines)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        return f"unknown engine {name!r}{hint} (families: {', '.join(chips)}; aliases: {', '.join(self._aliases)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)


ENGINES = Engines(_catalogue(), ALIASES)


def as_engine(engine: Engine | str) -> Engine:
    """An engine from itself or its name.  ValueError for an unknown name, TypeError for anything else."""
    if isinstance(engine, Engine):
        return engine
    if not isinstance(engine, str):
        raise TypeError(f"engine must be a name or an Engine, not {type(engine).__name__}")
    try:
        return ENGINES[engine]
    except KeyError as error:
        raise ValueError(error.args[0]) from None
