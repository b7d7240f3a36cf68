"""Tables of the chapter on merging that pays: rows of the layer, predictions of a plan, shipped records."""

import dataclasses

import pandas as pd
import pytest

from frugal.measure import gains, records
from frugal.methods.merging import METHOD


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path / "records"))
    return tmp_path


def test_every_size_backend_and_width_has_a_row_for_each_way(store):
    table = gains.layer_gains([32, 64], ["fused", "math"], [40], rounds=4, scale="smoke")
    assert list(table.columns) == gains.COLUMNS and (table.series == "here").all()
    assert table.groupby(["backend", "pixels"]).way.nunique().tolist() == [5] * 4  # reused three times, anew, tomesd
    assert set(table.tokens) == {16, 64} and (table.channels == 40).all()
    assert (table[["milliseconds", "speedup", "ideal", "share"]] > 0).all(axis=None) and (table.low <= table.high).all()
    assert (table.speedup_low <= table.speedup_high).all()
    again = gains.layer_gains([32, 64], ["fused", "math"], [40], rounds=4, scale="smoke")
    assert again.equals(table)  # from records


def test_shipped_records_of_the_layer_are_rows_of_their_own(store, monkeypatch):
    gains.layer_gains([64], ["fused"], [40], rounds=4, scale="smoke")
    shipped = records.load_all(store / "records", series="shipped")
    monkeypatch.setattr(records, "load_shipped", lambda: shipped)
    table = gains.shipped_layers(0.5, 40)
    assert len(table) == 5 and (table.series == "shipped").all()
    assert gains.shipped_layers(0.5, 80).empty and gains.shipped_layers(0.25, 40).empty


def test_peaks_are_compared_with_the_untouched_network_of_the_same_step(store, monkeypatch):
    monkeypatch.setattr(records, "load_shipped", list)
    assert gains.peaks().empty
    about = {"name": gains.TEXT, "weights": "random", "weights_hash": "x", "revision": None}
    for size, method, ratio, extra in ((64, None, 0.0, 900.0), (64, "tome", 0.5, 300.0), (64, "tomesd", 0.5, 450.0), (96, "tome", 0.5, 100.0)):
        asked = {"size": [size, size], "backend": "math", "ratio": ratio, "method": method, "batch": 1, "layers": "auto"}
        records.measure("memory", "merging-memory", asked, lambda extra=extra: {"extra": {"unit": "B", "values": [extra]}}, scale="quick", model=about)
    [row] = gains.peaks().to_dict("records")
    assert (row["pixels"], row["backend"], row["ratio"], row["less"]) == (512, "math", 0.5, 3.0)


def test_whole_networks_come_with_the_longer_record_and_half_precision_apart(store, monkeypatch):
    monkeypatch.setattr(records, "load_shipped", list)
    assert gains.networks().empty
    about = {"name": gains.TEXT, "weights": "random", "weights_hash": "x", "revision": None}
    for rounds, dtype, first in ((4, "float32", 0.8), (6, "float32", 0.9), (4, "float16", 0.7)):
        asked = {"size": [64, 64], "backend": "fused", "ratios": [0.5], "method": "tome", "against": "tomesd", "reuse": 2, "layers": "auto", "batch": 1, "rounds": rounds}
        seconds = {"plain": 1.0, "tome 0.5": first, "tome 0.5 later": 0.6, "tomesd 0.5": 1.0}
        found = {name: {"unit": "s", "values": [value] * rounds} for name, value in seconds.items()}
        records.measure("time", "merging", asked, lambda found=found: found, scale="quick", model=about, dtype=dtype)
    table = gains.networks().set_index(["device", "way"])
    [whole, half] = sorted(table.index.levels[0], key=len)
    assert half == f"{whole}, float16" and len(table) == 4
    assert table.change[whole, "tome, reuse 2"] == pytest.approx(-0.25) and table.rounds[whole, "tome, reuse 2"] == 6
    assert table.lead[half, "tome, reuse 2"] == pytest.approx(-0.35) and table.lead.isna()[half, "tomesd"]
    assert table.change[half, "tomesd"] == pytest.approx(0)
    assert table.untouched[whole, "tomesd"] == 1 and table.seconds[whole, "tome, reuse 2"] == pytest.approx(0.75)


def test_a_record_of_the_default_method_comes_before_a_longer_one(store, monkeypatch):
    monkeypatch.setattr(records, "load_shipped", list)
    about = {"name": gains.TEXT, "weights": "random", "weights_hash": "x", "revision": None}
    for method, rounds, theirs in ((METHOD, 4, 0.9), ("tome", 6, 0.8)):
        asked = {"size": [64, 64], "backend": "fused", "ratios": [0.5], "method": method, "against": "tomesd", "reuse": 1, "layers": "auto", "batch": 1, "rounds": rounds}
        seconds = {"plain": 1.0, f"{method} 0.5": 0.7, "tomesd 0.5": theirs}
        found = {name: {"unit": "s", "values": [value] * rounds} for name, value in seconds.items()}
        records.measure("time", "merging", asked, lambda found=found: found, scale="quick", model=about)
    table = gains.networks().set_index("way")  # both records timed tomesd
    assert table.change["tomesd"] == pytest.approx(-0.1) and table.rounds["tomesd"] == 4


def test_fused_merging_is_set_against_math_attention_of_the_same_device_and_image():
    rows = [("a", 512, "math", 4.0, 3.0), ("a", 512, "fused", 2.0, 1.0), ("a", 768, "fused", 2.0, 1.0), ("b", 512, "fused", 2.0, 1.0)]
    found = pd.DataFrame(rows, columns=["device", "pixels", "backend", "untouched", "seconds"])
    [row] = gains.together(found).to_dict("records")
    assert (row["device"], row["pixels"], row["both"], row["alone"]) == ("a", 512, 4, 2)
    assert gains.together(found[:0]).empty


def test_a_prediction_is_wrong_in_sign_only_where_the_sign_is_sure():
    points = pd.DataFrame({"measured": [0.1, -0.1, 0.01], "low": [0.05, -0.2, -0.1], "high": [0.2, -0.05, 0.1], "predicted": [0.14, 0.04, -0.01]})
    found = gains.errors(points)
    assert (found.far, found.over, found.sure, found.right, found.points) == (1, 2, 2, 1, 3)
    assert gains.errors(points.assign(predicted=points.measured + [0.04, -0.06, 0.11])).far == 2  # by more than a twentieth of a step
    assert found.median == pytest.approx(0.04) and found.largest == pytest.approx(0.14) and found.worst.name == 1


def test_what_chapter_5_measured_is_read_round_by_round(store):
    assert gains.of_experiments().empty
    about = {"name": "one", "weights": "random", "weights_hash": "x", "revision": None}
    for k, merged in enumerate((0.9, 0.8, 0.7)):
        found = {gains.label(0): {"unit": "s", "values": [1.0]}, gains.label(0.5): {"unit": "s", "values": [merged]}}
        asked = {"divisor": 1, "ratios": [0.0, 0.5], "round": k, "method": "tome"}
        records.measure("time", "network", asked, lambda found=found: found, scale="quick", model=about)
        other = found | {gains.label(0.5): {"unit": "s", "values": [3.0]}}
        records.measure("time", "network", asked | {"method": "prune"}, lambda other=other: other, scale="quick", model=about)
    [row] = gains.of_experiments(0.5).to_dict("records")
    assert row["model"] == "one" and row["change"] == pytest.approx(-0.2) and row["low"] <= row["change"] <= row["high"]
    assert gains.of_experiments(0.3).empty and gains.of_experiments(0.5, "thesis").empty


def test_peaks_of_chapter_5_are_of_the_published_method_alone(store):
    assert gains.peaks_of_experiments().empty
    about = {"name": "one", "weights": "random", "weights_hash": "x", "revision": None}
    for method, ratio, extra in (("tome", 0.0, 100.0), ("tome", 0.9, 120.0), ("prune", 0.0, 100.0), ("prune", 0.9, 50.0)):
        asked = {"divisor": 1, "ratio": ratio, "method": method}
        records.measure("memory", "memory", asked, lambda extra=extra: {"extra": {"unit": "B", "values": [extra]}}, scale="quick", model=about)
    [row] = gains.peaks_of_experiments().to_dict("records")
    assert row == {"model": "one", "ratio": 0.9, "more": pytest.approx(1.2)}


def test_predictions_follow_the_plan_and_know_published_from_embedded(monkeypatch):
    asked = []
    monkeypatch.setattr(gains.Subject, "model", property(lambda self: (self.name, self.weights)))
    monkeypatch.setattr(gains, "predict_speedup", lambda model, *rest, **options: asked.append((model, *rest)) or "said")
    found = gains.predictions((("faces-sd", None, ("fused", "math")), ("ldm-celebahq-256", 256, ("fused",))), 0.25)
    assert found == [("faces-sd", "said")] * 2 + [("ldm-celebahq-256", "said")]
    assert asked[1] == (("faces-sd", "embedded"), METHOD, 0.25, None, "math")
    assert asked[2] == (("ldm-celebahq-256", "random"), METHOD, 0.25, 256, "fused")


def test_held_out_points_come_from_this_machine_before_others(store, monkeypatch):
    monkeypatch.setattr(records, "load_shipped", list)
    assert gains.held_out().empty
    points = [{"resolution": 512, "backend": "fused", "ratio": 0.5}]
    values = {name: {"unit": "1", "values": [0.1]} for name in ("measured", "low", "high", "predicted", "flops")}
    for name in ("a", "b"):
        records.measure("time", "prediction-score", {"points": points, "by": name, "method": "tome"}, lambda: values, scale="quick")
    timed = {"plain": {"unit": "s", "values": [1.0]}}
    for backend, rounds in (("fused", 5), ("math", 9)):
        records.measure("time", "prediction-held-out", {"size": [64, 64], "backend": backend, "rounds": rounds}, lambda: timed, scale="quick")
    [row] = gains.held_out().to_dict("records")
    assert (row["resolution"], row["predicted"], row["series"]) == (512, 0.1, "here")
    assert (row["way"], row["rounds"]) == ("tome, reuse 1", 5)


def test_held_out_points_come_from_the_record_that_was_finished_last(store, monkeypatch):
    for predicted, end in ((0.3, "2025-02-02T00:00:00.000+00:00"), (0.1, "2025-02-01T00:00:00.000+00:00")):
        values = {name: {"unit": "1", "values": [predicted]} for name in ("measured", "low", "high", "predicted", "flops")}
        asked = {"points": [{"resolution": 512, "backend": "fused", "ratio": 0.5}], "by": end, "method": "tome"}
        records.measure("time", "prediction-score", asked, lambda values=values: values, scale="quick")
    ended = [dataclasses.replace(record, end=record.asked["by"]) for record in records.load_all()]
    for order in (ended, ended[::-1]):
        monkeypatch.setattr(records, "load_shipped", lambda order=order: order)
        monkeypatch.setattr(records, "load_all", list)
        assert gains.held_out().predicted.tolist() == [0.3]


def test_plans_ask_for_what_can_be_told_apart():
    assert set(gains.PLANS) == {"smoke", "quick", "thesis"}
    for plan in gains.PLANS.values():
        assert plan.fixed in plan.pixels and len(plan.channels) > 1 and plan.rounds >= 4
        assert all(side % 8 == 0 for side in plan.pixels) and all(width % 40 == 0 for width in plan.channels)
