"""What is done to real faces to see whether the judge notices; the reader was trained on none of it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ..models import faces

SIZE = 64
VISIBLE = 0.15  # a swap is visible where its region changes by this root mean square at least
APART = 1.5  # pixels between the two faces' centres: a swap that fits to the pixel is itself a face, nothing to refuse
REGION_OF = {
    "skin": "skin", "hair_style": "hair", "hair_colour": "hair", "eyes": "eyes", "glasses": "glasses",
    "mouth": "mouth", "hat": "hat", "hat_colour": "hat", "background": "background",
}  # fmt: skip


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` pixels, edges replicated: [n, 3, h, w]."""
    radius = int(3 * sigma + 0.5)
    if not radius:
        return images
    kernel = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    images = conv2d(pad(images, (radius, radius, 0, 0), "replicate"), kernel, groups=3)
    return conv2d(pad(images, (0, 0, radius, radius), "replicate"), kernel.transpose(2, 3), groups=3)


def swapped(attribute: str, n: int, first: int = 0) -> Tensor:
    """Test faces whose region of one attribute shows another face's pixels, of a visibly different value: [n, 3, 64, 64].

    Visible on both faces, values differ, the region (of either face) changes by VISIBLE or more, centres lie APART.
    """
    data, region, found = faces.Faces("test", SIZE), faces.REGIONS.index(REGION_OF[attribute]), []
    for start in range(first, len(data) - 512, 512):
        p = data.parameters(range(start, start + 512))
        images, masks = faces.draw_batch(p, SIZE, masks=True)
        a, b = slice(0, 256), slice(256, 512)
        place = (masks[a, region] | masks[b, region]).unsqueeze(1)
        change = ((images[a] - images[b]).square().mean(1, keepdim=True) * place).sum((1, 2, 3)) / place.sum(
            (1, 2, 3)
        ).clamp(min=1)
        seen = faces.visible_mask(p, attribute)
        apart = torch.hypot(p["x"][a] - p["x"][b], p["y"][a] - p["y"][b]) * SIZE
        wanted = (
            seen[a] & seen[b] & (p[attribute][a] != p[attribute][b]) & (change.sqrt() >= VISIBLE) & (apart >= APART)
        )
        found.append(torch.where(place, images[b], images[a])[wanted])
        if sum(map(len, found)) >= n:
            break
    return torch.cat(found)[:n]


def halves(images: Tensor) -> Tensor:
    """Left half of each face beside the right half of the next."""
    return torch.cat([images[..., : SIZE // 2], images.roll(1, 0)[..., SIZE // 2 :]], dim=3)


def noised(images: Tensor, snr: float, generator: torch.Generator) -> Tensor:
    """x_t at signal-to-noise ratio alpha^2 / sigma^2 = snr, brought back to [0, 1]."""
    alpha, sigma = (snr / (1 + snr)) ** 0.5, (1 / (1 + snr)) ** 0.5
    noisy = alpha * (2 * images - 1) + sigma * torch.randn(images.shape, generator=generator)
    return (noisy / 2 + 0.5).clamp(0, 1)


def corruptions(n: int = 500) -> dict[str, Callable[[], Tensor]]:
    """Name -> function that makes up to n corrupted test faces [n, 3, 64, 64] in [0, 1]."""
    images = faces.Faces("test", SIZE).images(range(n))
    generator = torch.Generator().manual_seed(0)
    mean = faces.Faces("train", SIZE).images(range(2000)).mean(0)
    out = {
        "blur, sigma 2 px": lambda: blur(images, 2.0),
        "halves of two faces": lambda: halves(images),
        "upside-down": lambda: images.flip(2),
        "average face": lambda: mean.expand(8, -1, -1, -1),
        "white noise": lambda: torch.rand(images.shape, generator=generator),
        "x_t, signal-to-noise 1": lambda: noised(images, 1.0, generator),
        "x_t, signal-to-noise 0.1": lambda: noised(images, 0.1, generator),
    }
    return out | {f"{attribute} swapped": (lambda a=attribute: swapped(a, n)) for attribute in faces.ATTRIBUTES}
