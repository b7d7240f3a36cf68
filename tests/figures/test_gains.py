"""Figures of the chapter on merging that pays: what is drawn is what was found."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from frugal.figures import gains, style
from frugal.measure import gains as measured
from frugal.measure.predict import Prediction


@pytest.fixture
def about():
    return style.About("quick", "a processor, float32")


def prediction(speedup, share, backend="fused"):
    return Prediction(
        "tome", 0.5, (512, 512), backend, "cpu", ("a", "b"), speedup, speedup - 0.02, speedup + 0.02, 1 / (1 - share), 1.1, 2.0,
        2.0 / speedup, share, share, (),
    )


def layers(**columns):
    base = {"backend": "fused", "pixels": 64, "tokens": 64, "channels": 40, "ratio": 0.5, "way": "tome, reuse 3", "milliseconds": 1.0,
            "speedup": 1.0, "ideal": 2.0, "share": 0.5, "low": 0.4, "high": 0.6, "device": "a", "series": "here"}
    return pd.DataFrame(base | columns, columns=measured.COLUMNS, index=range(len(next(iter(columns.values())))))


def test_bars_add_up_to_a_step_and_costs_go_beyond_it(about):
    drawn = gains.where_time_goes([("x", prediction(1.25, 0.4)), ("y", prediction(0.8, 0.1))], about)
    bars = [bar for bar in drawn.figure.axes[0].patches if bar.get_width()]
    widths = np.array([bar.get_width() for bar in bars[:6]]).reshape(2, 3)
    assert np.allclose(widths, [[60, 20, 20], [90, 10, 25]])
    assert bars[5].get_x() == pytest.approx(100) and "added" in [t.get_text() for t in drawn.figure.axes[0].get_legend().texts]
    assert "40% in attention, 1.25x" in drawn.alt


def test_points_are_drawn_against_what_was_predicted(about):
    points = pd.DataFrame({"resolution": [512, 768], "backend": ["fused", "math"], "ratio": [0.25, 0.5], "measured": [0.1, 0.3],
                           "low": [0.09, 0.28], "high": [0.11, 0.33], "predicted": [0.12, 0.3], "flops": [0.05, 0.1], "device": "a"})
    drawn = gains.prediction_against_measurement(points, about)
    ours, theirs = drawn.figure.axes
    assert "off by 1.0 points" in ours.get_title("left") and "off by 12.5 points" in theirs.get_title("left")


def test_resolution_shows_every_way_and_shipped_ones_hollow(about):
    table = pd.concat([layers(pixels=[64, 128], speedup=[0.8, 1.5]), layers(pixels=[64, 128], way=["tomesd"] * 2, speedup=[0.6, 1.2])], ignore_index=True)
    shipped = layers(pixels=[256, 512], speedup=[2.5, 3.5], series=["shipped"] * 2, device=["another"] * 2)
    alone = layers(pixels=[512], speedup=[9.0], series=["shipped"], device=["a third"])  # a point is no axis
    drawn = gains.along_resolution(table, pd.concat([shipped, alone], ignore_index=True), about)
    here, there = drawn.figure.axes
    curves = {line.get_label(): list(line.get_ydata()) for line in here.lines}
    assert curves["tome, reuse 3"] == [0.8, 1.5] and curves["tomesd"] == [0.6, 1.2]
    assert [2.5, 3.5] in [list(line.get_ydata()) for line in there.lines if line.get_markerfacecolor() == "white"]
    assert "another" in there.get_title("left") and "another" in drawn.caption and "third" not in drawn.caption
    assert "1.50 at 128 pixels" in drawn.alt and len(gains.along_resolution(table, shipped[:0], about).figure.axes) == 1


def test_a_line_a_setting_shows_every_way_and_the_table_what_is_ahead_of_tomesd(about):
    base = {"device": "a card", "backend": "math", "pixels": 512, "ratio": 0.5, "rounds": 4, "end": ""}
    ours = base | {"way": "weighted, reuse 2", "change": -0.3, "low": -0.4, "high": -0.2, "lead": -0.1, "lead_low": -0.2, "lead_high": 0.05}
    theirs = base | {"way": "tomesd", "change": -0.2, "low": -0.25, "high": -0.1}
    found = pd.DataFrame([ours, theirs, ours | {"pixels": 768, "change": -0.5, "low": -0.6}], columns=measured.WHOLE)
    drawn = gains.whole_networks(found, about)
    [axes] = drawn.figure.axes
    points = {c.get_label(): c.lines[0].get_xdata().tolist() for c in axes.containers}
    assert points["weighted, reuse 2"] == [-30, -50] and points["tomesd"][0] == -20 and np.isnan(points["tomesd"][1])
    assert "-50%, weighted, reuse 2 at 50%, 768 pixels" in drawn.alt and drawn.caption.count("a card") <= 1
    table = gains.leads(found).splitlines()
    assert len(table) == 4 and table[2] == "| a card | 512 px, math | weighted, reuse 2 | -10.0% (-20.0% to +5.0%) |"


def test_what_governs_the_gain_is_said_from_the_tables(about):
    tokens = layers(tokens=[64, 128, 256], speedup=[0.5, 1.0, 2.0], ideal=[2.0, 2.0, 2.0])
    widths = layers(channels=[40, 160], speedup=[1.0, 4.0], ideal=[2.0, 2.0])
    over = gains.doublings(tokens, widths)
    assert np.allclose([over["tokens"], over["parameters"]], [(2, 1), (2**0.5, 1)])  # 16 times the parameters: 4 doublings
    assert "twice the parameters multiply it by 1.41 (1.00 without overhead)" in gains.governed(over)
    assert gains.claim_governed(over)[1] is False
    assert gains.claim_governed({"tokens": (1.1, 1.1), "parameters": (1.2, 1.2)})[1] is True
    assert len(gains.governs(tokens, widths, about).figure.axes) == 2


def test_peaks_of_several_devices_are_told_in_one_go():
    peaks = pd.DataFrame({"pixels": [512, 1024, 512], "backend": "math", "ratio": [0.5, 0.5, 0.75], "device": ["x", "y", "x"], "less": [3.5, 3.9, 8.0]})
    told = gains.paper_and_thesis([("x", prediction(1.2, 0.3))], peaks).splitlines()[-1]
    assert "| 3.5x to 3.9x less, math attention, 512 to 1024 px (x; y) |" in told and "8.0" not in told


def test_what_chapter_5_measured_stands_beside_the_bound():
    found = [("one", prediction(1.2, 0.3)), ("two", prediction(1.1, 0.1)), ("three", prediction(1.1, 0.1))]
    measured = pd.DataFrame({"model": ["one", "two"], "change": [-0.2, -0.5], "low": [-0.25, -0.6], "high": [-0.1, -0.4]})
    *_, one, two = gains.beside_bound(found, measured).splitlines()
    assert one == "| `one` | 1.25x (1.11 to 1.33) | 1.43x | within the bound |" and "| 1.11x | above it" in two
    assert "has not run here" in gains.beside_bound(found, measured[:0])


def test_tables_read_the_predictions():
    found = [("stable-diffusion-v1-5", prediction(1.2, 0.3)), ("stable-diffusion-v1-5", prediction(2.1, 0.6, "math"))]
    assert "| 30.0% | 1.43x | 1.20x (1.18 to 1.22) | merge if 17% of the time is worth an image that differs |" in gains.advice(found)
    assert "do not merge" in gains.advice([("x", dataclasses.replace(found[0][1], speedup=0.9, low=0.88, high=0.95))])
    lines = gains.paper_and_thesis(found, pd.DataFrame({"pixels": [512], "backend": ["math"], "ratio": [0.5], "device": ["x"], "less": [3.21]})).splitlines()
    assert "RTX 4090" in lines[3] and "against neither" in lines[4] and lines[4].rstrip(" |").endswith("x predicted")
    assert lines[5].startswith("| peak memory | up to 5.6x less") and "3.2x less, math attention, 512 px (x)" in lines[5]
    assert "not measured: `frugal bench merging`" in gains.paper_and_thesis(found[:1], pd.DataFrame())
    assert "| fused, 64 px | 50% | tome, reuse 3 | 1 ms | 1.00x | 2.00x | 0.50 (0.40 to 0.60) |" in gains.shares(layers(pixels=[64]))
