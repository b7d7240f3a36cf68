"""Figures of the chapter on samplers: their paths, their orders, and what a number of calls buys."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..measure import draws, orders
from ..measure.fewer_steps import STOCHASTIC, TWICE, steps_for
from ..measure.plan import Subject
from ..methods import samplers
from ..models.zoo import Model
from . import style
from .sheets import _show
from .style import About, Drawn
from .tables import markdown

FINE = "dpmpp_2m", 100  # the path that others are compared with in the plane
KNOWN = ("ddim", "dpmpp_2m", "unipc", "euler", "heun", "edm", "ddpm", "dpmpp_2m_sde")
LOOK = {name: {"color": style.PALETTE[k], "marker": "osD^vP*X"[k]} for k, name in enumerate(KNOWN)}
LOOK["euler"] |= {"linestyle": "--", "markerfacecolor": "none"}  # DDIM's steps in another notation: both are to be seen


def predicted(subject: Subject, names: Iterable[str], about: About, *, calls: int = 10, seed: int = 0, name: str = "07_predicted") -> Drawn:
    """The clean image that each sampler predicts on its way, a row a sampler, at as many calls of the network."""
    model, said = subject.model, draws.draw(subject, 1, calls, seed).options
    ways, shown = {key: list(samplers.denoise(model, [seed], steps_for(key, calls), key, **said)) for key in names}, 6
    with style.canvas(len(ways), shown, size=(9.2, 1.55 * len(ways) + 0.5)) as (figure, grid):
        for row, (label, states) in zip(np.atleast_2d(grid), ways.items(), strict=True):
            for axes, k in zip(row, np.linspace(0, len(states) - 1, shown).round().astype(int), strict=True):
                _show(axes, _picture(model, states[k].clean if k < len(states) - 1 else states[k].sample))
                axes.set_title(f"step {k + 1} of {len(states)}", fontsize=8.5)
            row[0].set_ylabel(label, fontsize=9)
    caption = (
        f"What the network takes the image for on the way, {model.name}, seed {seed}, about {calls} calls by each sampler; in the last column the "
        "image itself."
    )
    return style.finish(figure, name, f"Predicted images along {', '.join(ways)}: blurred at first, sharp at the end.", caption, about)


def paths(subject: Subject, names: Iterable[str], about: About, *, calls: int = 10, seed: int = 0, name: str = "07_paths") -> Drawn:
    """The states of each sampler in the plane in which the fine path bends most: principal axes of its states."""
    sampler, steps = FINE
    fine = _states(subject, sampler, steps, seed)
    centre, axes_of = fine.mean(0), torch.linalg.svd(fine - fine.mean(0), full_matrices=False)[2][:2]
    flat = lambda states: ((states - centre) @ axes_of.T).numpy()
    with style.canvas(size=(7.6, 4.6)) as (figure, axes):
        axes.plot(*flat(fine).T, color=style.FAINT, linewidth=1.2, label=f"{sampler}, {steps} steps")
        ends = {}
        for key in names:
            states = _states(subject, key, steps_for(key, calls), seed)
            axes.plot(*flat(states).T, "--", linewidth=1, markersize=5, label=f"{key}, {len(states) - 1} steps", **LOOK[key])
            ends[key] = (states[-1] - fine[-1]).square().mean().sqrt().item()
        axes.set(xlabel="first principal axis of the fine path", ylabel="second")
        axes.legend()
    told = ", ".join(f"{key} {value:.3f}" for key, value in ends.items())
    caption = (
        f"From noise (where all begin) to image, {subject.name}, seed {seed}: states of a fine path and of about {calls} calls by each sampler, seen in the plane of "
        f"the fine path's two principal axes. Root mean squared distance of the ends from the fine one: {told}."
    )
    return style.finish(figure, name, f"Paths of samplers in a plane; distances of their ends: {told}.", caption, about)


def _states(subject: Subject, sampler: str, steps: int, seed: int) -> Tensor:
    """Noise and every state after it, scaled to a common variance as the network sees them: [steps + 1, values]."""
    model, said = subject.model, draws.draw(subject, 1, steps, seed).options
    noise = torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(seed))
    states = [state.sample[0].cpu() for state in samplers.denoise(model, [seed], steps, sampler, **said)]
    return torch.stack([noise, *states]).flatten(1)


@torch.no_grad()
def _picture(model, latents: Tensor) -> Tensor:
    return (model.decode(latents).float() / 2 + 0.5).clamp(0, 1)[0].cpu()


def convergence(found: pd.DataFrame, about: About, *, name: str = "07_orders") -> Drawn:
    """Errors against calls on a Gaussian, before the last part of the way and in the image, from `orders.convergence`."""
    panels = {"before": "at a fifth of the way from the image", "error": "in the image"}
    with style.canvas(1, 2, size=(9.2, 4.0), sharey=True) as (figure, grid):
        for axes, (column, title) in zip(grid, panels.items(), strict=True):
            slopes = orders.slopes(found, column)
            for key, rows in found.groupby("sampler", sort=False):
                if np.isfinite(slopes[key]):
                    axes.plot(rows.calls, rows[column], markersize=4.5, label=f"{key}: order {slopes[key]:.1f}", **LOOK[key])
            axes.set(xscale="log", yscale="log", xlabel="calls of the network, noise to image", title=title)
            axes.legend(fontsize=8)
        grid[0].set_ylabel("root mean squared error")
    image, before = orders.slopes(found), orders.slopes(found, "before")
    told = "; ".join(f"{key} {before[key]:.1f} and {image[key]:.1f}" for key in image.index if np.isfinite(before[key]))
    caption = (
        "Error of samplers on a Gaussian whose answer is known, float32. Order: the slope of the logarithms from 10 steps on; of an error "
        "that dips where it changes its sign, behind its last rise. Left, at a time that all time steps share; `edm`, which places its own, "
        "is not there. Right, in the image."
    )
    return style.finish(figure, name, f"Errors fall with the calls; orders before the end and in the image: {told}.", caption, about)


def orders_in_words(found: pd.DataFrame) -> str:
    """Which samplers have the order their papers state, before the last part of the way and in the image."""
    image, before = orders.slopes(found), orders.slopes(found, "before")
    told = [
        f"`{key}`, of order {orders.ORDERS[key]} by its paper: " + (f"{before[key]:.2f} before, " if np.isfinite(before[key]) else "")
        + f"{image[key]:.2f} in the image{_dip(rows)}"
        for key, rows in found.groupby("sampler", sort=False)
    ]  # fmt: skip
    return "\n".join(f"* {line}" for line in told)


def _dip(rows: pd.DataFrame) -> str:
    """Where one sampler's error in the image falls and rises again: it changes its sign there, and the slope is taken behind it."""
    kept = orders.behind_rises(rows)
    if len(kept) == len(rows):
        return ""
    lost = rows[rows.calls < kept.calls.iloc[0]]
    return f", from {kept.calls.iloc[0]:.0f} calls on: its error changes its sign near {lost.calls[lost.error.idxmin()]:.0f}"


def fidelity(found: pd.DataFrame, seconds: pd.DataFrame, about: About, *, name: str = "07_fidelity") -> Drawn:
    """PSNR to the fine path's images over calls (left), and over seconds an image (right): `arms.table`, `arms.seconds`."""
    some = found[~found.sampler.isin(STOCHASTIC)]
    clock = seconds.groupby("arm").seconds.median()
    with style.canvas(1, 2, size=(9.2, 4.0), sharey=True) as (figure, grid):
        for key, rows in some.groupby("sampler", sort=False):
            spread = [rows.psnr - rows.psnr_low, rows.psnr_high - rows.psnr]
            grid[0].errorbar(rows.calls, rows.psnr, yerr=spread, capsize=2, markersize=5, linewidth=1.2, label=key, **LOOK[key])
            timed = rows.arm.isin(clock.index)
            sides = [side[timed] for side in spread]
            grid[1].errorbar(clock[rows.arm[timed]], rows.psnr[timed], yerr=sides, capsize=2, markersize=5, linewidth=1.2, **LOOK[key])
        shown = sorted(some.calls[~some.sampler.isin(TWICE)].unique()), _round_between(clock.min(), clock.max())
        for axes, label, ticks in zip(grid, ("calls of the network", "seconds an image, one at a time"), shown, strict=True):
            axes.set(xscale="log", xlabel=label)
            axes.minorticks_off()
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        grid[0].set_ylabel("PSNR to the fine path's image, dB")
        grid[0].legend()
    best, slow = some.loc[some.psnr.idxmax()], some[~some.arm.isin(clock.index)]
    caption = (
        f"How close {found.model.iloc[0]} comes to the images of the same noise by a much finer DDIM, with {found.images.iloc[0]} images; bars: 95 % intervals of the mean. "
        "Samplers that draw noise in every step end elsewhere and have no place here."
    ) + (f" No seconds are taken of {slow.calls.min():.0f} calls or more." if len(slow) else "")
    return style.finish(figure, name, f"PSNR over calls and seconds; closest is {best.arm} with {best.psnr:.1f} dB.", caption, about)


def _round_between(low: float, high: float) -> list[float]:
    """Round numbers from low to high, close enough for the ticks of a short logarithmic axis."""
    tens = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    return [tick for ten in tens for tick in (ten * np.array([1, 1.5, 2, 3, 5, 7])).tolist() if low <= tick <= high]


def corrections(model: Model, found: pd.DataFrame) -> str:
    """Samplers that call twice a step: by how many times the change of the network's answer the correction moves the image at
    most, and how close they come, beside `ddim`: a Markdown table."""
    once = found[found.sampler == "ddim"].set_index("calls").psnr
    rows = []
    for row in found[found.sampler.isin(TWICE)].itertuples():
        fall, other = steepest(model, row.sampler, row.steps), once[once.index >= row.calls].iloc[0]
        factors = (f"{float(f'{factor:.2g}'):g}" for factor in (fall, (fall - 1) / 2))
        rows.append((f"`{row.sampler}`", f"{row.calls:.0f}", *factors, f"{row.psnr:.1f} dB", f"{other:.1f} dB"))
    head = ["sampler", "calls", "steepest fall of the noise, *r*", "that step's correction, (*r* - 1)/2", "PSNR"]
    return markdown([*head, "`ddim`, as many calls or one more"], rows)


def steepest(model: Model, sampler: str, steps: int) -> float:
    """The largest ratio of the noise, in units of the image, at the two ends of a step that is corrected: all but the last."""
    levels = samplers._scheduler(model, steps, sampler).sigmas[:-1].double()
    return float((levels[:-1] / levels[1:]).max())


def costs(found: pd.DataFrame, seconds: pd.DataFrame) -> str:
    """PSNR and accepted images of every sampler at each number of calls, and the time of a call: a Markdown table."""
    clock = seconds.groupby("arm").seconds.median()
    counts = sorted(found.calls[~found.sampler.isin(TWICE)].unique())
    rows = []
    for key, arms in found.groupby("sampler", sort=False):
        cells = {next(count for count in counts if count >= row.calls): _cell(row) for row in arms.itertuples()}
        timed = arms[arms.arm.isin(clock.index)]
        each = f"{1000 * np.median(clock[timed.arm].to_numpy() / timed.calls.to_numpy()):.0f} ms" if len(timed) else ""
        rows.append((f"`{key}`", *(cells.get(count, "") for count in counts), each))
    return markdown(["sampler", *(f"{count:.0f} calls" for count in counts), "time of a call"], rows)


def _cell(row) -> str:
    accepted = f"{row.accepted * row.images:.0f} of {row.images}"
    return accepted if row.sampler in STOCHASTIC else f"{row.psnr:.1f} dB, {accepted}"
