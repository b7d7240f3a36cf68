"""Figures of the chapter on speculative sampling: what is drawn and said is what was found."""

import numpy as np
import pandas as pd
import pytest

from frugal.figures import speculative, style
from frugal.measure import speculation


@pytest.fixture
def about():
    return style.About("quick", "a processor, float32")


def distances(churns=(0.5,), lags=(1, 4)):
    """Three drafts, of which velocity misses most; at churn 0.5 least."""
    rows = [
        ("m", churn, draft, lag, 0, step, miss * lag * (1 + (churn - 0.5) ** 2) * churn, churn)
        for churn in churns for draft, miss in (("velocity", 1.0), ("clean", 0.5), ("tweedie", 0.4)) for lag in lags for step in range(lag, 9)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "churn", "draft", "lag", "image", "step", "change", "std"])
    return table.assign(distance=table.change / table["std"])


def test_the_coupling_shows_overlap_law_and_mirror(about):
    found = speculation.couplings([0.5, 2.0], 1000)
    drawn = speculative.coupling(found, about, delta=2.0, shown=30)
    overlap, law, plane = drawn.figure.axes
    assert "0.32" in [t.get_text() for t in overlap.texts]
    curve = next(line for line in law.lines if len(line.get_xdata()) == 200)
    assert np.interp(2.0, curve.get_xdata(), curve.get_ydata()) == pytest.approx(0.3173, abs=1e-3)
    _, samples, accepted = speculation.coupled(2.0, 30)
    arrows = np.array([t.xy for t in plane.texts])
    assert arrows == pytest.approx(samples[~accepted].numpy()) and f"{found.accepted.iloc[1]:.3f} at 2" in drawn.alt


def test_a_trajectory_has_a_cell_a_judged_state_and_the_committed_front(about):
    table = pd.DataFrame(
        [(0, 0, "kept"), (0, 1, "mirrored"), (0, 2, "thrown away"), (1, 2, "kept"), (1, 3, "drawn")], columns=["round", "step", "fate"]
    )
    drawn = speculative.trajectory({"published": table, "here": table}, about, model="m", seed=0, window=3, churn=0.5)
    axes = drawn.figure.axes[0]
    cells = axes.collections[0].get_array().filled(np.nan)
    assert cells.tolist()[0][:3] == [0, 1, 3] and cells.tolist()[1][2:] == [0, 2] and np.isnan(cells[0, 3])
    assert list(axes.lines[0].get_xdata()) == [0, 2, 4] and axes.get_title("left") == "published: 2 calls, 5 rows"


def test_distances_are_drawn_at_two_lags_and_over_all(about):
    drawn = speculative.distance(distances(), about)
    first, second, over = drawn.figure.axes
    assert [line.get_ydata()[0] for line in first.lines[:3]] == pytest.approx([1, 0.5, 0.4])
    assert [line.get_ydata()[0] for line in second.lines[:3]] == pytest.approx([4, 2, 1.6])
    assert list(over.lines[0].get_ydata()) == pytest.approx([1, 4])
    assert first.lines[-1].get_ydata()[0] == pytest.approx(1.349, abs=1e-3)  # 2 Phi(-1.349 / 2) = 1 / 2
    assert "velocity 1.00 and 4.00; clean 0.50 and 2.00" in drawn.alt


def test_churn_is_best_where_it_was_measured_best(about):
    calls = pd.DataFrame({"churn": [0.25, 0.5, 1.0, 0.5], "calls": [30.0, 22.0, 24.0, 25.0], "verify": [*["replay"] * 3, "reflection"], "draft": "tweedie", "window": 10, "images": 2})
    calls = calls.assign(calls_min=calls.calls - 2, calls_max=calls.calls + 1)
    drawn = speculative.churn(distances((0.25, 0.5, 1.0)), calls, about)
    assert "velocity at 0.5, clean at 0.5" in drawn.alt
    assert "22.0 at 0.5 (replay, not told from 1 by these images); 25.0 at 0.5 (reflection)." in drawn.alt
    parts, ratio, cost = drawn.figure.axes
    assert list(parts.lines[0].get_ydata()) == [0.25, 0.5, 1.0]
    assert list(ratio.lines[0].get_ydata()) == pytest.approx([1.0625, 1, 1.25])
    assert list(cost.lines[0].get_ydata()) == [30, 22, 24]
    assert "half are kept" in [text.get_text() for text in ratio.get_legend().get_texts()] and "dotted: where half of the drafts are kept" in drawn.caption
    assert [bar[:, 1].tolist() for bar in cost.collections[0].get_segments()] == [[28, 31], [20, 23], [22, 25]]


def test_gains_are_drawn_beside_the_signal(about):
    table = pd.DataFrame({"model": "m", "image": 0, "step": [2, 3], "velocity": [0.2, 0.4], "tweedie": [0.01, 0.03]})
    drawn = speculative.gain(table, about)
    assert [list(line.get_ydata()) for line in drawn.figure.axes[0].lines] == [[0.2, 0.4], [0, 0], [0.01, 0.03]]
    assert "0.020 in the median, the signal's share 0.30" in drawn.alt
