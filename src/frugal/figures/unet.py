"""Figures of the second chapter: a network's blocks drawn from its own modules, what a pixel sees, and noise removed."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from torch import Tensor, nn

from . import style
from .sheets import _show, _tiled
from .style import About, Drawn

COLOURS = {"down": style.PALETTE[0], "middle": style.PALETTE[7], "up": style.PALETTE[1]}


@torch.no_grad()
def blocks(unet: nn.Module) -> list[dict]:
    """The blocks of a diffusers U-Net, from one pass: part, kind, channels that leave it, side it works at, attention."""
    size = unet.config.sample_size
    parts = [("down", block) for block in unet.down_blocks] + [("middle", unet.mid_block)]
    parts += [("up", block) for block in unet.up_blocks]
    found: list[dict] = []

    def note(part):
        def hook(module, arguments, keywords, output):
            entering = arguments[0] if arguments else keywords["hidden_states"]  # halved or doubled at the block's end
            leaving = output[0] if isinstance(output, tuple) else output
            attention = any(type(layer).__name__ == "Attention" for layer in module.modules())
            entry = {"part": part, "kind": type(module).__name__, "channels": leaving.shape[1]}
            found.append(entry | {"side": entering.shape[2], "attention": attention})

        return hook

    handles = [block.register_forward_hook(note(part), with_kwargs=True) for part, block in parts]
    try:
        device = next(unet.parameters()).device
        unet(torch.zeros(1, unet.config.in_channels, size, size, device=device), 0)
    finally:
        for handle in handles:
            handle.remove()
    return found


def architecture(unet: nn.Module, title: str, about: About, *, name: str = "02_figure_2.1") -> Drawn:
    """Figure 2.1: the U of a U-Net, drawn from the network's modules: higher is finer, by the logarithm, and wider has more channels."""
    found = blocks(unet)
    down = [k for k, block in enumerate(found) if block["part"] == "down"]
    with style.canvas(size=(9.2, 4.6)) as (figure, axes):
        x, places = 0.0, []
        for block in found:
            width, height = 0.35 + block["channels"] / 130, 0.5 + np.log2(block["side"])
            axes.add_patch(Rectangle((x, -height / 2), width, height, color=COLOURS[block["part"]], alpha=0.85, linewidth=0))
            axes.annotate(f"{block['side']}²", (x + width / 2, height / 2), xytext=(0, 3), textcoords="offset points",
                          ha="center", fontsize=8.5)  # fmt: skip
            axes.annotate(f"{block['channels']}", (x + width / 2, 0), ha="center", va="center", fontsize=9, color="white")
            if block["attention"]:
                axes.annotate("attention", (x + width / 2, -height / 2), xytext=(0, -11), textcoords="offset points",
                              ha="center", fontsize=7.5)  # fmt: skip
            places.append((x, width, height))
            x += width + 0.35
        for k in down:  # a skip connection leads from each block of the way down to the one opposite
            (a, wide, high), (b, wide_b, high_b) = places[k], places[len(found) - 1 - k]
            ends = (a + wide / 2, high / 2 + 0.65), (b + wide_b / 2, high_b / 2 + 0.65)
            bow = {"connectionstyle": f"arc3,rad=-{0.12 + 0.02 * k}", "arrowstyle": "-|>", "mutation_scale": 10}
            axes.add_patch(FancyArrowPatch(*ends, color=style.FAINT, linewidth=1, **bow))
        top = max(height for *_, height in places) / 2
        axes.set(xlim=(-0.3, x), ylim=(-top - 0.8, top + 2.6))
        axes.axis("off")
        parts = {"down": "way down", "middle": "middle", "up": "way up"}
        figure.legend(handles=[Patch(color=COLOURS[part], alpha=0.85, label=label) for part, label in parts.items()], loc="outside upper center", ncols=3)
    told = ", ".join(f"{block['channels']} channels at {block['side']}x{block['side']}" for block in found if block["part"] == "down")
    alt = f"The U-Net of {title}: down through {told}, and up again, with a skip connection at every level."
    caption = (
        f"Figure 2.1: the U-Net of {title}, drawn from its modules. Height: grows with the logarithm of the side of the feature maps, "
        "which is written above; width: grows with the channels that leave the block, whose number stands inside; arrows: skip connections; blocks with attention are marked."
    )
    return style.finish(figure, name, alt, caption, about)


def receptive_field(network: nn.Module, size: int = 64, channels: int = 1) -> int:
    """Side of the square of input pixels that reach the output pixel in the middle, found by its gradient."""
    x = torch.zeros(1, channels, size, size, requires_grad=True)
    torch.manual_seed(0)
    network(x)[0, :, size // 2, size // 2].sum().backward()
    touched = x.grad[0].abs().sum(0).nonzero()
    return int((touched.max(0).values - touched.min(0).values).max() + 1) if len(touched) else 0


def removed(images: Mapping[str, Tensor], errors: Mapping[str, float], about: About, *, name: str, title: str) -> Drawn:
    """Rows of images [n, 3, H, W] in [0, 1], each with the mean squared error to the first one's."""
    with style.canvas(len(images), 1, size=(7.6, 1.25 * len(images) + 0.4), squeeze=False) as (figure, grid):
        for (axes,), (label, sheet) in zip(grid, images.items(), strict=True):
            _show(axes, _tiled(sheet, len(sheet)))
            axes.set_title(f"{label}: error {errors[label]:.4f}" if label in errors else label, fontsize=9.5)
    told = "; ".join(f"{label} {error:.4f}" for label, error in errors.items())
    return style.finish(figure, name, f"{title} Errors: {told}.", f"{title} Mean squared errors in the range 0 to 1.", about)


def beside_blur(errors: Mapping[str, float], blur: str = "the best blur") -> str:
    """Which networks remove noise better than a blur and which do not, from the errors of `removed`: a sentence or two."""
    better = {True: [], False: []}
    for label, error in errors.items():
        if label.startswith("U-Net"):
            better[error < errors[blur]].append(f"the {label} ({error:.4f})")
    than = f"than {blur}, {errors[blur]:.4f}"
    told = [f"A smaller error {than}, has {' and '.join(better[True])}."] if better[True] else []
    told += [f"A larger error {than}, has {' and '.join(better[False])}."] if better[False] else []
    return " ".join(told)


def losses(curves: Mapping[str, list[float]], about: About, *, name: str = "02_losses") -> Drawn:
    """Loss against training step of several networks, smoothed over 20 steps."""
    with style.canvas(size=(7.6, 3.2)) as (figure, axes):
        for (label, values), colour in zip(curves.items(), style.PALETTE, strict=False):
            width = min(20, len(values))
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(np.arange(len(smooth)) + width, smooth, color=colour, label=label)
        axes.set(xlabel="training step", ylabel="loss", yscale="log", title="learning to remove noise")
        axes.legend()
    told = "; ".join(f"{label} {np.mean(values[-20:]):.3f}" for label, values in curves.items())
    caption = f"Training loss, mean over 20 steps; of the last 20: {told}."
    return style.finish(figure, name, f"Training losses. At the end: {told}.", caption, about)


def steps_compared(images: Mapping[int, Tensor], far: Mapping[int, float], about: About, *, name: str = "02_steps") -> Drawn:
    """Generations from the same noise in one step and in more, with the judge's distance from a drawable face."""
    with style.canvas(1, len(images), size=(9.2, 3.2)) as (figure, grid):
        for axes, (steps, sheet) in zip(np.atleast_1d(grid), images.items(), strict=True):
            _show(axes, _tiled(sheet, 2))
            axes.set_title(f"{steps} {'steps' if steps > 1 else 'step'}: {far[steps]:.1f}", fontsize=9.5)
    told = "; ".join(f"{steps}: {value:.1f}" for steps, value in far.items())
    caption = (
        "The same noise, removed in one step and in more (DDIM). The number is the median of the judge's distance from the nearest "
        "face that can be drawn: smaller is better."
    )
    return style.finish(figure, name, f"Generations by number of steps; distances {told}.", caption, about)
