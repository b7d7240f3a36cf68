"""How long a choice of tokens lasts: over the steps of a sampling run, and over the layers of one resolution.

The sampling loop says where a run and its steps begin (`Run.step_at`), so that what is reused belongs to that run: loops may
take turns on one network. In a loop that says nothing a changed time step is a step and a later one an image; images that it
calls in turn at each step keep their choices apart by their turn.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .matching import Call, Choice

Choose = Callable[[Tensor, Call], Choice]
MOST = 512  # choices that a run keeps: of dozens of images in turn, and no more where a network is called without end at one time


@dataclass(eq=False)
class Run:
    """One run of a sampling loop over a batch of images, and what was chosen in it."""

    halves: int = 1  # 2: of every batch one half is without and one with a prompt, of the same images
    step: int = 0
    times: tuple[float, ...] | None = None  # of the step: one for the whole batch, or one an image
    chosen: dict[Any, tuple[int, Choice]] = field(default_factory=dict)  # by what it was chosen for: step, choice
    reduced_by: Any = None  # settings of what reduced the tokens in this step's last network call
    asked: Counter[str] = field(default_factory=Counter)  # how often a layer has in this step, in a loop that says nothing

    @contextmanager
    def step_at(self, step: int, time: float) -> Iterator[None]:
        """The network calls inside belong to this step of the run. Raises RuntimeError where the tokens of the network
        were reduced otherwise in an earlier step."""
        before, began = self.reduced_by, bool(self.times)
        self.step, self.times, self.reduced_by = step, (time,), None
        token = _announced.set(self)
        try:
            yield
        finally:
            _announced.reset(token)
        if began and self.reduced_by != before:
            raise RuntimeError(
                "sampling: got another merging of the network's tokens than in the steps before, allowed is the same one "
                "throughout: take all states of a generator inside the `with` that it began in"
            )

    def notice(self, times: tuple[float, ...]) -> None:
        """A network call of a loop that says nothing: another time is another step, a later one another image.

        Nothing is known of images at different times: each call is new.
        """
        if len(times) > 1 or (self.times and times > self.times):  # denoising only goes down
            self.chosen.clear()
        if times != self.times:
            self.step, self.times = self.step + 1, times
            self.asked.clear()

    def turn(self, layer: str) -> int:
        """Whose turn it is in a loop that says nothing: a layer asked again at the same time is asked for another image."""
        self.asked[layer] += 1
        return self.asked[layer]

    def remember(self, asked: Any, choice: Choice) -> None:
        self.chosen.pop(asked, None)  # so that the oldest comes first
        self.chosen[asked] = self.step, choice
        if len(self.chosen) > MOST:
            del self.chosen[next(iter(self.chosen))]


_announced: ContextVar[Run | None] = ContextVar("run", default=None)
_memories: WeakValueDictionary[int, "Memory"] = WeakValueDictionary()
_numbers = count()
CHOOSERS: dict[str, Choose] = {}


def reusable(choose: Choose) -> Choose:
    """Register a function (metric, Call) -> Choice by its name, by which compiled networks call it."""
    CHOOSERS[choose.__name__] = choose
    return choose


class Memory:
    """The choices of one merged network: each is good for `reuse` steps, and at 2 or more for all layers of a resolution."""

    def __init__(self, reuse: int, settings: tuple, observe: Callable[[str, int, int], None]):
        self.reuse, self.settings, self.observe = reuse, settings, observe
        self.own = Run()  # of loops that say nothing
        self.timestep: Tensor | float = 0.0  # of the network call, as it was given
        self.number = next(_numbers)
        _memories[self.number] = self

    def begin(self, timestep: Tensor) -> None:
        """A call of the network begins."""
        run = _announced.get()
        if run is None:
            times = timestep.flatten().tolist()
            self.own.notice(tuple(times if len(set(times)) > 1 else times[:1]))
        else:
            run.reduced_by = self.settings

    @property
    def run(self) -> Run:
        return _announced.get() or self.own

    def choice(self, choose: Choose, metric: Tensor, call: Call) -> Choice:
        """What the call's layer has to use: an earlier choice, or a new one, which is remembered."""
        if torch.compiler.is_compiling():
            where = self.number, choose.__name__, call.layer, call.grid, call.removed, call.seed
            return torch.ops.frugal.choice(metric.detach(), torch.as_tensor(self.timestep), *where)
        return self.recall(choose, metric, call)

    def recall(self, choose: Choose, metric: Tensor, call: Call) -> Choice:
        run = self.run
        call = replace(call, timesteps=run.times or (0.0,), memory=None)
        if self.reuse == 1:
            return choose(metric.detach(), call)
        turn = run.turn(call.layer) if run is self.own else 0
        call = replace(call, layer=group(call.layer), halves=run.halves)
        asked = self.settings, choose, call.layer, turn, call.removed, metric.shape, metric.device
        step, choice = run.chosen.get(asked, (None, None))
        if step is None or not step <= run.step < step + self.reuse:
            choice = choose(metric.detach(), call)
            run.remember(asked, choice)
        return choice


def group(layer: str) -> str:
    """The layers that share a choice: the blocks stacked in one transformer, as SDXL has them, such as "up_blocks.0.attentions.1".

    Neighbours of one resolution see other tokens: sharing across transformers costs quality where many tokens go.
    """
    return layer.partition(".transformer_blocks.")[0]


@torch.library.custom_op("frugal::choice", mutates_args=())
def _choice(
    metric: Tensor, timestep: Tensor, memory: int, choose: str, layer: str, grid: list[int], removed: int, seed: int
) -> list[Tensor]:
    """`Memory.choice` as one operation, inside which no compiler looks: whether anything is computed is known at run time."""
    return _chosen(metric, timestep, memory, choose, layer, grid, removed, seed)


@torch.compiler.disable
def _chosen(metric, timestep, memory, choose, layer, grid, removed, seed) -> list[Tensor]:
    known, call = _memories[memory], Call(layer, tuple(grid), removed, (), seed)
    known.begin(timestep)
    known.observe(layer, metric.shape[1], metric.shape[1] - removed)
    return [tensor.clone() for tensor in known.recall(CHOOSERS[choose], metric, call)]  # outputs may be overwritten


@_choice.register_fake
def _(metric, timestep, memory, choose, layer, grid, removed, seed):
    grid, removed = tuple(int(side) for side in grid), int(removed)  # a compiler that keeps sizes open compiles each for itself
    return CHOOSERS[choose](metric, Call(layer, grid, removed, (0.0,), seed))
