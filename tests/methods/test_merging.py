"""Merging in networks: parity with tomesd and diffusers, exact restoration, refusals, both kinds of network."""

import copy
import pickle
import random

import numpy as np
import pytest
import tomesd
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file

from frugal.methods import merging as merging_module
from frugal.methods.matching import Call
from frugal.methods.merging import MergedAttention, merge_tokens, self_attentions


@pytest.fixture(scope="module")
def pixels():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    ).eval()


@torch.no_grad()
def run(unet, size=(16, 16), timestep=7, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, unet.config.in_channels, *size, generator=generator).to(dtype)
    if isinstance(unet, UNet2DModel):
        return unet(sample, timestep).sample
    return unet(sample, timestep, torch.randn(batch, 5, 12, generator=generator).to(dtype)).sample


@pytest.fixture(params=["pixels", "text"])
def unet(request):
    return request.getfixturevalue(request.param)


def processors(unet):
    return {name: module.processor for name, module in unet.named_modules() if isinstance(module, Attention)}


def state(unet):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), type(m), sorted(m.__dict__)) for m in unet.modules()]
    return hooks, list(unet.state_dict())


# Parity with tomesd


def run_tomesd(unet, monkeypatch, ratio, order):
    """tomesd's output where its random destinations are those that ours draws for the layers, in their order."""
    layers = iter(order)

    def choices(_high, size, **_options):
        rows, columns, _ = size
        call = Call(next(layers), (2 * rows, 2 * columns), int(ratio * 4 * rows * columns), (7.0,), 0)
        y, x = (call.destinations("cpu")[0] // (2 * columns)), (call.destinations("cpu")[0] % (2 * columns))
        return (y % 2 * 2 + x % 2).view(rows, columns, 1)

    tomesd.apply_patch(unet, ratio=ratio)
    with monkeypatch.context() as patch:
        patch.setattr(tomesd.merge.torch, "randint", choices)
        return run(unet)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
def test_equals_tomesd_with_the_same_destinations(text, monkeypatch, ratio):
    text = copy.deepcopy(text)
    whole = run(text)
    with merge_tokens(text, ratio, method="tome", reuse=1) as merging:
        ours = run(text)
    theirs = run_tomesd(text, monkeypatch, ratio, [row["layer"] for row in merging.report()])
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert (ours - whole).abs().max() > 1e-3  # a hundred times what is tolerated above


def test_tomesd_itself(text):
    text = copy.deepcopy(text)
    before, whole = state(text), run(text)
    random_state = torch.get_rng_state()
    with merge_tokens(text, 0.5, method="tomesd", seed=3) as merging:
        first = run(text)
        assert {type(m).__name__ for m in text.modules()} >= {"ToMeBlock"}
    with merge_tokens(text, 0.5, method="tomesd", seed=3) as again:
        assert torch.equal(run(text), first)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not torch.equal(first, whole)
    assert torch.equal(run(text), whole) and state(text) == before
    with merge_tokens(text, 0.5) as ours:
        run(text)
    assert merging.report() == again.report() == ours.report()
    with merge_tokens(text, 0.5, method="tomesd", layers=2) as everywhere:
        run(text)
    assert len(everywhere.report()) == len(list(self_attentions(text)))


def test_tomesd_is_refused_where_it_would_do_less_than_asked(pixels, text):
    with pytest.raises(ValueError, match="method: got 'tomesd'.*would change nothing in this UNet2DModel"):
        merge_tokens(pixels, 0.5, method="tomesd")
    with pytest.raises(ValueError, match="ratio: got 0.8.*cap"):
        merge_tokens(text, 0.8, method="tomesd")
    with pytest.raises(ValueError, match="layers: got a choice that tomesd cannot make"):
        merge_tokens(text, 0.5, method="tomesd", layers=["mid_block.attentions.0.transformer_blocks.0.attn1"])
    assert not any(type(module).__name__ == "ToMeBlock" for net in (pixels, text) for module in net.modules())


# Parity with diffusers: the wiring alone, with nothing merged


def whole(attend, tokens, metric, call):
    return attend(tokens)


@pytest.mark.parametrize("original", [AttnProcessor2_0(), AttnProcessor()])
@pytest.mark.parametrize("options", [{"heads": 8}, {"heads": 1}, {"heads": 2, "bias": True, "scale_qk": False}])
@pytest.mark.parametrize("is_map", [True, False])
def test_attention_to_all_tokens_is_that_of_diffusers(original, options, is_map):
    torch.manual_seed(0)
    attention = Attention(
        16, dim_head=8, norm_num_groups=4, residual_connection=True, rescale_output_factor=1.4, processor=original,
        **options,
    )  # fmt: skip
    x = torch.randn(2, 16, 4, 6) if is_map else torch.randn(2, 24, 16)
    expected = attention(x)
    merging = merging_module.Merging(None, 0.0, [], 0)
    layer = merging_module.Layer("attention", attention, 1, grid=(4, 6))
    attention.set_processor(MergedAttention(merging, layer, whole, original))
    assert torch.allclose(attention(x), expected, atol=1e-6)


def test_spatial_norm_and_group_norm_see_every_token():
    torch.manual_seed(0)
    attention = Attention(32, heads=2, dim_head=8, norm_num_groups=4, spatial_norm_dim=6, residual_connection=True)
    x, temb = torch.randn(2, 32, 4, 4), torch.randn(2, 6, 2, 2)
    expected = attention(x, temb=temb)
    merging, layer = merging_module.Merging(None, 0.0, [], 0), merging_module.Layer("attention", attention, 1)
    attention.set_processor(MergedAttention(merging, layer, whole, attention.processor))
    assert torch.allclose(attention(x, temb=temb), expected, atol=1e-6)


def test_networks_with_nothing_merged_are_bit_identical(unet, monkeypatch):
    expected = run(unet)
    monkeypatch.setitem(merging_module.METHODS, "whole", whole)
    with merge_tokens(unet, 0.5, method="whole", layers=8), pytest.raises(ValueError, match="removes none"):
        run(unet)
    monkeypatch.setattr(merging_module.Merging, "_end", lambda *_: None)
    with merge_tokens(unet, 0.5, method="whole", layers=8):
        assert torch.equal(run(unet), expected)


def test_methods_may_leave_queries_alone(unet, monkeypatch):
    """A method of another kind, fewer keys only, needs an entry in the registry and no change of the wiring."""
    monkeypatch.setitem(merging_module.METHODS, "half", lambda attend, x, metric, call: attend(x, x[:, ::2]))
    expected = run(unet)
    with merge_tokens(unet, 0.5, method="half") as merging:
        assert not torch.equal(run(unet), expected)
    assert all(row["tokens_after"] == row["tokens_before"] // 2 for row in merging.report())


# Restoring


def test_leaving_restores_the_network_exactly(unet):
    found, before, expected = processors(unet), state(unet), run(unet)
    with merge_tokens(unet, 0.5):
        assert any(isinstance(p, MergedAttention) for p in processors(unet).values())
        assert not torch.equal(run(unet), expected)
    merging = merge_tokens(unet, 0.9)
    merging.remove()
    merging.remove()
    with pytest.raises(KeyError), merge_tokens(unet, 0.3):
        raise KeyError
    assert {name: id(p) for name, p in processors(unet).items()} == {name: id(p) for name, p in found.items()}
    assert state(unet) == before
    assert torch.equal(run(unet), expected)


@pytest.mark.parametrize("method", ["tome", "tomesd"])
def test_ratio_zero_touches_nothing(unet, method):
    before, expected = state(unet), run(unet)
    with merge_tokens(unet, 0, method=method) as merging:
        assert state(unet) == before
        assert torch.equal(run(unet), expected)
    assert merging.report() == []


def test_an_exception_inside_the_network_leaves_it_restorable(text):
    expected = run(text)
    with pytest.raises(RuntimeError), merge_tokens(text, 0.5):
        text(torch.randn(2, 4, 16, 16), 7, torch.randn(2, 5, 99))
    assert torch.equal(run(text), expected)


class Scaled(torch.nn.Module):
    """A processor with a weight of its own and a keyword argument."""

    def __init__(self):
        super().__init__()
        self.gain, self.base = torch.nn.Parameter(torch.ones(())), AttnProcessor2_0()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, boost=1.0):
        return self.gain * boost * self.base(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


@pytest.fixture
def scaled(text):
    text = copy.deepcopy(text)
    text.set_attn_processor({name: Scaled() for name in text.attn_processors})
    return text


def test_processors_that_are_modules_stay_registered(scaled, tmp_path):
    before, found, expected = state(scaled), processors(scaled), run(scaled)
    with merge_tokens(scaled, 0.5):
        assert list(scaled.state_dict()) == before[1] and not torch.equal(run(scaled), expected)
        assert {type(p) for p in scaled.attn_processors.values()} > {Scaled}
        scaled.save_pretrained(tmp_path)
        scaled.double()
        assert {p.dtype for p in scaled.parameters()} == {torch.float64}
        run(scaled, dtype=torch.float64)
        scaled.float()
    assert list(load_file(tmp_path / "diffusion_pytorch_model.safetensors").keys() ^ set(before[1])) == []
    assert state(scaled) == before and torch.equal(run(scaled), expected)
    assert all(p is found[name] for name, p in processors(scaled).items())


@pytest.mark.parametrize("replacement", [Scaled, AttnProcessor])
@pytest.mark.parametrize("original", ["text", "scaled"])
def test_processors_set_inside_go_with_the_block(request, original, replacement):
    network = request.getfixturevalue(original)
    before, found, expected = state(network), processors(network), run(network)
    if (original, replacement) != ("scaled", AttnProcessor):
        with merge_tokens(network, 0.5, layers=2):
            network.set_attn_processor({name: replacement() for name in network.attn_processors})
    else:  # torch: a module's place takes a module
        with pytest.raises(TypeError, match="cannot assign"), merge_tokens(network, 0.5, layers=2):
            network.set_attn_processor(replacement())
    network.set_attn_processor({f"{name}.processor": p for name, p in found.items()})  # those that were not covered
    assert state(network) == before and torch.equal(run(network), expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_keyword_arguments_reach_the_processor(scaled, compiled):
    torch._dynamo.reset()
    x, words, names = torch.randn(1, 4, 16, 16), torch.zeros(1, 5, 12), list(scaled.attn_processors)
    scaled.set_attn_processor({name: Scaled() if ".attn1." in name else AttnProcessor2_0() for name in names})
    call = torch.compile(scaled, backend="eager") if compiled else scaled
    with torch.no_grad(), merge_tokens(scaled, 0.5, layers=2):
        plain, boosted = (call(x, 7, words, cross_attention_kwargs=k).sample for k in (None, {"boost": 3.0}))
        for module in scaled.modules():
            if isinstance(module, Scaled):
                module.gain.fill_(3.0)
        assert torch.allclose(scaled(x, 7, words).sample, boosted, atol=1e-5) and not torch.allclose(plain, boosted, atol=1e-3)
    torch._dynamo.reset()


@pytest.mark.parametrize("method", list(merging_module.METHODS))
def test_fused_projections(text, method):
    fused = copy.deepcopy(text)
    with torch.no_grad():
        fused.fuse_qkv_projections()
    with merge_tokens(text, 0.5, method=method), merge_tokens(fused, 0.5, method=method):
        assert torch.allclose(run(fused), run(text), atol=1e-5)


@pytest.mark.parametrize("method", ["weighted", "tomesd"])
def test_a_merged_network_is_neither_copied_nor_pickled(text, method):
    with merge_tokens(text, 0.5, method=method):
        for attempt in (copy.deepcopy, pickle.dumps):
            with pytest.raises(ValueError, match="unet: got a network whose tokens are merged to copy or pickle"):
                attempt(text)
    assert torch.equal(run(copy.deepcopy(text)), run(text))


# Which layers, how many tokens


def test_automatic_layers_of_a_text_conditioned_network(text):
    with merge_tokens(text, 0.5) as merging:
        run(text)
    report = merging.report()
    assert [row["layer"] for row in report] == [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn1",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn1",
    ]
    assert {(row["tokens_before"], row["tokens_after"], row["calls"]) for row in report} == {(256, 128, 1)}


def test_automatic_layers_of_an_unconditional_network(pixels):
    with merge_tokens(pixels, 0.5) as merging:
        run(pixels)
        run(pixels)
    every = {name for name, module in pixels.named_modules() if isinstance(module, Attention)}
    assert {row["layer"] for row in merging.report()} == every
    assert {(row["tokens_before"], row["tokens_after"], row["calls"]) for row in merging.report()} == {
        (64, 32, 2),
        (16, 8, 2),
    }


def test_layers_by_factor_and_by_name(unet):
    factors = {layer.name: layer.factor for layer in self_attentions(unet)}
    assert set(factors.values()) == ({2, 4} if isinstance(unet, UNet2DModel) else {1, 2})
    with merge_tokens(unet, 0.5, layers=2) as merging:
        run(unet)
    assert {row["layer"] for row in merging.report()} == {name for name, factor in factors.items() if factor <= 2}
    chosen = next(name for name in factors if name.startswith("mid_block"))
    with merge_tokens(unet, 0.5, layers=[chosen]) as merging:
        run(unet)
    assert [row["layer"] for row in merging.report()] == [chosen]


@pytest.mark.parametrize("ratio", [0.1, 0.75, 0.8, 0.9])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_ratios_are_reached_and_never_capped(unet, ratio, size):
    with merge_tokens(unet, ratio, layers=8) as merging:
        run(unet, size)
    for row in merging.report():
        assert row["tokens_after"] == row["tokens_before"] - int(ratio * row["tokens_before"])


def test_odd_grids(text):
    small = UNet2DModel(
        block_out_channels=(8,), down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",),
        sample_size=7, layers_per_block=1, norm_num_groups=4, attention_head_dim=4, add_attention=False,
    ).eval()  # fmt: skip
    with merge_tokens(small, 0.9) as merging:
        assert run(small, (7, 5)).isfinite().all()
    assert {(row["tokens_before"], row["tokens_after"]) for row in merging.report()} == {(35, 4)}
    with merge_tokens(text, 0.75, layers=2) as merging:
        assert run(text, (18, 14)).isfinite().all()
    assert {row["tokens_before"] for row in merging.report()} == {252, 63}


def test_bfloat16(unet):
    half = copy.deepcopy(unet).to(torch.bfloat16)
    with merge_tokens(half, 0.5):
        output = run(half, dtype=torch.bfloat16)
    assert output.dtype == torch.bfloat16 and output.isfinite().all()


# Repeatability


def test_results_depend_on_seed_and_timestep_alone(unet):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with merge_tokens(unet, 0.5, layers=8):
        first = run(unet)
        run(unet, timestep=3)
        torch.rand(7)
        assert torch.equal(run(unet), first)
        assert torch.equal(run(unet, timestep=torch.full((2,), 7)), first)
    torch.set_rng_state(states[0])
    with merge_tokens(unet, 0.5, layers=8, seed=0):
        assert torch.equal(run(unet), first)
    with merge_tokens(unet, 0.5, layers=8, seed=1):
        assert not torch.equal(run(unet), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1]) and random.getstate() == states[2]


def test_an_image_does_not_depend_on_its_batch(pixels):
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([7, 3, 7])
    with torch.no_grad(), merge_tokens(pixels, 0.5) as merging:
        together = pixels(x, times).sample
        alone = []
        for i in range(3):
            merging.reset()
            alone.append(pixels(x[i : i + 1], times[i]).sample)
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_both_halves_of_guidance_share_destinations(text):
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1)
    prompt = torch.zeros(2, 5, 12)
    with torch.no_grad(), merge_tokens(text, 0.5):
        first, second = text(x, 7, encoder_hidden_states=prompt).sample
        keyword = text(sample=x, timestep=7, encoder_hidden_states=prompt).sample
    assert torch.allclose(first, second, atol=1e-6)
    assert torch.equal(keyword[0], first)


# Defaults, and tokens matched in parts


def test_the_default_is_weighted_merging_for_two_steps(text):
    assert (merging_module.METHOD, merging_module.REUSE) == ("weighted", 2)
    default = run_merged(text)
    assert torch.equal(default, run_merged(text, method="weighted", reuse=2))
    assert not torch.equal(default, run_merged(text, method="tome", reuse=2))


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_weights_reach_attention_that_computes_its_scores_in_float32(text, processor):
    text, outputs = copy.deepcopy(text), []
    for upcast in (False, True):
        for module in text.modules():
            if isinstance(module, Attention):
                module.upcast_attention = upcast
        text.set_attn_processor(processor())
        with merge_tokens(text.to(torch.bfloat16), 0.5):
            outputs.append(run(text, dtype=torch.bfloat16).float())
    assert torch.allclose(*outputs, atol=0.1) and outputs[0].isfinite().all()


def run_merged(unet, **options):
    with merge_tokens(unet, 0.5, **options) as merging:
        output = run(unet)
    assert merging.reuse == merging_module.REUSE
    return output


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("ratio", [0.3, 0.75])
def test_tokens_matched_in_parts_report_what_tomesd_reports(text, size, ratio):
    reports = []
    for method in ("weighted", "tome", "tomesd"):
        with merge_tokens(text, ratio, method=method) as merging:
            run(text, size)
        reports.append(merging.report())
    assert reports[0] == reports[1] == reports[2]


# Refusals


@pytest.mark.parametrize("ratio", [-0.1, 0.91, 1.5, float("nan"), "abc", None, True])
def test_ratios_out_of_range_are_refused(pixels, ratio):
    with pytest.raises(ValueError, match="ratio: got .*allowed is a number from 0 to 0.9"):
        merge_tokens(pixels, ratio)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "tofu"}, "method: got 'tofu', allowed are tome, weighted, prune, todo, tomesd"),
        ({"reuse": 0}, "reuse: got 0, allowed is a whole number from 1 to 10"),
        ({"reuse": 11}, "reuse: got 11"),
        ({"reuse": True}, "reuse: got True"),
        ({"layers": "all"}, "layers: got 'all', allowed are 'auto'"),
        ({"layers": ["down_blocks.9"]}, "layers: got 'down_blocks.9'.*mid_block.attentions.0"),
        ({"layers": []}, r"layers: got \[\]"),
        ({"layers": 0}, "layers: got 0"),
        ({"layers": True}, "layers: got True"),
        ({"layers": 1}, "layers: no self-attention to merge"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 0.5}, "seed: got 0.5"),
    ],
)
def test_other_arguments_are_refused(pixels, options, message):
    before = state(pixels)
    with pytest.raises(ValueError, match=message):
        merge_tokens(pixels, 0.5, **options)
    assert state(pixels) == before


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="unet: got AutoencoderKL, allowed are UNet2DModel and UNet2DConditionModel"):
        merge_tokens(AutoencoderKL(block_out_channels=(4,), norm_num_groups=2), 0.5)
    plain = UNet2DModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4,
        add_attention=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="layers: no self-attention to merge"):
        merge_tokens(plain, 0.5)
    assert merge_tokens(plain, 0).report() == []


@pytest.mark.parametrize("ratio", [0, 0.5])
def test_a_merged_network_is_refused(text, ratio):
    with merge_tokens(text, 0.5), pytest.raises(ValueError, match="unet: got a network whose tokens are merged"):
        merge_tokens(text, ratio)
    patched = tomesd.apply_patch(copy.deepcopy(text))
    with pytest.raises(ValueError, match="unet: got a network whose tokens are merged"):
        merge_tokens(patched, ratio)


@pytest.mark.parametrize("method", ["tome", "tomesd"])
def test_a_call_that_would_merge_nothing_is_refused(text, method):
    message = r"ratio: got 0.001.*none of the \[256\]"
    with merge_tokens(text, 0.001, method=method), pytest.raises(ValueError, match=message):
        run(text)


def test_a_grid_without_a_cell_is_refused_with_tomesd(text):
    with merge_tokens(text, 0.5, method="tomesd"), pytest.raises(ValueError, match="got 1x10 tokens, allowed with method 'tomesd' are 2x2"):
        run(text, (1, 10))
    assert run(text, (1, 10)).isfinite().all()


def test_slicing_switched_on_inside_is_named(text):
    text = copy.deepcopy(text)
    with merge_tokens(text, 0.5), pytest.raises(ValueError, match="unet: got other attention processors or slicing after merge_tokens"):
        text.set_attention_slice(1)
        run(text)


@pytest.mark.parametrize("compiled", [False, True])
def test_gradient_checkpointing_is_refused(unet, compiled):
    torch._dynamo.reset()
    network = copy.deepcopy(unet).train()
    call = torch.compile(network, backend="eager") if compiled else network
    words = () if isinstance(network, UNet2DModel) else (torch.zeros(1, 5, 12),)
    x = torch.randn(1, network.config.in_channels, 16, 16)
    with merge_tokens(network, 0.5):
        network.enable_gradient_checkpointing()
        with pytest.raises(ValueError, match="unet: got gradient checkpointing, allowed .*disable_gradient_checkpointing"):
            call(x, torch.tensor(7), *words)
        with torch.no_grad():
            call(x, torch.tensor(7), *words)
        network.disable_gradient_checkpointing()
        call(x, torch.tensor(7), *words).sample.mean().backward()
    torch._dynamo.reset()


def test_masked_self_attention_is_refused(text):
    with merge_tokens(text, 0.5), pytest.raises(ValueError, match="got a mask"):
        text(torch.randn(1, 4, 16, 16), 7, torch.randn(1, 5, 12), attention_mask=torch.ones(1, 256))


def test_a_report_needs_a_call(text):
    with merge_tokens(text, 0.5) as merging, pytest.raises(RuntimeError, match="call the network first"):
        merging.report()


def test_a_layer_alone(pixels, text):
    """A single layer may be timed apart from its network, a transformer's one after a call that gave it the grid."""
    x, tokens = torch.randn(1, 16, 8, 8), torch.randn(1, 256, 16)
    with torch.no_grad(), merge_tokens(pixels, 0.5):
        assert pixels.down_blocks[1].attentions[0](x).shape == x.shape
    layer = text.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    with torch.no_grad(), merge_tokens(text, 0.5):
        with pytest.raises(ValueError, match="256 tokens whose grid is not known"):
            layer(tokens)
        run(text)
        assert layer(tokens).shape == tokens.shape
