"""How every figure looks, and what goes with it: alternative text, caption, device, a watermark where it is no result.

The panel is white on purpose: one picture that reads alike on a light page, on a dark one and in print.
"""

import io
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from frugal import paths

from . import glue

DPI = 160
INK, FAINT = "#1a1a1a", "#6b6b6b"
SMOKE = "smoke: not a result"
PALETTE = seaborn.color_palette("colorblind")
MARKERS = "osD^vP"
STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "font.family": "DejaVu Sans", "font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#dddddd", "grid.linewidth": 0.7, "legend.frameon": False,
    "legend.fontsize": 8.5, "lines.linewidth": 1.5, "lines.markersize": 6.5, "mathtext.fontset": "dejavusans",
}  # fmt: skip


@dataclass(frozen=True)
class About:
    """What every figure of one run says of itself."""

    scale: str  # smoke, quick or thesis
    device: str  # in words: name, threads, dtype

    @classmethod
    def of(cls, run) -> "About":
        """From an `experiments.Run`."""
        return cls.on(run.subjects[0].place, run.request.scale)

    @classmethod
    def on(cls, device, scale: str = "quick") -> "About":
        """Of a device, in words or as torch names it."""
        from ..measure.environment import environment

        machine = environment(device)["device"]
        plural = "s" if machine["threads"] > 1 else ""
        threads = f", {machine['threads']} thread{plural}" if machine["kind"] == "cpu" else ""
        return cls(scale, f"{machine['name']}{threads}, float32")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A finished figure; displayed, it brings alternative text and caption along and is saved under `folder()`."""

    name: str
    figure: Figure
    alt: str
    caption: str
    scale: str = "quick"

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    def save(self, where: Path | None = None) -> Path:
        """Write NAME.png into a folder, by default `folder()`, and return its path."""
        file = (where or folder(self.scale)) / f"{self.name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.png())
        return file

    def _repr_png_(self):
        width, height = (int(inches * DPI / 2) for inches in self.figure.get_size_inches())  # sharp on dense screens
        return self.png(), {"width": width, "height": height}

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        self.save()
        glue.show(_Picture(self), self.alt)
        display(Markdown(f"*{self.caption}*"))


@dataclass(frozen=True, repr=False)
class _Picture:
    """The picture alone: what `_ipython_display_` hands on."""

    drawn: Drawn

    def __repr__(self) -> str:
        return f"<figure {self.drawn.name}>"

    def _repr_png_(self):
        return self.drawn._repr_png_()


def folder(scale: str = "quick") -> Path:
    """Where a run's figures are kept."""
    return paths.drawn(scale) / "figures"


@contextmanager
def canvas(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (8.6, 3.7), **options):
    """A white figure of `size` inches and its axes, in the project's style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)


def finish(figure: Figure, name: str, alt: str, caption: str, about: About) -> Drawn:
    """Name the device under the figure, mark it where it is no result, and bind its texts to it."""
    device = f"Device: {about.device}."
    figure.supxlabel(device, fontsize=7.5, color=FAINT, x=0.995, ha="right")
    if about.scale == "smoke":
        figure.text(
            0.5,
            0.5,
            SMOKE,
            fontsize=3.7 * figure.get_figwidth(),
            color="#c1121f",
            alpha=0.35,
            rotation=18,
            ha="center",
            va="center",
            zorder=99,
        )
        caption = f"{SMOKE[0].upper()}{SMOKE[1:]}. {caption}"
    return Drawn(name, figure, alt, f"{caption} {device}", about.scale)


def colours(models) -> dict[str, tuple]:
    """A colour for each model: the pixel models' blue, the latent models' orange, others in turn."""
    found, rest = {}, iter(PALETTE[2:])
    for model in models:
        kind = [
            i for i, word in enumerate(("ddpm", "ldm")) if word in model.lower() and PALETTE[i] not in found.values()
        ]
        found[model] = PALETTE[kind[0]] if kind else next(rest)
    return found


def ratio_axis(axes, ratios) -> None:
    """The thesis's horizontal axis: share of tokens removed, in per cent."""
    ratios = sorted(set(ratios))
    axes.set_xticks(ratios)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(min(ratios) - 0.04, max(ratios) + 0.04)
    axes.set_xlabel("ratio of tokens removed")
    axes.grid(axis="x", visible=False)


def weights_of(table) -> str:
    """Where the weights behind a table's `weights` column come from, in words."""
    return " and ".join(table.weights.unique())


def percent_axis(axis) -> None:
    axis.set_major_formatter(
        lambda value, _: "0%" if abs(value) < 1e-9 else f"{100 * value:+.3g}%".replace("-", "\u2212")
    )
