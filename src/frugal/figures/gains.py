"""Figures of the chapter on merging that pays: where the time goes, what was predicted, and what governs the gain.

Its tables and sentences are those of `gains_tables`.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..measure.gains import errors
from ..measure.predict import Prediction
from . import style, words
from .style import About, Drawn

HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.2}
BACKENDS = {"fused": style.PALETTE[0], "math": style.PALETTE[3]}
LONG = "reuse 5", "reuse 10"  # so near to the default that only tables have room for them
BARS = f"Medians and their {words.INTERVALS}."
REST, LEFT, SAVED, ADDED = "#d9d9d9", style.PALETTE[1], style.PALETTE[2], style.PALETTE[3]


def titles(found: list[tuple[str, Prediction]]) -> list[str]:
    """A line for each prediction: model, side in pixels, backend."""
    return [f"{name}\n{p.resolution[1]} px, {p.backend or 'own'} attention" for name, p in found]


def where_time_goes(found: list[tuple[str, Prediction]], about: About, *, name: str = "06_shares") -> Drawn:
    """A step's time of each network: outside the merged layers, left in them after merging, and saved by it or added."""
    with style.canvas(size=(9.2, 0.75 * len(found) + 1.3)) as (figure, axes):
        for row, (_, p) in enumerate(found):
            kept = min(p.time_share - p.saved, p.time_share)
            starts, widths = (0, 1 - p.time_share, 1 - max(p.saved, 0)), (1 - p.time_share, kept, abs(p.saved))
            for start, width, colour in zip(starts, widths, (REST, LEFT, SAVED if p.saved >= 0 else ADDED), strict=True):
                axes.barh(row, 100 * width, left=100 * start, color=colour, height=0.62)
            end = 100 * max(1, 1 - p.saved)
            axes.text(end + 1, row, f"predicted {p.speedup:.2f}x, bound {p.bound:.2f}x", va="center", fontsize=8.5)
        axes.set_yticks(range(len(found)), titles(found), fontsize=8.5)
        axes.invert_yaxis()
        axes.set(xlim=(0, 130 + 100 * max(0.0, *(-p.saved for _, p in found))), xlabel="per cent of a step's time", xticks=range(0, 101, 20))
        axes.grid(axis="y", visible=False)
        kinds = {"outside the attention to be merged": REST, "left in it after merging": LEFT, "saved": SAVED}
        kinds |= {"added": ADDED} if any(p.saved < 0 for _, p in found) else {}
        handles = [axes.barh(0, 0, color=colour, label=label) for label, colour in kinds.items()]
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4)
    ratio = found[0][1].ratio
    caption = (
        f"Where a step's time goes, and what merging {ratio:.0%} of the tokens is predicted to save, batch 1. The bound is reached by a method that makes "
        "the coloured parts vanish. Measured: the untouched network, and its layers alone, whole and merged."
    )
    each = zip(titles(found), found, strict=True)
    told = "; ".join(f"{title}: {p.time_share:.0%} in attention, {p.speedup:.2f}x".replace("\n", ", ") for title, (_, p) in each)
    return style.finish(figure, name, f"Bars of a step's time. {told}.", caption, about)


def prediction_against_measurement(points: pd.DataFrame, about: About, *, name: str = "06_prediction") -> Drawn:
    """Time saved as predicted against time saved as measured at the held-out points, from `gains.held_out`: a row a device."""
    devices = dict(list(points.groupby("device", sort=False)))
    with style.canvas(len(devices), 2, size=(9.2, 4.2 * len(devices)), squeeze=False) as (figure, grid):
        for row, (device, some) in zip(grid, devices.items(), strict=True):
            for axes, (column, title) in zip(row, {"predicted": "predict_speedup", "flops": "FLOPs alone"}.items(), strict=True):
                _against(axes, some, column, title)
            row[0].set_ylabel(f"{device}\nper cent of the time saved, measured")
        grid[0][0].legend(loc="upper left")
        for axes in grid[-1]:
            axes.set_xlabel("per cent of the time saved, predicted")
    nothing = "; ".join(f"{100 * some.measured.abs().median():.1f} points on {device}" for device, some in devices.items())
    missed = "; ".join(_missed(device, some) for device, some in devices.items())
    caption = (
        f"Stable Diffusion v1-5's network with random weights, {scored_way(points)}, at {scored_points(points)}, written down before any was measured: ratios "
        f"{points.ratio.min():.0%} to {points.ratio.max():.0%}, {points.resolution.min()} to {points.resolution.max()} pixels. "
        f"The median error of whoever says that nothing changes is {nothing}. Of predict_speedup, {missed}. "
        f"Dashed: as predicted. Bars: {words.span(points.rounds, str)} paired rounds a point, from the least to the most where they are few."
    )
    predicted, flops = (100 * errors(points, column).median for column in ("predicted", "flops"))
    median = f"median errors {predicted:.1f} points, and {flops:.1f} by FLOPs alone"
    alt = f"Measured against predicted time saved; {median}. Of predict_speedup, {missed}."
    return style.finish(figure, name, alt, caption, replace(about, device=f"{', '.join(devices)}, float32"))  # where the points were measured


def scored_way(points: pd.DataFrame) -> str:
    """The ways of merging that some points of `gains.held_out` are of."""
    return " and ".join(f"`{way}`" for way in points.way.unique())


def scored_points(points: pd.DataFrame) -> str:
    """How many points, and on how many devices, in words."""
    places, devices = len(points[["resolution", "backend", "ratio"]].drop_duplicates()), points.device.nunique()
    return f"{places} points on {devices} device{'s' if devices > 1 else ''}"


def _missed(device: str, points: pd.DataFrame) -> str:
    """The largest error and the share of right signs, in words."""
    found = errors(points)
    right = f"the right sign at {found.right} of the {found.sure} points whose interval leaves out zero"
    return f"on {device}: largest error {100 * found.largest:.1f} points, {right}"


def _against(axes, points: pd.DataFrame, column: str, title: str) -> None:
    for backend, rows in points.groupby("backend"):
        spread = [100 * (rows.measured - rows.low), 100 * (rows.high - rows.measured)]
        axes.errorbar(100 * rows[column], 100 * rows.measured, yerr=spread, fmt="o" if backend == "fused" else "s",
                      color=BACKENDS[backend], capsize=2, label=f"{backend} attention", markersize=5)  # fmt: skip
    ends = [100 * min(points[[column, "low"]].min().min(), 0) - 2, 100 * points[[column, "high"]].max().max() + 2]
    axes.plot(ends, ends, color=style.FAINT, linewidth=1, linestyle="--")
    axes.set(xlim=ends, ylim=ends, title=f"{title}: median error {100 * errors(points, column).median:.1f} points")


def whole_networks(found: pd.DataFrame, about: About, *, name: str = "06_networks") -> Drawn:
    """Change of a step's time of a whole network by every way of merging, from `gains.networks`: a panel a ratio, a line a setting."""
    settings = found[["device", "backend", "pixels"]].drop_duplicates().reset_index(drop=True)
    ways, ratios = sorted(found.way.unique(), key=lambda way: (way == "tomesd", way)), sorted(found.ratio.unique())
    with style.canvas(1, len(ratios), size=(9.2, 0.34 * len(settings) + 1.5), squeeze=False, sharex=True, sharey=True) as (figure, grid):
        for axes, ratio in zip(grid[0], ratios, strict=True):
            axes.axvline(0, color=style.FAINT, linewidth=1)
            for way, colour, marker, shift in zip(ways, style.PALETTE, style.MARKERS, np.linspace(-0.2, 0.2, len(ways)), strict=False):
                rows = settings.merge(found[(found.way == way) & (found.ratio == ratio)], how="left")
                spread = [100 * (rows.change - rows.low), 100 * (rows.high - rows.change)]
                axes.errorbar(100 * rows.change, rows.index + shift, xerr=spread, fmt=marker, color=colour, label=way, markersize=4.5, capsize=2)
            axes.set(title=f"{ratio:.0%} merged", xlabel="change, %")
            axes.grid(axis="y", visible=False)
        grid[0][0].set_yticks(settings.index, [f"{row.device}\n{row.pixels} px, {row.backend}" for row in settings.itertuples()], fontsize=7)
        grid[0][0].invert_yaxis()
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(ways))
    caption = (
        "Change of the time of a step of Stable Diffusion v1-5's network, random weights, batch 1, with tokens merged: left of the line it is faster than untouched. `tomesd` removes as many "
        "tokens of the same layers. Every way is compared with the untouched network of its own rounds; measured on the devices named, float32 where nothing else stands. "
        f"{BARS}"
    )
    best = found.loc[found.change.idxmin()]
    alt = f"Change of a step's time; the lowest is {best.change:+.0%}, {best.way} at {best.ratio:.0%}, {best.pixels} pixels, {best.backend} attention, {best.device}."
    return style.finish(figure, name, alt, caption, replace(about, device="; ".join(settings.device.unique())))


def along_resolution(table: pd.DataFrame, shipped: pd.DataFrame, about: About, *, name: str = "06_resolution") -> Drawn:
    """Speed-up of the attention layer against the image's side, for each backend, from `gains.layer_gains`; hollow: shipped, a panel a device."""
    ways = [way for way in table.way.unique() if not way.endswith(LONG)]
    panels = [(f"{backend} attention", rows, {}) for backend, rows in table.groupby("backend", sort=False)]
    elsewhere = shipped[shipped.groupby(["device", "backend"]).pixels.transform("nunique") > 1] if len(shipped) else shipped
    panels += [(f"{backend}, {device}", rows, HOLLOW) for (device, backend), rows in elsewhere.groupby(["device", "backend"])]
    height = -(-len(panels) // 2)
    with style.canvas(height, min(2, len(panels)), size=(9.2, 3.4 * height), squeeze=False, sharey=True) as (figure, grid):
        for axes, panel in itertools.zip_longest(grid.flat, panels):
            if panel is None:
                axes.set_axis_off()
                continue
            title, rows, hollow = panel
            ideal, sides = rows.drop_duplicates("pixels"), sorted(rows.pixels.unique())
            axes.plot(ideal.pixels, ideal.ideal, "k--", linewidth=1, label="ideal: no overhead")
            for way, colour, marker in zip(ways, style.PALETTE, style.MARKERS, strict=False):
                some = rows[rows.way == way]
                _with_bars(axes, some.pixels, some, f"{marker}{':' if hollow else '-'}", color=colour, label=way, markersize=5, **hollow)
            axes.axhline(1, color=style.FAINT, linewidth=1)
            axes.set(xscale="log", yscale="log", title=title, xlabel="side of the image, pixels (a token covers 8)")
            axes.set_xticks(sides, [str(side) for side in sides], fontsize=7.5)
            axes.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
            axes.minorticks_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("speed-up of the layer")
        grid[0][0].legend(fontsize=8)
    shown = table[table.way.isin(ways)]
    best = shown.loc[shown.speedup.idxmax()]
    caption = (
        f"One self-attention layer of {table.channels.iloc[0]} channels with {table.ratio.iloc[0]:.0%} of its tokens merged, projections included, "
        "over the resolution of the image: below 1 merging costs more than it saves. The dashed line is the same layer on the tokens that are kept. "
        f"{BARS}"
    )
    if len(elsewhere):
        caption += f" Hollow: shipped measurements of {'; '.join(elsewhere.device.unique())}."
    alt = f"Speed-up over resolution; the largest is {best.speedup:.2f} at {best.pixels} pixels, {best.backend} attention, {best.way}."
    return style.finish(figure, name, alt, caption, about)


def _with_bars(axes, at: pd.Series, rows: pd.DataFrame, look: str, **options) -> None:
    """Speed-ups of `gains.layer_gains` with their intervals."""
    spread = rows.speedup - rows.speedup_low, rows.speedup_high - rows.speedup
    spread = [ends.clip(lower=0) for ends in spread]  # the median of few rounds may lie outside of what is drawn again
    axes.errorbar(at, rows.speedup, yerr=spread, fmt=look, capsize=2, elinewidth=1, **options)


def governs(tokens: pd.DataFrame, widths: pd.DataFrame, about: About, *, name: str = "06_governs") -> Drawn:
    """The gain over tokens at a fixed width, and over width at fixed tokens, both from `gains.layer_gains`."""
    way = tokens.way.iloc[0]
    panels = ((tokens, "tokens", f"tokens, at {tokens.channels.iloc[0]} channels"),
              (widths, "channels", f"channels, at {widths.tokens.iloc[0]:,} tokens"))  # fmt: skip
    with style.canvas(1, 2, size=(9.2, 3.6), sharey=True) as (figure, grid):
        for axes, (rows, column, title) in zip(grid, panels, strict=True):
            some = rows[rows.way == way]
            axes.plot(some[column], some.ideal, "k--", linewidth=1, label="ideal: no overhead")
            _with_bars(axes, some[column], some, "o-", color=style.PALETTE[0], label=way)
            axes.axhline(1, color=style.FAINT, linewidth=1)
            axes.set(xscale="log", xlabel=title)
            axes.set_xticks(some[column], [f"{v:,}" for v in some[column]], fontsize=8)
            axes.minorticks_off()
        grid[0].set_ylabel("speed-up of the layer")
        grid[0].legend(fontsize=8)
    caption = (
        "What governs the gain, fused attention. Left, more tokens at the same width; right, more channels, and so more parameters, for the "
        f"same tokens. {BARS}"
    )
    return style.finish(figure, name, f"Two curves of speed-up. {governed(doublings(tokens, widths))}", caption, about)


@dataclass(frozen=True)
class Doubling:
    """By how much twice of something multiplies a layer's speed-up: as measured, its ends, and without overhead."""

    measured: float
    low: float  # where every point lies at the end of its interval that makes the slope least
    high: float
    ideal: float


def doublings(tokens: pd.DataFrame, widths: pd.DataFrame) -> dict[str, Doubling]:
    """By how much twice the tokens, and twice the parameters, multiply the layer's speed-up.

    Slopes of straight lines through the logarithms. A layer's parameters grow with the square of its channels.
    """
    found = {}
    for what, rows, column, power in (("tokens", tokens, "tokens", 1), ("parameters", widths, "channels", 2)):
        some = rows[rows.way == rows.way.iloc[0]]
        at = power * np.log(some[column].to_numpy(float))
        raises = at > at.mean()  # the slope, where the point lies higher
        ends = [np.where(raises, some[up], some[down]) for up, down in (("speedup_low", "speedup_high"), ("speedup_high", "speedup_low"))]
        found[what] = Doubling(*(2 ** float(np.polyfit(at, np.log(values), 1)[0]) for values in (some.speedup, *ends, some.ideal)))
    return found


def governed(over: dict[str, Doubling]) -> str:
    """`doublings` in words."""
    told = [f"twice the {what} multiply it by {x.measured:.2f} ({x.low:.2f} to {x.high:.2f} within the bars), {x.ideal:.2f} without overhead" for what, x in over.items()]
    return f"The layer's speed-up: {'; '.join(told)}."
