"""Do the gradients of a real network underflow in FP16, BF16 and FP8, and does it matter?

An 11-layer network learns the handwritten digits in float32. At an early, a middle and a late step its gradients are
cast to each format, and its backward pass is repeated with every tensor rounded to the format, at loss scales 2^-20 to
2^26. Underflow is measured four ways, because counting alone misleads: the share of non-zeros that become zero, the
energy they carried, the signal-to-noise ratio, and the angle to the float32 gradient.

What to see: without loss scaling most FP16 activation gradients of a trained network vanish, their energy hardly does,
and the direction of the weight gradients survives far below scale 1. BF16, the control, is indifferent to the scale.

A cast here rounds one finished float32 tensor; a pass rounds operands and results all the way down (what exactly is
in `analysis.training.emulated`). Directions are compared; no network is trained in low precision here. Products use
float32 BLAS: results repeat on one machine, across machines not to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import isnan, nan
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import fpemu as fp
from analysis.experiment import Claim, Finding, Profile, Unit, Verdict
from analysis.tables import where
from analysis.training import digits
from analysis.training.agreement import Agreement, agree
from analysis.training.capture import ACTIVATION, WEIGHT, Snapshot, tensors, train
from analysis.training.emulated import Emulation
from fpemu.histogram import Band, ExponentHistogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tables = dict[str, pd.DataFrame]

FORMATS = ("float16", "bfloat16", "float8_e5m2", "float8_e4m3fn")
KINDS = (ACTIVATION, WEIGHT)
SCALES = range(-20, 27)  # exponents of the loss scales
LAYER_SCALES = (0, 3, 15)  # those looked at layer by layer at every step: none, the published x8, the published x32K
ENERGY_LOST = 1e-3  # a band keeps all but this share of a tensor's energy
COSINE = 0.999  # at or below this a direction counts as damaged
PILOT_LOGITS = 0.77  # share of the non-zero logit gradients that vanished in the pilot
PUBLISHED_LOSS = 0.31  # share of all activation gradients that FP16 zeroes in the published histogram

TITLE = "Gradient underflow and the loss scale"
QUESTION = (
    "Which gradients of a real network underflow in FP16, BF16 and FP8, which loss scale rescues them, "
    "and how much of it matters to the direction of the update?"
)
_SSD = (
    "Micikevicius et al., Mixed Precision Training, ICLR 2018, and NVIDIA's mixed-precision training guide "
    "(second-hand: read in transcripts, which give 66.8 %, 31 % and 5.3 %, together 103.1 %; at least one is off)"
)
_PILOT = "our own pilot: the same task, one seed, model and step not recorded"
CLAIMS = (
    Claim(
        "In Multibox SSD 66.8 % of the activation gradients are zero; FP16 zeroes further ones and training diverges.",
        _SSD,
        "31 %",
        "second-hand",
    ),
    Claim(
        "Multiplying the loss by 8 is enough to match FP32 training; 2^15 recovers all but 0.1 % and still fits.",
        _SSD,
        "x8",
        "second-hand",
    ),
    Claim(
        "Unscaled FP16 loses most non-zero logit gradients and half of the deepest activation gradients.",
        _PILOT,
        "77 %, 48 %",
        "pilot",
    ),
    Claim("The direction of every layer's weight gradient survives that loss.", _PILOT, "cosine >= 0.9996", "pilot"),
    Claim(
        "A wide band of loss scales keeps the direction (cosine > 0.999).",
        _PILOT,
        "2^-2 to 2^22, overflow at 2^24",
        "pilot",
    ),
)


# ---- measure --------------------------------------------------------------------------------------------------------
def plan(profile: Profile) -> list[Unit]:
    return [{"seed": seed} for seed in range(profile.seeds)]


def capture_steps(profile: Profile) -> tuple[int, ...]:
    """Early (still wrong about most digits), middle (just learnt), late (training loss all but gone)."""
    return profile.pick(quick=(10, 100, 300), full=(10, 100, 1000))


def sweep(profile: Profile) -> list[int]:
    """Exponents of the loss scales."""
    return sorted({*SCALES[:: profile.pick(quick=2, full=1)], *LAYER_SCALES})


def measure(unit: Unit, profile: Profile) -> Tables:
    seed, steps = int(unit["seed"]), capture_steps(profile)
    watch = [0, 1, 2, *(round(10 ** (k / 4)) for k in range(2, 13))]
    run = train(digits.load(seed), seed, steps, [step for step in watch if step <= steps[-1]])
    parts = []
    for snapshot in run.snapshots:
        # By layer, all scales are kept for the last step only: the tables are committed and shall stay small.
        layer_scales = {*LAYER_SCALES, *(SCALES[::2] if snapshot.step == steps[-1] else ())}
        tables = {
            **_measure_casts(snapshot, sweep(profile), layer_scales),
            **_measure_passes(snapshot, sweep(profile), layer_scales),
        }
        for table in tables.values():
            table.insert(0, "step", snapshot.step)
        parts.append(tables)
    tables = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}
    tables["training"] = pd.DataFrame(run.progress, columns=["step", "loss", "test_accuracy"])
    for table in tables.values():
        table.insert(0, "seed", seed)
    return {name: table.map(_eight_digits) for name, table in tables.items()}


def _eight_digits(value: Any) -> Any:
    """Keep the committed tables small; nothing here is known to more than eight digits."""
    return float(f"{value:.8g}") if isinstance(value, float) else value


def _measure_casts(snapshot: Snapshot, scales: list[int], layer_scales: set[int]) -> Tables:
    """What a single cast of each finished gradient tensor loses."""
    facts, bins, pooled, layers, statistics, bands, network = [], [], [], [], [], [], []
    histograms = {(kind, layer): fp.exponent_histogram(values) for kind, layer, values in tensors(snapshot.gradients)}
    for kind, layer, values in tensors(snapshot.gradients):
        key, h = {"kind": kind, "layer": layer}, histograms[kind, layer]
        facts.append({**key, "size": h.size, "zeros": h.zeros, "amax": h.amax, "energy": h.energy})
        columns = {"exponent": h.exponents, "count": h.counts, "energy": h.energies}
        bins.append(pd.DataFrame({**key, **columns}).query("count > 0"))
        for scale in LAYER_SCALES:
            rows = fp.tensor_stats(values, FORMATS, scale=2.0**scale).rows()
            statistics += [{**key, "log2_scale": scale, **row} for row in rows]
    for name in FORMATS:
        of_layers = {key: h.band(name, energy_lost=ENERGY_LOST) for key, h in histograms.items()}
        network.append({"format": name, **_band_columns(fp.intersect_bands(list(of_layers.values())))})
        for (kind, layer), band in of_layers.items():
            key = {"kind": kind, "layer": layer, "format": name}
            bands.append({**key, **_band_columns(band)})
            layers.append(_exact_losses(histograms[kind, layer], name, sorted(layer_scales), key))
        for kind in KINDS:
            merged = reduce(lambda a, b: a.merge(b), [h for (k, _), h in histograms.items() if k == kind])
            losses = _exact_losses(merged, name, scales, {"kind": kind, "format": name})
            quality = [_cast_quality(snapshot, kind, name, scale) for scale in scales]
            losses["sqnr_db"], losses["cosine"] = zip(*quality, strict=True)
            pooled.append(losses)
    return {
        "tensors": pd.DataFrame(facts),
        "histogram": pd.concat(bins, ignore_index=True),
        "cast": pd.concat(pooled, ignore_index=True),
        "cast_layers": pd.concat(layers, ignore_index=True).drop(columns="nonzero"),
        "cast_statistics": pd.DataFrame(statistics)
        .drop(columns=["size", "zeros", "nonfinite_in"])
        .astype({"codes_used": float}),
        "bands": pd.DataFrame(bands),
        "bands_network": pd.DataFrame(network),
    }


def _exact_losses(h: ExponentHistogram, name: str, scales: list[int], key: dict[str, Any]) -> pd.DataFrame:
    """Count and energy that a cast at each scale turns into zero: exact, read off one exponent histogram."""
    losses, highest = h.lost_to_zero(name, np.array(scales)), h.band(name, energy_lost=ENERGY_LOST).highest
    columns = {
        "log2_scale": scales,
        "nonzero": h.nonzero,
        "lost": losses["count"],
        "lost_of_nonzero": losses["of_nonzero"],
        "lost_of_energy": losses["of_energy"],
        "overflows": np.array(scales) > (np.inf if highest is None else highest),
    }
    return pd.DataFrame({**key, **columns})


def _cast_quality(snapshot: Snapshot, kind: str, name: str, scale: int) -> tuple[float, float]:
    """SQNR in dB and cosine of all tensors of a kind taken together, each cast at a scale and unscaled."""
    up, down = np.float32(2.0**scale), np.float32(2.0**-scale)
    of_kind = (values for k, _, values in tensors(snapshot.gradients) if k == kind)
    total = reduce(add, (agree(values, fp.quantize(values * up, name) * down) for values in of_kind))
    return total.sqnr_db, total.cosine


def _band_columns(band: Band) -> dict[str, float | bool]:
    """A band as columns of exponents; NaN where a side is unbounded or nothing can be recommended."""
    ends = {name: getattr(band, name) for name in ("lowest", "highest", "recommended")}
    return {**{name: nan if end is None else float(end) for name, end in ends.items()}, "empty": bool(band.empty)}


def _measure_passes(snapshot: Snapshot, scales: list[int], layer_scales: set[int]) -> Tables:
    """What is left of the gradients when the whole backward pass runs in the format."""
    pooled, layers = [], []
    for name in FORMATS:
        emulation = Emulation(snapshot.parameters, snapshot.trace, name)
        for scale in scales:
            gradients = emulation.backward(snapshot.logit_gradient, scale)
            pairs = zip(tensors(snapshot.gradients), tensors(gradients), strict=True)
            results = [(kind, layer, agree(g, e)) for (kind, layer, g), (_, _, e) in pairs]
            overflowed = any(result.overflowed for _, _, result in results)
            for kind in KINDS:
                of_kind = [(layer, result) for k, layer, result in results if k == kind]
                key = {"kind": kind, "format": name, "log2_scale": scale}
                total = reduce(add, (result for _, result in of_kind))
                # A layer without a cosine must not hide behind the others: NumPy's min and max keep NaN.
                worst = {
                    "cosine_worst_layer": float(np.min([result.cosine for _, result in of_kind])),
                    "energy_lost_worst_layer": float(np.max([result.energy_lost for _, result in of_kind])),
                }
                counts = {"nonzero": total.nonzero, "new_zero": total.new_zero, "nonfinite": total.nonfinite}
                pooled.append({**key, **counts, **_ratios(total), **worst, "overflowed": overflowed})
                if scale in layer_scales:
                    layers += [
                        {**key, "layer": layer, **_ratios(r), "overflowed": r.overflowed} for layer, r in of_kind
                    ]
    return {"backward": pd.DataFrame(pooled), "backward_layers": pd.DataFrame(layers)}


def _ratios(result: Agreement) -> dict[str, float]:
    names = ("new_zero_of_nonzero", "energy_lost", "sqnr_db", "cosine", "gain")
    return {name: getattr(result, name) for name in names}


# ---- draw -----------------------------------------------------------------------------------------------------------
CAPTIONS = {
    "gradient_histogram": (
        "Magnitudes of the float32 gradients of all 11 layers: share of all values per power of two in %, exact "
        "zeros apart on the left (line or bar: median, band or bar end: range over seeds). Below: which of these "
        "magnitudes a format keeps as normal and as subnormal values and which it turns into zero; a loss scale "
        "moves this window left. FP16 is shown at the two published scales, the FP8 formats at the one "
        "recommended for the last step. On the right: share of the last step's non-zero activation gradients, and "
        "of their energy, that one cast loses (median over seeds). The few values left of the axis are "
        "not drawn."
    ),
    "four_measures": (
        "Emulated backward passes against the float32 pass, over the loss scale: non-zero activation gradients "
        "newly zero (%), their share of the energy, SQNR of the weight gradients (dB), and 1 - cosine of the "
        "worst layer's weight gradient (dashed: cosine 0.999). Line: median, band: range over seeds; at most "
        "1e-12 of energy and 1e-9 of 1 - cosine are drawn at the floor. A cross: beyond it some gradient "
        "overflows in some seed. The last row starts where no layer's gradient is all zero. Dotted: one cast of "
        "the last step's finished gradients (all layers together)."
    ),
    "scale_map": (
        "Energy that one cast loses to zero, by layer and loss scale, at the last step (median over seeds; layer "
        "11 is next to the loss). Grey: the largest value overflows in some seed. White outline: scales that lose "
        "at most 0.1 % of that tensor's energy and overflow in no seed. Between the red lines: scales that do so "
        "for every tensor; a line missing on one side lies outside the sweep."
    ),
    "band_drift": (
        "Loss scales that serve every tensor in every seed, at each captured step. Bar: predicted from the "
        "exponent histograms of the float32 gradients. Line: found by running the backward pass at each scale. "
        "Same criterion: at most 0.1 % of any tensor's energy newly zero, nothing non-finite. Shaded: scales "
        "predicted to serve all steps. The sweep ends at 2^-20 and 2^26; an arrow says that the range goes on."
    ),
}


def draw(tables: Tables) -> dict[str, Figure]:
    from analysis.experiments import gradient_underflow_figures as figures

    return figures.draw(tables)


# ---- verdict --------------------------------------------------------------------------------------------------------
def steps_of(tables: Tables) -> list[int]:
    return sorted(int(step) for step in tables["tensors"]["step"].unique())


def serves(row: pd.Series[Any]) -> bool:
    """A backward pass that meets the criterion of a band."""
    return bool(not row["overflowed"] and row["energy_lost_worst_layer"] <= ENERGY_LOST)


def keeps_direction(row: pd.Series[Any]) -> bool:
    return bool(not row["overflowed"] and row["cosine_worst_layer"] > COSINE)


def scales_that(passes: pd.DataFrame, good: Callable[[pd.Series[Any]], bool]) -> tuple[int, int] | None:
    """First and last exponent of the longest unbroken run of swept scales at which every row is good, or None."""
    fine = passes.assign(good=passes.apply(good, axis=1)).groupby("log2_scale")["good"].all()
    runs = (fine != fine.shift()).cumsum()[fine]
    if runs.empty:
        return None
    longest = runs[runs == runs.value_counts().sort_index().idxmax()].index
    return int(longest[0]), int(longest[-1])


def _least(values: pd.Series[Any]) -> float:
    """The minimum, NaN if any value is: a layer or seed without a direction must not hide behind the others."""
    return float(values.min(skipna=False))


def _per_cent(share: float) -> str:
    return "none lost" if isnan(share) else f"{100 * share:.1f} %"


def _cosine(value: float) -> str:
    return "none (a layer is all zero or not finite)" if isnan(value) else f"1 - {1 - value:.1e}"


def _window(found: tuple[int, int] | None) -> str:
    """A range of scales, saying so where the sweep and not the network ends it."""
    if found is None:
        return "none"
    low, high = (f"2^{end}{' (end of the sweep)' if end in (SCALES[0], SCALES[-1]) else ''}" for end in found)
    return f"{low} to {high}"


def _by_step(values: pd.Series[Any], text: Callable[[Any], str]) -> str:
    return ", ".join(f"step {step:,}: {text(value)}" for step, value in values.items())


def _between(rising: pd.Series[Any], value: float) -> str:
    """Between which steps a share that grows with training passes a value."""
    below, above = rising[rising < value].index, rising[rising >= value].index
    return f"after {below[-1]:,}" + (f", by {above[0]:,}" if len(above) else "") if len(below) else f"by {above[0]:,}"


def verdict(tables: Tables) -> Verdict:
    steps = steps_of(tables)
    passes, by = tables["backward"], ["step", "seed"]
    fp16 = where(passes, format="float16", kind=WEIGHT)
    casts = where(tables["cast"], format="float16", kind=ACTIVATION)
    unscaled = where(tables["backward_layers"], format="float16", kind=ACTIVATION, log2_scale=0)

    def median(values: pd.Series[Any]) -> pd.Series[Any]:
        return values.groupby("step").median()

    def worst_cosine(scale: int) -> pd.Series[Any]:
        """Per step, the worst layer's weight gradient in the worst seed."""
        return where(fp16, log2_scale=scale).groupby("step")["cosine_worst_layer"].agg(_least)

    def newly_zero(layer: int) -> pd.Series[Any]:
        return median(where(unscaled, layer=layer).set_index(by)["new_zero_of_nonzero"])

    sizes = where(tables["tensors"], kind=ACTIVATION).groupby(by)[["size", "zeros"]].sum()
    lost = {scale: where(casts, log2_scale=scale).set_index(by) for scale in LAYER_SCALES}
    zeroed = median(lost[0]["lost"] / sizes["size"])
    remaining = median(lost[15]["lost"] / lost[0]["lost"].where(lost[0]["lost"] > 0))
    logits = newly_zero(int(unscaled["layer"].max()))
    plain, times_8 = worst_cosine(0), worst_cosine(3)
    direction = pd.Series({step: scales_that(where(fp16, step=step), keeps_direction) for step in steps})
    overflow = fp16[fp16["overflowed"]].groupby("step")["log2_scale"].min().reindex(steps)
    bf16 = where(passes, format="bfloat16", kind=WEIGHT).groupby(by)["cosine_worst_layer"]
    static = {name: scales_that(where(passes, format=name), serves) for name in FORMATS}
    accuracy = tables["training"].groupby("seed")["test_accuracy"].last()

    findings = [
        (
            "exact zeros among the FP32 activation gradients",
            "66.8 % (SSD)",
            _by_step(median(sizes["zeros"] / sizes["size"]), _per_cent),
        ),
        (
            "further values that an unscaled FP16 cast zeroes, of all activation gradients",
            "31 % (SSD)",
            _by_step(zeroed, _per_cent),
        ),
        (
            "share of the energy these carried",
            "not published",
            _by_step(median(lost[0]["lost_of_energy"]), "{:.1e}".format),
        ),
        ("share of these that is still zero at 2^15", "0.1 % (SSD)", _by_step(remaining, _per_cent)),
        (
            "FP16 at x8: cosine of the worst layer's weight gradient, worst seed",
            "matches FP32 training (SSD)",
            _by_step(times_8, _cosine),
        ),
        ("FP16 unscaled: the same cosine", ">= 0.9996 (pilot)", _by_step(plain, _cosine)),
        ("FP16 at 2^-10: the same cosine", "collapsed (pilot)", _by_step(worst_cosine(-10), _cosine)),
        (
            "FP16 unscaled: non-zero logit gradients newly zero",
            "77 % (pilot)",
            _by_step(logits, _per_cent),
        ),
        (
            "FP16 unscaled: non-zero activation gradients of layer 1 newly zero",
            "48 % (pilot)",
            _by_step(newly_zero(1), _per_cent),
        ),
        (
            f"FP16: scales that keep every layer's cosine above {COSINE} in every seed",
            "2^-2 to 2^22 (pilot)",
            _by_step(direction, _window),
        ),
        (
            "FP16: first scale that overflows in some seed",
            "2^24 (pilot)",
            _by_step(overflow, lambda k: f"above 2^{SCALES[-1]}" if isnan(k) else f"2^{k:.0f}"),
        ),
        (
            "captured steps between which the pilot's 77 % of logit gradients falls",
            "step not recorded (pilot)",
            _between(logits, PILOT_LOGITS),
        ),
        (
            "BF16, the control: change of the worst layer's cosine over the whole sweep, worst seed and step",
            "needs no scaling",
            f"{(bf16.max() - bf16.agg(_least)).max(skipna=False):.1e}, from {_cosine(_least(bf16.agg(_least)))}",
        ),
        *(
            (
                f"{fp.FORMATS[name].name}: scales that serve every tensor, seed and captured step",
                "not published",
                _window(found),
            )
            for name, found in static.items()
        ),
        (
            "FP32 test accuracy at the end of training, median and range over seeds",
            "not published",
            f"{_per_cent(accuracy.median())}, {_per_cent(accuracy.min())} to {_per_cent(accuracy.max())}",
        ),
    ]

    # The claim has three parts: FP16 zeroes as much as published, that damages the gradient, and x8 repairs it.
    vanishes, damaged, repaired = zeroed >= PUBLISHED_LOSS, ~(plain > COSINE), times_8 > COSINE
    if (vanishes & damaged & repaired).all():
        status = "holds"
    elif vanishes.any() and repaired.all():
        status = "holds with conditions"
    else:
        status = "does not hold at this scale"
    last, share = steps[-1], median(lost[0]["lost_of_nonzero"])
    hurt = ", ".join(f"{step:,}" for step in damaged[damaged].index)
    unserved = [name for name, found in static.items() if found is None]
    energy = median(lost[0]["lost_of_energy"])[last]
    harm = f"damaged (cosine at most {COSINE}) at step {hurt} only" if hurt else "not damaged at any step"
    static_scale = (
        f"none serves every captured step in {' or '.join(unserved)}"
        if unserved
        else "each format has one that serves every captured step"
    )
    summary = (
        f"At step {last:,} an unscaled FP16 cast zeroes {_per_cent(share[last])} of the non-zero activation gradients "
        f"but only {energy:.0e} of their energy (medians of {accuracy.size} seeds); the cosine of the worst layer's "
        f"weight gradient ({_by_step(plain, _cosine)}) says that its direction is {harm}; x8 keeps it at "
        f"{_cosine(_least(times_8))} or closer throughout, and of single loss scales {static_scale}."
    )
    return Verdict(status, summary, tuple(Finding(*row) for row in findings))
