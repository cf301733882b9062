"""An experiment, measured and drawn as the lab does it, but in memory."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis.experiment import Profile
from analysis.store import column_types, from_csv, tidy, to_csv

Tables = dict[str, pd.DataFrame]


def measured(experiment: Any, profile: Profile) -> Tables:
    """All tables of an experiment, as they come back from their CSV."""
    parts = [experiment.measure(unit, profile) for unit in experiment.plan(profile)]
    names = dict.fromkeys(name for part in parts for name in part)
    whole = {name: pd.concat([part[name] for part in parts if name in part], ignore_index=True) for name in names}
    kept = {name: tidy(name, table) for name, table in whole.items()}
    return {name: from_csv(to_csv(table), column_types(table)) for name, table in kept.items()}


def drawn(experiment: Any, tables: Tables) -> dict[str, Figure]:
    """Its figures: those of the captions, every axis named, legends not empty."""
    with figures.style():
        pictures: dict[str, Figure] = experiment.draw(tables)
        assert set(pictures) == set(experiment.CAPTIONS)
        for name, figure in pictures.items():
            figure.canvas.draw()
            assert any(ax.get_xlabel() for ax in figure.axes), name
            assert any(ax.get_ylabel() for ax in figure.axes), name
    plt.close("all")
    return pictures
