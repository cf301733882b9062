"""Do the tables of e01 say what happens to the gradients, and do its figures and verdict follow from the tables?"""

import re
import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from numpy.testing import assert_array_equal

import fpemu as fp
from analysis.experiment import Profile, load
from analysis.experiments import e01_gradient_underflow as e01
from analysis.training import capture, digits
from analysis.training.agreement import agree

STEPS = (10, 50)
SEEDS = (0, 1)
COARSE = sorted({*range(-20, 27, 8), -10, 8, *e01.LAYER_SCALES})


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """Two seeds, two steps and a coarse sweep: the experiment itself, made short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(e01, "capture_steps", lambda profile: STEPS)
        patch.setattr(e01, "sweep", lambda profile: COARSE)
        parts = [e01.measure({"seed": seed}, Profile("quick", len(SEEDS))) for seed in SEEDS]
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}


@pytest.fixture(scope="module")
def gradients() -> dict[tuple[str, int], np.ndarray]:
    """The float32 gradients of the last step of seed 0, captured anew."""
    snapshot = capture.train(digits.load(0), 0, [STEPS[-1]]).snapshots[0]
    return {(kind, layer): values for kind, layer, values in capture.tensors(snapshot.gradients)}


def records(table: pd.DataFrame) -> list[Any]:
    """The rows with their columns as attributes."""
    return list(table.itertuples())


def test_it_keeps_the_contract() -> None:
    experiment = load("e01")
    assert experiment.plan(Profile("full", 4)) == [{"seed": seed} for seed in range(4)]
    assert {0, 3, 15} < set(e01.sweep(Profile("quick"))) < set(e01.sweep(Profile("full")))
    assert e01.sweep(Profile("full")) == list(range(-20, 27))


def test_every_scale_seed_and_tensor_is_there(tables: dict[str, pd.DataFrame]) -> None:
    passes = tables["backward"]
    assert len(passes) == len(SEEDS) * len(STEPS) * len(e01.KINDS) * len(e01.FORMATS) * len(COARSE)
    assert sorted(passes["log2_scale"].unique()) == COARSE
    assert len(tables["tensors"]) == len(SEEDS) * len(STEPS) * 2 * 11
    assert tables["training"].groupby("seed")["step"].max().eq(STEPS[-1]).all()


def test_denominators_are_the_non_zeros(tables: dict[str, pd.DataFrame]) -> None:
    facts = tables["tensors"].set_index(["seed", "step", "kind", "layer"])
    counted = tables["histogram"].groupby(["seed", "step", "kind", "layer"])["count"].sum()
    assert_array_equal(counted.reindex(facts.index), facts["size"] - facts["zeros"])
    assert (facts["zeros"] > 0).any()
    cast = tables["cast"]
    assert_array_equal(cast["lost_of_nonzero"], [float(f"{share:.8g}") for share in cast["lost"] / cast["nonzero"]])


@pytest.mark.parametrize("name", e01.FORMATS)
def test_losses_read_off_the_histogram_are_those_of_the_cast(
    tables: dict[str, pd.DataFrame], gradients: dict[tuple[str, int], np.ndarray], name: str
) -> None:
    rows = e01.where(tables["cast_layers"], seed=0, step=STEPS[-1], format=name)
    for row in records(rows.query("log2_scale in (0, 3, 15) or (layer == 6 and log2_scale % 2 == 0)")):
        values = gradients[row.kind, row.layer]
        q = fp.quantize(values * np.float32(2.0**row.log2_scale), name)
        assert row.lost == np.count_nonzero((q == 0) & (values != 0))
        energy = np.square(values, dtype=np.float64)
        assert row.lost_of_energy == pytest.approx(energy[q == 0].sum() / energy.sum(), rel=1e-6)
        assert row.overflows == (not np.isfinite(q).all())


@pytest.mark.parametrize("table", ["cast", "cast_layers"])
def test_a_larger_scale_never_loses_more(tables: dict[str, pd.DataFrame], table: str) -> None:
    keys = [key for key in ("seed", "step", "kind", "layer", "format") if key in tables[table]]
    for column in ("lost", "lost_of_energy"):
        steps = tables[table].sort_values("log2_scale").groupby(keys)[column].diff().dropna()
        assert (steps <= 0).all()
        assert (steps < 0).any()


@pytest.mark.parametrize("name", e01.FORMATS)
def test_a_band_is_where_casting_says_it_is(
    tables: dict[str, pd.DataFrame], gradients: dict[tuple[str, int], np.ndarray], name: str
) -> None:
    """Inside: little energy lost and nothing overflows. One step outside: the opposite."""
    bands = e01.where(tables["bands"], seed=0, step=STEPS[-1], format=name)
    for row in records(bands):
        values = gradients[row.kind, row.layer].astype(np.float64)  # wide enough for any scale a band of BF16 reaches
        energy = np.square(values)

        def cast(exponent: float, values: np.ndarray = values) -> np.ndarray:
            return fp.quantize(values * 2.0**exponent, name)

        def lost(exponent: float, energy: np.ndarray = energy) -> float:
            return float(energy[cast(exponent) == 0].sum() / energy.sum())

        assert lost(row.lowest) <= e01.ENERGY_LOST < lost(row.lowest - 1)
        assert np.isfinite(cast(row.highest)).all()
        assert not np.isfinite(cast(row.highest + 1)).all()
        assert row.lowest <= row.recommended <= row.highest


def test_the_network_s_band_is_the_intersection(tables: dict[str, pd.DataFrame]) -> None:
    keys = ["seed", "step", "format"]
    layers, network = tables["bands"].groupby(keys), tables["bands_network"].set_index(keys).sort_index()
    assert_array_equal(network["lowest"], layers["lowest"].max())
    assert_array_equal(network["highest"], layers["highest"].min())
    assert_array_equal(network["empty"], network["lowest"] > network["highest"])


def test_statistics_and_histogram_agree(tables: dict[str, pd.DataFrame]) -> None:
    keys = ["seed", "step", "kind", "layer", "format", "log2_scale"]
    both = tables["cast_statistics"].merge(tables["cast_layers"], on=keys)
    assert len(both) == len(tables["cast_statistics"])
    assert_array_equal(both["new_zero"], both["lost"])
    assert both["new_zero"].sum() > 0


def test_the_control_is_indifferent_to_the_scale(tables: dict[str, pd.DataFrame]) -> None:
    bf16 = e01.where(tables["backward"], format="bfloat16")
    fp16 = e01.where(tables["backward"], format="float16")
    assert bf16["new_zero"].sum() == 0
    assert not bf16["overflowed"].any()
    assert bf16.groupby(["seed", "step", "kind"])["cosine"].nunique().eq(1).all()
    assert fp16.groupby(["seed", "step", "kind"])["cosine"].nunique().gt(3).all()


def test_a_pass_is_not_a_cast(tables: dict[str, pd.DataFrame]) -> None:
    """Rounding all the way down costs more than rounding once: lower SQNR wherever nothing underflows or overflows."""
    keys = ["seed", "step", "kind", "format", "log2_scale"]
    both = tables["backward"].merge(tables["cast"], on=keys, suffixes=("", "_cast"))
    settled = both[(both["lost_of_energy"] < 1e-9) & ~both["overflowed"] & (both["kind"] == capture.WEIGHT)]
    assert len(settled) > 50
    assert (settled["sqnr_db"] < settled["sqnr_db_cast"]).all()


def test_the_worst_layer_is_the_worst(tables: dict[str, pd.DataFrame]) -> None:
    keys = ["seed", "step", "kind", "format", "log2_scale"]
    layers = tables["backward_layers"].groupby(keys)
    worst = tables["backward"].set_index(keys)
    common = layers["cosine"].min().index
    for column, expected in (
        ("cosine", layers["cosine"].agg(lambda values: values.min(skipna=False))),
        ("energy_lost", layers["energy_lost"].agg(lambda values: values.max(skipna=False))),
    ):
        assert_array_equal(worst.loc[common, f"{column}_worst_layer"], expected)


def test_losses_of_nothing_are_nan() -> None:
    empty = fp.exponent_histogram(np.zeros(4, np.float32))
    losses = e01._exact_losses(empty, "float16", [0, 4], {})
    assert losses["lost"].eq(0).all()
    assert losses[["lost_of_nonzero", "lost_of_energy"]].isna().all(axis=None)


# ---- figures --------------------------------------------------------------------------------------------------------
def test_figures_are_labelled_and_leave_the_tables_alone(tables: dict[str, pd.DataFrame]) -> None:
    before = {name: table.copy() for name, table in tables.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = e01.draw(tables)
        for figure in figures.values():
            figure.canvas.draw()
    assert set(figures) == set(e01.CAPTIONS)
    for name, figure in figures.items():
        for ax in figure.axes:
            # An axis without a label of its own shares one, has words for ticks, or shows no ticks.
            below = [other for other in figure.axes if other is ax or ax.get_shared_x_axes().joined(ax, other)]
            beside = [other for other in figure.axes if other is ax or ax.get_shared_y_axes().joined(ax, other)]
            assert any(other.get_xlabel() for other in below) or _has_words(ax.get_xticklabels()), (
                name,
                ax.get_title(),
            )
            assert any(other.get_ylabel() for other in beside) or _has_words(ax.get_yticklabels()), (
                name,
                ax.get_title(),
            )
        plt.close(figure)
    for table, kept in before.items():
        pd.testing.assert_frame_equal(tables[table], kept)


def _has_words(labels: list[Text]) -> bool:
    """Tick labels that say what they are (or none at all), not bare numbers."""
    return all(re.search("[a-zA-Z]{2}", label.get_text().replace("mathdefault", "")) for label in labels)


def test_figures_follow_the_tables(tables: dict[str, pd.DataFrame]) -> None:
    """The line found by backward passes moves when the passes say so."""
    from analysis.experiments import gradient_underflow_figures as figures

    def ends(changed: pd.DataFrame) -> list[Any]:
        figure = figures.draw_band_drift({**tables, "backward": changed})
        lines = [np.asarray(line.get_xdata()) for line in figure.axes[0].lines]
        plt.close(figure)
        return [line for line in lines if line.size == 2]

    passes = tables["backward"]
    narrower = passes.assign(overflowed=passes["overflowed"] | (passes["log2_scale"] > 8))
    assert max(high for _, high in ends(passes)) == COARSE[-1]
    assert max(high for _, high in ends(narrower)) == 8


# ---- verdict --------------------------------------------------------------------------------------------------------
def test_the_verdict_follows_the_tables(tables: dict[str, pd.DataFrame]) -> None:
    def status(**changes: pd.DataFrame) -> str:
        return e01.verdict({**tables, **changes}).status

    cast, passes = tables["cast"], tables["backward"]
    unscaled = passes["log2_scale"] == 0
    all_lost = cast.assign(lost=cast["nonzero"])
    damaged = passes.assign(cosine_worst_layer=passes["cosine_worst_layer"].mask(unscaled, 0.5))
    one_seed = (passes["seed"] == SEEDS[-1]) & (passes["log2_scale"] == 3)
    never_repaired = passes.assign(cosine_worst_layer=passes["cosine_worst_layer"].mask(one_seed))
    assert status(cast=all_lost, backward=damaged) == "holds"
    assert status(cast=all_lost) == "holds with conditions"
    assert status(cast=all_lost, backward=never_repaired) == "does not hold at this scale"
    assert status(cast=cast.assign(lost=0)) == "does not hold at this scale"


def test_the_verdict_quotes_the_tables(tables: dict[str, pd.DataFrame]) -> None:
    verdict = e01.verdict(tables)
    fp16 = e01.where(tables["cast"], format="float16", kind=capture.ACTIVATION, step=STEPS[-1], log2_scale=0)
    assert f"{100 * fp16['lost_of_nonzero'].median():.1f} %" in verdict.summary
    findings = {finding.quantity: finding for finding in verdict.findings}
    accuracy = tables["training"].query("step == @STEPS[-1]")["test_accuracy"]
    quantity = next(name for name in findings if "accuracy" in name)
    assert f"{100 * accuracy.min():.1f} %" in findings[quantity].measured
    assert all(finding.measured and "nan" not in finding.measured for finding in verdict.findings)


def test_the_longest_run_of_good_scales() -> None:
    good = {-2: True, -1: False, 0: True, 1: True, 2: True, 3: False, 4: True}
    passes = pd.DataFrame({"log2_scale": list(good), "fine": list(good.values())})
    assert e01.scales_that(passes, lambda row: row["fine"]) == (0, 2)
    spoilt = pd.concat([passes, pd.DataFrame({"log2_scale": [1], "fine": [False]})])  # one seed is enough
    assert e01.scales_that(spoilt, lambda row: row["fine"]) == (-2, -2)
    assert e01.scales_that(passes.assign(fine=False), lambda row: row["fine"]) is None


def test_a_gradient_without_a_direction_keeps_none() -> None:
    row = pd.Series({"overflowed": False, "cosine_worst_layer": np.nan, "energy_lost_worst_layer": np.nan})
    assert not e01.keeps_direction(row)
    assert not e01.serves(row)


def test_cast_quality_is_measured_after_unscaling(gradients: dict[tuple[str, int], np.ndarray]) -> None:
    values = gradients[capture.WEIGHT, 6]
    plain = agree(values, fp.quantize(values, "bfloat16"))
    scaled = agree(values, fp.quantize(values * np.float32(2**8), "bfloat16") / np.float32(2**8))
    assert plain == scaled
