"""How the work of a network grows with the tokens of its input: FLOPs are counted, nothing is computed or timed."""

import numpy as np
from torch import nn

from . import cost

TIMES = (1, 2, 4)  # the network's own side
LINEAR = ("to_q", "to_k", "to_v", "to_out.0")  # maps of an attention layer, token by token


def work(unet: nn.Module, side: int) -> dict[str, int]:
    """FLOPs of a UNet2DModel's step on a square input: of attention's two products, of attention with its linear maps, of all."""
    counts = cost.module_flops(unet, (1, unet.config.in_channels, side, side))
    layers = [name for name, _ in cost.attention_layers(unet)]
    attention = sum(counts[name] for name in layers)
    linear = sum(counts[f"{name}.{part}"] for name in layers for part in LINEAR)
    return {"products": attention - linear, "attention": attention, "network": counts[""]}


def exponents(unet: nn.Module, times: tuple[int, ...] = TIMES) -> dict[str, float]:
    """The powers of the number of tokens with which each of `work` grows: slopes of straight lines through the logarithms."""
    sides = [unet.config.sample_size * k for k in times]
    found = [work(unet, side) for side in sides]
    tokens = 2 * np.log(sides)
    return {what: float(np.polyfit(tokens, np.log([each[what] for each in found]), 1)[0]) for what in found[0]}
