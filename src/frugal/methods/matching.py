"""Which tokens to merge: bipartite soft matching on a grid of tokens (Bolya and Hoffman, arXiv 2303.17604, section 4).

A cell of the grid holds one random destination, its other tokens are sources; the sources most similar to a destination
are merged into it. Nothing here knows a network: `merging` decides where merging acts, `reuse` how long a choice lasts.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .reuse import Memory

Closure = Callable[[Tensor], Tensor]
Choice = list[Tensor]  # what a method computes from the tokens, and what a later step or layer may use again
ITERATIONS = 4  # of the power method: an order is wanted, not a direction to many digits


@dataclass(frozen=True)
class Call:
    """One call of one layer: all that a method may let its choice depend on besides the tokens themselves."""

    layer: str
    grid: tuple[int, int]  # rows and columns of tokens
    removed: int  # tokens to remove
    timesteps: tuple[float, ...]  # one for the whole batch, or one an image
    seed: int
    halves: int = 1  # 2: the second half of the batch are the same images as the first, and share its choice
    memory: "Memory | None" = field(default=None, compare=False)  # of choices made before; none: every one is made anew

    def choice(self, choose: Callable[[Tensor, "Call"], Choice], metric: Tensor) -> Choice:
        """`choose(metric, self)`, or what it gave an earlier step or layer for as long as the memory holds that good."""
        return choose(metric, self) if self.memory is None else self.memory.choice(choose, metric, self)

    def compared(self, metric: Tensor) -> Tensor:
        """The metric of the images that choose for themselves: [batch / halves, tokens, channels]."""
        return metric if self.halves == 1 else metric.unflatten(0, (self.halves, -1)).mean(0)

    def everywhere(self, index: Tensor) -> Tensor:
        """What those images have chosen, for all: [batch / halves, n] -> [batch, n]."""
        return index.repeat(self.halves, 1)

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
    return torch.tensor((y * width + x).ravel())


def unchanged(tokens: Tensor) -> Tensor:
    return tokens


def bipartite_matching(metric: Tensor, destinations: Tensor, removed: int) -> tuple[Closure, Closure]:
    """Match the `removed` sources that are most similar to a destination; return the pair (merge, unmerge).

    metric       [batch, tokens, channels], compared by cosine similarity
    destinations int64 [1 or batch, cells], token indices; every other token is a source
    removed      0 to tokens - cells; 0 gives a pair of no-ops

    merge: [batch, tokens, any] -> [batch, tokens - removed, any], means; unmerge copies them back to all their tokens.
    Source: arXiv 2303.17604, section 4; the same result as `tomesd.merge.bipartite_soft_matching_random2d`.
    """
    batch, count, _ = metric.shape
    sources = count - destinations.shape[1]
    if not 0 <= removed <= sources:
        raise ValueError(f"removed: got {removed}, allowed is 0 to {sources}, the number of sources")
    if removed == 0:
        return unchanged, unchanged
    groups = grouped(match(metric, destinations, removed), count - removed)
    return partial(merge, groups=groups, batch=batch), partial(unmerge, groups=groups, batch=batch)


@torch.no_grad()
def match(metric: Tensor, destinations: Tensor, removed: int, parts: int = 1) -> Tensor:
    """The place of every token among those kept, int64 [batch, tokens]: the destinations first, then the sources left.

    `parts` above 1: a source is compared with a share of the destinations alone, see `most_similar`.
    """
    batch, count, _ = metric.shape
    cells = destinations.shape[1]
    places = torch.arange(count, device=metric.device).expand(batch, -1)
    is_destination = metric.new_zeros(len(destinations), count, dtype=torch.uint8).scatter_(1, destinations, 1)
    sources, destinations = (
        part.expand(batch, -1)
        for part in is_destination.argsort(dim=1, stable=True).split([count - cells, cells], dim=1)
    )
    metric = metric.contiguous()
    unit = metric / metric.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(metric.dtype).tiny)
    best, partner = most_similar(unit, sources, destinations) if parts == 1 else most_similar_along(unit, sources, destinations, parts)
    ranking = best.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(ranking).scatter_(1, ranking, places[:, : count - cells])
    slot = torch.empty_like(places, memory_format=torch.contiguous_format)
    slot.scatter_(1, destinations, places[:, :cells])
    return slot.scatter_(1, sources, torch.where(rank < removed, partner, rank + (cells - removed)))


def most_similar(unit: Tensor, sources: Tensor, destinations: Tensor, parts: int = 1) -> tuple[Tensor, Tensor]:
    """Of every source the cosine with the most similar destination of its part, and that one's place: both [batch, sources].

    unit [batch, tokens, channels] of length 1; sources and destinations int64 [batch, n], part by part, all of one size.
    """
    ours, theirs = (pick(unit, index).unflatten(1, (parts, -1)) for index in (sources, destinations))
    best, partner = (ours @ theirs.mT).max(dim=-1)
    first = torch.arange(parts, device=unit.device)[:, None] * theirs.shape[2]
    return best.flatten(1), (partner + first).flatten(1)


def most_similar_along(unit: Tensor, sources: Tensor, destinations: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """The same where both are divided along the direction in which the destinations differ most, into `parts` or fewer.

    Tokens that are alike lie close together along any direction, and this one tells most of them apart.
    """
    along = (unit @ principal(pick(unit, destinations))).squeeze(-1)
    ours, theirs = (along.gather(1, index).argsort(dim=1, stable=True) for index in (sources, destinations))
    parts = max(n for n in range(1, parts + 1) if math.gcd(ours.shape[1], theirs.shape[1]) % n == 0)
    best, partner = most_similar(unit, sources.gather(1, ours), destinations.gather(1, theirs), parts)
    partner = theirs.gather(1, partner)
    return tuple(torch.empty_like(found).scatter_(1, ours, found) for found in (best, partner))


def principal(vectors: Tensor) -> Tensor:
    """About the direction in which vectors [batch, n, channels] differ most, by power iteration: [batch, channels, 1]."""
    apart = vectors - vectors.mean(dim=1, keepdim=True)
    direction = apart[:, :1].mT
    for _ in range(ITERATIONS):
        direction = apart.mT @ (apart @ direction)
        direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
    return direction


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows of tokens [batch, tokens, channels] at index [batch, n] (torch.gather is many times slower)."""
    first = torch.arange(len(tokens), device=index.device)[:, None] * tokens.shape[1]
    return rows(tokens).index_select(0, (index + first).flatten()).unflatten(0, index.shape)


def rows(tokens: Tensor) -> Tensor:
    """[batch, tokens, channels] -> [batch * tokens, channels], contiguous: looking up in a transposed map is slow."""
    return tokens.contiguous().flatten(0, 1)


def grouped(slot: Tensor, kept: int) -> Choice:
    """The groups that slot [batch, tokens], places 0 to kept - 1, stands for, as the sparse rows of a matrix of means.

    int32: the place of each token among all kept ones of the batch; the tokens in the order of their places; where each
    place begins among these [batch * kept]; and for each token there the size of its group.
    """
    batch = len(slot)
    flat = (slot + torch.arange(batch, device=slot.device)[:, None] * kept).flatten()
    in_order, order = flat.sort(stable=True)
    bounds = torch.searchsorted(in_order, torch.arange(batch * kept + 1, device=slot.device))
    return [index.int() for index in (flat, order, bounds[:-1], bounds.diff()[in_order])]


def merge(tokens: Tensor, groups: Choice, batch: int) -> Tensor:
    """The mean of each group: [batch, tokens, channels] -> [batch, kept, channels]."""
    _, order, starts, sizes = groups
    # A sparse product, one bag a kept token: a deterministic pass without the atomic additions of scatter and index_add.
    # Its sum of weighted rows takes a third of the time of mode="mean".
    weights = sizes.to(tokens.dtype).reciprocal()
    means = F.embedding_bag(order, rows(tokens), starts, mode="sum", per_sample_weights=weights)
    return means.unflatten(0, (batch, -1))


def unmerge(tokens: Tensor, groups: Choice, batch: int) -> Tensor:
    """Each group's row copied to all its tokens: [batch, kept, channels] -> [batch, tokens, channels]."""
    return rows(tokens).index_select(0, groups[0]).unflatten(0, (batch, -1))
