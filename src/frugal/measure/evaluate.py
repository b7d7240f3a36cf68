"""`frugal evaluate NAME`: what an embedded model must reach, measured, and written to the card beside its weights."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel

from .. import paths
from ..methods.samplers import sample
from ..models import cards, faces, recipes, text, zoo
from . import corruptions, judge, quality

SIZE, SAMPLES, STEPS = 64, 256, 25


@dataclass(frozen=True)
class Mark:
    """One measured quantity with the bound that it must keep; `bound` None: shown for comparison."""

    what: str
    value: float
    bound: float | None = None
    at_least: bool = True

    @property
    def reached(self) -> bool:
        return self.bound is None or (self.value >= self.bound if self.at_least else self.value <= self.bound)

    def __str__(self) -> str:
        wanted = "" if self.bound is None else f"{'>=' if self.at_least else '<='} {self.bound:.4g}"
        verdict = "" if self.bound is None else "reached" if self.reached else "MISSED"
        return f"{self.what:58s} {self.value:10.4g}   {wanted:12s} {verdict}"


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


def nearest_training(images: Tensor, count: int = 20_000) -> Tensor:
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


@torch.inference_mode()
def reconstruct(vae, images: Tensor) -> Tensor:
    """Encode and decode, by the mean of the posterior: float32 [n, 3, H, W] in [0, 1]."""
    parts = [vae.decode(vae.encode(2 * part - 1).latent_dist.mean).sample for part in images.split(64)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def generator_marks(name: str, accepted: float, blur: float) -> list[Mark]:
    """Marks of one generator on unfiltered samples; KID must beat test faces blurred by `blur` pixels."""
    images = sample(zoo.load(name), seeds=range(SAMPLES), steps=STEPS, sampler="dpmpp_2m")
    data = faces.Faces("test", SIZE)
    real, others = data.images(range(SAMPLES)), data.images(range(SAMPLES, 2 * SAMPLES))
    reference, read = data.parameters(range(4000)), judge.parameters(images)
    kid = lambda a: quality.kid(judge.features(a), judge.features(real)).value
    return [
        Mark("accepted by the judge", judge.accepts(images).float().mean().item(), accepted),
        Mark("largest difference of a marginal", farthest_marginal(read, reference), 0.15, at_least=False),
        Mark("the same, real against real", farthest_marginal(data.parameters(range(4000, 4000 + SAMPLES)), reference)),
        Mark(
            f"KID, below test faces blurred by {blur:g} px",
            kid(images),
            kid(corruptions.blur(others, blur)),
            at_least=False,
        ),
        Mark("KID, real against real", kid(others)),
        Mark("diversity (mean distance of pairs)", diversity(read)),
        Mark("diversity of test faces", diversity(data.parameters(range(SAMPLES)))),
        Mark("distance to the nearest training face, median", nearest_training(images).median().item()),
        Mark("the same of test faces", nearest_training(real).median().item()),
    ]


RETRIEVALS, TOGETHER = 20, 64  # random sets, faces in each
GUIDANCES, STATED = (1.0, 1.5, 2.0, 3.0, 5.0), 2.0  # swept; the one that marks are given at


def clip_marks() -> list[Mark]:
    """Captions and faces must find each other among 64, half of which differ from another in one attribute."""
    clip = CLIPModel.from_pretrained(paths.EMBEDDED / "faces-clip", dtype=torch.float32).eval()
    data, right = faces.Faces("test", SIZE), {"face finds its caption": [], "caption finds its face": []}
    for k in range(RETRIEVALS):
        p = data.parameters(range(k * TOGETHER // 2, (k + 1) * TOGETHER // 2))
        others = text.one_apart(p, seed=k)
        both = {name: torch.cat([value, others[name]]) for name, value in p.items()}
        captions = faces.captions(both)
        with torch.inference_mode():
            seen, said = text.embed(clip, 2 * judge.render(both) - 1, captions)
        same = torch.tensor([[a == b for b in captions] for a in captions])  # a caption may fit two faces
        for name, scores in zip(right, (seen @ said.T, said @ seen.T), strict=True):
            right[name].append(same[torch.arange(TOGETHER), scores.argmax(1)].float().mean().item())
    return [Mark(f"{name}, share of {RETRIEVALS} x {TOGETHER}", float(np.mean(v)), 0.95) for name, v in right.items()]


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
    marks = [Mark(f"caption's attributes, balanced accuracy, guidance {STATED:g}", mean(found), 0.75)]
    marks += [Mark(f"  of {name}", value, 0.50) for name, value in found.items()]
    marks.append(Mark("the same by chance", float(np.mean(chance))))
    marks.append(Mark("the same of the autoencoder's reconstructions", mean(ceiling)))
    if accepted.any():
        marks.append(Mark("the same of accepted images", mean(caption_accuracy(images[accepted], passed))))
    for guidance, several in drawn.items():
        marks.append(Mark(f"accuracy at guidance {guidance:g}", mean(caption_accuracy(several, truth))))
        marks.append(Mark(f"accepted at guidance {guidance:g}", judge.accepts(several).float().mean().item()))
    return marks


EVALUATIONS: dict[str, Callable[[], list[Mark]]] = {
    "judge": judge_marks,
    "faces-vae": vae_marks,
    "faces-clip": clip_marks,
    "faces-sd": sd_marks,
    "faces-ddpm": lambda: generator_marks("faces-ddpm", accepted=0.30, blur=2.0),
    "faces-ldm": lambda: generator_marks("faces-ldm", accepted=0.60, blur=1.0),
}


def evaluate(name: str) -> bool:
    """Measure and print the marks of the judge or an embedded model, write them to its card; True if all are reached.

    Raises ValueError for another name.
    """
    if name not in EVALUATIONS:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(EVALUATIONS)}")
    marks = EVALUATIONS[name]()
    print(f"{name}\n" + "\n".join(f"  {mark}" for mark in marks))
    owner = "faces-reader" if name == "judge" else name
    cards.write(owner, cards.read(owner) | {"marks": [asdict(mark) | {"reached": mark.reached} for mark in marks]})
    return all(mark.reached for mark in marks)
