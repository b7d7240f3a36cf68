"""Orders of convergence: the known answer is right, and samplers have the order their papers state where it can show."""

import numpy as np
import pandas as pd
import pytest
import torch

from frugal.measure import orders
from frugal.models.recipes import schedule


def test_the_flow_of_a_gaussian_keeps_quantiles_and_ends_in_the_data():
    network = orders.Gaussian(schedule(1.0).alphas_cumprod)
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    a, b = network.factors(999)
    start = a * orders.MEAN + (a**2 * orders.SPREAD**2 + b**2) ** 0.5 * x
    image = network.flow(start, 999)
    assert image.mean() == pytest.approx(orders.MEAN, abs=0.01) and image.std() == pytest.approx(orders.SPREAD, abs=0.01)
    assert torch.allclose(network.flow(network.flow(start, 999, 300), 300), image, atol=1e-5)


def test_the_flow_solves_its_equation():
    network, t = orders.Gaussian(schedule(1.0).alphas_cumprod), 500
    x = torch.linspace(-2, 2, 5)
    (a, b), (c, d) = network.factors(t), network.factors(t - 1)
    velocity = network(x, torch.tensor(t)).sample
    clean, noise = a * x - b * velocity, b * x + a * velocity
    assert torch.allclose(c * clean + d * noise, network.flow(x, t, t - 1), atol=1e-4)  # one small step of DDIM


def test_second_order_shows_before_the_last_step_and_is_lost_in_it():
    found = orders.convergence(["ddim", "dpmpp_2m", "edm"], (10, 20, 50, 100))
    before, image = orders.slopes(found, "before"), orders.slopes(found)
    assert before["ddim"] == pytest.approx(1, abs=0.1) and before["dpmpp_2m"] == pytest.approx(2, abs=0.2)
    assert image["dpmpp_2m"] < 1.8 and image["edm"] > 1.8 and np.isnan(before["edm"])
    assert (found[found.sampler == "edm"].calls == [19, 39, 99, 199]).all()


def test_no_slope_is_taken_across_a_dip_where_the_error_changes_its_sign():
    steps = [5, 10, 20, 40, 80]
    found = pd.DataFrame({"sampler": "a", "steps": steps, "calls": steps, "error": [0.1, 0.01, 1e-5, 0.004, 0.001]})
    assert orders.slopes(found)["a"] == pytest.approx(2)  # from 40 on; across the dip it would be less than 1
    assert orders.behind_rises(found).steps.tolist() == [40, 80]
    assert orders.behind_rises(found[found.steps < 40]).steps.tolist() == [5, 10, 20]
    assert orders.behind_rises(found.assign(error=steps)).steps.tolist() == [40, 80]  # two or more


def test_a_slope_is_taken_from_as_many_steps_on_as_asked():
    steps = [5, 10, 20, 40]
    found = pd.DataFrame({"sampler": "a", "steps": steps, "calls": steps, "error": [10.0, 0.08, 0.02, 0.005]})  # 5 is too few for any order
    assert orders.slopes(found)["a"] == pytest.approx(2)
    assert orders.slopes(found, least=5)["a"] > 3
