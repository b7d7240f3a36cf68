"""`frugal sweep steps`: samplers, speculative and parallel sampling on the embedded models, with samples large enough for a distance.

Quality does not depend on the machine, so these records are shipped; the chapters draw them beside what they measure themselves.
"""

from dataclasses import dataclass

from ..models import cards, zoo
from . import rounds
from .arms import Arm, cell
from .generators import DRAFT, TARGET
from .plan import Cell, Subject
from .records import Record
from .speculation import SLIDES_CHURN, slides_arms, varied

SCALE = "thesis"
MODELS = ()  # whose quality needs published weights: none
IMAGES, PACED = 512, 64  # of a distance of distributions; of a mean number of calls
CALLS = (5, 10, 20, 50)
SOLVERS = ("ddim", "dpmpp_2m", "unipc", "euler")  # one call a step
QUICKEST, BETWEEN = ("dpmpp_2m", "unipc", "dpmpp_2m_sde"), (6, 7, 8, 9)  # of fewest calls at a long chain's quality, which is sought among these too
TWICE = ("heun", "edm")  # two calls a step but in the last
STOCHASTIC = ("ddpm", "dpmpp_2m_sde")  # noise in every step leads elsewhere than the probability flow
CHAIN = 100  # steps of the chain that speculative sampling reproduces
CHURNS = (0.5, 1.0, 0.25)  # of the sequential chain, the default first
TEMPERATURES = (1.0, 2.0)

NAMES = ("faces-ldm", "faces-sd", "faces-ddpm")  # the pixel model last: a row costs most there


@dataclass(frozen=True)
class Plan:
    """What the chapter on samplers measures by itself."""

    calls: tuple[int, ...]
    reference: int  # steps of the fine trajectory
    shown: int  # calls of the samplers whose paths are drawn
    timed: int  # steps up to which an arm is timed
    rounds: int


PLANS = {
    "smoke": Plan((4, 6), 20, 6, 4, 1),
    "quick": Plan(CALLS, 1000, 10, 20, 2),
    "thesis": Plan((*CALLS, 100), 1000, 10, 100, 7),
}

check_device = zoo.find_device


def solvers(calls: tuple[int, ...] = CALLS) -> list[Arm]:
    """Every sampler at these numbers of network calls, or one less where it calls twice a step."""
    once = [Arm.of(name, count) for count in calls for name in (*SOLVERS, *STOCHASTIC)]
    return once + [Arm.of(name, steps_for(name, count)) for count in calls for name in TWICE]


def steps_for(sampler: str, calls: int) -> int:
    """The steps of a sampler that make this number of calls, or one less."""
    return (calls + 1) // 2 if sampler in TWICE else calls


def chains() -> list[Arm]:
    """Sequential chains: of 100 steps at several churns, and of fewer steps at the default one."""
    long = [Arm.of("ddim", CHAIN), *(Arm.of("ddim", CHAIN, eta=churn) for churn in CHURNS)]
    return [*long, *(Arm.of("ddim", steps, eta=CHURNS[0]) for steps in (30, 10))]


def arms() -> list[tuple[Arm, int]]:
    """Every arm and how many images of it, those first that take little and tell much."""
    speculative = [Arm.of("speculative", CHAIN, **({} if t == 1 else {"temperature": t})) for t in TEMPERATURES]
    parallel = [Arm.of("parallel", 200, **way) for way in ({}, {"method": "paradigms"})]
    first = [*solvers(CALLS[:-1]), *(Arm.of(name, count) for count in BETWEEN for name in QUICKEST), *chains()[:2], *chains()[-2:]]
    later = [*speculative, Arm.of("ddpm", 200), Arm.of("ddim", 200), *solvers(CALLS[-1:]), *parallel, *chains()[2:-2]]
    slides = [arm for arm in slides_arms(CHAIN, SLIDES_CHURN).values() if arm not in (*first, *later)]
    sizes = ((speculative, PACED), (first, IMAGES), (varied(CHAIN)[1:], PACED), ([*later, *slides], IMAGES))
    return [(arm, images) for some, images in sizes for arm in some]


def cells(device: str = "auto") -> list[Cell]:
    """Every cell, model by model; with the draft network, where it is trained, and its own chain."""
    subjects = [Subject(name, device=device) for name in NAMES]
    found = [item for subject in subjects for item in (*(cell(subject, *asked) for asked in arms()), rounds.closeness_cell(subject, PACED))]
    if cards.file(DRAFT).exists():
        [target], draft = [item for item in subjects if item.name == TARGET], Subject(DRAFT, device=device)
        found += [cell(target, Arm.of("speculative", CHAIN, draft=DRAFT), n) for n in (PACED, IMAGES)] + [cell(draft, Arm.of("ddim", CHAIN, eta=CHURNS[0]), IMAGES)]
    return found


def told(record: Record) -> str:
    """A record in a few words."""
    values = record.values
    if record.name == "parallel-closeness":
        nearest = record.asked["arms"][0]
        return f"{values[f'{nearest}: calls'].mean():.1f} calls, a pixel is off by at most {values[f'{nearest}: error'].max():.4f}"
    found = f"{values['calls'].mean():.1f} calls, {values['rows'].mean():.0f} rows an image, {values['accepted'].mean():.1%} accepted"
    return found + (f", KID {values['kid'][0]:.4f}" if "kid" in values else "")


def check_scaling(found: list[Record]) -> str:
    """Nothing here is scaled."""
    return ""

