"""Figures of the chapter on speculative sampling: the coupling, an image's rounds, distances of draft and target."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from scipy.stats import norm

from ..measure import speculation
from . import style
from .style import About, Drawn

FATES = {"kept": style.PALETTE[2], "mirrored": style.PALETTE[1], "drawn": style.PALETTE[0], "thrown away": "#d4d4d4"}
TOLD = {"kept": "draft kept", "mirrored": "rejected, its mirror image stands", "drawn": "drawn from the target", "thrown away": "behind a rejection: not taken"}
LOOK = {name: {"color": style.PALETTE[k], "marker": style.MARKERS[i]} for i, (name, k) in enumerate({"velocity": 3, "clean": 0, "tweedie": 2}.items())}
VERIFY = {"reflection": {"color": style.PALETTE[4], "marker": "o"}, "block": {"color": style.PALETTE[5], "marker": "D"}, "replay": {"color": style.PALETTE[9], "marker": "s"}}


def coupling(found: pd.DataFrame, about: About, *, delta: float = 1.5, shown: int = 45, seed: int = 0, name: str = "08_coupling") -> Drawn:
    """Two Gaussians and their overlap, the acceptance of `speculation.couplings` over delta, and where rejected drafts go."""
    with style.canvas(1, 3, size=(9.6, 3.6), width_ratios=(1.1, 1, 1.1)) as (figure, (densities, law, plane)):
        _overlap(densities, delta)
        fine = np.linspace(0, found.delta.max() * 1.05, 200)
        law.plot(fine, 2 * norm.cdf(-fine / 2), color=style.FAINT, label=r"$2\,\Phi(-\delta/2)$")
        law.errorbar(found.delta, found.accepted, yerr=2 * found.error, fmt="o", color=style.PALETTE[0], capsize=3, markersize=4, label="measured")
        law.set(xlabel=r"distance $\delta$ of the means, in std", ylabel="share of drafts kept", title="how often", ylim=(0, 1.03))
        law.legend()
        _mirror(plane, delta, shown, seed)
    farthest = ((found.accepted - found.law).abs() / found.error.where(found.error > 0)).max()
    caption = (
        f"Maximal coupling. Left, draft and target, {delta:g} standard deviations apart: the area they share is how often one sample can serve both. Middle, the share "
        f"that `reflection_couple` keeps; bars: two standard errors; the farthest from the law is off by {farthest:.1f} of one. Right, {shown} drafts in two of their "
        "dimensions: kept (filled), or mirrored about the midpoint of the means (an arrow). The target's samples are the filled points and the arrows' heads."
    )
    told = ", ".join(f"{row.accepted:.3f} at {row.delta:g}" for row in found.itertuples())
    return style.finish(figure, name, f"Two overlapping bells; kept shares {told}, on the curve; drafts and their mirror images.", caption, about)


def _overlap(axes, delta: float) -> None:
    x = np.linspace(-3.6, delta + 3.6, 400)
    draft, target = norm.pdf(x), norm.pdf(x - delta)
    axes.fill_between(x, np.minimum(draft, target), color=FATES["kept"], alpha=0.45, linewidth=0)
    axes.plot(x, draft, color=style.PALETTE[3], label="draft $p$")
    axes.plot(x, target, color=style.PALETTE[0], label="target $q$")
    axes.text(delta / 2, 0.06, f"{2 * norm.cdf(-delta / 2):.2f}", ha="center", fontsize=11)
    axes.set(xlabel="along the line through both means", yticks=[], title="the overlap", ylim=(0, 0.52))
    axes.legend(loc="upper right", ncols=2)


def _mirror(axes, delta: float, shown: int, seed: int) -> None:
    drafts, samples, accepted = (values.numpy() for values in speculation.coupled(delta, shown, 2, seed))
    axes.axvline(delta / 2, color=style.FAINT, linestyle="--", linewidth=1)
    for before, after in zip(drafts[~accepted], samples[~accepted], strict=True):
        axes.annotate("", after, before, arrowprops={"arrowstyle": "-|>", "color": FATES["mirrored"], "lw": 0.9, "shrinkA": 2, "shrinkB": 0})
    axes.plot(*drafts[~accepted].T, "o", color="white", markeredgecolor=FATES["mirrored"], markersize=4)
    axes.plot(*drafts[accepted].T, "o", color=FATES["kept"], markersize=4)
    axes.plot([0, delta], [0, 0], "k+", markersize=11, markeredgewidth=2)
    axes.set(xlabel="along the line", ylabel="across it", title="kept or mirrored", aspect="equal", xlim=(-3, delta + 3), ylim=(-3, 3))


def trajectory(ways: Mapping[str, pd.DataFrame], about: About, *, model: str, seed: int, window: int, churn: float, name: str = "08_trajectory") -> Drawn:
    """Fates of the judged states of one image, rounds downward and steps across, a panel for each table of `speculation.windows`."""
    most, steps = max(table["round"].max() for table in ways.values()) + 1, max(table.step.max() for table in ways.values()) + 1
    colours = ListedColormap(list(FATES.values()))
    with style.canvas(1, len(ways), size=(9.6, 4.4), squeeze=False, sharey=True) as (figure, [row]):
        for axes, (title, table) in zip(row, ways.items(), strict=True):
            grid = np.full((most, steps), np.nan)
            grid[table["round"], table.step] = [list(FATES).index(fate) for fate in table.fate]
            axes.pcolormesh(np.arange(steps + 1), np.arange(most + 1), grid, cmap=colours, vmin=-0.5, vmax=len(FATES) - 0.5, edgecolors="white", linewidth=0.25)
            front = table[table.fate != "thrown away"].groupby("round").step.max() + 1
            axes.step([0, *front], range(len(front) + 1), color="black", linewidth=1.3, where="pre")
            axes.set(xlabel="step of the chain", title=f"{title}: {len(front)} calls, {len(table)} rows", ylim=(most, 0))
            axes.grid(visible=False)
        row[0].set_ylabel("round: one call of the network")
        handles = [axes.fill_between([], [], color=FATES[fate], label=label) for fate, label in TOLD.items()]
        figure.legend(handles=[*handles, *axes.plot([], [], color="black", label="committed front")], loc="outside upper center", ncols=5, fontsize=8)
    told = "; ".join(f"{title}: {table['round'].max() + 1} calls" for title, table in ways.items())
    caption = (
        f"One image of {model}, seed {seed}, windows of {window}, churn {churn:g}. A row is a call of the network on a window of drafted states, a cell a state that it judged. Left of the line all steps are "
        "taken for good; the next window begins there."
    )
    return style.finish(figure, name, f"Windows along the steps of an image, kept up to a rejection. {told}.", caption, about)


def distance(found: pd.DataFrame, about: About, *, lags: tuple[int, int] = (1, 4), name: str = "08_distance") -> Drawn:
    """Distances of draft and target over the step at two lags, and their medians over the lag: one churn of `draft_distances.distances`."""
    with style.canvas(1, 3, size=(9.6, 3.7), sharey=True) as (figure, grid):
        for draft, rows in found.groupby("draft", sort=False):
            for axes, lag in zip(grid, lags, strict=False):
                mean = rows[rows.lag == lag].groupby("step").distance.mean()
                axes.plot(mean.index, mean, color=LOOK[draft]["color"], linewidth=1.2, label=draft)
            medians = rows.groupby("lag").distance.median()
            grid[2].plot(medians.index, medians, markersize=5, label=draft, **LOOK[draft])
        for axes, lag in zip(grid, lags, strict=False):
            axes.set(xlabel="step of the chain", title=f"asked {lag} step{'s' if lag > 1 else ''} before")
        grid[2].set(xlabel="steps since the network was asked", title="median of all steps", xscale="log")
        grid[2].set_xticks(sorted(found.lag.unique()), [str(lag) for lag in sorted(found.lag.unique())])
        grid[2].minorticks_off()
        grid[0].set(yscale="log", ylabel=r"$|m_p - m_q|$ / std")
        grid[0].legend()
        for axes in grid:
            _half(axes)
    model, churn = found.model.iloc[0], found.churn.iloc[0]
    caption = (
        f"Distance of draft and target along the sequential chain of {model}, churn {churn:g}, {found.image.nunique()} image(s). Dotted: where half of the drafts are kept. "
        "All drafts are asked at the same states."
    )
    return style.finish(figure, name, f"Curves of distance for each draft. {in_words(found)}", caption, about)


def gain(found: pd.DataFrame, about: About, *, name: str = "08_gain") -> Drawn:
    """How far each draft lets the clean sample follow the state's noise, from `draft_distances.gains`."""
    means = found.groupby("step")[["velocity", "tweedie"]].mean()
    with style.canvas(size=(6.4, 3.5)) as (figure, axes):
        axes.plot(means.velocity, color=LOOK["velocity"]["color"], label="velocity frozen: the share of the signal")
        axes.plot(means.index, 0 * means.velocity, color=LOOK["clean"]["color"], label="clean image frozen: none")
        axes.plot(means.tweedie, color=LOOK["tweedie"]["color"], label="tweedie: as measured on the way")
        axes.set(xlabel="step of the chain", ylabel="gain")
        axes.legend()
    told = f"measured {means.tweedie.median():.3f} in the median, the signal's share {means.velocity.median():.2f}".replace("-", "\u2212")
    caption = (
        f"The gain: how far the predicted clean image moves with a unit of what the new state shows beyond its expectation, {found.model.iloc[0]}, mean of the channels, "
        f"{found.image.nunique()} image(s): {told}."
    )
    return style.finish(figure, name, f"Gains over the steps: {told}.", caption, about)


def _half(axes) -> None:
    axes.axhline(-2 * norm.ppf(0.25), color=style.FAINT, linestyle=":", linewidth=1.2, label="half are kept")


def in_words(found: pd.DataFrame) -> str:
    """Median distances of each draft at the shortest and the longest lag, of one churn."""
    medians = found.groupby(["draft", "lag"], sort=False).distance.median()
    ends = found.lag.min(), found.lag.max()
    told = [f"{draft} {medians[draft, ends[0]]:.2f} and {medians[draft, ends[1]]:.2f}" for draft in found.draft.unique()]
    return f"Median distance {ends[0]} and {ends[1]} steps after the network was asked: {'; '.join(told)}."


def churn(found: pd.DataFrame, calls: pd.DataFrame, about: About, *, lag: int = 1, name: str = "08_churn") -> Drawn:
    """Churn's two sides, from `draft_distances.distances`: what a draft misses and the noise it is measured by; and calls, from `costs`."""
    some = found[found.lag == lag]
    middle = some[some.step == some.step.median().round()]
    with style.canvas(1, 3, size=(9.6, 3.7)) as (figure, (parts, ratio, cost)):
        parts.plot(middle.groupby("churn")["std"].mean(), "k--", label="std of the step")
        for draft, rows in middle.groupby("draft", sort=False):
            parts.plot(rows.groupby("churn").change.mean(), markersize=5, label=f"$|m_p - m_q|$, {draft}", **LOOK[draft])
        for draft, rows in some.groupby("draft", sort=False):
            ratio.plot(rows.groupby("churn").distance.median(), markersize=5, label=draft, **LOOK[draft])
        _half(ratio)
        for verify, rows in calls.groupby("verify", sort=False):
            reach = (rows.calls - rows.calls_min, rows.calls_max - rows.calls)
            cost.errorbar(rows.churn, rows.calls, yerr=reach, markersize=5, capsize=3, elinewidth=0.8, label=verify, **VERIFY[verify])
        parts.set(yscale="log", title=f"at step {int(middle.step.iloc[0])}", xlabel="churn", ylabel="root of the sum of squares")
        ratio.set(yscale="log", title="their ratio", xlabel="churn", ylabel=r"median $|m_p - m_q|$ / std")
        for place in (ratio.yaxis.set_major_formatter, ratio.yaxis.set_minor_formatter):
            place(lambda value, _: f"{value:.2g}")
        cost.set(title="calls of an image", xlabel="churn", ylabel="calls", ylim=(0, None))
        for axes, table in ((parts, found), (ratio, found), (cost, calls)):
            axes.set_xticks(sorted(table.churn.unique()))
            axes.legend(fontsize=7.5)
    caption = (
        f"What churn does, {found.model.iloc[0]}, drafts asked {lag} step before. Left, the noise of a step and what the drafts miss; middle, one over the other, median of all "
        f"steps (dotted: where half of the drafts are kept); right, calls of an image by the draft {calls.draft.iloc[0]} with windows of {calls.window.iloc[0]}, mean of {calls.images.iloc[0]} image(s), bars "
        "from the fewest to the most."
    )
    return style.finish(figure, name, f"Curves over churn. {best_churn(found, calls, lag)}", caption, about)


def best_churn(found: pd.DataFrame, calls: pd.DataFrame, lag: int = 1) -> str:
    """Where distance and calls are lowest, in words."""
    medians = found[found.lag == lag].groupby(["draft", "churn"], sort=False).distance.median()
    near = [f"{draft} at {medians[draft].idxmin():g}" for draft in found.draft.unique()]
    return f"Nearest to the target: {', '.join(near)}. Fewest calls: {'; '.join(_fewest(rows) for _, rows in calls.groupby('verify', sort=False))}."


def _fewest(rows: pd.DataFrame) -> str:
    """At which churn one way of judging took fewest calls, and which others the same images do not tell from it."""
    best = rows.loc[rows.calls.idxmin()]
    alike = rows[(rows.churn != best.churn) & (rows.calls_min <= best.calls_max)].churn
    also = f", not told from {', '.join(f'{churn:g}' for churn in alike)} by these images" if len(alike) else ""
    return f"{best.calls:.1f} at {best.churn:g} ({best.verify}{also})"
