"""What the names of columns say: ``meaning`` reads a unit from a name, or why that name has none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fpemu.shown import shown

MAGNITUDE, LOG2 = "magnitude", "log2"
UNITS = (MAGNITUDE, LOG2)

# The largest magnitude of a gradient; prefixes (train/, model.) and letter case do not matter, and - and blanks are _.
AMAX = (
    "amax", "absmax", "abs_max", "max_abs", "maxabs", "cur_amax", "grad_amax", "grads_amax", "gradient_amax", "amax_grad", "grad_absmax",
    "grad_abs_max", "grad_max_abs", "max_abs_grad", "grad_max", "max_grad",
)  # fmt: skip
# Its logarithm: log2_, log2 or _log2 around one of these, or log2(...).
_LOGARITHM = (re.compile(r"log2_?(\w+)"), re.compile(r"log2\((.+)\)"), re.compile(r"(\w+)_log2"))

# Which scale a column of scales holds, and whether a step overflowed; a name that says neither is asked for.
SCALE_USED = ("loss_scale_before", "scale_before", "loss_scale_used", "scale_used")
SCALE_AFTER = ("loss_scale_after", "scale_after")
SCALES = ("loss_scale", "scale", "grad_scale", "scaler_scale", "lossscale", *SCALE_USED, *SCALE_AFTER)
OVERFLOW = ("overflow", "overflowed", "found_inf")
STEPS = ("step", "_step", "global_step", "iteration", "iter", "global_steps")

# What else is no largest magnitude, by the whole name or by a word in it.
_NAMES = {
    **dict.fromkeys(SCALES, "it is a loss scale"),
    **dict.fromkeys((*OVERFLOW, "skipped", "skip", "skips"), "it says whether a step overflowed"),
    **dict.fromkeys((*STEPS, "epoch", "update", "num_updates", "samples"), "it counts steps"),
    **dict.fromkeys(("lr", "learning_rate"), "it is a learning rate"),
    **dict.fromkeys(("loss", "train_loss", "val_loss", "lm_loss"), "it is a loss"),
    **dict.fromkeys(("time", "timestamp", "_timestamp", "_runtime", "runtime", "elapsed"), "it is a time"),
}
_NORM = "a norm is no largest magnitude, but up to sqrt(n) times as large for n elements"
_BASE = "it is a logarithm of another base than 2"
_SCALED = "it is of scaled gradients, and those of a trace are unscaled"
_WORDS = {
    **dict.fromkeys(("norm", "gnorm", "l2", "l1", "rms", "gradnorm"), _NORM),
    **dict.fromkeys(("log10", "ln", "loge", "log1p"), _BASE),
    "scaled": _SCALED,
}
_LOGS = {"log", "log2", "exponent"}
_OTHER_TENSORS = {
    "weight", "weights", "param", "params", "parameter", "parameters", "activation", "activations", "input", "output", "update", "updates",
}  # fmt: skip
_GRADIENTS = {"grad", "grads", "gradient", "gradients", "wgrad", "dgrad"}


@dataclass(frozen=True)
class Meaning:
    """A column's unit, None where its name does not say it; and why it is no trace at all, empty where it may be one."""

    unit: str | None
    refused: str = ""


def meaning(name: str) -> Meaning:
    """What a name says of the numbers below it."""
    whole = re.sub(r"[-\s]+", "_", name.strip().lower())
    last = last_part(name)
    words = set(re.findall(r"[^\W_]+", whole))
    before = set(re.findall(r"[^\W_]+", whole[: len(whole) - len(last)]))
    unit = MAGNITUDE if last in AMAX else LOG2 if _logarithm_of(last) in AMAX else None
    if unit is None:
        refused = _NAMES.get(last, "") or next((why for word, why in _WORDS.items() if word in words), "")
        return Meaning(None, refused or (_NORM if last.endswith("norm") else ""))
    if "scaled" in before:
        return Meaning(None, _SCALED)
    if before & _OTHER_TENSORS and not words & _GRADIENTS:
        return Meaning(None, "it is of another tensor than a gradient")
    if before & ({word for word, why in _WORDS.items() if why == _BASE}):
        return Meaning(None, _BASE)
    return Meaning(None if before & _LOGS else unit)


def last_part(name: str) -> str:
    """A name without prefixes: lower case, what follows the last / . : or dash between blanks, - and blanks as _."""
    return re.sub(r"[-\s]+", "_", re.split(r"[/.:]| - ", name.strip().lower())[-1].strip())


def _logarithm_of(name: str) -> str:
    """What a name says it is the base-2 logarithm of; empty where it says none."""
    found = (form.fullmatch(name) for form in _LOGARITHM)
    return next((match[1] for match in found if match), "")


def refuse_other(name: str) -> None:
    """ValueError, one line, for a name that says something else than the largest magnitude of a gradient."""
    refused = meaning(name).refused
    if refused:
        raise ValueError(f"{quoted(name)} is no trace: {refused}; {_VALID}")


def unit_of(name: str | None, asked: str | None) -> str:
    """The unit of a column, by its name or as asked for; None has no name.  ValueError, one line, where neither says it."""
    said = None if name is None else meaning(name).unit
    if asked is None and said is None:
        what = (
            "its numbers have no name that says their unit"
            if name is None
            else f"the name {quoted(name)} does not say its unit"
        )
        raise ValueError(f"{what}: {CHOICE}; {_VALID}")
    if asked is not None and said not in (None, asked):
        raise ValueError(
            f"{quoted(str(name))} is {said} by its name, and --unit says {asked}: leave that out, or rename the column"
        )
    return asked or str(said)


CHOICE = "--unit magnitude for amax itself, --unit log2 for its logarithm"
_VALID = "names that say it: amax, grad_amax, grad_max, max_abs, absmax (magnitude), log2_amax, log2_grad_max (log2)"
_MOST_NAMES = 20


def quoted(name: str) -> str:
    """A name as it is shown, in quotes."""
    return f"'{shown(name)}'"


def listed(names: list[str]) -> str:
    """Names in a line, the first of many."""
    more = len(names) - _MOST_NAMES
    return ", ".join(map(shown, names[:_MOST_NAMES])) + (f", and {more} more" if more > 0 else "")
