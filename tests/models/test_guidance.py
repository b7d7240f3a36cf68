"""Perturbed-attention guidance and what a network learns from it."""

import copy
import json

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import Attention

from frugal import paths
from frugal.models import cards, recipes, training
from frugal.models.guidance import guided, unguided


def network(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            sample_size=8, in_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
            **{"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")} | options,
        ).eval()  # fmt: skip


class OwnToken:
    """Attention of each token to itself alone, written out: what the value path makes of it."""

    def __call__(self, attn, hidden, *_, **__):
        n, c, h, w = hidden.shape
        tokens = attn.group_norm(hidden.view(n, c, h * w)).transpose(1, 2)
        out = attn.to_out[0](attn.to_v(tokens)).transpose(1, 2).view(n, c, h, w)
        return (out + hidden) / attn.rescale_output_factor


@torch.no_grad()
def test_guidance_goes_past_the_own_prediction_away_from_the_perturbed_one():
    unet, noisy, t = network(), torch.randn(2, 3, 8, 8), torch.tensor([10, 900])
    own, perturbed = unet(noisy, t).sample, copy.deepcopy(unet)
    for layer in perturbed.modules():
        if isinstance(layer, Attention):
            layer.set_processor(OwnToken())
    away = own - perturbed(noisy, t).sample
    assert away.abs().max() > 1e-3
    assert torch.allclose(guided(unet, 2.5)(noisy, t), own + 1.5 * away, atol=1e-5)


@torch.no_grad()
def test_guidance_is_taken_back_from_whoever_learned_it():
    unet, noisy, t = network(), torch.randn(2, 3, 8, 8), torch.tensor([10, 900])
    predict = guided(unet, 1.4)
    learned = lambda noisy, t: diffusers.models.unets.unet_2d.UNet2DOutput(sample=predict(noisy, t))
    own = unet(noisy, t).sample
    assert torch.allclose(unguided(learned, unet, 1.4)(noisy, t).sample, own, atol=1e-5)
    assert not torch.allclose(unguided(unet, unet, 1.4)(noisy, t).sample, own, atol=1e-3)  # that has learned nothing of it


def test_the_teacher_stays_as_it_was():
    unet, noisy, t = network(), torch.randn(1, 3, 8, 8), torch.tensor([500])
    teacher = guided(unet, 1.5)
    before, own = teacher(noisy, t), unet(noisy, t).sample
    assert not before.requires_grad and torch.equal(own, unet(noisy, t).sample)  # the network itself attends as ever
    torch.nn.init.zeros_(unet.conv_out.weight)
    assert torch.equal(before, teacher(noisy, t))


@pytest.mark.parametrize("scale", [1, 0, -2, 3.1, float("nan")])
def test_other_scales_are_refused(scale):
    with pytest.raises(ValueError, match="guidance: got"):
        guided(network(), scale)


def test_a_network_without_self_attention_is_refused():
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    with pytest.raises(ValueError, match="without self-attention"):
        guided(network(**plain), 2)


def test_a_student_comes_closer_to_its_teacher():
    unet = network().train()
    teacher, clean = guided(unet, 2.0), torch.randn(16, 3, 8, 8)
    optimiser, losses = torch.optim.Adam(unet.parameters(), 1e-3), []
    for seed in [0] * 30:
        torch.manual_seed(seed)
        losses.append(recipes.velocity_loss(unet, clean, recipes.schedule(1.0), teacher))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert 0 < losses[-1] < 0.5 * losses[0]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setattr(paths, "training", lambda: tmp_path / "training")
    training.train("faces-ddpm", minutes=1e-4, device="cpu")


def test_training_with_a_teacher_is_noted_in_the_card_until_noise_is_learned_again(trained):
    card = training.train("faces-ddpm", minutes=1e-4, resume=True, guidance=1.5, device="cpu")
    assert card["guidance"] == 1.5 and card["guided_from"] == 16 and card["images"] > 16
    assert len(card["guided_loss"]) == 1 and len(card["loss"]) == 1
    assert "guidance of scale 1.5" in cards.file("faces-ddpm").with_name("README.md").read_text()
    with pytest.raises(ValueError, match="has learned 1.5 already"):
        training.train("faces-ddpm", minutes=1e-4, resume=True, guidance=1.2, device="cpu")
    again = training.train("faces-ddpm", minutes=1e-4, resume=True, device="cpu")
    assert not any(key.startswith("guid") for key in again) and len(again["loss"]) == 2


def test_guidance_needs_a_trained_network_without_text(trained):
    for arguments in ({"name": "faces-ddpm"}, {"name": "faces-sd", "resume": True}, {"name": "faces-ldm", "resume": True}):
        with pytest.raises(ValueError, match="guidance: got 1.5 for"):
            training.train(**arguments, minutes=1e-4, guidance=1.5, device="cpu")


def test_an_unfinished_call_goes_on_under_its_own_guidance_only(trained):
    run = training.Run("faces-ddpm", "cpu", resume=True, guidance=1.5)
    assert run.peak == training.DISTILLING
    run.save()
    assert json.loads((run.checkpoint / "progress.json").read_text())["card"]["guidance"] == 1.5
    assert training.Run("faces-ddpm", "cpu", resume=True, guidance=1.5).card["guidance"] == 1.5
    with pytest.raises(ValueError, match="unfinished call"):
        training.Run("faces-ddpm", "cpu", resume=True)
