"""Figures of the third chapter: what an image keeps in fewer bytes, latents as pictures, and which details die."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from ..measure.quality import median_interval
from . import style
from .claims import FAILS, HOLDS, OPEN, on_this
from .sheets import _show
from .style import About, Drawn


def through(image: Tensor, latents: Tensor, rebuilt: Tensor, about: About, *, name: str = "03_autoencoder") -> Drawn:
    """An image [3, H, W], the channels of its latents [c, h, w], and what is decoded from them."""
    pictures = [(f"{image.numel():,} numbers", image), *((f"channel {k + 1}", z) for k, z in enumerate(latents))]
    pictures.append(("decoded", rebuilt))
    with style.canvas(1, len(pictures), size=(9.2, 2.1)) as (figure, grid):
        for axes, (title, picture) in zip(grid, pictures, strict=True):
            if picture.ndim == 3:
                _show(axes, picture)
            else:
                axes.imshow(picture.numpy(), cmap="gray", vmin=-3, vmax=3, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
            axes.set_title(title, fontsize=8.5)
    caption = (
        f"A face of the test set, the {len(latents)} channels of its latents ({latents.numel():,} numbers, in units of their standard "
        "deviation, black -3, white 3), and the image that the decoder makes of them."
    )
    alt = f"A face, {len(latents)} small grey maps in which its outline can be made out, and nearly the same face again."
    return style.finish(figure, name, alt, caption, about)


def sheets(images: Mapping[str, Tensor], caption: str, about: About, *, name: str) -> Drawn:
    """One picture beside another, each under its title."""
    side = min(2.6, 9.2 / len(images))
    with style.canvas(1, len(images), size=(side * len(images), side + 0.5), squeeze=False) as (figure, grid):
        for axes, (title, image) in zip(grid[0], images.items(), strict=True):
            _show(axes, image)
            axes.set_title(title, fontsize=8.5)
    return style.finish(figure, name, f"{caption} {'; '.join(images)}.", caption, about)


def rate_distortion(table: pd.DataFrame, about: About, *, name: str = "03_rate_distortion") -> Drawn:
    """PSNR and SSIM against bytes an image, from `compression.rate_distortion`."""
    with style.canvas(1, 2, size=(9.2, 3.8)) as (figure, grid):
        for axes, (metric, label) in zip(grid, {"psnr": "PSNR, dB", "ssim": "SSIM"}.items(), strict=True):
            for (codec, rows), colour, marker in zip(table.groupby("codec"), style.PALETTE, style.MARKERS, strict=False):
                axes.plot(rows.bytes, rows[metric], f"{marker}-", color=colour, label=codec, markersize=5)
            axes.set(xscale="log", xlabel="bytes an image", ylabel=label)
            axes.set_xticks([200, 500, 1000, 2000], ["200", "500", "1,000", "2,000"])
            axes.minorticks_off()
        grid[0].legend()
    best = table[table.codec == "latents"].psnr.max()
    caption = (
        "Likeness to the image against the bytes it takes: JPEG with and without its header of tables, and latents rounded to 2 to 8 "
        "bits a number. The decoder's own weights, which a reader needs as well, are not counted."
    )
    return style.finish(figure, name, f"Likeness against bytes; latents reach {best:.1f} dB.", caption, about)


def claim_cost(counted: pd.DataFrame, seconds: pd.DataFrame, about: About) -> tuple[str, str]:
    """What a step in latents takes of one in pixels, and whether that is less here.

    counted: parameters and flops by model; seconds: of `steptimes.step_seconds`, the pixel model first.
    """
    pixel, latent = seconds.model.unique()
    rounds = seconds.pivot(index="round", columns="model", values="seconds")
    share = median_interval(rounds[latent] / rounds[pixel])
    parts, work = (counted[column][latent] / counted[column][pixel] for column in ("parameters", "flops"))
    measured = (
        f"with {parts:.1f} times the parameters a step of {latent} takes {work:.0%} of the FLOPs of one of {pixel} and {share.value:.0%} of its time "
        f"(95% interval {share.low:.0%} to {share.high:.0%}, {share.n} rounds in which they took turns)"
    )
    verdict = HOLDS if share.high < 1 else FAILS if share.low > 1 else OPEN
    return measured, f"{verdict} for these embedded models ({on_this(about)})"


def regions(table: pd.DataFrame, about: About, *, name: str = "03_regions") -> Drawn:
    """PSNR of each region of a face after the autoencoder, from `compression.by_region`."""
    rows = table.sort_values("psnr")
    with style.canvas(size=(7.6, 3.2)) as (figure, axes):
        bars = axes.barh(rows.region, rows.psnr, color=style.PALETTE[1], height=0.65)
        axes.bar_label(bars, [f"{psnr:.1f} dB, {share:.1%} of the pixels" for psnr, share in zip(rows.psnr, rows.share, strict=True)],
                       fontsize=8.5, padding=4)  # fmt: skip
        axes.set(xlabel="PSNR after the autoencoder, dB", xlim=(0, 1.35 * rows.psnr.max()))
        axes.grid(axis="y", visible=False)
    told = f"{rows.region.iloc[0]} worst with {rows.psnr.iloc[0]:.1f} dB, {rows.region.iloc[-1]} best with {rows.psnr.iloc[-1]:.1f} dB"
    caption = "Which parts of a face survive: PSNR over the pixels of each region, by the exact masks of the test faces."
    return style.finish(figure, name, f"PSNR by region: {told}.", caption, about)


def between(a: Tensor, b: Tensor, count: int = 5) -> Tensor:
    """`count` mixtures from a to b, both included, stacked."""
    return torch.stack([torch.lerp(a, b, share) for share in torch.linspace(0, 1, count)])


def mixtures(pixels: Tensor, decoded: Tensor, about: About, *, name: str = "03_mixtures") -> Drawn:
    """Mixtures of two faces in pixels (above) and in latents (below), both [n, 3, H, W]."""
    with style.canvas(2, len(pixels), size=(9.2, 3.9)) as (figure, grid):
        for row, label, images in zip(grid, ("mixed in pixels", "mixed in latents"), (pixels, decoded), strict=True):
            for axes, image in zip(row, images, strict=True):
                _show(axes, image)
            row[0].set_ylabel(label, fontsize=9)
    caption = "From one face to another: mixing their pixels, and mixing their latents before decoding."
    return style.finish(figure, name, "Two rows of mixtures of two faces, in pixels and in latents.", caption, about)
