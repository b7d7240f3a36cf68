"""The thesis's experiment at its own scale, as cells: three published architectures, ten ratios, four ways of computing.

Times and memory need no weights and use random ones. A time is that of 50 denoising steps, scaled wherever it is shown
to the thesis's 100 images of 200 steps; a few images run whole on the clock to check that. Quality needs the published
weights.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch

from ..methods import merging, samplers
from ..models import zoo
from . import cost, decay, draws, records, timing
from .backends import BACKENDS, attending
from .footprint import STARTING
from .memory import peak_memory
from .plan import LOADING, PUBLISHED_REUSE, RATIOS, SCALES, THESIS_STEPS, Cell, Subject, step_input
from .timing import MERGING, interleaved_steps, label, merges, with_twin

SCALE = "thesis"
MODELS = ("ddpm-celebahq-256", "ldm-celebahq-256", "stable-diffusion-v1-5")
LEADING = (0.0, 0.5, 0.9)  # of every model before the other ratios
WHOLE = (0.0, 0.5)  # at which an image runs whole
STEPS, WARMUP = 50, 10
IMAGES = 100  # the thesis's unit of time
METHOD = "tome"


def check_device(device: str) -> torch.device:
    """The device of that name; raises ValueError for one that is absent, or whose attention cannot be chosen."""
    place = zoo.find_device(device)
    if place.type == "mps":  # there torch chooses the kernel itself, so a record could not name it
        raise ValueError(f"device: got {device!r}, which is mps here; allowed are cuda, cuda:N and cpu")
    return place


def half(place: torch.device) -> str:
    """The 16-bit floating-point numbers of a device: float16 on CUDA, bfloat16 where float16 is not fast."""
    return "float16" if place.type == "cuda" else "bfloat16"


def settings(place: torch.device) -> list[tuple[str, str]]:
    """Pairs (dtype, backend) in the order in which they are measured."""
    return [(dtype, backend) for dtype in (half(place), "float32") for backend in BACKENDS]


def cells(device: str = "auto") -> list[Cell]:
    """Every cell of times and memory in the order of their worth: the leading ratios of all models and settings, whole
    images of the first setting, then the other ratios. Loads no weights."""
    place = check_device(device)
    ways, dtypes = settings(place), (half(place), "float32")
    subjects = {dtype: [Subject(name, "random", str(place), precision=dtype) for name in MODELS] for dtype in dtypes}
    found = []
    for ratios in (LEADING, [ratio for ratio in RATIOS if ratio not in LEADING]):
        for dtype, backend in ways:
            pairs = [(subject, ratio) for subject in subjects[dtype] for ratio in ratios]
            found += [make(*pair, backend) for pair in pairs for make in (time_cell, memory_cell)]
        if ratios is LEADING:
            found += [image_cell(subject, ratio, ways[0][1]) for subject in subjects[ways[0][0]] for ratio in WHOLE]
    return found


def _asked(subject: Subject, backend: str, **asked: Any) -> dict:
    """Parameters of every record; rows: what a step of one image is to the network, twice as many under guidance."""
    rows, guidance = (2, samplers.GUIDANCE) if subject.conditional else (1, None)
    tf32 = subject.dtype == "float32" and subject.place.startswith("cuda") and torch.backends.cudnn.allow_tf32
    shared = {"method": METHOD, "backend": backend, "tf32": tf32, "batch": 1, "rows": rows, "guidance": guidance}
    return asked | shared


def time_cell(subject: Subject, ratio: float, backend: str) -> Cell:
    """50 steps of an image after 10 that warm up: ratio 0, its twin and the merged ratio in turn within every step."""
    ratios = tuple(sorted({0.0, ratio}))
    sampling = {"sampler": "ddim", "seed": 0, "steps": STEPS, "warmup": WARMUP, "of_steps": THESIS_STEPS}
    asked = _asked(subject, backend, ratios=ratios, **sampling)
    source = (*MERGING, samplers, interleaved_steps, cost.turn, _steps, _run)
    work = (len(ratios) + 1) * (STEPS + WARMUP) * asked["rows"]
    return Cell("time", "thesis-steps", subject, asked, partial(_steps, subject, ratios, backend), source, work)


def image_cell(subject: Subject, ratio: float, backend: str) -> Cell:
    """One image of 200 steps on one clock, after 10 steps that warm up; decoding left out, as in the thesis."""
    sampling = {"sampler": "ddim", "seed": 0, "steps": THESIS_STEPS, "warmup": WARMUP}
    asked = _asked(subject, backend, ratio=ratio, **sampling)
    source, work = (*MERGING, samplers, _image, _run), (THESIS_STEPS + WARMUP) * asked["rows"]
    return Cell("time", "thesis-image", subject, asked, partial(_image, subject, ratio, backend), source, work)


def memory_cell(subject: Subject, ratio: float, backend: str) -> Cell:
    """The peak of one step above the loaded network; apart from the times, which counting could disturb."""
    asked = _asked(subject, backend, ratio=ratio)
    source = (*MERGING, peak_memory, _memory, _prepared, _step)
    loading = 0.0 if subject.place.startswith("cuda") else STARTING + LOADING * subject.parameters
    function = partial(_memory, subject, ratio, backend, asked["rows"])
    return Cell("memory", "thesis-memory", subject, asked, function, source, asked["rows"], overhead=loading)


def _run(model: zoo.Model) -> Iterator[samplers.State]:
    """An image of the thesis, step by step; text is no words at all, which random weights would not understand anyway."""
    options: dict[str, Any] = {}
    if model.conditional:
        model, options = replace(model, tokenizer=_no_words), {"prompts": [""], "guidance": samplers.GUIDANCE}
    return samplers.denoise(model, [0], THESIS_STEPS, "ddim", **options)


def _no_words(texts: list[str], max_length: int, **_options) -> SimpleNamespace:
    return SimpleNamespace(input_ids=torch.zeros(len(texts), max_length, dtype=torch.long))


def _steps(subject: Subject, ratios: tuple[float, ...], backend: str) -> dict:
    contexts, model = with_twin(merges(subject, ratios, METHOD)), subject.model
    with attending(backend):
        states = {name: _run(model) for name in contexts}
        interleaved_steps(states, contexts, WARMUP, model.device)
        seconds = interleaved_steps(states, contexts, STEPS, model.device)
    return {name: {"unit": "s", "values": values} for name, values in seconds.items()}


def _image(subject: Subject, ratio: float, backend: str) -> dict:
    model = subject.model
    with attending(backend), merging.merge_tokens(model.unet, ratio, method=METHOD, reuse=PUBLISHED_REUSE):
        deque(islice(_run(model), WARMUP), maxlen=0)
        found = cost.seconds(lambda: deque(_run(model), maxlen=0), 1, 0, model.device)
    return {"image": {"unit": "s", "values": found.values}}


def _memory(subject: Subject, ratio: float, backend: str, rows: int) -> dict:
    about = subject.name, subject.place, subject.precision, ratio, backend, rows
    found = peak_memory(_step, *about, prepare=_prepared, device=subject.place)
    return {"extra": {"unit": "B", "values": [found.extra]}, "loaded": {"unit": "B", "values": [found.loaded]}}


def _prepared(name: str, place: str, dtype: str, ratio: float, backend: str, rows: int):
    model = Subject(name, "random", place, precision=dtype).model
    (sample, timestep), options = step_input(model.unet, device=model.device)
    options = {key: value.expand(rows, -1, -1) for key, value in options.items()}
    call = partial(model.unet, sample.expand(rows, -1, -1, -1).contiguous(), timestep, **options)
    return model.unet, ratio, backend, call


@torch.inference_mode()
def _step(prepared) -> None:
    unet, ratio, backend, call = prepared
    with attending(backend), merging.merge_tokens(unet, ratio, method=METHOD, reuse=PUBLISHED_REUSE):
        call()


def quality_cells(name: str, device: str = "auto") -> list[Cell]:
    """One model's quality with the published weights, a cell a ratio as `decay.decay_cells` has them; of a latent model
    also what its autoencoder alone loses. Stable Diffusion: 20 images, the others 100, of 200 steps.

    Raises MissingWeights where they are neither cached nor to be had.
    """
    place, scale = check_device(device), SCALES[SCALE]
    dtype = half(place) if place.type == "cuda" else "float32"
    subject = Subject(name, "hub", str(place), precision=dtype)
    images = images_compared(subject)
    draw = draws.draw(subject, images, scale.steps)
    found = list(decay.decay_cells(subject, RATIOS, draw, min(scale.watched, images), METHOD))
    baselines = [subject] if subject.latent and not subject.conditional else []
    return found + [cell for item in baselines for cell in decay.baseline_cells(item, images, 0)]


def images_compared(subject: Subject) -> int:
    """How many images of a model are compared, as chapter 5 does at this scale."""
    return SCALES[SCALE].prompted if subject.conditional else SCALES[SCALE].images


def steps_table(found: Iterable[records.Record]) -> pd.DataFrame:
    """The timed steps in some records, in the columns of `timing.network_times` (a step is a round) and more.

    model, weights, ratio, round, seconds, kind; then device (its name, dtype and backend in words), timed: how many steps
    a scaled time rests on. Rounds are numbered on from cell to cell, so that a ratio pairs with the ratio 0 it took turns
    with. For `timing.image_seconds`, which scales them to an image.
    """
    rows, first = [], 0
    for record in (record for record in found if record.name == "thesis-steps"):
        whole = {"model": record.model["name"], "weights": record.model["weights"], "device": where(record)}
        names = {label(ratio): (ratio, "measured") for ratio in record.asked["ratios"]} | {timing.AGAIN: (0.0, "again")}
        for name, (ratio, kind) in names.items():
            about = whole | {"ratio": ratio, "kind": kind, "timed": record.asked["steps"]}
            rows += [about | {"round": first + k, "seconds": float(s)} for k, s in enumerate(record.values[name])]
        first += record.asked["steps"]
    return pd.DataFrame(rows, columns=["model", "weights", "ratio", "round", "seconds", "kind", "device", "timed"])


def image_table(found: Iterable[records.Record]) -> pd.DataFrame:
    """Images that ran whole on the clock: model, ratio, device (as `steps_table` has it), seconds."""
    rows = [
        {"model": r.model["name"], "ratio": r.asked["ratio"], "device": where(r), "seconds": float(r.values["image"][0])}
        for r in found if r.name == "thesis-image"
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "ratio", "device", "seconds"])


def where(record: records.Record) -> str:
    """Device, dtype and backend of a record in words."""
    return f"{record.device['name']}, {record.device['dtype']}, {record.asked['backend']} attention"


def scaling(found: Iterable[records.Record]) -> pd.DataFrame:
    """How well scaling does: model, ratio, device, seconds of a whole image, the same scaled, error = scaled / seconds - 1."""
    found = list(found)
    steps = steps_table(found)
    one = ["model", "ratio", "device"]
    scaled = timing.image_seconds(steps[steps.kind == "measured"]).groupby(one).seconds.mean().rename("scaled")
    table = image_table(found).merge(scaled.reset_index(), on=one)
    return table.assign(error=table.scaled / table.seconds - 1)


def told(record: records.Record) -> str:
    """What a record found, in a line; a time that is scaled says so."""
    values = record.values
    if record.name == "thesis-steps":
        base, ratio = values[label(0)], max(record.asked["ratios"])
        seconds = THESIS_STEPS * values[label(ratio)].mean()
        hours = f"{IMAGES} images of {THESIS_STEPS} steps in {IMAGES * seconds / 3600:.3g} h"
        other = values[label(ratio) if ratio else timing.AGAIN]
        change = cost.paired_interval(base, other)
        interval = f"{change.value:+.2%} against ratio 0 ({change.low:+.2%} to {change.high:+.2%})"
        return f"{hours}, scaled from {record.asked['steps']} steps; {interval}"
    if record.name == "thesis-image":
        return f"{values['image'][0]:.4g} s for one image of {record.asked['steps']} steps, on the clock"
    if record.name == "thesis-memory":
        return f"{values['extra'][0] / 2**20:.4g} MiB at the peak of a step"
    return f"PSNR {values['psnr'].mean():.4g} dB, SSIM {values['ssim'].mean():.4g} on average"


def check_scaling(found: Iterable[records.Record]) -> str:
    """`scaling` in words; nothing where no image ran whole."""
    return "; ".join(f"{row.model} at {row.ratio:.0%} {row.error:+.1%}" for row in scaling(found).itertuples())
