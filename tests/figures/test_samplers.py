"""Figures of the chapter on samplers: what is drawn is what was found."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import HeunDiscreteScheduler

from frugal import sample
from frugal.figures import samplers as drawn
from frugal.measure import arms, orders
from frugal.measure.plan import Subject
from frugal.models.recipes import schedule
from frugal.models.zoo import Model


def rows(*given):
    """Arms of one model: (sampler, steps, calls, accepted, kid, kid_high)."""
    found = [
        {"model": "faces-ldm", "arm": f"{name}, {steps} steps", "sampler": name, "steps": steps, "images": 400, "calls": calls,
         "accepted": accepted, "kid": kid, "kid_low": kid / 2, "kid_high": high, "psnr": 20.0 + calls, "psnr_low": 19.0 + calls,
         "psnr_high": 21.0 + calls} for name, steps, calls, accepted, kid, high in given
    ]  # fmt: skip
    return pd.DataFrame(found, columns=arms.COLUMNS)


GIVEN = rows(("ddpm", 200, 200, 0.60, 0.10, 0.14), ("ddim", 5, 5, 0.59, 0.50, 0.6), ("dpmpp_2m", 10, 10, 0.40, 0.10, 0.2),
             ("unipc", 20, 20, 0.58, 0.12, 0.2), ("ddim", 50, 50, 0.70, 0.05, 0.1))  # fmt: skip


def test_heuns_correction_is_as_many_times_the_change_of_the_answer_as_the_table_says():
    scheduler = schedule(1.0)
    model = Model("gaussian", "memory", orders.Gaussian(scheduler.alphas_cumprod), scheduler)
    steps = HeunDiscreteScheduler.from_config(scheduler.config)
    steps.set_timesteps(5)
    first, second = steps.timesteps[:2]
    noisy = steps.init_noise_sigma * torch.ones(1, 3, 8, 8)
    answer = lambda x, t: model.unet(steps.scale_model_input(x, t), t).sample
    trial = steps.step(answer(noisy, first), first, noisy)
    again = steps.step(answer(trial.prev_sample, second), second, trial.prev_sample)
    fall = drawn.steepest(model, "heun", 5)
    moved, change = again.prev_sample - trial.prev_sample, again.pred_original_sample - trial.pred_original_sample
    assert fall == pytest.approx(float(steps.sigmas[0] / steps.sigmas[1])) and fall > 3  # steepest in the first step
    assert torch.allclose(moved, (fall - 1) / 2 * change, rtol=1e-2)
    told = drawn.corrections(model, pd.concat([rows(("heun", 5, 9, 0.1, 1.0, 2.0)), GIVEN]))
    assert "| `heun` | 9 | 38 | 18 | 29.0 dB | 70.0 dB |" in told


def test_noise_in_every_step_has_no_place_among_distances_to_an_image(about):
    clock = pd.DataFrame({"arm": ["ddim, 5 steps"], "seconds": [0.5]})
    figure = drawn.fidelity(GIVEN, clock, about).figure
    assert figure.axes[0].get_legend_handles_labels()[1] == ["ddim", "dpmpp_2m", "unipc"]
    assert "No seconds are taken of 10 calls or more." in drawn.fidelity(GIVEN, clock, about).caption
    told = drawn.costs(GIVEN, clock)
    assert "| `ddpm` |  |  |  |  | 240 of 400 |  |" in told
    assert "| `ddim` | 25.0 dB, 236 of 400 |  |  | 70.0 dB, 280 of 400 |  | 100 ms |" in told
    assert "| `heun` | 29.0 dB, 40 of 400 |" in drawn.costs(pd.concat([rows(("heun", 5, 9, 0.1, 1.0, 2.0)), GIVEN[GIVEN.calls == 10]]), clock)


def test_orders_are_said_as_measured(about):
    found = orders.convergence(["ddim", "edm"], (10, 20, 50))
    lines = drawn.orders_in_words(found).splitlines()
    assert lines[0].startswith("* `ddim`, of order 1") and " before, " in lines[0] and " before, " not in lines[1]
    assert "nan" not in drawn.convergence(found, about).alt
    counts = [10, 20, 50, 100]
    dips = pd.DataFrame({"sampler": "unipc", "steps": counts, "calls": counts, "error": [1e-2, 1e-5, 4e-4, 1e-4], "before": 1.0})
    assert drawn.orders_in_words(dips).endswith("2.00 in the image, from 50 calls on: its error changes its sign near 20")


def test_paths_begin_at_the_noise_and_name_how_far_their_ends_are(about):
    figure = drawn.paths(Subject("faces-ldm"), ["ddim", "heun"], about, calls=5).figure
    fine, ddim, heun = figure.axes[0].get_lines()
    starts = [np.array([x[0] for x in line.get_data()]) for line in (fine, ddim, heun)]
    assert np.allclose(starts[0], starts[1], atol=1e-3) and np.allclose(starts[0], starts[2], atol=1e-3)
    assert (len(ddim.get_xdata()), len(heun.get_xdata())) == (6, 4)


def test_predicted_images_end_in_the_image_itself(about):
    subject = Subject("faces-ldm")
    axes = drawn.predicted(subject, ["ddim"], about, calls=6).figure.axes
    assert [each.get_title(loc="left") for each in axes] == [f"step {k} of 6" for k in range(1, 7)]
    image = sample(subject.model, [0], 6, "ddim")[0].permute(1, 2, 0).numpy()
    assert np.allclose(axes[-1].get_images()[0].get_array(), image, atol=0.02)
    assert not np.allclose(axes[0].get_images()[0].get_array(), image, atol=0.1)


def test_ticks_are_round_numbers_within_the_axis():
    assert drawn._round_between(0.054, 0.21) == pytest.approx([0.07, 0.1, 0.15, 0.2])
    assert drawn._round_between(0.9, 4) == pytest.approx([1, 1.5, 2, 3])
