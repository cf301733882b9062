"""Where do eight generations of tensor cores give different bits for the same product?

Models of tensor cores that equal real chips bit for bit multiply the same matrices, on inputs that are benign (normal),
of wide range, and cancelling. For each two chips: how many outputs differ, by how many units in the last place, and by how much
against the sum of the magnitudes of the products.

What to see: eight generations are three arithmetics for FP16 (Volta; Turing to Ada; from Hopper on), and four for FP8; what
parts them is the length of a block and the bits kept below its largest term, so two agree only while K fits into the
first block and nothing is cut off. FP16 accumulators round to nearest, but at the end of blocks of other lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import band, log2_axis
from analysis.tables import medians, percent, spread, where
from fpemu.formats import FloatFormat, as_format

Array = NDArray[Any]

CHIPS = {
    "volta.mma": "Volta",
    "turing.mma": "Turing",
    "ampere.mma": "Ampere",
    "ada.mma": "Ada",
    "hopper.mma": "Hopper mma",
    "hopper.wgmma": "Hopper wgmma",
    "b200.mma": "B200 mma",
    "b200.tcgen05": "B200 tcgen05",
    "rtx-blackwell.mma": "RTX Blackwell",
}


class Kind(NamedTuple):
    """What is multiplied, and how the engines of a chip that does so end."""

    name: str
    ending: str
    source: str
    accumulator: str


KINDS = (
    Kind("FP16 to FP32", "fp16.fp32", "float16", "float32"),
    Kind("FP16 to FP16", "fp16.fp16", "float16", "float16"),
    Kind("E4M3 to FP32", "e4m3.fp32", "float8_e4m3fn", "float32"),
)
NORMAL, WIDE, CANCELLING = "normal", "wide-range", "cancelling"
INPUTS = (NORMAL, WIDE, CANCELLING)
RESIDUE = 2.0**-6  # of cancelling inputs: operands of the products that are left, against those that cancel
HIGHEST = 3  # exponent of wide-range inputs, so that sums of thousands of products stay within FP16
SIZES = {"quick": 48, "full": 128}
DEPTHS = {"quick": (4, 8, 16, 32, 64, 256, 1024), "full": (4, 8, 16, 32, 64, 256, 1024, 4096)}
SHOWN = 1024  # the depth of the heat maps

TITLE = "One product on eight generations of tensor cores"
QUESTION = "Where do eight generations of tensor cores give different bits for the same product, and by how much?"
_MODELS = "F. A. Khattak and M. Mikaitis, arXiv 2512.07004; P. Xie et al., arXiv 2511.10909; parameters read in their repositories"
CLAIMS = (
    Claim(
        "V100, A100, H100 and B200 differ in the length of a block and in the bits kept: FP16 products of H100 and B200 agree, others not.",
        _MODELS,
        "blocks of 4, 8, 16 and 16 products; 23, 24, 25 and 25 bits",
    ),
    Claim(
        "FP8 on Hopper depends on the instruction: wgmma keeps 13 bits, mma is emulated by FP16 instructions and keeps 25.",
        f"{_MODELS}; SASS of ptxas 12.9; primary",
        "wgmma and mma differ",
    ),
)


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"kind": kind.name, "seed": seed} for seed in range(profile.seeds) for kind in KINDS]


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``pairs``: a row for every two chips, input and depth."""
    kind, seed = next(one for one in KINDS if one.name == unit["kind"]), int(unit["seed"])
    pairs = []
    for inputs in INPUTS:
        for depth in DEPTHS[profile.name]:
            random = np.random.default_rng([seed, KINDS.index(kind), INPUTS.index(inputs), depth])
            a, b = MAKE[inputs](random, as_format(kind.source), SIZES[profile.name], depth)
            magnitude = np.abs(_values(a, kind.source)) @ np.abs(_values(b, kind.source))
            results = {chip: fp.matmul(a, b, engine=f"{chip}.{kind.ending}") for chip in chips_of(kind)}
            about = {"kind": kind.name, "inputs": inputs, "seed": seed, "depth": depth}
            for first, second in combinations(results, 2):
                unlike = compare(results[first], results[second], kind.accumulator, magnitude)
                pairs.append({**about, "first": first, "second": second, **unlike})
    return {"pairs": pd.DataFrame(pairs)}


def chips_of(kind: Kind) -> list[str]:
    """The chips that have the instruction."""
    return [chip for chip in CHIPS if f"{chip}.{kind.ending}" in fp.ENGINES]


def compare(first: Array, second: Array, accumulator: str, magnitude: Array) -> dict[str, float]:
    """How many outputs differ, by how many units in the last place, and by how much of the products' magnitude.

    Units in the last place count the values of the format that lie between (a zero and another zero are 0 apart); ``ulps`` is the
    median and ``most_ulps`` the greatest of the outputs that differ, 0 where none does.
    """
    differ = first != second
    if not differ.any():
        return {"differing": 0.0, "ulps": 0.0, "most_ulps": 0.0, "difference": 0.0}
    x, y = first[differ], second[differ]
    apart = np.abs(_order(x, accumulator) - _order(y, accumulator))
    relative = np.abs(_values(x, accumulator) - _values(y, accumulator)) / magnitude[differ]
    return {
        "differing": float(f"{differ.mean():.6g}"),
        "ulps": float(np.median(apart)),
        "most_ulps": float(apart.max()),
        "difference": float(f"{relative.max():.3g}"),
    }


def _order(codes: Array, name: str) -> Array:
    """Codes as integers in the order of their values."""
    mask = as_format(name).magnitude_mask
    magnitude = (codes & mask).astype(np.int64)
    return np.where(codes > mask, -magnitude, magnitude)


def _values(codes: Array, name: str) -> Array:
    return fp.decode(codes, name).astype(np.float64)


# ---- inputs ---------------------------------------------------------------------------------------------------------
def _normal(random: np.random.Generator, source: FloatFormat, size: int, depth: int) -> tuple[Array, Array]:
    shapes = (size, depth), (depth, size)
    a, b = (fp.encode(random.standard_normal(shape), source) for shape in shapes)
    return a, b


def _wide(random: np.random.Generator, source: FloatFormat, size: int, depth: int) -> tuple[Array, Array]:
    """Exponents uniform from the smallest normal value to 2**HIGHEST."""
    shapes = (size, depth), (depth, size)
    a, b = (
        fp.encode(random.choice((-1, 1), shape) * np.exp2(random.uniform(source.emin, HIGHEST, shape)), source)
        for shape in shapes
    )
    return a, b


def _cancelling(random: np.random.Generator, source: FloatFormat, size: int, depth: int) -> tuple[Array, Array]:
    """Half of the products cancel the other half, at random places; one pair in eight is small and does not cancel."""
    a, b = random.standard_normal((size, depth)), random.standard_normal((depth, size))
    half = depth // 2
    small = np.arange(depth) % half % 8 == 1
    pairs = np.flatnonzero(~small[:half])
    a[:, half + pairs], b[half + pairs] = a[:, pairs], -b[pairs]
    a[:, small] *= RESIDUE
    b[small] *= RESIDUE
    places = random.permutation(depth)
    return fp.encode(a[:, places], source), fp.encode(b[places], source)


Make = Callable[[np.random.Generator, FloatFormat, int, int], tuple[Array, Array]]
MAKE: dict[str, Make] = {NORMAL: _normal, WIDE: _wide, CANCELLING: _cancelling}


# ---- draw -----------------------------------------------------------------------------------------------------------
_HEAT = (
    "Outputs of {kind} products at K = 1024 whose bits differ between two chips, on three kinds of inputs. Lower left: the share that "
    "differs, in per cent (colour too). Upper right: the median distance of those that differ, in units of the last place. "
    "Dots: identical in all outputs. Medians over the seeds."
)
CAPTIONS = {
    **{f"chips_{number}": _HEAT.format(kind=kind.name) for number, kind in enumerate(KINDS, 1)},
    "depth": (
        "Share of outputs whose bits differ, over the inner dimension K (products), for chips of different arithmetic (for FP16 operands "
        "Ada stands for Turing and Ampere too). Columns: inputs; rows: operands and accumulator. Line: median, band: range over the seeds."
    ),
}
LINES = {  # of the depth figure: a chip for each arithmetic (Ada also for Turing and Ampere, where the operands are FP16)
    ("volta.mma", "ampere.mma"): ("Volta, Ampere", "#0072B2"),
    ("volta.mma", "hopper.wgmma"): ("Volta, Hopper wgmma", "#009E73"),
    ("ada.mma", "hopper.wgmma"): ("Ada, Hopper wgmma", "#CC79A7"),
    ("hopper.mma", "hopper.wgmma"): ("Hopper mma, Hopper wgmma", "#D55E00"),
    ("hopper.mma", "b200.tcgen05"): ("Hopper mma, B200 tcgen05", "#56B4E9"),
}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The four figures of CAPTIONS."""
    pairs = tables["pairs"]
    maps = {f"chips_{number}": draw_chips(pairs, kind) for number, kind in enumerate(KINDS, 1)}
    return {**maps, "depth": draw_depth(pairs)}


def draw_chips(pairs: pd.DataFrame, kind: Kind) -> Figure:
    """A map of chips by chips for each kind of inputs."""
    chips = chips_of(kind)
    figure, axes = plt.subplots(1, len(INPUTS), figsize=(8, 3.4), sharey=True)
    for ax, inputs in zip(axes, INPUTS, strict=True):
        found = medians(where(pairs, kind=kind.name, inputs=inputs, depth=SHOWN), "first", "second")
        _draw_map(ax, chips, found)
        ax.set_title(f"{inputs} inputs")
    axes[0].set_yticks(range(len(chips)), [CHIPS[chip] for chip in chips])
    axes[0].set_ylabel("chip and instruction")
    axes[1].set_xlabel("chip and instruction")
    mesh = axes[-1].images[0]
    figure.colorbar(mesh, ax=axes, label="outputs that differ (%)", pad=0.015, shrink=0.62, aspect=16)
    return figure


def _draw_map(ax: Axes, chips: list[str], found: dict[Any, dict[str, float]]) -> None:
    shares = np.full((len(chips), len(chips)), np.nan)
    for (first, second), row in found.items():
        x, y = chips.index(first), chips.index(second)
        shares[y, x] = 100 * row["differing"]
        dark = shares[y, x] < 55
        apart = _short(row["ulps"]) if row["differing"] else "·"
        ax.text(x, y, _percent(row["differing"]), **_TEXT, color="white" if dark else "black")
        ax.text(y, x, apart, **_TEXT, color="#333333")
    ax.imshow(shares, cmap="cividis", vmin=0, vmax=100, interpolation="none")
    ax.set_xticks(range(len(chips)), [CHIPS[chip] for chip in chips], rotation=60, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0, labelsize=7)
    ax.grid(visible=False)


_TEXT: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}


def _percent(share: float) -> str:
    return "·" if not share else "<1" if share < 0.01 else ">99" if 0.99 < share < 1 else f"{100 * share:.0f}"


def _short(count: float) -> str:
    """A count in at most four characters."""
    return f"{count:.0f}" if count < 1000 else f"{count / 1000:.0f}k" if count < 1e6 else f"{count / 1e6:.0f}M"


def draw_depth(pairs: pd.DataFrame) -> Figure:
    """Shares over K."""
    figure, axes = plt.subplots(len(KINDS), len(INPUTS), figsize=(8, 6.4), sharex=True, sharey=True)
    table = pairs.assign(percent=100 * pairs.differing, log2_depth=np.log2(pairs.depth))
    names = {}
    for row, kind in enumerate(KINDS):
        for column, inputs in enumerate(INPUTS):
            ax = axes[row, column]
            for (first, second), (name, tint) in LINES.items():
                part = where(table, kind=kind.name, inputs=inputs, first=first, second=second)
                if not part.empty:
                    band(ax, spread(part, "log2_depth", "percent"), tint, name, marker=".")
            names.update(dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)))
            ax.set_ylim(-4, 104)
        axes[row, 0].set_ylabel(f"{kind.name}:\noutputs that differ (%)")
    for column, inputs in enumerate(INPUTS):
        axes[0, column].set_title(f"{inputs} inputs")
        log2_axis(axes[-1, column], "inner dimension K (products)")
    figure.legend(list(names.values()), list(names), loc="outside lower center", ncols=3)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
# (H100 and B200 agree, so that what parts V100 or A100 from one parts them from the other.)
FOUR = {
    "V100 and A100": ("volta.mma", "ampere.mma"),
    "V100 and H100": ("volta.mma", "hopper.mma"),
    "A100 and H100": ("ampere.mma", "hopper.mma"),
    "H100 and B200": ("hopper.mma", "b200.mma"),
}


def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """Which chips agree in every output, and how far the others are apart."""
    pairs = tables["pairs"]
    groups = {kind.name: arithmetics(pairs, kind) for kind in KINDS}
    fp16, fp8 = (groups[KINDS[number].name] for number in (0, 2))
    deepest = int(pairs.depth.max())
    at = medians(where(pairs, depth=SHOWN), "kind", "inputs", "first", "second")
    alone = next(group for group in fp16 if "volta.mma" in group)
    modern = next(group for group in fp16 if "hopper.mma" in group)
    split = not any({"hopper.mma", "hopper.wgmma"} <= set(group) for group in fp8)
    holds = len(alone) == 1 and "b200.mma" in modern and "ampere.mma" not in modern and split
    v_a, a_h = (
        at[KINDS[0].name, NORMAL, *pair]["differing"]
        for pair in (("volta.mma", "ampere.mma"), ("ampere.mma", "hopper.mma"))
    )
    h_b = float(where(pairs, kind=KINDS[0].name, first="hopper.mma", second="b200.mma").differing.max())
    summary = (
        f"Eight generations are {len(fp16)} arithmetics for FP16 with FP32 accumulators and {len(fp8)} for FP8: at K = {SHOWN} V100 and A100 differ "
        f"in {percent(v_a, 0)} of the outputs on normal inputs, A100 and H100 in {percent(a_h, 0)}, "
        f"H100 and B200 in {f'up to {percent(h_b)}' if h_b else 'none'} up to K = {deepest}; "
        f"with FP16 accumulators A100 and H100 differ in {percent(at[KINDS[1].name, NORMAL, 'ampere.mma', 'hopper.mma']['differing'], 0)}."
    )  # fmt: skip
    findings = [
        Finding(f"{name}: chips that agree in every output", "see the claims", "; ".join(_names(group) for group in found))
        for name, found in groups.items()
    ]  # fmt: skip
    for name, pair in FOUR.items():
        rows = [(inputs, at[KINDS[0].name, inputs, *pair]) for inputs in INPUTS]
        findings.append(
            Finding(
                f"FP16 to FP32, {name}, K = {SHOWN}: outputs that differ; the greatest difference, of the magnitude of the products",
                "not published",
                "; ".join(f"{inputs} {_apart(row)}" for inputs, row in rows),
            )
        )
    for kind in KINDS:
        for pair, (name, _) in LINES.items():
            unlike = differing_by_depth(pairs, kind, pair)
            if any(shares.any() for shares in unlike.values()):
                findings.append(
                    Finding(
                        f"{kind.name}, {name}: least K at which 1 % and half of the outputs differ",
                        "not published",
                        "; ".join(
                            f"{inputs} {_least(shares, 0.01)} and {_least(shares, 0.5)}"
                            for inputs, shares in unlike.items()
                        ),
                    )
                )
    return Verdict("holds" if holds else "does not hold at this scale", summary, tuple(findings))


def _apart(row: dict[str, float]) -> str:
    if not row["differing"]:
        return "none"
    return f"{percent(row['differing'])}, median {_short(row['ulps'])} ulp, at most {row['difference']:.0e}"


def _names(group: list[str]) -> str:
    return " = ".join(CHIPS[chip] for chip in group)


def arithmetics(pairs: pd.DataFrame, kind: Kind) -> list[list[str]]:
    """Chips of a kind in groups that agree in every output of every input and depth."""
    most = where(pairs, kind=kind.name).groupby(["first", "second"])["differing"].max()
    unlike = {pair for pair, share in most.items() if share}
    groups: list[list[str]] = []
    for chip in chips_of(kind):
        home = next((group for group in groups if not any((one, chip) in unlike for one in group)), None)
        if home is None:
            groups.append([chip])
        else:
            home.append(chip)
    return groups


def differing_by_depth(pairs: pd.DataFrame, kind: Kind, pair: tuple[str, str]) -> dict[str, pd.Series[float]]:
    """By inputs, the share of outputs that differ over K, median over the seeds; empty for chips without the instruction."""
    rows = where(pairs, kind=kind.name, first=pair[0], second=pair[1])
    return {
        inputs: part.groupby("depth")["differing"].median()
        for inputs in INPUTS
        if not (part := where(rows, inputs=inputs)).empty
    }


def _least(shares: pd.Series[float], share: float) -> str:
    depths = shares.index[shares >= share]
    return str(depths.min()) if len(depths) else "none"
