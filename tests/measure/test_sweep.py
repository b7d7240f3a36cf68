"""The sweep on toy networks under made-up names; its records are fakes and stay in the test's folder."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frugal import cli, paths
from frugal.measure import backends, records, sweep, thesis
from frugal.models import architectures, hub, zoo

BLOCKS = {"block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 8}
PIXEL = {
    "_class_name": "UNet2DModel", **BLOCKS, "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
}  # fmt: skip
TEXT = {
    "_class_name": "UNet2DConditionModel", **BLOCKS, "cross_attention_dim": 16, "attention_head_dim": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
CLIP = {"vocab_size": 4, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SCHEDULE = {"_class_name": "DDIMScheduler"}
TOYS = {
    "test/toy-pixel": {"unet": PIXEL, "scheduler": SCHEDULE},
    "test/toy-text": {"unet": TEXT, "text_encoder": {**CLIP, "bos_token_id": 1, "eos_token_id": 2}, "scheduler": SCHEDULE},
}
NAMES = ("toy-pixel", "toy-text")
RATIOS = (0.0, 0.2, 0.5, 0.8, 0.9)  # fewer than the thesis's ten, to be quick
TIME_CELLS = len(NAMES) * 4 * len(RATIOS)
ALL_CELLS = 2 * TIME_CELLS + 2 * len(NAMES)  # times, as many peaks of memory, whole images


@pytest.fixture
def toys(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path / "records"))
    monkeypatch.setattr(paths, "shipped", lambda: tmp_path / "shipped")
    for repository, parts in TOYS.items():
        monkeypatch.setitem(architectures.PUBLISHED, repository, parts)
        monkeypatch.setitem(architectures.SHORT, repository.split("/")[1], repository)
    monkeypatch.setattr(thesis, "MODELS", NAMES)
    monkeypatch.setattr(thesis, "RATIOS", RATIOS)
    return tmp_path


@pytest.fixture
def fakes(toys, monkeypatch):
    """Measurements that take 10 s of a made-up clock each: the cells and the order in which they were made."""
    made = SimpleNamespace(now=0.0, order=[], seconds=10.0)

    def note(*what):
        made.now += made.seconds
        made.order.append(what)

    def steps(subject, ratios, backend):
        note("time", subject.dtype, backend, subject.name, max(ratios))
        names = [thesis.label(ratio) for ratio in ratios] + [thesis.timing.AGAIN]
        return {name: {"unit": "s", "values": 0.9 ** k * np.ones(thesis.STEPS)} for k, name in enumerate(names)}

    def image(subject, ratio, backend):
        note("image", subject.dtype, backend, subject.name, ratio)
        return {"image": {"unit": "s", "values": [250.0]}}

    def memory(subject, ratio, backend, rows):
        note("memory", subject.dtype, backend, subject.name, ratio)
        return {name: {"unit": "B", "values": [2**20]} for name in ("extra", "loaded")}

    for name, function in (("_steps", steps), ("_image", image), ("_memory", memory)):
        monkeypatch.setattr(thesis, name, function)
    monkeypatch.setattr(sweep, "clock", lambda: made.now)
    monkeypatch.setattr(sweep, "_wall", lambda record: 10.0)
    monkeypatch.setattr(sweep, "probe", lambda place, dtype: 1e15)
    return made


def run(minutes=1e6, **options):
    lines = []
    return sweep.sweep("thesis", minutes, device="cpu", say=lines.append, **options), "\n".join(lines)


def test_leading_ratios_of_every_model_and_precision_come_before_the_rest(fakes):
    outcome, _ = run()
    assert len(outcome.measured) == len(fakes.order) == ALL_CELLS and not outcome.missing
    times = [what[1:] for what in fakes.order if what[0] == "time"]
    ways = [(dtype, backend) for dtype in ("bfloat16", "float32") for backend in ("fused", "math")]
    expected = [(*way, name, ratio) for way in ways for name in NAMES for ratio in (0.0, 0.5, 0.9)]
    rest = (0.2, 0.8)
    assert times == expected + [(*way, name, ratio) for way in ways for name in NAMES for ratio in rest]
    images = [what for what in fakes.order if what[0] == "image"]
    assert images == [("image", "bfloat16", "fused", name, ratio) for name in NAMES for ratio in (0.0, 0.5)]
    assert fakes.order.index(images[-1]) < fakes.order.index(("time", *times[len(expected)]))


def test_the_thesis_has_three_models_and_ten_ratios():
    cells = thesis.cells("cpu")
    times = [cell for cell in cells if cell.name == "thesis-steps"]
    assert len(times) == 3 * 4 * 10 and len(cells) == 2 * len(times) + 3 * 2
    assert {max(cell.asked["ratios"]) for cell in times} == {k / 10 for k in range(10)}
    text = {cell.subject.name: cell.asked["rows"] for cell in times}
    assert text == {"ddpm-celebahq-256": 1, "ldm-celebahq-256": 1, "stable-diffusion-v1-5": 2}  # guided: two rows


def test_half_precision_is_float16_where_that_is_fast():
    assert thesis.settings(torch.device("cuda"))[0] == ("float16", "fused")
    assert thesis.settings(torch.device("cpu"))[0] == ("bfloat16", "fused")


def test_it_stops_in_time_and_goes_on_where_it_ended(fakes):
    first, told = run(minutes=5)
    assert 200 < fakes.now <= 300  # 30 cells of 10 s would fit
    assert first.useful and len(first.measured) + len(first.missing) == ALL_CELLS and first.seconds > 0
    assert f"{len(first.missing)} missing, about" in told and "minutes more on this device" in told
    made = list(fakes.order)
    second, _ = run()
    assert second.before == len(first.measured) and len(second.measured) == len(first.missing)
    assert len(set(fakes.order)) == len(fakes.order) == ALL_CELLS and fakes.order[: len(made)] == made
    third, told = run(minutes=1e-6)
    assert third.useful and third.before == ALL_CELLS and not third.measured and "0 missing" in told
    assert len(fakes.order) == ALL_CELLS


def test_a_cell_that_does_not_fit_is_not_begun(fakes):
    run(minutes=0.5)
    fakes.order.clear()
    outcome, _ = run(minutes=0.1)  # 6 s, and every cell like those before takes 10
    assert not [what for what in fakes.order if what[:3] == ("time", "bfloat16", "fused") and what[3] == "toy-pixel"]
    assert outcome.before and outcome.missing


def test_the_time_left_over_goes_to_smaller_cells(fakes, monkeypatch):
    monkeypatch.setattr(sweep.Pace, "forecast", lambda self, cell: 1.0 if cell.kind == "memory" else 1e9)
    outcome, _ = run(minutes=100)
    assert {record.kind for record in outcome.measured} == {"memory"}
    assert len(outcome.missing) == ALL_CELLS - TIME_CELLS


def test_a_forecast_follows_the_flops_of_earlier_cells(toys):
    pace, cells = sweep.Pace(), [c for c in thesis.cells("cpu") if c.kind == "time"]
    plain, merged = cells[0], cells[1]
    assert plain.asked["ratios"] == (0.0,) and merged.asked["ratios"] == (0.0, 0.5)
    pace.learn(plain, 20.0)
    pace.begun.add(plain.subject)
    assert pace.forecast(plain) == pytest.approx(20) and pace.forecast(merged) == pytest.approx(30)  # two runs, three
    text = next(c for c in cells if c.subject.name == "toy-text")
    pace.begun.add(text.subject)
    assert pace.forecast(text) == pytest.approx(sweep.CAUTION * 20 * text.flops / plain.flops)
    assert text.asked["rows"] == 2 and text.steps == 2 * plain.steps  # guidance: two rows a step


def test_a_larger_network_is_forecast_from_the_fastest_of_the_smaller_ones(toys):
    pace, cells = sweep.Pace(), [c for c in thesis.cells("cpu") if c.kind == "time"]
    by_size = sorted({c.subject.flops: c for c in cells}.items())
    (least, small), (most, large) = by_size[0], by_size[-1]
    assert least < most
    pace.begun |= {small.subject, large.subject}
    other = ("time", "another", "bfloat16", "fused")
    pace.learn(small, 10.0)
    pace.speeds[other], pace.sizes[other] = 4 * small.flops / 10.0, least
    assert pace.forecast(large) == pytest.approx(sweep.CAUTION * large.flops / (4 * small.flops / 10.0))
    pace.sizes[other] = 2 * most  # a still larger network tells nothing of this one
    assert pace.forecast(large) == pytest.approx(sweep.CAUTION * large.flops / (small.flops / 10.0))


def test_a_cell_that_fails_costs_no_other(fakes, monkeypatch):
    whole = thesis._memory

    def scarce(subject, *arguments):
        if subject.name == "toy-text":
            raise torch.OutOfMemoryError("no memory\nleft")
        return whole(subject, *arguments)

    monkeypatch.setattr(thesis, "_memory", scarce)
    outcome, told = run()
    assert {cell.subject.name for cell in outcome.missing} == {"toy-text"} and len(outcome.missing) == TIME_CELLS // 2
    assert "not measured: OutOfMemoryError: no memory left" in told


def test_records_say_what_was_run_and_are_scaled_under_that_name(fakes):
    outcome, told = run()
    record = next(r for r in outcome.measured if r.name == "thesis-steps" and r.asked["ratios"] == [0.0, 0.5])
    assert record.scale == "thesis" and record.device["dtype"] == "bfloat16" and record.model["weights"] == "random"
    expected = {"backend": "fused", "steps": 50, "warmup": 10, "of_steps": 200, "batch": 1, "rows": 1, "method": "tome"}
    assert expected.items() <= record.asked.items() and {"torch", "diffusers"} <= set(record.versions) and record.source
    assert "100 images of 200 steps in 5 h, scaled from 50 steps; -10.00% against ratio 0" in told  # 200 x 100 x 0.9 s
    table = thesis.steps_table([record])
    assert len(table) == 3 * 50 and set(table.timed) == {50}
    assert set(table.device) == {f"{record.device['name']}, bfloat16, fused attention"}
    images = thesis.timing.image_seconds(table)
    assert images.scaled.all() and np.allclose(images[images.ratio == 0.5].seconds, 200 * 0.9)


def test_a_ratio_pairs_with_the_ratio_0_it_took_turns_with(fakes):
    found = [r for r in run()[0].measured if r.name == "thesis-steps"][:3]  # ratios 0, 0.5, 0.9 of one model
    changes = thesis.timing.changes(thesis.steps_table(found))
    assert changes.ratio.tolist() == [0.5, 0.9] and np.allclose(changes.change, -0.1)
    assert thesis.steps_table(found)["round"].nunique() == 150


def test_whole_images_check_the_scaling(fakes):
    outcome, told = run()
    checked = thesis.scaling(outcome.measured)
    assert len(checked) == 4 and set(checked.ratio) == {0.0, 0.5} and (checked.seconds == 250).all()
    at = checked.groupby("ratio").error.mean()
    assert at[0.5] == pytest.approx(200 * 0.9 / 250 - 1) and at[0.0] == pytest.approx(200 / 250 - 1)
    assert "toy-pixel at 50% -28.0%" in told


def test_toy_networks_run_in_both_precisions_and_backends(toys, monkeypatch):
    monkeypatch.setattr(thesis, "STEPS", 2)
    monkeypatch.setattr(thesis, "WARMUP", 1)
    cells = [c for c in thesis.cells("cpu") if c.name == "thesis-steps" and c.asked["ratios"][-1] == 0.9]
    assert len(cells) == 8
    for cell in cells:
        values = cell.measure("smoke").values
        assert {len(v) for v in values.values()} == {2} and set(values) == {"ratio 0", "ratio 0 again", "ratio 0.9"}
        assert min(v.min() for v in values.values()) > 0
        assert cell.subject.model.dtype == getattr(torch, cell.subject.dtype)
    assert {cell.subject.dtype for cell in cells} == {"bfloat16", "float32"}


def test_a_guided_step_of_random_weights_has_two_rows(toys):
    subject = thesis.Subject("toy-text", "random", "cpu")
    with thesis.cost.count_calls(subject.model.unet) as counted:
        state = next(thesis._run(subject.model))
    assert (counted.calls, counted.rows) == (1, 2) and torch.isfinite(state.sample).all()


def test_the_backend_asked_for_is_the_one_that_runs(toys):
    calls = []
    subject = thesis.Subject("toy-pixel", "random", "cpu", precision="bfloat16")
    for backend in backends.BACKENDS:
        with torch.profiler.profile() as profile, backends.attending(backend):
            next(thesis._run(subject.model))
        calls.append({event.key for event in profile.key_averages() if "_scaled_dot" in event.key})
    assert all("flash" in key for key in calls[0]) and all("math" in key for key in calls[1]) and all(calls)


def test_peak_memory_and_whole_images_of_toys(toys, monkeypatch):
    found = thesis._prepared("toy-text", "cpu", "float32", 0.5, "math", 2)
    thesis._step(found)
    assert found[-1].args[0].shape[0] == 2 and found[-1].keywords["encoder_hidden_states"].shape[0] == 2
    monkeypatch.setattr(thesis, "THESIS_STEPS", 3)
    [seconds] = thesis._image(thesis.Subject("toy-pixel", "random", "cpu"), 0.5, "fused")["image"]["values"]
    assert seconds > 0


def test_shipped_records_of_such_a_device_are_not_measured_again(fakes, toys):
    outcome, _ = run(minutes=5)
    shipped = toys / "shipped"
    shipped.mkdir()
    for file in (toys / "records").glob("*.json"):
        content = json.loads(file.read_text())
        content["versions"]["torch"], content["device"]["threads"] = "0.1", 64
        if content["name"] == "thesis-memory":
            content["device"]["name"] = "another device"
        (shipped / file.name).write_text(json.dumps(content))
        file.unlink()
    again, _ = run(minutes=1e-6)
    assert again.before == sum(record.name != "thesis-memory" for record in outcome.measured) > 0


def test_the_summary_tells_how_to_ship_the_records(fakes, toys):
    told = run(minutes=5)[1]
    assert f"cp $(grep -l '\"scale\": \"thesis\"' {toys / 'records'}/*.json) {toys / 'shipped'}/" in told
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(paths, "root", lambda: None)
        assert run(minutes=5)[1].rstrip().endswith("/*.json) results/records of a checkout/")  # never into an installed package


def test_an_unreachable_hub_is_told_in_one_line_after_the_rest(fakes, monkeypatch):
    def unreachable(*_arguments, **_options):
        raise hub.MissingWeights("not in the cache,\nand the hub did not give it")

    monkeypatch.setattr(zoo, "fetch", unreachable)
    outcome, told = run(weights="hub")
    assert len(outcome.measured) == ALL_CELLS and outcome.useful and sorted(outcome.without) == sorted(NAMES)
    [line] = [line for line in told.splitlines() if "hub did not give it" in line]
    assert "toy-text, toy-pixel" in line and told.index(line) > told.index("toy-text, float32, math, 80%")
    again, _ = run(weights="hub")
    assert not again.useful  # nothing was left that could be done


def test_a_reachable_hub_adds_quality_at_every_ratio(fakes, monkeypatch):
    made = []

    def quality(name, device):
        subject = thesis.Subject(name, "random", device)
        values = {key: {"unit": "1", "values": [1.0]} for key in ("psnr", "ssim")}
        for ratio in thesis.RATIOS:
            measure = lambda ratio=ratio: made.append((name, ratio)) or values
            yield thesis.Cell("quality", "decay", subject, {"ratio": ratio, "of": name}, measure, (thesis._run,), 10)

    monkeypatch.setattr(thesis, "quality_cells", quality)
    outcome, told = run(weights="hub")
    assert made == [(name, ratio) for name in reversed(NAMES) for ratio in thesis.RATIOS] and not outcome.without
    assert "PSNR 1 dB" in told


def test_quality_is_not_begun_when_the_time_is_up(fakes, monkeypatch):
    monkeypatch.setattr(thesis, "quality_cells", lambda *_: pytest.fail("begun"))
    outcome, told = run(minutes=0.6, weights="hub")
    assert set(outcome.without) == set(NAMES) and "quality not begun: toy-text, toy-pixel" in told


def test_quality_of_published_weights_follows_the_thesis(toys, monkeypatch):
    monkeypatch.setattr(zoo, "fetch", lambda *_, **__: pytest.fail("asked of the hub"))
    toy = zoo.load("toy-pixel", weights="random", device="cpu")
    toy.weights = "hub"
    monkeypatch.setattr("frugal.measure.plan._load", lambda *_: toy)
    cells = thesis.quality_cells("toy-pixel", "cpu")
    assert [cell.asked["ratio"] for cell in cells] == list(thesis.RATIOS)
    assert {(len(cell.asked["seeds"]), cell.asked["steps"]) for cell in cells} == {(100, 200)}
    assert thesis.images_compared(thesis.Subject("toy-text", "hub")) == 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "everything"}, "name: got 'everything', allowed is thesis"),
        ({"minutes": 0}, "minutes: got 0, allowed is a number above 0"),
        ({"minutes": math.nan}, "minutes: got nan"),
        ({"weights": "auto"}, "weights: got 'auto', allowed are random, hub"),
        ({"device": "cuda:7"}, "is not on this machine"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(toys, monkeypatch, given, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = {"name": "thesis", "minutes": 1, "device": "cpu"} | given
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        sweep.sweep(asked.pop("name"), asked.pop("minutes"), **asked)


def test_metal_is_refused_since_its_attention_has_no_name(monkeypatch):
    monkeypatch.setattr(zoo, "find_device", lambda _: torch.device("mps"))
    with pytest.raises(ValueError, match="allowed are cuda, cuda:N and cpu"):
        thesis.check_device("auto")


def test_the_command_passes_its_words_on_and_exits_1_where_nothing_could_be_done(monkeypatch, capsys):
    asked = []

    def swept(name, minutes, **options):
        asked.append((name, minutes, options))
        return SimpleNamespace(useful=minutes > 5)

    monkeypatch.setattr(sweep, "sweep", swept)
    for minutes, code in ((25, 0), (1, 1)):
        with pytest.raises(SystemExit) as ended:
            cli.main(["sweep", "thesis", "--minutes", str(minutes), "--weights", "hub", "--device", "cpu"])
        assert (ended.value.code or 0) == code
    assert asked[0] == ("thesis", 25.0, {"weights": "hub", "device": "cpu"})


def test_records_of_other_kinds_are_no_steps():
    other = SimpleNamespace(name="noop", asked={})
    assert thesis.steps_table([other]).empty and thesis.image_table([other]).empty
    assert isinstance(records.load_shipped(), list)
