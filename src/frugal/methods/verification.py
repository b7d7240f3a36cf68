"""One round of speculative sampling: draft a window of each image, ask the target at all its states, keep a prefix."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .chain import Chain, Predict
from .coupling import block_verify, direction, reflection_couple, residual_sample, wide
from .drafts import Draft, Window
from .noise import Noise


@dataclass(frozen=True)
class Judged:
    """A drafted window and the target's word on it: [n, k, ...], k the longest window of an image."""

    draft_means: Tensor
    target_means: Tensor
    carried: Tensor  # [n, k]: how much of a difference between two states their means keep, the clean sample being one
    std: Tensor
    coupled: Tensor  # bool: all but the last state of each window, whose step leads to no state that was judged


@torch.no_grad()
def judge(
    chain: Chain, predict: Predict, draft: Draft, ahead: Window, states: Tensor, normal: Tensor, rows: Tensor
) -> Judged:
    """Drafts from states [n, C, H, W] as many steps of each image as `rows` [n] tells, with normal [n, window, C, H, W],
    and asks the target in one call at every state a step begins from; `ahead` remembers."""
    places = torch.arange(int(rows.max()), device=rows.device)
    steps = (ahead.first[:, None] + places).clamp(max=len(chain) - 1)
    path, means, guesses = _drafted(chain, draft, ahead, states, normal, steps)
    asked, cleans = places < rows[:, None], torch.zeros_like(path)
    cleans[asked] = predict(path[asked], steps[asked], ahead.images[:, None].expand_as(steps)[asked])
    ahead.remember(asked, path, cleans, guesses)
    return Judged(means, chain.mean(steps, path, cleans), chain.state_weight[steps], chain.std[steps], places < rows[:, None] - 1)


def swept(judged: Judged) -> Tensor:
    """The target's means along the path of its own steps with the drafts' noise, [n, k, C, H, W]: a sweep of Picard's iteration.

    The clean samples stay those predicted at the drafted states, so that what is wrong is of second order.
    """
    means, offset = [], torch.zeros_like(judged.target_means[:, 0])
    for k, carried in enumerate(judged.carried.unbind(1)):
        means.append(judged.target_means[:, k] + wide(carried, offset) * offset)
        offset = means[-1] - judged.draft_means[:, k]
    return torch.stack(means, 1)


def _drafted(
    chain: Chain, draft: Draft, ahead: Window, states: Tensor, normal: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """States each step begins from, the draft's means there, and its raw guesses: [n, k, C, H, W]."""
    draft.begin(ahead)
    path, means, guesses = [], [], []
    for k, step in enumerate(steps.unbind(1)):
        clean, raw = draft.guess(k, states, step)
        path.append(states)
        means.append(chain.mean(step, states, clean))
        guesses.append(raw)
        states = means[-1] + wide(chain.std[step], states) * normal[:, k]
    return torch.stack(path, 1), torch.stack(means, 1), torch.stack(guesses, 1)


def choose(judged: Judged, noise: Noise, live: Tensor, temperature: float, verify: str) -> tuple[Tensor, Tensor, Tensor]:
    """(steps committed [n], states reached [n, C, H, W], draft-target distances [n, window]) of the images `live` [n].

    The step from a window's last state needs no draft: the target's own mean is known, and nothing was built on it.
    Above temperature 1 "replay" tests every draft against where the target's own steps have come to by then, and takes those.
    """
    if warm := temperature > 1 and verify == "replay":
        judged = replace(judged, target_means=swept(judged))
    normal, uniform = (x[live, : judged.std.shape[1]] for x in (noise.normal, noise.uniform))
    distances = torch.full((len(live), noise.uniform.shape[1]), torch.nan, device=uniform.device)
    p, q, std = (x[judged.coupled] for x in (judged.draft_means, judged.target_means, judged.std))
    unit, delta = direction(p, q, std)
    distances[:, : uniform.shape[1]][judged.coupled] = delta
    samples = judged.target_means + wide(judged.std, normal) * normal
    if verify == "block":
        log_ratio = delta * ((unit * normal[judged.coupled]).flatten(1).sum(1) - delta / 2)
        kept, weight = _blocks(judged.coupled, log_ratio, delta, uniform)
        _replace(samples, judged, kept, weight, *noise.fresh(live))
    else:
        accepted, couple = torch.zeros_like(judged.coupled), (normal[judged.coupled], uniform[judged.coupled])
        reflected, accepted[judged.coupled] = reflection_couple(p, q, std, *couple, temperature)
        if not warm:
            samples[judged.coupled] = reflected
        kept = accepted.long().cumprod(1).sum(1)
    return kept + 1, samples[torch.arange(len(live), device=kept.device), kept], distances


def _blocks(coupled: Tensor, log_ratio: Tensor, delta: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    ratios, deltas = torch.zeros_like(uniform), torch.zeros_like(uniform)
    ratios[coupled], deltas[coupled] = log_ratio, delta
    return block_verify(ratios, deltas, uniform, coupled.sum(1))


def _replace(samples: Tensor, judged: Judged, kept: Tensor, weight: Tensor, normal: Tensor, uniform: Tensor) -> None:
    """Writes the residual sample in place of the first draft that a block does not keep."""
    rows = judged.coupled[torch.arange(len(kept), device=kept.device), kept].nonzero().flatten()
    at = rows, kept[rows]
    if len(rows):
        means = judged.draft_means[at], judged.target_means[at]
        samples[at] = residual_sample(*means, judged.std[at], normal[rows], uniform[rows], weight[rows])
