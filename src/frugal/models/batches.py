"""The images that networks are trained on: drawn as they are needed, each face once until they run out."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .faces import Faces, draw_batch
from .recipes import SIZE

DRAWN_AHEAD = 16  # batches a GPU draws at once: a drawing has a thousand small kernels, whatever their size


def batches(first: int, size: int, device: torch.device) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
    """Endless (images seen after it, parameters, images in [-1, 1]) from training face `first` on, each face once until they run out."""
    data, on_cpu = Faces("train", SIZE), device.type == "cpu"
    count = size if on_cpu else DRAWN_AHEAD * size
    part = 32 if on_cpu else count  # few at a time stay in a CPU's cache
    while True:
        parameters = data.parameters([k % len(data) for k in range(first, first + count)])
        parameters = {name: value.to(device) for name, value in parameters.items()}
        with torch.no_grad():
            pieces = [draw_batch({k: v[i : i + part] for k, v in parameters.items()}, SIZE) for i in range(0, count, part)]
            images = (2 * torch.cat(pieces) - 1).contiguous(memory_format=memory_format(device))
        for start in range(0, count, size):
            first, own = first + size, slice(start, start + size)
            yield first, {name: value[own] for name, value in parameters.items()}, images[own]


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last feeds a GPU's half-precision units; on a CPU its group norm costs more than its convolutions save."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
