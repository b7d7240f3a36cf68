"""Figures of the chapter on parallel sampling: a trajectory that converges from front to back, and when that pays."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from ..measure import batching
from ..measure.arms import Arm
from ..measure.quality import Estimate
from ..measure.rounds import NEAR, Front
from ..methods.parallel import METHOD, SOLVER, UNITS
from . import style
from .style import About, Drawn
from .tables import markdown
from .words import percent

FLOOR = 1e-5  # errors below it are rounding
HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.2}


def convergence(fronts: list[Front], about: About, *, name: str = "09_convergence") -> Drawn:
    """The distance of every state to the sequential trajectory after every round, a panel a method."""
    most = max(len(front.errors) for front in fronts)
    top = max(np.nanmax(front.errors) for front in fronts)
    with style.canvas(1, len(fronts), size=(9.2, 3.9), squeeze=False, sharey=True) as (figure, grid):
        for axes, front in zip(grid[0], fronts, strict=True):
            n, steps = front.errors.shape
            steps -= 1
            scale = LogNorm(FLOOR, max(top, 10 * FLOOR))
            seen = axes.pcolormesh(np.arange(steps + 2) - 0.5, np.arange(n + 1) + 0.5, np.clip(front.errors, FLOOR, None), norm=scale, cmap="viridis")
            axes.step([0, *front.committed], [0.5, *np.arange(n) + 1.5], where="post", color="white", linewidth=2.6)
            axes.step([0, *front.committed], [0.5, *np.arange(n) + 1.5], where="post", color="black", linewidth=1.1)
            axes.set(title=f"{front.method}: {n} rounds", xlabel="state, from noise (0) to image", ylim=(most + 0.5, 0.5))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(visible=False)
        grid[0][0].set_ylabel("round")
        figure.colorbar(seen, ax=grid[0], label="distance to the sequential state", pad=0.01)
    caption = (
        f"A trajectory of {steps} steps converges from front to back: root mean square distance of every state, after every round, "
        "to that of the sequential sampler from the same noise. White: not reached yet. Left of the black line steps are done, and what is wrong there stays and grows."
    )
    told = "; ".join(f"{f.method}: {len(f.errors)} rounds, the last state is off by {f.errors[-1, -1]:.1e}" for f in fronts)
    return style.finish(figure, name, f"Heat map of distances over states and rounds. {told}.", caption, about)


def pictures(front: Front, about: About, *, name: str = "09_pictures") -> Drawn:
    """The far end of the window at a few rounds, decoded, under the sequential sampler's state of the same step."""
    with style.canvas(2, len(front.shown), size=(9.2, 3.5), squeeze=False) as (figure, grid):
        for axes_of_row, images, title in zip(grid, front.pictures, ("sequential", front.method), strict=True):
            for axes, image in zip(axes_of_row, images, strict=True):
                axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            axes_of_row[0].set_ylabel(title)
        for axes, number, step in zip(grid[0], front.shown, front.steps_shown, strict=True):
            axes.set_title(f"round {number}\nstep {step}", fontsize=9)
    caption = (
        f"The last state of the window, decoded, after some of the {len(front.errors)} rounds, and the sequential sampler's state of the same step, which it takes as "
        "many network calls to reach as its number says."
    )
    told = ", ".join(f"round {number} has reached step {step}" for number, step in zip(front.shown, front.steps_shown, strict=True))
    return style.finish(figure, name, f"Two rows of pictures, from noise to a face: {told}.", caption, about)


def price(measured: pd.DataFrame, summary: pd.DataFrame, about: About, *, shipped: pd.DataFrame | None = None, name: str = "09_price") -> Drawn:
    """What a batch costs, from `batching.batching`, hollow what is shipped of the same model; and an image's seconds foretold from it against measured ones."""
    elsewhere = measured[:0] if shipped is None else shipped[shipped.model == measured.model.iloc[0]]
    with style.canvas(1, 2, size=(9.2, 3.9)) as (figure, (left, right)):
        left.errorbar(measured.batch, measured.price, yerr=[measured.price - measured.price_low, measured.price_high - measured.price],
                      fmt="o-", color=style.PALETTE[0], capsize=2, label="here")  # fmt: skip
        for k, (device, rows) in enumerate(elsewhere.groupby("device")):
            left.plot(rows.batch, rows.price, f"{style.MARKERS[k + 1]}:", color=style.PALETTE[k + 1], label=device, **HOLLOW)
        left.plot(measured.batch, measured.batch, color=style.FAINT, linewidth=1, linestyle="--", label="as many times as states")
        left.axhline(1, color=style.FAINT, linewidth=1)
        left.set(xscale="log", yscale="log", xlabel="states in one call", ylabel="price, in calls of one state", title="What a batch costs")
        for axis in (left.xaxis, left.yaxis):
            batches = sorted({*measured.batch, *elsewhere.batch})
            axis.set_ticks(batches, [str(batch) for batch in batches])
        left.minorticks_off()
        left.legend()
        for k, row in enumerate(summary.itertuples()):
            right.plot(row.predicted, row.seconds, style.MARKERS[k % len(style.MARKERS)], color=style.PALETTE[k], label=row.arm)
        ends = [0, 1.15 * max(summary.predicted.max(), summary.seconds.max())]
        right.plot(ends, ends, color=style.FAINT, linewidth=1, linestyle="--")
        right.set(xlim=ends, ylim=ends, xlabel="foretold from calls and batches, s", ylabel="measured, s", title="Seconds of an image")
        right.legend(fontsize=7.5, loc="lower right", frameon=True, framealpha=1, edgecolor="white")
    caption = (
        f"Left, the price of one network call of {measured.model.iloc[0]} over its batch, medians and quartiles of interleaved rounds. Right, seconds of an image "
        "against calls times the price of their mean rows: the network alone. Off the dashed line: sweeps, decoding and noise of the clock."
    ) + (f" Hollow: shipped measurements of {', '.join(elsewhere.device.unique())}." if len(elsewhere) else "")
    alt = f"Price over batch: {measured.batch.iloc[-1]} states cost {measured.price.iloc[-1]:.1f} calls of one. Seconds measured against foretold for {len(summary)} ways to sample."
    return style.finish(figure, name, alt, caption, about)


def arms(summary: pd.DataFrame) -> str:
    """Calls, rows, seconds and what is lost, from `rounds.summary`: a Markdown table."""
    rows = [
        (row.arm, f"{row.calls:.1f}", f"{row.rows:.0f}", f"{row.seconds:.1f} s", f"{row.predicted:.1f} s", f"{row.error:.4f}",
         "identical" if np.isinf(row.psnr) else f"{row.psnr:.1f} dB")
        for row in summary.itertuples()
    ]  # fmt: skip
    images = summary.images.iloc[0]
    head = [f"one image, mean of {images}" if images > 1 else "one image", "calls, one after another", "rows", "seconds", "foretold"]
    return markdown([*head, "largest error of a pixel", "PSNR"], rows)


def near(table: pd.DataFrame) -> str:
    """Calls of many images and how far they end from the sequential ones, from `rounds.closeness`: a Markdown table, or what measures it."""
    if table.empty:
        return "Larger numbers of images are not measured yet for these weights: `frugal sweep steps` does it."
    rows = [
        (row.solver, row.method, f"{UNITS[row.unit]:g}, {row.unit}", row.images, f"{row.calls:.1f}", f"{row.calls_max:.0f}", f"{row.error:.4f}", f"{row.near:.0%}")
        for row in table.itertuples()
    ]
    return markdown(["solver", "method", "tolerance, its unit", "images", "calls: mean", "most", "largest error of a pixel", f"of images with none above {NEAR:g}"], rows)


def reached(table: pd.DataFrame) -> str:
    """Which ways of sampling come to the sequential images, no pixel further than NEAR, and which do not: from `rounds.closeness`."""
    if table.empty:
        return ""
    ways = {True: [], False: []}
    for row in table.itertuples():
        off = "" if row.near == 1 else f" ({row.near:.0%} of its images, off by up to {row.error:.2g})"
        ways[row.near == 1].append(f"`{row.method}` on {row.solver}{off}")
    kept = f"To the images of the sequential sampler come all of {', '.join(ways[True])}. " if ways[True] else ""
    missed = f"Not so, each at its default tolerance: {', '.join(ways[False])}; a smaller one brings more of them there, for more rounds."
    return f"{kept}{missed if ways[False] else ''}".strip()


def saved(found: dict[str, Estimate]) -> str:
    """How many calls the default way saves beside others of its solver, `rounds.fewer` in words."""
    told = [f"{more.value:+.2f} ({more.low:+.2f} to {more.high:+.2f}) for `{method}`" for method, more in found.items()]
    return f"Calls more than those of `{METHOD}`, the same seeds, each at its default tolerance, with the interval of the mean: {', '.join(told)}." if told else ""


def sets(shipped: pd.DataFrame) -> str:
    """Quality of large sets, parallel beside sequential, from `arms.shipped`: a Markdown table, or what measures it."""
    beside = {Arm.of(SOLVER, steps).label for steps in shipped.steps[shipped.sampler == "parallel"]}
    some = shipped[shipped.kid.notna() & ((shipped.sampler == "parallel") | shipped.arm.isin(beside))]
    if not (some.sampler == "parallel").any():
        return "The distribution of a set drawn so is not measured yet for these weights: `frugal sweep steps` does it."
    rows = [
        (row.arm, row.images, f"{row.calls:.1f}", f"{row.rows:.0f}", f"{row.kid:.3f} ({row.kid_low:.3f} to {row.kid_high:.3f})", percent(row.accepted))
        for row in some.itertuples()
    ]
    table = markdown(["shipped records", "images", "calls", "rows", "KID (95 % band)", "accepted"], rows)
    return "\n\n".join([table, *(_kept(one, some[some.arm == Arm.of(SOLVER, one.steps).label]) for one in some[some.sampler == "parallel"].itertuples())])


def _kept(one, sequential: pd.DataFrame) -> str:
    """Whether a set has the quality of its sequential one: KID inside that one's band, no fewer accepted than chance explains."""
    if sequential.empty:
        return f"`{one.arm}`: its sequential images are not measured."
    beside = sequential.iloc[0]
    inside = "inside" if beside.kid_low <= one.kid <= beside.kid_high else "**outside**"
    error = sum(arm.accepted * (1 - arm.accepted) / arm.images for arm in (one, beside)) ** 0.5
    fewer = "fewer than chance explains" if beside.accepted - one.accepted > 2 * error else "which chance explains"
    return f"`{one.arm}`: KID {inside} the band of the sequential images; {percent(one.accepted)} accepted beside {percent(beside.accepted)}, {fewer}."


def pays(summary: pd.DataFrame, measured: pd.DataFrame) -> str:
    """Whether parallel sampling saves time on this device: a sentence or two of what was measured."""
    sequential, best = _pair(summary)
    batch = measured.iloc[-1]
    change = best.seconds / sequential.seconds
    verdict = f"a speed-up of {1 / change:.2f}" if change < 1 else f"a slow-down of {change:.2f}"
    free = batching.free_batch(measured)
    at_the_price = f"up to {free} states cost no more than {batching.ALMOST:g} times one" if free > 1 else "no batch is to be had at the price of one state"
    return (
        f"On {measured.device.iloc[0]} {at_the_price}, and {batch.batch} cost {batch.price:.1f} times as much. {best.arm} takes {best.calls:.0f} calls instead of "
        f"{sequential.calls:.0f} and asks for {best.rows / sequential.rows:.1f} times the states: {verdict}. Where {batch.batch} states cost {batch.batch} times one, "
        f"it would be a slow-down of {best.rows / sequential.rows:.1f}; where they cost as much as one, a speed-up of {sequential.calls / best.calls:.1f}."
    )


def claim_hardware(summary: pd.DataFrame, measured: pd.DataFrame) -> tuple[str, bool | str]:
    """The slides' "parallel simulation needs better hardware": whether what is saved in calls is lost in seconds here."""
    sequential, best = _pair(summary)
    saved = f"{sequential.calls / best.calls:.1f} times fewer calls in a row, {sequential.seconds / best.seconds:.2f} times as fast"
    text = f"{saved}; {measured.batch.iloc[-1]} states cost {measured.price.iloc[-1]:.1f} times one"
    if best.seconds >= sequential.seconds:
        return text, True
    most = sequential.calls / best.calls > 2 * sequential.seconds / best.seconds
    return text, "holds in part: some time is saved here, not half of what fewer calls promise" if most else False


def _pair(summary: pd.DataFrame):
    """The first arm, which is sequential, and of the parallel ones that nearest to it."""
    rows = list(summary.itertuples())
    return rows[0], min((row for row in rows if row.arm.startswith("parallel")), key=lambda row: row.error)
