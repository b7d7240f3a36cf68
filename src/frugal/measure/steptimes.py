"""Seconds of a denoising step of several networks that take turns, so that they can be compared round by round."""

from collections.abc import Iterable
from functools import partial

import pandas as pd
import torch

from . import cost, records
from .plan import TIMESTEP, Subject, step_input

WARMUP = 3  # steps of each network that are not counted


def step_seconds(models: Iterable, rounds: int = 50, *, scale: str = "quick", device="auto") -> pd.DataFrame:
    """Seconds of one step of each network, batch 1, all of them in every round: model, round, seconds.

    `models`: names, pairs (name, weights) or loaded models, all on one device. One record holds all rounds.
    """
    subjects = [Subject.of(item, device) for item in models]
    asked = {"models": [subject.about for subject in subjects], "rounds": rounds, "batch": 1, "timestep": TIMESTEP}
    record = records.measure(
        "time", "steps-in-turn", asked, partial(_seconds, subjects, rounds), scale=scale,
        source=(_seconds, cost.interleaved, step_input), device=subjects[0].place, dtype=subjects[0].dtype,
    )  # fmt: skip
    rows = [(model, k, seconds) for model, values in record.values.items() for k, seconds in enumerate(values)]
    return pd.DataFrame(rows, columns=["model", "round", "seconds"])


@torch.inference_mode()
def _seconds(subjects: list[Subject], rounds: int) -> dict:
    calls = {}
    for subject in subjects:
        arguments, options = step_input(subject.model.unet, device=subject.model.device)
        calls[subject.title["model"]] = partial(subject.model.unet, *arguments, **options)
    measured = cost.interleaved(calls, rounds, WARMUP, subjects[0].model.device)
    return {name: {"unit": "s", "values": values} for name, values in measured.items()}
