"""Figures of what merging saves: time against ratio, both models side by side, iterations, memory, and the bound."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..measure import timing
from . import shares, shipped, style, words
from .shipped import HOLLOW, reference
from .style import About, Drawn

__all__ = [
    "attention_bound", "effects", "iteration_times", "models_compared", "peak_memory", "reference", "time_against_ratio",
]  # fmt: skip

BAND = "#dcdcdc"


def effects(times: pd.DataFrame) -> pd.DataFrame:
    """`timing.changes`, one row a model and ratio: the whole network's where it was measured, else composed."""
    found = timing.changes(times).sort_values("kind", ascending=False)  # "measured" before "composed"
    found = found.drop_duplicates(["model", "ratio"]).sort_values("ratio")
    return found.sort_values(
        "model", key=lambda model: model.map(list(times.model.unique()).index), kind="stable", ignore_index=True
    )


def time_against_ratio(
    times: pd.DataFrame,  # model, weights, ratio, round, seconds of one image, kind: see timing.image_seconds
    about: About,
    *,
    title: str = "Figure 5.1",
    name: str = "05_figure_5.1",
    steps: int = 200,
    reference: pd.DataFrame | None = None,  # shipped measurements of other machines: the same columns, and device
) -> Drawn:  # fmt: skip
    """Figure 5.1 (a), (b): seconds of an image against the ratio, and beside them the change that merging makes."""
    models, changes, times = list(times.model.unique()), effects(times), times[times.kind != "again"]
    palette, elsewhere = style.colours(models), shipped.of_models(reference, models)
    columns, above = (3, shipped.LEGEND) if len(elsewhere) else (2, 0)
    size = (4.6 * columns, 3.4 * len(models) + 0.4 + above)
    with style.canvas(len(models), columns, size=size, squeeze=False) as (figure, grid):
        for letter, model, (absolute, relative, *third) in zip("abcdef", models, grid, strict=False):
            rows = times[times.model == model]
            _absolute(absolute, rows, palette[model])
            absolute.set(title=f"({letter}) {model}", ylabel=f"seconds for one image of {steps} steps")
            _relative(relative, changes[changes.model == model], palette[model])
            for axes in third:  # of other machines, whose changes would dwarf these
                shipped.seconds(axes, elsewhere[elsewhere.model == model], steps)
            reach = 1.15 * max(*map(abs, relative.dataLim.intervaly), 0.01)
            relative.set(title="the change that merging makes", ylim=(-reach, reach), ylabel="time against ratio 0")
            style.ratio_axis(relative, rows.ratio)
            handles = _legend(relative, rows, palette[model])
            absolute.legend(handles=handles, loc="lower left")  # the axis begins at 0: there is room, and no bar is hidden
        if len(elsewhere):
            shipped.legend(figure, grid[:, 2])
    told = " ".join(f"{model}: {words.effect(rows)}" for model, rows in changes.groupby("model", sort=False))
    told = told or "Ratio 0 alone was asked for, which changes nothing."
    rounds = times[times.kind == "measured"].groupby(["model", "ratio"])["round"].nunique()
    composed = "; hollow: composed from the times of its attention layers" if (times.kind == "composed").any() else ""
    unit = (
        "scaled from single steps, interleaved rounds" if times.scaled.any() else "every iteration on the clock, images"
    )
    caption = (
        f"{title}: time of the {steps} steps of an image, decoding left out, {style.weights_of(times)} weights; "
        f"{unit}: {rounds.min()} or more. Filled: the whole network timed{composed}. "
        "Points on the left are means, dashes medians, bars interquartile ranges; on the right medians of the rounds and "
        f"their {words.INTERVALS} within this run (another run of the same machine may lie outside)"
        f"{', where composed those of the layers alone' if composed else ''}. "
        "Grey: smaller than the smallest change that the same rounds could tell from "
        "none, found by running ratio 0 twice in each, so not distinguishable from zero."
    )
    caption += _disagreement(times) + shipped.words(elsewhere)
    return style.finish(figure, name, f"{title}. {told}", caption, about)


def _disagreement(times: pd.DataFrame) -> str:
    """What a caption says of ratios both timed whole and composed: how far the two lie apart."""
    found = timing.changes(times)
    pairs = found[found.kind == "composed"].merge(found[found.kind == "measured"], on=["model", "ratio"], suffixes=("", "_measured"))
    told = {
        model: ", ".join(
            f"{words.percent(row.change, signed=True)} against {words.percent(row.change_measured, signed=True)} at {row.ratio:.0%}"
            for row in rows.itertuples()
        )
        for model, rows in pairs.groupby("model", sort=False)
    }  # fmt: skip
    each = "; ".join(f"{model} {text}" for model, text in told.items())
    return f" Where a ratio is both, composed against measured: {each}." if told else ""


def _absolute(axes, times: pd.DataFrame, colour) -> None:
    for kind, rows in times.groupby("kind"):
        by_ratio = rows.groupby("ratio").seconds
        middle, low, high = by_ratio.median(), by_ratio.quantile(0.25), by_ratio.quantile(0.75)
        axes.vlines(middle.index, low, high, color=colour, linewidth=3, alpha=0.35)
        axes.plot(middle.index, middle, "_", color=style.INK, markersize=11, zorder=4)
        look = {} if kind == "measured" else HOLLOW
        axes.plot(by_ratio.mean(), "o", color=colour, zorder=3 if kind == "measured" else 2.5, **look)
    style.ratio_axis(axes, times.ratio)
    axes.set_ylim(0, 1.12 * times.seconds.max())
    shipped.hours(axes)


def _relative(axes, found: pd.DataFrame, colour) -> None:
    smallest = found.detectable.max()  # one value a model; nan where only ratio 0 was asked for
    if np.isfinite(smallest):
        axes.axhspan(-smallest, smallest, color=BAND, linewidth=0, zorder=0)
    axes.axhline(0, color=style.FAINT, linewidth=0.9)
    axes.plot([0, *found.ratio], [0, *found.change], color=colour, linewidth=1, alpha=0.6)
    for kind, rows in found.groupby("kind"):
        axes.vlines(rows.ratio, rows.low, rows.high, color=colour, linewidth=3, alpha=0.35)
        axes.plot(rows.ratio, rows.change, "o", color=colour, **({} if kind == "measured" else HOLLOW))
    style.percent_axis(axes.yaxis)


def _legend(axes, times: pd.DataFrame, colour) -> list:
    dot = {"marker": "o", "color": colour, "linestyle": ""}
    handles = [Line2D([], [], label="measured", **dot)] if (times.kind == "measured").any() else []
    handles += [Line2D([], [], label="composed", **dot, **HOLLOW)] if (times.kind == "composed").any() else []
    handles += [Patch(color=BAND, label="not distinguishable from zero")] if axes.patches else []
    return handles


def models_compared(
    times: pd.DataFrame,   # of timing.image_seconds; the pixel model first
    decode: pd.DataFrame,  # model, round, seconds of decoding one image
    about: About,
    *,
    title: str = "Figure 6.1",
    name: str = "05_figure_6.1",
    steps: int = 200,
    reference: pd.DataFrame | None = None,  # shipped measurements of other machines, as in figure 5.1
) -> Drawn:  # fmt: skip
    """Figure 6.1: a pixel and a latent model on the same axes at every ratio, and the latent one's share of the time.

    Reference series that have both models are drawn below, on axes of their own.
    """
    pixel, latent = times.model.unique()
    palette = style.colours([pixel, latent])
    decoding = float(decode[decode.model == latent].seconds.median())
    times = timing.preferred(times)
    middle = times.groupby(["model", "ratio"]).seconds.median()
    without, including = (timing.time_share(times, pixel, latent, added) for added in (0.0, decoding))
    whole = shares.intervals(times, pixel, latent)
    elsewhere = shipped.of_models(reference, [pixel, latent], together=True)
    rows, height = (2, 7.4 + shipped.LINE * elsewhere.device.nunique()) if len(elsewhere) else (1, 3.9)
    with style.canvas(rows, 2, size=(9.2, height), width_ratios=[1.1, 1], squeeze=False) as (figure, ((absolute, share), *below)):
        for model, marker in zip((pixel, latent), style.MARKERS, strict=False):
            for kind, rows in times[times.model == model].groupby("kind"):
                look = {} if kind == "measured" else HOLLOW
                seconds = rows.groupby("ratio").seconds.mean()
                absolute.plot(
                    seconds, marker, color=palette[model], label=model if kind == "measured" else None, **look
                )
        absolute.plot(middle[latent] + decoding, ":", color=palette[latent], label=f"{latent}, decoding included")
        absolute.set(
            title="time of one image", ylabel=f"seconds for one image of {steps} steps", ylim=(0, 1.35 * middle.max())
        )
        absolute.legend(loc="upper left", ncols=1)
        share.plot(without, "-", color=palette[latent], label="steps alone")
        share.plot(without, "s", color=palette[latent], **HOLLOW)
        share.plot(whole.share, "s", color=palette[latent])
        reach = np.abs(whole[["low", "high"]].sub(whole.share, axis=0).T)
        share.errorbar(whole.index, whole.share, reach, fmt="none", ecolor=style.INK, elinewidth=1.2, capsize=5, zorder=5, label="95% interval")
        share.plot(including, ":", color=palette[latent], label="with decoding")
        _claims(share)
        share.set(title="latent model / pixel model", ylabel="share of the pixel model's time")
        share.set_ylim(0, max(0.6, 1.15 * including.max()))
        for seconds, part in below:
            _reference_pair(seconds, part, elsewhere, (pixel, latent), steps)
            shipped.legend(figure, [seconds], columns=1)
        share.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        share.legend(loc="best")  # not on the labels of the two statements
        for axes in (absolute, share):
            style.ratio_axis(axes, times.ratio)
    span = f"{without.min():.0%} to {without.max():.0%} ({including.min():.0%} to {including.max():.0%} with decoding)"
    alt = f"{title}. {latent} takes {span} of the time of {pixel} over all ratios."
    scaled = ", scaled from single steps" if times.scaled.any() else ""
    caption = (
        f"{title}: mean seconds of an image of {steps} steps{scaled}, "
        f"{style.weights_of(times)} weights; filled markers measured, hollow composed. "
        f"Beside: medians of {latent} over {pixel}, bars their 95% bootstrap intervals within this run, with the thesis's two "
        "statements as lines. "
        f"Decoding an image adds {decoding:.2g} s to the latent model and nothing to the pixel model."
    )
    caption += " Below, other machines on axes of their own." if len(elsewhere) else ""
    caption += shipped.words(elsewhere, half=latent)
    return style.finish(figure, name, alt, caption, about)


def _reference_pair(seconds, share, reference: pd.DataFrame, pair: tuple[str, str], steps: int) -> None:
    """The reference series of both models: their seconds, and the share of the latent one, each on axes of its own."""
    reference = reference.sort_values("model", key=lambda model: model != pair[0], kind="stable")
    shipped.seconds(seconds, reference, steps)
    highest = 0.6
    for _, look, rows in shipped.series(reference):
        taken = timing.time_share(rows, *pair)
        share.plot(taken, **look)
        highest = max(highest, 1.15 * taken.max())
    _claims(share)
    share.set(title="shipped reference: latent / pixel", ylabel="share of the pixel model's time", ylim=(0, highest))
    share.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    style.ratio_axis(share, reference.ratio)


def _claims(axes) -> None:
    for level, text, side in ((0.5, "5.5: “almost half the time”", 1), (0.25, "6.1: “more than 75% saved” lies below", -1)):
        axes.axhline(level, color=style.INK, linewidth=1, linestyle="--")
        align = "bottom" if side > 0 else "top"
        axes.annotate(text, (0, level), xytext=(4, 3 * side), textcoords="offset points", fontsize=8.5, va=align)


def iteration_times(iterations: pd.DataFrame, about: About, *, name: str = "05_section_4.3_iterations") -> Drawn:
    """Section 4.3: the time of each denoising iteration as a distribution, from `timing.iterations`."""
    import seaborn

    models, iterations = list(iterations.model.unique()), iterations[iterations.kind == "measured"]
    palette = style.colours(models)
    with style.canvas(1, len(models), size=(9.2, 3.4), squeeze=False) as (figure, grid):
        for axes, model in zip(grid[0], models, strict=True):
            rows = iterations[iterations.model == model].assign(ms=lambda t: 1000 * t.seconds)
            ratios = [f"{ratio:.0%}" for ratio in sorted(rows.ratio.unique())]
            rows = rows.assign(label=rows.ratio.map("{:.0%}".format))
            look = {"order": ratios, "color": palette[model], "ax": axes}
            seaborn.violinplot(rows, x="label", y="ms", inner=None, cut=0, linewidth=0, alpha=0.35, **look)
            seaborn.boxplot(rows, x="label", y="ms", width=0.22, fliersize=2.5, linewidth=1, **look)
            axes.set(
                title=model, xlabel="ratio of tokens removed", ylabel="milliseconds of an iteration", ylim=(0, None)
            )
            axes.grid(axis="x", visible=False)
    middle = 1000 * iterations.groupby(["model", "ratio"]).seconds.median()
    told = "; ".join(f"{model} {words.span(middle[model], '{:.3g}'.format)} ms over the ratios" for model in models)
    counted = iterations.groupby(["model", "ratio"]).size()
    caption = (
        f"Time of each denoising iteration ({counted.min()} a ratio), {style.weights_of(iterations)} weights: the width of a "
        "shape is how often a "
        "time occurs, the box spans the quartiles."
    )
    return style.finish(figure, name, f"Distribution of iteration times. Medians: {told}.", caption, about)


def peak_memory(memory: pd.DataFrame, about: About, *, name: str = "05_section_4.3_memory") -> Drawn:
    """Section 4.3: peak memory of a step above what is loaded, by model and ratio (model, weights, ratio, bytes)."""
    models = list(memory.model.unique())
    palette, rows = style.colours(models), memory.groupby(["model", "ratio"]).bytes.median() / 2**20
    with style.canvas(1, len(models), size=(9.2, 3.1), squeeze=False) as (figure, grid):
        for axes, model in zip(grid[0], models, strict=True):
            bars = axes.bar(
                [f"{ratio:.0%}" for ratio in rows[model].index], rows[model], color=palette[model], width=0.6
            )
            axes.bar_label(bars, fmt="%.4g", fontsize=8)
            axes.set(title=model, xlabel="ratio of tokens removed", ylabel="peak memory of a step, MiB")
            axes.margins(y=0.15)
            axes.grid(axis="x", visible=False)
    told = "; ".join(f"{model} {words.span(rows[model], '{:.4g}'.format)} MiB" for model in models)
    caption = (
        f"Peak memory of one network step above what is loaded (fresh process on a CPU, allocator on CUDA), "
        f"{style.weights_of(memory)} weights. One measured value a bar."
    )
    return style.finish(figure, name, f"Peak memory by ratio: {told}.", caption, about)


def attention_bound(shares: pd.DataFrame, about: About, *, name: str = "05_attention_share") -> Drawn:
    """The attention modules' share of a network's FLOPs (model, share): no merging in them can save more."""
    with style.canvas(size=(8.2, 0.9 + 0.55 * len(shares))) as (figure, axes):
        y = np.arange(len(shares))[::-1]
        axes.barh(y, shares.share, color=style.PALETTE[1], height=0.6, label="attention: all that merging can touch")
        axes.barh(y, 1 - shares.share, left=shares.share, color="#d9d9d9", height=0.6, label="everything else")
        for place, share in zip(y, shares.share, strict=True):
            axes.annotate(f"{100 * share:.3g}%", (share, place), xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_yticks(y, shares.model)
        axes.set(xlim=(0, 1), xlabel="share of the FLOPs of one step")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(visible=False)
        figure.legend(loc="outside upper center", ncols=2)
    told = "; ".join(f"{row.model} {100 * row.share:.3g}%" for row in shares.itertuples())
    caption = "FLOPs inside attention modules, projections included: a property of the architecture, counted, not run."
    return style.finish(figure, name, f"Attention's share of the FLOPs: {told}.", caption, about)
