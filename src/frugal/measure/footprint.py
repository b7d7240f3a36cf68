"""The peak memory of chapter 5, as a table read from records: one step of a network, in a process of its own on a CPU."""

from collections.abc import Iterable, Iterator
from functools import partial

import pandas as pd
import torch

from ..methods import merging
from .memory import peak_memory
from .plan import MERGING, PUBLISHED_REUSE, RATIOS, Cell, Subject, step_input

STARTING = 2.0  # seconds until a fresh process has a network


def memory_cells(subject: Subject, ratios: Iterable[float], method: str, divisor: int) -> Iterator[Cell]:
    """One cell a ratio: the peak of one step, above the loaded network."""
    source = (*MERGING, peak_memory, _prepared, _step)
    for ratio in ratios:
        function = partial(_memory, subject, ratio, method, divisor)
        asked = {"ratio": ratio, "method": method, "batch": 1, "divisor": divisor}
        yield Cell("memory", "memory", subject, asked, function, source, 1 / divisor**2, overhead=STARTING)


def _memory(subject: Subject, ratio: float, method: str, divisor: int) -> dict:
    if subject.given:
        raise ValueError(f"models: got {subject.name} in memory; a fresh process can load a name or a folder")
    arguments = subject.name, subject.weights, subject.place, ratio, method, divisor
    found = peak_memory(_step, *arguments, prepare=_prepared, device=subject.place)
    return {"extra": {"unit": "B", "values": [found.extra]}, "loaded": {"unit": "B", "values": [found.loaded]}}


def _prepared(name: str, weights: str, device: str, ratio: float, method: str, divisor: int):
    model = Subject(name, weights, device).model
    arguments, options = step_input(model.unet, divisor, model.device)
    merged = merging.merge_tokens(model.unet, ratio, method=method, reuse=PUBLISHED_REUSE)
    return merged, partial(model.unet, *arguments, **options)


@torch.inference_mode()
def _step(prepared) -> None:
    merged, forward = prepared
    with merged:
        forward()


def memory(models, ratios=RATIOS, *, method="tome", scale="quick", divisor=1, device="auto") -> pd.DataFrame:
    """Peak memory of one step above the loaded network: model, weights, ratio, bytes, loaded (see `cost.peak_memory`)."""
    rows = []
    for subject in (Subject.of(item, device) for item in models):
        for cell in memory_cells(subject, ratios, method, divisor):
            found = cell.measure(scale).values
            sizes = {"bytes": int(found["extra"][0]), "loaded": int(found["loaded"][0])}
            rows.append(subject.title | {"ratio": cell.asked["ratio"]} | sizes)
    return pd.DataFrame(rows, columns=["model", "weights", "ratio", "bytes", "loaded"])
