"""Distances of draft and target along a path of the sequential chain: what decides how many drafts are kept.

There every draft can be asked at every step for the price of one image, and all of them at the very same states.
"""

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods import samplers
from ..methods.chain import Chain, chain, predictor
from ..methods.drafts import Draft, FrozenClean, FrozenVelocity, Tweedie, Window, probe_gain
from ..methods.noise import Noise
from . import draws
from .arms import PARTS
from .plan import Cell, Subject

METHOD = PARTS["speculative"]
DRAFTS = {"velocity": FrozenVelocity, "clean": lambda walk: FrozenClean(), "tweedie": Tweedie}


def said(subject: Subject, steps: int, seed: int) -> dict:
    """Prompt and guidance of an image of a model that follows text, nothing of another: arguments of a sampler."""
    return draws.draw(subject, 1, steps, seed).options if subject.conditional else {}


def distances(
    subject: Subject, steps: int, churns: Iterable[float], lags: Iterable[int], images: int = 1, seed: int = 0, scale: str = "quick"
) -> pd.DataFrame:
    """|m_p - m_q| of each draft and step of sequential chains: columns model, churn, draft, lag, image, step, change, std, distance.

    lag: steps since the network was asked, 1 at least; the states between are those of the chain, as where all drafts
    before were kept. change is |m_p - m_q|, distance the same in units of std, the step's standard deviation.
    Raises ValueError for fewer than 4 steps, lags below 1 or without 1, and a churn outside 1e-6 to 1.
    """
    lags = tuple(lags)
    tables = []
    for churn in churns:
        for image in range(seed, seed + images):
            record = _path_cell(subject, steps, churn, lags, image).measure(scale)
            std = record.values["std"]
            for draft in DRAFTS:
                change = record.values[f"{draft}_change"].reshape(len(lags), -1)
                for lag, values in zip(lags, change, strict=True):
                    step = np.arange(lag, lag + len(values))
                    known = np.isfinite(values)
                    columns = {"lag": lag, "image": image, "step": step[known], "change": values[known], "std": std[step[known]]}
                    tables.append(pd.DataFrame({"model": subject.name, "churn": churn, "draft": draft} | columns))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(distance=table.change / table["std"])


def across(subjects: Iterable[Subject], steps: int, churn: float, lags: Iterable[int], images: int = 1, seed: int = 0, scale: str = "quick") -> pd.DataFrame:
    """Median distances at lag 1 of models whose states have so many numbers: a row a model, columns model, dimensions and DRAFTS."""
    rows = []
    for subject in subjects:
        found = distances(subject, steps, [churn], lags, images, seed, scale)
        medians = found[found.lag == 1].groupby("draft").distance.median()
        rows.append({"model": subject.name, "dimensions": math.prod(subject.model.latent_shape)} | {draft: medians[draft] for draft in DRAFTS})
    return pd.DataFrame(rows, columns=["model", "dimensions", *DRAFTS])


def gains(subject: Subject, steps: int, churn: float, lags: Iterable[int], images: int = 1, seed: int = 0, scale: str = "quick") -> pd.DataFrame:
    """By how much the clean sample moves with what a state shows beyond its expectation: columns model, image, step, velocity, tweedie.

    velocity: what freezing the network's output takes it to be, the signal's share; tweedie: as measured on the way, mean of the channels.
    """
    tables = []
    for image in range(seed, seed + images):
        values = _path_cell(subject, steps, churn, tuple(lags), image).measure(scale).values
        step = np.arange(2, 2 + len(values["gain"]))
        tables.append(pd.DataFrame({"model": subject.name, "image": image, "step": step, "velocity": values["signal"][step], "tweedie": values["gain"]}))
    return pd.concat(tables, ignore_index=True)


def _path_cell(subject: Subject, steps: int, churn: float, lags: tuple[int, ...], seed: int) -> Cell:
    if steps < 4 or 1 not in lags or min(lags) < 1:
        raise ValueError(f"steps, lags: got {steps!r}, {lags!r}; allowed are 4 steps or more, and whole numbers from 1, 1 among them")
    asked = {"steps": steps, "churn": churn, "lags": lags, "seed": seed}
    source = (*METHOD, _path, path, drafted, gain_sums)
    return Cell("quality", "speculative-distances", subject, asked, partial(_path, subject, steps, churn, lags, seed), source)


def _path(subject: Subject, steps: int, churn: float, lags: tuple[int, ...], seed: int) -> dict:
    walk = chain(subject.model, steps, churn)
    states, cleans = path(subject, walk, seed)
    found = {"std": (walk.std.cpu(), "1"), "signal": (walk.signal.cpu(), "1")}
    products, squares = gain_sums(walk, states, cleans)[2:].unbind(1)
    found["gain"] = (products / squares).mean(1).cpu(), "1"
    for name, kind in DRAFTS.items():
        apart = drafted(walk, states, cleans, kind(walk), lags)
        found[f"{name}_change"] = apart.flatten(2).norm(dim=2).cpu(), "1"
    return {name: {"unit": unit, "values": values} for name, (values, unit) in found.items()}


@torch.no_grad()
def path(subject: Subject, walk: Chain, seed: int) -> tuple[Tensor, Tensor]:
    """States that the steps of a sequential chain begin from, and the clean samples predicted there: [steps, C, H, W] each."""
    model, words = subject.model, said(subject, len(walk), seed)
    predict = predictor(model, samplers._prompts(model, words.get("prompts"), 1), words.get("guidance"), walk, 1)
    noise, image = Noise([seed], len(walk), model.latent_shape, model.device), torch.zeros(1, dtype=torch.long, device=model.device)
    state, states, cleans = noise.start, [], []
    for k in range(len(walk)):
        step = image + k
        states.append(state)
        cleans.append(predict(state, step, image))
        state = walk.mean(step, state, cleans[-1]) + walk.std[k] * noise.normal[:, k]
    return torch.cat(states), torch.cat(cleans)


@torch.no_grad()
def drafted(walk: Chain, states: Tensor, cleans: Tensor, draft: Draft, lags: tuple[int, ...]) -> Tensor:
    """m_p - m_q along a path, [lags, steps - 2, C, H, W]: windows begin at steps 1 .. steps - 2, nan past the last step that has noise."""
    first, last, longest = torch.arange(1, len(walk) - 1, device=states.device), len(walk) - 2, max(lags)
    ahead = Window.empty(len(first), longest, tuple(states.shape[1:]), states.device)
    ahead.first, ahead.gain_sums = first, gain_sums(walk, states, cleans)[first]
    ahead.states[:, 0], ahead.cleans[:, 0], ahead.known[:, 0] = states[first - 1], cleans[first - 1], True
    draft.begin(ahead)
    apart = states.new_full((len(lags), len(first), *states.shape[1:]), torch.nan)
    for lag in range(1, longest + 1):
        steps = first + lag - 1
        within, steps = steps <= last, steps.clamp(max=last)
        guess, _ = draft.guess(lag - 1, states[steps], steps)
        if lag in lags:
            means = (walk.mean(steps, states[steps], clean) for clean in (guess, cleans[steps]))
            apart[lags.index(lag), within] = next(means)[within] - next(means)[within]
    return apart


def gain_sums(walk: Chain, states: Tensor, cleans: Tensor) -> Tensor:
    """What Tweedie's draft knows of its gain before each step of a path, as `drafts.probe_gain` gathers it: [steps, 2, C]."""
    one, pair = torch.ones(1, dtype=torch.long, device=states.device), Window.empty(1, 1, tuple(states.shape[1:]), states.device)
    pair.known[:] = True
    found = [pair.gain_sums[0]] * 2
    for k in range(1, len(walk) - 1):
        pair.first, pair.states, pair.cleans = one * k, states[None, k - 1 : k + 1], cleans[None, k - 1 : k + 1]
        probe_gain(pair, walk, one, one)
        found.append(pair.gain_sums[0])
    return torch.stack(found)
