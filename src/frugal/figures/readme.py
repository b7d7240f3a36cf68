"""The picture and the table that open the README, from the embedded models and this machine's numbers: `make readme`."""

import json
from pathlib import Path

from .. import paths
from ..measure.environment import environment
from ..methods.samplers import sample
from ..models import cards, faces, zoo
from . import sheets, style

BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
SAMPLER = {"steps": 25, "sampler": "dpmpp_2m"}
PUBLISHED = {
    "ddpm_celebahq_256": "DDPM, CelebA-HQ 256, in pixels",
    "ldm_celebahq_256": "LDM, CelebA-HQ 256, in latents",
}
EMBEDDED = {"faces_ddpm": "faces-ddpm, 64 pixels", "faces_ldm": "faces-ldm, 64 pixels"}


def about() -> style.About:
    device = environment()["device"]
    return style.About("quick", f"{device['name']}, {device['threads']} threads, float32")


def picture(count: int = 64) -> style.Drawn:
    """`count` faces of the test set beside as many unfiltered samples of each embedded model."""
    images = {"drawn faces (the data)": faces.Faces("test").images(range(count))}
    for name in ("faces-ldm", "faces-ddpm"):
        images[f"{name}, seeds 0 to {count - 1}"] = sample(zoo.load(name), seeds=range(count), **SAMPLER)
    return sheets.beside_data(images, about(), name="samples")


def table(numbers: dict) -> str:
    """What merging half of the tokens saves and costs, one row a model, as Markdown."""
    head = (
        "| model | parameters | attention's share of FLOPs | seconds an image | time at 50 % merging | PSNR at 50 % |"
    )
    lines = [head, "| --- | ---: | ---: | ---: | --- | ---: |"]
    for slug, name in (PUBLISHED | EMBEDDED).items():
        n = {key.removeprefix(f"{slug}_"): value for key, value in numbers.items() if key.startswith(slug)}
        change = f"{100 * n['change_50']:+.1f} % ({100 * n['change_50_low']:+.1f} to {100 * n['change_50_high']:+.1f}), {n['change_50_verdict']}"
        psnr = f"{n['psnr_50']:.1f} dB" if "psnr_50" in n else "random weights: time only"
        share = f"{100 * n['attention_share']:.1f} %"
        lines.append(
            f"| {name} | {n['parameters'] / 1e6:.1f} M | {share} | {n['image_seconds']:.3g} | {change} | {psnr} |"
        )
    steps = f"{numbers['image_steps']:.0f}"
    note = f"Seconds for {steps} steps, batch 1, without decoding, scaled from single steps; interval of 95 %. Measured by `make book` on {about().device}."
    return "\n".join([*lines, "", note])


def marks() -> str:
    """How far the embedded generators have come, from their cards, as Markdown."""
    lines = [
        "| embedded model | accepted by the judge | mark | images seen | training |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name in ("faces-ldm", "faces-ddpm"):
        card = cards.read(name)
        found = [m for m in card.get("marks", []) if m["what"] == "accepted by the judge"]
        value, bound = (
            (f"{100 * found[0][key]:.0f} %" for key in ("value", "bound")) if found else ("not evaluated", "")
        )
        trained = f"{card['seconds'] / 60:.0f} minutes, {card['device']}"
        lines.append(f"| {name} | {value} | {bound} | {card['images']:,} | {trained} |")
    return "\n".join(lines)


def write(root: Path) -> None:
    """Draw the picture into book/_static and put the tables between the README's markers; needs what `make book` measured."""
    readme = root / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    numbers = json.loads((root / "_build" / "numbers.json").read_text())
    middle = "\n\n".join([BEGIN, table(numbers), marks(), END])
    picture().save(root / "book" / "_static")
    readme.write_text(before + middle + rest.partition(END)[2])


if __name__ == "__main__":
    write(paths.root())
