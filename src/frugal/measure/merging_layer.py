"""One self-attention layer alone, merged, against the ideal: the same layer on only the tokens that are kept.

The layer of SD v1-5's first level, projections included; nothing around it, so that matching, merging and copying back are
all that is lost. At the ideal speed-up they would cost nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from ..methods import library, merging
from ..methods.merging import Layer, MergedAttention, Merging
from ..methods.reuse import Run
from ..models.architectures import randomise
from . import cost, memory, records
from .backends import attending
from .plan import MERGING
from .quality import Estimate

BATCH, CHANNELS, HEAD, PIXELS = 2, 320, 40, 8  # of SD v1-5: both halves of guidance; channels a head; pixels a token's side
RATIOS = (0.25, 0.5, 0.75)
REUSES = (merging.REUSE, 1, 5, merging.LONGEST_REUSE)  # steps that a choice serves: the default first, then never and longer
DRAWS = 2000  # of the bootstrap
LEAST = {0.25: 0.9, 0.5: 0.9, 0.75: 0.75}  # share of the ideal speed-up that the default method and reuse are to reach


@dataclass(frozen=True)
class Share:
    """What a way of merging reaches of the ideal speed-up at a ratio, medians of interleaved rounds."""

    ratio: float
    way: str
    milliseconds: float
    speedup: Estimate  # over the untouched layer
    ideal: float  # speed-up of the layer on the tokens kept
    share: Estimate  # ideal seconds / these seconds, round by round

    def __str__(self) -> str:
        return (
            f"ratio {self.ratio:.2f} {self.way:14}: {self.milliseconds:7.1f} ms, x{self.speedup.value:.2f} of an ideal x{self.ideal:.2f}: "
            f"share {self.share.value:.2f} ({self.share.low:.2f} to {self.share.high:.2f})"
        )


def shares(
    ratios: Sequence[float] = RATIOS,
    resolution: int = 512,         # of the image, in pixels
    backend: str = "fused",        # of attention: "fused" or "math"
    reuse: Sequence[int] = REUSES,
    rounds: int = 7,
    *,
    method: str = merging.METHOD, channels: int = CHANNELS, device="cpu", dtype=torch.float32, scale: str = "quick",
) -> list[Share]:  # fmt: skip
    """Each way at each ratio, with tomesd beside it: a step is averaged over a period of reuse with the matching in it.

    The batch are the two halves of guidance, which share a choice that is reused and are matched apart by one that is not.
    `channels`: a multiple of 40, the width of a head. Stored records are not measured again.
    """
    asked = {"ratios": ratios, "resolution": resolution, "backend": backend, "method": method, "rounds": rounds, "channels": channels}
    function = partial(_seconds, asked, device, dtype)
    source = (*MERGING, cost.interleaved, _seconds, _layer)
    record = records.measure("time", "merging-layer", asked, function, scale=scale, source=source, device=str(device), dtype=dtype)
    return compared(record, reuse)


def compared(record: records.Record, reuse: Sequence[int] = REUSES) -> list[Share]:
    """What a record of the layer says of each way at each ratio."""
    found, method, rows = record.values, record.asked["method"], []
    for ratio in record.asked["ratios"]:
        ideal, alone, first, later = (found[f"{what} {ratio:g}"] for what in ("ideal", "alone", "first", "later"))
        ways = {way(method, n): over_period(first, later, n) if n > 1 else alone for n in reuse}
        if f"tomesd {ratio:g}" in found:
            ways["tomesd"] = found[f"tomesd {ratio:g}"]
        for name, seconds in ways.items():
            gained = cost.paired_interval(seconds, ideal)
            share = Estimate(1 + gained.value, 1 + gained.low, 1 + gained.high, gained.n)
            speedup, best = _speedup(found["whole"], seconds), _speedup(found["whole"], ideal).value
            rows.append(Share(ratio, name, 1e3 * float(np.median(seconds)), speedup, best, share))
    return rows


def _speedup(whole: np.ndarray, seconds: np.ndarray) -> Estimate:
    """Ratio of the medians, with an interval from drawing whole rounds again."""
    rounds = np.random.default_rng(0).integers(len(whole), size=(DRAWS, len(whole)))
    drawn = np.median(whole[rounds], axis=1) / np.median(seconds[rounds], axis=1)
    return Estimate(float(np.median(whole) / np.median(seconds)), *map(float, np.quantile(drawn, (0.025, 0.975))), len(whole))


def way(method: str = merging.METHOD, reuse: int = merging.REUSE) -> str:
    """How tables and figures name a way of merging."""
    return f"{method}, reuse {reuse}"


def over_period(first: np.ndarray, later: np.ndarray, reuse: int) -> np.ndarray:
    """Mean seconds of a step whose choice of tokens is good for `reuse` steps, round by round."""
    return (first + (reuse - 1) * later) / reuse


@torch.inference_mode()
def _seconds(asked: dict, device, dtype) -> dict:
    side, like = asked["resolution"] // PIXELS, {"device": device, "dtype": dtype, "channels": asked["channels"]}
    tokens, method = _tokens(side * side, **like), asked["method"]
    functions: dict[str, Callable] = {"whole": partial(_attention(**like), tokens)}
    contexts: dict[str, Callable] = {}
    for ratio in asked["ratios"]:
        kept = tokens[:, : side * side - int(ratio * side * side)].contiguous()
        functions[f"ideal {ratio:g}"] = partial(functions["whole"].func, kept)
        functions[f"alone {ratio:g}"] = partial(_layer(method, ratio, side, reuse=1, **like)[1], tokens)
        merged, attention = _layer(method, ratio, side, **like)
        functions[f"first {ratio:g}"] = partial(_first, merged, attention, tokens)
        functions[f"later {ratio:g}"] = partial(_layer(method, ratio, side, **like)[1], tokens)
        contexts[f"later {ratio:g}"] = partial(Run(halves=BATCH).step_at, 0, 0.0)  # chosen while it warms up
        if ratio <= library.TOMESD_LARGEST_RATIO:
            functions[f"tomesd {ratio:g}"] = partial(_layer(library.LIBRARY, ratio, side, **like)[1], tokens)
    with attending(asked["backend"]):
        found = cost.interleaved(functions, asked["rounds"], 1, device, contexts)
    return {name: {"unit": "s", "values": values} for name, values in found.items()}


def _layer(
    method: str, ratio: float, side: int, device="cpu", dtype=torch.float32, channels: int = CHANNELS,
    reuse: int = merging.LONGEST_REUSE,
) -> tuple[Merging, Attention]:  # fmt: skip
    """The layer on a grid of side x side tokens, merged, and what it reuses."""
    attention = _attention(device, dtype, channels)
    layer = Layer("attention", attention, 1, grid=(side, side))
    merged = Merging(None, ratio, [layer], 0, reuse)
    merged.reset(halves=BATCH)
    of_library = method == library.LIBRARY
    reduce = library.published(torch.Generator(device).manual_seed(0)) if of_library else merging.METHODS[method]
    attention.set_processor(MergedAttention(merged, layer, reduce, attention.processor))
    return merged, attention


def _attention(device="cpu", dtype=torch.float32, channels: int = CHANNELS) -> Attention:
    with torch.device("meta"):
        attention = Attention(channels, heads=channels // HEAD, dim_head=HEAD, processor=AttnProcessor2_0())
    return randomise(attention).to(device, dtype)


def _tokens(count: int, device="cpu", dtype=torch.float32, channels: int = CHANNELS) -> Tensor:
    return torch.randn(BATCH, count, channels, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _first(merged: Merging, attention: Attention, tokens: Tensor) -> Tensor:
    merged.reset(halves=BATCH)
    return attention(tokens)


def peak_bytes(ratio: float, method: str | None = merging.METHOD, resolution: int = 512, backend: str = "math", device="cpu") -> int:
    """Peak memory of one call of the layer with its matching, above the loaded one; method None: untouched."""
    arguments = method, ratio, resolution // PIXELS, backend, str(device)
    return memory.peak_memory(_call, *arguments, prepare=_prepared, device=device).extra


def _prepared(method: str | None, ratio: float, side: int, backend: str, device: str):
    for grid in (8, side):  # the first runs at once: loading its kernels is no memory of attention's
        attention = _attention(device) if method is None else _layer(method, ratio, grid, device)[1]
        prepared = attention, _tokens(grid * grid, device), backend
        if grid != side:
            _call(prepared)
    return prepared


@torch.inference_mode()
def _call(prepared) -> None:
    attention, tokens, backend = prepared
    with attending(backend):
        attention(tokens)
