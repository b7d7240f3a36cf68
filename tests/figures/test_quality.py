import numpy as np
import pandas as pd
import pytest

from frugal.figures import quality
from frugal.measure import fits


@pytest.fixture
def baselines():
    """Both baselines, and images of two models against the data set."""
    rows = [
        (name, np.nan, k, psnr + k, ssim)
        for name, psnr, ssim in (("unrelated test images", 10, 0.2), ("autoencoder alone", 30, 0.95))
        for k in range(4)
    ]
    rows += [
        (model, ratio, k, 12.0 + k, 0.25)
        for model in ("faces-ddpm", "faces-ldm")
        for ratio in (0.0, 0.5)
        for k in range(4)
    ]
    return pd.DataFrame(rows, columns=["model_or_baseline", "ratio", "image", "psnr", "ssim"])


@pytest.fixture
def figure_5_2(decay, baselines, about):
    curves = fits.curves(pd.concat([fits.fit_decay(decay, "psnr"), fits.fit_decay(decay, "ssim")]))
    return quality.quality_against_ratio(decay, curves, baselines, about)


def labels(axes):
    return [text.get_text().replace("\n", " ") for text in axes.texts]


def outside(axes):
    """Whether every label of a panel lies beside or above it, drawn as it will be."""
    axes.figure.draw_without_rendering()
    panel = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in axes.texts]
    return all(box.x0 >= panel.x1 or box.y0 >= panel.y1 for box in boxes)


def test_figure_5_2_has_both_metrics_both_fits_and_both_baselines(figure_5_2):
    ssim, psnr = figure_5_2.figure.axes
    assert "SSIM" in ssim.get_title(loc="left") and "PSNR" in psnr.get_title(loc="left")
    for axes in (ssim, psnr):
        assert {"unrelated test images", "autoencoder alone"} <= set(labels(axes))
        assert [line.get_linestyle() for line in axes.get_lines() if len(line.get_xdata()) > 20] == ["-", "--"] * 2


def test_infinite_psnr_is_drawn_as_identical_and_never_as_a_number(figure_5_2):
    ssim, psnr = figure_5_2.figure.axes
    assert "identical (∞)" in labels(psnr) and "identical" in labels(ssim)
    assert np.isfinite(psnr.get_ylim()).all()
    points = [line for line in psnr.get_lines() if line.get_label().startswith("faces")]
    assert all(len(line.get_xdata()) == 9 and np.isfinite(line.get_ydata()).all() for line in points)


def test_no_label_covers_a_point(figure_5_2, baselines, about):
    drawn = [figure_5_2, quality.against_the_data(baselines, about)]
    assert all(outside(axes) for figure in drawn for axes in figure.figure.axes)


def test_figure_5_2_without_fits(decay, baselines, about):
    few = decay[decay.ratio.isin([0, 0.5])]
    none = fits.curves(fits.fit_decay(few, "psnr"))
    assert "at 50%" in quality.quality_against_ratio(few, none, baselines, about).alt


def test_ratio_0_that_does_not_repeat_itself_is_not_called_identical(decay, baselines, about):
    noisy = decay.assign(psnr=decay.psnr.where(decay.ratio > 0, 80.0))
    none = fits.curves(fits.fit_decay(decay[decay.ratio < 0.3], "psnr"))
    ssim, psnr = quality.quality_against_ratio(noisy, none, baselines, about).figure.axes
    assert not any("identical" in label for label in labels(psnr) + labels(ssim))


def test_ratio_0_alone_is_drawn(decay, baselines, about):
    alone = decay[decay.ratio == 0]
    drawn = quality.quality_against_ratio(alone, fits.curves(fits.fit_decay(alone, "psnr")), baselines, about)
    assert "identical (∞)" in labels(drawn.figure.axes[1])


def test_the_comparison_with_the_data_set_shows_models_and_baselines(baselines, about):
    drawn = quality.against_the_data(baselines, about)
    assert "faces-ldm 13.5 dB unmerged" in drawn.alt
    assert all({"unrelated test images", "autoencoder alone"} <= set(labels(axes)) for axes in drawn.figure.axes)


def test_trajectories_have_a_line_a_ratio_for_each_model_and_metric(about):
    steps = pd.DataFrame(
        [(model, ratio, step, 0, np.inf if ratio == 0 else 40 - step, 1 - ratio / 2)
         for model in ("faces-ddpm", "faces-ldm") for ratio in (0.0, 0.5, 0.9) for step in range(5)],
        columns=["model", "ratio", "step", "image", "psnr", "ssim"],
    ).assign(weights="embedded")  # fmt: skip
    drawn = quality.trajectories(steps, about)
    assert [len(axes.get_lines()) for axes in drawn.figure.axes] == [2] * 4
    assert "faces-ddpm 0.55 to 1.00" in drawn.alt
    two = quality.trajectories(pd.concat([steps, steps.assign(image=1)]), about)
    assert "noise: one image, embedded" in drawn.caption and "noise: means over 2 images, embedded" in two.caption
