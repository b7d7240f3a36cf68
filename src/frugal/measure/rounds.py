"""What parallel sampling costs and gives: a trajectory that converges from front to back, how near the image then is to the
sequential one, and the seconds that batches foretell."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods import parallel, samplers
from . import arms, batching, cost, draws, quality, records
from .arms import Arm
from .plan import Cell, Subject

SHOWN = 6  # rounds of which a picture is decoded
STEPS = 200  # of the trajectory that the shipped records are about
NEAR = 0.01  # of a pixel in [0, 1]: two images of which nobody sees a difference
WAYS = (  # solver, method, unit of the tolerance, which is each method's own default
    ("ddim", "anderson", "signal"), ("ddim", "picard", "signal"), ("ddim", "paradigms", "step"), ("dpmpp_2m", "anderson", "signal"),
)  # fmt: skip
CLOSENESS = ["solver", "method", "unit", "images", "calls", "calls_max", "error", "near"]


@dataclass(frozen=True)
class Plan:
    """How much the chapter measures by itself."""

    steps: int
    images: int
    batches: tuple[int, ...]
    rounds: int  # of the batches


PLANS = {
    "smoke": Plan(12, 1, (1, 2, 4), 1),
    "quick": Plan(200, 1, (1, 2, 4, 8, 16, 32), 3),
    "thesis": Plan(200, 64, batching.BATCHES, 7),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Front:
    """One image's parallel trajectory beside its sequential one, round by round."""

    method: str
    errors: np.ndarray  # [rounds, steps + 1]: root mean square distance of every state after a round; nan: not reached yet
    committed: np.ndarray  # [rounds]: steps taken after it
    calls: int  # by the hook on the network
    rows: int
    shown: list[int]  # rounds, from 1, of the pictures
    steps_shown: list[int]  # the step that the last state of the window belonged to
    pictures: Tensor  # [2, shown, 3, H, W] in [0, 1]: that state, decoded; sequential and parallel


def front(subject: Subject, steps: int, *, seed: int = 0, **options: object) -> Front:
    """Watch one image of `seed` converge; options as of parallel.rounds. Raises its ValueErrors."""
    model, said = subject.model, draws.draw(subject, 1, steps, seed).options if subject.conditional else {}
    solver = options.get("solver", parallel.SOLVER)
    path = [state.sample for state in samplers.denoise(model, [seed], steps, solver, **said)]
    with cost.count_calls(model.unet) as counted:
        found = list(parallel.rounds(model, [seed], steps, **options, **said))
    truth, now, errors, ends = torch.cat(path), np.full(steps + 1, np.nan), [], []
    for done in found:
        first, rows = int(done.first), int(done.rows)
        ours = done.states[0, 1 : rows + 1]
        now[first] = 0.0 if first == 0 else now[first]
        now[first + 1 : first + rows + 1] = (ours - truth[first : first + rows]).square().flatten(1).mean(1).sqrt().cpu()
        errors.append(now.copy())
        ends.append((first + rows, ours[-1]))
    shown = np.unique(np.linspace(0, len(found) - 1, SHOWN).round().astype(int)).tolist()
    states = torch.stack([torch.stack([truth[ends[k][0] - 1] for k in shown]), torch.stack([ends[k][1] for k in shown])])
    committed = np.array([int(done.first + done.committed) for done in found])
    method = str(options.get("method", parallel.METHOD))
    return Front(method, np.stack(errors), committed, counted.calls, counted.rows, [k + 1 for k in shown], [ends[k][0] for k in shown],
                 _decoded(model, states))  # fmt: skip


def _decoded(model, states: Tensor) -> Tensor:
    with torch.no_grad():
        images = (model.decode(states.flatten(0, 1)).float() / 2 + 0.5).clamp(0, 1).cpu()
    return images.unflatten(0, states.shape[:2])


def summary(found: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Of `arms.in_turn` against one arm, one row an arm: means of calls, rows and PSNR, median seconds, the largest error, and the seconds that the batches foretell.

    predicted: every call at the price of its mean rows, from `batching.batching`; nothing but the network.
    """
    table = found.groupby("arm", sort=False).agg(
        images=("image", "size"), calls=("calls", "mean"), rows=("rows", "mean"), seconds=("seconds", "median"), error=("error", "max"), psnr=("psnr", "mean")
    ).reset_index()  # fmt: skip
    table["predicted"] = table.calls * batching.call_seconds(measured, table.rows / table.calls)
    return table


def closeness_cell(subject: Subject, images: int, seed: int = 0, steps: int = STEPS) -> Cell:
    """The record of how near the images of WAYS come to the sequential sampler's, and in how many calls; same on every machine."""
    ways = [Arm.of("parallel", steps, solver=solver, method=method, unit=unit) for solver, method, unit in WAYS]
    asked = {"arms": [way.label for way in ways], "ways": WAYS, "steps": steps, "images": images, "seed": seed}
    source = (*ways[0].source, arms.draw, _closeness)
    rows = images * steps * parallel.WINDOW / 8 * len(ways) * (2 if subject.conditional else 1)
    return Cell("quality", "parallel-closeness", subject, asked, partial(_closeness, subject, ways, range(seed, seed + images)), source, rows)


def _closeness(subject: Subject, ways: list[Arm], seeds: range) -> dict:
    found, sequential = {}, {}
    for way in ways:
        solver = dict(way.options)["solver"]
        if solver not in sequential:
            sequential[solver] = arms.draw(subject, Arm.of(solver, way.steps), seeds).images
        drawn = arms.draw(subject, way, seeds)
        found[f"{way.label}: calls"] = {"unit": "count", "values": drawn.calls}
        found[f"{way.label}: error"] = {"unit": "1", "values": (drawn.images - sequential[solver]).abs().flatten(1).amax(1)}
    return found


def closeness(subject: Subject) -> pd.DataFrame:
    """From shipped records of the very weights a model has now: a row a way, CLOSENESS; empty where there is none.

    calls: mean; error: the largest difference of a pixel in [0, 1]; near: share of images with none above NEAR.
    """
    rows = []
    for record in records.shipped_of("parallel-closeness", subject.about):
        for label, way in zip(record.asked["arms"], record.asked["ways"], strict=True):
            calls, error = (record.values[f"{label}: {name}"] for name in ("calls", "error"))
            rows.append((*way, record.asked["images"], calls.mean(), calls.max(), error.max(), (error <= NEAR).mean()))
    return pd.DataFrame(rows, columns=CLOSENESS)


def fewer(subject: Subject) -> dict[str, quality.Estimate]:
    """From the same records, of the first of WAYS and every other one of its solver: how many more calls that takes, the same seeds."""
    found = {}
    for record in records.shipped_of("parallel-closeness", subject.about):
        calls = [(way, record.values[f"{label}: calls"]) for label, way in zip(record.asked["arms"], record.asked["ways"], strict=True)]
        (solver, *_), ours = calls[0]
        found = {method: quality.mean_interval(theirs - ours) for (same, method, _), theirs in calls[1:] if same == solver}
    return found
