import contextlib
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel

from frugal.measure import decay, draws, experiments, fits, plan, records, timing
from frugal.models import zoo
from frugal.parameters import Experiments

RATIOS = (0.0, 0.5, 0.9)


def network(kind=UNet2DModel, channels=3, size=16):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("AttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "AttnUpBlock2D")}
    if kind is UNet2DConditionModel:
        blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 16}
        blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 2}
    sizes = {"in_channels": channels, "out_channels": channels, "block_out_channels": (16, 16), "layers_per_block": 1}
    return kind(sample_size=size, **sizes, **blocks, norm_num_groups=8).eval()


def autoencoder():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        **blocks, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=8, sample_size=16
    ).eval()


@pytest.fixture
def pixel():
    return zoo.Model("faces-tiny", "memory", network(), DDPMScheduler())


@pytest.fixture
def latent():
    return zoo.Model("faces-tiny-latent", "memory", network(channels=4, size=8), DDPMScheduler(), autoencoder())


def forbid(*_arguments, **_options):
    raise AssertionError("measured again")


def test_a_network_is_timed_in_rounds_and_asking_again_measures_nothing(store, pixel, monkeypatch):
    times = experiments.network_times([pixel], RATIOS, rounds=4, scale="smoke")
    assert list(times.columns) == ["model", "weights", "ratio", "round", "seconds", "kind"]
    assert len(times) == 4 * (len(RATIOS) + 1) and (times.seconds > 0).all()
    assert (times[times.kind == "again"].ratio == 0).all() and (times.kind == "again").sum() == 4  # twins of ratio 0
    assert len(list(store.glob("network-*.json"))) == 4  # one record a round: a kill loses one
    monkeypatch.setattr(timing._Rounds, "__call__", forbid)
    pd.testing.assert_frame_equal(experiments.network_times([pixel], RATIOS, rounds=4, scale="smoke"), times)


def test_timing_leaves_the_network_as_it_was(store, pixel):
    noise = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        before = pixel.unet(noise, 5).sample
        experiments.network_times([pixel], RATIOS, rounds=1, scale="smoke")
        experiments.layer_times([pixel], RATIOS, rounds=1, scale="smoke")
        assert torch.equal(pixel.unet(noise, 5).sample, before)


def test_every_layer_is_timed_alone_at_every_ratio(store, pixel):
    layers = experiments.layer_times([pixel], RATIOS, rounds=2, scale="smoke")
    columns = ["model", "weights", "layer", "tokens", "channels", "ratio", "round", "seconds"]
    assert list(layers.columns) == columns
    shapes = layers.drop_duplicates("layer").set_index("layer")
    assert len(layers) == len(shapes) * 2 * len(RATIOS) and (layers.seconds > 0).all()
    assert shapes.tokens["down_blocks.0.attentions.0"] == 256 and shapes.tokens["mid_block.attentions.0"] == 64
    assert set(shapes.channels) == {16}


def test_layers_of_transformer_blocks_are_refused(store):
    model = zoo.Model("text", "memory", network(UNet2DConditionModel), DDPMScheduler())
    with pytest.raises(ValueError, match="transformer blocks"):
        experiments.layer_times([model], RATIOS, rounds=1, scale="smoke")
    assert len(experiments.network_times([model], (0.0, 0.5), rounds=1, scale="smoke")) == 3


def test_composed_times_exchange_the_layers_of_the_same_round():
    whole = [("m", "random", 0.0, k, 10.0 + k, "measured") for k in range(2)]
    network = pd.DataFrame(whole, columns=["model", "weights", "ratio", "round", "seconds", "kind"])
    parts = [
        ("m", "random", layer, 64, 8, ratio, k, {0.0: 2.0, 0.5: 1.5 - 0.1 * k}[ratio])
        for layer in "ab" for ratio in (0.0, 0.5) for k in range(2)
    ]  # fmt: skip
    layers = pd.DataFrame(
        parts, columns=["model", "weights", "layer", "tokens", "channels", "ratio", "round", "seconds"]
    )
    composed = experiments.composed_times(network, layers)
    assert list(composed.columns) == list(network.columns) and set(composed.kind) == {"composed"}
    assert composed.ratio.tolist() == [0.5, 0.5] and np.allclose(composed.seconds, [10 - 1.0, 11 - 1.2])
    assert experiments.composed_times(network, layers[:0]).empty
    hurried = experiments.composed_times(network.assign(seconds=3.0), layers)  # less than the layers, 4.0: the clock's noise
    assert np.allclose(hurried.seconds, [3.0, 2.8])  # what the merged layers took


def test_the_thesis_s_unit_is_scaled_from_steps_and_says_so(store, pixel):
    times = experiments.network_times([pixel], (0.0,), rounds=1, scale="smoke")
    images = experiments.image_seconds(times, 200)
    assert np.allclose(images.seconds, 200 * times.seconds) and images.scaled.all() and (images.steps == 200).all()
    steps = experiments.iterations([pixel], RATIOS, images=2, steps=3, scale="smoke")
    assert list(steps.columns) == ["model", "weights", "ratio", "image", "step", "seconds", "kind"]
    assert len(steps) == 2 * 3 * (len(RATIOS) + 1) and (steps.seconds > 0).all()
    whole = experiments.image_seconds(steps, 3)
    assert (
        not whole.scaled.any()
        and len(whole) == 2 * (len(RATIOS) + 1)
        and np.isclose(whole.seconds.sum(), steps.seconds.sum())
    )
    longer = experiments.image_seconds(steps, 6)
    assert np.allclose(longer.seconds, 2 * whole.seconds) and longer.scaled.all()


def test_sampling_runs_take_turns_within_a_step():
    ran = []
    states = {name: iter(lambda name=name: ran.append(name) or name, None) for name in "ab"}
    seconds = timing.interleaved_steps(states, dict.fromkeys(states, contextlib.nullcontext), 4, "cpu")
    assert "".join(ran) == "abbabaab" and [len(values) for values in seconds.values()] == [4, 4]


def test_decoding_is_timed_where_there_is_a_decoder(store, pixel, latent):
    decode = experiments.decode_times([pixel, latent], rounds=2, scale="smoke")
    assert decode.model.tolist() == ["faces-tiny-latent"] * 2 and (decode.seconds > 0).all()


def rounds(changed, kind="measured", n=9):
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        base = 1 + 0.01 * rng.standard_normal()
        rows += [("m", "random", 0.0, k, base, "measured")]
        rows += [("m", "random", 0.0, k, base * (1 + 0.001 * rng.standard_normal()), "again")]
        rows += [
            ("m", "random", ratio, k, base * (1 + change + 0.001 * rng.standard_normal()), kind)
            for ratio, change in changed
        ]
    return pd.DataFrame(rows, columns=["model", "weights", "ratio", "round", "seconds", "kind"])


def test_what_is_smaller_than_detectable_is_not_distinguishable_from_zero():
    times = rounds([(0.3, 0.0005), (0.5, -0.3), (0.9, 0.3)])
    effect = experiments.detectable(times).effect[0]
    assert 0.0005 < effect < 0.005  # far below the rounds' own spread of 1 %: each is compared within itself
    found = experiments.changes(times).set_index("ratio")
    assert found.verdict.tolist() == ["not distinguishable from zero", "faster", "slower"]
    assert found.change[0.5] == pytest.approx(-0.3, abs=0.01) and found.low[0.5] <= found.change[0.5] <= found.high[0.5]
    assert math.isnan(experiments.detectable(rounds([], n=3)).effect[0])


def test_a_change_that_every_round_shows_is_still_measured_against_what_is_detectable():
    """The twin of ratio 0 is off by 5% either way, the merged steps by the same in every round."""
    kinds = [(0.0, "measured", [1.0] * 6), (0.0, "again", [0.95, 1.05] * 3), (0.5, "measured", [0.99] * 6), (0.9, "measured", [0.8] * 6)]
    rows = [("m", "random", ratio, k, value, kind) for ratio, kind, values in kinds for k, value in enumerate(values)]
    found = experiments.changes(pd.DataFrame(rows, columns=["model", "weights", "ratio", "round", "seconds", "kind"]))
    assert (found.high < 0).all() and 0.01 < found.detectable[0] < 0.2
    assert found.verdict.tolist() == ["not distinguishable from zero", "faster"]


def test_memory_of_a_model_in_memory_is_refused(store, pixel):
    with pytest.raises(ValueError, match="fresh process"):
        experiments.memory([pixel], (0.5,), scale="smoke")


@pytest.fixture
def asked():
    return {"ratios": RATIOS, "watched": 1, "scale": "smoke"}


def test_quality_is_measured_against_the_same_seed(store, pixel, latent, asked, monkeypatch):
    drawn = experiments.drawn([pixel, latent], 2, 2)
    found = experiments.quality_decay(drawn, **asked)
    columns = ["model", "weights", "ratio", "image", "psnr", "ssim", "layers", "tokens_before", "tokens_after"]
    assert list(found.columns) == columns and len(found) == 2 * len(RATIOS) * 2
    unmerged, merged = found[found.ratio == 0], found[found.ratio > 0]
    assert np.isinf(unmerged.psnr).all() and np.allclose(unmerged.ssim, 1) and (unmerged.layers == 0).all()
    assert np.isfinite(merged.psnr).all() and (merged.ssim <= 1).all() and (merged.layers > 1).all()
    share = (1 - merged.tokens_after / merged.tokens_before).to_numpy()
    assert np.allclose(share, merged.ratio, atol=0.02)
    monkeypatch.setattr(decay.samplers, "denoise", forbid)
    pd.testing.assert_frame_equal(experiments.quality_decay(drawn, **asked), found)


def test_trajectories_share_the_records_of_quality_and_end_in_its_images(store, pixel, asked, monkeypatch):
    drawn = experiments.drawn([pixel], 2, 2)
    found = experiments.quality_decay(drawn, **asked)
    monkeypatch.setattr(decay.samplers, "denoise", forbid)
    steps = experiments.trajectories(drawn, **asked)
    assert list(steps.columns) == ["model", "weights", "ratio", "step", "image", "psnr", "ssim"]
    assert len(steps) == len(RATIOS) * 2 and set(steps.image) == {0}
    last = steps[(steps.step == 1) & (steps.ratio > 0)].psnr.to_numpy()  # the last step ends in its clean prediction
    assert np.allclose(last, found[(found.image == 0) & (found.ratio > 0)].psnr, atol=1e-3)


def test_pictures_are_the_first_images_that_were_compared(store, pixel, asked, monkeypatch):
    drawn = experiments.drawn([pixel], 4, 2)
    [(subject, draw)] = drawn.items()
    apart = decay.pictures(subject, 0.5, "tome", draw)  # nothing compared yet: sampled for themselves
    decay._pictured.clear()
    experiments.quality_decay(drawn, **asked)
    monkeypatch.setattr(decay.samplers, "denoise", forbid)
    kept = decay.pictures(subject, 0.5, "tome", draw)
    assert kept.shape == (decay.PICTURED, 3, 16, 16) and torch.allclose(kept, apart, atol=1e-5)
    assert not torch.equal(kept, decay.pictures(subject, 0.0, "tome", draw))


def test_images_beyond_a_batch_are_those_of_smaller_runs(store, pixel, monkeypatch):
    subject = plan.Subject.of(pixel)
    monkeypatch.setattr(decay, "BATCH", 2)
    images, steps = decay._watch(subject, draws.Draw(2, (0, 1, 2)), 3)
    again, alone = decay._watch(subject, draws.Draw(2, (2,)), 1)
    assert images.shape == (3, 3, 16, 16) and steps.shape == (2, 3, 3, 16, 16)
    assert torch.allclose(images[2:], again, atol=1e-5) and torch.allclose(steps[:, 2:], alone, atol=1e-5)


def test_quality_of_random_weights_is_refused():
    with pytest.raises(ValueError, match="random"):
        experiments.drawn([("stable-diffusion-v1-5", "random")])
    for function in (experiments.quality_decay, experiments.trajectories):
        with pytest.raises(ValueError, match="random"):
            function({plan.Subject("ddpm-celebahq-256", "random"): draws.Draw(2, (0, 1))}, RATIOS, scale="smoke")


def test_the_data_set_is_compared_with_models_with_itself_and_with_the_autoencoder(
    store, pixel, latent, asked, monkeypatch
):
    monkeypatch.setattr(decay, "test_faces", lambda indices, size=16: faces16(indices))
    found = experiments.dataset_baselines(experiments.drawn([pixel, latent], 2, 2), **asked)
    assert list(found.columns) == ["model_or_baseline", "ratio", "image", "psnr", "ssim"]
    alone = found[found.ratio.isna()]
    assert set(alone.model_or_baseline) == {"unrelated test images", "autoencoder alone"}
    assert found.groupby(["model_or_baseline", "ratio"], dropna=False).size().eq(2).all()
    assert np.isfinite(found.psnr).all()
    changes = experiments.dataset_changes(found)
    assert set(changes.ratio) == {0.5, 0.9} and set(changes.quantity) == {"psnr", "ssim"}


def faces16(indices):
    from frugal.models.faces import Faces

    return Faces("test", size=16).images(list(indices))


def decaying(shape, noise=0.02, images=12):
    rng = np.random.default_rng(0)
    rows = [("m", 0.0, image, np.inf, 1.0) for image in range(images)]
    for image in range(images):
        level = rng.standard_normal()
        rows += [("m", k / 10, image, shape(k / 10) + level + noise * rng.standard_normal(), 0.5) for k in range(1, 10)]
    return pd.DataFrame(rows, columns=["model", "ratio", "image", "psnr", "ssim"])


def test_an_exponential_decay_is_recognised():
    [fit] = experiments.fit_decay(decaying(lambda r: 10 + 20 * np.exp(-4 * r)), "psnr").itertuples()
    assert fit.better == "exponential" and fit.c == pytest.approx(4, rel=0.1) and fit.b == pytest.approx(20, rel=0.1)
    assert 0 < fit.low <= fit.advantage <= fit.high and fit.share == 1
    assert fit.error_exponential < fit.error_linear and fit.images == 12


def test_a_linear_decay_is_not_called_exponential():
    [fit] = experiments.fit_decay(decaying(lambda r: 30 - 12 * r, noise=0.5), "psnr").itertuples()
    assert fit.better != "exponential" and fit.slope == pytest.approx(-12, rel=0.1)
    [flat] = experiments.fit_decay(decaying(lambda r: 30.0), "ssim").itertuples()  # constant: nothing fails
    assert flat.better == "not distinguishable" and flat.intercept == pytest.approx(0.5)


def test_a_fit_needs_four_ratios_and_a_known_quantity():
    few = decaying(lambda r: 30 - r)
    assert experiments.fit_decay(few[few.ratio <= 0.3], "psnr").empty
    assert experiments.curves(experiments.fit_decay(few[few.ratio <= 0.3], "psnr")).empty
    with pytest.raises(ValueError, match="quantity: got 'fid'"):
        experiments.fit_decay(few, "fid")


def test_curves_pass_through_their_fits():
    table = experiments.fit_decay(decaying(lambda r: 10 + 20 * np.exp(-4 * r), noise=0), "psnr")
    curve = experiments.curves(table, [0.5])
    assert set(curve.form) == {"exponential", "linear"} and list(curve.columns) == [
        "model",
        "metric",
        "form",
        "ratio",
        "value",
    ]
    exponential = curve[curve.form == "exponential"].value.iloc[0]
    assert exponential == pytest.approx(table.a[0] + table.b[0] * math.exp(-table.c[0] / 2))


def test_left_out_error_of_an_exact_line_is_zero():
    ratios = np.arange(1, 10) / 10
    assert fits._left_out_errors(ratios[None], (3 - 2 * ratios)[None])[0] == pytest.approx(0, abs=1e-12)


def test_the_published_pair_s_attention_share_bounds_any_gain(store):
    found = experiments.attention_share([(name, "random") for name in plan.PUBLISHED], scale="smoke")
    assert found.parameters.tolist() == [113_673_219, 274_056_163]
    assert found.share.round(3).tolist() == [0.007, 0.127]
    assert np.allclose(found.bound, 1 / (1 - found.share))


def test_tomesd_changes_nothing_in_a_unet2d_and_is_capped(store):
    found = experiments.noop("smoke")
    here = found[found.series == "here"]
    assert (here.patched == 0).all() and here.identical.all()
    after = here.set_index("ratio").tokens_after
    assert after[0.5] == 128 and after[0.9] == after[0.8] == after[0.75] == 64


def test_a_request_s_models_and_ratios():
    assert [subject.name for subject in plan.subjects(Experiments())] == [*plan.PUBLISHED, *plan.EMBEDDED, plan.TEXT]
    assert all(subject.trained for subject in plan.subjects(Experiments(weights="embedded")))
    one = plan.shares(Experiments(model="ldm-celebahq-256", weights="random", ratio=0.3))
    assert one[0].network_ratios == (0.0, 0.3) and one[0].layer_ratios == () and not one[0].subject.trained
    text = plan.shares(Experiments(model="stable-diffusion-v1-5", weights="random"))
    assert text[0].network_ratios == plan.RATIOS and text[0].layer_ratios == ()


def test_the_quick_scale_is_as_large_as_promised():
    quick, thesis = experiments.SCALES["quick"], experiments.SCALES["thesis"]
    assert quick.ratios == tuple(k / 10 for k in range(10)) and {0.0, 0.5, 0.9} <= set(quick.network_ratios)
    assert quick.rounds >= 7 and quick.small_rounds >= 7 and quick.images >= 16 and quick.steps >= 25
    assert (thesis.timed_images, thesis.timed_steps, len(thesis.ratios)) == (100, 200, 10) and thesis.times_large


@pytest.fixture
def folder(tmp_path):
    DDPMPipeline(network(), DDPMScheduler()).save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def test_the_best_change_kept_is_a_measured_one():
    rows = [("m", 0.5, "measured", -0.05), ("m", 0.8, "composed", -0.12), ("m", 0.5, "composed", -0.2), ("n", 0.8, "composed", -0.1)]
    changes = pd.DataFrame(rows, columns=["model", "ratio", "kind", "change"]).assign(low=-1.0, high=0.0, verdict="faster")
    found = experiments.numbers({"changes": changes})
    assert (found["m_best_ratio"], found["m_best_change"], found["m_best_kind"]) == (0.5, -0.05, "measured")
    assert found["n_best_kind"] == "composed"


def test_a_run_is_forecast_measured_and_then_free(store, folder, monkeypatch):
    request = Experiments(model=folder, scale="smoke", images=2, steps=2, device="cpu")
    before = experiments.forecast(request)
    assert (
        before["cells"] == before["all"] > 5 and before["seconds"] > 0 and before["memory"] > 1e8 and before["disk"] > 0
    )
    run = experiments.Run(request)
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "LOADING", 1.0)  # a second a parameter
        assert experiments.forecast(request)["seconds"] > run.subjects[0].parameters
    tables = run.tables
    assert {"network", "layers", "seconds", "decode", "iterations", "memory", "quality", "fits", "noop"} <= set(tables)
    assert set(tables["quality"].ratio) == set(RATIOS)
    [peak] = tables["memory"].itertuples()  # of a fresh process
    assert list(tables["memory"].columns) == ["model", "weights", "ratio", "bytes", "loaded"]
    assert peak.bytes >= 0 and peak.loaded > 1e6
    after = experiments.forecast(request)
    assert after["cells"] == 0 and after["seconds"] == 0
    found = experiments.numbers(tables)
    assert found and all(isinstance(v, str) or math.isfinite(v) for v in found.values())
    file = experiments.write_numbers(store.parent / "numbers.json", found)
    assert json.loads(file.read_text()) == found
    assert all(record.scale == "smoke" for record in records.load_all(store))


def test_numbers_answer_the_thesis_s_two_statements():
    rows = [
        (model, "random", ratio, k, seconds, kind)
        for model, seconds in zip(plan.PUBLISHED, (1000.0, 400.0), strict=True)
        for ratio, kind in ((0.0, "measured"), (0.5, "composed"))
        for k in range(3)
    ]
    seconds = pd.DataFrame(rows, columns=["model", "weights", "ratio", "round", "seconds", "kind"]).assign(steps=200)
    decode = pd.DataFrame({"model": plan.PUBLISHED[1], "round": range(3), "seconds": 100.0})
    found = experiments.numbers({"seconds": seconds, "decode": decode})
    assert found["published_time_share"] == 0.4 and found["published_time_share_with_decoding_highest"] == 0.5
    assert found["ddpm_celebahq_256_image_seconds"] == 1000


def test_numbers_are_finite_or_text(tmp_path):
    for wrong in (None, float("nan"), [1]):
        with pytest.raises(ValueError, match="numbers\\['x'\\]"):
            experiments.write_numbers(tmp_path / "numbers.json", {"x": wrong})
