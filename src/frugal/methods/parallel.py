"""Parallel sampling: all steps of a window at once, again and again, until the trajectory through them no longer moves.

Sampling without noise is a triangular system of equations, one a step. A round asks the network at all states of a window
in one call, and sweeps through the window with what it said. The first step is then right, the others better; steps that
a round hardly moves are done, and the window slides on, for every image at its own pace.

`paradigms` is ParaDiGMS (Shih et al., arXiv 2305.16317): Picard's iteration on the increments of the steps. `picard` is
the same iteration on what the network said alone: the clean samples are kept, the steps are taken anew, and those that
the window newly reaches go on from the last clean samples rather than from a copy of the last state. `anderson` also
follows what the network said at the same step in earlier rounds: within their differences its answer is taken to be
linear (the multisecant form of Anderson's acceleration, Fang and Saad 2009), step by step through the sweep, as in
ParaTAA (Tang et al., arXiv 2402.09970), so that a step goes on from states that are mended already. Unlike there a step
also has the differences of both its neighbours, whose answers turn much alike.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import samplers
from .chain import Predict
from .coupling import wide
from .drafts import shifted
from .flow import SOLVERS, Flow, flow, flow_predictor

if TYPE_CHECKING:
    from ..models.zoo import Model

MEMORY = {"anderson": 2, "picard": 0, "paradigms": 0}  # earlier rounds that a sweep looks back to
METHODS = tuple(MEMORY)
UNITS = {"step": 0.1, "signal": 2.5e-4}  # of a tolerance: the default one in it
NOISE_SHARE = 0.05  # of the noise's variance, in the unit "signal": else the first steps, nearly all noise, would have to be exact
UNIT = {"anderson": "signal", "picard": "signal", "paradigms": "step"}
METHOD, SOLVER, WINDOW = "anderson", "ddim", 32
TREND = 4  # steps over which the change of the clean sample is averaged, and followed into steps not asked about yet
RIDGE = 1e-5  # of the squares of a step's own moves: what keeps moves that are alike from being told apart

__all__ = ["METHOD", "METHODS", "SOLVER", "SOLVERS", "UNITS", "WINDOW", "Round", "rounds"]


@dataclass(frozen=True)
class Round:
    """One call of the network, and what came of it."""

    images: Tensor  # int64 [n]: which took part, by their place among the seeds
    first: Tensor  # int64 [n]: the step each stood before
    rows: Tensor  # int64 [n]: states of each at which the network was asked
    committed: Tensor  # int64 [n]: steps each has taken, 1 .. rows
    residuals: Tensor  # float32 [n, window]: how far the state that a step begins from moved, in the tolerance's unit; nan: not asked
    states: Tensor  # [n, window + 1, *latent_shape]: the trajectory from `first` on as it now stands, good for rows + 1
    samples: Tensor  # [all, *latent_shape]: where every image stands now


@dataclass(frozen=True)
class Window:
    """What is known of the steps ahead of each image: slot k is step first + k; the newest answers come first."""

    images: Tensor  # int64 [n]
    first: Tensor  # int64 [n]
    start: Tensor  # [n, C, H, W]: the state that step `first` begins from
    before: Tensor  # the clean sample of the step before
    trend: Tensor  # its change in a step
    points: Tensor  # [n, window, 1 + memory, C, H, W]: states at which the network was asked
    answers: Tensor  # the clean samples it predicted there
    asked: Tensor  # bool [n, window, 1 + memory]

    @classmethod
    def empty(cls, start: Tensor, window: int, memory: int) -> "Window":
        n, slots = len(start), start.new_zeros(len(start), window, 1 + memory, *start.shape[1:])
        return cls(torch.arange(n, device=start.device), torch.zeros(n, dtype=torch.long, device=start.device), start,
                   torch.zeros_like(start), torch.zeros_like(start), slots, slots, torch.zeros(slots.shape[:3], dtype=torch.bool, device=start.device))  # fmt: skip

    def part(self, rows: Tensor) -> "Window":
        return Window(*(getattr(self, field.name)[rows] for field in fields(self)))

    def told(self, states: Tensor, cleans: Tensor, asked: Tensor) -> "Window":
        """With the newest answers, [n, window, ...], and without the oldest."""
        news = ((self.points, states), (self.answers, cleans), (self.asked, asked))
        kept = (torch.cat([new[:, :, None], old[:, :, :-1]], 2) for old, new in news)
        return Window(self.images, self.first, self.start, self.before, self.trend, *kept)

    def moved(self, committed: Tensor, path: Tensor, cleans: Tensor) -> "Window":
        """After as many steps of each image along its path [n, window + 1, ...]."""
        rows = torch.arange(len(committed), device=committed.device)
        known = (shifted(x, committed) for x in (self.points, self.answers, self.asked))
        last, earlier = committed - 1, (committed - 1 - TREND).clamp(min=0)
        change = cleans[rows, last] - cleans[rows, earlier]
        trend = torch.where(wide(last > 0, change), change / wide((last - earlier).clamp(min=1), change), self.trend)
        return Window(self.images, self.first + committed, path[rows, committed], cleans[rows, last], trend, *known)


Sweep = Callable[[Flow, Window, Tensor], tuple[Tensor, Tensor]]  # steps [n, window] -> what `sweep` gives


def rounds(
    model: "Model",
    seeds: Iterable[int],
    steps: int = 200,
    *,
    method: str = METHOD,
    solver: str = SOLVER,
    window: int = WINDOW,
    tolerance: float | None = None,
    unit: str | None = None,
    prompts: Sequence[str] | None = None,
    guidance: float | None = None,
) -> Iterator[Round]:
    """Yields every Round, all images in one batch; the last one's samples are those of the trajectory's end.

    The trajectory is that of the sequential sampler named by `solver`, one of SOLVERS, on as many steps; `method` is one
    of METHODS; `window`, from 1, is the most steps of an image in a call, 1 the sequential sampler itself. A step is done
    once a round moves the state it begins from by no more than `tolerance`, from 0, root mean square: of the standard
    deviation of DDPM's step (unit "step", as published), or of the signal's share in the state's variance ("signal": what is
    wrong early grows on the way, some forty times more than what is wrong late). None is the method's own: `UNIT`, and
    that unit's in `UNITS`. 0 leads to the sequential sample.
    Raises ValueError, before the first round, for anything else, for a schedule without the steps and for networks that
    learn their variance.
    """
    samplers._check_model(model)
    seeds, window = samplers._seeds(seeds), samplers._whole("window", window, 1)
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    tolerance, unit = _within(method, tolerance, unit)
    prompts, target = samplers._prompts(model, prompts, len(seeds)), flow(model, steps, solver)
    predict = flow_predictor(model, prompts, guidance, target, solver, len(seeds))
    noise = [torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    ahead = Window.empty(torch.cat(noise).to(model.device), min(window, len(target)), MEMORY[method])
    return _rounds(target, predict, ahead, increments if method == "paradigms" else sweep, _scale(target, unit), tolerance)


def _within(method: str, tolerance: float | None, unit: str | None) -> tuple[float, str]:
    unit = UNIT[method] if unit is None else unit
    if not isinstance(unit, str) or unit not in UNITS:
        raise ValueError(f"unit={unit!r} is not one of {', '.join(UNITS)}")
    tolerance = UNITS[unit] if tolerance is None else tolerance
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance={tolerance!r}: allowed is a number from 0")
    return float(tolerance), unit


def _scale(flow: Flow, unit: str) -> Tensor:
    """What a tolerance is told in, for the state that each step begins from."""
    if unit == "signal":
        return flow.signal**2 + NOISE_SHARE * flow.spread**2
    return torch.cat([flow.yardstick[:1], flow.yardstick[:-1]])


def _rounds(flow: Flow, predict: Predict, ahead: Window, through: Sweep, scale: Tensor, tolerance: float) -> Iterator[Round]:
    samples = ahead.start
    while len(ahead.images):
        done, ahead = _round(flow, predict, ahead, through, scale, tolerance, samples)
        samples = done.samples
        yield done


@torch.no_grad()
def _round(
    flow: Flow, predict: Predict, ahead: Window, through: Sweep, scale: Tensor, tolerance: float, samples: Tensor
) -> tuple[Round, Window]:
    steps = ahead.first[:, None] + torch.arange(ahead.asked.shape[1], device=ahead.first.device)
    asked, steps = steps < len(flow), steps.clamp(max=len(flow) - 1)
    guessed, _ = through(flow, ahead, steps)
    states, cleans = guessed[:, :-1], torch.zeros_like(guessed[:, :-1])
    cleans[asked] = predict(states[asked], steps[asked], ahead.images[:, None].expand_as(steps)[asked])
    ahead = ahead.told(states, cleans, asked)
    path, cleans = through(flow, ahead, steps)
    moves = (path[:, :-1] - states).square().flatten(2).mean(2).sqrt() / scale[steps]
    still = (moves <= tolerance) & asked
    committed = 1 + still[:, 1:].long().cumprod(1).sum(1)
    following = ahead.moved(committed, path, cleans)
    samples = samples.index_copy(0, ahead.images, following.start)
    done = Round(ahead.images, ahead.first, asked.sum(1), committed, moves.where(asked, torch.nan), path, samples)
    return done, following.part(following.first < len(flow))


def sweep(flow: Flow, ahead: Window, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The trajectory through a window [n, window + 1, C, H, W], and the clean samples of its steps, by what is known of them.

    A step at which the network was not asked continues the change of the clean samples before it.
    """
    turn = _secants(ahead)
    state, clean, trend, path, cleans = ahead.start, ahead.before, ahead.trend, [ahead.start], []
    for k, step in enumerate(steps.unbind(1)):
        asked, answer = ahead.asked[:, k, 0], ahead.answers[:, k, 0] + turn(k, state - ahead.points[:, k, 0])
        before, clean = clean, torch.where(wide(asked, answer), answer, clean + trend)
        if span := min(k, TREND):
            trend = torch.where(wide(asked, trend), (clean - cleans[k - span]) / span, trend)
        state = flow.step(step, state, clean, before)
        path.append(state)
        cleans.append(clean)
    return torch.stack(path, 1), torch.stack(cleans, 1)


def increments(flow: Flow, ahead: Window, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The same as published in ParaDiGMS: every state moves on by what its step took where the network was last asked.

    States behind those are copies of the last one.
    """
    state, clean, path, cleans = ahead.start, ahead.before, [ahead.start], []
    for k, step in enumerate(steps.unbind(1)):
        point, before, clean = ahead.points[:, k, 0], clean, ahead.answers[:, k, 0]
        taken = flow.step(step, point, clean, before) - point
        state = torch.where(wide(ahead.asked[:, k, 0], state), state + taken, state)
        path.append(state)
        cleans.append(clean)
    return torch.stack(path, 1), torch.stack(cleans, 1)


def _secants(ahead: Window) -> Callable[[int, Tensor], Tensor | float]:
    """How slot k's clean sample turns with a move of its state [n, C, H, W]: linearly, as between the rounds that are known.

    The part of a move that lies in none of their directions turns nothing: J = dC (dX^T dX)^-1 dX^T. A slot that knows no
    two rounds, nor any neighbour that does, has the J of the nearest one before it.
    """
    if ahead.points.shape[2] == 1:
        return lambda k, move: 0.0
    both = (ahead.asked[:, :, :1] & ahead.asked[:, :, 1:])[..., None]
    differences = ((x[:, :, :1] - x[:, :, 1:]).flatten(3) * both for x in (ahead.points, ahead.answers))
    known, *differences = (_beside(x) for x in (both, *differences))
    rows, slots = (torch.arange(size, device=both.device) for size in both.shape[:2])
    nearest = torch.where(known.any(2)[..., 0], slots, 0).cummax(1).values
    moves, turns = (x[rows[:, None], nearest] for x in differences)
    products = (moves @ moves.mT).cpu().double()  # a few numbers a step, which not every device has in double precision
    sizes = products.diagonal(dim1=2, dim2=3)
    inverse = torch.linalg.inv(products + torch.diag_embed(RIDGE * sizes + (sizes == 0))).to(moves)

    def turn(k: int, move: Tensor) -> Tensor:
        shares = inverse[:, k] @ (moves[:, k] @ move.flatten(1)[..., None])  # [n, 3 memory, 1]
        return (shares * turns[:, k]).sum(1).reshape(move.shape)

    return turn


def _beside(values: Tensor) -> Tensor:
    """What each slot and both its neighbours know: [n, slots, memory, ...] -> [n, slots, 3 memory, ...], 0 beyond the ends."""
    before, after = torch.zeros_like(values), torch.zeros_like(values)
    before[:, 1:], after[:, :-1] = values[:, :-1], values[:, 1:]
    return torch.cat([values, before, after], 2)
