"""What merging costs in quality: similarity to the unmerged image and its decay with the ratio, and to the data set.

All that one model gives at one ratio is one record: its final images against the unmerged ones of the same seeds and against
unrelated test faces, and, for the first few, the predicted clean images step by step.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods import merging, samplers
from ..models import drawing, faces, zoo
from . import draws, quality
from .draws import Draw
from .plan import MERGING, PUBLISHED_REUSE, RATIOS, Cell, Subject
from .timing import UNSURE

BATCH = 16  # images sampled at once
PICTURED = 3  # images a ratio that figures show
COMPARING = 0.01  # seconds for PSNR and SSIM of a pair
Drawn = dict[Subject, Draw]
UNRELATED, AUTOENCODER = "unrelated test images", "autoencoder alone"


def decay_cells(
    subject: Subject, ratios: Iterable[float], draw: Draw, watched: int, method: str, reuse: int = PUBLISHED_REUSE
) -> Iterator[Cell]:
    """One cell a ratio; raises ValueError for random weights."""
    subject.require_trained("PSNR or SSIM")
    for ratio in ratios:
        asked = {"ratio": ratio, "method": method, "watched": watched, "steps": draw.steps, "seeds": draw.seeds, "reuse": reuse}
        asked |= {"sampler": draw.sampler, **draw.options}
        function = partial(_compare, subject, ratio, method, draw, watched, reuse)
        runs = 2 if ratio == 0 else 1  # the unmerged images are sampled with the first
        source = (*MERGING, samplers, zoo.Model.decode, quality.psnr, quality.ssim, _similar, _compare, _watch)
        source += (_pictures, test_faces, faces, drawing) if has_faces(subject) else (_pictures,)
        images = len(draw.seeds)
        compared = COMPARING * (2 * images + draw.steps * watched)
        yield Cell("quality", "decay", subject, asked, function, source, runs * images * draw.steps, overhead=compared)


def has_faces(subject: Subject) -> bool:
    """Whether the model was trained on the project's own faces."""
    return subject.title["model"].startswith("faces-")


@torch.no_grad()
def _watch(subject: Subject, draw: Draw, watched: int) -> tuple[Tensor, Tensor]:
    """Final images [n, 3, H, W] in [0, 1], and the first `watched` images' clean ones at every step [steps, watched, 3, H, W]."""
    model, images, trajectory = subject.model, [], []
    for first in range(0, len(draw.seeds), BATCH):
        chosen = draw.part(slice(first, first + BATCH))
        part = max(0, min(BATCH, watched - first))
        seen = []
        for state in samplers.denoise(model, chosen.seeds, chosen.steps, chosen.sampler, **chosen.options):
            if part:
                seen.append(_pictures(model, state.clean[:part]))
        images.append(_pictures(model, state.sample))
        trajectory += [torch.stack(seen)] if seen else []
    return torch.cat(images), torch.cat(trajectory, dim=1) if trajectory else torch.empty(draw.steps, 0)


def _pictures(model: zoo.Model, latents: Tensor) -> Tensor:
    return (model.decode(latents).float() / 2 + 0.5).clamp(0, 1).cpu()


_pictured: dict[tuple[Subject, float, str, Draw], Tensor] = {}
_unmerged = lru_cache(maxsize=2)(_watch)


def _compare(subject: Subject, ratio: float, method: str, draw: Draw, watched: int, reuse: int) -> dict:
    reference, path = _unmerged(subject, draw, watched)
    with merging.merge_tokens(subject.model.unet, ratio, method=method, reuse=reuse) as merged:
        images, trajectory = _watch(subject, draw, watched)
    if reuse == PUBLISHED_REUSE:
        _pictured[subject, ratio, method, draw] = images[:PICTURED]
    found = _similar("", images, reference)
    if watched:
        found |= _similar("step_", trajectory.flatten(0, 1), path.flatten(0, 1))
    if has_faces(subject):
        found |= _similar("dataset_", images, test_faces(draw.seeds, images.shape[-1]))
    layers = {row["layer"]: (row["tokens_before"], row["tokens_after"]) for row in merged.report()}
    before, after = np.sum(list(layers.values()), axis=0) if layers else (0, 0)
    tokens = {"layers": len(layers), "tokens_before": before, "tokens_after": after}
    return found | {name: {"unit": "count", "values": [value]} for name, value in tokens.items()}


def pictures(subject: Subject, ratio: float, method: str, draw: Draw) -> Tensor:
    """The first images that are compared at a ratio, [up to 3, 3, H, W]: those this process has sampled, else sampled now."""
    key = subject, ratio, method, draw
    if key not in _pictured:
        few = draw.part(slice(PICTURED))
        with merging.merge_tokens(subject.model.unet, ratio, method=method, reuse=PUBLISHED_REUSE):
            _pictured[key] = samplers.sample(subject.model, few.seeds, few.steps, few.sampler, **few.options)
    return _pictured[key]


def _similar(prefix: str, a: Tensor, b: Tensor) -> dict:
    psnr, ssim = {"unit": "dB", "values": quality.psnr(a, b)}, {"unit": "1", "values": quality.ssim(a, b)}
    return {f"{prefix}psnr": psnr, f"{prefix}ssim": ssim}


def test_faces(indices: Iterable[int], size: int = 64) -> Tensor:
    """Faces of the test range, [n, 3, size, size] in [0, 1]: they have nothing to do with the seeds of the same numbers.

    Beyond the end of the range they begin again.
    """
    data = faces.Faces("test", size=size)
    return data.images([k % len(data) for k in indices])


test_faces.__test__ = False  # its name is not a test's


def _measured(drawn: Drawn, ratios, watched, method, scale, reuse=PUBLISHED_REUSE):
    for subject, draw in drawn.items():
        for cell in decay_cells(subject, ratios, draw, watched, method, reuse):
            yield subject, cell, cell.measure(scale).values


def drawn(models, images=16, steps=25, seed=0, *, prompts=None, guidance=None, device="auto") -> Drawn:
    """What the tables below are measured on: {Subject: Draw}, from names, pairs (name, weights) or loaded models."""
    subjects = [Subject.of(item, device) for item in models]
    for subject in subjects:
        subject.require_trained("PSNR or SSIM")
    asked = {"prompts": prompts, "guidance": guidance}
    return {s: draws.draw(s, images, steps, seed, **(asked if s.conditional else {})) for s in subjects}


def quality_decay(
    drawn: Drawn, ratios=RATIOS, *, watched=4, method="tome", scale="quick", reuse: int = PUBLISHED_REUSE
) -> pd.DataFrame:  # fmt: skip
    """PSNR (dB) and SSIM of merged images to the unmerged ones of the same seeds, infinite and 1 where identical.

    `reuse` as for merge_tokens; 1, as published, matches anew at every step. Columns model, weights, ratio, image (its seed), psnr, ssim, layers, tokens_before, tokens_after (of a step, over the
    layers touched: none at ratio 0). Raises ValueError for random weights.
    """
    rows = []
    for subject, cell, found in _measured(drawn, ratios, watched, method, scale, reuse):
        counts = {name: int(found[name][0]) for name in ("layers", "tokens_before", "tokens_after")}
        for image, psnr, ssim in zip(cell.asked["seeds"], found["psnr"], found["ssim"], strict=True):
            rows.append(
                subject.title | {"ratio": cell.asked["ratio"], "image": image, "psnr": psnr, "ssim": ssim} | counts
            )
    columns = ["model", "weights", "ratio", "image", "psnr", "ssim", "layers", "tokens_before", "tokens_after"]
    return pd.DataFrame(rows, columns=columns)


def trajectories(drawn: Drawn, ratios=RATIOS, *, watched=4, method="tome", scale="quick") -> pd.DataFrame:
    """PSNR and SSIM between the merged and the unmerged run's predicted clean image, decoded, at every step.

    Of the first `watched` images of `quality_decay`, whose records it shares: model, weights, ratio, step, image, psnr, ssim.
    """
    rows = []
    for subject, cell, found in _measured(drawn, ratios, watched, method, scale):
        seeds = cell.asked["seeds"][:watched]
        places = [(step, image) for step in range(cell.asked["steps"]) for image in seeds]
        for (step, image), psnr, ssim in zip(places, found["step_psnr"], found["step_ssim"], strict=True):
            where = {"ratio": cell.asked["ratio"], "step": step, "image": image}
            rows.append(subject.title | where | {"psnr": psnr, "ssim": ssim})
    return pd.DataFrame(rows, columns=["model", "weights", "ratio", "step", "image", "psnr", "ssim"])


def baseline_cells(subject: Subject | None, images: int, seed: int) -> Iterator[Cell]:
    """The data set against itself (no subject), or against its reconstruction by a latent model's autoencoder."""
    asked = {"images": list(range(seed, seed + images))}
    if subject is None:
        subject, function = _DATA, partial(_unrelated, images, seed)
    else:
        function = partial(_reconstructed, subject, images, seed)
    source = (
        faces,
        drawing,
        _similar,
        test_faces,
        _unrelated,
        _reconstructed,
        zoo.Model.decode,
        zoo.Model.encode,
        quality.psnr,
        quality.ssim,
    )
    yield Cell("quality", "baseline", subject, asked, function, source, overhead=2 * COMPARING * images)


class _Data(Subject):
    """The data set in the place of a model."""

    @property
    def about(self) -> dict:
        return {"name": "faces"}

    @property
    def dtype(self) -> str:
        return "float32"


_DATA = _Data("faces", device="cpu")


def _unrelated(images: int, seed: int) -> dict:
    return _similar("", test_faces(range(seed, seed + images)), test_faces(range(seed + images, seed + 2 * images)))


def _reconstructed(subject: Subject, images: int, seed: int) -> dict:
    originals = test_faces(range(seed, seed + images), subject.model.image_size)
    latents = subject.model.encode((2 * originals - 1).to(subject.model.device))
    return _similar("", _pictures(subject.model, latents), originals)


def dataset_baselines(drawn: Drawn, ratios=RATIOS, *, watched=4, method="tome", scale="quick") -> pd.DataFrame:
    """PSNR and SSIM to unrelated test faces, the thesis's section 5.2, and what they are without any model.

    Columns model_or_baseline, ratio, image, psnr, ssim: each model's images at every ratio, image k against face k (the
    records of `quality_decay`); then, ratio nan, "unrelated test images" against each other and "autoencoder alone", test
    faces against their own reconstruction. Models of other data have no rows, nor have those that a caption tells of face k.
    """
    drawn = {s: draw for s, draw in drawn.items() if has_faces(s) and not s.conditional}
    rows = []

    def add(name, ratio, indices, psnr, ssim):
        where = {"model_or_baseline": name, "ratio": ratio}
        pairs = zip(indices, psnr, ssim, strict=True)
        rows.extend(where | {"image": image, "psnr": p, "ssim": s} for image, p, s in pairs)

    for subject, cell, found in _measured(drawn, ratios, watched, method, scale):
        ratio = cell.asked["ratio"]
        add(subject.about["name"], ratio, cell.asked["seeds"], found["dataset_psnr"], found["dataset_ssim"])
    alone = [subject for subject in drawn if subject.latent][:1]
    images, seed = next(((len(draw.seeds), draw.seeds[0]) for draw in drawn.values()), (0, 0))
    for name, subject in ([(UNRELATED, None)] if drawn else []) + [(AUTOENCODER, subject) for subject in alone]:
        for cell in baseline_cells(subject, images, seed):
            found = cell.measure(scale).values
            add(name, np.nan, cell.asked["images"], found["psnr"], found["ssim"])
    return pd.DataFrame(rows, columns=["model_or_baseline", "ratio", "image", "psnr", "ssim"])


def dataset_changes(baselines: pd.DataFrame) -> pd.DataFrame:
    """What the comparison with the data set can detect: mean change against the same image at ratio 0, with its interval.

    Columns model, ratio, quantity ("psnr" or "ssim"), change, low, high, verdict ("not distinguishable from zero", "lower"
    or "higher").
    """
    rows = []
    of_models = baselines[baselines.ratio.notna()].rename(columns={"model_or_baseline": "model"})
    for model, group in of_models.groupby("model", sort=False):
        for quantity in ("psnr", "ssim"):
            table = group.pivot(index="image", columns="ratio", values=quantity)
            for ratio in table.columns[table.columns > 0]:
                found = quality.mean_interval(table[ratio] - table[0.0])
                sure = found.low > 0 or found.high < 0
                verdict = ("higher" if found.value > 0 else "lower") if sure else UNSURE
                row = {"model": model, "ratio": ratio, "quantity": quantity, "change": found.value}
                rows.append(row | {"low": found.low, "high": found.high, "verdict": verdict})
    return pd.DataFrame(rows, columns=["model", "ratio", "quantity", "change", "low", "high", "verdict"])
