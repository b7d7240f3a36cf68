"""Shipped measurements beside the reader's own: a reference series from other machines, drawn apart and named."""

from collections.abc import Iterator

import pandas as pd

from ..measure import records, thesis, timing
from ..measure.plan import PUBLISHED as PAIR
from ..measure.plan import PUBLISHED_REUSE
from ..models.architectures import PUBLISHED, published
from . import shares, style
from .tables import markdown
from .words import change, span

HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.5}  # composed
HALF = {"fillstyle": "bottom", "markerfacecoloralt": "white"}  # the second of two models
MARKERS = "sD^vP*pX"  # each can be hollow or half filled
LEGEND, LINE = 0.5, 0.2  # inches above the panels: of a legend, of each of its lines where it has one column
IMAGES = 100  # the thesis's unit of time is 100 images


def reference() -> pd.DataFrame:
    """Shipped times of whole networks, from other machines: the columns of `timing.image_seconds`, and device.

    Single steps in rounds, and the steps of `frugal sweep thesis`, whose `device` also tells dtype, attention and from how
    many steps they are scaled.
    """
    found = records.load_shipped()
    swept = thesis.steps_table(found)
    scaled = [f"{row.device}, scaled from {row.timed} steps" for row in swept.itertuples()]
    parts = [_rounds(found), swept.assign(device=scaled).drop(columns="timed")]
    filled = [part for part in parts if len(part)] or parts[:1]
    return timing.image_seconds(pd.concat(filled, ignore_index=True))


def _rounds(found: list[records.Record]) -> pd.DataFrame:
    rows = []
    for record in found:
        if record.name == "network" and record.asked["divisor"] == 1:
            whole = {"model": record.model["name"], "weights": record.model["weights"], "device": record.device["name"]}
            whole |= {"round": record.asked["round"], "kind": "measured"}
            for ratio in record.asked["ratios"]:
                rows.append(whole | {"ratio": ratio, "seconds": float(record.values[timing.label(ratio)][0])})
    return pd.DataFrame(rows, columns=["model", "weights", "ratio", "round", "seconds", "kind", "device"])


def of_models(reference: pd.DataFrame | None, models: list[str], together: bool = False) -> pd.DataFrame:
    """The reference series of some models, perhaps none; `together`: where a device has all of them at the same ratio."""
    if reference is None or not len(reference):
        return pd.DataFrame({"model": [], "device": [], "kind": []})
    rows = reference[reference.model.isin(models)]
    if not together or not len(rows):
        return rows
    return rows[rows.groupby(["device", "ratio"]).model.transform("nunique") == len(models)]


def series(reference: pd.DataFrame) -> Iterator[tuple[str, dict, pd.DataFrame]]:
    """Device, look and rows of every reference series: the colours beyond the models' own."""
    colours = style.PALETTE[2:]
    for k, (device, rows) in enumerate(reference.groupby("device")):
        look = {"color": colours[k % len(colours)], "marker": MARKERS[k % len(MARKERS)], "markersize": 5}
        yield device, look | {"linestyle": "--", "linewidth": 1}, rows


def seconds(axes, reference: pd.DataFrame, steps: int) -> None:
    """Mean seconds of an image of each series on axes of its own; of two models the second is half filled."""
    rows = reference[reference.kind != "again"]
    if not len(rows):  # of this model nothing is shipped
        axes.set_axis_off()
        return
    for device, look, found in series(rows):
        for model, more in zip(rows.model.unique(), ({}, HALF), strict=False):
            means = found[found.model == model].groupby("ratio").seconds.mean()
            axes.plot(means, label=f"shipped reference: {device}" if not more else None, **look, **more)
    axes.set(title="shipped reference", ylabel=f"seconds for one image of {steps} steps")
    style.ratio_axis(axes, rows.ratio)
    axes.set_ylim(0, 1.12 * rows.groupby(["device", "model", "ratio"]).seconds.mean().max())
    hours(axes)


def elsewhere() -> str:
    """What merging changed in a step of the thesis's networks on other machines, a sentence and a Markdown table, or what measures it."""
    steps = thesis.steps_table(records.load_shipped())
    groups = [timing.changes(own).assign(device=device) for device, own in steps.groupby("device", sort=False)]
    if not groups:
        return "What merging changes on other machines is not measured yet: `frugal sweep thesis` does it."
    found = pd.concat(groups, ignore_index=True)
    common = found.groupby("ratio").ratio.transform("size") > 1  # a column for one row alone would be empty but for it
    found = found[common] if common.any() else found
    ratios = sorted(found.ratio.unique())
    rows = []
    for (device, model), own in found.groupby(["device", "model"], sort=False):
        cells = {row.ratio: f"{change(row.change, row.low, row.high)}, {row.verdict}" for row in own.itertuples()}
        rows.append((device, f"{model}, {side(model)} px", *(cells.get(ratio, "") for ratio in ratios)))
    counts = ", ".join(f"{verdict} in {count}" for verdict, count in found.verdict.value_counts().items())
    said = (
        f"Of {len(found)} settings of the published method (`{thesis.METHOD}`, reuse {PUBLISHED_REUSE}) measured on other machines a "
        f"step is {counts}: change of its time against ratio 0 of the same round, with its 95% interval within one run; one image at a "
        "time, which under Stable Diffusion's guidance is a batch of two."
    )
    return said + "\n\n" + markdown(["device, precision and attention", "model, image", *(f"merged {ratio:.0%}" for ratio in ratios)], rows)


def latent_share(reference: pd.DataFrame) -> str:
    """In how many settings of other machines a step of the thesis's latent network, unmerged, took less time than one of its pixel network: a sentence."""
    rows = of_models(reference, list(PAIR), together=True)
    if not len(rows):
        return ""
    found = pd.concat([shares.intervals(own, *PAIR).loc[[0.0]] for _, own in rows[rows.ratio == 0].groupby("device")])
    not_less = int((found.high >= 1).sum())
    return (
        f"On other machines a step of {PAIR[1]} was, without merging, not quicker for sure than one of {PAIR[0]} in {not_less} of {len(found)} settings, "
        f"a setting being a precision and a way to compute attention: it took {span(found.share)} of the time."
    )


def side(model: str) -> int:
    """Pixels of the side of a published model's images."""
    parts = PUBLISHED[published(model)].values()
    return max(part.get("sample_size", 0) for part in parts)


def legend(figure, panels: list, columns: int = 2) -> None:
    """Names every series once, above all panels, as a device takes more room than a panel has."""
    named: dict = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=columns, fontsize=8)


def hours(axes) -> None:
    """The thesis's unit of time on the right."""
    other = axes.secondary_yaxis("right", functions=(lambda s: s * IMAGES / 3600, lambda h: h * 3600 / IMAGES))
    other.set_ylabel(f"hours for {IMAGES} images (scaled)")


def words(reference: pd.DataFrame, half: str | None = None) -> str:
    """What a caption adds where there is a reference series; `half`: the model that is drawn half filled."""
    if not len(reference):
        return ""
    named = "; ".join(sorted(reference.device.unique()))
    return f" Dashed: shipped reference, measured elsewhere ({named}){f'; half filled: {half}' if half else ''}."
