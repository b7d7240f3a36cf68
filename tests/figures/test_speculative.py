"""Figures of the chapter on speculative sampling: what is drawn and said is what was found."""

import numpy as np
import pandas as pd
import pytest

from frugal.figures import speculative, style
from frugal.measure import speculation
from frugal.measure.arms import COLUMNS

BANDS = {"kid_low": 0.009, "kid_high": 0.011, "score": 3.5, "rows": 100.0, "accepted": 0.9}


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


def costs(*rows):
    base = {"arm": "a", "sampler": "speculative", "steps": 100, "draft": "tweedie", "verify": "replay", "window": 10, "churn": 0.5, "temperature": 1.0,
            "images": 2, "calls": 20.0, "calls_median": 20.0, "calls_max": 21.0, "rows": 200.0, "draft_rows": 0.0, "seconds": 2.0, "accepted": 0.5}
    return pd.DataFrame([base | row for row in rows], columns=speculation.COST_COLUMNS)


CHAIN = {"sampler": "ddim", "draft": None, "verify": None, "calls": 100.0, "rows": 100.0, "seconds": 1.0}


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
    drawn = speculative.trajectory({"published": table, "here": table}, about, model="m", seed=0)
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
    calls = costs({"churn": 0.25, "calls": 30.0}, {"churn": 0.5, "calls": 22.0}, {"churn": 0.5, "verify": "reflection", "calls": 25.0})
    drawn = speculative.churn(distances((0.25, 0.5, 1.0)), calls, about)
    assert "velocity at 0.5, clean at 0.5" in drawn.alt and "22.0 at 0.5 (replay), 25.0 at 0.5 (reflection)" in drawn.alt
    parts, ratio, cost = drawn.figure.axes
    assert list(parts.lines[0].get_ydata()) == [0.25, 0.5, 1.0]
    assert list(ratio.lines[0].get_ydata()) == pytest.approx([1.0625, 1, 1.25])
    assert list(cost.lines[0].get_ydata()) == [30, 22]


def test_dimensions_tell_their_slope(about):
    d = np.array([4, 64, 1024])
    tables = [pd.DataFrame({"model": name, "draft": "tweedie", "step": 1, "dimensions": d, "distance": 0.1 * d**power}) for name, power in (("a", 0.5), ("b", 0.25))]
    drawn = speculative.dimension(tables, about)
    assert "a 3.20 at 1,024, slope 0.50" in drawn.alt and "b 0.57 at 1,024, slope 0.25" in drawn.alt


def test_gains_are_drawn_beside_the_signal(about):
    table = pd.DataFrame({"model": "m", "image": 0, "step": [2, 3], "velocity": [0.2, 0.4], "tweedie": [0.01, 0.03]})
    drawn = speculative.gain(table, about)
    assert [list(line.get_ydata()) for line in drawn.figure.axes[0].lines] == [[0.2, 0.4], [0, 0], [0.01, 0.03]]
    assert "0.020 in the median, the signal's share 0.30" in drawn.alt


def test_whatever_is_not_exact_says_so():
    table = speculative.arms(costs({}, {"temperature": 2.0}, CHAIN, CHAIN | {"steps": 30}, {"sampler": "dpmpp_2m", "steps": 20})).splitlines()[2:]
    laws = [line.split(" | ")[1] for line in table]
    assert laws == ["exact in law", "approximate", "itself", "a shorter chain", "another sampler"]
    assert "temperature 2" in table[1] and "sequential chain, 30 steps" in table[3] and "1 of 2" in table[0]


def test_what_it_costs_is_said_of_the_exact_arm_alone():
    said = speculative.pays(costs({}, {"temperature": 2.0, "calls": 5.0}, CHAIN))
    assert "20.0 calls in place of 100, 5.0 times fewer" in said and "2.0 times the time" in said
    assert "50 % of the time" in speculative.pays(costs({"seconds": 0.5}, CHAIN))


def slides(**kid):
    names = {"target": "Target (100 steps)", "ours": "Speculative, temperature 1"}
    return pd.DataFrame([BANDS | {"configuration": names[key], "kid": value, "calls": 17.5} for key, value in kid.items()], columns=["configuration", *COLUMNS])


def test_the_slides_table_names_what_is_lacking():
    table = speculative.slides(slides(target=0.01), ["Target (30 steps)"])
    assert "| Target (100 steps) | 3.50 | 0.0100 (0.0090 to 0.0110) | 17.5 | 100 | 90.0% |" in table
    assert "| Target (30 steps) | not measured |" in table and "| 2.34 | 10.32 | 35.40 |" in speculative.published()


def test_shipped_counts_name_the_law_and_lack_nothing_silently():
    rows = pd.DataFrame({"sampler": ["ddim", "speculative", "speculative"], "arm": ["d", "s", "s, temperature 2.0"], "images": 64, "calls": 17.25, "calls_median": 17.0,
                         "calls_max": 21, "rows": 260.0, "model": "m"})
    lines = speculative.counted(rows).splitlines()[2:]
    assert lines == ["| `m` | s | exact in law | 64 | 17.2 | 17 | 21 | 260 |", "| `m` | s, temperature 2.0 | approximate | 64 | 17.2 | 17 | 21 | 260 |"]
    assert "frugal sweep steps" in speculative.counted(rows[:1])


def test_the_riddle_is_seen_only_where_both_sides_of_it_are():
    rows = pd.DataFrame({"configuration": ["Target (30 steps)", "Target (100 steps)"], "calls": [30, 100], "score": [3.6, 3.5], "kid": [0.02, 0.01]})
    assert "3.50 to 3.60" in speculative.oddity(rows) and "the same riddle" in speculative.oddity(rows)
    assert "do not part" in speculative.oddity(rows.assign(score=[3.4, 3.5])) and "not measured" in speculative.oddity(rows[:1])


@pytest.mark.parametrize(("kid", "verdict"), [({}, "not measured yet"), ({"target": 0.01, "ours": 0.0105}, "holds"), ({"target": 0.01, "ours": 0.02}, "outside")])
def test_the_claim_is_judged_by_large_samples(kid, verdict):
    said, found = speculative.claim_fewer(costs({}, CHAIN), slides(**kid))
    assert verdict in found and "20.0 calls" in said and ("KID" in said) == bool(kid)
