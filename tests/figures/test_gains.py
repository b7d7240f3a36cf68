"""Figures of the chapter on merging that pays: what is drawn is what was found."""

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
    found = pd.DataFrame(base | columns, columns=measured.COLUMNS, index=range(len(next(iter(columns.values())))))
    return found.assign(speedup_low=0.9 * found.speedup, speedup_high=1.2 * found.speedup)


def test_bars_add_up_to_a_step_and_costs_go_beyond_it(about):
    drawn = gains.where_time_goes([("x", prediction(1.25, 0.4)), ("y", prediction(0.8, 0.1))], about)
    bars = [bar for bar in drawn.figure.axes[0].patches if bar.get_width()]
    widths = np.array([bar.get_width() for bar in bars[:6]]).reshape(2, 3)
    assert np.allclose(widths, [[60, 20, 20], [90, 10, 25]])
    assert bars[5].get_x() == pytest.approx(100) and "added" in [t.get_text() for t in drawn.figure.axes[0].get_legend().texts]
    assert "40% in attention, 1.25x" in drawn.alt


def test_points_are_drawn_against_what_was_predicted(about):
    points = pd.DataFrame({"resolution": [512, 768], "backend": ["fused", "math"], "ratio": [0.25, 0.5], "measured": [0.1, 0.3],
                           "low": [0.09, 0.28], "high": [0.11, 0.33], "predicted": [0.12, 0.3], "flops": [0.05, 0.1], "rounds": 3, "way": "tome, reuse 1", "device": "a"})
    drawn = gains.prediction_against_measurement(points, about)
    ours, theirs = drawn.figure.axes
    assert "median error 1.0 points" in ours.get_title("left") and "median error 12.5 points" in theirs.get_title("left")
    both = gains.prediction_against_measurement(pd.concat([points, points.assign(device="b")], ignore_index=True), about).caption
    assert "`tome, reuse 1`, at 2 points on 2 devices" in both and "Bars: 3 paired rounds a point" in both
    wrong = points.assign(predicted=[-0.1, 0.3])
    assert "largest error 20.0 points, the right sign at 1 of the 2 points" in gains.prediction_against_measurement(wrong, about).caption


def test_resolution_shows_every_way_and_shipped_ones_hollow(about):
    table = pd.concat([layers(pixels=[64, 128], speedup=[0.8, 1.5]), layers(pixels=[64, 128], way=["tomesd"] * 2, speedup=[0.6, 1.2])], ignore_index=True)
    shipped = layers(pixels=[256, 512], speedup=[2.5, 3.5], series=["shipped"] * 2, device=["another"] * 2)
    alone = layers(pixels=[512], speedup=[9.0], series=["shipped"], device=["a third"])  # a point is no axis
    drawn = gains.along_resolution(table, pd.concat([shipped, alone], ignore_index=True), about)
    here, there = drawn.figure.axes
    curves = {bars.get_label(): bars.lines for bars in here.containers}
    assert list(curves["tome, reuse 3"][0].get_ydata()) == [0.8, 1.5] and list(curves["tomesd"][0].get_ydata()) == [0.6, 1.2]
    [ends] = curves["tomesd"][2]
    assert np.allclose([end[:, 1] for end in ends.get_segments()], [[0.54, 0.72], [1.08, 1.44]])
    assert [2.5, 3.5] in [list(line.get_ydata()) for line in there.lines if line.get_markerfacecolor() == "white"]
    assert "another" in there.get_title("left") and "another" in drawn.caption and "third" not in drawn.caption
    longer = pd.concat([table, layers(pixels=[128], speedup=[9.0], way=["tome, reuse 10"])], ignore_index=True)
    assert gains.along_resolution(longer, shipped[:0], about).alt == drawn.alt  # names what is drawn
    assert "1.50 at 128 pixels" in drawn.alt and len(gains.along_resolution(table, shipped[:0], about).figure.axes) == 1


def test_a_line_a_setting_shows_every_way(about):
    base = {"device": "a card", "backend": "math", "pixels": 512, "ratio": 0.5, "rounds": 4, "end": ""}
    ours = base | {"way": "weighted, reuse 2", "change": -0.3, "low": -0.4, "high": -0.2, "lead": -0.1, "lead_low": -0.2, "lead_high": 0.05}
    theirs = base | {"way": "tomesd", "change": -0.2, "low": -0.25, "high": -0.1}
    found = pd.DataFrame([ours, theirs, ours | {"pixels": 768, "change": -0.5, "low": -0.6}], columns=measured.WHOLE)
    drawn = gains.whole_networks(found, about)
    [axes] = drawn.figure.axes
    one, other = gains.whole_networks(pd.concat([found, found.assign(ratio=0.75, change=-0.9, low=-0.9)], ignore_index=True), about).figure.axes
    assert one.get_xlim() == other.get_xlim()
    points = {c.get_label(): c.lines[0].get_xdata().tolist() for c in axes.containers}
    assert points["weighted, reuse 2"] == [-30, -50] and points["tomesd"][0] == -20 and np.isnan(points["tomesd"][1])
    assert "-50%, weighted, reuse 2 at 50%, 768 pixels" in drawn.alt and drawn.caption.count("a card") <= 1


def test_what_governs_the_gain_is_said_from_the_tables(about):
    tokens = layers(tokens=[64, 128, 256], speedup=[0.5, 1.0, 2.0], ideal=[2.0, 2.0, 2.0])
    widths = layers(channels=[40, 160], speedup=[1.0, 4.0], ideal=[2.0, 2.0])
    over = gains.doublings(tokens, widths)
    found = [(x.measured, x.ideal) for x in (over["tokens"], over["parameters"])]
    assert np.allclose(found, [(2, 1), (2**0.5, 1)])  # 16 times the parameters: 4 doublings
    steep = (1.2 / 0.9) ** 0.25  # bars from 0.9 to 1.2 of the value, the line turned as far as they allow
    assert np.allclose([over["parameters"].low, over["parameters"].high], [2**0.5 / steep, 2**0.5 * steep])
    assert "twice the parameters multiply it by 1.41 (1.32 to 1.52 within the bars), 1.00 without overhead" in gains.governed(over)
    assert len(gains.governs(tokens, widths, about).figure.axes) == 2
