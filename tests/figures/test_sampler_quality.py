"""What calls buy in quality: what is said is what the samples were found to be."""

import pandas as pd
import pytest

from frugal.figures import sampler_quality

from .test_samplers import GIVEN, rows


def test_the_fewest_calls_that_reach_the_target_have_both_its_distance_and_its_acceptance():
    best = sampler_quality.reaching(GIVEN)
    assert best.arm.tolist() == ["unipc, 20 steps", "ddpm, 200 steps"]  # ddim 5: too far; dpmpp_2m 10: too few accepted
    assert sampler_quality.reaching(GIVEN[GIVEN.sampler != "ddpm"]).empty
    assert "| `faces-ldm` | unipc, 20 steps | 20 | 5, 10, 20 | 58.0% | 53.1% | 0.12 (0.06 to 0.20) |" in sampler_quality.reached(best)


def test_a_solver_that_loses_the_quality_with_more_calls_has_not_reached_it():
    given = pd.concat([GIVEN, rows(("unipc", 50, 50, 0.40, 0.11, 0.2), ("ddpm", 50, 50, 0.61, 0.09, 0.14))], ignore_index=True)
    assert sampler_quality.reaching(given).arm.tolist()[0] == "ddim, 50 steps"
    assert sampler_quality.fallen(given) == "* **faces-ldm**: `unipc` reaches it with 20 calls, not with 50 (40% accepted, KID 0.11)"
    assert sampler_quality.fallen(GIVEN) == "* **faces-ldm**: no solver reaches it and loses it again"


def test_where_acceptance_and_distance_are_level_is_said_of_each_model():
    given = rows(("ddim", 5, 5, 0.59, 0.50, 0.6), ("ddim", 10, 10, 0.70, 0.09, 0.2), ("ddim", 50, 50, 0.70, 0.05, 0.1),
                 ("heun", 5, 9, 0.02, 3.0, 4.0))  # fmt: skip
    told = sampler_quality.levels(given)
    assert "KID stays within the band of 50 calls from 10 on; acceptance does not fall beyond chance: 70% with 10 to 70% with 50" in told
    assert "`heun` with fewer than 10 calls: at most 2% accepted" in told and "`edm`" not in told
    falling = sampler_quality.levels(pd.concat([given, rows(("ddim", 200, 200, 0.60, 0.01, 0.04))]))
    assert "of 200 calls from 200 on; acceptance falls, from 70% with 10 to 60% with 200" in falling


def test_quality_has_a_column_a_model_and_a_curve_a_sampler(about):
    both = pd.concat([GIVEN.assign(device="a GPU"), GIVEN.assign(model="faces-sd", device="a CPU")], ignore_index=True)
    made = sampler_quality.quality(both, about)
    figure = made.figure
    assert "a CPU and a GPU" in made.caption and about.device not in made.caption  # where the samples were drawn
    assert len(figure.axes) == 4 and [line.get_label() for line in figure.axes[0].get_lines()] == ["ddim", "dpmpp_2m", "unipc", "ddpm"]
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == pytest.approx([59, 70])


def test_closeness_leaves_out_samplers_with_noise_in_every_step(about):
    made = sampler_quality.closeness(GIVEN.assign(device="a GPU", ssim=0.5), about)
    psnr, ssim = made.figure.axes
    assert [line.get_label() for line in psnr.get_lines() if line.get_label()[0] != "_"] == ["ddim", "dpmpp_2m", "unipc"] and list(psnr.get_lines()[0].get_ydata()) == [25, 70]
    assert list(ssim.get_lines()[0].get_ydata()) == [0.5, 0.5] and "the closest is ddim, 50 steps, 70.0 dB" in made.alt


def test_attributes_are_told_of_models_that_follow_text_alone():
    text = GIVEN.assign(model="faces-sd", accuracy=[0.99, 0.8, 0.9, 0.95, 0.97])
    said = sampler_quality.accuracy(pd.concat([GIVEN, text], ignore_index=True))
    head, _, *lines = said.splitlines()
    assert head == "| attributes, `faces-sd`, calls: | 5 | 10 | 20 | 50 | 200 |" and "| ddim | 80.0% |  |  | 97.0% |  |" in lines and "| ddpm |  |  |  |  | 99.0% |" in lines
    assert sampler_quality.accuracy(GIVEN) == ""
