"""What a number of calls buys in quality: large samples of every sampler, drawn and told."""

from dataclasses import replace

import numpy as np
import pandas as pd

from ..measure.arms import REFERENCE, SOLVER, WATCHED
from ..measure.fewer_steps import STOCHASTIC, TWICE
from . import style
from .samplers import KNOWN, LOOK
from .style import About, Drawn
from .tables import markdown
from .words import bullets, percent

TICKS = (5, 10, 20, 50, 200)  # calls named on the axis
REACHED = ["model", "arm", "calls", "tried", "accepted", "limit", "kid", "kid_low", "kid_high"]


def quality(found: pd.DataFrame, about: About, *, name: str = "07_quality") -> Drawn:
    """Faces accepted and KID over calls, a column a model, from shipped records of large samples."""
    found = _large(found)
    panels = {"accepted by the judge, %": (found.assign(share=100 * found.accepted), "share", ()), "KID to test faces": (found, "kid", ("kid_low", "kid_high"))}
    figure = _over_calls(panels, yscale={"KID to test faces": "log"})
    caption = (
        f"Unfiltered samples of {int(found.images.min())} seeds an arm, shipped with the project (quality does not depend on the machine): the share that the judge accepts, and KID "
        "with its bootstrap band; a band that reaches below 0 is cut off by the axis, and a curve ends where no more was measured."
    )
    most = found.loc[found.accepted.idxmax()]
    return style.finish(figure, name, f"Acceptance and KID over calls; most are accepted of {most.arm}: {percent(most.accepted)}.", caption, _drawn_on(found, about))


def closeness(found: pd.DataFrame, about: About, *, name: str = "07_closeness") -> Drawn:
    """PSNR and SSIM to the fine solution over calls, a column a model, from the same records."""
    found = _large(found)
    some = found[~found.sampler.isin(STOCHASTIC)]
    figure = _over_calls({"PSNR, dB": (some, "psnr", ("psnr_low", "psnr_high")), "SSIM": (some, "ssim", ())})
    caption = (
        f"How near the images come to those of {REFERENCE} steps of {SOLVER} from the same noise: PSNR with the interval of its mean, and SSIM, of the first {WATCHED} images of each "
        "arm. Samplers with noise in every step lead elsewhere and are left out."
    )
    best = some.loc[some.psnr.idxmax()]
    return style.finish(figure, name, f"PSNR and SSIM over calls; the closest is {best.arm}, {best.psnr:.1f} dB.", caption, _drawn_on(some, about))


def accuracy(found: pd.DataFrame) -> str:
    """The share of its captions' attributes that a model shows, over calls, a Markdown table each; of models that follow text."""
    tables = []
    for model, arms in _large(found).dropna(subset="accuracy").groupby("model", sort=False):
        counts = sorted({round(calls) for calls in arms.calls})
        shown = {key: {round(row.calls): f"{row.accuracy:.1%}" for row in rows.itertuples()} for key, rows in arms.groupby("sampler", sort=False)}
        tables.append(markdown([f"attributes, `{model}`, calls:", *counts], [(key, *(row.get(count, "") for count in counts)) for key, row in shown.items()]))
    return "\n\n".join(tables)


def _large(found: pd.DataFrame) -> pd.DataFrame:
    """The solvers' arms that have a distance of distributions."""
    return found[found.sampler.isin(KNOWN) & ~found.arm.str.contains("eta") & found.kid.notna()]


def _drawn_on(found: pd.DataFrame, about: About) -> About:
    return replace(about, device=" and ".join(sorted(found.device.unique())))


def _over_calls(panels: dict[str, tuple[pd.DataFrame, str, tuple[str, ...]]], yscale: dict[str, str] | None = None):
    """A figure of a row a panel, label: (table, column, columns of its interval's ends), and a column a model."""
    models = list(next(iter(panels.values()))[0].model.unique())
    with style.canvas(len(panels), len(models), size=(9.2 if len(models) > 1 else 6.2, 6.2), squeeze=False, sharex=True, sharey="row") as (figure, grid):
        for row, (label, (table, value, ends)) in zip(grid, panels.items(), strict=True):
            for axes, model in zip(row, models, strict=True):
                for key, arms in table[table.model == model].sort_values("calls").groupby("sampler", sort=False):
                    axes.plot(arms.calls, arms[value], linewidth=1.2, markersize=5, label=key, **LOOK[key])
                    if ends:
                        spread = [arms[value] - arms[ends[0]], arms[ends[1]] - arms[value]]
                        axes.errorbar(arms.calls, arms[value], yerr=spread, fmt="none", capsize=2, linewidth=1.2, ecolor=LOOK[key]["color"])
                axes.set(xscale="log", yscale=(yscale or {}).get(label, "linear"))
                axes.set_xticks(TICKS, [str(calls) for calls in TICKS])
                axes.minorticks_off()
            row[0].set_ylabel(label)
        for axes, model in zip(grid[0], models, strict=True):
            axes.set(title=model)
        for axes in grid[-1]:
            axes.set(xlabel="calls of the network")
        grid[0][0].legend(fontsize=7.5)
    return figure


def reaching(found: pd.DataFrame, target: str = "ddpm, 200 steps") -> pd.DataFrame:
    """Of each model the solver's arm of fewest calls that reaches the target's quality, and the target: columns REACHED.

    Reached: KID not above the target's band, and no fewer accepted than chance explains, two standard errors: `limit`; by
    this arm and by all of its solver's that were measured with more calls, or it would be luck.
    tried: the numbers of calls, up to the arm's own, at which some solver was measured.
    """
    rows = []
    for _, arms, goal, limit in _judged(found, target):
        stays = arms[arms.reaches & (arms.calls > arms.falls)]
        best = stays.sort_values(["calls", "kid"]).iloc[0]
        tried = ", ".join(f"{calls:.0f}" for calls in sorted(set(arms.calls[arms.calls <= best.calls])))
        rows += [{**best, "limit": limit, "tried": tried}, {**goal, "limit": np.nan, "tried": ""}]
    return pd.DataFrame(rows, columns=REACHED)


def _judged(found: pd.DataFrame, target: str):
    """Of each model that has the target: its name, its arms with what they reach, the target's, and the least share accepted.

    falls: the most calls with which the arm's solver does not reach the target.
    """
    for model, arms in _large(found).groupby("model", sort=False):
        if (arms.arm == target).any():
            goal = arms[arms.arm == target].iloc[0]
            limit = goal.accepted - 2 * (2 * goal.accepted * (1 - goal.accepted) / goal.images) ** 0.5
            arms = arms.assign(reaches=(arms.kid <= goal.kid_high) & (arms.accepted >= limit))
            falls = arms[~arms.reaches].groupby("sampler").calls.max()
            yield model, arms.assign(falls=arms.sampler.map(falls).fillna(0)), goal, limit


def fallen(found: pd.DataFrame, target: str = "ddpm, 200 steps") -> str:
    """Which solvers reach the target's quality and lose it again with more calls: Markdown, a line a model."""
    lines = {}
    for model, arms, goal, limit in _judged(found, target):
        told = []
        for key, rows in arms.groupby("sampler", sort=False):
            passed = rows[rows.reaches & (rows.calls < rows.falls)]
            if len(passed):
                lost = rows.loc[rows.calls[~rows.reaches].idxmax()]
                counts = ", ".join(f"{calls:.0f}" for calls in sorted(passed.calls))
                told.append(f"`{key}` reaches it with {counts} calls, not with {lost.calls:.0f} ({percent(lost.accepted)} accepted, KID {lost.kid:.2f})")
        lines[model] = "; ".join(told) or "no solver reaches it and loses it again"
    return bullets(lines)


def reached(found: pd.DataFrame) -> str:
    """`reaching` as a Markdown table."""
    rows = [
        (f"`{row.model}`", row.arm, f"{row.calls:.0f}", row.tried, f"{row.accepted:.1%}", "" if np.isnan(row.limit) else f"{row.limit:.1%}",
         f"{row.kid:.2f} ({row.kid_low:.2f} to {row.kid_high:.2f})") for row in found.itertuples()
    ]  # fmt: skip
    return markdown(["model", "arm", "calls", "numbers of calls tried", "accepted", "at least", "KID (95 % band)"], rows)


def levels(found: pd.DataFrame, sampler: str = "ddim") -> str:
    """Of each model, from how many calls of a sampler on KID and acceptance stay where they end, and what becomes of samplers
    that call twice where calls are few: Markdown, from shipped records of large samples."""
    lines = {}
    for model, arms in found[found.kid.notna() & ~found.arm.str.contains("eta")].groupby("model", sort=False):
        some = arms[arms.sampler == sampler].sort_values("calls")
        twice = arms[arms.sampler.isin(TWICE) & (arms.calls < 10)].groupby("sampler", sort=False).accepted.max()
        told = [f"`{key}` with fewer than 10 calls: at most {percent(share)} accepted" for key, share in twice.items()]
        lines[model] = "; ".join([f"`{sampler}`: {_kid_level(some)}", _acceptance_level(some), *told])
    return bullets(lines)


def _kid_level(arms: pd.DataFrame) -> str:
    last = arms.iloc[-1]
    outside = arms.calls[~arms.kid.between(last.kid_low, last.kid_high)]
    level = arms[arms.calls > outside.max()] if len(outside) else arms
    return f"KID stays within the band of {last.calls:.0f} calls from {level.calls.iloc[0]:.0f} on"


def _acceptance_level(arms: pd.DataFrame) -> str:
    """Whether acceptance falls after its best by more than chance explains: two standard errors of the difference."""
    best, last = arms.loc[arms.accepted.idxmax()], arms.iloc[-1]
    error = sum(arm.accepted * (1 - arm.accepted) / arm.images for arm in (best, last)) ** 0.5
    ends = f"{percent(best.accepted)} with {best.calls:.0f} to {percent(last.accepted)} with {last.calls:.0f}"
    falls = best.accepted - last.accepted > 2 * error
    return f"acceptance falls, from {ends}" if falls else f"acceptance does not fall beyond chance: {ends}"
