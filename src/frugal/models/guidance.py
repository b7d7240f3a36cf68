"""Perturbed-attention guidance of a network without text, and its distillation: one call then gives what took two.

A copy whose self-attention looks nowhere but at each token itself makes the same mistakes, only larger. Going away from
its prediction, past the network's own, lessens them (arXiv 2403.17377); a network that is taught the result needs no
second call (as classifier-free guidance is distilled in arXiv 2210.03142).
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from diffusers.models.attention_processor import Attention, PAGIdentitySelfAttnProcessor2_0
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

STRONGEST = 3.0


def guided(network: nn.Module, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The guided prediction of a frozen copy: noisy [n, c, h, w], time steps [n] -> [n, c, h, w], float32.

    `scale`: 1 (none) to 3, as in classifier-free guidance; the paper's s is `scale` - 1. Raises ValueError for another,
    and for a network without self-attention, in which nothing could be perturbed.
    """
    if not 1 < scale <= STRONGEST:
        raise ValueError(f"guidance: got {scale!r}, allowed is a number above 1, at most {STRONGEST:g}")
    if not _attention(network):
        raise ValueError(f"guidance: got {scale!r} for a {type(network).__name__} without self-attention")
    both = _with_perturbed(network)

    @torch.no_grad()
    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        own, perturbed = both(noisy, t)
        return perturbed + scale * (own - perturbed)

    return predict


def unguided(network: nn.Module, plain: nn.Module, scale: float) -> Callable[[Tensor, Tensor], UNet2DOutput]:
    """The inverse of `guided`: what a network that learned a guided prediction says of the data, to be held against others.

    `plain`: a network that has not learned it, whose perturbed prediction is taken. Nearer to the data than a guided
    prediction is one that is guided less, so without this the network that learned least of it would seem the best.
    """
    both = _with_perturbed(plain)

    @torch.no_grad()
    def predict(noisy: Tensor, t: Tensor) -> UNet2DOutput:
        _, perturbed = both(noisy, t)
        return UNet2DOutput(sample=perturbed + (network(noisy, t).sample.float() - perturbed) / scale)

    return predict


def _attention(network: nn.Module) -> list[Attention]:
    return [layer for layer in network.modules() if isinstance(layer, Attention)]


def _with_perturbed(network: nn.Module) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What a frozen copy predicts, and what it predicts with perturbed attention; each [n, c, h, w], float32."""
    copy = deepcopy(network).requires_grad_(False).eval()
    for layer in _attention(copy):
        layer.set_processor(PAGIdentitySelfAttnProcessor2_0())  # perturbs the second half of a batch
    return lambda noisy, t: copy(torch.cat([noisy, noisy]), torch.cat([t, t])).sample.float().chunk(2)
