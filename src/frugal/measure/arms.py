"""Arms of a comparison: one model sampled in several ways, what each costs, and how good its images are.

Costs are counted by hooks on the networks, image by image. Quality is the same on every machine, so large samples of it
are shipped; seconds are measured on the reader's own, the arms in turn.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods import chain, coupling, drafts, flow, noise, parallel, samplers, speculative, verification
from ..models import cards, faces, zoo
from . import cost, draws, generators, judge, quality, records
from .captions import caption_accuracy
from .marks import SIZE
from .plan import Cell, Subject

SOLVER, REFERENCE = "ddim", 1000  # the trajectory that images are compared with: the probability-flow ODE in as many steps
WATCHED = 16  # images compared with it, at most
DISTRIBUTION = 256  # images from which a distance of distributions tells anything
BATCH = 32
PARTS = {  # what the samplers whose images advance at their own pace are made of
    "speculative": (speculative, chain, coupling, drafts, noise, verification),
    "parallel": (parallel, flow, chain, coupling, drafts),
}
STEPPING = (samplers.denoise, samplers._states, samplers._advance, samplers._scheduler, samplers._output)
COLUMNS = [
    "model", "arm", "sampler", "steps", "images", "calls", "calls_median", "calls_max", "rows", "draft_rows", "psnr", "psnr_low", "psnr_high",
    "ssim", "accepted", "kid", "kid_low", "kid_high", "score", "marginal", "accuracy", "series", "device",
]  # fmt: skip
COSTS = {"calls": "count", "rows": "count", "draft_rows": "count", "seconds": "s"}


@dataclass(frozen=True)
class Arm:
    """One way to sample: a sampler of `samplers.sample`, its steps, and options; a draft model goes by its name."""

    sampler: str
    steps: int
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, sampler: str, steps: int, **options: Any) -> "Arm":
        return cls(sampler, steps, tuple(sorted(options.items())))

    @property
    def label(self) -> str:
        """In words: ddim, 50 steps, eta 1."""
        return ", ".join([self.sampler, f"{self.steps} steps", *(f"{name} {value}" for name, value in self.options)])

    @property
    def source(self) -> tuple:
        """What its images depend on beside the weights."""
        return *STEPPING, *PARTS.get(self.sampler, ())

    def draft(self, subject: Subject) -> zoo.Model | None:
        """The draft model, if it has one."""
        name = dict(self.options).get("draft", speculative.DRAFT)
        return None if self.sampler != "speculative" or name in speculative.DRAFTS else zoo.load(name, device=subject.place)

    def asked(self, subject: Subject) -> dict[str, Any]:
        """What a record asks of it: with a draft network, its weights as well."""
        found, draft = {"arm": self.label, "sampler": self.sampler, "steps": self.steps, "options": dict(self.options)}, self.draft(subject)
        return found | ({"draft_weights": draft.weights_hash} if draft else {})


def at_calls(subject: Subject, sampler: str, counts: Iterable[float]) -> list[Arm]:
    """Arms of a sampler that calls once a step, at about these numbers of calls: the nearest below for which it finds distinct times."""
    most = subject.model.scheduler.config.num_train_timesteps
    return [Arm.of(sampler, steps) for steps in sorted({_placed(subject.model, sampler, min(most, max(1, round(count)))) for count in counts})]


def _placed(model: zoo.Model, sampler: str, most: int) -> int:
    for steps in range(most, 1, -1):
        try:
            samplers._scheduler(model, steps, sampler)
        except ValueError:
            continue
        return steps
    return 1


@dataclass(frozen=True)
class Drawn:
    """Images [n, 3, H, W] in [0, 1], and of each how many calls of the network it took part in, and how many rows it was."""

    images: Tensor
    calls: list[int]
    rows: list[float]
    draft_rows: list[float]


def draw(subject: Subject, arm: Arm, seeds: Iterable[int]) -> Drawn:
    """Sample by an arm. Images that advance at their own pace are drawn one by one, so that the hook tells each one's calls."""
    seeds, draft = tuple(seeds), arm.draft(subject)
    options = dict(arm.options) | ({"draft": draft} if draft else {})
    said = draws.draw(subject, len(seeds), arm.steps, seeds[0]).options if subject.conditional else {}
    size, found = 1 if arm.sampler in samplers.OWN_PACE else BATCH, []
    for first in range(0, len(seeds), size):
        part = slice(first, first + size)
        prompts = {key: value[part] if key == "prompts" else value for key, value in said.items()}
        found.append(_part(subject.model, arm, seeds[part], draft, options | prompts))
    return Drawn(torch.cat([x.images for x in found]), *([v for x in found for v in getattr(x, k)] for k in ("calls", "rows", "draft_rows")))


def _part(model: zoo.Model, arm: Arm, seeds: tuple[int, ...], draft: zoo.Model | None, options: dict) -> Drawn:
    n = len(seeds)
    with cost.count_calls(model.unet) as counted, cost.count_calls((draft or model).unet) as drafted:
        images = samplers.sample(model, seeds, arm.steps, arm.sampler, batch_size=n, **options)
    return Drawn(images, [counted.calls] * n, [counted.rows / n] * n, [drafted.rows / n if draft else 0.0] * n)


def cell(subject: Subject, arm: Arm, images: int, seed: int = 0, reference: int = REFERENCE) -> Cell:
    """The record of an arm's quality: `images` images of `seed` on, some compared with those of `reference` steps."""
    asked = arm.asked(subject) | {"images": images, "seed": seed, "reference": reference}
    source = (*arm.source, _quality, _against_reference, _distribution)
    steps = images * arm.steps * (speculative.ROWS if arm.sampler in samplers.OWN_PACE else 1) * (2 if subject.conditional else 1)
    return Cell("quality", "arm", subject, asked, partial(_quality, subject, arm, images, seed, reference), source, steps)


def _quality(subject: Subject, arm: Arm, images: int, seed: int, reference: int) -> dict:
    found = draw(subject, arm, range(seed, seed + images))
    values = {name: (getattr(found, name), "count") for name in ("calls", "rows", "draft_rows")}
    values |= {"accepted": (judge.accepts(found.images).float(), "1")}
    values |= _against_reference(subject, found.images[:WATCHED], seed, reference)
    values |= _distribution(found.images) if images >= DISTRIBUTION else {}
    if subject.conditional:
        data = faces.Faces("test")
        truth = data.parameters([k % len(data) for k in range(seed, seed + images)])
        values["accuracy"] = [*caption_accuracy(found.images, truth).values()], "1"
    return {name: {"unit": unit, "values": value} for name, (value, unit) in values.items()}


def _against_reference(subject: Subject, images: Tensor, seed: int, steps: int) -> dict:
    reference = _reference(subject, len(images), seed, steps)
    return {"psnr": (quality.psnr(images, reference), "dB"), "ssim": (quality.ssim(images, reference), "1")}


@lru_cache(maxsize=4)
def _reference(subject: Subject, images: int, seed: int, steps: int) -> Tensor:
    """SOLVER's images of the same noise, drawn once a process."""
    return draw(subject, Arm.of(SOLVER, steps), range(seed, seed + images)).images


def _distribution(images: Tensor) -> dict:
    """How far the images' distribution is from that of test faces."""
    data, n = faces.Faces("test", SIZE), len(images)
    kid = quality.kid(judge.features(images), judge.features(data.images(range(n))))
    return {
        "kid": ([kid.value, kid.low, kid.high], "1"), "score": ([generators.class_score(images)], "1"),
        "marginal": ([generators.farthest_marginal(judge.parameters(images), data.parameters(range(4000)))], "1"),
    }  # fmt: skip


def table(
    subject: Subject, arms: Iterable[Arm], images: int, *, seed: int = 0, reference: int = REFERENCE, scale: str = "quick"
) -> pd.DataFrame:
    """One row an arm, COLUMNS, measured here or read from this machine's records; nan where `images` tell nothing."""
    return _rows(cell(subject, arm, images, seed, reference).measure(scale) for arm in arms)


def shipped(subject: Subject) -> pd.DataFrame:
    """The same from shipped records of the very weights a model has now, the largest sample of each arm; may be empty."""
    found = sorted(records.shipped_of("arm", subject.about), key=lambda r: -r.asked["images"])
    return _rows(r for r in found if _same_draft(r)).drop_duplicates("arm", ignore_index=True)


def _same_draft(record: records.Record) -> bool:
    """Whether an arm's draft network, if it has one, has still the weights it had."""
    name = record.asked["options"].get("draft", speculative.DRAFT)
    if name in speculative.DRAFTS:
        return True
    if not cards.file(name).exists():
        return False
    now = Subject(name).about
    if "draft_weights" in record.asked:
        return record.asked["draft_weights"] == now["weights_hash"]
    return bool(records.shipped_of("arm", now))  # filed before the weights were: its own chain came with it


def _rows(measured: Iterable[records.Record]) -> pd.DataFrame:
    return pd.DataFrame([_row(record) for record in measured], columns=COLUMNS)


def _row(record: records.Record) -> dict:
    values, psnr = record.values, quality.mean_interval(record.values["psnr"])
    row = {key: record.asked[key] for key in ("arm", "sampler", "steps", "images")}
    row |= {"model": record.model["name"], "series": record.series, "device": record.device["name"]}
    row |= {"calls": values["calls"].mean(), "calls_median": np.median(values["calls"]), "calls_max": values["calls"].max()}
    row |= {name: values[name].mean() for name in ("rows", "draft_rows", "ssim", "accepted")}
    row |= {"psnr": psnr.value, "psnr_low": psnr.low, "psnr_high": psnr.high}
    row |= {name: values[name][0] for name in ("score", "marginal") if name in values}
    row |= {"accuracy": values["accuracy"].mean()} if "accuracy" in values else {}
    return row | (dict(zip(("kid", "kid_low", "kid_high"), values["kid"], strict=True)) if "kid" in values else {})


def seconds(subject: Subject, arms: Iterable[Arm], *, images: int = 1, rounds: int = 3, seed: int = 0, scale: str = "quick") -> pd.DataFrame:
    """Seconds of `images` images by each arm, the arms in turn: one row an arm and round, columns model, arm, round, seconds."""
    arms = list(arms)
    asked = {"arms": [arm.label for arm in arms], "images": images, "rounds": rounds, "seed": seed}
    source = (*{item: None for arm in arms for item in arm.source}, cost.interleaved, _seconds)
    about = {"scale": scale, "source": source, "model": subject.about, "device": subject.place, "dtype": subject.dtype}
    record = records.measure("time", "arm-seconds", asked, partial(_seconds, subject, arms, images, rounds, seed), **about)
    rows = [(record.model["name"], arm, k, value) for arm, values in record.values.items() for k, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["model", "arm", "round", "seconds"])


def _seconds(subject: Subject, arms: list[Arm], images: int, rounds: int, seed: int) -> dict:
    calls = {arm.label: partial(draw, subject, arm, range(seed, seed + images)) for arm in arms}
    measured = cost.interleaved(calls, rounds, warmup=0, device=subject.place)
    return {label: {"unit": "s", "values": values} for label, values in measured.items()}


def in_turn(
    subject: Subject, arms: Iterable[Arm], images: int, *, against: Arm | None = None, judged: bool = False, seed: int = 0, scale: str = "quick"
) -> pd.DataFrame:
    """One row an arm and image, drawn one image at a time, the arms in turn: what one who waits for an image sees.

    Columns model, arm, image, then COSTS, by hooks on the networks and by the clock, decoding included. With `against`: error, the
    largest difference of a pixel in [0, 1] from that arm's image of the same seed, and psnr of the pair in dB; with `judged`:
    accepted, by the judge and off the clock.
    """
    arms = list(arms)
    units = COSTS | ({"error": "1", "psnr": "dB"} if against else {}) | ({"accepted": "1"} if judged else {})
    asked = {"arms": [arm.label for arm in arms], "against": against and against.label, "judged": judged, "images": images, "seed": seed}
    networks = {draft.weights_hash for arm in arms if (draft := arm.draft(subject))}
    asked |= {"draft_weights": sorted(networks)} if networks else {}
    made_of = {item: None for arm in (*arms, *([against] if against else [])) for item in arm.source}
    about = {"scale": scale, "source": (*made_of, _in_turn, _timed, draw), "model": subject.about, "device": subject.place, "dtype": subject.dtype}
    function = partial(_in_turn, subject, arms, against, units, range(seed, seed + images))
    values = records.measure("time", "arms-in-turn", asked, function, **about).values
    rows = [
        (subject.title["model"], arm.label, seed + k, *(values[f"{arm.label}: {name}"][k] for name in units)) for arm in arms for k in range(images)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "arm", "image", *units])


def _in_turn(subject: Subject, arms: list[Arm], against: Arm | None, units: dict[str, str], seeds: range) -> dict:
    found: dict[str, list[float]] = {f"{arm.label}: {name}": [] for arm in arms for name in units}
    images: dict[Arm, list[Tensor]] = {arm: [] for arm in arms}
    draw(subject, Arm.of(SOLVER, 1), seeds[:1])  # the first run of a network takes longer
    for k, seed in enumerate(seeds):
        drawn = {arm: _timed(subject, arm, seed) for arm in arms[k % len(arms) :] + arms[: k % len(arms)]}
        truth = against and (drawn[against][0] if against in drawn else draw(subject, against, [seed])).images
        for arm, (one, seconds) in drawn.items():
            values = {"calls": one.calls[0], "rows": one.rows[0], "draft_rows": one.draft_rows[0], "seconds": seconds}
            if against:
                values |= {"error": (one.images - truth).abs().max().item(), "psnr": quality.psnr(one.images, truth)[0]}
            for name, value in values.items():
                found[f"{arm.label}: {name}"].append(value)
            images[arm].append(one.images)
    for arm in arms if "accepted" in units else ():
        found[f"{arm.label}: accepted"] = judge.accepts(torch.cat(images[arm])).float().tolist()
    return {key: {"unit": units[key.rpartition(": ")[2]], "values": values} for key, values in found.items()}


def _timed(subject: Subject, arm: Arm, seed: int) -> tuple[Drawn, float]:
    """One image and its seconds."""
    cost.synchronise(subject.place)
    start = time.perf_counter()
    drawn = draw(subject, arm, [seed])
    cost.synchronise(subject.place)
    return drawn, time.perf_counter() - start
