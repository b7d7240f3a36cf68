"""`frugal bench prediction`: what `predict_speedup` says of held-out points, against the merged network itself.

The points were committed before any of them was measured. This is the only place where whole networks run merged to
judge the prediction. Error: of the share of a step's time that merging saves.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..models import zoo
from . import alone, capacity, cost, layertimes, predict, records
from .backends import attending
from .plan import MERGING
from .timing import label

HELD_OUT = Path(__file__).with_name("held_out.json")
OPTIONS = {"reuse": 1}  # every step and layer matches anew: one step tells all, and most that can be misjudged is in it
ROUNDS = 3
AT_MOST = 0.5  # of the median error of either naive predictor
PREDICTORS = {"predicted": "prediction", "unchanged": "no change", "flops": "FLOPs alone"}


@dataclass(frozen=True)
class Point:
    """Shares of a step's time saved: measured with its interval, predicted, and by what FLOPs alone promise."""

    resolution: int
    backend: str
    ratio: float
    measured: float
    low: float
    high: float
    predicted: float
    flops: float
    bound: float
    unchanged: float = 0.0

    def __str__(self) -> str:
        measured = f"measured {self.measured:+6.1%} ({self.low:+.1%} to {self.high:+.1%})"
        return (
            f"{self.resolution} px {self.backend:5} ratio {self.ratio:.2f}: {measured}, "
            f"predicted {self.predicted:+6.1%}, no change +0.0%, FLOPs alone {self.flops:+6.1%}, bound {self.bound:6.1%}"
        )


def prediction(
    rounds: int = ROUNDS, held_out: dict | None = None, model: zoo.Model | None = None, scale: str = "quick"
) -> str:
    """Score the prediction, printing every point as it is measured; the last words say whether its target is met.

    `rounds`: of interleaved steps, 3 or more. Stored records are not measured again.
    """
    held_out = held_out or json.loads(HELD_OUT.read_text())
    model = model or zoo.load(held_out["model"], weights="random")
    found = []
    for point in measured_points(model, held_out, rounds, scale):
        print(point, flush=True)
        found.append(point)
    keep(model, held_out, found, scale)
    return verdict(found)


def measured_points(model: zoo.Model, held_out: dict, rounds: int, scale: str) -> Iterator[Point]:
    """Every held-out point, those of one resolution and backend timed in one go against the same untouched steps."""
    groups: dict[tuple, list[float]] = {}
    for point in held_out["points"]:
        groups.setdefault((point["resolution"], point["backend"]), []).append(point["ratio"])
    for (resolution, backend), ratios in groups.items():
        ask = {"resolution": resolution, "backend": backend, "batch": held_out["batch"], "scale": scale} | OPTIONS
        said = [predict.predict_speedup(model, held_out["method"], ratio, **ask) for ratio in ratios]
        seconds = step_seconds(model, held_out["method"], ratios, rounds, ask)
        for ratio, guess in zip(ratios, said, strict=True):
            change = cost.paired_interval(seconds[label(0)], seconds[label(ratio)])
            yield Point(
                resolution, backend, ratio, -change.value, -change.high, -change.low, guess.saved,
                1 - 1 / guess.flops_speedup, 1 - 1 / guess.bound,
            )  # fmt: skip


def step_seconds(model: zoo.Model, method: str, ratios: list[float], rounds: int, ask: dict) -> dict[str, np.ndarray]:
    """Seconds of a step of the whole network, untouched and merged at each ratio in turn, one value a round."""
    question = layertimes.question(model, method, max(ratios), **ask)
    source = (_step_seconds, *MERGING, cost.interleaved)
    asked = {"method": method, "ratios": ratios, "rounds": rounds, "backend": question.backend}
    function = partial(_step_seconds, ratios=ratios, rounds=rounds)
    return question.measure("time", "prediction-held-out", function, source, **asked)


@torch.inference_mode()
def _step_seconds(question: layertimes.Question, ratios: list[float], rounds: int) -> dict:
    arguments, options = question.input()
    step, names = partial(question.unet, *arguments, **options), {label(ratio): ratio for ratio in (0.0, *ratios)}
    contexts = {name: question.at(ratio).merge for name, ratio in names.items()}
    with attending(question.backend):
        seconds = cost.interleaved(dict.fromkeys(names, step), rounds, 1, question.device, contexts)
    return {name: {"unit": "s", "values": values} for name, values in seconds.items()}


def keep(model: zoo.Model, held_out: dict, points: list[Point], scale: str) -> records.Record:
    """The record of a scoring: shares of time saved, in the order of the points."""
    columns = {name: [asdict(point)[name] for point in points] for name in ("measured", "low", "high", *PREDICTORS)}
    source = (predict, layertimes, alone, capacity, *MERGING)
    about = {"name": model.name, "weights": "any", "weights_hash": None, "revision": None}
    found = {name: {"unit": "1", "values": values} for name, values in columns.items()}
    return records.measure(
        "time", "prediction-score", held_out | columns, lambda: found, scale=scale, source=source, model=about,
        device=str(model.device), dtype=model.dtype,
    )  # fmt: skip


def errors(points: list[Point]) -> dict[str, float]:
    """Median absolute error of each predictor, of the share of time saved."""
    return {name: float(np.median([abs(getattr(p, name) - p.measured) for p in points])) for name in PREDICTORS}


def verdict(points: list[Point]) -> str:
    """The three median errors, and whether the prediction's is at most half of either of the others."""
    found = errors(points)
    met = found["predicted"] <= AT_MOST * min(found["unchanged"], found["flops"])
    said = ", ".join(f"{PREDICTORS[name]} {error:.2%}" for name, error in found.items())
    return (
        f"prediction: median error of the time saved at {len(points)} held-out points: {said}; "
        f"at most {AT_MOST:g} of both others: {'met' if met else 'MISSED'}"
    )
