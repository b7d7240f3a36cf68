"""`frugal bench merging`: counts, periods, what is left out and refused; no time is judged."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frugal.measure import bench_merging, capacity, fidelity, merging_layer
from frugal.measure.bench_merging import Bench
from frugal.measure.plan import Subject
from frugal.methods import matching, reductions
from frugal.models import zoo

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def subject(text_pipeline, monkeypatch):
    model = zoo.load(text_pipeline)
    monkeypatch.setattr(bench_merging, "Subject", lambda *_, **__: Subject.of(model))
    return model


def test_a_period_holds_one_matching():
    first, later = np.array([4.0, 10.0]), np.array([1.0, 2.0])
    assert merging_layer.over_period(first, later, 1).tolist() == [4, 10]
    assert merging_layer.over_period(first, later, 3).tolist() == [2, 14 / 3]


def test_a_network_is_compared_row_by_row(subject, capsys):
    bench = Bench(model="toy", ratios=(0.5, 0.9), resolutions=(8, 16), backends=("fused", "math"), rounds=2, memory=False, scale="smoke")
    rows = bench_merging.network(bench)
    assert [(row.resolution, row.backend, row.ratio) for row in rows] == [
        (side, backend, ratio) for side in (8, 16) for backend in ("fused", "math") for ratio in (0.5, 0.9)
    ]
    assert all(row.plain > 0 and row.merged > 0 for row in rows)
    assert all((row.lead is None) == (row.ratio == 0.9) for row in rows)  # tomesd stops at 0.75
    assert capsys.readouterr().out.count("a step") == len(rows)
    assert bench_merging.network(bench) == rows  # from the records


def test_what_does_not_fit_is_predicted_and_left_out(subject, monkeypatch, capsys):
    monkeypatch.setattr(capacity, "free", lambda device: 1.0)
    assert bench_merging.network(Bench(model="toy", resolutions=(8,), rounds=1, memory=False, scale="smoke")) == []
    said = capsys.readouterr().out
    assert "GiB predicted" in said and "left out" in said


def test_a_step_that_reuses_makes_no_matching(subject, monkeypatch):
    made, match = [], matching.match
    monkeypatch.setattr(reductions, "match", lambda *given: made.append(1) or match(*given))
    runs, x, words = {}, torch.randn(1, 4, 8, 8), torch.zeros(1, 5, 16)
    for step in (0, 1):
        with torch.no_grad(), bench_merging._step(runs, "tome", step, subject.unet, 0.5, reuse=2):
            subject.unet(x, 500, words)
    assert len(made) == 3  # every transformer once


def test_the_layer_and_its_ways(monkeypatch):
    monkeypatch.setattr(merging_layer, "CHANNELS", 16)
    rows = merging_layer.shares((0.5, 0.9), 64, reuse=(3, 1), rounds=2, scale="smoke")
    assert [(row.ratio, row.way) for row in rows] == [
        (0.5, "weighted, reuse 3"), (0.5, "weighted, reuse 1"), (0.5, "tomesd"), (0.9, "weighted, reuse 3"), (0.9, "weighted, reuse 1"),
    ]  # fmt: skip
    assert all(row.speedup.low <= row.speedup.value <= row.speedup.high and row.speedup.n == 2 for row in rows)


def test_a_layer_that_reuses_is_timed_without_its_matching(monkeypatch):
    made, choose = [], reductions.groups_of_similar
    monkeypatch.setattr(reductions, "groups_of_similar", lambda *given: made.append(1) or choose(*given))
    asked = {"resolution": 64, "channels": 40, "method": "tome", "ratios": [0.9], "rounds": 5, "backend": "fused"}
    merging_layer._seconds(asked, "cpu", torch.float32)
    assert len(made) == 6 + 6 + 1  # alone and first at every call, warming up included; later once


def test_a_layer_is_compared_round_by_round():
    """A round that is slow throughout changes no ratio."""
    rounds = np.array([1.0, 1.0, 3.0])
    seconds = {"whole": 4 * rounds, "ideal 0.5": rounds, "alone 0.5": 2 * rounds, "first 0.5": 2 * rounds, "later 0.5": np.array([1.0, 2.0, 3.0])}
    record = SimpleNamespace(values=seconds, asked={"method": "tome", "ratios": [0.5]})
    row, reused = merging_layer.compared(record, reuse=(1, 2))
    assert (row.ideal, row.milliseconds) == (4, 2000) and (row.speedup.low, row.speedup.value, row.speedup.high) == (2, 2, 2)
    assert reused.speedup.low == reused.speedup.value == 2 < reused.speedup.high  # 4 s over a median of 2; the other rounds gain more
    assert row.share.value == 0.5 and "x2.00 of an ideal x4.00" in str(row)


@pytest.mark.parametrize("method", ["tome", "weighted", "prune", "todo", "tomesd"])
def test_the_layer_is_that_of_the_network(method, monkeypatch):
    """With nothing removed but copies of a token, merging changes nothing."""
    merged, attention = merging_layer._layer(method, 0.5, 8)
    tokens = torch.ones(2, 64, merging_layer.CHANNELS)
    with torch.no_grad():
        assert torch.allclose(attention(tokens), merging_layer._attention()(tokens), atol=1e-5)
    assert method == "tomesd" or merged.report()[0]["tokens_after"] == 32


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ratios": "a,b"}, "--ratios: got 'a,b'"), ({"backends": "fast"}, "backends: got 'fast', allowed are fused, math"),
        ({"against": "todo"}, "against: got 'todo'"), ({"dtype": "float8"}, "dtype: got 'float8'"), ({"layer": True, "model": "x"}, "--model: got it where it changes nothing"),
        ({"method": "tomesd"}, "method: got 'tomesd', allowed are tome"), ({"batch": 0}, "batch: got 0"), ({"ratios": "0.95"}, "ratios: got .*, to 0.9"),
        ({"layer": True, "method": "nope"}, "method: got 'nope'"), ({"layer": True, "ratios": "0.95"}, "ratios: got"),
        ({"quality": True, "method": "nope"}, "method: got 'nope'"), ({"images": 3}, "--images: got it where it changes nothing, allowed are --model, --weights, .*, --device, --dtype$"), ({"images": 0}, "--images: got it where"),
        ({"quality": True, "images": 0}, "^images: got 0, allowed is a whole number from 1"), ({"quality": True, "images": -3}, "^images: got -3"), ({"layers": 2}, "--layers"),
        ({"layer": True, "quality": True}, "--layer: got it where"), ({"resolutions": "0"}, "resolutions: got"), ({"quality": True, "ratios": "0.5"}, "--ratios: got it where it changes nothing, allowed are --images, --method"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bench_merging.asked(**options)


def test_the_error_of_attention_is_that_of_the_layers_alone():
    found = fidelity.attention_error(ratios=(0.5,), count=1, size=64, reuse=2)
    assert set(found.layer) == {f"{block}.attn1" for block in (
        "down_blocks.0.attentions.0.transformer_blocks.0", "up_blocks.2.attentions.0.transformer_blocks.0",
        "up_blocks.2.attentions.1.transformer_blocks.0")}  # fmt: skip
    assert ((found.ours > 0) & (found.ours < 1) & (found.theirs > 0) & (found.theirs < 1)).all()


def test_one_layer_alone_is_measured_on_the_device_that_there_is(monkeypatch):
    devices = []
    monkeypatch.setattr(bench_merging.merging_layer, "shares", lambda *given, device, **options: devices.append(device) or [])
    assert bench_merging.asked(layer=True, memory=False, device="auto") and bench_merging.asked(layer=True, memory=False)
    assert devices == [str(zoo.find_device("auto"))] * 2
    with pytest.raises(ValueError, match="device"):
        bench_merging.asked(layer=True, memory=False, device="nonsense")
