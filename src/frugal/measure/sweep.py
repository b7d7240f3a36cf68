"""`frugal sweep NAME --minutes N`: find an experiment's missing records and measure them until the time is up.

Every cell is a record of its own: a killed sweep loses the one in flight, asking again goes on where it ended. What a
device of the same name has shipped counts as measured, so that machines lent one after the other move the work on.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from types import ModuleType

import torch

from .. import paths
from ..models.hub import MissingWeights
from . import cost, fewer_steps, records, thesis
from .environment import environment
from .plan import LOADING, Cell, Subject

SWEEPS: dict[str, ModuleType] = {"thesis": thesis, "steps": fewer_steps}  # each: SCALE, MODELS and their quality_cells(), cells(), told(), check_*()
WEIGHTS = ("random", "hub")
CAUTION = 2.0  # a forecast from another model's speed, or another precision's, is taken this much longer
FETCHING = 60.0  # seconds that must be left for weights to be fetched
PROBE_RUNS = 3
clock = time.monotonic


@dataclass
class Outcome:
    """What a sweep has come to."""

    measured: list[records.Record] = field(default_factory=list)
    before: int = 0  # cells that were there already
    missing: list[Cell] = field(default_factory=list)
    seconds: float = 0.0  # about what these take
    without: list[str] = field(default_factory=list)  # models whose quality was not begun, for want of weights or time

    @property
    def useful(self) -> bool:
        """Whether anything was measured, or nothing was left to be."""
        return bool(self.measured) or not (self.missing or self.without)


def sweep(
    name: str,  # of SWEEPS
    minutes: float,  # wall-clock, above 0
    *,
    weights: str = "random",  # "random": times and memory; "hub": quality as well
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Outcome:
    """Measure what is missing of an experiment; a cell that would not end in time is not begun.

    Raises ValueError for an unknown sweep, minutes not above 0, weights not in WEIGHTS and a device that is absent.
    """
    if name not in SWEEPS:
        raise ValueError(f"name: got {name!r}, allowed is {', '.join(SWEEPS)}")
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise ValueError(f"minutes: got {minutes!r}, allowed is a number above 0")
    if weights not in WEIGHTS:
        raise ValueError(f"weights: got {weights!r}, allowed are {', '.join(WEIGHTS)}")
    if weights == "hub" and not SWEEPS[name].MODELS:
        raise ValueError(f"weights: got 'hub' for sweep {name!r}, which measures embedded models alone; allowed is 'random', the default")
    run = _Sweep(SWEEPS[name], clock() + 60 * minutes, say)
    run.measure(run.absent(SWEEPS[name].cells(device)))
    if weights == "hub":
        run.measure_quality(device)
    run.summarise(name, device)
    return run.outcome


class _Sweep:
    """One sweep at work: its plan, its end on the clock, and what it has come to."""

    def __init__(self, plan: ModuleType, end: float, say: Callable[[str], None]):
        self.plan, self.end, self.say = plan, end, say
        self.outcome, self.pace, self.reference = Outcome(), Pace(), records.load_shipped()

    @property
    def left(self) -> float:
        return self.end - clock()

    def absent(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that neither this machine nor, on a device of the same name, another has measured."""
        known = [(c, c.found(self.plan.SCALE) or c.shipped(self.plan.SCALE, self.reference)) for c in cells]
        missing = [cell for cell, record in known if record is None]
        self.outcome.before += len(known) - len(missing)
        self.say(f"{len(known) - len(missing)} of {len(known)} records are there, {len(missing)} are missing")
        for cell, record in known if missing else ():
            if record is not None:
                self.pace.learn(cell, _wall(record))
        return missing

    def measure(self, cells: list[Cell]) -> None:
        for cell in cells:
            expected = self.pace.forecast(cell)
            if expected > self.left or not self._measured(cell, expected):
                self.outcome.missing.append(cell)

    def _measured(self, cell: Cell, expected: float) -> bool:
        self.say(f"{title(cell)}: about {expected:.0f} s, {self.left:.0f} s are left")
        start = clock()
        try:
            record = cell.measure(self.plan.SCALE)
        except RuntimeError as error:  # no such kernel on this device, or no memory: other cells may do
            self.say(f"  not measured: {type(error).__name__}: {_line(error)}")
            return False
        self.pace.learn(cell, clock() - start)
        self.pace.begun.add(cell.subject)
        self.outcome.measured.append(record)
        self.say(f"  {self.plan.told(record)}")
        return True

    def measure_quality(self, device: str) -> None:
        """Model by model, Stable Diffusion first; those whose weights are not to be had are told of in one line."""
        refused = {}
        for name in reversed(self.plan.MODELS):
            if self.left < FETCHING:
                self.outcome.without.append(name)
                continue
            try:
                cells = self.absent(self.plan.quality_cells(name, device))
            except MissingWeights as error:
                refused[name] = _line(error)
            else:
                self.measure(cells)
        if refused:
            self.outcome.without += refused
            self.say(f"no quality of {', '.join(refused)} without their weights: {next(iter(refused.values()))}")

    def summarise(self, name: str, device: str) -> None:
        found = self.outcome
        if found.missing and not found.measured:
            least = min(map(self.pace.forecast, found.missing))
            self.say(f"nothing was measured: the smallest missing cell takes about {least / 60:.1f} minutes")
        for cell in found.missing:
            found.seconds += self.pace.forecast(cell)
            self.pace.begun.add(cell.subject)
        where = environment(self.plan.check_device(device))["device"]["name"]
        done = f"{len(found.measured)} measured now, {found.before} before, {len(found.missing)} missing"
        more = f", about {max(1, round(found.seconds / 60))} minutes more on this device" if found.missing else ""
        self.say(f"{name} on {where}: {done}{more}")
        for line in _listed(found.missing):
            self.say(f"  missing {line}")
        if found.without:
            self.say(f"  quality not begun: {', '.join(found.without)}")
        if checks := self.plan.check_scaling([r for r in records.load_all() if r.scale == self.plan.SCALE]):
            self.say(f"whole images on the clock against scaled ones: {checks}")
        store, shipped = paths.results(), paths.shipped() if paths.root() else "results/records of a checkout"
        self.say(f"records are in {store}; to ship them: {ship_command(store, shipped, self.plan.SCALE)}")


@dataclass
class Pace:
    """Seconds that cells will take, from their FLOPs and the speed of those before them."""

    speeds: dict[tuple, float] = field(default_factory=dict)  # FLOP/s by what makes cells alike
    sizes: dict[tuple, int] = field(default_factory=dict)  # FLOPs of a step of their networks
    begun: set[Subject] = field(default_factory=set)  # whose networks are loaded here

    def learn(self, cell: Cell, seconds: float) -> None:
        """`seconds` is what a cell took; of its first in a process, loading the network with it."""
        if cell.steps and seconds > 0:
            self.speeds[_alike(cell)], self.sizes[_alike(cell)] = cell.flops / seconds, cell.subject.flops

    def forecast(self, cell: Cell) -> float:
        """From an earlier cell of the same model and setting, else from other models' speeds, else from a probe.

        A larger network computes at no lower speed than a smaller one, whose launches may take longer than its arithmetic.
        """
        if not cell.steps:
            return cell.overhead
        loading = 0.0 if cell.kind == "memory" or cell.subject in self.begun else LOADING * cell.subject.parameters
        if own := self.speeds.get(_alike(cell)):
            return cell.flops / own + loading
        known = {key: speed for key, speed in self.speeds.items() if key[0] == "time"}
        smaller = [speed for key, speed in known.items() if self.sizes[key] <= cell.subject.flops]
        speed = max(smaller, default=0.0) or min(known.values(), default=0.0) or probe(cell.subject.place, cell.subject.dtype)
        return CAUTION * cell.flops / speed + cell.overhead + loading


def _alike(cell: Cell) -> tuple:
    return cell.kind, cell.subject.name, cell.subject.dtype, cell.asked.get("backend")


@cache
def probe(place: str, dtype: str) -> float:
    """FLOP/s of a convolution like those that fill these networks, in the precision asked for."""
    to = {"device": place, "dtype": getattr(torch, dtype)}
    layer, image = torch.nn.Conv2d(256, 256, 3, padding=1).to(**to), torch.randn(1, 256, 64, 64).to(**to)
    with torch.inference_mode():
        return 2 * 256 * 256 * 9 * 64 * 64 / cost.seconds(lambda: layer(image), PROBE_RUNS, device=place).median


def title(cell: Cell) -> str:
    """A cell in words: thesis-steps ldm-celebahq-256, float16, fused, 50%."""
    asked, ratios = cell.asked, cell.asked.get("ratios", [cell.asked.get("ratio", 0.0)])
    words = [f"{cell.name} {cell.subject.name}", cell.subject.dtype, asked.get("backend", ""), asked.get("arm", f"{max(ratios):.0%}")]
    return ", ".join(word for word in words if word)


def ship_command(store, shipped, scale: str) -> str:
    """The command that copies an experiment's records to those shipped with the project."""
    return f"cp $(grep -l '\"scale\": \"{scale}\"' {store}/*.json) {shipped}/"


def _listed(cells: list[Cell]) -> list[str]:
    """Cells by record and model, with their number."""
    counts: dict[str, int] = {}
    for cell in cells:
        key = f"{cell.name} {cell.subject.name}, {cell.subject.dtype}, {cell.asked.get('backend', 'any')} attention"
        counts[key] = counts.get(key, 0) + 1
    return [f"{key}: {count}" for key, count in counts.items()]


def _wall(record: records.Record) -> float:
    """Seconds that a record took to be measured."""
    return (datetime.fromisoformat(record.end) - datetime.fromisoformat(record.start)).total_seconds()


def _line(error: Exception) -> str:
    """An error's message as one line."""
    return " ".join(str(error).split())
