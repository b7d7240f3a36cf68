"""Perturbed-attention guidance of a network without text, and its distillation: one call then gives what took two.

A copy whose self-attention looks nowhere but at each token itself makes the same mistakes, only larger. Going away from
its prediction, past the network's own, lessens them (arXiv 2403.17377); a network that is taught the result needs no
second call (as classifier-free guidance is distilled in arXiv 2210.03142).
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from diffusers.models.attention_processor import Attention, PAGIdentitySelfAttnProcessor2_0
from torch import Tensor, nn

STRONGEST = 3.0


def guided(network: nn.Module, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The guided prediction of a frozen copy: noisy [n, c, h, w], time steps [n] -> [n, c, h, w], float32.

    `scale`: 1 (none) to 3, as in classifier-free guidance; the paper's s is `scale` - 1. Raises ValueError for another,
    and for a network without self-attention, in which nothing could be perturbed.
    """
    if not 1 < scale <= STRONGEST:
        raise ValueError(f"guidance: got {scale!r}, allowed is a number above 1, at most {STRONGEST:g}")
    teacher = deepcopy(network).requires_grad_(False).eval()
    layers = [layer for layer in teacher.modules() if isinstance(layer, Attention)]
    if not layers:
        raise ValueError(f"guidance: got {scale!r} for a {type(network).__name__} without self-attention")
    for layer in layers:
        layer.set_processor(PAGIdentitySelfAttnProcessor2_0())  # perturbs the second half of a batch

    @torch.no_grad()
    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        own, perturbed = teacher(torch.cat([noisy, noisy]), torch.cat([t, t])).sample.float().chunk(2)
        return perturbed + scale * (own - perturbed)

    return predict
