from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from frugal.figures import shares, shipped
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
    assert change.get_legend() is None and sum(axes.get_legend() is not None for axes in drawn.figure.axes) == times.model.nunique()  # none over the bars


def test_figure_5_1_keeps_shipped_measurements_apart(times, about):
    drawn = timing.time_against_ratio(times, about, reference=times.assign(device="another machine"))
    assert legend(drawn.figure) == ["shipped reference: another machine"]


def swept(model, base, ratio, dtype="float16", backend="fused"):
    """A made-up record of `frugal sweep thesis`: ratio 0.5 halves the time."""
    values = {"ratio 0": base, "ratio 0 again": base, f"ratio {ratio:g}": base * (1 - ratio)}
    steps = 1 + 0.001 * np.arange(50)
    return SimpleNamespace(
        name="thesis-steps", model={"name": model, "weights": "random"}, device={"name": "a GPU", "dtype": dtype},
        asked={"ratios": sorted({0.0, ratio}), "steps": 50, "backend": backend},
        values={name: value * steps for name, value in values.items()},
    )  # fmt: skip


@pytest.fixture
def swept_reference(monkeypatch):
    pair = (("ddpm-celebahq-256", 0.03), ("ldm-celebahq-256", 0.02))
    made = [swept(*model, ratio, backend=way) for model in pair for ratio in (0.0, 0.5) for way in ("fused", "math")]
    monkeypatch.setattr("frugal.measure.records.load_shipped", lambda: made)
    return timing.reference()


def test_swept_steps_become_a_series_that_says_it_is_scaled(swept_reference):
    devices = {f"a GPU, float16, {backend} attention, scaled from 50 steps" for backend in ("fused", "math")}
    assert set(swept_reference.device) == devices and swept_reference.scaled.all() and "timed" not in swept_reference
    measured = swept_reference[(swept_reference.kind == "measured") & swept_reference.model.str.startswith("ddpm")]
    by_ratio = measured.groupby("ratio").seconds.median()
    assert by_ratio[0.0] == pytest.approx(6, rel=0.03) and by_ratio[0.5] == pytest.approx(3, rel=0.03)
    first = swept_reference[swept_reference.device == min(devices)]
    assert np.allclose(timing.effects(first).change, -0.5)


def legend(figure):
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def test_figure_5_1_gives_shipped_seconds_axes_of_their_own(times, about, swept_reference):
    drawn = timing.time_against_ratio(times, about, reference=swept_reference)
    third = [axes for axes in drawn.figure.axes if axes.get_title(loc="left") == "shipped reference"]
    assert len(third) == 2 and third[0].get_ylim()[1] < 10 < times.seconds.min()
    assert [label.count("scaled from 50 steps") for label in legend(drawn.figure)] == [1, 1]
    assert "a GPU, float16, fused attention, scaled from 50 steps" in drawn.caption
    changes = [axes for axes in drawn.figure.axes if "merging" in axes.get_title(loc="left")]
    alone = [axes for axes in timing.time_against_ratio(times, about).figure.axes if "merging" in axes.get_title(loc="left")]
    assert [axes.get_ylim() for axes in changes] == [axes.get_ylim() for axes in alone]  # scaled to the reader's own


def test_figures_without_a_shipped_series_stay_as_they_are(times, decode, about, swept_reference):
    others = swept_reference.assign(model="another model")
    for reference in (None, swept_reference[:0], others):
        five = timing.time_against_ratio(times, about, reference=reference)
        six = timing.models_compared(times, decode, about, reference=reference)
        for drawn, width in ((five, 9.2), (six, 9.2)):
            assert drawn.figure.get_figwidth() == pytest.approx(width) and "shipped" not in drawn.caption
            assert not [axes for axes in drawn.figure.axes if axes.get_title(loc="left") == "shipped reference"]


def test_figure_6_1_draws_shipped_pairs_on_axes_of_their_own(times, decode, about, swept_reference):
    slow = swept_reference.model.str.startswith("ldm")
    reference = swept_reference.assign(seconds=swept_reference.seconds.where(~slow, 3 * swept_reference.seconds))
    drawn = timing.models_compared(times, decode, about, reference=reference)
    _, share, seconds, elsewhere = drawn.figure.axes[:4]
    lines = [line for line in elsewhere.get_lines() if line.get_marker() in "sD"]
    assert len(lines) == 2 and all(np.allclose(line.get_ydata(), 2) for line in lines) and elsewhere.get_ylim()[1] > 2
    assert share.get_ylim()[1] == 0.6 and not [line for line in share.get_lines() if line.get_marker() == "D"]  # the reader's own scale
    assert len(seconds.get_lines()) == 4 and all("a GPU" in label for label in legend(drawn.figure))
    assert "half filled: ldm-celebahq-256" in drawn.caption and "Below, other machines" in drawn.caption
    assert [line.get_fillstyle() for line in seconds.get_lines()] == ["full", "bottom"] * 2


def test_a_latent_step_that_is_not_quicker_elsewhere_is_counted(swept_reference):
    told = shipped.latent_share(swept_reference)
    assert "not quicker for sure than one of ddpm-celebahq-256 in 0 of 2 settings" in told and told.endswith("67% of the time.")
    slow = swept_reference.model.str.startswith("ldm") & swept_reference.device.str.contains("math")
    told = shipped.latent_share(swept_reference.assign(seconds=swept_reference.seconds.where(~slow, 3 * swept_reference.seconds)))
    assert "in 1 of 2 settings" in told and told.endswith("67% to 200% of the time.")
    assert shipped.latent_share(swept_reference[~slow & (swept_reference.model == "ddpm-celebahq-256")]) == ""


def test_figure_6_1_needs_both_models_of_a_series(times, decode, about, swept_reference):
    alone = swept_reference[swept_reference.model == "ddpm-celebahq-256"]
    assert "shipped" not in timing.models_compared(times, decode, about, reference=alone).caption


def test_figure_5_1_of_one_ratio(times, about):
    drawn = timing.time_against_ratio(times[times.ratio.isin([0, 0.5])], about)
    assert "the change at 50% is not" in drawn.alt and "composed" not in drawn.caption


def test_too_few_rounds_leave_the_band_out(times, about):
    drawn = timing.time_against_ratio(times[times["round"] < 3], about)
    changes = [axes for axes in drawn.figure.axes if "merging" in axes.get_title(loc="left")]
    assert not any(isinstance(patch, Rectangle) for axes in changes for patch in axes.patches)


def test_shipped_rounds_become_a_series_with_their_device(monkeypatch, times):
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


def test_figure_6_1_fills_what_was_measured_and_keeps_its_labels_off_the_data(times, decode, about):
    drawn = timing.models_compared(times, decode, about)
    share = drawn.figure.axes[1]
    hollow, filled = (line for line in share.get_lines() if line.get_marker() == "s")
    assert hollow.get_markerfacecolor() == "white" and filled.get_xdata().tolist() == [0, 0.5, 0.9]
    upper, lower = share.texts
    assert upper.get_va() == "bottom" and lower.get_va() == "top" and lower.xyann[1] < 0
    assert "intervals within this run" in drawn.caption
    (bars,) = share.collections
    reach = np.array([segment[:, 1] for segment in bars.get_segments()])
    found = shares.intervals(times, *times.model.unique())
    assert np.allclose(reach, found[["low", "high"]]) and "95% interval" in [text.get_text() for text in share.get_legend().get_texts()]


def test_a_caption_says_how_far_composed_lies_from_measured(times, about):
    twin = times[(times.ratio == 0.5) & (times.kind == "measured")].assign(kind="composed", seconds=lambda t: 0.9 * t.seconds)
    told = timing.time_against_ratio(pd.concat([times, twin]), about).caption
    assert "Where a ratio is both, composed against measured: ddpm-celebahq-256 −10% against" in told
    assert "ldm-celebahq-256 −14% against −5" in told
    plain = timing.time_against_ratio(times, about).caption
    assert "composed against measured" not in plain and "those of the layers alone" in plain and "within this run" in plain


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
    assert "faces-ddpm 1 to 2 MiB" in timing.peak_memory(memory, about).alt and "One measured value a bar" in timing.peak_memory(memory, about).caption
    shares = pd.DataFrame({"model": ["ddpm", "ldm"], "share": [0.007, 0.127]})
    assert "ldm 12.7%" in timing.attention_bound(shares, about).alt


def test_changes_on_other_machines_are_told_with_their_verdicts(swept_reference, monkeypatch):
    told = shipped.elsewhere()
    assert told.startswith("Of 4 settings of the published method (`tome`, reuse 1) measured on other machines a step is faster in 4:")
    assert "| device, precision and attention | model, image | merged 50% |" in told
    assert "| a GPU, float16, math attention | ldm-celebahq-256, 256 px | -50.0% (-50.0% to -50.0%), faster |" in told
    monkeypatch.setattr("frugal.measure.records.load_shipped", list)
    assert "frugal sweep thesis" in shipped.elsewhere()


def test_a_ratio_that_one_row_alone_has_gets_no_column(monkeypatch):
    text = "stable-diffusion-v1-5"
    made = [*(swept(text, 0.02, 0.5, backend=way) for way in ("fused", "math")), swept(text, 0.02, 0.1)]
    monkeypatch.setattr("frugal.measure.records.load_shipped", lambda: made)
    assert "| model, image | merged 50% |" in shipped.elsewhere() and f"{text}, 512 px" in shipped.elsewhere()
    monkeypatch.setattr("frugal.measure.records.load_shipped", lambda: made[-1:])
    assert "| model, image | merged 10% |" in shipped.elsewhere()
