"""How alike the tokens of an image are: patches with a near twin, and what merging patches alone loses."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods.matching import Call
from ..methods.reductions import tome
from . import quality

PHOTOGRAPHS = {  # of skimage.data: {name: (row, column, side) of the square that is taken}
    "astronaut": (0, 96, 256), "chelsea": (0, 75, 300), "coffee": (0, 100, 400), "rocket": (0, 106, 427),
}  # fmt: skip


def photograph(size: int = 64, name: str = "astronaut") -> Tensor:
    """A photograph that scikit-image ships, cut square: float32 [3, size, size] in [0, 1]; the astronaut's is a face.

    Raises ValueError for a name that is not in PHOTOGRAPHS.
    """
    import skimage.data
    from skimage.transform import resize

    if name not in PHOTOGRAPHS:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(PHOTOGRAPHS)}")
    row, column, side = PHOTOGRAPHS[name]
    square = getattr(skimage.data, name)()[row : row + side, column : column + side] / 255.0
    return torch.from_numpy(resize(square, (size, size), anti_aliasing=True)).permute(2, 0, 1).float()


def patches(image: Tensor, side: int = 4) -> Tensor:
    """An image [3, H, W] as tokens, one a patch: [H / side * W / side, 3 * side * side], row by row."""
    return torch.nn.functional.unfold(image[None], side, stride=side)[0].T


def merged_patches(image: Tensor, ratio: float, side: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image [3, H, W] cut into patches of `side` pixels that are merged as tokens: what is seen after merging, and
    the group of each patch, int64 [H / side, W / side].

    Nothing attends to anything here, so that merging alone is seen: the patches of a group show their mean.
    """
    grid = image.shape[-2] // side, image.shape[-1] // side
    tokens = patches(image, side)[None]
    call = Call("picture", grid, int(ratio * tokens.shape[1]), (0.0,), seed)

    def merged(attend):
        return tome(attend, tokens, tokens - tokens.mean(), call)

    groups = merged(lambda tokens: torch.arange(float(tokens.shape[1]))[None, :, None])
    seen = torch.nn.functional.fold(merged(lambda tokens: tokens).mT, image.shape[-2:], side, stride=side)
    return seen[0], groups.long().view(grid)


def twin_distances(image: Tensor, side: int = 4) -> np.ndarray:
    """Of each patch the root mean squared difference (1: black to white) to the patch most like it, float64 [patches]."""
    tokens = patches(image, side).double()
    apart = torch.cdist(tokens, tokens) / tokens.shape[1] ** 0.5
    return apart.fill_diagonal_(torch.inf).amin(1).numpy()


def redundancy(images: Mapping[str, Tensor], ratios: Iterable[float], side: int = 4, seed: int = 0) -> pd.DataFrame:
    """What merging patches loses: kind, image, ratio, psnr (dB); `images`: {kind: [n, 3, H, W] in [0, 1]}."""
    rows = []
    for kind, several in images.items():
        for k, image in enumerate(several):
            for ratio in ratios:
                seen, _ = merged_patches(image, ratio, side, seed)
                psnr = float(quality.psnr(seen[None].clamp(0, 1), image[None])[0])
                rows.append({"kind": kind, "image": k, "ratio": ratio, "psnr": psnr})
    return pd.DataFrame(rows, columns=["kind", "image", "ratio", "psnr"])
