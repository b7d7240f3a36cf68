"""The times behind `predict_speedup`: a step of the untouched network, and its layers alone, whole and merged.

Each is a record of this machine. Shapes and modules decide them, not what was learned, so records name an architecture.
"""

import contextlib
import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from ..methods import merging
from ..methods.merging import Layer, merge_tokens
from ..models import own
from . import alone, capacity, cost, fingerprint, records
from .backends import BACKENDS, attending
from .plan import MERGING, TIMESTEP, step_input

MERGED = ("seed", "reuse")  # of merge_tokens, beside what predict_speedup names itself
NETWORK_ROUNDS = 3  # a share within one step varies less than the step itself


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of which network, checked; `size` is that of the network's input."""

    unet: nn.Module
    method: str
    ratio: float
    size: tuple[int, int]
    downsampling: int
    backend: str | None
    layers: tuple[Layer, ...]
    batch: int
    rounds: int
    scale: str
    options: dict  # of merge_tokens besides ratio and method

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def attentions(self) -> list[nn.Module]:
        return [layer.attention for layer in self.layers]

    @property
    def pixels(self) -> tuple[int, int]:
        return tuple(side * self.downsampling for side in self.size)

    def at(self, ratio: float) -> "Question":
        return replace(self, ratio=ratio)

    def merge(self) -> merging.Merging:
        return merge_tokens(self.unet, self.ratio, method=self.method, **self.options)

    def input(self, device: Any = None) -> tuple[tuple, dict]:
        return step_input(self.unet, device=device or self.device, size=self.size, batch=self.batch)

    def measure(self, kind: str, name: str, function, source: tuple, **asked) -> dict[str, np.ndarray]:
        """The values of a record, measured now unless stored; only measured where nobody can say what time depends on."""
        if fingerprint.opaque(self.unet):
            return {quantity: np.array(entry["values"], dtype=np.float64) for quantity, entry in function(self).items()}
        asked |= {"size": self.size, "batch": self.batch, "layers": [layer.name for layer in self.layers]}
        model = {"name": type(self.unet).__name__, "weights": "any", "weights_hash": self.architecture}
        about = {"scale": self.scale, "source": source, "model": model, "device": str(self.device)}
        return records.measure(kind, name, asked, partial(function, self), dtype=self.unet.dtype, **about).values

    @cached_property
    def architecture(self) -> str:
        return fingerprint.fingerprint(self.unet)


@dataclass(frozen=True)
class Times:
    """Samples of seconds and shares at the size asked for."""

    network: np.ndarray  # seconds of a step
    layers: np.ndarray  # of these, inside the layers to be merged
    saved: np.ndarray  # part of their time that the layers save, merged
    flops_saved: float  # part of their FLOPs
    flops_share: float  # of a step's FLOPs inside the layers
    how: tuple[str, ...]


def question(
    given, method, ratio, resolution=None, backend=None, *, layers="auto", batch=1, downsampling=None, rounds=5,
    scale="quick", **options,
) -> Question:  # fmt: skip
    """The checked question of `predict_speedup`, which names the arguments; raises ValueError as it says."""
    if unknown := sorted(set(options) - set(MERGED)):
        allowed = f"its own arguments and merge_tokens' {' and '.join(MERGED)}"
        raise ValueError(f"{', '.join(unknown)}: got an argument that predict_speedup does not have, allowed are {allowed}")
    unet, factor = _network(given)
    factor = factor if downsampling is None else downsampling
    for name, value in (("batch", batch), ("rounds", rounds), ("downsampling", factor)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}: got {value!r}, allowed is a whole number from 1 on")
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend: got {backend!r}, allowed are {', '.join(BACKENDS)} and None, what the network does")
    options = options | {"layers": layers}
    merge_tokens(unet, ratio, method=method, **options).remove()  # refuses what it does not take
    chosen, size = tuple(merging.select(unet, layers)), _size(unet, resolution, int(factor))
    asked = Question(unet, method, float(ratio), size, int(factor), backend, chosen, batch, rounds, scale, options)
    if ratio > 0 and not any(int(ratio * math.prod(alone.grid(layer, size))) for layer in chosen):
        raise ValueError(f"ratio: got {ratio}, which removes none of the tokens of these layers at {_px(asked)}")
    if backend is not None and ratio > 0:
        _check_backend(asked)
    return asked


def _network(given: Any) -> tuple[nn.Module, int]:
    """The network, and the pixels of an image to a place of its input."""
    bare = isinstance(given, nn.Module)
    unet, vae = (given, None) if bare else (own.parts(given)[part] for part in ("unet", "vae"))
    if hasattr(unet, "_orig_mod"):
        inside = "the network inside, `_orig_mod`, would do, and is timed as it runs without torch.compile"
        raise ValueError(f"unet_or_model: got a network wrapped by torch.compile, allowed is one that is not: {inside}")
    if not isinstance(unet, UNet2DModel | UNet2DConditionModel):
        allowed = "a UNet2DModel, a UNet2DConditionModel, a frugal model or a pipeline with one of them"
        raise ValueError(f"unet_or_model: got {type(given).__name__}, allowed is {allowed}")
    if bare:
        return unet, 8 if isinstance(unet, UNet2DConditionModel) else 1
    return unet, 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)


def _size(unet: nn.Module, resolution: Any, downsampling: int) -> tuple[int, int]:
    """The size of the network's input for an image of `resolution` pixels."""
    usual = unet.config.sample_size
    if resolution is None and usual is None:
        raise ValueError("resolution: got None, but the network's configuration names no sample_size: allowed is a side in pixels or a pair (height, width)")
    if resolution is None:
        return (usual, usual) if isinstance(usual, int) else tuple(usual)
    sides = tuple(resolution) if isinstance(resolution, tuple | list) else (resolution, resolution)
    multiple = downsampling * capacity.multiple(unet)
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) and side > 0 for side in sides)
    if len(sides) != 2 or not whole or any(side % multiple for side in sides):
        raise ValueError(
            f"resolution: got {resolution!r}, allowed is a side in pixels or a pair (height, width), "
            f"multiples of {multiple}"
        )
    return tuple(int(side) // downsampling for side in sides)


@torch.inference_mode()
def _check_backend(question: Question) -> None:
    """One call of the layers on a few tokens: is the backend there, and does the network listen to it?"""
    few = (2 * max(layer.factor for layer in question.layers),) * 2
    noise = torch.zeros(1, device=question.device)
    layers = alone.only(question.unet, question.layers, few)
    with attending(question.backend), layers, alone.counted_attention() as calls:
        try:
            question.unet(noise, TIMESTEP)
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"backend: got {question.backend!r}, which {question.device} cannot run for this network ({reason}); "
                "allowed is another, or None"
            ) from None
    if not calls:
        kinds = sorted({type(layer.attention.processor).__name__ for layer in question.layers})
        raise ValueError(
            f"backend: got {question.backend!r}, but {', '.join(kinds)} does not call scaled_dot_product_attention, "
            "whose backends these are; allowed is None"
        )


def times(question: Question) -> Times:
    """All that the prediction needs, at the size asked for, or scaled to it from the largest size that can be run."""
    network_size = _largest(question, "network")
    layer_size = max(network_size, _largest(question, "layers"))
    smaller, alone_ = replace(question, size=network_size), replace(question, size=layer_size)
    network, layers = network_times(smaller), layer_times(alone_)
    target, counted = count_flops(question), count_flops(smaller)
    inside, rest = network["layers"], network["network"] - network["layers"]
    how = [f"a step and its share in the layers: {NETWORK_ROUNDS} steps of the untouched network at {_px(smaller)}"]
    how += [f"layers alone, whole and merged in turn: {question.rounds} rounds at {_px(alone_)}"]
    if network_size != question.size:
        rest = rest * (target["rest"] / counted["rest"])
        grown = inside * target["layers"] / counted["layers"]
        inside = np.median(layers["inside"]) if layer_size == question.size else grown
        how.append(f"{_px(question)} is too large to be run here: the rest of the step is scaled by its FLOPs")
    if layer_size != question.size:
        how.append("and so are the layers; the part of their time that merging saves is left as it is, rather too low")
    if (reuse := int(layers["reuse"][0])) > 1:
        how.append(f"a matching serves {reuse} steps: the mean of these")
    share = float(target["layers"] / (target["layers"] + target["rest"]))
    return Times(rest + inside, inside + 0 * rest, *_saved(layers, reuse), flops_share=share, how=tuple(how))


def _saved(layers: dict[str, np.ndarray], reuse: int) -> tuple[np.ndarray, float]:
    """Parts of their time and of their FLOPs that the layers save, merged, over the steps that a matching serves."""
    merged, flops = (
        (layers[first] + (reuse - 1) * layers.get(later, 0.0)) / reuse
        for first, later in (("matching", "reusing"), ("flops_matching", "flops_reusing"))
    )
    return (layers["whole"] - merged) / layers["inside"], float(1 - flops[0] / layers["flops_whole"][0])


def _px(question: Question) -> str:
    height, width = question.pixels
    return f"{width}x{height} px"


def _largest(question: Question, part: str) -> tuple[int, int]:
    """The size asked for or the next half of it at which a part of the network can be run on this machine."""
    scores = question.backend == "math" or any(type(a.processor) is AttnProcessor for a in question.attentions)
    sizes = list(capacity.halves(question.unet, question.size))
    possible = capacity.memory(question.unet, sizes[-1], question.batch, scores) <= capacity.free(question.device)
    for size in sizes if possible else ():  # else there may be no memory for the input with which FLOPs are counted
        flops = count_flops(replace(question, size=size))
        operations = flops["layers"] + (flops["rest"] if part == "network" else 0)
        if capacity.fits(question.unet, size, question.batch, operations, scores):
            return size
    raise ValueError(f"resolution: got {_px(question)}, allowed is less: even a sixteenth of it cannot be run here")


def count_flops(question: Question) -> dict[str, float]:
    """FLOPs of an untouched step inside the layers and in the rest of the network."""
    found = question.measure("count", "prediction-flops", _flops, (_flops, cost.module_flops))
    return {name: float(values[0]) for name, values in found.items()}


def _flops(question: Question) -> dict:
    (sample, timestep), options = question.input("meta")
    counts = cost.module_flops(question.unet, tuple(sample.shape), timestep, **options)
    layers = sum(counts[layer.name] for layer in question.layers)
    return {name: {"unit": "FLOP", "values": [n]} for name, n in (("layers", layers), ("rest", counts[""] - layers))}


def network_times(question: Question) -> dict[str, np.ndarray]:
    """Seconds of a step of the untouched network, and of these inside the layers."""
    source = (_network_seconds, alone.clocked, cost.interleaved)
    return question.measure("time", "prediction-network", _network_seconds, source, backend=question.backend)


@torch.inference_mode()
def _network_seconds(question: Question) -> dict:
    inside: list[float] = []
    arguments, options = question.input()
    step = partial(question.unet, *arguments, **options)
    clock = partial(alone.clocked, question.attentions, inside, question.device)
    with attending(question.backend):
        seconds = cost.interleaved({"step": step}, NETWORK_ROUNDS, 1, question.device, {"step": clock})["step"]
    return {"network": {"unit": "s", "values": seconds}, "layers": {"unit": "s", "values": inside[-NETWORK_ROUNDS:]}}


def layer_times(question: Question) -> dict[str, np.ndarray]:
    """Seconds of the layers alone: whole (and of these inside attention), matching anew, reusing a matching."""
    source = (_layer_seconds, alone, *MERGING, cost.interleaved)
    asked = {"method": question.method, "ratio": question.ratio, "backend": question.backend, "rounds": question.rounds}
    asked["options"] = {key: value for key, value in question.options.items() if key != "layers"}
    return question.measure("time", "prediction-layers", _layer_seconds, source, **asked)


@torch.inference_mode()
def _layer_seconds(question: Question) -> dict:
    unet, inside = question.unet, []
    (noise, timestep), _ = question.input()
    first, later = partial(unet, noise, timestep), partial(unet, noise, timestep - 1)
    with attending(question.backend), alone.only(unet, question.layers, question.size, question.batch):
        flops = {"flops_whole": cost.flops(first)}
        with question.merge() as merged:
            flops |= {"flops_matching": cost.flops(first), "flops_reusing": cost.flops(later)}
            reuse = 1 if question.method == merging.LIBRARY else merged.reuse
        functions = {"whole": first, "matching": first} | ({"reusing": later} if reuse > 1 else {})
        contexts = {"whole": partial(alone.clocked, question.attentions, inside, question.device)}
        contexts |= {"matching": question.merge, "reusing": partial(_matched, question, first)}
        contexts = {name: contexts[name] for name in functions}
        seconds = cost.interleaved(functions, question.rounds, 1, question.device, contexts)
    seconds["inside"] = inside[-question.rounds :]
    found = {name: {"unit": "s", "values": values} for name, values in seconds.items()}
    found |= {name: {"unit": "FLOP", "values": [value]} for name, value in flops.items()}
    return found | {"reuse": {"unit": "count", "values": [reuse]}}


@contextlib.contextmanager
def _matched(question: Question, first):
    """The network merged, a first step behind it, so that the next one reuses that step's matching."""
    with question.merge():
        first()
        yield
