"""Drafts of speculative sampling: guesses of the clean sample that the target's network would predict.

Whatever is guessed, the law of the images is the target's, so long as the guess for a step does not look at that step's
own noise. What a guess may look at is in a Window.
"""

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from .chain import Chain, Predict
from .coupling import wide

FADE = 0.9  # of the sums behind a gain, with every step


@dataclass
class Window:
    """What is known of the steps ahead of each image: slot j belongs to step first + j - 1, so slot 0 lies just behind.

    `known` slots hold states at which the target was asked before, made with the very noise that is still to be used.
    """

    first: Tensor  # int64 [n]: the step each image stands before
    images: Tensor  # int64 [n]: which images these are
    states: Tensor  # [n, window + 1, C, H, W]
    cleans: Tensor  # the target's predictions there
    guesses: Tensor  # what the draft's own network said there, uncorrected
    known: Tensor  # bool [n, window + 1]
    gain_sums: Tensor  # [n, 2, C]: products of changes of prediction with the noise that caused them, and its squares

    @classmethod
    def empty(cls, count: int, window: int, shape: tuple[int, ...], device: torch.device) -> "Window":
        slots = torch.zeros(3, count, window + 1, *shape, device=device)
        return cls(
            torch.zeros(count, dtype=torch.long, device=device), torch.arange(count, device=device), *slots,
            torch.zeros(count, window + 1, dtype=torch.bool, device=device), torch.zeros(count, 2, shape[0], device=device),
        )  # fmt: skip

    def part(self, rows: Tensor) -> "Window":
        return Window(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: Tensor, part: "Window") -> None:
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)

    def remember(self, asked: Tensor, states: Tensor, cleans: Tensor, guesses: Tensor) -> None:
        """Keep what the target was asked now: bool [n, k], and [n, k, C, H, W] of the first k steps ahead."""
        slots = slice(1, asked.shape[1] + 1)
        for kept, new in ((self.states, states), (self.cleans, cleans), (self.guesses, guesses)):
            kept[:, slots] = torch.where(wide(asked, new), new, kept[:, slots])
        self.known[:, slots] |= asked

    def advance(self, committed: Tensor, replay: bool) -> None:
        """Move each image on by as many steps; without replay, forget what lies beyond the step it then stands before."""
        self.states, self.cleans, self.guesses = (shifted(x, committed) for x in (self.states, self.cleans, self.guesses))
        self.known = shifted(self.known, committed)
        if not replay:
            self.known[:, 2:] = False
        self.first = self.first + committed


def shifted(values: Tensor, by: Tensor) -> Tensor:
    """Each row [n, slots, ...] moved to the left by its own number of slots; False or 0 follows."""
    slots = values.shape[1]
    source = torch.arange(slots, device=values.device) + by[:, None]
    kept = source < slots
    moved = values[torch.arange(len(values), device=values.device)[:, None], source.clamp(max=slots - 1)]
    return moved * wide(kept, moved).to(moved.dtype)


class Draft(Protocol):
    """Guesses one window after another."""

    def begin(self, window: Window) -> None:
        """Take up what is known."""

    def guess(self, ahead: int, states: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """(clean samples, the draft's own raw prediction) at states [n, C, H, W], `ahead` steps into the window."""


class FrozenVelocity:
    """The network's last output, used again at every state: arXiv 2501.05370, eq. 7."""

    def __init__(self, chain: Chain):
        self.chain = chain

    def begin(self, window: Window) -> None:
        self.window = window
        steps = (window.first - 1).clamp(min=0)
        self.output = self.chain.velocity(steps, window.states[:, 0], window.cleans[:, 0])

    def guess(self, ahead: int, states: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        slot = ahead + 1
        here = self.chain.velocity(steps, self.window.states[:, slot], self.window.cleans[:, slot])
        self.output = torch.where(wide(self.window.known[:, slot], here), here, self.output)
        clean = self.chain.from_velocity(steps, states, self.output)
        return clean, clean


class FrozenClean:
    """The clean sample predicted last: what the velocity tells of the present noise is left to the state itself."""

    def begin(self, window: Window) -> None:
        self.window, self.clean = window, window.cleans[:, 0]

    def guess(self, ahead: int, states: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        known, here = self.window.known[:, ahead + 1], self.window.cleans[:, ahead + 1]
        self.clean = torch.where(wide(known, here), here, self.clean)
        return self.clean, self.clean


class Tweedie:
    """The clean sample predicted last, moved by a gain times what the state shows beyond its expectation.

    For Gaussian data this is exact (it is Kalman's update), with gain sqrt(a) Var(x_0 | x) / (1 - a), Tweedie's formula of
    second order, the Jacobian of the prediction. Here it is one number an image and channel: the noise of the steps
    already taken probes that Jacobian's trace at no extra call (Hutchinson's estimator). It is measured and not taken from
    the data's variance because a network trained to a guided prediction may well have it below 0.
    """

    def __init__(self, chain: Chain):
        self.chain = chain

    def begin(self, window: Window) -> None:
        self.window, self.clean, self.state = window, window.cleans[:, 0], window.states[:, 0]
        products, squares = window.gain_sums.unbind(1)
        self.gain = wide((products / squares.clamp(min=1e-12)).clamp(-1, 1), self.state)

    def guess(self, ahead: int, states: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        slot, behind = ahead + 1, (steps - 1).clamp(min=0)
        surprise = states - self.chain.expected(behind, self.state, self.clean)
        if not ahead:  # nothing lies behind the first step of all
            surprise = surprise * wide(self.window.known[:, 0], states)
        here = self.window.cleans[:, slot] + self.gain * (states - self.window.states[:, slot])
        self.clean = torch.where(wide(self.window.known[:, slot], here), here, self.clean + self.gain * surprise)
        self.state = states
        return self.clean, self.clean


class SmallerNetwork:
    """Another network's prediction plus the target's last known difference from it.

    Without `corrected` the prediction alone: the independent draft of arXiv 2501.05370.
    """

    def __init__(self, predict: Predict, corrected: bool = True):
        self.predict, self.corrected = predict, corrected

    def begin(self, window: Window) -> None:
        self.window = window
        self.correction = (window.cleans - window.guesses) * wide(window.known & self.corrected, window.cleans)
        self.last = self.correction[:, 0]

    def guess(self, ahead: int, states: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        known = wide(self.window.known[:, ahead + 1], states)
        self.last = torch.where(known, self.correction[:, ahead + 1], self.last)
        raw = self.predict(states, steps, self.window.images)
        return raw + self.last, raw


def probe_gain(window: Window, chain: Chain, committed: Tensor, lengths: Tensor) -> None:
    """Adds what each committed step's noise did to the prediction to the sums of a gain, before the window advances.

    The pairs end at the first step not yet committed, whose own noise has played no part in them.
    """
    for slot in range(window.known.shape[1] - 1):
        steps = (window.first + slot - 1).clamp(min=0, max=len(chain) - 1)
        used = (slot <= committed) & (slot < lengths) & window.known[:, slot]
        change = window.cleans[:, slot + 1] - window.cleans[:, slot]
        surprise = window.states[:, slot + 1] - chain.expected(steps, window.states[:, slot], window.cleans[:, slot])
        sums = torch.stack([(change * surprise).sum((2, 3)), surprise.square().sum((2, 3))], 1)
        faded = FADE * window.gain_sums + sums
        window.gain_sums = torch.where(used[:, None, None], faded, window.gain_sums)
