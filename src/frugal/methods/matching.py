"""Which tokens to merge: bipartite soft matching on a grid of tokens (Bolya and Hoffman, arXiv 2303.17604, section 4).

A cell of the grid holds one random destination, its other tokens are sources; the sources most similar to a destination
are merged into it. Nothing here knows a network: `merging` decides where merging acts.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Closure = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Call:
    """One call of one layer: all that a method may let its choice depend on besides the tokens themselves."""

    layer: str
    grid: tuple[int, int]  # rows and columns of tokens
    removed: int  # tokens to remove
    timesteps: tuple[float, ...]  # one for the whole batch, or one an image
    seed: int

    def destinations(self, device: torch.device) -> Tensor:
        """Indices of the tokens to merge into, one a cell: int64 [1 or, where timesteps differ, batch, cells]."""
        cell = cell_size(*self.grid, self.removed)
        layer = zlib.crc32(self.layer.encode())
        drawn = {  # by the time itself, so that an image does not depend on the batch it is in or on earlier calls
            time: draw_destinations(self.grid, cell, (self.seed, layer, int(np.float64(time).view(np.uint64))))
            for time in set(self.timesteps)
        }
        return torch.stack([drawn[time] for time in self.timesteps]).to(device)


@lru_cache
def cell_size(height: int, width: int, removed: int) -> tuple[int, int]:
    """Rows and columns of the smallest cell, from 2x2 on, with which `removed` tokens of the grid are sources.

    A 2x2 cell reaches a ratio of 0.75, 2x4 0.875, 3x3 0.889, 4x4 0.9375. Raises ValueError where no cell would do.
    """
    if not 0 <= removed < height * width:
        raise ValueError(f"removed: got {removed}, allowed is 0 to {height * width - 1} of {height}x{width} tokens")
    sizes = product(range(min(2, height), height + 1), range(min(2, width), width + 1))
    enough = ((h, w) for h, w in sizes if height * width - (height // h) * (width // w) >= removed)
    return min(enough, key=lambda size: (math.prod(size), abs(size[0] - size[1]), size))


def draw_destinations(grid: tuple[int, int], cell: tuple[int, int], key: tuple[int, ...]) -> Tensor:
    """The index of one random token in every whole cell of the grid: int64 [cells], a pure function of its arguments.

    Rows and columns beyond the last whole cell hold sources only, as in tomesd. `key`: whole numbers from 0 on.
    """
    (height, width), (rows, columns) = grid, cell
    choice = np.random.default_rng(key).integers(rows * columns, size=(height // rows, width // columns))
    y = np.arange(height // rows)[:, None] * rows + choice // columns
    x = np.arange(width // columns) * columns + choice % columns
    return torch.from_numpy((y * width + x).ravel())


def unchanged(tokens: Tensor) -> Tensor:
    return tokens


@torch.no_grad()
def bipartite_matching(metric: Tensor, destinations: Tensor, removed: int) -> tuple[Closure, Closure]:
    """Match the `removed` sources that are most similar to a destination; return the pair (merge, unmerge).

    metric       [batch, tokens, channels], compared by cosine similarity
    destinations int64 [1 or batch, cells], token indices; every other token is a source
    removed      0 to tokens - cells; 0 gives a pair of no-ops

    merge: [batch, tokens, any] -> [batch, tokens - removed, any], means; unmerge copies them back to all their tokens.
    Source: arXiv 2303.17604, section 4; the same result as `tomesd.merge.bipartite_soft_matching_random2d`.
    """
    batch, count, _ = metric.shape
    cells = destinations.shape[1]
    if not 0 <= removed <= count - cells:
        raise ValueError(f"removed: got {removed}, allowed is 0 to {count - cells}, the number of sources")
    if removed == 0:
        return unchanged, unchanged
    places = torch.arange(count, device=metric.device).expand(batch, -1)
    is_destination = metric.new_zeros(len(destinations), count, dtype=torch.uint8).scatter_(1, destinations, 1)
    sources, destinations = (
        part.expand(batch, -1)
        for part in is_destination.argsort(dim=1, stable=True).split([count - cells, cells], dim=1)
    )
    metric = metric.contiguous()
    unit = metric / metric.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(metric.dtype).tiny)
    best, partner = (pick(unit, sources) @ pick(unit, destinations).mT).max(dim=-1)
    ranking = best.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(ranking).scatter_(1, ranking, places[:, : count - cells])
    # The kept tokens: the destinations first, then the sources that nothing was similar enough to.
    slot = torch.empty_like(places, memory_format=torch.contiguous_format)
    slot.scatter_(1, destinations, places[:, :cells])
    slot.scatter_(1, sources, torch.where(rank < removed, partner, rank + (cells - removed)))
    return averaging(slot, count - removed)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows of tokens [batch, tokens, channels] at index [batch, n] (torch.gather is many times slower)."""
    first = torch.arange(len(tokens), device=index.device)[:, None] * tokens.shape[1]
    return rows(tokens).index_select(0, (index + first).flatten()).unflatten(0, index.shape)


def rows(tokens: Tensor) -> Tensor:
    """[batch, tokens, channels] -> [batch * tokens, channels], contiguous: looking up in a transposed map is slow."""
    return tokens.contiguous().flatten(0, 1)


def averaging(slot: Tensor, kept: int) -> tuple[Closure, Closure]:
    """The pair (merge, unmerge) for slot [batch, tokens], the place 0 to kept - 1 that each token is averaged into."""
    batch = len(slot)
    flat = (slot + torch.arange(batch, device=slot.device)[:, None] * kept).flatten()
    in_order, order = flat.sort(stable=True)
    starts = torch.searchsorted(in_order, torch.arange(batch * kept, device=slot.device))

    def merge(tokens: Tensor) -> Tensor:
        # A bag is a kept token: one deterministic pass, without the atomic additions of scatter and index_add on a GPU.
        means = F.embedding_bag(order, rows(tokens), starts, mode="mean")
        return means.unflatten(0, (batch, kept))

    def unmerge(tokens: Tensor) -> Tensor:
        return pick(tokens, slot)

    return merge, unmerge


def tome(attend: Callable[..., Tensor], tokens: Tensor, metric: Tensor, call: Call) -> Tensor:
    """Attention on merged tokens [batch, tokens, channels] ("ToMe for Stable Diffusion", arXiv 2303.17604)."""
    merge, unmerge = bipartite_matching(metric, call.destinations(metric.device), call.removed)
    return unmerge(attend(merge(tokens)))
