"""What a mark is, and what all of them are measured on."""

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE, SAMPLES, STEPS = 64, 256, 25


@dataclass(frozen=True)
class Mark:
    """One measured quantity, the bound without which the book's figures mean little, and the goal of a finished model.

    `bound` and `goal` None: shown for comparison.
    """

    what: str
    value: float
    bound: float | None = None
    at_least: bool = True
    goal: float | None = None

    @property
    def reached(self) -> bool:
        return self._keeps(self.bound)

    @property
    def finished(self) -> bool:
        return self._keeps(self.goal)

    def _keeps(self, limit: float | None) -> bool:
        return limit is None or (self.value >= limit if self.at_least else self.value <= limit)

    def told(self, limit: float | None, kept: str = "reached", missed: str = "MISSED") -> str:
        """The limit and whether it is kept; nothing where there is none."""
        sign = ">=" if self.at_least else "<="
        return "" if limit is None else f"{sign} {limit:.4g} {kept if self._keeps(limit) else missed}"

    def __str__(self) -> str:
        goal = self.told(self.goal, "finished", "not yet")
        return f"{self.what:58s} {self.value:10.4g}   {self.told(self.bound):18s} {goal}".rstrip()


@torch.inference_mode()
def reconstruct(vae, images: Tensor) -> Tensor:
    """Encode and decode, by the mean of the posterior: float32 [n, 3, H, W] in [0, 1]."""
    parts = [vae.decode(vae.encode(2 * part - 1).latent_dist.mean).sample for part in images.split(64)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
