"""How the images are sampled whose quality is measured: seeds, steps, sampler, and prompts where a model takes them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models import faces

if TYPE_CHECKING:
    from ..models.zoo import Model
    from .plan import Subject

PROMPTS = Path(__file__).with_name("prompts.txt")  # of models that know more than faces


@dataclass(frozen=True)
class Draw:
    """How images of a model are sampled; `options` are what `samplers.sample` takes besides seeds, steps and sampler."""

    steps: int
    seeds: tuple[int, ...]
    sampler: str = "ddim"
    prompts: tuple[str, ...] | None = None  # of a text-conditioned model, one a seed
    guidance: float | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.prompts is None else {"prompts": self.prompts, "guidance": self.guidance}

    def part(self, chosen: slice) -> "Draw":
        """The same of some of the seeds."""
        return replace(self, seeds=self.seeds[chosen], prompts=self.prompts and self.prompts[chosen])


def draw(
    subject: "Subject", images: int, steps: int, seed: int = 0, prompts: Any = None, guidance: float | None = None
) -> Draw:
    """Images of `seed` on; of a text-conditioned model by `prompts` (one, or one an image), else by its own list: captions
    of test faces for a model of faces, else PROMPTS, both in the order of the seeds.

    Raises ValueError for prompts of another number, and for prompts or guidance of a model that takes none.
    """
    seeds = tuple(range(seed, seed + images))
    if not subject.conditional:
        if prompts is not None or guidance is not None:
            raise ValueError(f"prompts: got {prompts!r} for model {subject.name!r}, which takes no prompts and no guidance")
        return Draw(steps, seeds)
    given = [prompts] if isinstance(prompts, str) else own_prompts(seeds, subject.model) if prompts is None else prompts
    if len(given) not in (1, images):
        raise ValueError(f"prompts: got {len(given)}, allowed are 1 or as many as images, {images}")
    said = tuple(given) * (images if len(given) == 1 else 1)
    published = type(subject.model.scheduler).__name__ == "PNDMScheduler"
    return Draw(steps, seeds, "pndm" if published else "ddim", said, float(guidance or subject.model.guidance))


def own_prompts(seeds: Iterable[int], model: "Model") -> list[str]:
    """The prompts of these seeds where none are asked for."""
    if model.of_captions:
        data = faces.Faces("test")
        return faces.captions(data.parameters([k % len(data) for k in seeds]))
    return [_lines()[k % len(_lines())] for k in seeds]


@cache
def _lines() -> list[str]:
    return PROMPTS.read_text(encoding="utf-8").splitlines()
