"""Are paired differences those of the same seed, and intervals those of a table of Student's t?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.pairs import differences, interval


def test_interval_by_the_table() -> None:
    """t(4, 97.5 %) = 2.776: 1..5 has mean 3 and deviation 1.5811, so 3 ± 2.776 x 0.7071."""
    one = interval([1, 2, 3, 4, 5])
    assert one.mean == 3 and one.values == 5
    np.testing.assert_allclose([one.low, one.high], [3 - 1.9632, 3 + 1.9632], atol=1e-3)
    assert one.within(5) and not one.within(4.9) and not one.beyond(1.1) and one.beyond(1.0)
    assert one.text(10, 2) == "+0.30 [+0.10, +0.50]"


def test_intervals_of_few_and_of_runs_that_diverged() -> None:
    alone, gone = interval([0.5]), interval([0.1, np.inf])
    assert alone.mean == 0.5 and np.isnan(alone.low) and not alone.within(1) and not alone.beyond(0.1)
    assert gone.text() == "diverged" and gone.beyond(1) and not gone.within(1)
    with pytest.raises(ValueError, match="needs a value"):
        interval([])


def test_differences_pair_by_seed() -> None:
    table = pd.DataFrame(
        {"recipe": ["a", "b", "b", "a"], "task": "t", "seed": [0, 1, 0, 1], "loss": [1.0, 5.0, 1.5, 3.0]}
    )
    found = differences(table, "loss", "a", ("task",))
    assert dict(zip(found.seed, found.difference, strict=True)) == {0: 0.5, 1: 2.0}
    assert set(found.recipe) == {"b"}
    with pytest.raises(ValueError, match="no recipe 'a' of the same task and seed"):
        differences(table[:3], "loss", "a", ("task",))
