"""`frugal evaluate NAME`: what an embedded model must reach, measured, and written to the card beside its weights."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..methods.samplers import sample
from ..models import cards, faces, recipes, zoo
from . import corruptions, judge, quality
from .captions import clip_marks, sd_marks
from .marks import SAMPLES, SIZE, STEPS, Mark, reconstruct

FRESH = 20_000  # first of the seeds on which nothing was chosen, such as the strength of a guidance
NEIGHBOURS = 20_000  # training faces searched for the nearest


def accuracy(read: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Share of faces on which each attribute is read rightly, among those that show it."""
    out = {}
    for name in faces.ATTRIBUTES:
        seen = faces.visible_mask(truth, name)
        out[name] = (read[name] == truth[name])[seen].float().mean().item()
    return out


def marginals(p: dict[str, Tensor]) -> dict[tuple[str, str], float]:
    """Share of the faces that visibly show each value of each attribute."""
    out = {}
    for name, values in faces.ATTRIBUTES.items():
        seen = faces.visible_mask(p, name)
        out |= {(name, value): ((p[name] == i) & seen).float().mean().item() for i, value in enumerate(values)}
    return out


def farthest_marginal(p: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Largest absolute difference of any marginal."""
    a, b = marginals(p), marginals(reference)
    return max(abs(a[key] - b[key]) for key in a)


def diversity(p: dict[str, Tensor]) -> float:
    """Mean distance of pairs of faces: share of attributes that differ plus mean difference of geometry in units of its range."""
    codes = torch.stack([torch.where(faces.visible_mask(p, name), p[name], -1) for name in faces.ATTRIBUTES], 1)
    numbers = torch.stack([(p[name] - low) / (high - low) for name, (low, high) in faces.GEOMETRY.items()], 1)
    n = len(codes)
    apart = (codes[:, None] != codes[None]).float().mean(2) + (numbers[:, None] - numbers[None]).abs().mean(2)
    return (apart.sum() / (n * (n - 1))).item()


def nearest_training(images: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """Root mean squared distance of each image to its nearest among `count` training faces: float32 [n]."""
    data, best = faces.Faces("train", SIZE), torch.full((len(images),), torch.inf)
    flat = images.flatten(1)
    for start in range(0, count, 1000):
        others = data.images(range(start, start + 1000)).flatten(1)
        best = torch.minimum(best, torch.cdist(flat, others).amin(1) / flat.shape[1] ** 0.5)
    return best


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
    marks = [Mark("PSNR of test faces, dB", float(quality.psnr(images, rebuilt).mean()), 31)]
    codes = [{k: v.argmax(1) for k, v in judge.probabilities(x).items()} for x in (images, rebuilt)]
    before, after = (accuracy(read, truth) for read in codes)
    marks += [Mark(f"accuracy lost: {name}", before[name] - after[name], 0.05, at_least=False) for name in before]
    return [*marks, Mark("reconstructions accepted by the judge", judge.accepts(rebuilt).float().mean().item())]


def generator_marks(name: str, accepted: float, blur: float, samples: int = SAMPLES) -> list[Mark]:
    """Marks of one generator on unfiltered samples; KID must beat test faces blurred by `blur` pixels."""
    images = sample(zoo.load(name), seeds=range(samples), steps=STEPS, sampler="dpmpp_2m")
    data = faces.Faces("test", SIZE)
    real, others = data.images(range(samples)), data.images(range(samples, 2 * samples))
    reference, read = data.parameters(range(4000)), judge.parameters(images)
    kid, same, blurred = (
        quality.kid(judge.features(a), judge.features(real)) for a in (images, others, corruptions.blur(others, blur))
    )
    stochastic = sample(zoo.load(name), seeds=range(samples), steps=STEPS, sampler="dpmpp_2m_sde")
    fresh = sample(zoo.load(name), seeds=range(FRESH, FRESH + samples), steps=STEPS, sampler="dpmpp_2m")
    marks = [
        Mark("accepted by the judge", judge.accepts(images).float().mean().item(), accepted),
        Mark(f"accepted, seeds from {FRESH:,} on", judge.accepts(fresh).float().mean().item()),
        Mark("accepted, sampled by the solver's stochastic form", judge.accepts(stochastic).float().mean().item()),
        Mark("largest difference of a marginal", farthest_marginal(read, reference), 0.15, at_least=False),
        Mark("the same, real against real", farthest_marginal(data.parameters(range(4000, 4000 + samples)), reference)),
        Mark(f"KID, below test faces blurred by {blur:g} px", kid.value, blurred.value, at_least=False),
        *(Mark(f"KID, {end} end of its 95 % band", value) for end, value in (("lower", kid.low), ("upper", kid.high))),
        Mark(f"KID, lower end of the band of faces blurred by {blur:g} px", blurred.low),
        Mark("KID, real against real", same.value),
        Mark("KID, real against real, upper end of its band", same.high),
        Mark("reader-IS, mean over attributes", class_score(images)),
        Mark("reader-IS of test faces", class_score(real)),
        Mark("diversity (mean distance of pairs)", diversity(read)),
        Mark("diversity of test faces", diversity(data.parameters(range(samples)))),
        Mark(f"distance to the nearest of {NEIGHBOURS:,} training faces, median", nearest_training(images).median().item()),
        Mark("the same of test faces", nearest_training(real).median().item()),
    ]
    if samples >= quality.FID_MINIMUM:
        fid = lambda a: quality.fid(judge.features(a), judge.features(real))
        marks += [Mark("reader-FID", fid(images)), Mark("reader-FID, real against real", fid(others))]
    return marks


def class_score(images: Tensor) -> float:
    """The Inception score by the reader's classes, mean over the attributes."""
    return float(np.mean([quality.class_score(p) for p in judge.probabilities(images).values()]))


GENERATORS = {"faces-ddpm": {"accepted": 0.30, "blur": 2.0}, "faces-ldm": {"accepted": 0.60, "blur": 1.0}}
EVALUATIONS: dict[str, Callable[[], list[Mark]]] = {"judge": judge_marks, "faces-vae": vae_marks}
EVALUATIONS |= {"faces-clip": clip_marks, "faces-sd": sd_marks}
EVALUATIONS |= {name: partial(generator_marks, name, **bounds) for name, bounds in GENERATORS.items()}


def evaluate(name: str, samples: int | None = None) -> bool:
    """Measure and print the marks of the judge or an embedded model, write them to its card; True if all are reached.

    `samples` of a generator, 256 unless told; from 2,048 on with reader-FID. Raises ValueError for another name or fewer
    than 8 samples, or samples of what generates nothing.
    """
    if name not in EVALUATIONS:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(EVALUATIONS)}")
    if samples is not None and (name not in GENERATORS or not 8 <= samples <= 10_000):
        raise ValueError(f"samples: got {samples!r}, allowed are 8 to 10000, of {', '.join(GENERATORS)}")
    began = time.time()
    marks = EVALUATIONS[name](**({"samples": samples} if samples else {}))
    print(f"{name}\n" + "\n".join(f"  {mark}" for mark in marks))
    owner = "faces-reader" if name == "judge" else name
    found = {"marks": [asdict(mark) | {"reached": mark.reached} for mark in marks], "evaluated_in": time.time() - began}
    cards.write(owner, cards.read(owner) | found)
    return all(mark.reached for mark in marks)
