"""`frugal sweep steps`: samplers, speculative and parallel sampling on the embedded models, with samples large enough for a distance.

Quality does not depend on the machine, so these records are shipped; the chapters draw them beside what they measure themselves.
"""

from ..models import zoo
from .arms import Arm, cell
from .plan import Cell, Subject
from .records import Record

SCALE = "thesis"
MODELS = ()  # whose quality would need published weights
IMAGES = 512
CALLS = (5, 10, 20, 50)
SOLVERS = ("ddim", "dpmpp_2m", "unipc", "euler")  # one call a step
TWICE = ("heun", "edm")  # two calls a step but in the last
STOCHASTIC = ("ddpm", "dpmpp_2m_sde")
CHAIN = 100  # steps of the chain that speculative sampling reproduces
CHURNS = (0.5, 1.0, 0.25)  # of the sequential chain, the default first
TEMPERATURES = (1.0, 2.0)

check_device = zoo.find_device


def solvers(calls: tuple[int, ...] = CALLS) -> list[Arm]:
    """Every sampler at these numbers of network calls, or one less where it calls twice a step."""
    once = [Arm.of(name, count) for count in calls for name in (*SOLVERS, *STOCHASTIC)]
    return once + [Arm.of(name, (count + 1) // 2) for count in calls for name in TWICE]


def chains() -> list[Arm]:
    """Sequential chains: of 100 steps at several churns, and of fewer steps at the default one."""
    long = [Arm.of("ddim", CHAIN), *(Arm.of("ddim", CHAIN, eta=churn) for churn in CHURNS)]
    return [*long, *(Arm.of("ddim", steps, eta=CHURNS[0]) for steps in (30, 10))]


def arms() -> list[Arm]:
    """All arms in the order of their worth."""
    exact, approximate = (Arm.of("speculative", CHAIN, **({} if t == 1 else {"temperature": t})) for t in TEMPERATURES)
    return [*chains()[:2], *chains()[-2:], *solvers(), Arm.of("ddpm", 200), exact, approximate, *chains()[2:-2]]


def cells(device: str = "auto") -> list[Cell]:
    """Every cell: the latent model's, the text-conditioned one's, then the pixel model's, where a row costs most."""
    return [cell(subject, arm, IMAGES) for subject in subjects(device) for arm in arms()]


def subjects(device: str = "auto") -> list[Subject]:
    return [Subject(name, device=device) for name in ("faces-ldm", "faces-sd", "faces-ddpm")]


def quality_cells(name: str, device: str) -> list[Cell]:
    raise ValueError(f"name: got {name!r}, allowed is nothing: this sweep measures embedded models alone")


def told(record: Record) -> str:
    """A record in a few words."""
    values = record.values
    found = f"{values['calls'].mean():.1f} calls, {values['rows'].mean():.0f} rows an image, {values['accepted'].mean():.1%} accepted"
    return found + (f", KID {values['kid'][0]:.4f}" if "kid" in values else "")


def check_scaling(found: list[Record]) -> str:
    """Nothing here is scaled."""
    return ""

