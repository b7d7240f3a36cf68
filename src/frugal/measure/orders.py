"""Orders of convergence: how fast a sampler's error falls with its calls, where the right answer is known."""

import itertools
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..methods import samplers
from ..models.recipes import schedule
from ..models.zoo import Model
from . import cost

MEAN, SPREAD = 0.3, 0.4  # of the Gaussian that is sampled, pixel by pixel
SIDE = 8
WITHIN = 199  # a training time at which all of STEPS place a step, with a fifth of the way still to go
STEPS = (5, 10, 20, 25, 50, 100, 200)  # divisors of the training steps, so that no time step is rounded
ORDERS = {"ddim": 1, "euler": 1, "dpmpp_2m": 2, "unipc": 2, "heun": 2, "edm": 2}  # as their papers state them


class Gaussian(nn.Module):
    """The best network for images whose pixels are independent N(MEAN, SPREAD^2): it predicts the velocity in closed form."""

    def __init__(self, alphas_cumprod: Tensor):
        super().__init__()
        self.config = SimpleNamespace(sample_size=SIDE, in_channels=3)
        bar = alphas_cumprod.double()
        self.log_sigma = ((1 - bar) / bar).log().numpy() / 2  # between time steps linear, as diffusers' schedulers take it

    def factors(self, t: float) -> tuple[float, float]:
        """The factors of image and noise at a time that may lie between two steps."""
        sigma = float(np.exp(np.interp(t, np.arange(len(self.log_sigma)), self.log_sigma)))
        signal = (1 + sigma**2) ** -0.5
        return signal, sigma * signal

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        a, b = self.factors(float(t))
        clean = MEAN + a * SPREAD**2 / (a**2 * SPREAD**2 + b**2) * (x - a * MEAN)
        return SimpleNamespace(sample=(a * x - clean) / b)  # v, arXiv 2202.00512

    def flow(self, x: Tensor, begin: float, end: float | None = None) -> Tensor:
        """Where the probability flow leads from x at time `begin`, at `end` or (None) in the image: it keeps a Gaussian's
        quantiles (arXiv 2011.13456, section 4.3)."""
        a, b = self.factors(begin)
        quantile = (x - a * MEAN) / (a**2 * SPREAD**2 + b**2) ** 0.5
        a, b = (1.0, 0.0) if end is None else self.factors(end)
        return a * MEAN + (a**2 * SPREAD**2 + b**2) ** 0.5 * quantile


def convergence(names: Iterable[str] = tuple(ORDERS), steps: Iterable[int] = STEPS, seed: int = 0) -> pd.DataFrame:
    """Columns sampler, steps, calls, error, before: root mean squared distances from the exact solution of the same noise, in
    the image and (before) at time WITHIN, nan where a sampler does not stop there. `calls`: to the image."""
    scheduler = schedule(1.0)
    model = Model("gaussian", "memory", Gaussian(scheduler.alphas_cumprod), scheduler)
    rows = []
    for name in names:
        for count in steps:
            with cost.count_calls(model.unet) as counted:
                states = list(samplers.denoise(model, [seed], count, name))
            rows.append((name, count, counted.calls, *_errors(model.unet, states, seed)))
    return pd.DataFrame(rows, columns=["sampler", "steps", "calls", "error", "before"])


def _errors(network: Gaussian, states: list[samplers.State], seed: int) -> tuple[float, float]:
    start = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    begin = states[0].timestep
    within = [before.sample for before, after in itertools.pairwise(states) if after.timestep == WITHIN]
    found = [(states[-1].sample, network.flow(start, begin)), *((x, network.flow(start, begin, WITHIN)) for x in within)]
    distances = [(x - exact).square().mean().sqrt().item() for x, exact in found]
    return distances[0], distances[1] if within else float("nan")


def slopes(found: pd.DataFrame, column: str = "error", least: int = 10) -> pd.Series:
    """The order of each sampler: minus the slope of log error over log calls, from `least` steps on, behind its last rise; nan
    where not measured."""
    fitted = {name: behind_rises(rows[rows.steps >= least], column) for name, rows in found.groupby("sampler", sort=False)}
    return pd.Series({name: -np.polyfit(np.log(rows.calls), np.log(rows[column]), 1)[0] for name, rows in fitted.items()})


def behind_rises(rows: pd.DataFrame, column: str = "error") -> pd.DataFrame:
    """One sampler's rows, two or more, from the last on at which its error was above the one before: an error that changes its
    sign dips on the way, and a slope across the dip is no order."""
    rises = np.flatnonzero(np.diff(rows[column]) > 0) + 1
    return rows.iloc[min(rises.max(initial=0), len(rows) - 2) :]
