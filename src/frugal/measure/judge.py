"""The judge: reads a face's parameters from an image, draws the face they describe, and compares region by region.

A classifier's confidence says nothing about quality; that the very face which was read can be drawn again does. The
distance is that of the worst region, so one wrong feature counts. Threshold and scales are fixed in `judge.json`
beside the reader's weights, from validation faces alone.
"""

import ast
import functools
import hashlib
import inspect
import json
import textwrap

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from .. import paths
from ..models import drawing, faces
from ..models.reader import FacesReader
from .corruptions import blur

SIZE = 64
SOFTEN = 0.7  # pixels of blur on both sides of a comparison: what is misplaced counts, not a softness nobody sees
REGIONS = ("eyes", "mouth", "glasses", "hair", "hat", "patch", "whole")
COLOUR_REGIONS = {
    "skin_rgb": "skin",
    "hair_rgb": "hair",
    "hat_rgb": "hat",
    "background_rgb": "background",
    "shirt_rgb": "shirt",
}


def check(images: Tensor) -> Tensor:
    """The images as float32 [n, 3, 64, 64] on the CPU; ValueError for another shape, none, or values outside [0, 1]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE) or not len(images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: got {got}, allowed is a tensor [n, 3, {SIZE}, {SIZE}]")
    images = images.detach().float().cpu()
    if not (images.min() >= 0 and images.max() <= 1):  # NaN fails too
        raise ValueError(f"images: got values from {images.min():.3g} to {images.max():.3g}, allowed is [0, 1]")
    return images


@functools.cache
def reader() -> FacesReader:
    network = FacesReader.from_pretrained(paths.EMBEDDED / "faces-reader", torch_dtype=torch.float32)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def outputs(images: Tensor) -> dict[str, Tensor]:
    """Everything the reader's network says: logits of each attribute, numbers, and features [n, f]."""
    parts = [reader()(2 * part - 1) for part in check(images).split(256)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def features(images: Tensor) -> Tensor:
    """The reader's penultimate features, float32 [n, f], for KID and reader-FID."""
    return outputs(images)["features"]


def probabilities(images: Tensor) -> dict[str, Tensor]:
    """Probability of each value of each attribute: float32 [n, values]."""
    read = outputs(images)
    return {name: read[name].softmax(1) for name in faces.ATTRIBUTES}


def parameters(images: Tensor) -> dict[str, Tensor]:
    """The parameter batch that the images show, colours refined from the means of their regions."""
    images, read = check(images), outputs(images)
    p = {name: read[name].argmax(1) if name in faces.ATTRIBUTES else read[name].clamp(0, 1) if name in faces.COLOURS
         else read[name].clone() for name in read if name != "features"}  # fmt: skip
    for _ in range(2):
        drawn, masks = render(p, masks=True)
        for name, region in COLOUR_REGIONS.items():
            mask = masks[:, faces.REGIONS.index(region)].unsqueeze(1).float()
            inner = 1 - max_pool2d(1 - mask, 3, 1, 1)  # edges would mix in the neighbour
            count = inner.sum((2, 3))
            shift = ((images - drawn) * inner).sum((2, 3)) / count.clamp(min=1)
            p[name] = torch.where(count > 4, (p[name] + shift).clamp(0, 1), p[name])
    return p


@torch.inference_mode()
def render(p: dict[str, Tensor], masks: bool = False):
    """Draw a parameter batch in small pieces (quicker: they stay in cache): images [n, 3, 64, 64], with masks on request."""
    pieces = [
        faces.draw_batch({k: v[i : i + 32] for k, v in p.items()}, SIZE, masks) for i in range(0, len(p["x"]), 32)
    ]
    return tuple(map(torch.cat, zip(*pieces, strict=True))) if masks else torch.cat(pieces)


def read(images: Tensor) -> list[dict]:
    """One dict an image, as `faces.draw` takes it: attribute values ("hidden" where covered), geometry, colours."""
    return faces.to_rows(parameters(images))


def errors(images: Tensor) -> dict[str, Tensor]:
    """Root mean squared difference to the face drawn from what was read, in each region: float32 [n], 0 where it is absent.

    A region is its pixels in the drawn face and their neighbours; "patch" is the worst 8x8 window, "whole" the image.
    """
    images = check(images)
    drawn, masks = render(parameters(images), masks=True)
    squared = blur(images - drawn, SOFTEN).square().mean(1)
    out = {}
    for region in REGIONS[:5]:
        mask = max_pool2d(masks[:, faces.REGIONS.index(region)].float(), 3, 1, 1)
        out[region] = ((squared * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=9)).sqrt()
    out["patch"] = avg_pool2d(squared.unsqueeze(1), 8, 2).amax((1, 2, 3)).sqrt()
    out["whole"] = squared.mean((1, 2)).sqrt()
    return out


@functools.cache
def fixed() -> dict:
    """Scales of the regions, threshold and hashes, as fixed before any generator was trained."""
    return json.loads((paths.EMBEDDED / "faces-reader" / "judge.json").read_text())


def distance(images: Tensor) -> Tensor:
    """Distance of each image [n, 3, 64, 64] in [0, 1] from the nearest drawable face, in its worst region: float32 [n]."""
    found, scales = errors(images), fixed()["scales"]
    return torch.stack([found[region] / scales[region] for region in REGIONS]).amax(0)


def accepts(images: Tensor) -> Tensor:
    """Whether each image passes for a face, as 99 % of validation faces do: bool [n]."""
    return distance(images) <= fixed()["threshold"]


def hashes() -> dict[str, str]:
    """What marks belong to: parameters of faces of every split and the code that draws them, the reader's weights, and
    how the judge compares, its scales and its threshold.

    Pixels themselves differ in the last bit between processors; comments and layout of the code do not count.
    """
    digest = hashlib.sha256(plain(drawing))
    for split, part in faces.SPLITS:
        p = faces.Faces(split, SIZE, part).parameters(range(256))
        for name in sorted(p):
            digest.update(p[name].numpy().tobytes())
    weights = (paths.EMBEDDED / "faces-reader" / "diffusion_pytorch_model.safetensors").read_bytes()
    fixed_numbers = [SOFTEN, REGIONS, COLOUR_REGIONS, fixed()["scales"], fixed()["threshold"]]
    compared = hashlib.sha256(json.dumps(fixed_numbers).encode())
    for part in (parameters, render, errors, distance, accepts, blur):
        compared.update(plain(part))
    digests = {"faces": digest, "reader": hashlib.sha256(weights), "judge": compared}
    return {name: found.hexdigest()[:16] for name, found in digests.items()}


def plain(part) -> bytes:
    """The code of a module or function without comments and layout; what a docstring says does count."""
    return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(part)))).encode()


def calibrate(n: int = 5000) -> dict:
    """What `judge.json` holds: scales (99 % quantile of each region's error, where the region is present) and threshold from validation faces."""
    images = faces.Faces("validation", SIZE).images(range(n))
    found = errors(images)
    scales = {region: round(torch.quantile(e[e > 0], 0.99).item(), 5) for region, e in found.items()}
    worst = torch.stack([found[region] / scales[region] for region in REGIONS]).amax(0)
    threshold = round(torch.quantile(worst, 0.99).item(), 5)
    return {"validation_faces": n, "scales": scales, "threshold": threshold}
