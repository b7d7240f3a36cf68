"""Model cards: what an embedded network was trained on, how long, where, and the marks it reached."""

import json
from pathlib import Path

from .. import paths
from .faces import Faces

ABOUT = {
    "faces-reader": "reads attributes and drawing parameters from a face; the network of the judge",
    "faces-vae": "autoencoder (AutoencoderKL) between faces of 64x64 pixels and latents of 4x16x16",
    "faces-ddpm": "diffusion in pixels (UNet2DModel, 64x64), velocity prediction",
    "faces-ddpm-draft": "faces-ddpm at less than a quarter of its FLOPs (UNet2DModel, 64x64), trained to its predictions: the draft of speculative sampling",
    "faces-clip": "encoders of captions and of faces (CLIPModel), trained to agree",
    "faces-sd": "diffusion in the latents of faces-vae, steered by captions (UNet2DConditionModel), velocity prediction",
    "faces-ldm": "diffusion in the latents of faces-vae (UNet2DModel, 4x16x16), velocity prediction",
}


def file(name: str) -> Path:
    return paths.EMBEDDED / name / "card.json"


def read(name: str) -> dict:
    return json.loads(file(name).read_text())


def blank(name: str) -> dict:
    """The card of a network that has not been trained yet."""
    return {
        "name": name,
        "data": "frugal.models.faces, train split",
        "steps": 0,
        "images": 0,
        "seconds": 0.0,
        "loss": [],
    }


def write(name: str, card: dict) -> None:
    """Write the card as JSON and as the README.md that model hubs show."""
    file(name).parent.mkdir(parents=True, exist_ok=True)
    file(name).write_text(json.dumps(card, indent=1) + "\n")
    file(name).with_name("README.md").write_text(markdown(card))


def seen(images: int) -> str:
    """How many faces a network was shown, and how often each."""
    distinct = len(Faces("train"))
    return f"{images:,}, " + ("all different" if images <= distinct else f"each of {distinct:,} faces again and again")


def energy(card: dict) -> str:
    """What the processor or graphics card itself counted, where it does."""
    return f"{card['joules'] / 3.6e6:.3f} kWh" if "joules" in card else "not reported by the device"


def markdown(card: dict) -> str:
    """The card as a page: facts of the training, then the marks."""
    facts = {
        "parameters": f"{card.get('parameters', 0):,}",
        "data": card["data"],
        "steps": f"{card['steps']:,}",
        "images seen": seen(card["images"]),
        "training time": f"{card['seconds'] / 60:.0f} minutes",
        "device": card.get("device", "not trained yet"),
        "energy": energy(card),
        "last loss": f"{card['loss'][-1][1]:.4f}" if card["loss"] else "none",
        "weights": "float16 safetensors, exponential moving average; licence CC BY 4.0",
    }
    if "guidance" in card:
        facts["last cycle"] = (
            f"{card['images'] - card['guided_from']:,} of the images, to its own prediction under perturbed-attention guidance "
            f"of scale {card['guidance']:g} (arXiv 2403.17377), distilled"
        )
    lines = ["---", "license: cc-by-4.0", "library_name: diffusers", "---", "", f"# {card['name']}", ""]
    about = ABOUT[card["name"]]
    lines += [f"{about[0].upper()}{about[1:]}.", "", "| training | |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    if marks := card.get("marks"):
        lines += ["", "| mark | value | bound | reached | goal | finished |", "| --- | ---: | ---: | --- | ---: | --- |"]
        lines += [f"| {mark['what']} | {mark['value']:.4g} | {' | '.join(limits(mark))} |" for mark in marks]
    return "\n".join(lines) + "\n"


def limits(mark: dict) -> list[str]:
    """Bound and goal of a mark, each with whether it is kept, as cells of a table."""
    cells = []
    for limit, kept in (("bound", "reached"), ("goal", "finished")):
        given = mark.get(limit) is not None
        cells.append(f"{'at least' if mark['at_least'] else 'at most'} {mark[limit]:.4g}" if given else "")
        cells.append(("yes" if mark[kept] else "no") if given else "")
    return cells
