import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor

import frugal
from frugal.measure import alone, capacity, cost, layertimes, predict
from frugal.measure.predict import predict_speedup
from frugal.methods import matching, merging
from frugal.models import zoo

pytestmark = pytest.mark.usefixtures("store")


def pixels(width=8):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=16, block_out_channels=(width, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


def text(**options):
    torch.manual_seed(0)
    shape = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    return UNet2DConditionModel(**shape, **blocks, attention_head_dim=2, cross_attention_dim=12, **options).eval()


def sdxl():
    return text(
        transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=60, use_linear_projection=True,
    )  # fmt: skip


NETWORKS = {"pixels": pixels, "text": text, "sdxl": sdxl}


@pytest.fixture(params=NETWORKS)
def unet(request):
    return NETWORKS[request.param]()


@pytest.fixture
def clock(monkeypatch):
    """Timings without a clock: every function runs once, in its context, and took what the table says."""
    table = {"step": 10.0, "whole": 5.0, "matching": 3.0, "reusing": 2.0, "inside": 4.0}
    asked = []

    def interleaved(functions, rounds=7, warmup=1, device=None, contexts=None):
        asked.append(sorted(functions))
        for name, function in functions.items():
            with (contexts or {}).get(name, nullcontext)():
                function()
        return {name: [table.get(name, 10.0)] * rounds for name in functions}

    monkeypatch.setattr(cost, "interleaved", interleaved)
    monkeypatch.setattr(alone, "_elapsed", lambda begun, ended: table["inside"] / table.get("layers", 1))
    return table, asked


def layers_of(unet):
    return [layer.name for layer in merging.select(unet, "auto")]


def test_the_arithmetic_is_amdahl_s(clock):
    unet = pixels()
    clock[0]["layers"] = len(layers_of(unet))
    found = predict_speedup(unet, ratio=0.5, reuse=1)
    # 4 of 10 s in the layers; alone they fall from 5 to 3 s, of which 4 are attention's: half of them is saved
    assert found.time_share == pytest.approx(0.4) and found.bound == pytest.approx(1 / 0.6)
    assert found.speedup == pytest.approx(1 / 0.8) and found.saved == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((found.speedup, found.speedup))
    assert (found.seconds_before, found.seconds_after) == pytest.approx((10, 8))
    assert found.layers == tuple(layers_of(unet)) and found.device == "cpu" and found.resolution == (16, 16)


def test_the_interval_holds_the_prediction_and_follows_the_scatter():
    rng = np.random.default_rng(0)
    times = [
        layertimes.Times(np.full(5, 10.0), rng.normal(4, s, 5), rng.normal(0.5, s, 5), 0.5, 0.4, ())
        for s in (0.01, 0.1)
    ]
    narrow, wide = (predict._combined(layertimes.question(pixels(), "tome", 0.5), t) for t in times)
    for found in (narrow, wide):
        assert found.low < found.speedup < found.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_ratio_0_is_exactly_1_and_measures_nothing(unet, monkeypatch, store):
    monkeypatch.setattr(cost, "interleaved", lambda *_, **__: pytest.fail("measured"))
    found = predict_speedup(unet, ratio=0, backend="math")
    assert found.speedup == found.bound == found.low == found.high == 1 and found.saved == 0
    assert math.isnan(found.seconds_before) and not store.exists()
    assert str(found).endswith("nothing is merged, exactly 1.00x")


@pytest.mark.parametrize("method", ["tome", "tomesd"])
def test_no_merged_network_runs_and_the_layers_do(unet, method, clock):
    if method == "tomesd" and isinstance(unet, UNet2DModel):
        pytest.skip("tomesd leaves it as it is")
    steps, tokens = [], set()

    def step(_, arguments):
        assert not merging.is_merged(unet)
        steps.append(arguments[0].device.type)

    for module in (unet.conv_in, unet.conv_out):
        module.register_forward_pre_hook(step)
    for layer in merging.select(unet, "auto"):
        layer.attention.to_q.register_forward_pre_hook(
            lambda _, arguments: tokens.add((merging.is_merged(unet), arguments[0].shape[1]))
        )
    clock[0]["layers"] = len(layers_of(unet))
    found = predict_speedup(unet, method, 0.5, reuse=1)
    assert sorted(steps) == ["cpu"] * 2 + ["meta"] * 2  # one step untouched; FLOPs are counted without computing
    whole = {count for merged, count in tokens if not merged}
    assert {count for merged, count in tokens if merged} == {count // 2 for count in whole}
    assert 1 < found.speedup < found.bound


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(unet, fails, monkeypatch):
    def pass_once():
        (noise, timestep), options = layertimes.question(unet, "tome", 0.5).input()
        with torch.no_grad():
            return unet(noise, timestep, **options).sample

    before, modules = pass_once(), [dict(vars(module)) for module in unet.modules()]
    if fails:
        monkeypatch.setattr(layertimes, "_matched", None)
        monkeypatch.setattr(cost, "flops", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict_speedup(unet, ratio=0.5)
    else:
        predict_speedup(unet, ratio=0.5)
    assert torch.equal(pass_once(), before)
    assert [set(vars(module)) for module in unet.modules()] == [set(found) for found in modules]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_layers_run_alone_in_the_network_s_order_and_shape(unet):
    def shapes(call):
        seen = []
        handles = [
            layer.attention.to_q.register_forward_pre_hook(
                lambda _, arguments, name=layer.name: seen.append((name, tuple(arguments[0].shape)))
            )
            for layer in merging.self_attentions(unet)
        ]
        with torch.no_grad():
            call()
        for handle in handles:
            handle.remove()
        return seen

    asked = layertimes.question(unet, "tome", 0.5, batch=2, layers=8)  # all of them
    (noise, timestep), options = asked.input()
    whole = shapes(lambda: unet(noise, timestep, **options))
    with alone.only(unet, asked.layers, asked.size, batch=2):
        assert shapes(lambda: unet(noise, timestep)) == whole
    with alone.only(unet, asked.layers[:1], asked.size, batch=2):
        assert shapes(lambda: unet(noise, timestep)) == whole[:1]


@pytest.mark.parametrize("unet", [pixels, text])
def test_asking_again_costs_nothing_and_another_ratio_only_its_layers(unet, clock):
    unet, (_, asked) = unet(), clock
    first = predict_speedup(unet, ratio=0.5)
    assert asked == [["step"], ["matching", "reusing", "whole"]]
    assert predict_speedup(unet, ratio=0.5) == first and len(asked) == 2
    predict_speedup(unet, ratio=0.25)
    assert asked[2:] == [["matching", "reusing", "whole"]]
    with torch.no_grad():
        unet.conv_in.weight += 1  # time does not depend on what was learned
    assert predict_speedup(unet, ratio=0.5) == first and len(asked) == 3
    for other in ({"backend": "math"}, {"resolution": 32 if isinstance(unet, UNet2DModel) else 128}, {"batch": 2}):
        predict_speedup(unet, ratio=0.5, **other)
    assert asked[3:] == [["step"], ["matching", "reusing", "whole"]] * 3


def test_another_architecture_is_another_question(clock):
    predict_speedup(pixels(), ratio=0.5)
    predict_speedup(pixels(width=12), ratio=0.5)
    plain = pixels()
    for layer in merging.self_attentions(plain):
        layer.attention.set_processor(AttnProcessor())
    predict_speedup(plain, ratio=0.5)
    assert [names for names in clock[1] if names == ["step"]] == [["step"]] * 3 and len(clock[1]) == 6


def test_processors_of_ones_own_are_timed_every_time_and_leave_no_record(clock, store):
    class Own(AttnProcessor):
        pass

    unet, (_, asked) = pixels(), clock
    for layer in merging.self_attentions(unet):
        layer.attention.set_processor(Own())
    assert predict_speedup(unet, ratio=0.5) == predict_speedup(unet, ratio=0.5)
    assert asked == [["step"], ["matching", "reusing", "whole"]] * 2 and not store.exists()


def test_a_network_set_to_run_in_another_way_is_another_question(clock):
    unet = text()
    for change in (lambda: None, lambda: unet.set_attention_slice(1), lambda: unet.set_attention_slice(2)):
        change()
        predict_speedup(unet, ratio=0.5)
        predict_speedup(unet, ratio=0.5)
    assert [names for names in clock[1] if names == ["step"]] == [["step"]] * 3 and len(clock[1]) == 6


def test_a_matching_that_is_reused_is_spread_over_its_steps(clock, monkeypatch):
    unet, (table, asked) = pixels(), clock
    table["layers"] = len(layers_of(unet))
    chosen, draw = [], matching.draw_destinations
    monkeypatch.setattr(matching, "draw_destinations", lambda *key: chosen.append(key) or draw(*key))
    found = predict_speedup(unet, ratio=0.5, reuse=4)
    assert asked[-1] == ["matching", "reusing", "whole"]
    assert len(chosen) == 3 * len(found.layers)  # each layer once in every run of its own: FLOPs, a first step, a later one
    saved = (5 - (3 + 3 * 2) / 4) / 4
    assert found.saved == pytest.approx(0.4 * saved) and "a matching serves 4 steps: the mean of these" in found.how
    assert predict_speedup(unet, ratio=0.5, reuse=1).saved == pytest.approx(0.2)
    assert "reusing" not in asked[-1] and len(chosen) == 6 * len(found.layers)


def test_the_bound_is_never_passed_and_what_seemed_to_pass_it_is_told(clock):
    table, _ = clock
    unet = pixels()
    table |= {"matching": 0.5, "layers": len(layers_of(unet))}
    found = predict_speedup(unet, ratio=0.9, reuse=1)
    assert found.speedup == found.bound and any("which is noise: the bound is given" in said for said in found.how)


def test_flops_are_those_of_the_network_and_of_its_layers(unet):
    asked = layertimes.question(unet, "tome", 0.5, reuse=1)
    (noise, timestep), options = asked.input()
    counted = layertimes.count_flops(asked)
    assert counted["layers"] + counted["rest"] == cost.flops(unet, noise, timestep, **options)
    with alone.only(unet, asked.layers, asked.size):
        assert counted["layers"] == cost.flops(unet, noise, timestep)
    found = predict_speedup(unet, ratio=0.5, reuse=1)
    assert found.flops_share == pytest.approx(counted["layers"] / sum(counted.values()))
    with asked.merge():
        merged = cost.flops(unet, noise, timestep, **options)
    assert 1 / found.flops_speedup == pytest.approx(merged / sum(counted.values()))


@pytest.mark.parametrize(("scaled_layers", "said"), [(False, 1), (True, 2)])
def test_what_is_too_large_is_scaled_from_a_smaller_size(clock, monkeypatch, scaled_layers, said):
    unet, (table, _) = pixels(), clock
    table["layers"] = len(layers_of(unet))
    large, small = (layertimes.count_flops(layertimes.question(unet, "tome", 0.5, r)) for r in (64, 32))
    most = (sum(small.values()) if scaled_layers else large["layers"]) * 1.01
    assert sum(small.values()) < most < sum(large.values()) and (large["layers"] > most) is scaled_layers
    monkeypatch.setitem(capacity.MOST_FLOPS, "cpu", most)
    sizes = []
    unet.conv_in.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[-1]))
    found = predict_speedup(unet, ratio=0.5, resolution=64)
    assert set(sizes) == {32} and found.resolution == (64, 64)
    rest = 6 * large["rest"] / small["rest"]  # 4 of 10 s are the layers'; these take 4 s alone at either size
    inside = 4 * large["layers"] / small["layers"] if scaled_layers else 4
    assert found.seconds_before == pytest.approx(rest + inside)
    assert found.bound == pytest.approx((rest + inside) / rest)
    assert sum("too large to be run here" in how or "so are the layers" in how for how in found.how) == said


def test_memory_that_is_not_there_is_not_asked_for(clock, monkeypatch):
    unet = pixels()
    assert capacity.memory(unet, (64, 64), 1, True) > capacity.memory(unet, (64, 64), 1, False)
    monkeypatch.setattr(capacity, "free", lambda _: capacity.memory(unet, (32, 32), 1, True))
    assert "too large" in predict_speedup(unet, ratio=0.5, resolution=64, backend="math").how[2]
    assert "too large" not in " ".join(predict_speedup(unet, ratio=0.5, resolution=32, backend="math").how)
    monkeypatch.setattr(capacity, "free", lambda _: 0)
    with pytest.raises(ValueError, match="resolution: got 64x64 px, allowed is less"):
        predict_speedup(unet, ratio=0.5, resolution=64)


def test_free_memory_is_a_number_of_bytes():
    assert 2**20 < capacity.free(torch.device("cpu")) <= float("inf")


@pytest.mark.parametrize("backend", ["fused", "math", None])
def test_the_backend_asked_for_is_the_one_in_use(clock, backend):
    unet, seen = text(), set()

    def state():
        return torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()

    before = state()
    for layer in merging.select(unet, "auto"):
        layer.attention.to_q.register_forward_pre_hook(
            lambda _, arguments: seen.add(state()) if arguments[0].device.type == "cpu" else None
        )
    predict_speedup(unet, ratio=0.5, backend=backend)
    assert seen == {{"fused": (True, False), "math": (False, True), None: before}[backend]} and state() == before


def test_models_pipelines_and_their_resolutions(clock, text_pipeline):
    autoencoder = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                                up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    model = zoo.Model("mine", "memory", text(), None, autoencoder)
    assert predict_speedup(model, ratio=0.5).resolution == (16, 16)
    assert predict_speedup(model.unet, ratio=0.5).resolution == (64, 64)
    assert predict_speedup(model.unet, ratio=0.5, downsampling=2, resolution=16).resolution == (16, 16)
    assert predict_speedup(text_pipeline, ratio=0.5, resolution=(16, 32)).resolution == (16, 32)
    assert frugal.predict_speedup is predict_speedup


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratio": 0.95}, "ratio: got 0.95, allowed is a number from 0 to 0.9"),
        ({"ratio": "half"}, "ratio: got 'half'"),
        ({"ratio": 0.001}, "ratio: got 0.001, which removes none"),
        ({"method": "magic"}, "method: got 'magic', allowed are tome"),
        ({"method": "tomesd"}, "method: got 'tomesd'"),
        ({"resolution": 33}, r"resolution: got 33, allowed is a side in pixels or a pair .* multiples of 2"),
        ({"resolution": 0}, "resolution: got 0"),
        ({"resolution": True}, "resolution: got True"),
        ({"resolution": (16, 16, 16)}, r"resolution: got \(16, 16, 16\)"),
        ({"backend": "flash"}, "backend: got 'flash', allowed are fused, math and None"),
        ({"layers": "conv_in"}, "layers: got 'conv_in'"),
        ({"batch": 0}, "batch: got 0, allowed is a whole number from 1 on"),
        ({"rounds": 1.5}, "rounds: got 1.5"),
        ({"downsampling": -1}, "downsampling: got -1"),
        ({"downsampling": 0}, "downsampling: got 0, allowed is a whole number from 1 on"),
        ({"foo": 1}, "^foo: got an argument that predict_speedup does not have, allowed are .* seed and reuse$"),
        ({"unet": 1}, "^unet: got an argument"),
        ({"resolution": 10**7}, "^resolution: got 10000000x10000000 px, allowed is less: even a sixteenth of it"),
    ],
)
def test_what_is_not_allowed_is_refused_before_anything_is_timed(monkeypatch, wrong, message):
    monkeypatch.setattr(cost, "interleaved", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message):
        predict_speedup(pixels(), **{"ratio": 0.5, **wrong})


def test_a_network_without_a_size_of_its_own_asks_for_a_resolution(clock):
    unet = pixels()
    unet.register_to_config(sample_size=None)
    with pytest.raises(ValueError, match="resolution: got None, .* names no sample_size: allowed is a side in pixels or a pair"):
        predict_speedup(unet, ratio=0.5)
    assert predict_speedup(unet, ratio=0.5, resolution=16).resolution == (16, 16)


def test_a_compiled_network_is_refused_with_what_would_do(text_pipeline):
    compiled = torch.compile(text_pipeline.unet, backend="eager")
    for given in (compiled, SimpleNamespace(unet=compiled)):
        with pytest.raises(ValueError, match="^unet_or_model: got a network wrapped by torch.compile, .* the network inside, `_orig_mod`, would do"):
            predict_speedup(given, ratio=0.5)


def test_a_pipeline_s_scheduler_and_mode_are_not_asked_for_and_left_alone(clock):
    given = SimpleNamespace(unet=sdxl().train(), scheduler=FlowMatchEulerDiscreteScheduler())
    assert predict_speedup(given, ratio=0.5, resolution=8).resolution == (8, 8) and given.unet.training


def test_networks_that_cannot_be_merged_are_refused():
    with pytest.raises(ValueError, match="unet_or_model: got Linear, allowed is a UNet2DModel"):
        predict_speedup(torch.nn.Linear(2, 2))
    plain = UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",), norm_num_groups=4,
                        up_block_types=("UpBlock2D",), layers_per_block=1, add_attention=False)  # fmt: skip
    with pytest.raises(ValueError, match="layers: no self-attention to merge"):
        predict_speedup(plain)
    unet = pixels()
    with merging.merge_tokens(unet, 0.5), pytest.raises(ValueError, match="unet: got a network whose tokens are merged"):
        predict_speedup(unet)


def test_a_backend_that_does_nothing_or_is_not_there_is_refused(monkeypatch):
    unet = pixels()
    for layer in merging.self_attentions(unet):
        layer.attention.set_processor(AttnProcessor())
    with pytest.raises(ValueError, match="backend: got 'math', but AttnProcessor does not call scaled_dot_product"):
        predict_speedup(unet, backend="math")
    monkeypatch.setitem(layertimes.BACKENDS, "fused", [torch.nn.attention.SDPBackend.CUDNN_ATTENTION])
    with pytest.raises(ValueError, match=r"backend: got 'fused', which cpu cannot run for this network \(No "):
        predict_speedup(pixels(), backend="fused")


@pytest.mark.parametrize(
    ("numbers", "advice"),
    [
        ((1.2, 1.1, 1.3), "merge if 17% of the time is worth an image that differs"),
        ((0.8, 0.7, 0.9), "do not merge, it costs time"),
        ((1.01, 1.005, 1.02), "do not merge, there is nothing to gain"),
        ((1.2, 0.9, 1.3), "do not merge, there is nothing to gain"),
    ],
)
def test_the_verdict_is_one_sentence(numbers, advice):
    speedup, low, high = numbers
    found = predict.Prediction(
        "tome", 0.5, (512, 768), "fused", "cpu", ("a", "b"), speedup, low, high, bound=1.5, flops_speedup=1.1,
        seconds_before=1.0, seconds_after=1 / speedup, time_share=1 / 3, flops_share=0.2, how=(),
    )  # fmt: skip
    assert str(found) == (
        f"tome, 50% of the tokens, 768x512 px, fused attention on cpu: predicted {speedup:.2f}x ({low:.2f} to {high:.2f}); "
        f"bound 1.50x, as 2 layers take 33% of the time: {advice}"
    )


def test_seconds_inside_modules_are_summed_over_their_calls(monkeypatch):
    moments = iter([0.0, 1.0, 10.0, 13.0])
    monkeypatch.setattr(alone.time, "perf_counter", lambda: next(moments))
    first, second, into = torch.nn.Identity(), torch.nn.Identity(), []
    with alone.clocked([first, second], into, "cpu"):
        second(first(1))
    assert into == [4.0] and not first._forward_hooks and not first._forward_pre_hooks
