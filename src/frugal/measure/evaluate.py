"""`frugal evaluate NAME`: what an embedded model must reach, measured, and written to the card beside its weights."""

import time
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial

import numpy as np
from torch import Tensor

from ..models import cards, faces, recipes
from . import corruptions, judge, quality
from .captions import clip_marks, sd_marks
from .generators import DRAFT, GENERATORS, TARGET, draft_marks, generator_marks
from .marks import SIZE, Mark, reconstruct


def accuracy(read: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Share of faces on which each attribute is read rightly, among those that show it."""
    out = {}
    for name in faces.ATTRIBUTES:
        seen = faces.visible_mask(truth, name)
        out[name] = (read[name] == truth[name])[seen].float().mean().item()
    return out


def judge_marks() -> list[Mark]:
    data = faces.Faces("test", SIZE)
    truth, images = data.parameters(range(4000)), data.images(range(4000))
    read = judge.outputs(images)
    marks = [Mark(f"reads {name}", value, 0.98) for name, value in
             accuracy({k: read[k].argmax(1) for k in faces.ATTRIBUTES}, truth).items()]  # fmt: skip
    again = judge.render(judge.parameters(images[:1000]))
    marks.append(Mark("test faces drawn again, median dB", float(np.median(quality.psnr(images[:1000], again))), 30))
    # 4000 faces: two standard errors of a 99 % share are 0.3 points
    marks.append(Mark("test faces accepted", judge.accepts(images).float().mean().item(), 0.987))
    marks.append(Mark("the threshold, computed again from validation faces", judge.calibrate()["threshold"]))
    unseen = faces.Faces("test", SIZE, part="unseen").images(range(1000))
    marks.append(Mark("faces with unseen pairs accepted", judge.accepts(unseen).float().mean().item()))
    for name, make in corruptions.corruptions().items():
        bound = 0.90 if name.endswith("swapped") else 0.95
        marks.append(Mark(f"refuses {name}", 1 - judge.accepts(make()).float().mean().item(), bound))
    return marks


def vae_marks() -> list[Mark]:
    vae, data = recipes.frozen_vae("cpu"), faces.Faces("test", SIZE)
    truth, images = data.parameters(range(1000)), data.images(range(1000))
    rebuilt = reconstruct(vae, images)
    marks = [Mark("PSNR of test faces, dB", float(quality.psnr(images, rebuilt).mean()), 31, goal=36)]
    codes = [{k: v.argmax(1) for k, v in judge.probabilities(x).items()} for x in (images, rebuilt)]
    before, after = (accuracy(read, truth) for read in codes)
    marks += [Mark(f"accuracy lost: {name}", before[name] - after[name], 0.05, at_least=False, goal=0.02) for name in before]
    return [*marks, Mark("reconstructions accepted by the judge", judge.accepts(rebuilt).float().mean().item())]


EVALUATIONS: dict[str, Callable[[], list[Mark]]] = {"judge": judge_marks, "faces-vae": vae_marks}
EVALUATIONS |= {"faces-clip": clip_marks, "faces-sd": sd_marks}
EVALUATIONS |= {name: partial(generator_marks, name, **bounds) for name, bounds in GENERATORS.items()}
EVALUATIONS |= {DRAFT: partial(draft_marks, DRAFT, **GENERATORS[TARGET])}
SAMPLED = (*GENERATORS, DRAFT)


def evaluate(name: str, samples: int | None = None) -> bool:
    """Measure and print the marks of the judge or an embedded model, write them to its card; True if all are reached.

    `samples` of a generator, 512 unless told (2,048 on a GPU); from 2,048 on with reader-FID. Raises ValueError for another
    name or fewer than 8 samples, or samples of what generates nothing.
    """
    if name not in EVALUATIONS:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(EVALUATIONS)}")
    if samples is not None and (name not in SAMPLED or not 8 <= samples <= 10_000):
        raise ValueError(f"samples: got {samples!r}, allowed are 8 to 10000, of {', '.join(SAMPLED)}")
    began = time.time()
    marks = EVALUATIONS[name](**({"samples": samples} if samples else {}))
    print(f"{name}\n" + "\n".join(f"  {mark}" for mark in marks))
    owner = "faces-reader" if name == "judge" else name
    told = [asdict(mark) | {"reached": mark.reached, "finished": mark.finished} for mark in marks]
    cards.write(owner, cards.read(owner) | {"marks": told, "evaluated_in": time.time() - began})
    return all(mark.reached for mark in marks)


def standing() -> bool:
    """Print what every embedded model reaches of its goals and bounds, from its card; True while none is missed.

    What has no marks, as after training, is measured first. A judge or data set other than the one whose threshold was
    fixed before any generator was trained counts as missed.
    """
    kept = [line for name in EVALUATIONS for line in _stands(name)]
    for said, reached in kept:
        print(said)
    fixed = judge.fixed()["hashes"]
    same = judge.hashes() == fixed
    print(f"judge and data set {'unchanged' if same else 'CHANGED'}: " + ", ".join(f"{k} {v}" for k, v in fixed.items()))
    return same and all(reached for _, reached in kept)


def _stands(name: str) -> list[tuple[str, bool]]:
    """A line for each limit of one model, and whether it is kept."""
    owner = "faces-reader" if name == "judge" else name
    if not cards.file(owner).exists():
        return [(f"{name:17s} no weights: `frugal train {owner}` makes them   MISSED", False)]
    if not all("goal" in mark for mark in cards.read(owner).get("marks", [{}])):
        evaluate(name)
    lines = []
    for entry in cards.read(owner)["marks"]:
        mark = Mark(**{field.name: entry[field.name] for field in fields(Mark)})
        limit = mark.bound if mark.goal is None else mark.goal
        if limit is not None:
            lines.append((f"{name:17s} {mark.what:58s} {mark.value:8.4g}   {mark.told(limit)}", mark.reached and mark.finished))
    return lines
