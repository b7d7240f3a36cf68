"""How attention is given fewer tokens: a method is attend, tokens, metric, Call -> output for every token.

`attend(queries, keys=None, bias=None)` attends from queries [batch, n, channels] to keys, by default to the queries
themselves, with bias [batch, keys] added to their logits. What a method computes from the metric it asks `call.choice` for,
so that later steps and layers can have the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .matching import Call, Choice, cell_size, grouped, match, merge, rows, unmerge
from .reuse import reusable

Attend = Callable[..., Tensor]
FEW, PARTS = 256, 2  # tokens that are all compared with one another; into which more are divided to be compared


def tome(attend: Attend, tokens: Tensor, metric: Tensor, call: Call) -> Tensor:
    """Attention on merged tokens ("ToMe for Stable Diffusion", Bolya and Hoffman, arXiv 2303.17604)."""
    if call.removed == 0:
        return attend(tokens)
    groups = call.choice(groups_of_similar, metric)
    return unmerge(attend(merge(tokens, groups, len(tokens))), groups, len(tokens))


def weighted(attend: Attend, tokens: Tensor, metric: Tensor, call: Call) -> Tensor:
    """As `tome`, and a merged token counts in attention as many times as it has members.

    So tokens that are merged with their likes attend and are attended to as before; `tome` counts them once. The layer's
    processor has to mind an attention mask, as those of diffusers do. Source:
    proportional attention, eq. 1 of "Token Merging: Your ViT But Faster" (Bolya et al., arXiv 2210.09461), which the
    method for diffusion leaves out. On a CPU many tokens are compared in parts, see `matching.most_similar_along`: that is
    ours, and other tokens are merged there than on a GPU.
    """
    if call.removed == 0:
        return attend(tokens)
    *groups, logs = call.choice(groups_with_sizes, metric)
    return unmerge(attend(merge(tokens, groups, len(tokens)), bias=logs), groups, len(tokens))


@reusable
def groups_of_similar(metric: Tensor, call: Call) -> Choice:
    """Groups by bipartite soft matching with random destinations."""
    slot = match(call.compared(metric), call.destinations(metric.device), call.removed)
    return grouped(call.everywhere(slot), metric.shape[1] - call.removed)


@reusable
def groups_with_sizes(metric: Tensor, call: Call) -> Choice:
    """Such groups, matched in PARTS where there are many tokens, and the logarithms of their sizes, [batch, kept]."""
    parts = PARTS if metric.shape[1] > FEW and metric.device.type == "cpu" else 1  # a GPU compares all sooner than it sorts them
    slot = match(call.compared(metric), call.destinations(metric.device), call.removed, parts)
    groups = grouped(call.everywhere(slot), metric.shape[1] - call.removed)
    _, _, starts, sizes = groups
    return [*groups, sizes.index_select(0, starts).to(metric.dtype).log().unflatten(0, (len(metric), -1))]


def prune(attend: Attend, tokens: Tensor, metric: Tensor, call: Call) -> Tensor:
    """Attention on some tokens; every other one gets a copy of the output of the token it is most like.

    The token of a cell that is most like the whole cell is a destination, and the sources most like a destination go.
    Source: SiTo (Zhang et al., AAAI 2025, doi 10.1609/aaai.v39i9.33071), without the noise that it adds to the likeness.
    """
    if call.removed == 0:
        return attend(tokens)
    slot, kept = call.choice(representatives, metric)
    chosen = rows(tokens).index_select(0, kept).unflatten(0, (len(tokens), -1))
    return unmerge(attend(chosen), [slot], len(tokens))


@reusable
def representatives(metric: Tensor, call: Call) -> Choice:
    """The place of every token, int32 [batch * tokens], and the token that stays at each place, int32 [batch * kept]."""
    metric = call.compared(metric)
    batch, count, _ = metric.shape
    destinations = central(metric, call.grid, cell_size(*call.grid, call.removed)).sort(dim=1).values
    slot = match(metric, destinations, call.removed)
    tokens = torch.arange(count, device=metric.device).expand(batch, -1)
    kept = slot.new_empty(batch, count - call.removed).scatter_(1, slot, tokens)
    kept[:, : destinations.shape[1]] = destinations
    flat = [offset(call.everywhere(slot), count - call.removed), offset(call.everywhere(kept), count)]
    return [index.flatten().int() for index in flat]


def offset(index: Tensor, each: int) -> Tensor:
    """Indices [batch, n] within an image as indices within the batch, of which an image has `each`."""
    return index + torch.arange(len(index), device=index.device)[:, None] * each


def central(metric: Tensor, grid: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """The token of every whole cell of the grid with the largest sum of cosine similarities to the cell's: int64 [batch, cells]."""
    (height, width), (down, across) = grid, cell
    tall, wide = height // down, width // across
    unit = torch.nn.functional.normalize(metric, dim=-1).unflatten(1, grid)[:, : tall * down, : wide * across]
    cells = unit.unflatten(2, (wide, across)).unflatten(1, (tall, down)).transpose(2, 3).flatten(3, 4)
    best = (cells @ cells.sum(dim=3, keepdim=True).mT).squeeze(-1).argmax(dim=-1)  # [batch, tall, wide]
    y = torch.arange(tall, device=metric.device)[:, None] * down + best // across
    x = torch.arange(wide, device=metric.device) * across + best % across
    return (y * width + x).flatten(1)


def todo(attend: Attend, tokens: Tensor, metric: Tensor, call: Call) -> Tensor:
    """Every token attends, to fewer keys and values: the removed share is theirs ("ToDo", Smith et al., arXiv 2402.13573).

    At a ratio of 0.75 these are the nearest-neighbour samples of the paper, one of each 2x2 tokens.
    """
    if call.removed == 0:
        return attend(tokens)
    [kept] = call.choice(spread, metric)
    return attend(tokens, rows(tokens).index_select(0, kept).unflatten(0, (len(tokens), -1)))


@reusable
def spread(metric: Tensor, call: Call) -> Choice:
    """Tokens spread evenly over the grid in the order of a Bayer matrix: int32 [batch * kept]."""
    height, width = call.grid
    y = torch.arange(height, device=metric.device)[:, None]
    x = torch.arange(width, device=metric.device)[None, :]
    order = torch.zeros(height, width, dtype=torch.int64, device=metric.device)
    for _ in range(max(height - 1, width - 1).bit_length()):  # the 2x2 pattern 0 2 / 3 1 of the lowest bits weighs most
        order = 4 * order + (2 * ((x ^ y) & 1) + (y & 1))
        y, x = y >> 1, x >> 1
    kept = order.flatten().argsort(stable=True)[: height * width - call.removed].sort().values
    return [offset(kept.expand(len(metric), -1), height * width).flatten().int()]


METHODS = {"tome": tome, "weighted": weighted, "prune": prune, "todo": todo}
