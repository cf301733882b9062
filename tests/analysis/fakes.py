"""Experiments for the tests of the lab: small modules written into a folder that the lab then finds."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''"""A fake."""
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from analysis.experiment import Claim, Finding, Verdict
{imports}
LOG = Path({log!r})
UNITS = {units}
TITLE = {title!r}
QUESTION = "Is it so?"
CLAIMS = (Claim("It is so.", "A book; second-hand", "42 %", "second-hand"),)
CAPTIONS = {{"line": "What is measured (m) against the unit (number). Seeds: 0."}}


def plan(profile):
    return [{{"index": index}} for index in range(UNITS)]


def measure(unit, profile):
    with LOG.open("a") as log:
        log.write(f"{{profile.name}} {{profile.seeds}} {{unit['index']}}\\n")
    {measure}
    values = np.random.default_rng(unit["index"]).standard_normal(5)
    return {{"points": pd.DataFrame({{"index": unit["index"], "value": values, "name": "a,b"}})}}


def draw(tables):
    figure, ax = plt.subplots()
    ax.plot(tables["points"]["value"])
    ax.set(xlabel="unit (number)", ylabel="what is measured (m)")
    {draw}
    return {{"line": figure}}


def verdict(tables):
    mean = tables["points"]["value"].mean()
    return Verdict("holds", f"The mean is {{mean:.3f}} m.", (Finding("mean", "42 m", f"{{mean:.3f}} m"),))
'''


class Fakes:
    """A folder of fake experiments; each logs the units it really measures."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "measured.log"

    def write(
        self,
        name: str = "e90_fake",
        *,
        units: int = 4,
        measure: str = "pass",
        draw: str = "pass",
        title: str = "A fake",
        imports: str = "",
    ) -> str:
        text = SOURCE.format(log=str(self.log), units=units, measure=measure, draw=draw, title=title, imports=imports)
        (self.folder / f"{name}.py").write_text(text)
        return name

    def measured(self) -> list[str]:
        """The last words of the log lines (unit numbers), and the log emptied."""
        lines = self.log.read_text().split("\n")[:-1] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.split()[-1] for line in lines]
