"""Images in fewer bytes: JPEG and the autoencoder's latents, and which parts of a face survive."""

import io

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ..models import drawing, zoo
from . import quality

QUALITIES = (5, 10, 20, 35, 50, 75, 90, 95)
BITS = (2, 3, 4, 5, 6, 8)
REACH = 3.0  # standard deviations of the latents that are kept before rounding


def jpeg(image: Tensor, setting: int) -> tuple[Tensor, int, int]:
    """An image [3, H, W] in [0, 1] after JPEG of quality 1 to 100: the image, its bytes, and those of them that are header."""
    buffer = io.BytesIO()
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=setting, optimize=True, subsampling=0)
    stored = buffer.getvalue()
    decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(stored)))).permute(2, 0, 1).float() / 255
    return decoded, len(stored), stored.index(b"\xff\xda")  # the picture begins where the start of scan is marked


@torch.inference_mode()
def rounded(model: zoo.Model, images: Tensor, bits: int) -> tuple[Tensor, int]:
    """Images [n, 3, H, W] in [0, 1] after latents of `bits` bits a number: the images, and bytes of one of them."""
    latents = model.encode((2 * images - 1).to(model.device))
    levels = 2**bits - 1
    steps = ((latents.clamp(-REACH, REACH) + REACH) / (2 * REACH) * levels).round()
    decoded = model.decode(steps / levels * 2 * REACH - REACH).float().cpu()
    return (decoded / 2 + 0.5).clamp(0, 1), -(-latents[0].numel() * bits // 8)


def rate_distortion(model: zoo.Model, images: Tensor) -> pd.DataFrame:
    """Bytes an image against likeness: codec ("JPEG", "JPEG without header", "latents"), setting, bytes, psnr, ssim (means)."""
    rows = []
    for setting in QUALITIES:
        decoded, sizes, headers = zip(*(jpeg(image, setting) for image in images), strict=True)
        found = _alike(torch.stack(decoded), images)
        rows.append({"codec": "JPEG", "setting": setting, "bytes": np.mean(sizes)} | found)
        bare = np.mean(np.subtract(sizes, headers))
        rows.append({"codec": "JPEG without header", "setting": setting, "bytes": bare} | found)
    for bits in BITS:
        decoded, size = rounded(model, images, bits)
        rows.append({"codec": "latents", "setting": bits, "bytes": size} | _alike(decoded, images))
    return pd.DataFrame(rows)


def _alike(a: Tensor, b: Tensor) -> dict[str, float]:
    return {"psnr": float(np.mean(quality.psnr(a, b))), "ssim": float(np.mean(quality.ssim(a, b)))}


def by_region(rebuilt: Tensor, images: Tensor, masks: Tensor) -> pd.DataFrame:
    """PSNR of each region's pixels over all images that show it: region, psnr, share of the pixels.

    `masks` bool [n, len(drawing.REGIONS), H, W], as `faces.draw_batch` gives them.
    """
    squared, rows = (rebuilt - images).square().mean(1), []
    for k, region in enumerate(drawing.REGIONS):
        mask = masks[:, k]
        if mask.any():
            error = squared[mask].mean().item()
            rows.append({"region": region, "psnr": -10 * np.log10(max(error, 1e-12)), "share": mask.float().mean().item()})
    return pd.DataFrame(rows)
