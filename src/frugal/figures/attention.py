"""Figures of the fourth chapter: words as places, where an image looks for a word, what attention costs, and paths to the data."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd
import seaborn
from torch import Tensor, nn

from ..measure import redundancy
from ..models.mixture import Mixture
from . import style
from .sheets import _show
from .style import About, Drawn
from .words import listed

CLEAR = 60.0  # dB from which nobody sees a difference
KINDS = {"plain": "scores written out", "fused": "fused kernel", "projections": "linear maps around it"}


def word_space(places: np.ndarray, groups: Mapping[str, str], about: About, *, name: str = "04_words") -> Drawn:
    """Words at their places [n, 2], coloured by what they tell of; `groups`: {word: its attribute}, in the order of `places`."""
    kinds = list(dict.fromkeys(groups.values()))
    with style.canvas(size=(8.2, 4.6)) as (figure, axes):
        for k, kind in enumerate(kinds):
            chosen = [i for i, word in enumerate(groups) if groups[word] == kind]
            colour, marker = style.PALETTE[k % len(style.PALETTE)], style.MARKERS[k % len(style.MARKERS)]
            axes.plot(*places[chosen].T, marker, color=colour, label=kind.replace("_", " "))
        for together in _neighbours(places):
            word, place = ", ".join(list(groups)[i] for i in together), places[together[0]]
            right, above = ((places - place) / np.ptp(places, axis=0)).T
            crowded = ((right > 0.02) & (right < 0.2) & (abs(above) < 0.05)).any()  # the text would run over that point
            below = (6, -11) if crowded else (6, 3)
            axes.annotate(word, place, xytext=below, textcoords="offset points", fontsize=8.5)
        axes.margins(x=0.14)
        axes.set(xlabel="first principal direction", ylabel="second")
        figure.legend(loc="outside right center", title="tells of")
    caption = (
        "Vectors of words learned from captions alone, projected to the two directions in which they differ most. A word "
        "that several attributes share is drawn as the first of them."
    )
    return style.finish(figure, name, f"{len(groups)} words as points, in groups: {', '.join(kinds)}.", caption, about)


def _neighbours(places: np.ndarray, near: float = 0.03) -> list[list[int]]:
    """Indices of the points, those together that one label has to serve; `near`: share of the longer side of all."""
    found: list[list[int]] = []
    reach = near * np.ptp(places, axis=0).max()
    for i, place in enumerate(places):
        close = [group for group in found if np.abs(places[group] - place).max(1).min() < reach]
        found = [group for group in found if group not in close] + [[*chain(*close), i]]
    return found


def word_maps(image: Tensor, maps: Mapping[str, Tensor], prompt: str, about: About, *, name: str = "04_maps") -> Drawn:
    """An image [3, H, W] and, word by word, where it looked for it; `maps`: {word: [h, w]}."""
    columns = min(6, len(maps) + 1)
    rows = -(-(len(maps) + 1) // columns)
    with style.canvas(rows, columns, size=(9.2, 1.75 * rows + 0.2), squeeze=False) as (figure, grid):
        cells = list(grid.flat)
        _show(cells[0], image)
        cells[0].set_title("generated", fontsize=9)
        grey, size = image.mean(0, keepdim=True).expand_as(image), image.shape[-2:]
        for axes, (word, seen) in zip(cells[1:], maps.items(), strict=False):
            _show(axes, 0.5 + 0.5 * grey)
            fine = nn.functional.interpolate(seen[None, None], size, mode="bilinear")[0, 0].numpy()
            axes.imshow(fine, cmap="viridis", alpha=0.65, vmin=0, vmax=max(float(fine.max()), 1e-9))
            axes.set_title(word, fontsize=9)
        for axes in cells[len(maps) + 1 :]:
            axes.set_axis_off()
    caption = (
        f"“{prompt}”, and where the image looked for each word: attention averaged over heads, layers and steps, each map on "
        "its own scale (bright: most)."
    )
    peaks = {word: np.unravel_index(int(seen.argmax()), seen.shape) for word, seen in maps.items()}
    told = ", ".join(f"{word} at row {y + 1}, column {x + 1}" for word, (y, x) in peaks.items())
    return style.finish(figure, name, f"A generated face and its attention maps; brightest place: {told}.", caption, about)


def word_regions(table: pd.DataFrame, faces: int, about: About, *, name: str = "04_regions") -> Drawn:
    """How much more each word is looked for in a region than elsewhere, from `attention.word_regions`."""
    words = list(dict.fromkeys(table.word))
    regions = [r for r in [*words, *dict.fromkeys(table.region)] if r in set(table.region)]
    regions = list(dict.fromkeys(regions))
    lift = table.pivot(index="word", columns="region", values="lift").loc[words, regions]
    with style.canvas(size=(8.2, 4.2)) as (figure, axes):
        colours = {"cmap": "vlag", "center": 0, "cbar_kws": {"label": "log2 of the attention, against the mean"}}
        seaborn.heatmap(np.log2(lift), annot=lift.map("{:.2f}".format), fmt="", ax=axes, linewidths=0.5, **colours)
        axes.set(xlabel="region of the face, by its exact mask", ylabel="word of its caption")
        axes.grid(visible=False)
        axes.tick_params(axis="y", rotation=0)
    own = {word: lift.loc[word, word] for word in words if word in lift}
    told = ", ".join(f"{word} {value:.2f}" for word, value in own.items())
    caption = (
        f"Attention to a word inside a region over its mean in the image (1: no preference), on {faces} noised test faces with "
        "their own captions; regions smaller than one token are left out."
    )
    return style.finish(figure, name, f"Attention of each word in its own region: {told} times the mean.", caption, about)


def regions_in_words(table: pd.DataFrame) -> str:
    """How often a word is looked for in its own region more than on average, and how often nowhere more, from `attention.word_regions`."""
    own = table[table.word == table.region].set_index("word").lift.sort_values()
    most = table.loc[table.groupby("word").lift.idxmax()].set_index("word").region[own.index]
    told = ", ".join(f"{word} {lift:.2f}" for word, lift in own.items())
    first = [word for word in own.index if most[word] == word]
    named = f" ({', '.join(first)})" if first else ""
    elsewhere = "; ".join(f"{word} in that of {most[word]}" for word in own.index if most[word] != word)
    return (
        f"In its own region each word gets, of its mean over the image: {told}. Above 1 for {(own > 1).sum()} of {len(own)} words; "
        f"the largest of all regions for {len(first)}{named}." + (f" The others are looked for more elsewhere: {elsewhere}." if elsewhere else "")
    )


def guidance(marks: Mapping[str, float], about: About, *, name: str = "04_guidance_marks") -> Drawn:
    """How captions are followed and faces accepted against guidance; `marks`: {what: value} of the card of a text-conditioned model."""
    kinds = {"accuracy": "attributes as the caption says", "accepted": "accepted by the judge"}
    found = {kind: {float(w.split()[-1]): v for w, v in marks.items() if w.startswith(f"{kind} at guidance")} for kind in kinds}
    with style.canvas(size=(7.6, 3.6)) as (figure, axes):
        for (kind, label), colour, marker in zip(kinds.items(), style.PALETTE, style.MARKERS, strict=False):
            axes.plot(list(found[kind]), list(found[kind].values()), f"{marker}-", color=colour, label=label)
        for what, line in {"the same of the autoencoder's reconstructions": "--", "the same by chance": ":"}.items():
            axes.axhline(marks[what], color=style.FAINT, linestyle=line, linewidth=1, label=what.replace("the same", "attributes"))
        axes.set(xlabel="guidance w", ylabel="share", ylim=(0, 1.04), xticks=list(found["accuracy"]))
        figure.legend(loc="outside upper center", ncols=2)
    best = max(found["accepted"], key=found["accepted"].get)
    told = f"most faces accepted at {best:g}: {found['accepted'][best]:.0%}, with {found['accuracy'][best]:.1%} of the attributes right"
    caption = (
        "Share of the attributes of 256 test captions that the judge's reader finds in the images (balanced accuracy), and of images "
        f"that the judge accepts, as `frugal evaluate faces-sd` measured it; {told}."
    )
    return style.finish(figure, name, f"Two curves against guidance; {told}.", caption, about)


def alignment(scores: Tensor, images: Tensor, captions: Sequence[str], about: About, *, name: str = "04_alignment") -> Drawn:
    """CLIP's matrix: cosine of every caption (a row) with every image (a column); scores [captions, images]."""
    n = len(images)
    with style.canvas(2, 1, size=(9.2, 0.55 * n + 1.4), height_ratios=(1, n)) as (figure, (above, axes)):
        seaborn.heatmap(scores.numpy(), annot=True, fmt=".2f", ax=axes, cmap="viridis", cbar=False, annot_kws={"fontsize": 8})
        axes.set_yticks(
            np.arange(n) + 0.5, [f"{k + 1}  {_wrapped(caption)}" for k, caption in enumerate(captions)], fontsize=6.5
        )
        axes.set_xticks(np.arange(n) + 0.5, range(1, n + 1))
        axes.tick_params(axis="y", rotation=0)
        axes.grid(visible=False)
        above.set(xlim=(0, n), ylim=(0, 1), xticks=[], yticks=[])
        above.set_axis_off()
        for k, image in enumerate(images):
            inset = above.inset_axes([k / n + 0.1 / n, 0, 0.8 / n, 1])
            _show(inset, image)
    right = int((scores.argmax(1) == np.arange(n)).sum())
    caption = (
        f"faces-clip's alignment of {n} captions and {n} faces: the cosine between their vectors. Face k belongs to caption k."
    )
    return style.finish(figure, name, f"{right} of {n} captions are closest to their own face.", caption, about)


def _wrapped(caption: str) -> str:
    middle = caption.find(" ", len(caption) // 2)
    return f"{caption[:middle]}\n{caption[middle + 1 :]}"


def costs(table: pd.DataFrame, about: About, *, name: str = "04_cost") -> Drawn:
    """Seconds of attention against the number of tokens, from `attention.costs`."""
    from ..measure.attention import exponent

    powers = {kind: exponent(table, kind) for kind in KINDS}
    with style.canvas(size=(7.6, 4.2)) as (figure, axes):
        for (kind, label), colour, marker in zip(KINDS.items(), style.PALETTE, style.MARKERS, strict=False):
            rows = table[table.kind == kind].groupby("tokens").seconds
            axes.vlines(
                rows.median().index, 1e3 * rows.quantile(0.25), 1e3 * rows.quantile(0.75), color=colour, linewidth=3, alpha=0.4
            )
            axes.plot(
                1e3 * rows.median(), f"{marker}-", color=colour, label=f"{label}: grows with N to the power {powers[kind]:.2f}"
            )
        axes.set(xscale="log", yscale="log", xlabel="tokens N", ylabel="milliseconds a call")
        sizes = sorted(table.tokens.unique())
        axes.set_xticks(sizes, [f"{n:,}\n{round(n**0.5)}²" for n in sizes])
        axes.minorticks_off()
        axes.legend()
    n = table.groupby(["kind", "tokens"]).size().min()
    told = ", ".join(f"{label} {powers[kind]:.2f}" for kind, label in KINDS.items())
    caption = (
        f"Median and quartiles of {n} rounds in which all sizes took turns; 4 heads of 16 channels, batch 1. Powers are fitted to the "
        f"{min(3, table.tokens.nunique())} largest sizes."
    )
    return style.finish(figure, name, f"Time against tokens, both logarithmic; powers: {told}.", caption, about)


def twins(images: Mapping[str, Tensor], lost: pd.DataFrame, about: About, *, name: str = "04_twins") -> Drawn:
    """Share of patches with a near twin, and what merging them loses; `images`: {kind: [n, 3, H, W]}, `lost`: of `redundancy`."""
    near, told = 5 / 255, []
    with style.canvas(1, 2, size=(9.2, 3.8)) as (figure, (shares, loss)):
        for (kind, several), colour, marker in zip(images.items(), style.PALETTE, style.MARKERS, strict=False):
            apart = np.sort(np.concatenate([redundancy.twin_distances(image) for image in several]))
            shares.plot(apart, np.arange(1, len(apart) + 1) / len(apart), color=colour, label=f"{len(several)} {kind}")
            rows = lost[lost.kind == kind].assign(psnr=lambda table: table.psnr.clip(upper=CLEAR)).groupby("ratio").psnr
            loss.vlines(rows.median().index, rows.min(), rows.max(), color=colour, linewidth=3, alpha=0.4)
            loss.plot(rows.median(), f"{marker}-", color=colour, label=kind)
            told.append(f"{np.mean(apart <= near):.0%} of the patches of {kind}")
        shares.axvline(near, color=style.FAINT, linewidth=1)
        shares.set(
            title="patches with a twin",
            xlabel="difference to the patch most alike (black to white: 1)",
            ylabel="share",
            xlim=(0, 0.2),
        )
        loss.set(title="merging alone", ylabel="PSNR to the image, dB")
        loss.axhline(CLEAR, color=style.FAINT, linewidth=1, linestyle=":")
        loss.annotate("or more", (1, CLEAR), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        style.ratio_axis(loss, lost.ratio)
        shares.legend()
    caption = (
        "Patches of 4 x 4 pixels as tokens. Left, share of the patches whose nearest other patch differs by at most this much (root "
        f"mean square; the line: 5 of 255); right, median and range of what is left after merging. Within the line: {', '.join(told)}."
    )
    return style.finish(figure, name, f"With a twin within 5 of 255: {', '.join(told)}.", caption, about)


def merging_in_words(lost: pd.DataFrame) -> str:
    """What merging leaves of each kind of image and which kind it harms more, ratio by ratio, from `redundancy.redundancy`."""
    left = lost.assign(psnr=lost.psnr.clip(upper=CLEAR)).groupby(["kind", "ratio"], sort=False).psnr.median().unstack()
    told = []
    for kind, medians in left.iterrows():
        decibels = [f"{value:.1f} dB{' or more' * (value == CLEAR)} at {ratio:.0%}" for ratio, value in medians.items()]
        told.append(f"{kind} keep {', '.join(decibels)}")
    most = [f"{kind} at {listed(rows.index)}" for kind, rows in left.T.groupby(left.idxmin(), sort=False)]
    return f"By the median {'; '.join(told)}. The most is lost by {', by '.join(most)}."


def trajectories(mixture: Mixture, about: About, *, noise: float = 2.0, count: int = 21, name: str = "04_figure_3.1") -> Drawn:
    """Figure 3.1: paths of the probability flow, and every point of one of them mapped to its origin, at the end of the data."""
    sigmas = np.geomspace(0.002, noise, 200)
    ends = mixture.path(np.linspace(-1.9, 1.9, count) * noise, sigmas[::-1])[::-1]
    chosen = ends[:, count * 2 // 3]
    with style.canvas(size=(8.6, 4.6)) as (figure, axes):
        shown = np.linspace(-2.1 * noise, 2.1 * noise, 400)
        density = mixture.density(shown[None], sigmas[:, None])
        axes.pcolormesh(
            _axis(sigmas), shown, (density / density.max(1, keepdims=True)).T, cmap="Greys", vmax=2.2, shading="auto"
        )
        axes.plot(_axis(sigmas), ends, color=style.PALETTE[0], linewidth=0.9, alpha=0.8)
        axes.plot(_axis(sigmas), chosen, color=style.PALETTE[1], linewidth=2.2, label="one path")
        for k in (70, 120, 160, 199):
            arrow = {"arrowstyle": "-|>", "color": style.PALETTE[2], "connectionstyle": "arc3,rad=0.15", "lw": 1.4}
            axes.annotate("", (_axis(sigmas)[0], chosen[0]), (_axis(sigmas)[k], chosen[k]), arrowprops=arrow)
        axes.plot(_axis(sigmas)[0], chosen[0], "o", color=style.PALETTE[1], zorder=5, label="its origin")
        axes.plot([], [], color=style.PALETTE[2], marker="<", markersize=5, label="jumps of a consistency model, from any point to the origin")
        ticks = np.array([0.002, 0.1, 0.5, 1.0, noise])
        axes.set_xticks(_axis(ticks), ["0.002\ndata", *(f"{t:g}" for t in ticks[1:-1]), f"{noise:g}\nnoise"])
        axes.set(xlabel="standard deviation of the noise", ylabel="x")
        axes.grid(visible=False)
        figure.legend(loc="outside upper center", ncols=3)
    caption = (
        f"Figure 3.1: paths of the probability flow of a mixture of {len(mixture.means)} normal distributions, whose score is known exactly, "
        "over its density at each level of noise (grey). The origin of a path is its end in the data, on the left; arrows: what a consistency model learns, "
        "the jump from a point of a path to its origin."
    )
    alt = f"{count} paths run from noise on the right to {len(mixture.means)} narrow peaks on the left; points of one are mapped to its end there."
    return style.finish(figure, name, alt, caption, about)


def _axis(sigmas) -> np.ndarray:
    """Small noise takes more room: sigma^0.4."""
    return np.asarray(sigmas) ** 0.4
