import json
from contextlib import nullcontext

import pytest
from diffusers import UNet2DConditionModel

from frugal.measure import alone, bench, bench_prediction, cost, records
from frugal.measure.bench_prediction import HELD_OUT, Point
from frugal.methods import merging
from frugal.models import zoo


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path / "records"))


@pytest.fixture
def model():
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    shape = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
    unet = UNet2DConditionModel(**shape, **blocks, attention_head_dim=2, cross_attention_dim=12).eval()
    return zoo.Model("tiny", "memory", unet, None)


def point(measured, predicted, flops):
    return Point(512, "fused", 0.5, measured, measured - 0.01, measured + 0.01, predicted, flops, bound=0.3)


def test_the_points_are_spread_and_all_within_reach():
    held_out = json.loads(HELD_OUT.read_text())
    points = [tuple(p[name] for name in ("resolution", "backend", "ratio")) for p in held_out["points"]]
    resolutions, backends, ratios = (set(values) for values in zip(*points, strict=True))
    assert 8 <= len(points) == len(set(points)) and backends == {"fused", "math"} and len(resolutions) >= 4
    assert min(ratios) <= 0.25 and max(ratios) >= 0.7 and all(0 < ratio <= 0.75 for ratio in ratios)
    assert all(side % 8 == 0 for side in resolutions) and held_out["model"] in zoo.names()


@pytest.mark.parametrize(
    ("predicted", "flops", "ending"),
    [(0.11, 0.14, "met"), (0.11, 0.115, "MISSED"), (0.16, 0.3, "MISSED"), (0.15, 0.21, "met")],
)
def test_half_of_either_naive_error_is_the_target(predicted, flops, ending):
    points = [point(0.1, predicted, flops), point(0.1, predicted, flops), point(0.1, 0.9, 0.1)]  # medians, not means
    found = bench_prediction.errors(points)
    assert found == pytest.approx({"predicted": predicted - 0.1, "unchanged": 0.1, "flops": flops - 0.1})
    assert bench_prediction.verdict(points).endswith(ending)


def test_every_point_is_measured_against_the_same_untouched_steps(model, monkeypatch, capsys):
    seconds = {"step": 10.0, "whole": 5.0, "matching": 3.0, "ratio 0": 10.0, "ratio 0.5": 8.0, "ratio 0.25": 9.5}
    merged = {}

    def interleaved(functions, rounds=7, warmup=1, device=None, contexts=None):
        for name, function in functions.items():
            with (contexts or {}).get(name, nullcontext)():
                merged[name] = merging.is_merged(model.unet)
                function()
        return {name: [seconds[name]] * rounds for name in functions}

    monkeypatch.setattr(cost, "interleaved", interleaved)
    layers = len(merging.select(model.unet, "auto"))
    monkeypatch.setattr(alone, "_elapsed", lambda begun, ended: 4 / layers)
    points = [{"resolution": 8, "backend": "fused", "ratio": 0.5}, {"resolution": 8, "backend": "fused", "ratio": 0.25}]
    held_out = {"model": "tiny", "method": "tome", "batch": 1, "points": points}
    said = bench_prediction.prediction(3, held_out, model, "smoke")
    assert merged == {"step": False, "whole": False, "matching": True, "ratio 0": False, "ratio 0.5": True, "ratio 0.25": True}
    lines = capsys.readouterr().out.splitlines()
    assert "8 px fused ratio 0.50: measured +20.0% (+20.0% to +20.0%), predicted +20.0%, no change +0.0%" in lines[0]
    assert "ratio 0.25: measured  +5.0% (+5.0% to +5.0%), predicted +20.0%" in lines[1]
    assert "median error of the time saved at 2 held-out points: prediction 7.50%, no change 12.50%" in said
    [record] = [record for record in records.load_all() if record.name == "prediction-score"]
    assert record.values["measured"] == pytest.approx([0.2, 0.05]) and record.values["predicted"] == pytest.approx([0.2, 0.2])
    merged.clear()
    assert bench_prediction.prediction(3, held_out, model, "smoke") == said and not merged  # nothing is measured again


@pytest.mark.parametrize(("said", "met"), [("... : met", True), ("... : MISSED", False)])
def test_the_command_knows_whether_the_target_is_met(monkeypatch, said, met):
    monkeypatch.setattr(bench_prediction, "prediction", lambda: said)
    assert bench.bench("prediction") is met
