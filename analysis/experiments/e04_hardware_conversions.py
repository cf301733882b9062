"""Do the conversion instructions of real GPUs give the bits that fpemu predicts?

Every recording in reports/recordings/ is replayed on the CPU: NVIDIA's instructions, the casts of PyTorch, and fpemu's
own kernels on the GPU, over all inputs of float32, FP16, BF16 and FP8. The hashes of what the device made decide; the
codes that were kept of ten inputs in every 65,536 say in which class of input a difference lies.

What to see: a row of one colour is an implementation that agrees with its prediction bit for bit; NVIDIA's
instructions and PyTorch do not convert alike where a value overflows E4M3, and each is predicted for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import in_figure, label
from analysis.gpu.classes import CLASSES
from analysis.gpu.compare import DIFFERS, IDENTICAL, NAN_CODES, Comparison, compare, ranges
from analysis.gpu.kinds import CONVERSIONS
from analysis.gpu.parts import FPEMU, PARTS, PTX, STACKS, TORCH, Conversion
from analysis.gpu.recording import MANIFEST, RECORDINGS, Recording, recordings

RECORD = "python -m analysis.gpu record conversions"
STRIDE = {"quick": 16, "full": 1}  # every so many-th chunk of 65,536 inputs is replayed; kept codes are all compared
NOTHING = "none"  # in place of a recording's name

TITLE = "Conversions on real GPUs"
QUESTION = (
    "Do NVIDIA's conversion instructions, PyTorch's casts and fpemu's GPU kernels give the bits that are predicted?"
)

_PTX = "PTX ISA 9, “cvt”; second-hand for what a NaN becomes, which the headers cuda_fp16.hpp, cuda_bf16.hpp and cuda_fp8.hpp emulate"
_SASS = "machine code that ptxas makes of the instruction for compute capability 9.0; primary"
_TORCH = "PyTorch 2.11 and 2.12, c10/util/Float8_e4m3fn.h, and pull request 178817; primary"
CLAIMS = (
    Claim(
        "`cvt.rn` to FP16 and BF16 rounds to nearest even, overflows to infinity, keeps subnormals, and drops the sign of a NaN.",
        _PTX,
        "65520 and more becomes 0x7C00; every NaN 0x7FFF",
        "second-hand",
    ),
    Claim(
        "`cvt.rn.satfinite` to FP8 clamps finite and infinite values to the largest finite one.",
        _PTX,
        "E4M3 0x7E (448), E5M2 0x7B (57344); every NaN 0x7F",
        "second-hand",
    ),
    Claim(
        "`cvt.rna.tf32` adds half a spacing and clears 13 bits; NaNs only lose the bits.",
        _SASS,
        "(bits + 0x1000) & 0xFFFFE000 below infinity; a NaN with no payload above bit 13 becomes infinity",
    ),
    Claim("FP8 to FP16 is exact.", _PTX, "every NaN 0x7FFF", "second-hand"),
    Claim(
        "PyTorch's cast to E4M3 does not saturate before 2.13.",
        _TORCH,
        "above 464 and infinite: NaN, with its sign, in 2.11 and 2.12; 448 since",
    ),
)
CAPTIONS = {
    "classes": (
        "Where a device and the prediction differ, by implementation (rows: source, target, instruction or library) and class of input "
        "(columns). Last column: all replayed inputs, by the hashes of their codes; the others: the kept inputs of that class, with the "
        "number that differ where any do."
    ),
    "speed": (
        "Speed of fpemu.encode on the GPU and of PyTorch's cast (bars), as a share of a device copy that moves as many bytes (line at 1), "
        "by target format. Median of 21 rounds of eight calls on 2^28 float32 elements."
    ),
}


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    """One unit a recording, known by its manifest; one that says so where there is none."""
    units: list[Unit] = [
        {"recording": folder.name, "manifest": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]}
        for folder in recordings(RECORDINGS, CONVERSIONS)
    ]
    return units or [{"recording": NOTHING}]


def extent(units: Sequence[Unit]) -> int:
    """How many recordings a run covers."""
    return sum(unit["recording"] != NOTHING for unit in units)


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``recordings``, ``parts`` (one row an implementation), ``classes`` and ``timings``; the first alone if there is none."""
    columns = ["recording", "hardware", "driver", "torch", "recorded", "parts", "not_recorded"]
    if unit["recording"] == NOTHING:
        return {"recordings": pd.DataFrame(columns=columns)}
    recording = Recording.read(RECORDINGS / str(unit["recording"]))
    if not recording.is_gpu:
        raise ValueError(f"{recording.name} was made by a stand-in, not by a GPU; it does not belong to the recordings")
    manifest, software = recording.manifest, recording.manifest["software"]
    facts = {"recording": recording.name, "hardware": recording.hardware}
    about = {
        **facts,
        "driver": str(software.get("driver", "unknown")),
        "torch": str(software.get("torch", "absent")),
        "recorded": manifest["recorded"],
        "parts": len(manifest["parts"]),
        "not_recorded": ", ".join(entry["name"] for entry in manifest["not_recorded"]) or "none",
    }
    found = compare(recording, stride=STRIDE[profile.name])
    tables = {
        "recordings": pd.DataFrame([about], columns=columns),
        "parts": pd.DataFrame([{**facts, **_part(one)} for one in found]),
        "classes": pd.DataFrame([{**facts, **row} for one in found for row in _classes(one)]),
    }
    if manifest["timings"]:
        tables["timings"] = pd.DataFrame([{**facts, **_timing(row)} for row in manifest["timings"]])
    return tables


def _part(one: Comparison) -> dict[str, Any]:
    part = one.part
    assert isinstance(part, Conversion)
    return {
        "part": part.name,
        "stack": part.stack,
        "how": part.how,
        "source": part.source.name,
        "target": part.target.name,
        "prediction": part.described(one.prediction),
        "status": one.status,
        "inputs_replayed": one.chunks * part.chunk,
        "inputs_recorded": one.in_all * part.chunk,
        "chunks_replayed": one.chunks,
        "chunks_recorded": one.in_all,
        "chunks_differing": int(one.differing.size),
        "chunks_other_nan_codes": int(one.nan_codes.size),
        "which": " ".join(ranges(one.differing if one.differing.size else one.nan_codes)) or "none",
        "unpredicted_when_recorded": -1 if one.unpredicted is None else one.unpredicted,
        "deterministic": one.deterministic,
        "example": _example(one),
    }


def _example(one: Comparison) -> str:
    if not one.examples:
        return "none"
    first = one.examples[0]
    return f"{first.input:#x} ({first.input_class}): {first.device:#x}, predicted {first.fpemu:#x}"


def _classes(one: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "part": one.part.name,
            "class": row.input_class,
            "kept": row.kept,
            "differing": row.differing,
            "other_nan_codes": row.nan_codes,
            "status": row.status,
        }
        for row in one.classes
    ]


def _timing(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the manifest; what was not timed is NaN, with the reason."""
    missing = float("nan")
    return {
        "target": row["target"],
        "work": row["work"],
        "elements": row["elements"],
        "gigabytes_per_second": missing if row["gigabytes_per_second"] is None else row["gigabytes_per_second"],
        "of_copy": missing if row["of_copy"] is None else row["of_copy"],
        "reason": row["reason"] or "timed",
    }


# ---- draw -----------------------------------------------------------------------------------------------------------
_STATES = (IDENTICAL, NAN_CODES, DIFFERS)
_COLOURS = ("#cfe8dd", "#f3d28b", "#d55e00")
_NO_INPUT = "#f4f5f6"
_ALL = "all inputs\n(hashes)"
_NAMES = {PTX: "", TORCH: "PyTorch", FPEMU: "fpemu"}


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The two figures of CAPTIONS; none without a recording."""
    if tables["recordings"].empty:
        return {}
    return {"classes": draw_classes(tables["parts"], tables["classes"]), "speed": draw_speed(tables.get("timings"))}


def _newest(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of the newest recording of each hardware, by its name; recordings end in their date."""
    newest = {}
    for hardware, rows in table.groupby("hardware", sort=True):
        newest[str(hardware)] = rows[rows.recording == rows.recording.max()]
    return newest


def draw_classes(parts: pd.DataFrame, classes: pd.DataFrame) -> Figure:
    """One heat map a device: implementations by class of input."""
    newest = _newest(parts)
    names = [name for name in PARTS if name in set(parts.part)]
    figure, axes = plt.subplots(
        1, len(newest), figsize=(4.4 + 4.0 * len(newest), 1.9 + 0.185 * len(names)), sharey=True, squeeze=False
    )
    for ax, (hardware, rows) in zip(axes[0], newest.items(), strict=True):
        here = classes[classes.recording == rows.recording.iloc[0]]
        overall = dict(zip(rows["part"], rows["status"], strict=True))
        _heat_map(ax, names, overall, {(row["part"], row["class"]): row for row in here.to_dict("records")})
        ax.set_title(in_figure(hardware))
    axes[0][0].set_yticks(range(len(names)), [_row_label(name) for name in names], fontsize=6.5)
    axes[0][0].set_ylabel("conversion and implementation")
    legend = [Patch(color=tint, label=state) for state, tint in zip(_STATES, _COLOURS, strict=True)]
    legend.append(Patch(facecolor=_NO_INPUT, edgecolor="#d5d9de", label="no such input, or not recorded"))
    figure.legend(handles=legend, loc="outside lower center", ncols=4)
    return figure


def _row_label(name: str) -> str:
    part = PARTS[name]
    how = part.how if part.stack == PTX else _NAMES[part.stack]
    return f"{label(part.source)} → {label(part.target)}   {how}"


def _heat_map(
    ax: Axes, names: list[str], overall: dict[str, str], classes: dict[tuple[str, str], dict[Any, Any]]
) -> None:
    """Implementations by class of input; the last column is ``overall``."""
    columns = [*CLASSES, _ALL]
    states = np.full((len(names), len(columns)), np.nan)
    for y, name in enumerate(names):
        if name in overall:
            states[y, -1] = _STATES.index(overall[name])
        for x, kind in enumerate(CLASSES):
            row = classes.get((name, kind))
            if row is None or not row["kept"]:
                continue
            states[y, x] = _STATES.index(row["status"])
            if wrong := row["differing"] + row["other_nan_codes"]:
                ax.text(x, y, f"{wrong:,}", ha="center", va="center", fontsize=5.5)
    ax.set_facecolor(_NO_INPUT)
    ax.imshow(states, cmap=ListedColormap(_COLOURS), vmin=-0.5, vmax=2.5, aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(columns)), columns, rotation=55, ha="right", rotation_mode="anchor")
    ax.set_xlabel("class of input")
    ax.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    ax.grid(visible=False)
    ax.grid(which="minor", color="white", linewidth=1.2)
    ax.tick_params(which="both", length=0)
    ax.axvline(len(CLASSES) - 0.5, color="#8a8f98", linewidth=1)
    for y in range(1, len(names)):
        if PARTS[names[y]].stack != PARTS[names[y - 1]].stack:
            ax.axhline(y - 0.5, color="#8a8f98", linewidth=1)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def draw_speed(timings: pd.DataFrame | None) -> Figure:
    """Bars against the copy, one panel a device; says why where nothing was timed."""
    newest = {} if timings is None else _newest(timings)
    figure, axes = plt.subplots(1, max(1, len(newest)), figsize=(8, 3.6), sharey=True, squeeze=False)
    for ax, (hardware, rows) in zip(axes[0], newest.items(), strict=False):
        targets = list(dict.fromkeys(rows.target))
        for number, (work, tint) in enumerate((("fpemu.encode", "#0072B2"), ("torch", "#E69F00"))):
            chosen = rows[rows.work == work].set_index("target").reindex(targets)
            places = np.arange(len(targets)) + (number - 0.5) * 0.36
            ax.bar(places, chosen.of_copy.fillna(0), 0.34, color=tint, label=work)
            for place, share, reason in zip(places, chosen.of_copy, chosen.reason, strict=True):
                timed = reason == "timed"
                ax.annotate(
                    f"{share:.2f}" if timed else "not timed",
                    (place, np.nan_to_num(share)),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    rotation=0 if timed else 90,
                )
        ax.axhline(1, color="#444444", linewidth=1)
        ax.set_xticks(range(len(targets)), [label(target) for target in targets])
        ax.set_xlabel("target format (from FP32)")
        ax.set_ylim(0, 1.25 * max(1.0, float(rows.of_copy.max())))
        ax.grid(axis="x", visible=False)
        ax.set_title(in_figure(hardware))
    axes[0][0].set_ylabel("speed (share of a device copy)")
    if newest:
        axes[0][0].legend(loc="upper left", ncols=2)
    else:
        axes[0][0].set(xticks=[], yticks=[], xlabel="target format (from FP32)")
        axes[0][0].text(0.5, 0.5, "nothing was timed", ha="center", va="center", transform=axes[0][0].transAxes)
    return figure


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """By the hardware instructions; libraries are told beside them."""
    if tables["recordings"].empty:
        return Verdict("no claim", f"No recording yet: `{RECORD}`, on a machine with an NVIDIA GPU, makes one.")
    parts = tables["parts"]
    hardware = parts[parts["stack"] == PTX]
    worst = max(_STATES.index(str(status)) for status in hardware.status)
    status = ("holds", "holds with conditions", "does not hold at this scale")[worst]
    counts = "; ".join(_counted(stack, rows) for stack, rows in parts.groupby("stack", sort=False))
    names = ", ".join(dict.fromkeys(tables["recordings"].hardware))
    return Verdict(status, f"{names}: {counts}.", tuple(_findings(parts)))


def _counted(stack: object, rows: pd.DataFrame) -> str:
    """How many implementations of a stack are identical, and over how many inputs."""
    same = int((rows.status == IDENTICAL).sum())
    replayed, recorded = int(rows.inputs_replayed.sum()), int(rows.inputs_recorded.sum())
    of = "" if replayed == recorded else f" of {recorded:,} recorded"
    return f"{STACKS[str(stack)]}: {same} of {len(rows)} conversions identical bit for bit ({replayed:,}{of} inputs)"


def _findings(parts: pd.DataFrame) -> list[Finding]:
    """One finding a hardware instruction, and one for everything else that is not as predicted."""
    told = parts[(parts["stack"] == PTX) | (parts.status != IDENTICAL)]
    return [
        Finding(
            f"{row['hardware']}: {label(row['source'])} to {label(row['target'])}, `{row['how']}`",
            row["prediction"],
            _measured(row),
        )
        for row in told.to_dict("records")
    ]


def _measured(row: dict[Any, Any]) -> str:
    if row["status"] == IDENTICAL:
        return f"identical over {row['inputs_replayed']:,} inputs"
    chunks = row["chunks_differing"] or row["chunks_other_nan_codes"]
    return f"{row['status']} in {chunks:,} of {row['chunks_recorded']:,} chunks of inputs ({row['which']}), e.g. {row['example']}"
