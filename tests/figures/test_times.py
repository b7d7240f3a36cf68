import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from frugal.figures import times as timing


def test_a_measured_ratio_counts_before_its_composed_twin(times):
    twin = times[times.ratio == 0.5].assign(kind="composed", seconds=1.0)
    found, plain = timing.effects(pd.concat([twin, times])), timing.effects(times)
    assert found[found.ratio == 0.5].kind.tolist() == ["measured", "measured"]
    assert np.allclose(found.change, plain.change) and len(found) == 18


def test_figure_5_1_draws_every_ratio_filled_where_measured_hollow_where_composed(times, about):
    drawn = timing.time_against_ratio(times, about)
    panels = [axes for axes in drawn.figure.axes if axes.get_xlabel()]
    assert len(panels) == 4
    for absolute in panels[::2]:
        dots = [line for line in absolute.get_lines() if line.get_marker() == "o"]
        hollow = {line.get_markerfacecolor() == "white": len(line.get_xdata()) for line in dots}
        assert hollow == {False: 3, True: 7} and absolute.get_ylim()[0] == 0


def test_figure_5_1_shades_the_smallest_detectable_effect_and_says_so(times, about):
    drawn = timing.time_against_ratio(times, about)
    change = next(axes for axes in drawn.figure.axes if "merging" in axes.get_title(loc="left"))
    band = next(patch for patch in change.patches if isinstance(patch, Rectangle))
    smallest = timing.effects(times).detectable.iloc[0]
    assert np.allclose([band.get_y(), band.get_y() + band.get_height()], [-smallest, smallest])
    assert "not distinguishable from zero" in drawn.caption and "not distinguishable from zero" in drawn.alt


def test_figure_5_1_keeps_shipped_measurements_apart(times, about):
    drawn = timing.time_against_ratio(times, about, reference=times.assign(device="another machine"))
    labels = [
        text.get_text() for axes in drawn.figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()
    ]
    assert "shipped reference: another machine" in labels


def test_figure_5_1_of_one_ratio(times, about):
    drawn = timing.time_against_ratio(times[times.ratio.isin([0, 0.5])], about)
    assert "a ratio of 50%" in drawn.alt and "composed" not in drawn.caption


def test_too_few_rounds_leave_the_band_out(times, about):
    drawn = timing.time_against_ratio(times[times["round"] < 3], about)
    changes = [axes for axes in drawn.figure.axes if "merging" in axes.get_title(loc="left")]
    assert not any(isinstance(patch, Rectangle) for axes in changes for patch in axes.patches)


def test_shipped_rounds_become_a_series_with_their_device(monkeypatch, times):
    from types import SimpleNamespace

    values = {"ratio 0": np.array([2.0]), "ratio 0.5": np.array([1.0])}
    shipped = SimpleNamespace(
        name="network", model={"name": "ldm", "weights": "random"}, device={"name": "GPU"},
        asked={"ratios": [0.0, 0.5], "round": 3, "divisor": 1}, values=values,
    )  # fmt: skip
    monkeypatch.setattr(
        "frugal.measure.records.load_shipped", lambda: [shipped, SimpleNamespace(name="noop", asked={})]
    )
    found = timing.reference()
    assert (
        found.seconds.tolist() == [400, 200]
        and set(found.device) == {"GPU"}
        and set(times.columns) <= set(found.columns)
    )


def test_figure_6_1_gives_both_shares_and_the_thesis_s_lines(times, decode, about):
    drawn = timing.models_compared(times, decode, about)
    share = drawn.figure.axes[1]
    heights = [line.get_ydata()[0] for line in share.get_lines() if line.get_linestyle() == "--"]
    assert heights == [0.5, 0.25]
    without, including = (
        next(l for l in share.get_lines() if l.get_label() == label) for label in ("steps alone", "with decoding")
    )
    assert np.all(including.get_ydata() > without.get_ydata()) and len(without.get_xdata()) == 10
    assert without.get_ydata()[0] == pytest.approx(250 / 600, rel=0.01)


def test_section_4_3_and_the_bound_tell_their_medians(about):
    iterations = pd.DataFrame(
        {
            "model": "faces-ddpm",
            "weights": "embedded",
            "ratio": [0.0, 0.5] * 10,
            "step": np.arange(20) // 2,
            "seconds": [0.02, 0.01] * 10,
            "kind": "measured",
        }
    )
    assert "faces-ddpm 10 to 20 ms" in timing.iteration_times(iterations, about).alt
    memory = pd.DataFrame({"model": "faces-ddpm", "weights": "embedded", "ratio": [0.0, 0.5], "bytes": [2**20, 2**21]})
    assert "faces-ddpm 1 to 2 MiB" in timing.peak_memory(memory, about).alt
    shares = pd.DataFrame({"model": ["ddpm", "ldm"], "share": [0.007, 0.127]})
    assert "ldm 12.7%" in timing.attention_bound(shares, about).alt
