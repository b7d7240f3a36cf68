"""What a notebook may be asked: one model of its parameters, shared by the notebook and the command line."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator


class Chapter(BaseModel):
    """What every chapter can be asked; a field's description says what is allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    seed: int = Field(0, ge=0, le=4_000_000_000, description="a whole number from 0 to 4000000000")  # image k has seed + k, to 2**32 - 1
    scale: Literal["smoke", "quick", "thesis"] = Field("quick", description="smoke, quick or thesis")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N")


class Diffusion(Chapter):
    """The parameters of chapter 1."""

    steps: int = Field(50, ge=2, le=1000, description="a whole number from 2 to 1000")
    images: int = Field(4, ge=2, le=16, description="a whole number from 2 to 16")
    watts: float = Field(65.0, gt=0, allow_inf_nan=False, description="a finite number above 0")
    price: float = Field(0.25, ge=0, allow_inf_nan=False, description="a finite number from 0")


class UNet(Chapter):
    """The parameters of chapter 2."""

    steps: int = Field(300, ge=1, description="a whole number from 1")
    width: int = Field(32, ge=8, le=256, multiple_of=8, description="a multiple of 8 from 8 to 256")
    level: int = Field(400, ge=1, le=999, description="a whole number from 1 to 999")


class Autoencoder(Chapter):
    """The parameters of chapter 3."""

    images: int = Field(32, ge=4, le=256, description="a whole number from 4 to 256")
    components: int = Field(32, ge=1, le=256, description="a whole number from 1 to 256")
    seed: int = Field(0, ge=0, le=10_000, description="a whole number from 0 to 10000")  # of the first test face


class Attention(Chapter):
    """The parameters of chapter 4."""

    prompt: str = Field(
        "a smiling face with dark skin, curly red hair, round eyes, square glasses and a green beanie on a blue background",
        description="a text made of the words of the captions",
    )
    guidance: float = Field(2.0, ge=1, le=20, description="a number from 1 to 20")
    seed: int = Field(0, ge=0, le=10_000, description="a whole number from 0 to 10000")  # also of the first test face
    images: int = Field(64, ge=4, le=256, description="a whole number from 4 to 256")
    tokens: Literal[256, 1024, 4096, 16384] = Field(4096, description="256, 1024, 4096 or 16384")

    @field_validator("prompt")
    @classmethod
    def known_words(cls, prompt: str) -> str:
        from frugal.models import text

        text.check_words(prompt)
        return prompt


class Experiments(Chapter):
    """The parameters of chapter 5."""

    ratio: float | None = Field(
        None, ge=0, le=0.9, description="a number from 0 to 0.9, or None for the sweep 0 .. 0.9"
    )
    model: str | None = Field(
        None, description="None for the thesis's pair and the embedded one, a hub id such as google/ddpm-cifar10-32, a diffusers folder"
    )
    weights: Literal["auto", "embedded", "hub", "random"] = Field("auto", description="auto, embedded, hub or random")
    method: str = Field("tome", description="a method of frugal.methods.merging")
    steps: int | None = Field(None, ge=1, description="a whole number from 1, or None for the scale's own")
    images: int | None = Field(None, ge=1, description="a whole number from 1, or None for the scale's own")
    prompts: str | list[str] | None = Field(None, min_length=1, description="a text, a list of one text an image, or None for the model's own list")
    guidance: float | None = Field(None, ge=1, le=50, description="a number from 1 to 50, or None for the model's own")
    # The lists of models and methods come with PyTorch and diffusers: loaded when something is checked, not before.

    @field_validator("model")
    @classmethod
    def known_model(cls, name: str | None) -> str | None:
        return known_model(name)

    @field_validator("method")
    @classmethod
    def known_method(cls, name: str) -> str:
        from frugal.methods import merging

        if name not in (*merging.METHODS, merging.LIBRARY):
            raise ValueError(", ".join((*merging.METHODS, merging.LIBRARY)))
        return name

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """What can be told of a combination before anything is loaded."""
        from frugal.methods import merging
        from frugal.models import text, zoo

        if (self.prompts, self.guidance) != (None, None) and self.model in plain_networks():
            raise ValueError(
                f"prompts, guidance: got {self.prompts!r}, {self.guidance!r}, but model {self.model!r} follows no text: "
                "allowed is None"
            )
        self.fit_prompts()
        if self.prompts is not None and self.model in (None, "faces-sd"):
            for prompt in [self.prompts] if isinstance(self.prompts, str) else self.prompts:
                try:
                    text.check_words(prompt)
                except ValueError as allowed:
                    raise ValueError(f"prompts: got {prompt!r} for model 'faces-sd', allowed are {allowed}") from None
        fit_weights(self.model, self.weights)
        if self.weights == "random" and self.model and not zoo.published(self.model):
            raise ValueError(f"weights: got 'random' for model {self.model!r}, allowed are {', '.join(zoo.SHORT)}")
        if self.method == merging.LIBRARY:
            if self.model is None or self.model in plain_networks():
                raise ValueError(
                    f"method: got {self.method!r}, which changes nothing in a UNet2DModel such as {self.model or zoo.names()[0]!r}; "
                    f"allowed are {', '.join(merging.METHODS)}"
                )
            if self.ratio is None or self.ratio > merging.TOMESD_LARGEST_RATIO:
                raise ValueError(
                    f"ratio: got {self.ratio!r} with method {self.method!r}, allowed is a number from 0 to "
                    f"{merging.TOMESD_LARGEST_RATIO}, where its 2x2 cells end"
                )
        return self

    def fit_prompts(self) -> None:
        """Raises ValueError for a list of more than one prompt that are not one an image."""
        from frugal.measure import plan

        images = self.images or plan.SCALES[self.scale].prompted
        if isinstance(self.prompts, list) and len(self.prompts) not in (1, images):
            raise ValueError(f"prompts: got {len(self.prompts)} texts, allowed is one, or one for each of the {images} images")


def known_model(name: str | None) -> str | None:
    """A name of the zoo, a hub id or a diffusers folder; raises ValueError with what is allowed for anything else."""
    from frugal.models import hub, zoo

    if name is None or name in zoo.names() or re.fullmatch(hub.ID, name):
        return name
    if name and Path(name).is_dir() and not hub.lacking(Path(name)):
        return name
    raise ValueError(", ".join(zoo.names()))


def fit_weights(model: str | None, weights: str) -> None:
    """Raises ValueError for weights that a model cannot have."""
    from frugal.models import zoo

    embedded = model in zoo.EMBEDDED
    if model and ((weights == "embedded" and not embedded) or (weights in ("hub", "random") and embedded)):
        raise ValueError(f"weights: got {weights!r} for model {model!r}, allowed is 'auto'")


def plain_networks() -> set[str]:
    """Names of the models whose networks have no transformer blocks: they follow no text, and tomesd does not patch them."""
    from frugal.models import zoo

    plain = {
        name for repository, parts in zoo.PUBLISHED.items() for name in (repository, repository.split("/")[1])
        if parts["unet"]["_class_name"] == "UNet2DModel"
    }  # fmt: skip
    return plain | {name for name, parts in zoo.EMBEDDED.items() if "text_encoder" not in parts}


class Merging(Chapter):
    """The parameters of chapter 6."""

    ratio: float = Field(0.5, ge=0.1, le=0.75, description="a number from 0.1 to 0.75")


class Samplers(Chapter):
    """The parameters of chapter 7."""

    model: Literal["faces-ldm", "faces-ddpm", "faces-sd"] = Field("faces-ldm", description="faces-ldm, faces-ddpm or faces-sd")
    images: int = Field(3, ge=2, le=256, description="a whole number from 2 to 256")
    seed: int = Field(0, ge=0, le=10_000, description="a whole number from 0 to 10000")  # also of the first test face


class Speculative(Chapter):
    """The parameters of chapter 8."""

    model: str = Field("faces-ldm", description="an embedded model, a hub id such as google/ddpm-cifar10-32, a diffusers folder")
    weights: Literal["auto", "embedded", "hub"] = Field("auto", description="auto, embedded or hub")
    steps: int = Field(100, ge=4, le=1000, description="a whole number from 4 to 1000")
    window: int = Field(20, ge=2, le=100, description="a whole number from 2 to 100")
    churn: float = Field(0.5, ge=1e-6, le=1, description="a number from 1e-6 to 1")
    temperature: float = Field(2.0, ge=1, le=10, description="a number from 1 to 10")
    images: int = Field(2, ge=1, le=64, description="a whole number from 1 to 64")
    seed: int = Field(0, ge=0, le=10_000, description="a whole number from 0 to 10000")

    @field_validator("model")
    @classmethod
    def known_model(cls, name: str) -> str:
        return known_model(name)

    @model_validator(mode="after")
    def fitting(self) -> Self:
        fit_weights(self.model, self.weights)
        return self


class Parallel(Chapter):
    """The parameters of chapter 9."""

    model: Literal["faces-ldm", "faces-ddpm", "faces-sd"] = Field("faces-ldm", description="faces-ldm, faces-ddpm or faces-sd")
    steps: int | None = Field(None, ge=8, le=1000, description="a whole number from 8 to 1000, or None for the scale's own")
    images: int | None = Field(None, ge=1, le=256, description="a whole number from 1 to 256, or None for the scale's own")
    window: int = Field(32, ge=2, le=256, description="a whole number from 2 to 256")


class Models(Chapter):
    """The parameters of the appendix on the embedded models."""

    images: int = Field(64, ge=8, le=256, description="a whole number from 8 to 256")
    searched: int = Field(10_000, ge=1000, le=100_000, multiple_of=1000, description="a multiple of 1000 from 1000 to 100000")
    seed: int = Field(0, ge=0, le=10_000, description="a whole number from 0 to 10000")  # also of the first test face


CHAPTERS = {
    "01_diffusion": Diffusion, "02_unet": UNet, "03_autoencoder": Autoencoder, "04_attention": Attention, "05_experiments": Experiments,
    "06_merging": Merging, "07_samplers": Samplers, "08_speculative": Speculative, "09_parallel": Parallel,
    "appendix_models": Models,
}  # fmt: skip


def validate(chapter: type[BaseModel] = Experiments, /, **given) -> BaseModel:
    """The chapter's checked parameters; raises a ValueError of one line: parameter, what it got, what is allowed."""
    try:
        return chapter(**given)
    except ValidationError as wrong:
        message = clear_line(chapter, wrong.errors()[0])
    raise ValueError(message)  # outside the handler, so that no chained dump follows the clear line


def clear_line(chapter: type[BaseModel], error: dict) -> str:
    """One line for pydantic's first error."""
    if not error["loc"]:  # of several parameters together
        return f"parameter {error['ctx']['error']}"
    name = error["loc"][0]
    if name not in chapter.model_fields:
        return f"parameter {name}: unknown, allowed are {', '.join(chapter.model_fields)}"
    allowed = chapter.model_fields[name].description
    if error["type"] == "value_error":  # a validator raises the list of names
        allowed = f"{error['ctx']['error']}, {allowed}"
    return f"parameter {name}: got {error['input']!r}, allowed is {allowed}"
