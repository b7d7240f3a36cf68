import itertools
import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

import frugal.models
from frugal.measure import cost
from frugal.models import zoo

PUBLISHED = Path(frugal.models.__file__).parent / "published.json"


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    shape = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    return UNet2DModel(**shape, **blocks, attention_head_dim=8).eval()


@pytest.fixture(scope="module")
def text_unet():
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    shape = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    return UNet2DConditionModel(**shape, **blocks, attention_head_dim=2, cross_attention_dim=24).eval()


class Ledger:
    """Functions and contexts that write down when they ran."""

    def __init__(self, names):
        self.lines = []
        self.functions = {name: (lambda name=name: self.lines.append(name)) for name in names}

    @contextmanager
    def context(self):
        self.lines.append("enter")
        yield
        self.lines.append("leave")


def test_interleaved_runs_in_turn_and_begins_with_each():
    ledger = Ledger("abc")
    seconds = cost.interleaved(ledger.functions, rounds=6, warmup=2)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert "".join(ledger.lines[:6]) == "abcabc"
    turns = ["".join(ledger.lines[6 + 3 * k : 9 + 3 * k]) for k in range(6)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert {turn[0] for turn in turns} == set("abc") and len(set(turns)) == 6
    assert all(value >= 0 for values in seconds.values() for value in values)
    pair = Ledger("ab")
    cost.interleaved(pair.functions, rounds=4, warmup=0)
    assert "".join(pair.lines) == "abbabaab"


@pytest.mark.parametrize("n", [2, 3, 4, 11])
def test_turns_let_every_name_precede_every_other_about_as_often(n):
    names = list("abcdefghijk"[:n])
    for rounds in (2, 5, 7, 2 * n):
        turns = [cost.turn(names, k) for k in range(rounds)]
        assert all(sorted(order) == names for order in turns)
        for one, other in itertools.permutations(names, 2):
            assert abs(sum(order.index(one) < order.index(other) for order in turns) - rounds / 2) <= 1 / 2
    assert all(Counter(places) == dict.fromkeys(names, 2) for places in zip(*turns, strict=True))  # every place is everyone's


def test_contexts_surround_their_own_function_off_the_clock(monkeypatch):
    ledger = Ledger("ab")
    monkeypatch.setattr(cost.time, "perf_counter", lambda: ledger.lines.append("clock") or float(len(ledger.lines)))
    seconds = cost.interleaved(ledger.functions, rounds=1, warmup=0, contexts={"b": ledger.context})
    assert ledger.lines == ["clock", "a", "clock", "enter", "clock", "b", "clock", "leave"]
    assert seconds == {"a": [2.0], "b": [2.0]}


def test_bad_timings_are_refused():
    for bad in (
        {"rounds": 0},
        {"warmup": -1},
        {"rounds": 2.5},
        {"functions": {}},
        {"contexts": {"z": Ledger("z").context}},
    ):
        with pytest.raises(ValueError, match="^(rounds|warmup|functions): got"):
            cost.interleaved(**{"functions": Ledger("a").functions, "rounds": 1, **bad})


def test_summary_has_the_quartiles():
    timing = cost.summary([4.0, 1.0, 2.0, 3.0, 10.0])
    assert (timing.mean, timing.median, timing.q1, timing.q3, timing.n) == (4.0, 3.0, 2.0, 4.0, 5)
    assert timing.values == (4.0, 1.0, 2.0, 3.0, 10.0)
    assert cost.seconds(lambda: None, rounds=3).n == 3
    for bad in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="values"):
            cost.summary(bad)


def test_paired_interval_sees_through_a_common_drift():
    rng = np.random.default_rng(0)
    baseline = np.linspace(1, 3, 20)
    estimate = cost.paired_interval(baseline, 0.9 * baseline * rng.normal(1, 0.01, 20))
    assert estimate.low < -0.1 < estimate.high and estimate.high - estimate.low < 0.03 and estimate.n == 20
    for bad in ([1.0] * 19, [0.0] * 20, [1.0, np.inf] * 10):
        with pytest.raises(ValueError, match="changed"):
            cost.paired_interval(baseline, bad)


def test_detectable_is_the_formula_for_a_mean():
    rng = np.random.default_rng(0)
    baseline, again = rng.normal(1, 0.02, 30), rng.normal(1, 0.02, 30)
    from scipy.stats import t

    differences = again / baseline - 1
    expected = (t.ppf(0.975, 29) + t.ppf(0.8, 29)) * differences.std() / np.sqrt(30)
    assert cost.detectable(baseline, again, statistic=np.mean) == pytest.approx(expected, rel=0.05)


def test_detectable_effects_are_found_about_as_often_as_promised():
    rng, found = np.random.default_rng(3), 0
    for k in range(60):
        baseline, again, changed = rng.normal(1, 0.01, (3, 12))
        effect = cost.detectable(baseline, again, seed=k)
        interval = cost.paired_interval(baseline, changed * (1 - effect))
        found += interval.high < 0
    assert 40 <= found <= 60


def test_detectable_grows_with_noise_and_shrinks_with_rounds():
    rng = np.random.default_rng(1)
    noise, drift = rng.normal(0, 1, 64), np.linspace(1, 2, 64)
    twin = lambda size, n=64: cost.detectable(drift[:n], drift[:n] * (1 + size * noise[:n]))
    assert twin(0.01) < twin(0.03) and twin(0.01) < twin(0.01, n=8)
    assert twin(0.0) == 0  # a machine that slows down from round to round slows both runs of a round
    with pytest.raises(ValueError, match="three"):
        cost.detectable([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="power"):
        cost.detectable([1.0] * 5, [1.0] * 5, power=80)


def test_flops_of_known_layers():
    assert cost.flops(torch.nn.Linear(8, 5, bias=False), torch.rand(3, 8)) == 2 * 3 * 8 * 5
    convolution = torch.nn.Conv2d(4, 6, 3, padding=1, device="meta")
    assert cost.flops(convolution, torch.empty(2, 4, 10, 10, device="meta")) == 2 * 2 * 6 * 100 * 4 * 9


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fused_attention_is_counted(device):
    class Core(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    assert cost.flops(Core(), torch.rand(2, 4, 64, 8).to(device)) == 2 * (2 * 2 * 4 * 64 * 64 * 8)


def test_flops_do_not_depend_on_the_device(unet):
    x = torch.rand(2, 3, 16, 16)
    meta = UNet2DModel.from_config(unet.config).to("meta")
    assert cost.flops(unet, x, 1) == cost.flops(meta, x.to("meta"), 1) == 2 * cost.flops(unet, x[:1], 1)


def test_attention_share_is_that_of_the_modules(unet, text_unet):
    tokens, channels = 64, 32
    one = 2 * tokens * channels * channels * 4 + 2 * 2 * tokens * tokens * channels
    expected = len(cost.attention_layers(unet)) * one / cost.flops(unet, torch.rand(1, 3, 16, 16), 1)
    assert cost.attention_share(unet, (1, 3, 16, 16)) == pytest.approx(expected)
    assert next(unet.parameters()).device.type == "cpu"
    text = torch.rand(1, 5, 24)
    assert 0 < cost.attention_share(text_unet, (1, 4, 16, 16), encoder_hidden_states=text) < 1


@pytest.mark.parametrize(
    ("name", "shape", "flops", "share"),
    [
        ("google/ddpm-celebahq-256", (1, 3, 256, 256), 497.028e9, 0.0070),
        ("CompVis/ldm-celebahq-256", (1, 3, 64, 64), 202.400e9, 0.1269),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", (1, 4, 64, 64), 803.273e9, 0.2562),
    ],
)
def test_published_networks_on_the_meta_device(name, shape, flops, share):
    config = json.loads(PUBLISHED.read_text())[name]["unet"]
    kind = UNet2DConditionModel if "cross_attention_dim" in config else UNet2DModel
    options = {"encoder_hidden_states": torch.empty(1, 77, 768, device="meta")} if kind is UNet2DConditionModel else {}
    with torch.device("meta"):
        unet = kind.from_config(config)
    assert cost.flops(unet, torch.empty(shape, device="meta"), 1, **options) == pytest.approx(flops, rel=1e-5)
    assert cost.attention_share(unet, shape, **options) == pytest.approx(share, abs=5e-5)


def test_layers_alone_get_what_reaches_them_in_the_network(unet):
    attention = dict(cost.attention_layers(unet))
    reached = {}
    handles = [m.register_forward_hook(lambda m, i, o, n=n: reached.update({n: o})) for n, m in attention.items()]
    calls = cost.layer_calls(unet, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), 1)
    for handle in handles:
        handle.remove()
    assert set(calls) == set(reached) == set(attention) and len(calls) == 4
    assert all(torch.equal(calls[name](), reached[name]) for name in calls)
    assert not any(module._forward_pre_hooks for module in attention.values())


def test_layer_seconds_are_of_self_attention_only(text_unet, unet):
    x, text = torch.rand(1, 4, 16, 16), torch.rand(1, 5, 24)
    timings = cost.layer_seconds(text_unet, x, 1, encoder_hidden_states=text, rounds=2)
    assert timings and all(name.endswith("attn1") and timing.n == 2 for name, timing in timings.items())
    with pytest.raises(ValueError, match="self-attention"):
        cost.layer_calls(torch.nn.Linear(2, 2), torch.rand(1, 2))


def test_calls_and_rows_are_counted_by_the_network(unet):
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad(), cost.count_calls(unet) as calls:
        unet(x, 1)
        unet(sample=x[:1], timestep=torch.tensor(5))
    assert (calls.calls, calls.rows) == (2, 4)
    with torch.no_grad():
        unet(x, 1)
    assert calls.calls == 2


@pytest.mark.parametrize("wrong", [None, "x", zoo.Model("mine", "memory", torch.nn.Identity(), None)])
def test_only_the_calls_of_a_network_can_be_counted(wrong):
    with pytest.raises(ValueError, match=rf"^unet: got {type(wrong).__name__}; a network \(nn.Module\), e.g. model.unet, is allowed$"), cost.count_calls(wrong):
        pass


def test_a_call_without_a_tensor_has_no_rows():
    module = torch.nn.Identity()
    with cost.count_calls(module) as calls:
        module("words")
        module(torch.tensor(1.0))
    assert (calls.calls, calls.rows) == (2, 0)
