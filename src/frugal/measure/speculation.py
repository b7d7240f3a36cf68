"""What speculative sampling saves: couplings of Gaussians, the rounds of an image, calls, rows and seconds of arms.

Calls and rows are counted by a hook on the network, image by image.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods import samplers, speculative
from ..methods.coupling import reflection_couple
from ..models import cards, zoo
from . import arms, cost, quality, records
from .arms import Arm
from .draft_distances import said
from .plan import Cell, Subject

METHOD = arms.PARTS["speculative"]
DEFAULTS = {"draft": speculative.DRAFT, "window": speculative.WINDOW, "churn": speculative.CHURN, "temperature": 1.0, "verify": speculative.VERIFY}
FEW = 30  # steps of the shorter chain
SLIDES_CHURN = 0.25  # of the slides' table: epsilon of arXiv 2501.05370
BESIDE = 20  # calls of a good solver, about as many as speculation takes
SHORTEST = 10  # steps of a chain so short that a test of laws must refuse it
LARGE = 512  # images from which a distance of distributions is shown
VARIED = {  # what is beside the default, one thing changed; published, arXiv 2501.05370: two
    "default": {}, "draft clean": {"draft": "clean"}, "draft velocity": {"draft": "velocity"}, "reflection": {"verify": "reflection"},
    "block": {"verify": "block"}, "published": {"draft": "velocity", "verify": "reflection"},
    **{f"window {size}": {"window": size} for size in (5, 10, 40)}, **{f"churn {churn:g}": {"churn": churn} for churn in (0.25, 1.0)},
}  # fmt: skip
COMPARED = (*((way, "default") for way in VARIED if way != "default"), ("block", "reflection"))
PAIRED = ["model", "way", "beside", "images", "calls", "calls_beside", "more", "low", "high", "p"]
COST_COLUMNS = ["arm", "sampler", "steps", "draft", "verify", "window", "churn", "temperature", "images", "calls", "calls_median", "calls_min", "calls_max", "rows",
                "draft_rows", "seconds", "accepted"]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How much the chapter measures by itself."""

    churns: tuple[float, ...]
    windows: tuple[int, ...]
    window: int  # where something else is varied
    lags: tuple[int, ...]  # steps since the network was asked
    pairs: int  # of samples at each distance of two Gaussians
    others: tuple[str, ...]  # models whose distances are compared with the chapter's own
    longest: int  # steps of the chain, at most


PLANS = {
    "smoke": Plan((0.25, 1.0), (3, 5), 4, (1, 2, 4), 2000, (), 8),
    "quick": Plan((0.1, 0.25, 0.5, 0.75, 1.0), (5, 10), 10, (1, 2, 4, 8, 12), 20_000, ("faces-ddpm", "faces-sd"), 100),
    "thesis": Plan((0.05, 0.1, 0.25, 0.5, 0.75, 1.0), (5, 10, 20, 40), 20, (1, 2, 4, 8, 12, 20), 100_000, ("faces-ddpm", "faces-sd"), 1000),
}


def couplings(deltas: Iterable[float], pairs: int = 20_000, dimensions: int = 8, seed: int = 0) -> pd.DataFrame:
    """How often drafts are kept whose mean lies `delta` standard deviations away: columns delta, accepted, error, law.

    error: one standard error of such a share. law: 2 Phi(-delta / 2), what no coupling exceeds.
    """
    rows = []
    for k, delta in enumerate(deltas):
        accepted = coupled(delta, pairs, dimensions, seed + k)[2].double().mean().item()
        law = 2 * torch.special.ndtr(torch.tensor(-delta / 2, dtype=torch.float64)).item()
        rows.append((delta, accepted, (law * (1 - law) / pairs) ** 0.5, law))
    return pd.DataFrame(rows, columns=["delta", "accepted", "error", "law"])


def coupled(delta: float, pairs: int, dimensions: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(drafts, samples, accepted) of unit Gaussians about 0 and, `delta` along the first axis, the target: [pairs, dimensions]."""
    generator = torch.Generator().manual_seed(seed)
    noise, uniform = torch.randn(pairs, dimensions, generator=generator), torch.rand(pairs, generator=generator)
    target = torch.zeros(pairs, dimensions)
    target[:, 0] = delta
    samples, accepted = reflection_couple(torch.zeros_like(target), target, 1.0, noise, uniform)
    return noise, samples, accepted


# One image, round by round.


def windows(subject: Subject, steps: int, seed: int = 0, *, scale: str = "quick", **options: Any) -> pd.DataFrame:
    """What became of every state the network judged on the way of one image: columns round, step, fate.

    fate of the step that begins there: kept (the draft stands), mirrored (rejected, the reflected sample stands), drawn
    (from the target itself, at a window's end), thrown away (it stood behind a rejection).
    """
    values = _rounds_cell(subject, steps, seed, options).measure(scale).values
    rows = []
    for k, (first, length, taken) in enumerate(zip(*(values[n].astype(int) for n in ("first", "rows", "committed")), strict=True)):
        rows += [(k, first + j, fate) for j, fate in enumerate(fates(length, taken))]
    return pd.DataFrame(rows, columns=["round", "step", "fate"])


def fates(rows: int, committed: int) -> list[str]:
    """Of the states of one window, rows >= committed >= 1, as in `windows`."""
    last = "drawn" if committed == rows else "mirrored"
    return ["kept"] * (committed - 1) + [last] + ["thrown away"] * (rows - committed)


def counted(subject: Subject, steps: int, seed: int = 0, *, scale: str = "quick", **options: Any) -> dict[str, int]:
    """Calls and rows of the same image, as the method tells them and as a hook on the network counts them.

    With guidance a state is two rows of the network.
    """
    values, given = _rounds_cell(subject, steps, seed, options).measure(scale).values, said(subject, steps, seed)
    rows = 2 if samplers._guided(given.get("guidance"), given.get("prompts")) else 1
    told = {"calls told": len(values["rows"]), "rows told": rows * int(values["rows"].sum())}
    return told | {f"{name} counted": int(values[f"hook_{name}"][0]) for name in ("calls", "rows")}


def _rounds_cell(subject: Subject, steps: int, seed: int, options: dict[str, Any]) -> Cell:
    asked = {"steps": steps, "seed": seed, "options": options}
    return Cell("count", "speculative-rounds", subject, asked, partial(_rounds, subject, steps, seed, options), (*METHOD, _rounds))


def _rounds(subject: Subject, steps: int, seed: int, options: dict[str, Any]) -> dict:
    with cost.count_calls(subject.model.unet) as hook:
        found = list(speculative.speculate(subject.model, [seed], steps, **said(subject, steps, seed), **options))
    values = {name: [int(getattr(r, name)[0]) for r in found] for name in ("first", "rows", "committed")}
    values |= {"hook_calls": [hook.calls], "hook_rows": [hook.rows]}
    return {name: {"unit": "count", "values": value} for name, value in values.items()}


# What an image costs.


def speculation(steps: int, **options: Any) -> Arm:
    """The arm of speculative sampling with these options, those that are the sampler's own left out: as the sweeps name it."""
    told = {name: float(value) if name in ("churn", "temperature") else value for name, value in options.items()}  # 1 goes by the name of 1.0
    return Arm.of("speculative", steps, **{name: value for name, value in told.items() if value != DEFAULTS[name]})


def chain_of(steps: int, churn: float) -> Arm:
    """The sequential chain."""
    return Arm.of("ddim", steps, eta=float(churn))


def ways(steps: int, churn: float, window: int, temperature: float, plan: Plan, draft: Subject | None = None) -> list[Arm]:
    """What the chapter compares: the sampler itself, exact and warmer; every draft replayed and as published, the default one in
    blocks; the chain, whole and shorter."""
    own = [speculation(steps, churn=churn, window=window, temperature=t) for t in (1.0, temperature)]
    varied = {"churn": churn, "window": plan.window}
    kinds = [*speculative.DRAFTS, *([draft.name] if draft else [])]
    pairs = [(kind, verify) for verify in ("replay", "reflection") for kind in kinds] + [(speculative.DRAFT, "block")]
    grid = [speculation(steps, draft=kind, verify=verify, **varied) for kind, verify in pairs]
    warm = [
        speculation(steps, draft=kind, verify=verify, temperature=temperature, **varied)
        for kind, verify in (("velocity", "reflection"), ("tweedie", "reflection"), ("tweedie", "replay"))
    ]
    narrow = [speculation(steps, churn=churn, window=size) for size in plan.windows]
    chains = [chain_of(length, churn) for length in sorted({steps, min(FEW, steps)}, reverse=True)]
    return list(dict.fromkeys([*own, *grid, *narrow, *warm, *chains]))


def over_churn(steps: int, plan: Plan) -> list[Arm]:
    """The default draft at every churn of a plan, judged as published and as here."""
    return [speculation(steps, churn=churn, window=plan.window, verify=verify) for verify in ("reflection", "replay") for churn in plan.churns]


def own_draft(name: str, device: str = "auto") -> Subject | None:
    """The network trained to be the draft of a model, where there is one with weights."""
    draft = f"{name}-draft"
    return Subject(draft, device=device) if cards.file(draft).exists() else None


def costs(subject: Subject, ways: Iterable[Arm], images: int = 2, seed: int = 0, scale: str = "quick") -> pd.DataFrame:
    """One row an arm, COST_COLUMNS, from `arms.in_turn`: calls of an image (mean, median, most), rows, seconds (median), accepted.

    accepted is nan where a model draws other things than the faces that the judge knows.
    """
    ways = list(ways)
    found = arms.in_turn(subject, ways, images, judged=subject.title["model"] in zoo.EMBEDDED, seed=seed, scale=scale)
    return pd.DataFrame([_cost_row(arm, found[found.arm == arm.label]) for arm in ways], columns=COST_COLUMNS)


def _cost_row(arm: Arm, drawn: pd.DataFrame) -> dict:
    options = DEFAULTS | dict(arm.options) if arm.sampler == "speculative" else dict(arm.options)
    row = {"arm": arm.label, "sampler": arm.sampler, "steps": arm.steps, "images": len(drawn)} | options
    row |= {"calls": drawn.calls.mean(), "calls_median": drawn.calls.median(), "calls_min": drawn.calls.min(), "calls_max": drawn.calls.max()}
    row |= {name: drawn[name].mean() if name in drawn else math.nan for name in ("rows", "draft_rows", "accepted")}
    return row | {"seconds": drawn.seconds.median()}


def varied(steps: int) -> list[Arm]:
    """The arms of VARIED."""
    return [speculation(steps, **options) for options in VARIED.values()]


def paired(subject: Subject, steps: int) -> pd.DataFrame:
    """Calls an image takes more by one way than by another (COMPARED), over the seeds that shipped records have of both.

    One row a pair that was measured, columns PAIRED: mean calls of both, their mean difference with its 95 % interval, and p of
    the test that flips the differences' signs, which holds for a few differences among many zeros as well.
    """
    names, calls, rows = {arm.label: name for name, arm in zip(VARIED, varied(steps), strict=True)}, {}, []
    for record in records.shipped_of("arm", subject.about):
        if name := names.get(record.asked["arm"]):
            calls[name] = max(calls.get(name, []), list(record.values["calls"]), key=len)
    for way, beside in COMPARED:
        if way in calls and beside in calls:
            n = min(len(calls[way]), len(calls[beside]))
            ours, theirs = np.array(calls[way][:n]), np.array(calls[beside][:n])
            more = quality.mean_interval(ours - theirs)
            rows.append((subject.title["model"], way, beside, n, ours.mean(), theirs.mean(), more.value, more.low, more.high, _flipped(ours - theirs)))
    return pd.DataFrame(rows, columns=PAIRED)


def _flipped(differences: np.ndarray) -> float:
    from scipy.stats import permutation_test

    return permutation_test((differences,), np.mean, permutation_type="samples", rng=0).pvalue


def beside(subject: Subject, found: pd.DataFrame, images: int, seed: int = 0, scale: str = "quick") -> pd.DataFrame:
    """DPM-Solver++ 2M at as many calls, and at as many seconds, as the first row of `costs` took: the same columns."""
    ours, [pace] = found.iloc[0], costs(subject, [Arm.of("dpmpp_2m", FEW)], images, seed, scale).itertuples()
    counts = ours.calls, ours.seconds / pace.seconds * pace.calls
    return costs(subject, arms.at_calls(subject, "dpmpp_2m", counts), images, seed, scale)


# The slides' table.


def slides_arms(steps: int, churn: float, draft: str | None = None) -> dict[str, Arm]:
    """The slides' columns as arms of the target: Target at three lengths, Speculative at both temperatures and with a draft network;
    and a good solver of about as many calls."""
    lengths = (steps, *(count for count in (FEW, SHORTEST) if count < steps))
    found = {f"Target ({count} steps)": chain_of(count, churn) for count in lengths}
    found |= {f"Speculative, temperature {t:g}": speculation(steps, churn=churn, temperature=t) for t in (1.0, 2.0)}
    found |= {"Speculative, temperature 1, draft network": speculation(steps, churn=churn, draft=draft)} if draft else {}
    return found | {f"DPM-Solver++ 2M ({BESIDE} steps)": Arm.of("dpmpp_2m", BESIDE)}


def slides_rows(subject: Subject, draft: Subject | None, steps: int, churn: float) -> pd.DataFrame:
    """`arms.shipped` of those arms and of the draft's own chain, LARGE images or more: configuration, then as there; nan: not measured."""
    wanted = [(name, subject, arm) for name, arm in slides_arms(steps, churn, draft and draft.name).items()]
    wanted = ([(f"Draft ({steps} steps)", draft, wanted[0][2])] if draft else []) + wanted
    shipped, rows = {one: arms.shipped(one) for one in (subject, draft) if one}, []
    for name, one, arm in wanted:
        some = shipped[one][(shipped[one].arm == arm.label) & (shipped[one].images >= LARGE)]
        rows += [row | {"configuration": name, "model": subject.title["model"]} for row in some.head(1).to_dict("records") or [{}]]
    return pd.DataFrame(rows, columns=["configuration", *arms.COLUMNS])
