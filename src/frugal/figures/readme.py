"""The README's picture and its tables, from the embedded models, shipped records and this machine's numbers: `make readme`."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import nbformat

from .. import paths
from ..measure import gains, merging_layer, records, thesis
from ..measure.environment import environment
from ..measure.generators import DRAFT
from ..measure.plan import PUBLISHED_REUSE
from ..methods import merging
from ..methods.samplers import sample
from ..models import cards, faces, zoo
from . import models, sheets, shipped, style, words
from .tables import markdown

BEGIN, END = "<!-- {}: written by `make readme` -->", "<!-- end of {} -->"
DRAWN = {  # chapter: what of the thesis and the slides it draws
    "01_diffusion": ("1.1 training and inference", "1.2 growth of model sizes"),
    "02_unet": ("2.1 the U-Net",),
    "04_attention": ("3.1 trajectories and their origin",),
    "05_experiments": (
        "5.1(a) DDPM, time against ratio", "5.1(b) LDM, time against ratio", "5.2 quality against ratio (PSNR, SSIM)",
        "5.3 the same seeds at every ratio", "6.1 both models on the same axes",
        "section 4.3, each iteration's time, memory and quality",
    ),
    "07_samplers": ("slides: better samplers",),
    "08_speculative": ("slides: maximal coupling, speculative sampling and its table",),
    "09_parallel": ("slides: parallel simulation",),
}  # fmt: skip
SAMPLER = {"steps": 25, "sampler": "dpmpp_2m"}
PUBLISHED = {
    "ddpm_celebahq_256": "DDPM, CelebA-HQ 256, in pixels",
    "ldm_celebahq_256": "LDM, CelebA-HQ 256, in latents",
}
EMBEDDED = {
    "faces_ddpm": "faces-ddpm, 64 pixels", "faces_ldm": "faces-ldm, 64 pixels", "faces_sd": "faces-sd, with text, 64 pixels",
}  # fmt: skip


def about() -> style.About:
    device = environment()["device"]
    return style.About("quick", f"{device['name']}, {device['threads']} threads, float32")


def picture(count: int = 32) -> style.Drawn:
    """`count` faces of the test set beside as many unfiltered samples of each embedded model."""
    images = {"drawn faces (the data)": faces.Faces("test").images(range(count))}
    for name in ("faces-ldm", "faces-ddpm"):
        images[f"{name}, seeds 0 to {count - 1}"] = sample(zoo.load(name), seeds=range(count), **SAMPLER)
    return sheets.beside_data(images, about(), name="samples")


def table(numbers: dict) -> str:
    """What merging half of the tokens saves and costs, one row a model, as Markdown, and a note on its terms."""
    head = ["model", "parameters", "attention's share of FLOPs", "seconds an image"]
    head += [f"change of its time, 50% merged (`{thesis.METHOD}`)", "smallest change told from none", "PSNR"]
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: | ---: | --- | ---: | ---: |"]
    for slug, name in (PUBLISHED | EMBEDDED).items():
        n = {key.removeprefix(f"{slug}_"): value for key, value in numbers.items() if key.startswith(slug)}
        change = f"{words.change(*(n[f'change_50{end}'] for end in ('', '_low', '_high')))}, {n['change_50_verdict']}"
        told = f"{n['detectable']:.1%}" if "detectable" in n else "rounds too few"
        psnr = f"{n['psnr_50']:.1f} dB" if "psnr_50" in n else "random weights: time only"
        counted = f"{n['parameters'] / 1e6:.1f} M | {n['attention_share']:.1%} | {n['image_seconds']:.3g}"
        lines.append(f"| {name} | {counted} | {change} | {told} | {psnr} |")
    steps = f"{numbers['image_steps']:.0f} steps"
    note = [
        f"Measured by `make book` on {about().device}: {steps}, batch 1, without decoding, scaled from single steps.", "",
        "* *FLOPs*: the arithmetic of a step; only attention's share of it can be saved.",
        f"* *{thesis.METHOD}*: the published method, which chooses what to merge anew in every layer and step (reuse {PUBLISHED_REUSE}).",
        "* *Change*: against the unmerged network, median of paired rounds with its 95% interval within one run. Another run of",
        "  the same machine may lie outside, and a verdict whose interval nearly holds zero may turn.",
        "* *Smallest change told from none*: what these rounds would find, from running the unmerged network twice in each.",
        f"  A change that is smaller, or whose interval holds zero, is {words.UNSURE}.",
        "* *PSNR*: likeness to the unmerged image of the same seed; more is better.",
    ]  # fmt: skip
    return "\n".join([*lines, "", *note])


def merged(ratio: float = 0.5) -> str:
    """What the default way of merging changed in a step of Stable Diffusion's network, wherever it was measured: a sentence and a table."""
    found = gains.networks()
    found = found[(found.ratio == ratio) & (found.way == merging_layer.way())]
    if not len(found):
        return "What merging changes in a step of Stable Diffusion is not measured yet: `frugal bench merging` does it."
    rows = [
        (row.device, f"{row.pixels} px", row.backend, words.change(row.change, row.low, row.high), words.change(row.lead, row.lead_low, row.lead_high))
        for row in found.itertuples()
    ]  # fmt: skip
    faster, slower = (found.high < 0).sum(), (found.low > 0).sum()
    said = (
        f"A step of Stable Diffusion v1-5 with {ratio:.0%} of the tokens merged, random weights, batch 1 (`frugal bench merging`), "
        f"is faster in {faster} of {len(found)} settings, slower in {slower}: change of its time, with its 95% interval within one run. "
        f"The method is the package's default, `{merging.METHOD}`: a merged token counts as often as it has members, and a choice "
        f"serves {merging.REUSE} steps. *Fused*: attention in one kernel; *math*: its scores are written out. `tomesd` is the library "
        "of the published method. Why it depends so is chapter 6."
    )
    return said + "\n\n" + markdown(["device", "image", "attention", "against the untouched network", "against `tomesd` at equal work"], rows)


def marks() -> str:
    """How far the embedded generators have come, from their cards, as Markdown."""
    head = ["embedded model", "accepted, 256 seeds", "bound", "all seeds evaluated", "goal", "farthest marginal"]
    head += ["diversity, of the data's", "images seen", "training"]
    rows = []
    for name in ("faces-ldm", "faces-ddpm"):
        card = cards.read(name)
        found = {mark["what"]: mark for mark in card.get("marks", [])}
        told = ["not evaluated", "", "", "", "", ""]
        if found:
            accepted, marginal = found["accepted by the judge"], found["largest difference of a marginal"]
            spread = found["diversity (mean distance of pairs)"]["value"] / found["diversity of test faces"]["value"]
            [every] = [mark for what, mark in found.items() if what.startswith("accepted, all")]
            told = [f"{m[key]:.0%}" for m, limit in ((accepted, "bound"), (every, "goal")) for key in ("value", limit)]
            told += [f"{100 * marginal['value']:.0f} points", f"{spread:.0%}"]
        trained = f"{card['seconds'] / 60:.0f} minutes, {models.machines(card)}"
        if "guidance" in card:
            trained += f"; the last {card['images'] - card['guided_from']:,} images guided, {card['guidance']:g}"
        rows.append([name, *told, f"{card['images']:,}", trained])
    note = (
        "*Accepted*: the judge reads an image's attributes, draws the face they describe, and accepts the image if it is like that "
        "face. *Bound*: what the book's figures need; *goal*: a finished model. *Marginal*: the share of faces that show one value of "
        "one attribute, here the largest difference from the data's. *Diversity*: mean distance of two faces."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def drafting() -> str:
    """What the embedded draft keeps of its target, from its card: a sentence."""
    bounds = [mark for mark in cards.read(DRAFT).get("marks", []) if mark["bound"] is not None]
    if not bounds:
        return f"`{DRAFT}` is not evaluated."
    told = [
        f"{mark['what']} {mark['value']:.1%} ({'at least' if mark['at_least'] else 'at most'} {mark['bound']:.0%}: "
        f"{'reached' if mark['reached'] else '**missed**'})"
        for mark in bounds
    ]
    return f"`{DRAFT}`, the draft of speculative sampling in chapter 8, beside its target: {'; '.join(told)}."


def captioned() -> str:
    """How well the text-conditioned model follows captions, from its card: a sentence."""
    card = cards.read("faces-sd")
    found = {mark["what"]: mark for mark in card.get("marks", [])}
    what = next((name for name in found if name.startswith("caption's attributes")), None)
    if what is None:
        return "`faces-sd` is not evaluated."
    own, chance, ceiling = found[what], found["the same by chance"], found["the same of the autoencoder's reconstructions"]
    others = [mark["value"] for name, mark in found.items() if name.startswith("  of ")]
    return (
        f"`faces-sd` shows {own['value']:.1%} of what its caption says (bound {own['bound']:.0%}; the worst attribute "
        f"{min(others):.0%}; chance {chance['value']:.0%}, the autoencoder's own limit {ceiling['value']:.1%}), "
        f"{what.split(', ')[-1]}, 256 captions; {card['images']:,} images seen in {card['seconds'] / 60:.0f} minutes on {models.machines(card)}."
    )


def figures(root: Path) -> str:
    """Every figure of the thesis and the slides that is drawn here, its command, and how long that took when this was written."""
    took = {
        name: nbformat.read(root / "_build" / "notebooks" / f"{name}.ipynb", as_version=4).metadata.papermill.duration
        for name in DRAWN
    }
    kept = [record for record in records.load_shipped() if record.name == "noop"]
    noop = max((datetime.fromisoformat(r.end) - datetime.fromisoformat(r.start)).total_seconds() for r in kept)
    evaluated = [cards.read(name).get("evaluated_in") for name in cards.ABOUT if cards.file(name).exists()]
    told = [f"{1 + s // 60:.0f}" for s in evaluated if s]
    rows = [
        (thesis, f"chapter {int(name[:2])}", f"`make book`, or `frugal run {name}`", f"{words.duration(took[name])}, the chapter")
        for name, several in DRAWN.items() for thesis in several
    ]  # fmt: skip
    rows += [
        ("tomesd on a network without transformer blocks", "chapter 5", "`frugal bench noop`", f"{noop:.0f} s, besides setting up"),
        ("the thesis's own scale", "chapter 5", "`frugal run 05_experiments -p scale thesis`", "on a GPU; said before it begins"),
        ("the embedded models' marks", "appendix", "`frugal evaluate --marks`, or `frugal evaluate NAME`", f"up to {max(told, key=int, default='?')} min each"),
    ]  # fmt: skip
    return markdown(["thesis, slides", "here", "command", "time it took"], rows)


def write(root: Path) -> None:
    """Draw the picture into book/_static and put the tables between the README's markers; needs what `make book` measured."""
    numbers = json.loads((root / "_build" / "numbers.json").read_text())
    blocks = {
        "results": table(numbers), "figures": figures(root), "merging": merged(), "elsewhere": shipped.elsewhere(),
        "models": f"{marks()}\n\n{captioned()}\n\n{drafting()}",
    }  # fmt: skip
    picture().save(root / "book" / "_static")
    readme = root / "README.md"
    readme.write_text(filled(readme.read_text(), blocks))


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A text with each block between the markers of its name; raises ValueError where it has no such markers."""
    for name, block in blocks.items():
        begin, end = BEGIN.format(name), END.format(name)
        if not text.partition(begin)[2].count(end):
            raise ValueError(f"README.md: got no lines {begin!r} and {end!r}, between which {name} is written")
        before, after = text.partition(begin)[0], text.partition(end)[2]
        text = f"{before}{begin}\n\n{block}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    write(paths.root())
