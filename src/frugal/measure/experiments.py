"""The measurements of chapter 5: the thesis's chapters 4 to 6 as tables, each read from records.

`Run(request)` is the whole chapter at the request's scale, one table an attribute; the functions behind it take models,
ratios and amounts, for one's own.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from . import bench, cost, decay, draws, footprint, records, timing
from .decay import dataset_baselines, dataset_changes, drawn, quality_decay, trajectories
from .draws import Draw
from .fits import curves, fit_decay
from .footprint import memory
from .numbers import numbers
from .plan import LOADING, RATIOS, SCALES, Cell, Scale, Share, Subject, shares, step_input, sweep
from .timing import (
    changes,
    composed_times,
    decode_times,
    detectable,
    image_seconds,
    iterations,
    layer_times,
    network_times,
)

__all__ = [
    "RATIOS", "SCALES", "Run", "Scale", "Subject", "attention_share", "changes", "composed_times", "curves", "dataset_baselines",
    "dataset_changes", "decode_times", "detectable", "drawn", "fit_decay", "forecast", "image_seconds", "iterations", "layer_times",
    "memory", "network_times", "noop", "numbers", "quality_decay", "trajectories", "write_numbers",
]  # fmt: skip

PROBE_RUNS = 5
RECORD_BYTES = 4096  # about, on disk
PYTHON_BYTES = 1.5e9  # the interpreter with its libraries, and the activations of a step


class Run:
    """The chapter for one `frugal.parameters.Experiments`: every table is measured, or read, when first asked for."""

    def __init__(self, request: Any):
        self.request, self.scale, self.shares = request, SCALES[request.scale], shares(request)
        self.ratios = sweep(self.scale.ratios, request.ratio)
        self.images, self.steps = request.images or self.scale.images, request.steps or self.scale.steps
        self.subjects = [share.subject for share in self.shares]
        self.trained = [subject for subject in self.subjects if subject.trained]
        if (request.prompts, request.guidance) != (None, None) and not any(s.conditional for s in self.trained):
            raise ValueError(f"prompts, guidance: got {request.prompts!r}, {request.guidance!r}, but no trained model asked for follows a text")
        self.drawn = {subject: self._draw(subject) for subject in self.trained}
        self._common = {"method": request.method, "scale": request.scale}

    @property
    def as_thesis(self) -> list[str]:
        """The models of figures 5.2 and 5.3: the text-conditioned ones, as in the thesis, else all that are trained."""
        prompted = [s for s in self.trained if s.conditional] or self.trained
        return [s.title["model"] for s in prompted]

    @cached_property
    def network(self) -> pd.DataFrame:
        """`network_times` of all models, then `composed_times` where layers were timed."""
        whole = [
            network_times([s.subject], s.network_ratios, s.rounds, divisor=s.divisor, **self._common)
            for s in self.shares
        ]
        measured = pd.concat(whole, ignore_index=True)
        composed = composed_times(measured, self.layers)
        return pd.concat([measured, composed], ignore_index=True) if len(composed) else measured

    @cached_property
    def layers(self) -> pd.DataFrame:
        """`layer_times` of the large networks."""
        large = [share for share in self.shares if share.layer_ratios] or [None]
        return pd.concat([self._layer_times(share) for share in large], ignore_index=True)

    def _layer_times(self, share: Share | None) -> pd.DataFrame:
        if share is None:
            return layer_times([])
        options = {"divisor": share.divisor, **self._common}
        return layer_times([share.subject], share.layer_ratios, self.scale.layer_rounds, **options)

    @cached_property
    def seconds(self) -> pd.DataFrame:
        """`image_seconds` of the thesis's 200 steps: generated on the clock where the scale does so, else scaled from steps."""
        generated = image_seconds(self.iterations if self.scale.times_large else self.iterations.iloc[:0])
        scaled = image_seconds(self.network)
        scaled = scaled[~scaled.model.isin(generated.model)]
        return pd.concat([part for part in (generated, scaled) if len(part)], ignore_index=True)

    @cached_property
    def decode(self) -> pd.DataFrame:
        """`decode_times` of the latent models."""
        options = {"rounds": self.scale.decode_rounds, "scale": self.request.scale}
        parts = [decode_times([share.subject], divisor=share.divisor, **options) for share in self.shares]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def iterations(self) -> pd.DataFrame:
        """`iterations` of the small networks, at thesis scale of all."""
        return iterations(
            self._sampled,
            self.ratios,
            self.scale.timed_images,
            self.scale.timed_steps,
            seed=self.request.seed,
            **self._common,
        )

    @property
    def _sampled(self) -> list[Subject]:
        return [s for s in self.subjects if s.plain and (self.scale.times_large or not s.large)]

    @cached_property
    def memory(self) -> pd.DataFrame:
        """`memory` at the scale's ratios."""
        ratios = sweep(self.scale.memory_ratios, self.request.ratio)
        parts = [memory([s.subject], ratios, divisor=s.divisor, **self._common) for s in self._weighed]
        return pd.concat(parts, ignore_index=True) if parts else memory([])

    @property
    def _weighed(self) -> list[Share]:
        """Each peak takes a process of its own: beside others, the text model is weighed at thesis scale alone."""
        alone = len(self.shares) == 1 or self.scale.times_large
        asked = [share for share in self.shares if share.subject.plain or alone]
        wanted = [share for share in asked if self.scale.memory_large or not share.subject.large]
        return [share for share in wanted if torch.device(share.subject.place).type != "mps"]  # Metal's is not counted

    @cached_property
    def quality(self) -> pd.DataFrame:
        """`quality_decay` of the trained models."""
        return quality_decay(self.drawn, self.ratios, **self._compared)

    @cached_property
    def trajectories(self) -> pd.DataFrame:
        """`trajectories` of the trained models."""
        return trajectories(self.drawn, self.ratios, **self._compared)

    @cached_property
    def baselines(self) -> pd.DataFrame:
        """`dataset_baselines` of the trained models."""
        return dataset_baselines(self.drawn, self.ratios, **self._compared)

    def _draw(self, subject: Subject) -> Draw:
        asked = self.request
        if not subject.conditional:
            return draws.draw(subject, self.images, self.steps, asked.seed)
        images = asked.images or self.scale.prompted
        return draws.draw(subject, images, self.steps, asked.seed, asked.prompts, asked.guidance)

    @property
    def _compared(self) -> dict:
        return {"watched": min(self.scale.watched, self.images), **self._common}

    @cached_property
    def fits(self) -> pd.DataFrame:
        """`fit_decay` of PSNR and of SSIM; no row where fewer than four ratios above 0 were measured."""
        return pd.concat([fit_decay(self.quality, quantity) for quantity in ("psnr", "ssim")], ignore_index=True)

    @cached_property
    def attention(self) -> pd.DataFrame:
        """`attention_share` of all models."""
        return attention_share(self.subjects, scale=self.request.scale)

    @cached_property
    def noop(self) -> pd.DataFrame:
        """`noop` under the libraries installed here and, from the shipped records, the thesis's."""
        return noop(self.request.scale)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by name, as `numbers` takes them."""
        names = ("network", "layers", "seconds", "decode", "iterations", "memory", "attention", "noop")
        found = {name: getattr(self, name) for name in names}
        found |= {"detectable": detectable(self.seconds), "changes": changes(self.seconds)}
        if self.trained:
            found |= {name: getattr(self, name) for name in ("quality", "trajectories", "baselines", "fits")}
            found["dataset_changes"] = dataset_changes(self.baselines)
        return found

    def cells(self) -> Iterator[Cell]:
        """Every cell of the chapter, measured or not."""
        method, seed, scale = self.request.method, self.request.seed, self.scale
        for s in self.shares:
            yield from timing.network_cells(s.subject, s.network_ratios, s.rounds, method, s.divisor)
            if s.layer_ratios:
                yield from timing.layer_cells(s.subject, s.layer_ratios, scale.layer_rounds, method, s.divisor)
            if s.subject.latent:
                yield from timing.decode_cells(s.subject, scale.decode_rounds, s.divisor)
        for s in self._weighed:
            yield from footprint.memory_cells(
                s.subject, sweep(scale.memory_ratios, self.request.ratio), method, s.divisor
            )
        for subject in self._sampled:
            yield from timing.iteration_cells(subject, self.ratios, scale.timed_images, scale.timed_steps, method, seed)
        for subject, draw in self.drawn.items():
            yield from decay.decay_cells(subject, self.ratios, draw, self._compared["watched"], method)


def attention_share(models, *, scale="quick", device="auto") -> pd.DataFrame:
    """Attention's share of a step's FLOPs and what it bounds: model, weights, parameters, flops, share, bound.

    bound: the largest possible speed-up, 1 / (1 - share), were all attention free (Amdahl 1967).
    """
    rows = []
    for subject in (Subject.of(item, device) for item in models):
        count = partial(_attention_share, subject)
        record = records.measure(
            "count", "attention", {"batch": 1}, count, scale=scale, source=cost.attention_share, model=subject.about
        )
        found = {name: float(values[0]) for name, values in record.values.items()}
        rows.append(subject.title | found | {"bound": 1 / (1 - found["share"])})
    columns = ["model", "weights", "parameters", "flops", "share", "bound"]
    return pd.DataFrame(rows, columns=columns).astype({"parameters": "int64"})


def _attention_share(subject: Subject) -> dict:
    found = {
        "parameters": (subject.parameters, "count"),
        "flops": (subject.flops, "FLOP"),
        "share": (subject.attention, "1"),
    }
    return {name: {"unit": unit, "values": [value]} for name, (value, unit) in found.items()}


def noop(scale: str = "quick") -> pd.DataFrame:
    """What tomesd itself does: series ("here" or "shipped"), diffusers, tomesd, ratio, patched, identical, tokens_before, tokens_after.

    patched and identical: modules patched in a UNet2DModel, and whether its output stays the same to the bit; tokens: of a
    transformer block, where the library acts, at most 75 % of them removed. Under the libraries installed here, and as
    shipped for the thesis's diffusers 0.21.4 (`frugal bench noop` makes both records).
    """
    here, rows = bench.noop_here(scale), []
    shipped = [record for record in records.load_shipped() if record.name == "noop"]
    for record in [here, *(other for other in shipped if other.asked["diffusers"] != here.asked["diffusers"])]:
        values, whole = (
            record.values,
            {"series": record.series, **{k: record.asked[k] for k in ("diffusers", "tomesd")}},
        )
        for k, ratio in enumerate(record.asked["ratios"]):
            patched, identical = int(values["unet2d_patched"][k]), bool(values["unet2d_identical"][k])
            tokens = {"tokens_before": int(values["tokens_before"][0]), "tokens_after": int(values["tokens_after"][k])}
            rows.append(whole | {"ratio": ratio, "patched": patched, "identical": identical} | tokens)
    return pd.DataFrame(rows)


def forecast(request: Any) -> dict[str, float]:
    """About what a request will take: {"seconds", "memory" and "disk" in bytes, "cells" still to be measured, of "all"}.

    From the FLOPs of what is not yet recorded and the speed found here in about a second; said before a long run. A
    published model is not downloaded for it, another hub id is, as nothing else says how large it is.
    """
    run = Run(request)
    cells, absent = list(run.cells()), {subject for subject in run.subjects if subject.downloadable}
    missing = [cell for cell in cells if cell.subject in absent or cell.missing(request.scale)]
    rates = {subject: _flops_a_second(subject) for subject in {cell.subject for cell in missing}}
    seconds = sum(cell.flops / rates[cell.subject] + cell.overhead for cell in missing)
    seconds += LOADING * sum(subject.parameters for subject in rates)
    sizes = {subject: 4 * subject.parameters for subject in run.subjects}
    again = max((sizes[share.subject] for share in run._weighed), default=0)  # a fresh process measures peak memory
    found = {"seconds": seconds, "memory": PYTHON_BYTES + sum(sizes.values()) + again}
    disk = RECORD_BYTES * len(missing) + sum(sizes[subject] for subject in absent)
    return found | {"disk": float(disk), "cells": len(missing), "all": len(cells)}


def _flops_a_second(subject: Subject) -> float:
    """FLOP/s of a small network's own step; of a convolution like those that fill a large one, which is not loaded for it."""
    if subject.large or subject.downloadable:
        layer, image = torch.nn.Conv2d(256, 256, 3, padding=1).to(subject.place), torch.randn(1, 256, 64, 64)
        forward, flops = partial(layer, image.to(subject.place)), 2 * 256 * 256 * 9 * 64 * 64
    else:
        arguments, options = step_input(subject.model.unet, device=subject.model.device)
        forward, flops = partial(subject.model.unet, *arguments, **options), subject.flops
    with torch.inference_mode():
        return flops / cost.seconds(forward, PROBE_RUNS).median


def write_numbers(path: str | Path, found: dict[str, float | str]) -> Path:
    """Write headline numbers as JSON, which the book's prose reads.

    Raises ValueError for what is neither a finite number nor text.
    """
    for name, value in found.items():
        if not isinstance(value, str) and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"numbers[{name!r}]: got {value!r}, allowed is a finite number or text")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(temporary, path)
    return path
