import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import norm

from frugal.measure import quality


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def features(n, d, shift=0.0, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_psnr_is_the_closed_form_of_a_constant_error(images):
    a = images * 0.5
    offsets = torch.tensor([0.1, 0.01, 0.5]).view(3, 1, 1, 1)
    assert np.allclose(quality.psnr(a, a + offsets), [20, 40, 20 * np.log10(2)], atol=1e-4)


def test_identical_images(images):
    assert np.isposinf(quality.psnr(images, images)).all()
    assert np.allclose(quality.ssim(images, images), 1)


def test_values_are_per_image_and_float64(images):
    other = images.flip(0)
    for metric in (quality.psnr, quality.ssim):
        together, alone = (
            metric(images, other),
            np.concatenate([metric(images[k : k + 1], other[k : k + 1]) for k in range(3)]),
        )
        assert together.dtype == np.float64 and together.shape == (3,)
        assert np.allclose(together, alone) and np.isfinite(together[[0, 2]]).all()


def test_ssim_equals_its_formula_in_numpy(images):
    from scipy.ndimage import gaussian_filter

    a, b = images[:1], images[1:2]

    def blur(x):
        return gaussian_filter(x, 1.5, truncate=3.5)

    expected = []
    for x, y in zip(a[0].double().numpy(), b[0].double().numpy(), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        index = (2 * mx * my + 0.01**2) * (2 * vxy + 0.03**2) / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))
        expected.append(index[5:-5, 5:-5].mean())
    assert np.allclose(quality.ssim(a, b), np.mean(expected), atol=1e-6)


@pytest.mark.parametrize("metric", [quality.psnr, quality.ssim])
def test_bad_images_are_named(metric, images):
    for bad, name in [
        (images[:, :1], "b"),
        (images[0], "b"),
        (images * 2, "b"),
        (images * float("nan"), "b"),
        (images[:2], "b"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: got"):
            metric(images, bad)
    with pytest.raises(ValueError, match="^a: got"):
        metric((images * 255).byte(), images)
    with pytest.raises(ValueError, match="^a: got ndarray"):
        metric(images.numpy(), images)


def test_ssim_refuses_images_smaller_than_its_window(images):
    with pytest.raises(ValueError, match="11"):
        quality.ssim(images[..., :10, :10], images[..., :10, :10])


def test_mean_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for k in range(40):
        estimate = quality.mean_interval(rng.normal(30, 2, size=40), level=0.9, seed=k)
        inside += estimate.low <= 30 <= estimate.high
    assert 30 <= inside <= 40


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_mean_interval_is_as_wide_as_its_level_asks(level):
    values = np.random.default_rng(0).normal(30, 2, size=200)
    found, normal = quality.mean_interval(values, level), norm.interval(level, values.mean(), values.std() / 200**0.5)
    assert (found.low, found.high) == pytest.approx(normal, abs=0.05)


def test_mean_interval_counts_identical_images_apart():
    estimate = quality.mean_interval([20.0, 30.0, np.inf, 25.0, np.inf])
    assert (estimate.value, estimate.n, estimate.identical) == (25.0, 3, 2)
    assert 20 <= estimate.low < 25 < estimate.high <= 30
    everything = quality.mean_interval([np.inf] * 4)
    assert np.isposinf(everything.value) and (everything.n, everything.identical) == (0, 4)


def test_mean_interval_of_little():
    assert np.isnan(quality.mean_interval([3.0]).low)
    assert quality.mean_interval([3.0] * 5) == quality.Estimate(3.0, 3.0, 3.0, 5)
    assert quality.mean_interval([1, 2, 5], seed=4) == quality.mean_interval([1, 2, 5], seed=4)
    for bad in ([], [1.0, np.nan], [-np.inf, 1.0, 2.0]):
        for interval in (quality.mean_interval, quality.median_interval):
            with pytest.raises(ValueError, match="values"):
                interval(bad)
    with pytest.raises(ValueError, match="level"):
        quality.mean_interval([1, 2], level=95)


@pytest.mark.parametrize(("n", "level"), [(7, 0.95), (12, 0.95), (12, 0.8), (25, 0.95)])
def test_median_interval_covers_the_median_at_least_as_often_as_it_says(n, level):
    rng = np.random.default_rng(n)
    found = [quality.median_interval(row, level) for row in rng.exponential(1, (600, n))]
    inside = np.mean([estimate.low <= np.log(2) <= estimate.high for estimate in found])
    assert level - 0.02 < inside < 1 and all(estimate.n == n for estimate in found)


def test_median_interval_lies_between_values():
    values = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0]
    assert quality.median_interval(values) == quality.Estimate(5.0, 2.0, 8.0, 9)  # 1 - 2 (1 + 9) / 2^9 = 96 %
    assert quality.median_interval(values[:3]) == quality.Estimate(4.0, 1.0, 5.0, 3)
    assert quality.median_interval([1.0, 3.0, np.inf]) == quality.Estimate(2.0, 1.0, 3.0, 2, 1)
    assert np.isnan(quality.median_interval([3.0]).low) and np.isposinf(quality.median_interval([np.inf]).value)
    with pytest.raises(ValueError, match="values"):
        quality.median_interval([np.nan])
    with pytest.raises(ValueError, match="level"):
        quality.median_interval([1, 2], level=1)


def test_kid_equals_the_double_sum():
    a, b = features(20, 6).double(), features(20, 6, 0.3, seed=1).double()

    def kernel(x, y):
        return float((x @ y / 6 + 1) ** 3)

    n = 20
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(kernel(a[i], b[j]) for i in range(n) for j in range(n)) / n**2
    assert quality.kid(a, b, resamples=10).value == pytest.approx(within - 2 * across, rel=1e-9)


def test_kid_is_unbiased_and_its_band_is_centred():
    same = [quality.kid(features(64, 8, seed=2 * k), features(64, 8, seed=2 * k + 1), resamples=200) for k in range(40)]
    values = np.array([estimate.value for estimate in same])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values)) and (values < 0).any()
    assert np.mean([e.low <= 0 <= e.high for e in same]) > 0.8
    far = quality.kid(features(64, 8), features(64, 8, 1.0, seed=1))
    assert 0 < far.low < far.value < far.high and far.n == 64


def test_the_band_of_kid_leaves_out_as_much_at_both_ends(monkeypatch):
    monkeypatch.setattr(quality, "_resampled", lambda *_: np.linspace(0, 1, 1001))
    for level, ends in ((0.95, (0.025, 0.975)), (0.5, (0.25, 0.75))):
        found = quality.kid(features(8, 2), features(8, 2, seed=1), level)
        assert (found.low, found.high) == pytest.approx(ends)


def test_a_resample_of_kid_is_the_mean_over_pairs_of_different_rows():
    """As the double loop has it, over the rows that were drawn, some more than once."""
    n, rng = 7, np.random.default_rng(5)
    k_aa, k_bb, k_ab = np.random.default_rng(0).random((3, n, n))
    counts = [rng.multinomial(n, np.full(n, 1 / n), size=3) for _ in range(2)]
    for found, *drawn in zip(quality._resampled(k_aa, k_bb, k_ab, 3, 5), *counts, strict=True):
        a, b = (np.repeat(np.arange(n), count) for count in drawn)
        assert len(set(a)) < n == len(a)
        within = [np.mean([kernel[i, j] for i in rows for j in rows if i != j]) for kernel, rows in ((k_aa, a), (k_bb, b))]
        assert found == pytest.approx(sum(within) - 2 * np.mean([k_ab[i, j] for i in a for j in b]))


def test_kid_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    quality.kid(features(8, 2), features(8, 2, seed=1), resamples=10)
    assert torch.equal(before, torch.random.get_rng_state())


def test_fid_equals_the_closed_form_of_two_gaussians():
    a, b = features(2048, 4), features(2048, 4, 0.5, seed=1) * torch.tensor([1.0, 2.0, 0.5, 1.0])
    x, y = a.double().numpy(), b.double().numpy()
    root = sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
        np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * root
    )
    assert quality.fid(a, b) == pytest.approx(expected, rel=1e-6)
    assert quality.fid(a, a) == pytest.approx(0, abs=1e-9)


def test_distances_of_sets_refuse_unequal_small_or_broken_sets():
    for distance in (quality.kid, quality.fid):
        with pytest.raises(ValueError, match="features_b.*equal"):
            distance(features(2048, 4), features(2049, 4))
        with pytest.raises(ValueError, match="features_a"):
            distance(features(2048, 4) * float("nan"), features(2048, 4))
    with pytest.raises(ValueError, match="2048"):
        quality.fid(features(2047, 4), features(2047, 4))


@pytest.mark.parametrize(
    "wrong", [None, "words", [["a", "b"]] * 3, [[1.0, 2.0], [3.0]], torch.ones(8, 2) * 1j, torch.ones(8, 0), torch.ones(8), torch.ones(1, 2)]
)
def test_features_that_are_no_rows_of_real_numbers_are_named(wrong):
    for name, pair in (("features_a", (wrong, features(8, 2))), ("features_b", (features(8, 2), wrong))):
        with pytest.raises(ValueError, match=f"^{name}: got .*; finite real .n, d. with n of 2 or more and d of 1 or more is allowed$"):
            quality.kid(*pair)


@pytest.mark.parametrize(
    ("name", "value"),
    [("resamples", 0), ("resamples", 1.5), ("resamples", -1), ("resamples", True), ("level", "x"), ("level", None), ("level", 1), ("seed", -1), ("seed", None)],
)
def test_settings_of_the_band_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value!r}; .* allowed$"):
        quality.kid(features(8, 2), features(8, 2), **{name: value})


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std")
def test_class_score_at_its_ends_and_against_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    assert quality.class_score(torch.eye(5)) == pytest.approx(5)
    assert quality.class_score(torch.full((7, 4), 0.25)) == pytest.approx(1)
    logits = features(50, 6)
    score = InceptionScore(feature=torch.nn.Identity(), splits=1)
    score.update(logits)
    assert quality.class_score(logits.softmax(1)) == pytest.approx(float(score.compute()[0]), rel=1e-5)
    for bad in (logits, torch.ones(3), torch.ones(3, 2)):
        with pytest.raises(ValueError, match="probabilities"):
            quality.class_score(bad)
