"""The seconds of chapter 5, as tables: whole networks, their attention layers, decoding, iterations.

Every table is read from records: asking again costs nothing, a kill loses one round. Ratios run in turn within a round,
so that drift and noise fall on all alike.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from functools import cache, partial

import numpy as np
import pandas as pd
import torch

from ..methods import merging, samplers
from ..models import zoo
from . import cost
from .plan import MERGING, PUBLISHED_REUSE, RATIOS, THESIS_STEPS, TIMESTEP, Cell, Subject, step_input

DECODING = 3.3  # steps' worth of FLOPs in decoding an image (the published latent model)
FEWEST = 4  # rounds from which a change can be judged
AGAIN = "ratio 0 again"  # run beside ratio 0 in every round: what is no change at all
UNSURE = "not distinguishable from zero"


def network_cells(subject: Subject, ratios: Iterable[float], rounds: int, method: str, divisor: int) -> Iterator[Cell]:
    """One cell a round: a denoising step of the whole network, batch 1, at each ratio."""
    ratios = tuple(ratios)

    @cache
    def prepare():
        arguments, options = step_input(subject.model.unet, divisor, subject.model.device)
        contexts = merges(subject, ratios, method)
        return torch.inference_mode()(partial(subject.model.unet, *arguments, **options)), with_twin(contexts)

    run = _Rounds(prepare, subject)
    asked = {"ratios": ratios, "method": method, "batch": 1, "timestep": TIMESTEP, "divisor": divisor}
    for k in range(rounds):
        steps = (len(ratios) + (0 in ratios)) * (1 + (k == 0)) / divisor**2
        yield Cell(
            "time", "network", subject, asked | {"round": k}, partial(run, k), (*MERGING, cost.interleaved), steps
        )


def layer_cells(subject: Subject, ratios: Iterable[float], rounds: int, method: str, divisor: int) -> Iterator[Cell]:
    """One cell a round: every self-attention layer alone, on what reaches it in the network, at each ratio."""
    ratios = tuple(ratios)

    @cache
    def prepare():
        unet = subject.model.unet
        if not subject.plain:
            raise ValueError(f"models: got {subject.name}, whose layers sit in transformer blocks; it is timed whole")
        arguments, options = step_input(unet, divisor, subject.model.device)
        alone, contexts = cost.layer_calls(unet, *arguments, **options), merges(subject, ratios, method)
        named = {f"{layer} {label(ratio)}": (layer, ratio) for ratio in ratios for layer in alone}
        calls = {name: alone[layer] for name, (layer, _) in named.items()}
        return calls, {name: contexts[label(ratio)] for name, (_, ratio) in named.items()}

    run = _Rounds(prepare, subject)
    asked = {"ratios": ratios, "method": method, "batch": 1, "timestep": TIMESTEP, "divisor": divisor}
    source = (*MERGING, cost.interleaved, cost.layer_calls)
    for k in range(rounds):
        work = {"steps": (k == 0) / divisor**2, "passes": len(ratios) * (1 + (k == 0)) / divisor**2}
        yield Cell("time", "layers", subject, asked | {"round": k}, partial(run, k), source, **work)


def decode_cells(subject: Subject, rounds: int, divisor: int) -> Iterator[Cell]:
    """One cell a round: decoding one image."""

    @cache
    def prepare():
        channels, height, width = subject.model.latent_shape
        latents = torch.randn(
            1, channels, height // divisor, width // divisor, generator=torch.Generator().manual_seed(0)
        )
        return partial(subject.model.decode, latents.to(subject.model.device)), {"decode": contextlib.nullcontext}

    run = _Rounds(prepare, subject)
    for k in range(rounds):
        steps = DECODING * (1 + (k == 0)) / divisor**2
        asked = {"batch": 1, "divisor": divisor, "round": k}
        yield Cell("time", "decode", subject, asked, partial(run, k), (zoo.Model.decode, cost.interleaved), steps)


class _Rounds:
    """Round k of the same functions, in the order of `cost.turn`; the first one measured in a process warms up."""

    def __init__(self, prepare, subject: Subject):
        self.prepare, self.subject, self.warm = prepare, subject, False

    def __call__(self, k: int) -> dict:
        function, contexts = self.prepare()
        functions = function if isinstance(function, dict) else {name: function for name in contexts}
        ordered = {name: functions[name] for name in cost.turn(functions, k)}
        seconds = cost.interleaved(ordered, 1, 0 if self.warm else 1, self.subject.model.device, contexts)
        self.warm = True
        return {name: {"unit": "s", "values": values} for name, values in seconds.items()}


def label(ratio: float) -> str:
    """The name under which a record keeps what was measured at a ratio."""
    return f"ratio {ratio:g}"


def merges(subject: Subject, ratios: tuple[float, ...], method: str) -> dict:
    """A context a ratio that merges the network's tokens; what is not allowed is refused before anything is timed."""
    options = {"method": method, "reuse": PUBLISHED_REUSE}
    contexts = {label(r): partial(merging.merge_tokens, subject.model.unet, r, **options) for r in ratios}
    for merge in contexts.values():
        merge().remove()
    return contexts


def with_twin(contexts: dict) -> dict:
    return contexts | ({AGAIN: contexts[label(0)]} if label(0) in contexts else {})


def _ratios_and_kinds(cell: Cell) -> list[tuple[str, float, str]]:
    """Label, ratio and kind of all that a cell of ratios timed, its twin of ratio 0 last."""
    found = [(label(ratio), ratio, "measured") for ratio in cell.asked["ratios"]]
    return found + ([(AGAIN, 0.0, "again")] if 0 in cell.asked["ratios"] else [])


def network_times(
    models, ratios=RATIOS, rounds: int = 7, *, method="tome", scale="quick", divisor=1, device="auto"
) -> pd.DataFrame:  # fmt: skip
    """Seconds of one denoising step of the whole network, batch 1: model, weights, ratio, round, seconds, kind.

    kind: "measured"; or "again", a second run of ratio 0 in the same round, which shows how little can be told apart.
    `models`: names, pairs (name, weights) or loaded models. `divisor` divides the side of the input.
    """
    rows = []
    for subject in (Subject.of(item, device) for item in models):
        for cell in network_cells(subject, ratios, rounds, method, divisor):
            seconds = cell.measure(scale).values
            for name, ratio, kind in _ratios_and_kinds(cell):
                value = float(seconds[name][0])
                where = {"ratio": ratio, "round": cell.asked["round"]}
                rows.append(subject.title | where | {"seconds": value, "kind": kind})
    return pd.DataFrame(rows, columns=["model", "weights", "ratio", "round", "seconds", "kind"])


def layer_times(
    models, ratios=RATIOS, rounds: int = 7, *, method="tome", scale="quick", divisor=1, device="auto"
) -> pd.DataFrame:  # fmt: skip
    """Seconds of each self-attention layer alone at its true input: model, weights, layer, tokens, channels, ratio, round, seconds.

    Raises ValueError for networks of transformer blocks, whose layers need what surrounds them.
    """
    rows = []
    for subject in (Subject.of(item, device) for item in models):
        shapes = layer_shapes(subject, divisor)
        for cell in layer_cells(subject, ratios, rounds, method, divisor):
            seconds = cell.measure(scale).values
            for ratio in cell.asked["ratios"]:
                for layer, shape in shapes.items():
                    where = {"layer": layer, **shape, "ratio": ratio, "round": cell.asked["round"]}
                    rows.append(subject.title | where | {"seconds": float(seconds[f"{layer} {label(ratio)}"][0])})
    return pd.DataFrame(rows, columns=["model", "weights", "layer", "tokens", "channels", "ratio", "round", "seconds"])


@cache
def layer_shapes(subject: Subject, divisor: int = 1) -> dict[str, dict[str, int]]:
    """Tokens and channels of every self-attention layer of a UNet2DModel, from its blueprint."""
    size = subject.blueprint.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return {
        layer.name: {
            "tokens": (height // divisor // layer.factor) * (width // divisor // layer.factor),
            "channels": layer.attention.query_dim,
        }
        for layer in merging.self_attentions(subject.blueprint)
    }


def composed_times(network: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """The network's seconds at every ratio of its layers, round by round: at ratio 0, less its layers, plus the merged layers.

    Rows like `network_times`, kind "composed", ratios above 0 only: the spread over rounds is that of both measurements,
    the change against ratio 0 of the same round that of the layers alone. Layers and network are timed one after the
    other: where a busy machine lets the layers alone take longer than all, the rest of the network counts as nothing.
    """
    turn = ["model", "weights", "round"]
    base = network[(network.ratio == 0) & (network.kind == "measured")].set_index(turn).seconds
    sums = layers.groupby([*turn, "ratio"], sort=False).seconds.sum().rename("merged").reset_index()
    plain = sums[sums.ratio == 0].set_index(turn).merged
    rows = sums[sums.ratio > 0].merge(plain.rename("plain").reset_index(), on=turn)
    rows = rows.merge(base.rename("base").reset_index(), on=turn)
    rows = rows.assign(seconds=(rows.base - rows.plain).clip(lower=0) + rows.merged, kind="composed")
    return rows[list(network.columns)].sort_values(["model", "ratio", "round"], ignore_index=True)


def decode_times(models, rounds: int = 3, *, scale="quick", divisor=1, device="auto") -> pd.DataFrame:
    """Seconds of decoding one image: model, weights, round, seconds; no row for a model in pixels, which decodes nothing."""
    rows = []
    for subject in (Subject.of(item, device) for item in models):
        for cell in decode_cells(subject, rounds, divisor) if subject.latent else ():
            seconds = float(cell.measure(scale).values["decode"][0])
            rows.append(subject.title | {"round": cell.asked["round"], "seconds": seconds})
    return pd.DataFrame(rows, columns=["model", "weights", "round", "seconds"])


def iteration_cells(subject: Subject, ratios, images: int, steps: int, method: str, seed: int) -> Iterator[Cell]:
    """One cell an image: every denoising iteration on the clock, the ratios taking turns within a step."""
    ratios = tuple(ratios)
    for image in range(seed, seed + images):
        asked = {"ratios": ratios, "method": method, "steps": steps, "seed": image, "sampler": "ddim", "batch": 1}
        function = partial(_iterations, subject, ratios, method, steps, image)
        work = (len(ratios) + (0 in ratios)) * (steps + 1)
        source = (*MERGING, samplers, _iterations, interleaved_steps, cost.turn)
        yield Cell("time", "iterations", subject, asked, function, source, work)


def _iterations(subject: Subject, ratios: tuple[float, ...], method: str, steps: int, seed: int) -> dict:
    contexts = with_twin(merges(subject, ratios, method))
    for merge in contexts.values():  # a step of its own warms up
        with merge():
            next(samplers.denoise(subject.model, [seed], steps))
    states = {name: samplers.denoise(subject.model, [seed], steps) for name in contexts}
    seconds = interleaved_steps(states, contexts, steps, subject.model.device)
    return {name: {"unit": "s", "values": values} for name, values in seconds.items()}


def interleaved_steps(states: dict[str, Iterator], contexts: dict, steps: int, device) -> dict[str, list[float]]:
    """Seconds of the next `steps` steps of several sampling runs, each in its context, which take turns within a step (`cost.turn`)."""
    seconds: dict[str, list[float]] = {name: [] for name in contexts}
    for step in range(steps):
        for name in cost.turn(contexts, step):
            with contexts[name]():
                cost.synchronise(device)
                start = time.perf_counter()
                next(states[name])
                cost.synchronise(device)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def iterations(
    models, ratios=RATIOS, images: int = 1, steps: int = 25, *, seed=0, method="tome", scale="quick", device="auto"
) -> pd.DataFrame:  # fmt: skip
    """Seconds of each denoising iteration (network and scheduler, batch 1, DDIM): model, weights, ratio, image, step,
    seconds, kind (as `network_times`)."""
    rows = []
    for subject in (Subject.of(item, device) for item in models):
        for cell in iteration_cells(subject, ratios, images, steps, method, seed):
            seconds = cell.measure(scale).values
            for name, ratio, kind in _ratios_and_kinds(cell):
                where = subject.title | {"ratio": ratio, "image": cell.asked["seed"], "kind": kind}
                rows += [where | {"step": step, "seconds": float(s)} for step, s in enumerate(seconds[name])]
    return pd.DataFrame(rows, columns=["model", "weights", "ratio", "image", "step", "seconds", "kind"])


def image_seconds(times: pd.DataFrame, steps: int = THESIS_STEPS) -> pd.DataFrame:
    """Seconds of one image of `steps` steps, decoding outside (the thesis's unit), with the columns `steps` and `scaled`.

    From `network_times` and `composed_times`: `steps` times a step, one row a round. From `iterations`: the sum over an
    image's steps, one row an image as `round`, scaled where it had another number of steps.
    """
    if "step" not in times:
        return times.assign(seconds=steps * times.seconds, steps=steps, scaled=True)
    one = ["model", "weights", "ratio", "image", "kind"]
    sums = times.groupby(one, sort=False).seconds.agg(["sum", "size"]).reset_index()
    rows = sums.rename(columns={"image": "round"}).assign(seconds=sums["sum"] * steps / sums["size"])
    return rows.assign(steps=steps, scaled=sums["size"] != steps).drop(columns=["sum", "size"])


def detectable(times: pd.DataFrame) -> pd.DataFrame:
    """Smallest relative change of a step's seconds that as many rounds would find: model, weights, effect, rounds.

    From ratio 0 against its twin of the same round (see `cost.detectable`), as every ratio is compared; nan for fewer
    than four rounds.
    """
    rows = []
    for (model, weights), group in times[times.ratio == 0].groupby(["model", "weights"], sort=False):
        pairs = group.pivot(index="round", columns="kind", values="seconds").dropna()
        enough = len(pairs) >= FEWEST and "again" in pairs
        effect = cost.detectable(pairs.measured.to_numpy(), pairs.again.to_numpy()) if enough else np.nan
        rows.append({"model": model, "weights": weights, "effect": effect, "rounds": len(pairs)})
    return pd.DataFrame(rows, columns=["model", "weights", "effect", "rounds"])


def preferred(times: pd.DataFrame) -> pd.DataFrame:
    """One series a model and ratio: the whole network's times where it was measured, else the composed ones; no twins."""
    rows = times[times.kind != "again"].sort_values("kind", key=lambda kind: kind != "measured", kind="stable")
    first = rows.drop_duplicates(["model", "ratio"])[["model", "ratio", "kind"]]
    return rows.merge(first)


def time_share(times: pd.DataFrame, pixel: str, latent: str, decoding: float = 0.0) -> pd.Series:
    """The latent model's share of the pixel model's time at every ratio: medians, with seconds of decoding added or not."""
    middle = preferred(times).groupby(["model", "ratio"]).seconds.median()
    return (middle[latent] + decoding) / middle[pixel]


def changes(times: pd.DataFrame) -> pd.DataFrame:
    """Median change of a step's seconds against ratio 0 of the same round, with its 95 % interval (`quality.median_interval`) and a verdict.

    Columns model, weights, ratio, kind, change (-0.1: a tenth less), low, high, detectable, verdict: "faster", "slower" or
    "not distinguishable from zero", where the change is smaller than what the network's rounds can detect (a composed one
    too), its interval holds zero, or the rounds are too few to tell.
    """
    rows = []
    smallest = detectable(times).set_index(["model", "weights"]).effect
    base = (
        times[(times.ratio == 0) & (times.kind == "measured")]
        .set_index(["model", "weights", "round"])
        .seconds.sort_index()
    )
    for (model, weights, ratio, kind), group in times[times.ratio > 0].groupby(
        ["model", "weights", "ratio", "kind"], sort=False
    ):
        paired = base[model, weights].reindex(group["round"]).to_numpy()
        found, effect = cost.paired_interval(paired, group.seconds.to_numpy()), float(smallest[model, weights])
        sure = abs(found.value) >= effect and (found.low > 0 or found.high < 0)  # never where effect is nan
        verdict = ("faster" if found.value < 0 else "slower") if sure else UNSURE
        row = {"model": model, "weights": weights, "ratio": ratio, "kind": kind, "change": found.value}
        rows.append(row | {"low": found.low, "high": found.high, "detectable": effect, "verdict": verdict})
    columns = ["model", "weights", "ratio", "kind", "change", "low", "high", "detectable", "verdict"]
    return pd.DataFrame(rows, columns=columns).sort_values(["model", "ratio", "kind"], ignore_index=True)
