"""Which sizes of a network's input can be run on this machine, judged before anything is run."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ..methods import merging

MOST_FLOPS = {"cpu": 5e12, "mps": 5e13, "cuda": 1e15}  # of a step: about a minute
MAPS = 64  # feature maps of the first level's width and the input's size that a step holds at once, a generous count
SCORES = 3  # copies of attention's scores that the unfused product holds at once
HALVINGS = 4


def multiple(unet: nn.Module) -> int:
    """What the sides of the network's input must be multiples of: a UNet2DConditionModel restores odd sizes itself."""
    return 1 if isinstance(unet, UNet2DConditionModel) else 2 ** (len(unet.down_blocks) - 1)


def halves(unet: nn.Module, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """`size`, then half of it and so on, rounded to what the network takes."""
    whole = 2 ** (len(unet.down_blocks) - 1)
    yield size
    for k in range(1, HALVINGS + 1):
        yield tuple(max(whole, side // 2**k // whole * whole) for side in size)


def fits(unet: nn.Module, size: tuple[int, int], batch: int, flops: float, scores: bool) -> bool:
    """Whether a step of so many FLOPs takes less than about a minute and the memory that is free."""
    quick = flops <= MOST_FLOPS.get(unet.device.type, MOST_FLOPS["cpu"])
    return quick and memory(unet, size, batch, scores) <= free(unet.device)


def memory(unet: nn.Module, size: tuple[int, int], batch: int, scores: bool) -> int:
    """Bytes that a step needs besides the weights, estimated from above; `scores`: attention holds all of them."""
    places, item = size[0] * size[1], unet.dtype.itemsize
    maps = MAPS * places * unet.config.block_out_channels[0]
    layers = merging.self_attentions(unet)
    largest = max((layer.attention.heads * (places // layer.factor**2) ** 2 for layer in layers), default=0)
    return batch * item * (maps + SCORES * largest * scores)


def free(device: torch.device) -> float:
    """Bytes that can be had on a device; infinity where nothing tells."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    try:  # what the kernel would give without swapping, more than the pages that are idle
        return 1024 * int(re.search(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)[1])
    except (OSError, TypeError):
        names = getattr(os, "sysconf_names", {})
        known = "SC_AVPHYS_PAGES" in names
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else float("inf")
