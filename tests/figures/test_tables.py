"""The tables of chapter 5 say what was measured, each change with its interval."""

import pandas as pd

from frugal.figures import tables


def test_a_change_is_given_with_its_interval_whatever_its_verdict(decay):
    effects = pd.DataFrame(
        {"model": "faces-ddpm", "ratio": [0.1, 0.5], "change": [-0.01, 0.2], "low": [-0.02, 0.1], "high": [0.005, 0.3],
         "verdict": ["not distinguishable from zero", "slower"]}
    )  # fmt: skip
    found = tables.saved_and_lost(effects, decay.assign(tokens_before=100.0, tokens_after=50.0))
    assert "| -1.0% (-2.0% to +0.5%), not distinguishable from zero |" in found and "| +20.0% (+10.0% to +30.0%), slower |" in found
    assert "95% interval within this run" in found


def test_a_median_of_seconds_is_given_with_its_interval_in_milliseconds():
    assert tables.milliseconds([0.0102, 0.01, 0.0131, 0.011, 0.012, 0.0125, 0.03]) == "12.0 (10.0 to 30.0)"
