"""What chapter 5 measures: its scales, the models it is asked of, and the cells, one record each, that a run consists of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import torch
from torch import nn

from ..methods import layers, library, matching, merging, reductions, reuse
from ..models import hub, zoo
from ..models.architectures import published
from . import cost, records

RATIOS = tuple(k / 10 for k in range(10))  # the thesis's ten
THESIS_STEPS = 200
PUBLISHED_REUSE = 1  # steps that a matching serves in the thesis's experiment, as in the paper: it is made anew in every one
PUBLISHED = ("ddpm-celebahq-256", "ldm-celebahq-256")  # the thesis's pair
EMBEDDED = ("faces-ddpm", "faces-ldm")
TEXT = "faces-sd"  # in the place of the thesis's third model, Stable Diffusion
MERGING = (merging, matching, reductions, reuse, layers, library)  # the source of merged tokens, for records
LARGE = 50e9  # FLOPs a step from which a network is timed whole at a few ratios, its layers at all
LOADING = 2e-8  # seconds a parameter until a network is on its device, about
TIMESTEP = 500  # at which a single step is timed


@dataclass(frozen=True)
class Scale:
    """How much of everything is measured."""

    name: str
    ratios: tuple[float, ...]
    network_ratios: tuple[float, ...]  # of large networks timed whole; the others are composed from their layers
    rounds: int  # interleaved rounds of large networks
    small_rounds: int  # of the others
    layer_rounds: int
    decode_rounds: int
    images: int  # whose quality is measured
    prompted: int  # the same of a text-conditioned model
    steps: int
    watched: int  # images compared at every step
    timed_images: int  # generated on the clock, step by step
    timed_steps: int
    times_large: bool  # whether whole images of large networks are generated on the clock
    memory_ratios: tuple[float, ...]
    memory_large: bool = True  # whether the peak memory of large networks is measured
    divisor: int = 1  # of the side of a large network's input


SCALES = {
    "smoke": Scale("smoke", (0.0, 0.5, 0.9), (0.0, 0.9), 3, 4, 3, 1, 2, 2, 2, 1, 1, 2, False, (0.0,), memory_large=False, divisor=4),
    "quick": Scale("quick", RATIOS, (0.0, 0.5, 0.9), 7, 11, 7, 3, 16, 16, 25, 2, 1, 25, False, (0.0, 0.9)),
    "thesis": Scale("thesis", RATIOS, RATIOS, 21, 21, 21, 21, 100, 20, THESIS_STEPS, 8, 100, THESIS_STEPS, True, RATIOS),
}  # fmt: skip


@lru_cache(maxsize=5)
def _load(name: str, weights: str, device: str, precision: str) -> zoo.Model:
    return zoo.load(name, weights=weights, device=device, dtype=getattr(torch, precision))


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is measured, loaded when its network is needed: a stored record of random weights needs none."""

    name: str
    weights: str = "auto"
    device: str = "auto"
    given: zoo.Model | None = None
    precision: str = "float32"  # a torch dtype's name; a model handed in keeps its own

    @classmethod
    def of(cls, item: "str | tuple[str, str] | zoo.Model | Subject", device: str = "auto") -> "Subject":
        """From a name, a pair (name, weights) or a loaded model."""
        if isinstance(item, cls):
            return item
        if isinstance(item, zoo.Model):
            return cls(item.name, item.weights, str(item.device), item)
        name, weights = (item, "auto") if isinstance(item, str) else item
        return cls(name, weights, device)

    @property
    def _unloaded(self) -> bool:
        """Random weights, about which all is known without them."""
        return self.weights == "random" and self.given is None

    @property
    def model(self) -> zoo.Model:
        return self.given or _load(self.name, self.weights, self.place, self.precision)

    @property
    def place(self) -> str:
        """The device in words."""
        return str(self.given.device if self.given else zoo.find_device(self.device))

    @property
    def _named(self) -> zoo.Model:
        """The model, or no more than its name where random weights say all."""
        short = (published(self.name) or "").rpartition("/")[2]
        return zoo.Model(short, "random", None, None) if short and self._unloaded else self.model

    @property
    def about(self) -> dict[str, Any]:
        """Name, weights, their hash and revision, as records keep them; of a model handed in, how it attends as well."""
        found = {key: getattr(self._named, key) for key in ("name", "weights", "weights_hash", "revision")}
        return found | ({"attention": processors(self.given.unet)} if self.given else {})

    @property
    def dtype(self) -> str:
        """What the network computes in."""
        return str(self.given.dtype).removeprefix("torch.") if self.given else self.precision

    @property
    def title(self) -> dict[str, str]:
        """The columns by which every table names a model."""
        return {"model": self._named.name, "weights": self._named.weights}

    @cached_property
    def blueprint(self) -> nn.Module:
        """The network on the meta device: its shapes, without memory or weights."""
        if published(self.name) and self.given is None:
            return zoo.architecture(self.name)["unet"]
        network = self.model.unet  # loaded before: not onto that device
        with torch.device("meta"):
            return type(network).from_config(network.config)

    @cached_property
    def flops(self) -> int:
        """FLOPs of one step of one image at the network's own size."""
        return _published_flops(self.name) if published(self.name) and self.given is None else _flops(self.blueprint)

    @cached_property
    def attention(self) -> float:
        """The share of these in attention."""
        (sample, timestep), options = step_input(self.blueprint, device="meta")
        return cost.attention_share(self.blueprint, tuple(sample.shape), timestep, **options)

    @cached_property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.blueprint.parameters())

    @property
    def downloadable(self) -> bool:
        """Whether using the weights begins with a download."""
        from huggingface_hub import try_to_load_from_cache

        repository = published(self.name)
        if not repository or self.weights == "random" or self.given:
            return False
        files = (f"{place}{hub.WEIGHTS}" for place in ("unet/", ""))
        pinned = hub.PINNED.get(repository)
        return not any(isinstance(try_to_load_from_cache(repository, file, revision=pinned), str) for file in files)

    @property
    def large(self) -> bool:
        return self.flops >= LARGE

    @cached_property
    def plain(self) -> bool:
        """Whether attention acts on feature maps, without transformer blocks: such a layer can be timed alone."""
        return all(layer.block is None for layer in merging.self_attentions(self.blueprint))

    @cached_property
    def latent(self) -> bool:
        """Whether images are decoded from latents."""
        known = published(self.name) and self.given is None
        return "vae" in zoo.architecture(self.name) if known else self.model.vae is not None

    @cached_property
    def conditional(self) -> bool:
        """Whether images follow a text."""
        return type(self.blueprint).__name__ == "UNet2DConditionModel"

    @property
    def trained(self) -> bool:
        return self.weights != "random"

    def require_trained(self, what: str) -> None:
        """Raises ValueError where `what` is asked of random weights, before anything is loaded."""
        zoo.Model(self.name, self.weights, None, None).require_trained(what)


def _flops(blueprint: nn.Module) -> int:
    arguments, options = step_input(blueprint, device="meta")
    return cost.flops(blueprint, *arguments, **options)


@cache
def _published_flops(name: str) -> int:
    """Counted once, for all devices and precisions."""
    return _flops(zoo.architecture(name)["unet"])


def processors(unet: nn.Module) -> list[str]:
    """The kinds of attention processors in a network: whether attention is fused is theirs to say."""
    return sorted({type(layer.processor).__name__ for _, layer in cost.attention_layers(unet)})


def step_input(
    unet: nn.Module, divisor: int = 1, device: Any = "cpu", size: tuple[int, int] | None = None, batch: int = 1
) -> tuple[tuple, dict]:
    """Positional and named arguments of one denoising step of `batch` images, its side divided by `divisor`.

    `size`: height and width of the network's input, None for its own.
    """
    config = unet.config
    own = config.sample_size
    height, width = size or ((own, own) if isinstance(own, int) else own)
    to = {"device": device, "dtype": next(unet.parameters()).dtype}

    def random(*shape: int):
        return torch.randn(batch, *shape, generator=_generator()).to(**to)

    options = {}
    if words := config.get("cross_attention_dim"):  # a text-conditioned network also gets 77 tokens, as CLIP makes them
        options["encoder_hidden_states"] = random(77, words)
    if config.get("addition_embed_type") == "text_time":  # SDXL: a pooled text and six sizes
        sizes = 6 * config.addition_time_embed_dim
        pooled = random(config.projection_class_embeddings_input_dim - sizes)
        options["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": random(6)}
    if config.get("num_class_embeds"):
        options["class_labels"] = torch.zeros(batch, dtype=torch.long, device=device)
    return (random(config.in_channels, height // divisor, width // divisor), TIMESTEP), options


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass(frozen=True, eq=False)
class Cell:
    """The smallest thing measured: one record, made in one go and lost alone when a run is killed."""

    kind: str
    name: str
    subject: Subject
    asked: dict
    function: Callable[[], dict]
    source: tuple
    steps: float = 0.0  # about what it takes, for the forecast: network steps of one image at full size
    passes: float = 0.0  # passes through the attention layers alone
    overhead: float = 0.0  # seconds besides: starting a process, comparing images

    @property
    def flops(self) -> float:
        return (self.steps + self.passes * (self.subject.attention if self.passes else 0)) * self.subject.flops

    def _about(self, scale: str) -> dict:
        about = {"scale": scale, "source": self.source, "model": self.subject.about}
        return about | {"device": self.subject.place, "dtype": self.subject.dtype}

    def measure(self, scale: str) -> records.Record:
        """The stored record, else measured now."""
        return records.measure(self.kind, self.name, self.asked, self.function, **self._about(scale))

    def found(self, scale: str) -> records.Record | None:
        """The stored record, None where measuring would take time."""
        return records.find(self.kind, self.name, self.asked, **self._about(scale))

    def missing(self, scale: str) -> bool:
        """Whether measuring would take time."""
        return self.found(scale) is None

    def shipped(self, scale: str, among: list[records.Record]) -> records.Record | None:
        """What a device of the same name found elsewhere, among shipped records (see `records.find_shipped`)."""
        return records.find_shipped(among, self.kind, self.name, self.asked, **self._about(scale))


@dataclass(frozen=True)
class Share:
    """One model's part of a plan."""

    subject: Subject
    network_ratios: tuple[float, ...]  # at which the whole network is timed
    layer_ratios: tuple[float, ...]  # at which its layers are; empty where the network is timed at every ratio
    rounds: int
    divisor: int


def shares(request: Any) -> list[Share]:
    """What a `frugal.parameters.Experiments` has measured, model by model; loads no random weights."""
    scale, ratios = SCALES[request.scale], sweep(SCALES[request.scale].ratios, request.ratio)
    found = []
    for subject in subjects(request):
        whole = sweep(scale.network_ratios, request.ratio) if subject.large and subject.plain else ratios
        composed = not set(ratios) <= set(whole)
        rounds, divisor = (scale.rounds, scale.divisor) if subject.large else (scale.small_rounds, 1)
        found.append(Share(subject, whole, ratios if composed else (), rounds, divisor))
    return found


def subjects(request: Any) -> list[Subject]:
    """The models of a request: the one it names, else the thesis's pair with random weights and the embedded ones."""
    weights = request.weights
    if request.model is not None:
        asked = [(request.model, weights)]
    else:
        published = {"auto": "random", "embedded": None}.get(weights, weights)
        asked = [(name, published) for name in PUBLISHED if published]
        asked += [(name, "embedded") for name in (*EMBEDDED, TEXT) if weights in ("auto", "embedded")]
    return [Subject.of(pair, request.device) for pair in asked]


def sweep(ratios: Iterable[float], ratio: float | None) -> tuple[float, ...]:
    """The ratios of a scale, or the one asked for beside 0."""
    return tuple(ratios) if ratio is None else tuple(sorted({0.0, float(ratio)}))
