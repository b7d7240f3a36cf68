import numpy as np
import pytest

from frugal.models.mixture import Mixture

X = np.linspace(-3, 3, 13)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0])
def test_the_score_is_the_slope_of_the_log_density(sigma):
    known, h = Mixture(), 1e-5
    slope = (np.log(known.density(X + h, sigma)) - np.log(known.density(X - h, sigma))) / (2 * h)
    assert np.allclose(known.score(X, sigma), slope, rtol=1e-4, atol=1e-4)


def test_the_density_is_one_in_all_and_the_denoiser_its_conditional_mean():
    known, sigma = Mixture(), 0.7
    clean = np.linspace(-3, 3, 4001)
    assert np.isclose(np.trapezoid(known.density(clean, 0), clean), 1, atol=1e-6)
    weights = known.density(clean, 0) * np.exp(-((X[:, None] - clean) ** 2) / (2 * sigma**2))
    assert np.allclose(known.clean(X, sigma), (weights * clean).sum(1) / weights.sum(1), atol=1e-5)


def test_every_point_of_a_path_has_its_origin():
    known, sigmas = Mixture(), [2.0, 1.0, 0.3, 0.05, 0.002]
    path = known.path([-3.0, 0.4, 2.5], sigmas)
    for x, sigma in zip(path[:-1], sigmas, strict=False):
        assert np.allclose(known.origin(x, sigma), path[-1], atol=1e-5)
    assert np.allclose(known.path(path[-1], sigmas[::-1])[-1], [-3.0, 0.4, 2.5], atol=1e-3)


def test_paths_of_one_normal_distribution_are_known():
    known = Mixture(means=(0.5,), shares=(1.0,), spread=0.3)
    scale = np.sqrt((0.3**2 + 0.002**2) / (0.3**2 + 4))
    assert np.allclose(known.origin([2.0], 2.0), 0.5 + 1.5 * scale, atol=1e-6)


@pytest.mark.parametrize(("options", "named"), [({"shares": (0.5, 0.5)}, "shares"), ({"spread": 0}, "spread")])
def test_bad_distributions_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        Mixture(**options)
