"""The random numbers of each image, from its own seed and in the order of its steps, whatever else is sampled beside it."""

import torch
from torch import Tensor

from .drafts import shifted

OTHER = 0x5DEECE66  # what turns an image's seed into that of its uniform numbers


class Noise:
    """Standard normal and uniform numbers of the steps ahead of each image; the normal ones are those DDIM would draw."""

    start: Tensor  # [n, C, H, W]
    normal: Tensor  # [n, window, C, H, W]
    uniform: Tensor  # [n, window]

    def __init__(self, seeds: list[int], window: int, shape: tuple[int, ...], device: torch.device):
        self.shape, self.device = shape, device
        self.normals = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: the same on every device
        self.uniforms = [torch.Generator().manual_seed(seed ^ OTHER) for seed in seeds]
        self.start = torch.stack([self._normal(generator) for generator in self.normals])
        self.normal = torch.zeros(len(seeds), window, *shape, device=device)
        self.uniform = torch.zeros(len(seeds), window, device=device)
        self.advance(torch.arange(len(seeds), device=device), torch.full((len(seeds),), window, device=device))

    def advance(self, rows: Tensor, by: Tensor) -> None:
        """Drop the first numbers of these images, as many as they have used, and draw as many behind the others."""
        window = self.uniform.shape[1]
        normal, uniform = shifted(self.normal[rows], by), shifted(self.uniform[rows], by)
        for place, (image, count) in enumerate(zip(rows.tolist(), by.tolist(), strict=True)):
            for slot in range(window - count, window):
                normal[place, slot], uniform[place, slot] = self._normal(self.normals[image]), self._uniform(image)
        self.normal[rows], self.uniform[rows] = normal, uniform

    def fresh(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers that belong to no step, so that those of the steps stay what they were: [n, C, H, W] and [n]."""
        images = rows.tolist()
        normal = torch.stack([self._normal(self.uniforms[i]) for i in images])
        return normal, torch.stack([self._uniform(i) for i in images])

    def _normal(self, generator: torch.Generator) -> Tensor:
        return torch.randn(1, *self.shape, generator=generator)[0].to(self.device)

    def _uniform(self, image: int) -> Tensor:
        return torch.rand((), generator=self.uniforms[image]).to(self.device)
