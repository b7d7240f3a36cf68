"""Figures of the appendix: how the embedded networks were trained, and what they make, beside what they were trained on."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..models import cards
from ..models.recipes import RECIPES
from . import style
from .sheets import _show
from .style import About, Drawn
from .tables import markdown
from .words import bullets

LOSSES = {
    "faces-reader": "reading error", "faces-vae": "error of pixels and edges", "faces-clip": "contrastive loss",
}  # fmt: skip
VELOCITY, TAUGHT = "error of the velocity", "distance to faces-ddpm"


def trained() -> dict[str, dict]:
    """The cards of the networks that are there, in the order in which they rest on each other."""
    return {name: cards.read(name) for name in RECIPES if cards.file(name).exists()}


def loss_curves(found: Mapping[str, dict], about: About, *, columns: int = 4, name: str = "appendix_losses") -> Drawn:
    """The loss of each network against the images it had seen; `found`: {network: card}."""
    rows = -(-len(found) // columns)
    with style.canvas(rows, columns, size=(9.2, 2.3 * rows), squeeze=False) as (figure, grid):
        for axes, (network, card) in zip(grid.flat, found.items(), strict=False):
            seen, loss = np.array(card["loss"]).T
            axes.plot(seen / 1000, loss, color=style.PALETTE[0], linewidth=1, label="from the data")
            if card.get("guided_loss"):
                guided, error = np.array(card["guided_loss"]).T
                axes.plot(guided / 1000, error, color=style.PALETTE[1], linewidth=1.4, label="to its guided self")
                axes.legend(fontsize=7)
            axes.set(yscale="log", title=network)
            axes.set_xlabel("thousand faces seen", fontsize=8)
            ylabel = LOSSES.get(network, TAUGHT if network == "faces-ddpm-draft" else VELOCITY)
            axes.set_ylabel(ylabel, fontsize=8)
            axes.tick_params(labelsize=7.5)
        for axes in list(grid.flat)[len(found) :]:
            axes.set_axis_off()
    caption = (
        "Training loss of every embedded network against the faces it had seen, mean of about fifteen seconds of training each. "
        "A jump is where training went on with a fresh cycle of the learning rate; a second curve is the last cycle, to the "
        "network's own guided prediction, whose loss is on another scale."
    )
    last = "; ".join(f"{network} ends at {card['loss'][-1][1]:.3g}" for network, card in found.items())
    return style.finish(figure, name, f"Falling curves of training loss: {last}.", caption, about)


def neighbours(
    samples: Mapping[str, Tensor], nearest: Mapping[str, Tensor], distances: Mapping[str, Sequence[float]], about: About,
    *, name: str = "appendix_neighbours",
) -> Drawn:  # fmt: skip
    """Images [n, 3, H, W] of each title over the training faces nearest to them, the distance below each pair."""
    titles, n = list(samples), min(map(len, samples.values()))
    with style.canvas(2 * len(titles), n, size=(9.2, 2.55 * len(titles) * 8 / n), squeeze=False) as (figure, grid):
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        for row, title in enumerate(titles):
            for k in range(n):
                _show(grid[2 * row][k], samples[title][k])
                _show(grid[2 * row + 1][k], nearest[title][k])
                grid[2 * row + 1][k].set_xlabel(f"{distances[title][k]:.3f}", fontsize=7.5)
            grid[2 * row][0].set_ylabel(title, fontsize=8)
            grid[2 * row + 1][0].set_ylabel("nearest", fontsize=8)
    middle = "; ".join(f"{title} {np.median(distances[title]):.3f}" for title in titles)
    caption = (
        "Images, and below each the nearest of the training faces that were searched, by root mean squared distance of pixels. "
        "Whoever copied would be nearer to one than faces of the test set are."
    )
    return style.finish(figure, name, f"Pairs of images and nearest training faces; median distance: {middle}.", caption, about)


def provenance(found: Mapping[str, dict]) -> str:
    """What each network was trained on, for how long and where: a Markdown table."""
    head = ["network", "what it does", "parameters", "faces seen", "hours", "device", "energy", "licence of the weights"]
    rows = [
        (f"`{name}`", cards.ABOUT[name], f"{card['parameters']:,}", f"{card['images']:,}", f"{card['seconds'] / 3600:.2f}",
         machines(card), _energy(card), "CC BY 4.0")
        for name, card in found.items()
    ]  # fmt: skip
    return markdown(head, rows)


def machines(card: dict) -> str:
    """On what a network was trained, in words."""
    return re.sub(r"\b1 threads", "1 thread", card["device"])


def _energy(card: dict) -> str:
    """The energy on a card, and of which part of the training it is where only the graphics card counted it."""
    parts = card["device"].split(", then ")
    counted = [part for part in parts if "thread" not in part]
    alone = f", of the part on {' and '.join(counted)} alone" if "joules" in card and 0 < len(counted) < len(parts) else ""
    return cards.energy(card) + alone


def missed(found: Mapping[str, dict]) -> str:
    """Which networks miss a bound, and by what, and which have no marks, as after training: Markdown."""
    lines = {
        f"{name} misses a bound": f"{mark['what']}: {mark['value']:.2g} ({cards.limits(mark)[0]})"
        for name, card in found.items() for mark in card.get("marks", ()) if cards.limits(mark)[1] == "no"
    }  # fmt: skip
    lines |= {f"{name} is not measured yet": f"`frugal evaluate {_judged(name)}` measures it" for name, card in found.items() if not card.get("marks")}
    return bullets(lines) if lines else "Every bound is reached."


def _judged(network: str) -> str:
    """What `frugal evaluate` calls a network."""
    return "judge" if network == "faces-reader" else network


def claim_taught(found: Mapping[str, dict]) -> tuple[str, bool | str]:
    """The slides' "distillation loses performance and needs further training", of the draft, which is taught by a larger network and takes
    as many steps."""
    card = found.get("faces-ddpm-draft")
    if card is None:
        return "no network distilled to fewer steps is part of this book", "open"
    trained = f"a smaller network trained on the predictions of faces-ddpm, with {card['images']:,} further faces"
    kept = [mark["value"] for mark in card.get("marks", ()) if mark["what"] == "accepted, of faces-ddpm's"]
    if not kept:
        return f"{trained}, is not measured yet", "open"
    loses = "holds" if kept[0] < 1 else "does not hold"
    return f"{trained}, has {kept[0]:.2g} times its share of accepted images", f"{loses} of a network of fewer parameters, trained for {card['seconds'] / 60:.0f} minutes; not measured of one of fewer steps"


def marks(card: dict) -> str:
    """The marks of one card as a Markdown table, those first that have a bound or a goal."""
    told = sorted(card.get("marks", ()), key=lambda mark: mark["bound"] is None and mark.get("goal") is None)
    head, rows = ["mark", "value", "bound", "reached", "goal", "finished"], []
    for mark in told:
        bound, reached, *rest = cards.limits(mark)
        rows.append((mark["what"], f"{mark['value']:.4g}", bound, f"{reached}{_untold(mark, card)}", *rest))
    return markdown(head, rows)


def _untold(mark: dict, card: dict) -> str:
    """What is added where a mark's band, which the card holds as marks of their own, covers its bound."""
    band = {end: m["value"] for m in card["marks"] for end in ("lower", "upper") if m["what"] == f"KID, {end} end of its 95 % band"}
    covered = len(band) == 2 and mark["bound"] is not None and band["lower"] <= mark["bound"] <= band["upper"]
    return ", not told apart" if covered and mark["what"].startswith("KID, below") else ""
