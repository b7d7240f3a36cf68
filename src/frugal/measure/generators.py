"""Marks of the models that generate: acceptance, spread, distance from the data, and whether they copy what they saw."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..methods.samplers import sample
from ..models import cards, faces, zoo
from . import corruptions, cost, judge, quality
from .marks import SAMPLES, SIZE, STEPS, Mark, reconstruct

TARGET, DRAFT = "faces-ddpm", "faces-ddpm-draft"
GENERATORS = {"faces-ddpm": {"accepted": 0.30, "blur": 2.0}, "faces-ldm": {"accepted": 0.60, "blur": 1.0}}
BANDS = 40  # sets of real faces, from which the spread of their marginals is taken
FINE_BLUR = 0.5  # pixels
NEIGHBOURS = 20_000  # training faces searched for the nearest


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


def nearest_training(images: Tensor, count: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """Root mean squared distance of each image to its nearest among `count` training faces, and which it is: both [n]."""
    data, flat = faces.Faces("train", SIZE), images.flatten(1)
    best, which = torch.full((len(images),), torch.inf), torch.zeros(len(images), dtype=torch.long)
    for start in range(0, count, 1000):
        distance, index = torch.cdist(flat, data.images(range(start, start + 1000)).flatten(1)).min(1)
        nearer = distance < best
        best, which = torch.where(nearer, distance, best), torch.where(nearer, start + index, which)
    return best / flat.shape[1] ** 0.5, which


def generator_marks(name: str, accepted: float, blur: float, samples: int | None = None) -> list[Mark]:
    """Marks of one generator on unfiltered samples: bounds on the first 256, where KID must beat test faces blurred by
    `blur` pixels, goals on all of them."""
    samples = samples or default_samples()
    model, data, first = zoo.load(name), faces.Faces("test", SIZE), min(samples, SAMPLES)
    images = sample(model, seeds=range(samples), steps=STEPS, sampler="dpmpp_2m")
    stochastic = sample(model, seeds=range(first), steps=STEPS, sampler="dpmpp_2m_sde")
    reference, read, passed = data.parameters(range(4000)), judge.parameters(images), judge.accepts(images).float()
    begun = {key: value[:first] for key, value in read.items()}
    marks = [
        Mark("accepted by the judge", passed[:first].mean().item(), accepted),
        Mark(f"accepted, all {samples} seeds", passed.mean().item(), goal=0.97),
        Mark("accepted, sampled by the solver's stochastic form", judge.accepts(stochastic).float().mean().item()),
        Mark("largest difference of a marginal", farthest_marginal(begun, reference), 0.15, at_least=False),
        *marginal_marks(read, reference),
        *kid_marks(images[:first], blur),
        *kid_goals(images, model.vae),
        Mark("reader-IS, mean over attributes", class_score(images)),
        Mark("reader-IS of test faces", class_score(data.images(range(samples)))),
        *diversity_marks(read),
        *memory_marks(images),
    ]
    if samples >= quality.FID_MINIMUM:
        real, others = (judge.features(data.images(range(k, k + samples))) for k in (0, samples))
        marks += [Mark("reader-FID", quality.fid(judge.features(images), real))]
        marks += [Mark("reader-FID, real against real", quality.fid(others, real))]
    return marks


def default_samples() -> int:
    """2,048 where a GPU draws them, else 512."""
    return 2048 if zoo.find_device("auto").type == "cuda" else 512


def marginal_marks(read: dict[str, Tensor], reference: dict[str, Tensor]) -> list[Mark]:
    """The farthest marginal of all samples, at most 5 points beyond what equally many real faces would show."""
    n, data = len(read["x"]), faces.Faces("test", SIZE)
    sets = [data.parameters(range(start, start + n)) for start in torch.linspace(4000, len(data) - n, BANDS).long().tolist()]
    band = float(np.quantile([farthest_marginal(p, reference) for p in sets], 0.975))
    return [
        Mark(f"the same, {n} seeds", farthest_marginal(read, reference), at_least=False, goal=band + 0.05),
        Mark("the same of real faces, upper end of 95 %", band),
    ]


def kid_marks(images: Tensor, blur: float) -> list[Mark]:
    """KID against that of equally many test faces blurred by `blur` pixels, the bound, with bands."""
    n, data = len(images), faces.Faces("test", SIZE)
    real, others = data.images(range(n)), data.images(range(n, 2 * n))
    kid, same, blurred = (
        quality.kid(judge.features(a), judge.features(real)) for a in (images, others, corruptions.blur(others, blur))
    )
    return [
        Mark(f"KID, below test faces blurred by {blur:g} px", kid.value, blurred.value, at_least=False),
        *(Mark(f"KID, {end} end of its 95 % band", value) for end, value in (("lower", kid.low), ("upper", kid.high))),
        Mark(f"KID, lower end of the band of faces blurred by {blur:g} px", blurred.low),
        Mark("KID, real against real", same.value),
        Mark("KID, real against real, upper end of its band", same.high),
    ]


def kid_goals(images: Tensor, vae: torch.nn.Module | None) -> list[Mark]:
    """KID of all samples below that of test faces blurred by half a pixel; of latents' also against reconstructions."""
    n, data = len(images), faces.Faces("test", SIZE)
    real, others = data.images(range(n)), data.images(range(n, 2 * n))
    [drawn, softened] = (judge.features(a) for a in (images, corruptions.blur(others, FINE_BLUR)))
    goal = quality.kid(softened, judge.features(real)).value
    against = {"test faces": real} | ({} if vae is None else {"their reconstructions": reconstruct(vae, real)})
    return [
        Mark(f"KID of {n} against {whom}, below blur of {FINE_BLUR:g} px", quality.kid(drawn, judge.features(a)).value,
             at_least=False, goal=goal) for whom, a in against.items()
    ]  # fmt: skip


def diversity_marks(read: dict[str, Tensor]) -> list[Mark]:
    """Mean distance of pairs of samples, within 5 % of the data's."""
    own, real = diversity(read), diversity(faces.Faces("test", SIZE).parameters(range(len(read["x"]))))
    return [
        Mark("diversity (mean distance of pairs)", own),
        Mark("diversity of test faces", real),
        Mark("diversity, off the data's by", abs(own / real - 1), at_least=False, goal=0.05),
    ]


def memory_marks(images: Tensor, neighbours: int = NEIGHBOURS) -> list[Mark]:
    """Whether samples lie nearer to training faces than faces of the test set do: 5 % of those are nearer than their own
    5 % quantile, of samples no more than that and two standard errors of both shares."""
    n = len(images)
    both = torch.cat([images, faces.Faces("test", SIZE).images(range(n))])
    own, real = nearest_training(both, neighbours)[0].split(n)
    return [
        Mark(f"distance to the nearest of {neighbours:,} training faces, median", own.median().item()),
        Mark("the same of test faces", real.median().item()),
        Mark("nearer to one than 95 % of test faces are", (own < real.quantile(0.05)).float().mean().item(),
             at_least=False, goal=0.05 + 2 * (2 * 0.05 * 0.95 / n) ** 0.5),
    ]  # fmt: skip


def draft_marks(name: str, samples: int | None = None, **bounds: float) -> list[Mark]:
    """A generator's marks, and what makes it a draft: its FLOPs and its acceptance as shares of the larger network's."""
    networks = [zoo.load(n).unet for n in (name, TARGET)]
    flops = [cost.flops(network, torch.zeros(1, 3, SIZE, SIZE), 500) for network in networks]
    marks = generator_marks(name, samples=samples, **bounds)
    theirs = [m["value"] for m in cards.read(TARGET).get("marks", ()) if m["what"] == marks[0].what]
    if not theirs:
        raise ValueError(f"name: got {name!r}, which is measured against {TARGET}: `frugal evaluate {TARGET}` comes first")
    return [
        Mark(f"FLOPs, of {TARGET}'s", flops[0] / flops[1], 0.25, at_least=False),
        Mark(f"accepted, of {TARGET}'s", marks[0].value / theirs[0] if theirs[0] else float("inf"), 0.5),
        *(replace(mark, bound=None, goal=None) for mark in marks),
    ]


def class_score(images: Tensor) -> float:
    """The Inception score by the reader's classes, mean over the attributes."""
    return float(np.mean([quality.class_score(p) for p in judge.probabilities(images).values()]))
