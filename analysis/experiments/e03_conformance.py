"""Which libraries convert to low-precision formats as the standards say, and do they keep to what they state?

Every library installed is given the inputs where conversions go wrong (all of a source of 16 bits; of float32 and float64
the neighbourhoods of ties and limits, and seeded draws), and each result is held against IEEE 754, OFP8, MX or ONNX, and
against the library's own row of ``fpemu.STACKS``. A library has a process of its own, so that one that crashes is a cell.

What to see: float64 is where most leave the standards, because they go through float32 and round twice; and where E4M3
overflows there are two rows in OFP8, of which libraries choose either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.figures import in_figure, label
from fpemu.testing.conformance import FAILED, NEITHER, POLICY, STANDARD, UNDESCRIBED, Outcome, conformance
from fpemu.testing.peers import PEERS, Peer
from fpemu.testing.report import Report

ABSENT = "absent"
NONE = "none"

TITLE = "Which libraries convert as they should"
QUESTION = "Which libraries convert to low-precision formats as the standards say, and do they keep to what they state?"


class Published(NamedTuple):
    """A claim about one stack, and the case that shows it."""

    claim: Claim
    stack: str
    source: str
    target: str
    holds: Callable[[dict[Any, Any]], bool]  # of the case's row


def _twice(row: dict[Any, Any]) -> bool:
    return bool(row["verdict"] == POLICY and row["fault_of_standard"] == "double rounding")


def _meets(standard: str) -> Callable[[dict[Any, Any]], bool]:
    return lambda row: row["standard"] == standard


PUBLISHED = (
    Published(
        Claim("The package ml_dtypes rounds float64 twice on the way to E4M3.", "jax-ml/ml_dtypes issue 401; primary",
              "1 + 2^-4 + 2^-40 becomes 1.0, not 1.125"),
        "ml_dtypes", "float64", "float8_e4m3fn", _twice,
    ),
    Published(
        Claim("PyTorch's cast to E4M3 saturates from 2.13 on.", "pytorch/pytorch pull request 178817; primary",
              "beyond 464, and for infinities, 448"),
        "torch>=2.13", "float32", "float8_e4m3fn", _meets("OFP8 saturating"),
    ),
    Published(
        Claim("PyTorch's cast to E5M2 does not saturate.", "pytorch/pytorch, c10/util/Float8_e5m2.h; primary", "from 61440 on infinity"),
        "torch>=2.13", "float32", "float8_e5m2", _meets("OFP8"),
    ),
    Published(
        Claim("PyTorch rounds float64 twice.", "pytorch/pytorch, c10/util/Float8_e5m2.h; primary",
              "1 + 2^-3 + 2^-40 becomes 1.0 in E5M2, not 1.25"),
        "torch>=2.13", "float64", "float8_e5m2", _twice,
    ),
    Published(
        Claim("XLA on the CPU rounds float64 once to FP8.", "openxla/xla; second-hand", "no difference", "second-hand"),
        "xla", "float64", "float8_e4m3fn", _meets("OFP8"),
    ),
    Published(
        Claim("The package gfloat rounds float64 once.", "graphcore-research/gfloat; second-hand", "no difference", "second-hand"),
        "gfloat", "float64", "float8_e4m3fn", _meets("OFP8"),
    ),
    Published(
        Claim("The package apytypes rounds float64 once.", "apytypes/apytypes; second-hand", "no difference", "second-hand"),
        "apytypes", "float64", "float8_e5m2", _meets("OFP8"),
    ),
    Published(
        Claim("QPyTorch's nearest rounds ties away from zero, and its E4M3 ends at 480.",
              "Tiiiger/QPyTorch, quant_cpu/bit_helper.cpp; primary", "not the standard's conversion"),
        "qpytorch", "float32", "float8_e4m3fn", lambda row: row["standard"] == NONE,
    ),
)  # fmt: skip
CLAIMS = tuple(published.claim for published in PUBLISHED)

CAPTIONS = {
    "conformance": (
        "Conversions (rows: source to target) of the libraries that were installed (columns), held against the standards and "
        "against what each library states. Numbers: wrong results among the inputs tried (65,536 to 721,000, see the table; k: thousand), "
        "against the nearest standard where the library keeps its own policy only, against that policy where it keeps neither. "
        "White: not offered. Inputs are chosen, and drawn with a fixed seed; no other randomness."
    ),
}


# ---- plan and measure -----------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    """One unit a library, known by its version; those that are not installed too."""
    return [
        {"library": name, "version": str(peer.version) if peer.is_installed else ABSENT}
        for name, peer in _libraries().items()
    ]


def _libraries() -> dict[str, Peer]:
    """The peers by name; of those for other releases of one library the one that is installed, else the first."""
    found: dict[str, Peer] = {}
    for peer in PEERS:
        if peer.name not in found or peer.is_installed:
            found[peer.name] = peer
    return found


def extent(units: Sequence[Unit]) -> int:
    """How many libraries a run covers."""
    return sum(unit["version"] != ABSENT for unit in units)


def measure(unit: Unit, profile: Profile) -> dict[str, pd.DataFrame]:
    """``libraries`` (one row each) and ``cases`` (one row a conversion)."""
    peer = _libraries()[str(unit["library"])]
    about = {"library": peer.name, "stack": peer.stack, "package": peer.package, "version": str(unit["version"])}
    if unit["version"] == ABSENT:
        return {"libraries": pd.DataFrame([{**about, "cases": 0}])}
    cases = [{**about, **_case(outcome)} for outcome in outcomes(peer)]
    return {"libraries": pd.DataFrame([{**about, "cases": len(cases)}]), "cases": pd.DataFrame(cases)}


def outcomes(peer: Peer) -> list[Outcome]:
    """All cases of a library, in a process of its own."""
    return list(conformance([peer], isolated=True))


def _case(outcome: Outcome) -> dict[str, Any]:
    shown = outcome.shown
    return {
        "source": outcome.source,
        "target": outcome.target,
        "verdict": outcome.verdict,
        "standard": outcome.standard or NONE,
        **_report("standard", outcome.against_standard),
        **_report("policy", outcome.against_policy),
        "example": NONE if shown is None or shown.counterexample is None else str(shown.counterexample),
        "note": outcome.error or NONE,
    }


def _report(of: str, report: Report | None) -> dict[str, Any]:
    """What a report says; -1 and "none" where there is none."""
    return {
        f"tried_of_{of}": -1 if report is None else report.tried,
        f"wrong_of_{of}": -1 if report is None else report.failing,
        f"fault_of_{of}": NONE if report is None or report.fault is None else report.fault,
    }


# ---- draw -----------------------------------------------------------------------------------------------------------
_COLOURS = {
    STANDARD: ("#0072B2", "as a standard says"),
    POLICY: ("#F0E442", "only as its own policy says"),
    NEITHER: ("#D55E00", "neither"),
    UNDESCRIBED: ("#BBBBBB", "no standard, and no policy describes it"),
    FAILED: ("#333333", "could not be run"),
}
_STATES = list(_COLOURS)


def draw(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The heat map; nothing where nothing was measured."""
    if "cases" not in tables:
        return {}
    return {"conformance": draw_conformance(tables["libraries"], tables["cases"])}


def draw_conformance(libraries: pd.DataFrame, cases: pd.DataFrame) -> Figure:
    """Conversions by libraries, in the order of targets."""
    installed = libraries[libraries.cases > 0]
    rows = cases[["target", "source"]].drop_duplicates()
    order = {name: place for place, name in enumerate(dict.fromkeys(cases.target))}
    rows = rows.sort_values("target", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)
    conversions = list(zip(rows.source, rows.target, strict=True))
    place = {conversion: y for y, conversion in enumerate(conversions)}
    column = {name: x for x, name in enumerate(installed.library)}
    states = np.full((len(rows), len(column)), np.nan)
    figure, ax = plt.subplots(figsize=(8, 1.9 + 0.155 * len(rows)))
    for case in cases.to_dict("records"):
        y, x = place[case["source"], case["target"]], column[case["library"]]
        states[y, x] = _STATES.index(case["verdict"])
        wrong = {POLICY: case["wrong_of_standard"], NEITHER: case["wrong_of_policy"]}.get(case["verdict"], -1)
        if wrong > 0:
            ax.text(x, y, _count(wrong), ha="center", va="center", fontsize=5.5, color="black")
    colours = ListedColormap([colour for colour, _ in _COLOURS.values()])
    ax.imshow(states, cmap=colours, vmin=-0.5, vmax=len(_STATES) - 0.5, aspect="auto", interpolation="none")
    ax.set_xticks(
        range(len(column)),
        [in_figure(_heading(row)) for row in installed.to_dict("records")],
        rotation=35,
        ha="left",
        rotation_mode="anchor",
    )
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("library")
    ax.set_ylabel("conversion")
    ax.set_yticks(range(len(rows)), [f"{_label(source)} → {label(target)}" for source, target in conversions])
    ax.tick_params(length=0, labelsize=7)
    ax.grid(visible=False)
    ax.set_xticks(np.arange(len(column) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="x", color="white", linewidth=2)
    ax.tick_params(which="minor", length=0)
    for last in np.flatnonzero(rows.target.to_numpy()[1:] != rows.target.to_numpy()[:-1]):
        ax.axhline(last + 0.5, color="#666666", linewidth=0.6)
    seen = [state for state in _STATES if state in set(cases.verdict)]
    keys = [Patch(color=_COLOURS[state][0], label=_COLOURS[state][1]) for state in seen]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, fontsize=7.5)
    return figure


def _count(wrong: int) -> str:
    """In a narrow cell: from ten thousand on in thousands, rounded."""
    return f"{wrong:,}" if wrong < 10_000 else f"{wrong / 1000:,.0f}k"


def _label(source: str) -> str:
    return "FP64" if source == "float64" else label(source)


def _heading(row: dict[Any, Any]) -> str:
    name, version = row["library"], str(row["version"]).partition("+")[0]
    return f"{name} {version}" if row["package"] in name else f"{name}, {row['package']} {version}"


# ---- verdict --------------------------------------------------------------------------------------------------------
def verdict(tables: dict[str, pd.DataFrame]) -> Verdict:
    """The published claims about libraries that are installed; how many conversions keep what."""
    cases = tables.get("cases")
    libraries = tables["libraries"]
    absent = ", ".join(libraries[libraries.cases == 0].library)
    missing = f" Not installed: {absent}." if absent else ""
    if cases is None or cases.empty:
        return Verdict("no claim", f"No library that converts is installed here.{missing}")
    judged = [(one, found) for one in PUBLISHED if (found := _find(cases, one)) is not None]
    findings = [
        Finding(f"{one.stack}: {_label(one.source)} to {label(one.target)}", one.claim.stated, _measured(row))
        for one, row in judged
    ]
    findings += [
        Finding(
            f"{row['library']}: {_label(row['source'])} to {label(row['target'])}",
            "its own stated policy",
            _measured(row),
        )
        for row in cases[cases.verdict.isin([NEITHER, FAILED])].to_dict("records")
    ]
    met = [one.holds(row) for one, row in judged]
    counts = cases.verdict.value_counts()
    packages = libraries[libraries.cases > 0].package.nunique()
    kinds = {
        STANDARD: "are as a standard says",
        POLICY: "only as the library itself says",
        NEITHER: "neither",
        UNDESCRIBED: "have no standard and no policy that describes them",
        FAILED: "could not be run",
    }
    counted = ", ".join(f"{counts.get(state, 0)} {words}" for state, words in kinds.items())
    summary = (
        f"Of {len(cases)} conversions of {packages} packages {counted}; "
        f"{sum(met)} of {len(met)} published claims about them hold.{missing}"
    )
    status = "no claim" if not met else "holds" if all(met) else "holds with conditions"
    return Verdict(status, summary, tuple(findings))


def _find(cases: pd.DataFrame, one: Published) -> dict[Any, Any] | None:
    rows = cases[(cases["stack"] == one.stack) & (cases.source == one.source) & (cases.target == one.target)]
    return None if rows.empty else dict(rows.iloc[0])


def _measured(row: dict[Any, Any]) -> str:
    """What was found in one case, with its counter-example."""
    if row["verdict"] == FAILED:
        return f"could not be run: {row['note']}"
    if row["verdict"] == STANDARD:
        return f"{row['standard']}, in all of {row['tried_of_standard']:,} inputs"
    of = "policy" if row["verdict"] == NEITHER else "standard"
    against = "its policy" if of == "policy" else "the nearest standard"
    wrong = (
        f"{row[f'wrong_of_{of}']:,} of {row[f'tried_of_{of}']:,} inputs differ from {against}: {row[f'fault_of_{of}']}"
    )
    return f"{wrong}; {row['example']}"
