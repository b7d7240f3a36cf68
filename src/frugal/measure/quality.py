"""What a cheaper sample loses: PSNR and SSIM image by image, KID and FID set by set, each with its interval.

Images are float32 [n, 3, H, W] in [0, 1]; features are [n, d], one row an image.
"""

import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

FID_MINIMUM = 2048  # below it the bias, of order 1 / n, drowns what is compared
SSIM_SIDE = 11  # pixels under the Gaussian window of sigma 1.5, cut at 3.5 sigma


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval (nan where one observation gives none)."""

    value: float
    low: float
    high: float
    n: int  # observations behind the value
    identical: int = 0  # infinite observations (PSNR of identical images) that are left out of it


def psnr(a: Tensor, b: Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio of each pair of images in dB, float64 [n]; infinite where the two are identical.

    Data range 1. Raises ValueError for anything but two equal shapes [n, 3, H, W] in [0, 1]. Source: skimage.metrics.
    """
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        ratios = [peak_signal_noise_ratio(x, y, data_range=1) for x, y in _pairs(a, b)]
    return np.array(ratios, dtype=np.float64)


def ssim(a: Tensor, b: Tensor) -> np.ndarray:
    """Structural similarity of each pair of images, float64 [n], at most 1; Gaussian window of sigma 1.5, data range 1.

    Raises ValueError for anything but two equal shapes [n, 3, H, W] in [0, 1], or a side below 11 pixels.
    Source: Wang et al. 2004, by skimage.metrics with the paper's settings.
    """
    from skimage.metrics import structural_similarity

    pairs = _pairs(a, b)
    if min(a.shape[-2:]) < SSIM_SIDE:
        raise ValueError(
            f"a: got images of {a.shape[-2]}x{a.shape[-1]} pixels; ssim needs sides of {SSIM_SIDE} or more"
        )
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array([structural_similarity(x, y, data_range=1, channel_axis=0, **gaussian) for x, y in pairs])


def mean_interval(values, level: float = 0.95, seed: int = 0) -> Estimate:
    """The mean of the finite values with its bootstrap interval (BCa, 9,999 resamples).

    Infinite values, PSNR of identical images, are counted apart; where all are, the value is infinite.
    Raises ValueError for no values, nan, negative infinity or a level outside (0, 1).
    """
    from scipy.stats import bootstrap

    _check_level(level)
    finite, identical = _finite(values)
    if not finite.size:
        return Estimate(np.inf, np.inf, np.inf, 0, identical)
    value = float(finite.mean())
    if finite.size == 1:
        return Estimate(value, np.nan, np.nan, 1, identical)
    if np.ptp(finite) == 0:  # the correction of BCa divides by the spread
        return Estimate(value, value, value, finite.size, identical)
    ends = bootstrap((finite,), np.mean, confidence_level=level, method="BCa", rng=seed).confidence_interval
    return Estimate(value, float(ends.low), float(ends.high), finite.size, identical)


def median_interval(values, level: float = 0.95) -> Estimate:
    """The median of the finite values, between two of them that hold the true one at least as often as `level`.

    Exact whatever the distribution: the sign test turned round. A bootstrap of a few values is too sure of itself. Fewer
    than six hold it less often even from the least to the most, which is then the interval: of 3 in 75 %, of 5 in 94 %.
    Infinite values and errors as in mean_interval.
    """
    from scipy.stats import binom

    _check_level(level)
    finite, identical = _finite(values)
    if not finite.size:
        return Estimate(np.inf, np.inf, np.inf, 0, identical)
    if finite.size == 1:
        return Estimate(float(finite[0]), np.nan, np.nan, 1, identical)
    finite = np.sort(finite)
    outside = max(0, int(binom.ppf((1 - level) / 2, finite.size, 0.5)) - 1)
    return Estimate(float(np.median(finite)), float(finite[outside]), float(finite[-1 - outside]), finite.size, identical)


def _finite(values) -> tuple[np.ndarray, int]:
    """The finite values, and the number of infinite ones."""
    values = np.asarray(values, dtype=np.float64).ravel()
    bad = np.isnan(values) | np.isneginf(values)
    if not values.size or bad.any():
        raise ValueError(f"values: got {values.size} values, {bad.sum()} of them nan or -inf; one or more numbers are allowed")
    finite = values[np.isfinite(values)]
    return finite, values.size - finite.size


def kid(features_a: Tensor, features_b: Tensor, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Kernel distance of two sets of features [n, d], n equal: all pairs, with a bootstrap band.

    Unbiased, so it may fall below 0; kernel (x.y / d + 1)^3. Resampling with replacement pairs a row with itself: such
    pairs are left out, or the band would lie too high. Raises ValueError for unequal or too small sets, a level outside
    (0, 1), no resamples and a seed below 0.
    Source: Binkowski et al. 2018, by torchmetrics.
    """
    from torchmetrics.image.kid import KernelInceptionDistance, poly_kernel

    _check_level(level)
    _at_least("resamples", resamples, 1)
    _at_least("seed", seed, 0)
    a, b = _features(features_a, features_b)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save all extracted features.*")
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=len(a))
    metric.update(a, real=True)
    metric.update(b, real=False)
    with torch.random.fork_rng(devices=[]):  # compute() shuffles by the global generator, without effect on the value
        value = float(metric.compute()[0])
    kernels = poly_kernel(a, a).numpy(), poly_kernel(b, b).numpy(), poly_kernel(a, b).numpy()
    low, high = np.nanquantile(_resampled(*kernels, resamples, seed), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(a))


def fid(features_a: Tensor, features_b: Tensor) -> float:
    """Frechet distance of two sets of features [n, d], n equal and at least 2,048.

    Raises ValueError below that, where KID is the one to use. Source: Heusel et al. 2017, by torchmetrics.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = _features(features_a, features_b)
    if len(a) < FID_MINIMUM:
        raise ValueError(
            f"features_a: got {len(a)} rows; fid needs {FID_MINIMUM} or more (it is biased below: use kid)"
        )
    extractor = torch.nn.Identity()
    extractor.num_features = a.shape[1]
    metric = FrechetInceptionDistance(feature=extractor)
    metric.update(a, real=True)
    metric.update(b, real=False)
    return float(metric.compute())


def class_score(probabilities: Tensor) -> float:
    """exp of the mean divergence of the rows of class probabilities [n, classes] from their mean, 1 to `classes`.

    Raises ValueError unless rows are distributions. Source: the Inception score, Salimans et al. 2016, on one split.
    """
    p = torch.as_tensor(probabilities).detach().cpu().double()
    if (
        p.ndim != 2
        or not len(p)
        or not bool((p >= 0).all())
        or not torch.allclose(p.sum(1), torch.ones(1).double(), atol=1e-4)
    ):
        raise ValueError(f"probabilities: got shape {tuple(p.shape)}; rows of numbers >= 0 that sum to 1 are allowed")
    marginal = p.mean(0, keepdim=True).expand_as(p)
    divergence = torch.xlogy(p, p) - torch.xlogy(p, marginal)
    return float(divergence.sum(1).mean().exp())


def _resampled(k_aa: np.ndarray, k_bb: np.ndarray, k_ab: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The unbiased squared MMD of `resamples` bootstrap samples of both sets, from their kernel matrices [n, n]."""
    rng, n = np.random.default_rng(seed), len(k_aa)
    w_a, w_b = (rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64) for _ in range(2))

    def within(weights, kernel):
        kernel, pairs = kernel - np.diag(np.diag(kernel)), n**2 - (weights**2).sum(1)
        pairs = np.where(pairs > 0, pairs, np.nan)  # a resample of one row alone has no pair
        return np.einsum("rn,rn->r", weights @ kernel, weights) / pairs

    return within(w_a, k_aa) + within(w_b, k_bb) - 2 * np.einsum("rn,rn->r", w_a @ k_ab, w_b) / n**2


def _check_level(level: float) -> None:
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ValueError(f"level: got {level!r}; a number between 0 and 1, both excluded, is allowed")


def _at_least(name: str, value: int, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < lowest:
        raise ValueError(f"{name}: got {value!r}; an integer of at least {lowest} is allowed")


def _pairs(a: Tensor, b: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    for name, images in (("a", a), ("b", b)):
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"{name}: got {got}; a tensor of shape [n, 3, H, W] is allowed")
        if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError(
                f"{name}: got {images.dtype} values outside [0, 1] or not floating; floats in [0, 1] are allowed"
            )
    if a.shape != b.shape:
        raise ValueError(f"b: got shape {tuple(b.shape)}; {tuple(a.shape)}, the shape of a, is allowed")
    return list(zip(a.detach().cpu().double().numpy(), b.detach().cpu().double().numpy(), strict=True))


def _features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _finite_rows("features_a", a), _finite_rows("features_b", b)
    if a.shape != b.shape:
        raise ValueError(
            f"features_b: got shape {tuple(b.shape)}; only sets of equal n and d compare: {tuple(a.shape)}"
        )
    return a, b


def _finite_rows(name: str, features: Any) -> Tensor:
    """Features as a float64 tensor on the CPU."""
    try:
        rows = torch.as_tensor(features).detach().cpu()
        got = f"{rows.dtype} of shape {tuple(rows.shape)}"
        if not rows.is_complex() and rows.ndim == 2 and len(rows) > 1 and rows.shape[1] and bool(rows.isfinite().all()):
            return rows.double()
    except (TypeError, ValueError, RuntimeError):  # torch's words for None, text and ragged lists name no argument
        got = f"{type(features).__name__} that is no array of numbers"
    raise ValueError(f"{name}: got {got}; finite real [n, d] with n of 2 or more and d of 1 or more is allowed")
