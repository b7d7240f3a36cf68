"""Speculative sampling: the images of a many-step chain, exactly in law, from fewer calls of its network.

A cheap draft runs ahead; one batched call of the network then judges a whole window of its states, of which a prefix is
kept. Every image advances at its own pace. Source: De Bortoli et al., arXiv 2501.05370.

Beyond the paper, a window is replayed: the network has been asked at every state of it, also at those behind the first
rejection, and what it said there, at the very step and nearly the state, is the best draft of the window that follows if
that one is made with the same noise. This keeps the law exact, since a step's noise has had no part in any state before
it, nor in what the step's own draft looks at, and is used up by one test alone. The replayed windows are the sweeps of
Picard's iteration (Shih et al., arXiv 2305.16317), in which a coupling takes the place of a tolerance.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import samplers
from .chain import Chain, Predict, chain, predictor
from .coupling import check_temperature, reflection_couple
from .drafts import Draft, FrozenClean, FrozenVelocity, SmallerNetwork, Tweedie, Window, probe_gain
from .noise import Noise
from .verification import choose, judge

if TYPE_CHECKING:
    from ..models.zoo import Model

WINDOW, CHURN, DRAFT, VERIFY = 20, 0.5, "tweedie", "replay"
ROWS = 10  # at most, of the network's batches, for every step an image has taken
DRAFTS = ("velocity", "clean", "tweedie")
VERIFIERS = (
    "replay",  # reflections; what a rejection leaves is drafted again with the noise it had, from what is now known of it
    "reflection",  # arXiv 2501.05370: what a rejection leaves is forgotten
    "block",  # arXiv 2606.13426: the window judged as a whole, residuals in place of reflections
)

__all__ = ["CHURN", "DRAFT", "DRAFTS", "VERIFIERS", "VERIFY", "WINDOW", "Round", "reflection_couple", "speculate"]


@dataclass(frozen=True)
class Round:
    """One call of the target's network, and what came of it."""

    images: Tensor  # int64 [n]: which took part, by their place among the seeds
    first: Tensor  # int64 [n]: the step each stood before
    rows: Tensor  # int64 [n]: states of each that the network judged
    committed: Tensor  # int64 [n]: steps each has taken, 1 .. rows
    distances: Tensor  # float32 [n, window]: |m_p - m_q| / std of each judged draft, nan where none was
    samples: Tensor  # float32 [all, *latent_shape]: where every image stands now


def speculate(
    model: "Model",
    seeds: Iterable[int],
    steps: int = 100,
    *,
    draft: "str | Model" = DRAFT,
    window: int = WINDOW,
    churn: float = CHURN,
    temperature: float = 1.0,
    verify: str = VERIFY,
    prompts: Sequence[str] | None = None,
    guidance: float | None = None,
) -> Iterator[Round]:
    """Yields every Round, all images in one batch; the last one's samples are those of the chain's end.

    The chain has the means of DDIM at eta = churn (1e-6 to 1) on as many steps; window 1 is that sampler itself, but for
    schedulers that clip: here the noise of a step is what the clipped clean sample leaves, in draft and target alike.
    `draft` is one of DRAFTS, which cost no network call, or a smaller model of the same shape and schedule; `window`,
    from 1, is the most states of an image in a call, where ROWS a step allow it. temperature 1 is exact in law, above
    it approximate. Raises ValueError, before the first round, for anything else, for a schedule without the steps and
    for networks that learn their variance.
    """
    samplers._check_model(model)
    seeds, window = samplers._seeds(seeds), samplers._whole("window", window, 1)
    if not isinstance(verify, str) or verify not in VERIFIERS:
        raise ValueError(f"verify={verify!r} is not one of {', '.join(VERIFIERS)}")
    check_temperature(temperature)
    if verify == "block" and temperature != 1:
        raise ValueError(f"temperature={temperature!r}: allowed is 1 with verify='block'")
    target, prompts = chain(model, steps, churn), samplers._prompts(model, prompts, len(seeds))
    predict = predictor(model, prompts, guidance, target, len(seeds))
    drafting = _drafting(model, draft, prompts, guidance, target, len(seeds), verify)
    return _rounds(model, seeds, target, predict, drafting, min(window, len(target)), temperature, verify)


def _rounds(
    model: "Model", seeds: list[int], chain: Chain, predict: Predict, draft: Draft, size: int, temperature: float, verify: str
) -> Iterator[Round]:
    noise = Noise(seeds, size, model.latent_shape, model.device)
    memory, states = Window.empty(len(seeds), size, model.latent_shape, model.device), noise.start
    used = torch.zeros_like(memory.first)
    while len(live := (memory.first < len(chain)).nonzero().flatten()):
        ahead, first = memory.part(live), memory.first[live]
        rows = (ROWS * (first + 1) - used[live]).clamp(max=size).minimum(len(chain) - first)
        judged = judge(chain, predict, draft, ahead, states[live], noise.normal[live], rows)
        committed, reached, distances = choose(judged, noise, live, temperature, verify)
        states = states.index_copy(0, live, reached)
        used[live] += rows
        probe_gain(ahead, chain, committed, rows)
        ahead.advance(committed, verify == "replay")
        memory.put(live, ahead)
        noise.advance(live, torch.full_like(committed, size) if verify == "block" else committed)
        yield Round(live, first, rows, committed, distances, states)


def _drafting(
    model: "Model", draft: "str | Model", prompts: list[str] | None, guidance: float | None, chain: Chain, count: int, verify: str
) -> Draft:
    kinds = {"velocity": FrozenVelocity(chain), "clean": FrozenClean(), "tweedie": Tweedie(chain)}
    if isinstance(draft, str) and draft in kinds:
        return kinds[draft]
    allowed = f"allowed are {', '.join(DRAFTS)}, or a model as frugal.zoo.load returns"
    if not hasattr(draft, "latent_shape") or not hasattr(draft, "scheduler"):
        raise ValueError(f"draft={draft!r}: {allowed}")
    ours, theirs = (m.scheduler.alphas_cumprod.cpu() for m in (model, draft))
    if draft.latent_shape != model.latent_shape or draft.conditional != model.conditional:
        text = {True: "with text", False: "without text"}
        raise ValueError(
            f"draft: got {draft.name!r} of shape {draft.latent_shape} {text[draft.conditional]}, allowed is the target's, "
            f"{model.latent_shape} {text[model.conditional]}"
        )
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-5):
        raise ValueError(f"draft: {draft.name!r} has another noise schedule than {model.name!r}; allowed is the same one")
    return SmallerNetwork(predictor(draft, prompts, guidance, chain, count), corrected=verify == "replay")
