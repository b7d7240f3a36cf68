"""Figures of what merging costs: similarity to the unmerged image against ratio, and step by step."""

import numpy as np
import pandas as pd
import seaborn

from . import style, words
from .style import About, Drawn

METRICS = {"ssim": "SSIM", "psnr": "PSNR, dB"}
FORMS = {"exponential": "-", "linear": "--"}


def quality_against_ratio(
    decay: pd.DataFrame,      # model, ratio, image, psnr, ssim against the unmerged image of the same seed
    curves: pd.DataFrame,     # model, metric, form, ratio, value: see fits.curves
    baselines: pd.DataFrame,  # model_or_baseline, ratio (nan for a baseline), psnr, ssim: see decay.dataset_baselines
    about: About,
    *,
    figure_number: str = "5.2",
    note: str = "",           # how the images were drawn
    name: str = "05_figure_5.2",
) -> Drawn:  # fmt: skip
    """Figure 5.2: SSIM (a) and PSNR (b) to the unmerged image of the same seed, with both fits and the baselines."""
    models = list(decay.model.unique())
    palette, gap = style.colours(models), " " if " " in figure_number else ""
    with style.canvas(1, 2, size=(9.2, 4.3)) as (figure, grid):
        for letter, axes, (metric, label) in zip("ab", grid, METRICS.items(), strict=True):
            for place, model in enumerate(models):
                shift = 0.012 * (place - (len(models) - 1) / 2)  # neighbours, not one upon the other
                _points(axes, decay[decay.model == model], metric, palette[model], style.MARKERS[place], model, shift)
                _curves(axes, curves[(curves.model == model) & (curves.metric == metric)], palette[model])
            _bands(axes, baselines, metric)
            style.ratio_axis(axes, decay.ratio)
            axes.set_ylabel(label)
            axes.set_title(f"{figure_number}{gap}({letter})  {label.split(',')[0]} to the unmerged image", pad=16)  # over "identical"
        handles = [handle for handle in grid[0].get_legend_handles_labels()[0]]
        figure.legend(handles=[*handles, *_keys()], loc="outside upper center", ncols=4)
    n = decay.groupby(["model", "ratio"]).size().min()
    bands = " Bands: quartiles of what two unrelated test faces give, and a test face and its reconstruction by the autoencoder."
    caption = (
        f"Figure {figure_number}: mean over {n} images a ratio and its 95% bootstrap interval, {style.weights_of(decay)} "
        f"weights. {note}At ratio 0 an image is compared with itself, which no fit uses.{bands if len(baselines) else ''}"
    )
    return style.finish(figure, name, _in_words(decay), caption, about)


def against_the_data(baselines: pd.DataFrame, about: About, *, name: str = "05_figure_5.2_data") -> Drawn:
    """The thesis's section 5.2, which compares with the data set: merged images against unrelated test faces."""
    of_models = baselines[baselines.ratio.notna()]
    models = list(of_models.model_or_baseline.unique())
    palette = style.colours(models)
    with style.canvas(1, 2, size=(9.2, 3.7)) as (figure, grid):
        for axes, (metric, label) in zip(grid, METRICS.items(), strict=True):
            for place, model in enumerate(models):
                shift = 0.012 * (place - (len(models) - 1) / 2)
                rows = of_models[of_models.model_or_baseline == model].groupby("ratio")[metric]
                places = rows.median().index + shift
                axes.vlines(
                    places, rows.quantile(0.25), rows.quantile(0.75), color=palette[model], linewidth=3, alpha=0.4
                )
                axes.plot(places, rows.median(), style.MARKERS[place], color=palette[model], label=model)
            _bands(axes, baselines, metric)
            style.ratio_axis(axes, of_models.ratio)
            axes.set(title=f"{label.split(',')[0]} to the data set", ylabel=label)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    ends = of_models.groupby(["model_or_baseline", "ratio"]).psnr.median()
    told = "; ".join(
        f"{model} {ends[model].iloc[0]:.1f} dB unmerged, {ends[model].iloc[-1]:.1f} dB at the highest ratio"
        for model in models
    )
    caption = (
        "Merged images against faces of the test set, which have nothing to do with them: medians and quartiles over "
        f"{of_models.image.nunique()} images. Bands: two unrelated test faces, and a test face after "
        "the autoencoder alone."
    )
    return style.finish(figure, name, f"PSNR and SSIM to the data set against ratio. {told}.", caption, about)


def _points(axes, rows: pd.DataFrame, metric: str, colour, marker: str, model: str, shift: float) -> None:
    from frugal.measure.quality import mean_interval

    finite = rows[np.isfinite(rows[metric]) & (rows.ratio > 0)]
    found = {ratio: mean_interval(values) for ratio, values in finite.groupby("ratio")[metric]}
    low, high = ([getattr(e, end) for e in found.values()] for end in ("low", "high"))
    places = [ratio + shift for ratio in found]
    axes.vlines(places, low, high, color=colour, linewidth=3, alpha=0.4)
    axes.plot(places, [e.value for e in found.values()], marker, color=colour, label=model)
    same = rows[rows.ratio == 0]
    if same.empty or np.isfinite(same.psnr).any():  # nothing to show, or a device that does not repeat itself
        axes.plot([shift] * len(same), same[metric], marker, color=colour)
    elif metric == "ssim":
        axes.plot([shift], [1], marker, color=colour)
        _above(axes, "identical")
    else:
        axes.plot([shift], [0.97], marker="^", color=colour, transform=axes.get_xaxis_transform(), clip_on=False)
        _above(axes, "identical (∞)")


def _above(axes, text: str) -> None:
    """Names the points at ratio 0 above the panel, where there is nothing to cover."""
    axes.annotate(text, (0, 1), xycoords=axes.get_xaxis_transform(), xytext=(-8, 2), textcoords="offset points", fontsize=8.5, va="bottom")


def _curves(axes, curves: pd.DataFrame, colour) -> None:
    for form, rows in curves.groupby("form"):
        axes.plot(rows.ratio, rows.value, FORMS[form], color=colour, linewidth=1.2)


def _bands(axes, baselines: pd.DataFrame, metric: str) -> None:
    alone = baselines[baselines.ratio.isna()].groupby("model_or_baseline")[metric]
    for (baseline, values), shade in zip(alone, ("#9e9e9e", "#c9a227", "#7a9e7e"), strict=False):
        low, high = values.quantile([0.25, 0.75])
        axes.axhspan(low, high, color=shade, alpha=0.3, linewidth=0, zorder=0)
        axes.annotate(baseline.replace(" ", "\n"), (1, (low + high) / 2), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", fontsize=8, va="center", color=style.INK)  # fmt: skip


def _keys() -> list:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=style.FAINT, linestyle=line, label=f"{form} fit") for form, line in FORMS.items()]


def _in_words(decay: pd.DataFrame) -> str:
    finite = decay[(decay.ratio > 0) & np.isfinite(decay.psnr)]
    ends = finite.groupby(["model", "ratio"])[["psnr", "ssim"]].mean()
    told = []
    for model in finite.model.unique():
        first, last = ends.loc[model].iloc[0], ends.loc[model].iloc[-1]
        low, high = ends.loc[model].index[[0, -1]]
        told.append(
            f"{model}: from {first.psnr:.1f} dB and SSIM {first.ssim:.2f} at {low:.0%} "
            f"to {last.psnr:.1f} dB and {last.ssim:.2f} at {high:.0%}"
        )
    return f"PSNR and SSIM to the unmerged image against ratio. {'; '.join(told)}."


def trajectories(steps: pd.DataFrame, about: About, *, name: str = "05_section_4.3_trajectories") -> Drawn:
    """Section 4.3: PSNR and SSIM between merged and unmerged trajectory at every step, from `decay.trajectories`."""
    models, ratios = list(steps.model.unique()), sorted(ratio for ratio in steps.ratio.unique() if ratio > 0)
    shades = dict(zip(ratios, seaborn.color_palette("viridis", len(ratios) + 1), strict=False))  # not its faint last
    with style.canvas(len(models), 2, size=(9.2, 2.7 * len(models) + 0.5), sharex="row", squeeze=False) as (
        figure,
        grid,
    ):
        for row, model in zip(grid, models, strict=True):
            for axes, (metric, label) in zip(row, METRICS.items(), strict=True):
                finite = steps[(steps.model == model) & np.isfinite(steps[metric])]
                for ratio in ratios:
                    middle = finite[finite.ratio == ratio].groupby("step")[metric].mean()
                    axes.plot(middle, color=shades[ratio], label=f"{ratio:.0%}")
                axes.set(title=model, ylabel=label, xlabel="denoising step")
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right center", title="ratio")
    ends, n = steps[steps.step == steps.step.max()].groupby(["model", "ratio"]).ssim.mean(), steps.image.nunique()
    over = f"means over {n} images" if n > 1 else "one image"
    told = "; ".join(f"{model} {words.span(ends[model], '{:.2f}'.format)}" for model in models)
    caption = (
        "The image as the network sees it at each step (its estimate of the clean image), merged against unmerged from "
        f"the same noise: {over}, {style.weights_of(steps)} weights. Identical images, "
        "as at ratio 0, are not drawn."
    )
    return style.finish(
        figure, name, f"Similarity at every denoising step; SSIM at the last, over all ratios: {told}.", caption, about
    )
