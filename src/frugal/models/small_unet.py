"""A U-Net small enough to read: what chapter 2 builds, trains for a moment and takes apart."""

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions around the time embedding, and a shortcut past them."""

    def __init__(self, entering: int, leaving: int, time: int):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, entering), nn.SiLU(), nn.Conv2d(entering, leaving, 3, padding=1))
        self.second = nn.Sequential(nn.GroupNorm(8, leaving), nn.SiLU(), nn.Conv2d(leaving, leaving, 3, padding=1))
        self.time = nn.Linear(time, leaving)
        self.shortcut = nn.Conv2d(entering, leaving, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.first(x) + self.time(time)[:, :, None, None]
        return self.shortcut(x) + self.second(hidden)


class SmallUNet(nn.Module):
    """Noisy images [n, channels, H, W] and times [n] -> a prediction of the same shape; H and W divisible by 4.

    `skips`: whether the way up sees what the way down saw at the same resolution (arXiv 1505.04597).
    """

    def __init__(self, channels: int = 3, widths: tuple[int, ...] = (32, 48, 64), skips: bool = True):
        super().__init__()
        self.widths, self.skips = widths, skips
        time = 4 * widths[0]
        self.embed = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Block(a, b, time) for a, b in zip((widths[0], *widths[:-1]), widths, strict=True))
        self.middle = Block(widths[-1], widths[-1], time)
        self.up = nn.ModuleList(
            Block(b * (2 if skips else 1), a, time) for a, b in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        self.leave = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.embed(get_timestep_embedding(t, self.widths[0]).to(x))
        x, seen = self.enter(x), []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.avg_pool2d(x, 2), time)  # half the side: twice the field
            seen.append(x)
        x = self.middle(x, time)
        for level, block in reversed(list(enumerate(self.up))):
            x = block(torch.cat([x, seen[level]], dim=1) if self.skips else x, time)
            x = nn.functional.interpolate(x, scale_factor=2, mode="nearest") if level else x
        return self.leave(x)
