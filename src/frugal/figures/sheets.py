"""Sheets of images: what merging is, what it does to samples, and samples beside the data."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import paths
from . import style
from .style import About, Drawn
from .words import listed


def merging(
    images: Mapping[str, Tensor], about: About, *, ratios=(0.0, 0.25, 0.5, 0.75), side: int = 4, name: str = "05_merging"
) -> Drawn:
    """The idea in one picture: images as patches, after merging a growing share of them, and how much that alone loses."""
    from ..measure.quality import psnr
    from ..measure.redundancy import merged_patches

    lost: dict[str, list[float]] = {}
    with style.canvas(len(images), len(ratios), size=(9.2, 2.5 * len(images) + 0.3), squeeze=False) as (figure, grid):
        for row, (title, image) in zip(grid, images.items(), strict=True):
            for axes, ratio in zip(row, ratios, strict=True):
                seen, groups = merged_patches(image, ratio, side)
                _show(axes, seen)
                _borders(axes, groups, side)
                decibels = float(psnr(seen[None].clamp(0, 1), image[None])[0])
                lost.setdefault(title, []).append(decibels)
                remains = "" if not ratio else f", {decibels:.1f} dB" if decibels < 100 else ", nothing lost"
                axes.set_title(f"{ratio:.0%}: {len(groups.unique())} tokens{remains}", fontsize=9.5)
            row[0].set_ylabel(title, fontsize=9.5)
    told = "; ".join(f"{title} {found[-1]:.1f} dB at {ratios[-1]:.0%}" for title, found in lost.items())
    alt = f"{' and '.join(images)}, cut into {groups.numel()} patches, with {listed([r for r in ratios if r])} merged: {told}."
    caption = (
        "Token merging on the patches of an image. In each cell of the grid one random patch stays; the patches that are "
        "most similar to one that stays are averaged with it. A line separates patches that are not merged with each "
        "other; decibels compare with the image itself. No network is involved."
    )
    return style.finish(figure, name, alt, caption, about)


def _borders(axes, groups: Tensor, side: int) -> None:
    """A line between neighbouring patches of different groups."""
    look = {"color": "white", "linewidth": 0.9}
    for y, x in (groups[:, 1:] != groups[:, :-1]).nonzero().tolist():
        axes.plot([side * (x + 1) - 0.5] * 2, [side * y - 0.5, side * (y + 1) - 0.5], **look)
    for y, x in (groups[1:] != groups[:-1]).nonzero().tolist():
        axes.plot([side * x - 0.5, side * (x + 1) - 0.5], [side * (y + 1) - 0.5] * 2, **look)


def merged_samples(drawn, ratios, *, method: str = "tome", scale: str = "quick") -> dict[str, dict[float, Tensor]]:
    """The first images of figure 5.2's set at each ratio, {model: {ratio: [n, 3, H, W] in [0, 1]}}.

    `drawn`: {Subject: Draw}, from an `experiments.Run`. Each sheet is kept as a picture beside the records, under a name made
    of all it depends on, so that drawing again samples nothing.
    """
    from ..measure import decay, records
    from ..measure.plan import MERGING
    from ..methods import samplers

    source, found = records.source_hash(*MERGING, samplers), {}
    for subject, draw in drawn.items():
        for ratio in ratios:
            asked = [subject.about["weights_hash"], source, ratio, method, asdict(draw)]
            key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
            file = paths.results(scale).parent / "samples" / f"{subject.title['model'].replace('/', '_')}-{key}.png"
            if not file.exists():
                _write(file, decay.pictures(subject, ratio, method, draw))
            found.setdefault(subject.title["model"], {})[ratio] = _read(file, min(decay.PICTURED, len(draw.seeds)))
    return found


def _write(file: Path, images: Tensor) -> None:
    """Images side by side as an 8-bit picture, which appears under its name when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = (_tiled(images, len(images)) * 255).round().byte().permute(1, 2, 0).numpy()
    unfinished = file.with_suffix(f".{os.getpid()}")
    Image.fromarray(whole).save(unfinished, format="png")
    unfinished.replace(file)


def _read(file: Path, count: int) -> Tensor:
    whole = torch.from_numpy(np.array(Image.open(file), dtype=np.float32)).permute(2, 0, 1) / 255
    return torch.stack(whole.chunk(count, dim=-1))


def examples(
    images: Mapping[str, Mapping[float, Tensor]], seeds, about: About, *, weights="embedded", note: str = "",
    figure_number: str = "5.3", name: str = "05_figure_5.3",
) -> Drawn:  # fmt: skip
    """Figure 5.3: the same seeds at every ratio; `images`: {model: {ratio: [n, 3, H, W] in [0, 1]}}."""
    models, ratios, seeds = list(images), sorted(next(iter(images.values()))), list(seeds)
    rows = [(model, k) for model in models for k in range(len(seeds))]
    side = 9.2 / (max(len(ratios), 5) + 0.7)
    size = (side * (len(ratios) + 0.7), side * len(rows) + 0.6)
    with style.canvas(len(rows), len(ratios), size=size, squeeze=False) as (figure, grid):
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        for axes_row, (model, k) in zip(grid, rows, strict=True):
            for axes, ratio in zip(axes_row, ratios, strict=True):
                _show(axes, images[model][ratio][k])
            axes_row[0].set_ylabel(f"{model}\nseed {seeds[k]}", fontsize=7.5)
        for axes, ratio in zip(grid[0], ratios, strict=True):
            axes.set_title(f"{ratio:.0%}", fontsize=9.5)
    caption = (
        f"Figure {figure_number}: images of the same {len(seeds)} seeds at each ratio of merged tokens, not selected, "
        f"{weights} weights. {note}".rstrip()
    )
    alt = (
        f"A grid of generated faces: for {' and '.join(models)} one row a seed ({', '.join(map(str, seeds))}), "
        f"one column a ratio from {ratios[0]:.0%} to {ratios[-1]:.0%}."
    )
    return style.finish(figure, name, alt, caption, about)


def beside_data(samples: Mapping[str, Tensor], about: About, *, columns: int = 8, name: str = "05_samples") -> Drawn:
    """Sheets of samples beside real images, equally many of each; `samples`: {title: [n, 3, H, W] in [0, 1]}."""
    n = min(map(len, samples.values()))
    with style.canvas(1, len(samples), size=(9.2, 9.2 / len(samples) * np.ceil(n / columns) / columns + 0.5)) as (
        figure,
        grid,
    ):
        for axes, (title, images) in zip(np.atleast_1d(grid), samples.items(), strict=True):
            _show(axes, _tiled(images[:n], columns))
            axes.set_title(title)
    caption = f"{n} images each, in the order of their seeds, none left out."
    return style.finish(figure, name, f"Sheets of {n} images: {', '.join(samples)}.", caption, about)


def _tiled(images: Tensor, columns: int) -> Tensor:
    """One picture [3, rows H, columns W] of images [n, 3, H, W], the last row filled up with white."""
    missing = -len(images) % columns
    images = torch.cat([images, images.new_ones(missing, *images.shape[1:])])
    rows = images.unflatten(0, (-1, columns))
    return torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)


def _show(axes, image: Tensor) -> None:
    axes.imshow(image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
