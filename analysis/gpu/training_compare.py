"""Set an emulated training run beside a recorded one: losses, scales, skipped steps, gradients; where they part, and why.

Bits are not expected to agree for long: a library adds in an order of its own, and training amplifies the last place.  What must agree
is what a rounding decides: at the first step, where the weights are the same, which share of every gradient is zero and how its
magnitudes lie, within TOLERANCE; after it, the scale and the skipped steps until the runs part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log2
from typing import Any

import numpy as np
import pandas as pd

import fpemu as fp
from analysis.gpu.engines import chip_of
from analysis.gpu.histograms import histogram
from analysis.gpu.recording import RecordingError
from analysis.gpu.training import TrainingRecording, initial_digest
from analysis.gpu.training_tasks import MODES, TASKS, Mode, Task
from analysis.training.layers import names_of
from analysis.training.numerics import Array
from analysis.training.recipes import Recipe
from analysis.training.trainer import History, Plan, train

PARTED = 0.01  # of the recorded loss: a difference from which two runs are said to have parted
ZEROS = 0.005  # tolerance at the first step: difference of the shares of zeros
DISTANCE = 0.02  # and total variation distance of two histograms of magnitudes (0: the same, 1: disjoint)
JUDGED = (
    1000  # elements from which a gradient is held to them: a bias has few, and those of keys are zero but for rounding
)


@dataclass(frozen=True)
class RunComparison:
    """An emulated and a recorded run.

    Attributes
    ----------
    task, mode, recipe: what was run, and what emulated it.
    curve: a row a step: step, loss, loss_emulated, scale, scale_emulated, skipped, skipped_emulated.
    gradients: a row a captured step, role and layer: size, zeros, zeros_emulated (shares), distance (total variation of the magnitudes).
    deterministic: whether the device repeated itself.
    """

    task: str
    mode: str
    recipe: Recipe
    curve: pd.DataFrame
    gradients: pd.DataFrame
    deterministic: bool

    @cached_property
    def first_bit(self) -> int | None:
        """The first step whose losses differ at all (as float32), None if none does."""
        return _first(self.curve.loss.astype(np.float32) != self.curve.loss_emulated.astype(np.float32))

    @cached_property
    def parted(self) -> int | None:
        """The first step whose losses differ by more than PARTED of the recorded one."""
        return _first(~(np.abs(self.curve.loss - self.curve.loss_emulated) <= PARTED * np.abs(self.curve.loss)))

    @cached_property
    def first_scale(self) -> int | None:
        """The first step with another scale or another decision to skip."""
        same = (self.curve.scale == self.curve.scale_emulated) & (self.curve.skipped == self.curve.skipped_emulated)
        return _first(~same)

    @property
    def at_start(self) -> pd.DataFrame:
        """The gradients of the first step that have JUDGED elements or more."""
        return self.gradients[(self.gradients.step == 0) & (self.gradients["size"] >= JUDGED)]

    @property
    def within(self) -> bool:
        """Whether every gradient of the first step is within the tolerances, and scales agree until the runs part."""
        gap = (self.at_start.zeros - self.at_start.zeros_emulated).abs()
        agrees = bool((gap <= ZEROS).all() and (self.at_start.distance <= DISTANCE).all())
        before = self.first_scale is None or (self.parted is not None and self.parted <= self.first_scale)
        return agrees and (before or self._marginal)

    @property
    def _marginal(self) -> bool:
        """Whether the scales part at an overflow that one binade's ulp decides: amax within 1 % of the ceiling."""
        if self.first_scale is None:
            return False
        row = self.curve.iloc[self.first_scale]
        amax = min(row.amax, row.amax_emulated) if np.isfinite(min(row.amax, row.amax_emulated)) else np.nan
        ceiling = fp.FORMATS[self.recipe.kept or "float32"].max
        return bool(amax * row.scale > 0.99 * ceiling)

    def why(self) -> str:
        """The first step at which they part, and why, in a sentence."""
        if self.first_scale is not None and (self.parted is None or self.first_scale <= self.parted):
            row = self.curve.iloc[self.first_scale]
            who = "the device" if row.skipped and not row.skipped_emulated else "the emulation"
            return (
                f"step {self.first_scale}: {who} skips at scale 2^{log2(row.scale):.0f}, the other does not; amax of the unscaled "
                f"gradients is {row.amax:.3g} recorded and {row.amax_emulated:.3g} emulated"
            )
        if self.parted is not None:
            before = (
                f"bits differ from step {self.first_bit} on" if self.first_bit is not None else "no bit differed before"
            )
            return f"step {self.parted}: losses differ by more than {PARTED:.0%}; {before}: sums in another order, amplified by training"
        if self.first_bit is None:
            return "they do not part: every loss is the same float32"
        return f"they do not part; bits differ from step {self.first_bit} on"

    def text(self) -> str:
        """One run in a line or two."""
        gap = (self.at_start.zeros - self.at_start.zeros_emulated).abs().max()
        skipped = f"{int(self.curve.skipped.sum())} and {int(self.curve.skipped_emulated.sum())} steps skipped"
        last = self.curve.tail(20)
        return (
            f"{self.task:<11} {self.mode:<9} {'within' if self.within else 'BEYOND'} tolerances: at step 0 zeros differ by at most {gap:.2%}, "
            f"magnitudes by {self.at_start.distance.max():.2%}; {skipped}; final loss {last.loss.mean():.4f} and "
            f"{last.loss_emulated.mean():.4f}\n{'':<22} {self.why()}"
        )

    def record(self) -> dict[str, Any]:
        """For machines."""
        return {
            "task": self.task, "mode": self.mode, "recipe": self.recipe.row(), "within": self.within, "why": self.why(),
            "first_bit": self.first_bit, "parted": self.parted, "first_scale": self.first_scale, "deterministic": self.deterministic,
        }  # fmt: skip


def _first(where: Any) -> int | None:
    found = np.flatnonzero(np.asarray(where))
    return int(found[0]) if found.size else None


def compare(recording: TrainingRecording, watch: Any = None, steps: int | None = None) -> list[RunComparison]:
    """Emulate every recorded run, or its first ``steps``, and set it beside.

    Raises RecordingError where the initial weights or the data here are others, NoPrediction where no engine is known of the device.
    """
    device = recording.manifest["device"]
    chip = chip_of(device) if recording.is_gpu else None
    about = {(run["task"], run["mode"]): run for run in recording.manifest["runs"]}
    found = []
    for (task_name, mode_name), arrays in recording.runs.items():
        task, mode = TASKS[task_name], MODES[mode_name]
        stated = recording.manifest["tasks"][task_name]
        for what, here in (("initial_sha256", initial_digest(task)), ("data_sha256", task.data())):
            if stated[what] != here:
                raise RecordingError(f"{recording.name}: {task_name}: {what} is {stated[what][:12]}, here {here[:12]}")
        if watch is not None:
            watch(f"{task_name} {mode_name}")
        recipe = mode.emulated(chip)
        history = emulate(task, recipe, recording.keys[task_name][:steps])
        arrays = _until(arrays, steps)
        found.append(_compared(task, mode, recipe, arrays, history, about[task_name, mode_name]["deterministic"]))
    return found


def _until(arrays: dict[str, Any], steps: int | None) -> dict[str, Any]:
    """What was recorded before a step."""
    return {
        name: array if "/" in name else array[:steps]
        for name, array in arrays.items()
        if "/" not in name or steps is None or int(name.split("/")[1]) < steps
    }


def emulate(task: Task, recipe: Recipe, keys: Any) -> History:
    """The same run in the lab."""
    network = task.network()
    layers = names_of(network.body.layers)
    names = {*layers, *(name for name in network.initialise(task.seed))}
    plan = Plan(task.rule, len(keys), task.seed, task.warmup, capture=task.captured, keep=names)
    return train(network, (task.batch(key) for key in keys), recipe, plan)


def _compared(
    task: Task, mode: Mode, recipe: Recipe, arrays: dict[str, Any], history: History, deterministic: bool
) -> RunComparison:
    steps = history.steps
    count = len(arrays["loss"])
    emulated = steps.reindex(range(count))
    curve = pd.DataFrame(
        {
            "step": range(count), "loss": arrays["loss"], "loss_emulated": emulated.loss, "scale": arrays["scale"],
            "scale_emulated": emulated.scale, "skipped": arrays["skipped"], "skipped_emulated": ~emulated.applied.fillna(False).astype(bool),
            "amax": arrays["amax"], "amax_emulated": np.exp2(emulated.log2_amax),
        }
    )  # fmt: skip
    rows = []
    for name, counts in arrays.items():
        kind, _, where = name.partition("/")
        if kind != "histogram":
            continue
        step, role, layer = where.split("/")
        values = history.tensors.get(f"{step}/{role}/{layer.removesuffix('.weight')}")
        if values is None:
            continue
        ours = histogram(as_kept(recipe, role, layer, values))
        theirs, mine = counts / counts.sum(), ours / ours.sum()
        place = {"step": int(step), "role": role, "layer": layer, "size": int(counts.sum())}
        distance = float(np.abs(theirs - mine).sum() / 2)
        rows.append({**place, "zeros": theirs[0], "zeros_emulated": mine[0], "distance": distance})
    return RunComparison(task.name, mode.name, recipe, curve, pd.DataFrame(rows), deterministic)


def as_kept(recipe: Recipe, role: str, layer: str, values: Array) -> Array:
    """A gradient as the recipe keeps it: embeddings and gains with the residual stream, all else in the products' format."""
    carried = role == "weight" and (
        layer.endswith((".gain", ".tokens", ".positions")) or ".norm" in layer or layer.startswith("norm")
    )
    format = recipe.residual if carried else recipe.weight_gradient if role == "weight" else recipe.kept
    return values if format is None else fp.quantize(values, format)
