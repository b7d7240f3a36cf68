"""Figures of the first chapter: noise added and removed, two ways of sampling, and how models have grown."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods import samplers
from . import style
from .sheets import _show, _tiled
from .style import About, Drawn

ARROW = {  # dark with a white rim: seen on noise as well
    "arrowstyle": "simple,head_width=1.4,head_length=0.9,tail_width=0.5", "facecolor": style.INK, "edgecolor": "white", "linewidth": 1.5,
}  # fmt: skip
ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # so that a line is interrupted by a label, not drawn through it
GROWTH = Path(__file__).with_name("growth.csv")  # kind, name, date, parameters, field, source, url: a citation a row


@torch.no_grad()
def training_and_inference(
    model, image: Tensor, about: About, *, times=(0, 150, 350, 550, 750, 999), seed: int = 0, steps: int = 50,
    name: str = "01_figure_1.1",
) -> Drawn:  # fmt: skip
    """Figure 1.1: a data image [3, H, W] in [0, 1] under growing noise, the network's one-step guess, and a generation.

    A column is one level of noise: training compares the upper two rows, inference walks the lower one from right to left.
    """
    noised, guesses, errors = noise_and_guess(model, image, times, seed)
    states = generation(model, times, seed, steps)
    rows = {
        "training: image and noise": noised, "the network's guess\nof the image": guesses, "inference:\nnoise to image": states
    }  # fmt: skip
    with style.canvas(3, len(times), size=(9.2, 5.2)) as (figure, grid):
        for axes_row, (label, images) in zip(grid, rows.items(), strict=True):
            for axes, picture in zip(axes_row, images, strict=True):
                _show(axes, picture)
            axes_row[0].set_ylabel(label, fontsize=9)
        for k, t in enumerate(times):
            grid[0][k].set_title(f"t = {t}", fontsize=9.5)
            grid[1][k].set_xlabel(f"error {errors[k]:.2g}", fontsize=8.5)
            if k:
                grid[2][k].annotate("", (-0.14, 0.5), (0.22, 0.5), xycoords="axes fraction", arrowprops=ARROW)
    alt = (
        f"A drawn face under more and more noise; what the network guesses of it, with a mean squared error of {errors[0]:.2g} "
        f"at t = {times[0]} and {errors[-1]:.2g} at t = {times[-1]}; and a generation from noise to a face."
    )
    caption = (
        f"Figure 1.1: training and inference of {model.name}. Above, an image of the test set with the noise of time t; in the "
        "middle, the image that the network predicts from it in a single call, and its mean squared error in the range -1 to 1; "
        f"below, from right to left, a generation by DDIM in {steps} steps from seed {seed}."
    )
    return style.finish(figure, name, alt, caption, about)


def noise_and_guess(model, image: Tensor, times, seed: int) -> tuple[Tensor, Tensor, list[float]]:
    """The image with the noise of every time, the clean image predicted from it, and that prediction's error."""
    alphas = model.scheduler.alphas_cumprod
    clean = (2 * image - 1).expand(len(times), -1, -1, -1)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).expand_as(clean)
    t = torch.tensor(times)
    a, b = (part[t].sqrt().view(-1, 1, 1, 1) for part in (alphas, 1 - alphas))
    noisy = a * clean + b * noise
    velocity = model.unet(noisy.to(model.device), t.to(model.device)).sample.float().cpu()
    guess = a * noisy - b * velocity  # what the network knows as v, arXiv 2202.00512
    errors = (guess - clean).square().mean((1, 2, 3)).tolist()
    return _picture(noisy), _picture(guess), errors


def generation(model, times, seed: int, steps: int) -> list[Tensor]:
    """What a generation looks like when it has come to each of these times."""
    start = torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(seed))
    states = list(samplers.denoise(model, [seed], steps))
    reached = [s.timestep for s in states[1:]] + [0.0]
    found = []
    for t in times:
        nearest = int(np.argmin([abs(r - t) for r in reached]))
        found.append(start if t >= states[0].timestep else states[nearest].sample[0])
    return [_picture(model.decode(x[None]))[0] for x in found]


def _picture(images: Tensor) -> Tensor:
    return (images.float().cpu() / 2 + 0.5).clamp(0, 1)


def noising(alphas_cumprod: Tensor, others: Mapping[str, Tensor], about: About, *, name: str = "01_schedule") -> Drawn:
    """How much of an image is left at time t, for schedules {name: alpha_bar [T]}."""
    with style.canvas(1, 2, size=(9.2, 3.3)) as (figure, (shares, ratios)):
        for (label, bar), colour in zip({"this model": alphas_cumprod, **others}.items(), style.PALETTE, strict=False):
            t = np.arange(len(bar))
            shares.plot(t, bar.sqrt(), color=colour, label=f"{label}: image")
            shares.plot(t, (1 - bar).sqrt(), "--", color=colour, label=f"{label}: noise")
            ratios.plot(t, torch.log10(bar / (1 - bar)), color=colour, label=label)
        shares.set(title="what x_t is made of", xlabel="time t", ylabel="factor")
        ratios.set(title="signal-to-noise ratio", xlabel="time t", ylabel="log10")
        shares.legend()
        ratios.legend()
    end = float(alphas_cumprod[-1].sqrt())
    return style.finish(
        figure, name, f"Factors of image and noise against time: at the last the image's is {end:.2g}.",
        "The forward process: the factors of image and noise in x_t (left) and the logarithm of their squared ratio (right).", about,
    )  # fmt: skip


def _has_a_neighbour(row, models: pd.DataFrame) -> bool:
    """Whether a model that a label to the right would run over follows: of about the same size, within the label's length."""
    soon = (models.date > row.date) & (models.date < row.date + pd.Timedelta(days=48 * len(row.name) + 40))
    return bool((soon & models.parameters.between(row.parameters / 1.2, row.parameters * 2)).any())


def variety(images: Tensor) -> float:
    """How much images [n, 3, H, W] in [0, 1] differ from each other: mean root mean squared difference of pairs."""
    flat = images.flatten(1)
    return (torch.pdist(flat) / flat.shape[1] ** 0.5).mean().item()


def compared_loops(images: Mapping[str, Tensor], about: About, *, name: str = "01_two_loops") -> Drawn:
    """Samples of several loops, [n, 3, H, W] in [0, 1] each, from the same noise, and how much they vary; the data last."""
    varied = {label: variety(sheet) for label, sheet in images.items()}
    with style.canvas(len(images), 1, size=(7.6, 1.75 * len(images) + 0.3), squeeze=False) as (figure, grid):
        for (axes,), (label, sheet) in zip(grid, images.items(), strict=True):
            _show(axes, _tiled(sheet, len(sheet)))
            axes.set_title(f"{label}: variety {varied[label]:.3f}", fontsize=9.5)
    told = "; ".join(f"{label} {value:.3f}" for label, value in varied.items())
    caption = (
        "The same noise through different loops. Variety: mean root mean squared difference of two images; of the data "
        f"{list(varied.values())[-1]:.3f}."
    )
    return style.finish(figure, name, f"Samples of several loops. Variety: {told}.", caption, about)


def grown(table: pd.DataFrame | None = None) -> tuple[str, bool | str]:
    """What GROWTH says of each field, its first, largest and last model, and of the benchmarks; and whether all grew steadily:
    no model smaller than one before it."""
    table = pd.read_csv(GROWTH, parse_dates=["date"]) if table is None else table
    fields = {field: rows.sort_values(["date", "parameters"]) for field, rows in table[table.kind == "model"].groupby("field", sort=False)}
    sizes = "; ".join(f"{field}: {_first_largest_last(rows)}" for field, rows in fields.items())
    passed = ", ".join(f"{row.name} {row.date.year}" for row in table[table.kind == "benchmark"].itertuples(index=False))
    unsteady = [field for field, rows in fields.items() if not rows.parameters.is_monotonic_increasing]
    shrunk = [field for field, rows in fields.items() if rows.parameters.iloc[-1] <= rows.parameters.iloc[0]]
    in_part = f"holds in part: human scores are passed and models have grown, but not steadily in {' and '.join(unsteady)}"
    return f"{sizes}; human reference passed: {passed}", False if shrunk else in_part if unsteady else True


def _first_largest_last(rows: pd.DataFrame) -> str:
    first, largest, last = rows.iloc[0], rows.loc[rows.parameters.idxmax()], rows.iloc[-1]
    told = {row["name"]: f"{row['name']} ({row.date.year}) {row.parameters / 1e9:.3g} billion" for row in (first, largest)}
    return ", ".join(told.values()) if last["name"] == largest["name"] else (
        f"{', '.join(told.values())}, the last {last['name']} ({last.date.year}) {last.parameters / 1e9:.3g} billion"
    )


def growth(about: About, *, name: str = "01_figure_1.2") -> Drawn:
    """Figure 1.2: parameters of published models against time, and when benchmarks were passed, from GROWTH."""
    table = pd.read_csv(GROWTH, parse_dates=["date"])
    models, benchmarks = table[table.kind == "model"], table[table.kind == "benchmark"]
    with style.canvas(size=(9.2, 4.3)) as (figure, axes):
        for (field, rows), colour, marker in zip(models.groupby("field"), style.PALETTE, style.MARKERS, strict=False):
            axes.plot(rows.date, rows.parameters, marker, color=colour, label=f"{field}")
            for row in rows.itertuples():
                left = _has_a_neighbour(row, models)
                place = {"xytext": (-6, 3) if left else (6, 3), "ha": "right" if left else "left", "zorder": 1.5, "bbox": ON_WHITE}
                axes.annotate(row.name, (row.date, row.parameters), textcoords="offset points", fontsize=8, **place)
        for row in benchmarks.itertuples():
            axes.axvline(row.date, color=style.FAINT, linestyle=":", linewidth=1, zorder=1)
            axes.annotate(row.name, (row.date, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), ha="center",
                          textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set(yscale="log", ylim=(1e7, 2e12), ylabel="parameters")
        axes.set_xlim(pd.Timestamp("2014-09-01"), pd.Timestamp("2025-09-01"))
        axes.legend(loc="upper left", bbox_to_anchor=(0.27, 1), title="models of")
    span = models.parameters.max() / models.parameters.min()
    caption = (
        "Figure 1.2: parameters of published models, and (dotted) when a benchmark's human reference was passed. Sizes are "
        f"counted from published configurations or stated in the papers; sources: {GROWTH.name} in the package, one a row."
    )
    alt = f"{len(models)} models from {models.date.dt.year.min()} to {models.date.dt.year.max()}, the largest {span:,.0f} times the smallest."
    return style.finish(figure, name, alt, caption, about)
