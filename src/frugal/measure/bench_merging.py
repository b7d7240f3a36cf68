"""`frugal bench merging`: what merging saves, with another implementation beside it, whole networks or one layer alone.

Steps are interleaved and compared round by round. What memory would not hold is predicted, left out and said.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..methods import library, merging
from ..methods.merging import merge_tokens
from ..methods.reuse import Run
from ..models import zoo
from . import capacity, cost, merging_layer, records
from .backends import BACKENDS, attending
from .memory import peak_memory
from .merging_layer import over_period
from .plan import MERGING, TIMESTEP, Subject, step_input
from .quality import Estimate

RATIOS = (0.1, 0.3, 0.5, 0.75)
DTYPES = ("float32", "float16", "bfloat16")
GIB = 2**30


@dataclass(frozen=True)
class Bench:
    """What is measured, in the words of the command line."""

    model: str = "stable-diffusion-v1-5"
    weights: str = "random"
    ratios: tuple[float, ...] = RATIOS
    resolutions: tuple[int, ...] = (512,)  # of the image, pixels
    backends: tuple[str, ...] = ("fused",)  # of attention: fused, math
    method: str = merging.METHOD
    reuse: int = merging.REUSE
    against: str | None = library.LIBRARY
    layers: str | int = "auto"
    batch: int = 1
    rounds: int = 5
    memory: bool = True  # whether peak memory is measured as well
    device: str = "auto"
    dtype: str = "float32"  # in which the network computes
    scale: str = "quick"

    def __post_init__(self):
        choices = (
            ("backends", self.backends, BACKENDS), ("against", [self.against], (library.LIBRARY, None)), ("dtype", [self.dtype], DTYPES),
            ("method", [self.method], merging.METHODS),
        )  # fmt: skip
        for name, got, allowed in choices:
            if unknown := [item for item in got if item not in allowed]:
                raise ValueError(f"{name}: got {unknown[0]!r}, allowed are {', '.join(map(str, allowed))}")
        for name, got, most in (("ratios", self.ratios, merging.LARGEST_RATIO), ("resolutions", self.resolutions, np.inf)):
            if not got or min(got) <= 0 or max(got) > most:
                raise ValueError(f"{name}: got {got}, allowed are numbers above 0" + (f", to {most}" if most < np.inf else ""))
        for name in ("batch", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is a whole number from 1")

    @property
    def ways(self) -> dict[str, tuple[str, float]]:
        """Name of each way of merging: method and ratio."""
        ours = {f"{self.method} {ratio:g}": (self.method, ratio) for ratio in self.ratios}
        theirs = [ratio for ratio in self.ratios if self.against and ratio <= library.TOMESD_LARGEST_RATIO]
        return ours | {f"{self.against} {ratio:g}": (self.against, ratio) for ratio in theirs}


@dataclass(frozen=True)
class Row:
    """One ratio at one resolution and backend: seconds of a step, and changes of them with their 95 % intervals."""

    resolution: int
    backend: str
    ratio: float
    plain: float
    merged: float  # over a period of reuse
    against: float | None
    gain: Estimate  # of merged against plain, -0.1: a tenth less
    lead: Estimate | None  # of merged against the other implementation
    bytes: dict[str, int]  # peak above the loaded network: plain, merged, against

    def __str__(self) -> str:
        lead = f", {_change(self.lead)} of tomesd's {self.against:.3f} s" if self.lead else ""
        peaks = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.bytes.items())
        peaks = f"; peak GiB: {peaks}" if peaks else ""
        return (
            f"{self.resolution:5} px {self.backend:5} ratio {self.ratio:.2f}: {self.plain:.3f} -> {self.merged:.3f} s a step, "
            f"{_change(self.gain)}{lead}{peaks}"
        )


def _change(change: Estimate) -> str:
    return f"{change.value:+.1%} ({change.low:+.1%} to {change.high:+.1%})"


def network(bench: Bench) -> list[Row]:
    """Measure, or read from this machine's records, and print row by row."""
    subject, rows = Subject(bench.model, bench.weights, bench.device, precision=bench.dtype), []
    scale = subject.model.image_size // subject.model.latent_shape[1]
    for resolution in bench.resolutions:
        size = (resolution // scale,) * 2
        for backend in bench.backends:
            needed = capacity.memory(subject.model.unet, size, bench.batch, backend == "math")
            free = capacity.free(subject.model.device)
            if needed > free:
                print(f"{resolution:5} px {backend:5}: about {needed / GIB:.1f} GiB predicted, {free / GIB:.1f} are free: left out", flush=True)
                continue
            for row in _rows(bench, subject, resolution, size, backend):
                print(row, flush=True)
                rows.append(row)
    return rows


def _rows(bench: Bench, subject: Subject, resolution: int, size: tuple[int, int], backend: str) -> Iterator[Row]:
    about = {"scale": bench.scale, "model": subject.about, "device": subject.place, "dtype": subject.dtype}
    asked = {"size": size, "backend": backend, "ratios": bench.ratios, "method": bench.method, "against": bench.against}
    asked |= {"reuse": bench.reuse, "layers": bench.layers, "batch": bench.batch}
    source = (*MERGING, cost.interleaved, _seconds, _step)
    function = partial(_seconds, bench, subject, size, backend)
    record = records.measure("time", "merging", asked | {"rounds": bench.rounds}, function, source=source, **about)
    found = record.values
    for ratio in bench.ratios:
        ours, other = f"{bench.method} {ratio:g}", found.get(f"{bench.against} {ratio:g}")
        merged = over_period(found[ours], found.get(f"{ours} later", found[ours]), bench.reuse)
        ways = {"plain": None, "merged": bench.method} | ({"tomesd": bench.against} if other is not None else {})
        peaks = {}
        for name, method in ways.items() if bench.memory else ():
            ask = {"size": size, "backend": backend, "ratio": ratio if method else 0.0, "method": method, "batch": bench.batch}
            ask |= {"layers": bench.layers}
            measure = partial(_peak, subject, **ask)
            kept = records.measure("memory", "merging-memory", ask, measure, source=(*MERGING, _prepared, _run), **about)
            peaks[name] = int(kept.values["extra"][0])
        medians = [None if v is None else float(np.median(v)) for v in (found["plain"], merged, other)]
        lead = None if other is None else cost.paired_interval(other, merged)
        yield Row(resolution, backend, ratio, *medians, cost.paired_interval(found["plain"], merged), lead, peaks)


@torch.inference_mode()
def _seconds(bench: Bench, subject: Subject, size: tuple[int, int], backend: str) -> dict:
    unet, runs = subject.model.unet, {}
    arguments, options = step_input(unet, device=subject.model.device, size=size, batch=bench.batch)
    contexts = {"plain": partial(merge_tokens, unet, 0)}
    for name, (method, ratio) in bench.ways.items():
        ask = {"method": method, "layers": bench.layers, "reuse": bench.reuse}
        contexts[name] = partial(_step, runs, name, 0, unet, ratio, **ask)
        if method != library.LIBRARY and bench.reuse > 1:
            contexts[f"{name} later"] = partial(_step, runs, name, 1, unet, ratio, **ask)
    functions = dict.fromkeys(contexts, partial(unet, *arguments, **options))
    with attending(backend):
        seconds = cost.interleaved(functions, bench.rounds, 1, subject.model.device, contexts)
    return {name: {"unit": "s", "values": values} for name, values in seconds.items()}


@contextmanager
def _step(runs: dict[str, Run], name: str, step: int, unet, ratio: float, **options) -> Iterator[None]:
    """The network merged, in the first step of a run or in one that reuses what the last such run has chosen."""
    if step == 0:
        runs[name] = Run()
    with merge_tokens(unet, ratio, **options), runs[name].step_at(step, TIMESTEP):
        yield


def _peak(subject: Subject, size, backend: str, ratio: float, method: str | None, batch: int, layers) -> dict:
    arguments = subject.name, subject.weights, subject.place, subject.dtype, size, backend, ratio, method or merging.METHOD, batch, layers
    found = peak_memory(_run, *arguments, prepare=_prepared, device=subject.place)
    return {"extra": {"unit": "B", "values": [found.extra]}}


def _prepared(name, weights, device, dtype, size, backend, ratio, method, batch, layers):
    unet = Subject(name, weights, device, precision=dtype).model.unet
    arguments, options = step_input(unet, device=unet.device, size=tuple(size), batch=batch)
    return merge_tokens(unet, ratio, method=method, layers=layers), backend, partial(unet, *arguments, **options)


@torch.inference_mode()
def _run(prepared) -> None:
    merged, backend, forward = prepared
    with merged, attending(backend):
        forward()


def alone(
    ratios: Sequence[float] = merging_layer.RATIOS, resolutions: Sequence[int] = (512,), backends: Sequence[str] = ("fused",),
    memory: bool = True, device: str = "auto", dtype: str = "float32", **options,
) -> bool:  # fmt: skip
    """Print what one layer alone reaches of the ideal; False where the default method and reuse miss their marks."""
    Bench(ratios=ratios, resolutions=resolutions, backends=backends, dtype=dtype, **options)  # refuses what is not allowed
    met, device = True, str(zoo.find_device(device))
    for resolution in resolutions:
        for backend in backends:
            for row in merging_layer.shares(tuple(ratios), resolution, backend, device=device, dtype=getattr(torch, dtype), **options):
                known = resolution == 512 and backend == "fused" and row.way == merging_layer.way()
                least = merging_layer.LEAST.get(row.ratio) if known else None
                met &= least is None or row.share.value >= least
                verdict = "" if least is None else f"; at least {least}: {'met' if row.share.value >= least else 'MISSED'}"
                print(f"{resolution:5} px {backend:5} {row}{verdict}", flush=True)
            for ratio in ratios if memory else ():
                ways = (None, options.get("method", merging.METHOD), *[library.LIBRARY] * (ratio <= library.TOMESD_LARGEST_RATIO))
                peaks = {way or "untouched": merging_layer.peak_bytes(ratio, way, resolution, backend, device) for way in ways}
                told = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in peaks.items())
                print(f"{resolution:5} px {backend:5} ratio {ratio:.2f}: peak MiB: {told}", flush=True)
    return met


LISTS = {"ratios": float, "resolutions": int, "backends": str}
OF_NETWORK = tuple(name for name in Bench.__dataclass_fields__ if name not in ("layers", "scale"))  # two that the command line lacks
OF_LAYER = ("ratios", "resolutions", "backends", "method", "rounds", "memory", "device", "dtype")
OF_QUALITY = ("images", "method", "reuse", "device")


def asked(layer: bool = False, quality: bool = False, **options) -> bool:
    """The command: texts such as "0.3,0.5" and "none" as values; whether the targets are met.

    Raises ValueError for what is not allowed, and for an option that would change nothing.
    """
    for name in LISTS.keys() & options.keys():
        try:
            options[name] = tuple(LISTS[name](item) for item in options[name].split(","))
        except ValueError:
            raise ValueError(f"--{name}: got {options[name]!r}, allowed are numbers with commas between them") from None
    if options.get("against") == "none":
        options["against"] = None
    allowed = OF_QUALITY if quality else OF_LAYER if layer else OF_NETWORK
    if unused := [name for name in options if name not in allowed] + ["layer"] * (layer and quality):
        raise ValueError(f"--{unused[0]}: got it where it changes nothing, allowed are {', '.join(f'--{name}' for name in allowed)}")
    if quality:
        from . import fidelity

        return fidelity.told(options.pop("images", 128), **options)
    if layer:
        return alone(**options)
    network(Bench(**options))
    return True
