"""What a mark is, and what all of them are measured on."""

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE, SAMPLES, STEPS = 64, 256, 25


@dataclass(frozen=True)
class Mark:
    """One measured quantity with the bound that it must keep; `bound` None: shown for comparison."""

    what: str
    value: float
    bound: float | None = None
    at_least: bool = True

    @property
    def reached(self) -> bool:
        return self.bound is None or (self.value >= self.bound if self.at_least else self.value <= self.bound)

    def __str__(self) -> str:
        wanted = "" if self.bound is None else f"{'>=' if self.at_least else '<='} {self.bound:.4g}"
        verdict = "" if self.bound is None else "reached" if self.reached else "MISSED"
        return f"{self.what:58s} {self.value:10.4g}   {wanted:12s} {verdict}"


@torch.inference_mode()
def reconstruct(vae, images: Tensor) -> Tensor:
    """Encode and decode, by the mean of the posterior: float32 [n, 3, H, W] in [0, 1]."""
    parts = [vae.decode(vae.encode(2 * part - 1).latent_dist.mean).sample for part in images.split(64)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
