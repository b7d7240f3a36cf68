"""What a notebook may be asked: one model of its parameters, shared by the notebook and the command line."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class Experiments(BaseModel):
    """The parameters of chapter 5; a field's description says what is allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    ratio: float | None = Field(
        None, ge=0, le=0.9, description="a number from 0 to 0.9, or None for the sweep 0 .. 0.9"
    )
    model: str | None = Field(None, description="None for the thesis's pair, a hub id with a slash, a local folder")
    weights: Literal["auto", "embedded", "hub", "random"] = Field("auto", description="auto, embedded, hub or random")
    method: str = Field("tome", description="a method of frugal.methods.merging")
    steps: int | None = Field(None, ge=1, description="a whole number from 1, or None for the scale's own")
    images: int | None = Field(None, ge=1, description="a whole number from 1, or None for the scale's own")
    seed: int = Field(0, ge=0, description="a whole number from 0")
    scale: Literal["smoke", "quick", "thesis"] = Field("quick", description="smoke, quick or thesis")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N")

    # The lists of models and methods come with PyTorch and diffusers: loaded only where one is named.

    @field_validator("model")
    @classmethod
    def known_model(cls, name: str | None) -> str | None:
        if name is None or "/" in name or Path(name).is_dir():
            return name
        from frugal.models import zoo

        if name not in zoo.names():
            raise ValueError(", ".join(zoo.names()))
        return name

    @field_validator("method")
    @classmethod
    def known_method(cls, name: str) -> str:
        from frugal.methods import merging

        if name not in (*merging.METHODS, merging.LIBRARY):
            raise ValueError(", ".join((*merging.METHODS, merging.LIBRARY)))
        return name


CHAPTERS = {"05_experiments": Experiments}


def validate(chapter: type[BaseModel] = Experiments, /, **given) -> BaseModel:
    """The chapter's checked parameters; raises a ValueError of one line: parameter, what it got, what is allowed."""
    try:
        return chapter(**given)
    except ValidationError as wrong:
        message = clear_line(chapter, wrong.errors()[0])
    raise ValueError(message)  # outside the handler, so that no chained dump follows the clear line


def clear_line(chapter: type[BaseModel], error: dict) -> str:
    """One line for pydantic's first error."""
    name = error["loc"][0]
    if name not in chapter.model_fields:
        return f"parameter {name}: unknown, allowed are {', '.join(chapter.model_fields)}"
    allowed = chapter.model_fields[name].description
    if error["type"] == "value_error":  # a validator raises the list of names
        allowed = f"{error['ctx']['error']}, {allowed}"
    return f"parameter {name}: got {error['input']!r}, allowed is {allowed}"
