"""Arms: what they cost is what a hook counts, image by image, and shipped records speak for the same weights alone."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from frugal import sample
from frugal.measure import arms, fewer_steps, records, sweep
from frugal.measure.plan import Subject
from frugal.methods.speculative import speculate

Arm = arms.Arm


@pytest.fixture(scope="module")
def latent():
    return Subject("faces-ldm")


def test_calls_of_every_solver_are_what_it_was_given_or_one_less(latent):
    for name in (*fewer_steps.SOLVERS, *fewer_steps.TWICE, *fewer_steps.STOCHASTIC):
        [calls] = set(arms.draw(latent, Arm.of(name, fewer_steps.steps_for(name, 5)), range(2)).calls)
        assert calls == 5
    assert arms.draw(latent, Arm.of("heun", fewer_steps.steps_for("heun", 6)), [0]).calls == [5]


def test_a_solver_at_about_as_many_calls_finds_its_times(latent):
    """Time steps of some numbers collide: 121 of DPM-Solver++ 2M."""
    found = arms.at_calls(latent, "dpmpp_2m", [121, 17.4, 0.2, 1e9, 17.0])
    assert [arm.steps for arm in found][:3] == [1, 17, 120] and len(found) == 4 and {arm.sampler for arm in found} == {"dpmpp_2m"}
    for arm in found[:2]:
        assert arms.draw(latent, arm, [0]).calls == [arm.steps]


def test_images_at_their_own_pace_are_counted_one_by_one(latent):
    arm = Arm.of("speculative", 12, window=4)
    found = arms.draw(latent, arm, range(3))
    rounds = list(speculate(latent.model, range(3), 12, window=4))
    took_part = torch.stack([torch.bincount(r.images, minlength=3) for r in rounds]).sum(0)
    rows = sum(torch.zeros(3).index_add(0, r.images, r.rows.float()) for r in rounds)
    assert found.calls == took_part.tolist() and found.rows == rows.tolist() and len(set(found.rows)) > 1
    assert torch.allclose(found.images, sample(latent.model, range(3), 12, "speculative", window=4), atol=1e-3)


def test_the_calls_of_a_draft_model_are_counted_apart(latent, monkeypatch):
    other = dataclasses.replace(latent.model, unet=type(latent.model.unet).from_config(latent.model.unet.config).eval())
    monkeypatch.setattr(arms.zoo, "load", lambda name, device: other)
    [calls], [rows], [drafted] = (getattr(arms.draw(latent, Arm.of("speculative", 4, window=2, draft="another"), [0]), k)
                                  for k in ("calls", "rows", "draft_rows"))  # fmt: skip
    assert calls <= 4 and drafted >= rows > 0
    assert arms.draw(latent, Arm.of("speculative", 4, window=2, draft="clean"), [0]).draft_rows == [0.0]


def test_a_draft_network_trained_anew_is_another_question(store, tmp_path, monkeypatch):
    """Neither the reader's own records nor shipped ones answer for a draft with other weights."""
    target, way = Subject("faces-ddpm"), Arm.of("speculative", 100, draft="faces-ddpm-draft")
    [old] = arms.shipped(target).query("arm == @way.label").itertuples()
    assert old.images == 512  # filed by the chain of the same draft, which is shipped with it
    ways, own = [Arm.of("speculative", 3, window=2, draft="faces-ddpm-draft")], way.asked(target)
    assert own["draft_weights"] == Subject("faces-ddpm-draft").about["weights_hash"]
    assert "draft_weights" not in Arm.of("speculative", 100).asked(target)
    files = lambda: len(list(store.glob("arms-in-turn-*.json")))
    arms.in_turn(target, ways, 1, scale="smoke")
    arms.in_turn(target, ways, 1, scale="smoke")
    assert files() == 1
    load, unet = arms.zoo.load, copy.deepcopy(arms.zoo.load("faces-ddpm-draft").unet)
    torch.nn.init.zeros_(unet.conv_out.bias)
    anew = lambda name, device: dataclasses.replace(load(name, device=device), **({"unet": unet} if name.endswith("-draft") else {}))
    monkeypatch.setattr(arms.zoo, "load", anew)
    monkeypatch.setattr("frugal.measure.plan._load", lambda name, weights, place, precision: anew(name, place))
    assert way.asked(target)["draft_weights"] != own["draft_weights"]
    arms.in_turn(target, ways, 1, scale="smoke")
    assert files() == 2
    assert way.label not in set(arms.shipped(target).arm)


def test_the_reference_is_its_own_image_and_guidance_doubles_rows_alone(store, latent):
    [row] = arms.table(latent, [Arm.of("ddim", 6)], 2, reference=6, scale="smoke").itertuples()
    assert row.psnr > 80 and row.ssim == pytest.approx(1, abs=1e-6) and (row.calls, row.rows) == (6, 6) and np.isnan(row.kid)
    [row] = arms.table(Subject("faces-sd"), [Arm.of("ddim", 2)], 2, reference=4, scale="smoke").itertuples()
    assert (row.calls, row.rows) == (2, 4) and 0 <= row.accuracy <= 1 and row.psnr < 60


def test_a_distance_of_distributions_is_measured_of_many_images_alone(store, latent, monkeypatch):
    monkeypatch.setattr(arms, "DISTRIBUTION", 8)
    [row] = arms.table(latent, [Arm.of("dpmpp_2m", 2)], 8, reference=2, scale="smoke").itertuples()
    assert row.kid_low <= row.kid_high and row.kid > 0.1 and row.score >= 1 and row.marginal > 0  # two steps are not enough


def test_shipped_records_are_of_these_weights_and_the_largest_sample_of_an_arm(store, latent, monkeypatch):
    arm = Arm.of("ddim", 2)
    few, more = (arms.cell(latent, arm, n, reference=2).measure("smoke") for n in (2, 3))
    foreign = dataclasses.replace(more, model=more.model | {"weights_hash": "other"}, asked=more.asked | {"images": 99})
    monkeypatch.setattr(records, "load_shipped", lambda: [few, more, foreign])
    assert arms.shipped(latent).images.tolist() == [3]
    monkeypatch.setattr(records, "load_shipped", lambda: [foreign])
    assert arms.shipped(latent).empty and list(arms.shipped(latent).columns) == arms.COLUMNS


def test_seconds_are_one_a_round_and_arm(store, latent):
    ways = [Arm.of("ddim", 2), Arm.of("heun", 2)]
    found = arms.seconds(latent, ways, rounds=2, scale="smoke")
    assert len(found) == 4 and set(found.arm) == {way.label for way in ways} and (found.seconds > 0).all()


def test_arms_in_turn_are_compared_with_one_of_them_or_with_another(store, latent):
    sequential, parallel = Arm.of("ddim", 10), Arm.of("parallel", 10, window=4)
    about = {"against": sequential, "seed": 2, "scale": "smoke"}
    found = arms.in_turn(latent, [sequential, parallel], 2, **about)
    assert found.image.tolist() == [2, 3, 2, 3] and (found.seconds > 0).all() and "accepted" not in found
    first, second = found[found.arm == sequential.label], found[found.arm == parallel.label]
    assert (first.calls == 10).all() and (first.rows == 10).all() and (first.error == 0).all() and np.isinf(first.psnr).all()
    assert (second.calls <= 10).all() and (second.rows > 10).all() and (second.error < 0.1).all() and (second.psnr > 20).all()
    assert arms.in_turn(latent, [sequential, parallel], 2, **about).equals(found)  # seconds and all: from records
    alone = arms.in_turn(latent, [parallel], 2, judged=True, **about)
    assert np.allclose(alone.psnr, second.psnr, atol=0.5) and set(alone.accepted) <= {0.0, 1.0}


def test_the_sweep_asks_every_arm_once_and_what_is_quick_first():
    asked = fewer_steps.arms()
    assert len({(arm.label, images) for arm, images in asked}) == len(asked)
    assert {arm.sampler for arm, _ in asked} == {"speculative", "parallel", *fewer_steps.SOLVERS, *fewer_steps.TWICE, *fewer_steps.STOCHASTIC}
    counted = len(fewer_steps.TEMPERATURES)
    assert {images for _, images in asked[:counted]} == {fewer_steps.PACED} and max(arm.steps for arm, _ in asked[counted : counted + 20]) <= 20
    assert {images for arm, images in asked if arm == Arm.of("speculative", 100, temperature=2.0)} == {fewer_steps.PACED, fewer_steps.IMAGES}
    with pytest.raises(ValueError, match="measures embedded models alone"):
        sweep.sweep("steps", 1, weights="hub")
