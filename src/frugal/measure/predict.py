"""Whether merging tokens pays for a network on this machine: the bound and a prediction, before it runs merged.

A share s of a step's time is spent in the layers to be merged, and alone they save a part r of it: the step saves s r,
and no method that acts on these layers saves more than s (Amdahl, AFIPS 1967).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ..methods import merging
from . import layertimes
from .layertimes import Question

DRAWS = 2000  # of the bootstrap
LEVEL = 0.95
WORTHWHILE = 0.02  # of the time: less is lost in the noise of most machines


@dataclass(frozen=True)
class Prediction:
    """What merging would do to one denoising step, without the scheduler, the text encoder and the decoder."""

    method: str
    ratio: float
    resolution: tuple[int, int]  # height and width in pixels of the image
    backend: str | None  # of attention: "fused", "math", or None, what the network does of itself
    device: str
    layers: tuple[str, ...]  # those that would be merged
    speedup: float  # seconds_before / seconds_after
    low: float  # interval of the speed-up: the scatter of the timings, not what the model of it leaves out; at 95 %, of three rounds about 90 %
    high: float
    bound: float  # the speed-up were the layers free
    flops_speedup: float  # what FLOPs alone promise, matching included
    seconds_before: float  # nan where nothing was measured
    seconds_after: float
    time_share: float  # of a step, in the layers' attention
    flops_share: float
    how: tuple[str, ...]  # how each of these was obtained

    @property
    def saved(self) -> float:
        """Share of a step's time that merging saves; below 0 where it costs time."""
        return 1 - 1 / self.speedup

    def __str__(self) -> str:
        height, width = self.resolution
        what = f"{self.method}, {self.ratio:.0%} of the tokens, {width}x{height} px, {self.backend or 'own'} attention"
        if self.ratio == 0:
            return f"{what}: nothing is merged, exactly 1.00x"
        return (
            f"{what} on {self.device}: predicted {self.speedup:.2f}x ({self.low:.2f} to {self.high:.2f}); bound "
            f"{self.bound:.2f}x, as {len(self.layers)} layers take {self.time_share:.0%} of the time: {self._advice()}"
        )

    def _advice(self) -> str:
        if self.high < 1:
            return "do not merge, it costs time"
        if self.low <= 1 or self.saved < WORTHWHILE:
            return "do not merge, there is nothing to gain"
        return f"merge if {self.saved:.0%} of the time is worth an image that differs"


def predict_speedup(
    unet_or_model: nn.Module,                          # UNet2DModel, UNet2DConditionModel, zoo.Model or a pipeline
    method: str = merging.METHOD,                      # as for merge_tokens
    ratio: float = 0.5,                                # share of tokens removed, in [0, 0.9]
    resolution: int | tuple[int, int] | None = None,   # pixels of the image: side, or height and width; None: its own
    backend: str | None = None,                        # of attention: "fused", "math" or None, as it is now
    *,
    layers: str | int | Sequence[str] = "auto",        # as for merge_tokens
    batch: int = 1,                                    # rows of a step: with guidance two an image
    downsampling: int | None = None,                   # pixels to a place of the network's input; None: see below
    rounds: int = 5,                                   # timings of the layers
    scale: str = "quick",                              # under which the records are kept
    **options,                                         # the other parameters of merge_tokens: seed and reuse
) -> Prediction:  # fmt: skip
    """Predict the speed-up of a denoising step by token merging, from times measured once on this machine.

    Runs the untouched network a few times and the layers to be merged alone, whole and merged, never a merged network.
    The times are records, and asking again costs nothing but of a network with attention processors of your own, which is timed anew. What is too large to be run here is scaled by FLOPs from a
    smaller size, and `how` says so. Weights do not matter. `downsampling` of a bare UNet2DConditionModel is 8, of
    a bare UNet2DModel 1, of a model or pipeline what its autoencoder does. With `reuse` above 1 a matching's time is spread
    over its steps. Ratio 0 is 1 exactly, and nothing is measured.
    Raises ValueError for what merge_tokens refuses, an argument that neither has, a network wrapped by torch.compile, and a
    resolution, backend, batch or downsampling that this network or machine does not take. Source: Amdahl 1967; a merged layer's cost has matching and copies in it.
    """
    options |= {"layers": layers, "batch": batch, "downsampling": downsampling, "rounds": rounds, "scale": scale}
    question = layertimes.question(unet_or_model, method, ratio, resolution, backend, **options)
    if question.ratio == 0:
        how = ("ratio 0 leaves the network as it is: nothing was measured",)
        nothing = dict.fromkeys(("speedup", "low", "high", "bound", "flops_speedup"), 1.0)
        nothing |= dict.fromkeys(("seconds_before", "seconds_after"), float("nan"))
        return Prediction(**_asked(question), **nothing, time_share=0.0, flops_share=0.0, layers=(), how=how)
    return _combined(question, layertimes.times(question))


def _asked(question: Question) -> dict:
    return {
        "method": question.method, "ratio": question.ratio, "resolution": question.pixels, "backend": question.backend,
        "device": str(question.device),
    }  # fmt: skip


def _combined(question: Question, times: layertimes.Times) -> Prediction:
    """Amdahl's law over the medians, the bootstrap of both for the interval."""
    shares, parts, how = times.layers / times.network, times.saved, list(times.how)
    share, part = (float(np.median(values)) for values in (shares, parts))
    if part > 1:
        how.append(f"the layers alone seemed to save {part:.0%} of themselves, which is noise: the bound is given")
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(values, (DRAWS, len(values))), axis=1) for values in (shares, parts)]
    low, high = np.quantile(_speedup(*medians), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    before, speedup = float(np.median(times.network)), float(_speedup(share, part))
    return Prediction(
        **_asked(question), layers=tuple(layer.name for layer in question.layers), speedup=speedup, low=float(low),
        high=float(high), bound=float(_speedup(share, 1.0)), seconds_before=before, seconds_after=before / speedup,
        flops_speedup=float(_speedup(times.flops_share, times.flops_saved)), time_share=share,
        flops_share=times.flops_share, how=tuple(how),
    )  # fmt: skip


def _speedup(share, part):
    """Of a whole, a `share` of which takes 1 - `part` of its time."""
    return 1 / (1 - share * np.minimum(part, 1.0))
