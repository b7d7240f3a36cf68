"""Marks of the text-conditioned models: captions and faces that find each other, and faces that follow their caption."""

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel

from ..methods.samplers import sample
from ..models import faces, text, zoo
from . import judge
from .marks import SAMPLES, SIZE, STEPS, Mark, reconstruct

RETRIEVALS, TOGETHER = 20, 64  # random sets, faces in each
GUIDANCES, STATED = (1.0, 1.5, 2.0, 3.0, 5.0), zoo.FACES_GUIDANCE  # swept; the one that marks are given at


def clip_marks() -> list[Mark]:
    """Captions and faces must find each other among 64, half of which differ from another in one attribute."""
    right = retrieval(text.load_clip())
    return [Mark(f"{name}, share of {RETRIEVALS} x {TOGETHER}", float(np.mean(v)), 0.95) for name, v in right.items()]


@torch.inference_mode()
def retrieval(clip: CLIPModel, sets: int = RETRIEVALS, **options: bool) -> dict[str, list[float]]:
    """Share of 64 test faces that find their caption, and of captions that find their face, set by set.

    `options`: of `text.embed_as`, for a caption read without positions or mask.
    """
    data, right = faces.Faces("test", SIZE), {"face finds its caption": [], "caption finds its face": []}
    for k in range(sets):
        p = data.parameters(range(k * TOGETHER // 2, (k + 1) * TOGETHER // 2))
        others = text.one_apart(p, seed=k)
        both = {name: torch.cat([value, others[name]]) for name, value in p.items()}
        captions = faces.captions(both)
        [seen], said = text.embed(clip, 2 * judge.render(both) - 1), text.embed_as(clip, captions, **options)
        same = torch.tensor([[a == b for b in captions] for a in captions])  # a caption may fit two faces
        for name, scores in zip(right, (seen @ said.T, said @ seen.T), strict=True):
            right[name].append(same[torch.arange(TOGETHER), scores.argmax(1)].float().mean().item())
    return right


@torch.inference_mode()
def order_heard(clip: CLIPModel, images: int = 256, **options: bool) -> float:
    """Share of faces whose caption fits better than the same words in another order: hat and background change colours.

    Chance is 0.5. Of the first `images` test faces those whose hat and background can change places into a face that
    training could have shown. `options`: of
    `text.embed_as`. Equal scores count as half.
    """
    data = faces.Faces("test", SIZE)
    p = data.parameters(range(images))
    said = [faces.visible(p, row) for row in range(images)]
    colours = [(a["hat_colour"], a["background"]) for a in said]
    both = set(faces.ATTRIBUTES["hat_colour"]) & set(faces.ATTRIBUTES["background"])
    exchanged = {name: value.clone() for name, value in p.items()}
    for k, (hat, background) in enumerate(colours):
        if {hat, background} <= both:
            exchanged["hat_colour"][k] = faces.value_index("hat_colour", background)
            exchanged["background"][k] = faces.value_index("background", hat)
    unseen = faces.has_unseen_pair({name: exchanged[name].numpy() for name in faces.ATTRIBUTES})  # no face of training
    rows = [k for k, pair in enumerate(colours) if set(pair) <= both and len(set(pair)) == 2 and not unseen[k]]
    own = [faces.caption(said[k]) for k in rows]
    swapped = [faces.caption(said[k] | {"hat_colour": colours[k][1], "background": colours[k][0]}) for k in rows]
    [seen] = text.embed(clip, 2 * data.images(rows) - 1)
    right, wrong = ((seen * text.embed_as(clip, c, **options)).sum(1) for c in (own, swapped))
    return ((right > wrong + 1e-5).float() + 0.5 * ((right - wrong).abs() <= 1e-5).float()).mean().item()


def caption_accuracy(images: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    """Balanced accuracy of each attribute that captions name: mean over its values of the share read as the caption says."""
    read = {name: p.argmax(1) for name, p in judge.probabilities(images).items()}
    out = {}
    for name, values in faces.ATTRIBUTES.items():
        seen = faces.visible_mask(truth, name)
        right = [(read[name] == i)[seen & (truth[name] == i)].float() for i in range(len(values))]
        out[name] = float(np.mean([part.mean().item() for part in right if len(part)]))
    return out


def sd_marks() -> list[Mark]:
    """Whether faces show what their captions say, by the judge's reader; the autoencoder's own ceiling beside it."""
    model, data = zoo.load("faces-sd"), faces.Faces("test", SIZE)
    truth = data.parameters(range(SAMPLES))
    captions = faces.captions(truth)
    drawn = {g: sample(model, range(SAMPLES), STEPS, "dpmpp_2m", prompts=captions, guidance=g) for g in GUIDANCES}
    images = drawn[STATED]
    found, accepted = caption_accuracy(images, truth), judge.accepts(images)
    passed = {name: value[accepted] for name, value in truth.items()}
    ceiling = caption_accuracy(reconstruct(model.vae, data.images(range(SAMPLES))), truth)
    chance = [1 / len(values) for values in faces.ATTRIBUTES.values()]
    mean = lambda accuracies: float(np.mean(list(accuracies.values())))
    marks = [Mark(f"caption's attributes, balanced accuracy, guidance {STATED:g}", mean(found), 0.75, goal=0.95)]
    marks += [Mark(f"  of {name}", value, 0.50, goal=0.85) for name, value in found.items()]
    marks.append(Mark("the same by chance", float(np.mean(chance))))
    marks.append(Mark("the same of the autoencoder's reconstructions", mean(ceiling)))
    if accepted.any():
        marks.append(Mark("the same of accepted images", mean(caption_accuracy(images[accepted], passed))))
    marks += composition_marks(model, mean(found))
    for guidance, several in drawn.items():
        marks.append(Mark(f"accuracy at guidance {guidance:g}", mean(caption_accuracy(several, truth))))
        marks.append(Mark(f"accepted at guidance {guidance:g}", judge.accepts(several).float().mean().item()))
    return marks


def composition_marks(model: zoo.Model, seen: float) -> list[Mark]:
    """The same of captions in which two values meet that never did in training, against `seen`, of those that did."""
    data = faces.Faces("test", SIZE, part="unseen")
    truth = data.parameters(range(SAMPLES))
    images = sample(model, range(SAMPLES), STEPS, "dpmpp_2m", prompts=faces.captions(truth), guidance=STATED)
    unseen = float(np.mean(list(caption_accuracy(images, truth).values())))
    met = pair_accuracy(images, truth)
    own = pair_accuracy(data.images(range(SAMPLES)), truth)
    return [
        Mark(f"the same of {SAMPLES} captions with unseen pairs", unseen),
        Mark("accuracy lost on unseen pairs", seen - unseen, at_least=False, goal=0.05),
        Mark("unseen pairs of which both values are shown", met),
        Mark("the same of drawn faces", own),
        Mark("accepted, captions with unseen pairs", judge.accepts(images).float().mean().item()),
    ]


def pair_accuracy(images: Tensor, truth: dict[str, Tensor]) -> float:
    """Share of the unseen pairs in captions of which the image shows both values, by the judge's reader."""
    read = {name: p.argmax(1) for name, p in judge.probabilities(images).items()}
    right = []
    for pair in faces.UNSEEN_PAIRS:
        codes = [(name, faces.value_index(name, value)) for name, value in pair]
        said = torch.stack([(truth[name] == code) & faces.visible_mask(truth, name) for name, code in codes]).all(0)
        shown = torch.stack([read[name] == code for name, code in codes]).all(0)
        right.append(shown[said])
    return torch.cat(right).float().mean().item()
