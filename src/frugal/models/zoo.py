"""Every model by name: embedded, published on the hub, a published architecture with random weights, or your own."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import paths
from . import own
from .architectures import PUBLISHED, SEED, SHORT, architecture, published, randomise
from .hub import GONE, ID, MissingWeights, fetch, lacking, layout, read

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

EMBEDDED = {  # name: {part shared with other models: its folder}
    "faces-ddpm": {},
    "faces-ddpm-draft": {},
    "faces-ldm": {"vae": "faces-vae"},
    "faces-sd": {"vae": "faces-vae", "text_encoder": "faces-clip", "tokenizer": "faces-clip"},
}
SOURCES = ("auto", "embedded", "hub", "random")
NETWORKS = ("unet", "vae", "text_encoder")
GUIDANCE = 7.5  # diffusers' own default for Stable Diffusion
FACES_GUIDANCE = 2.0  # of a model that knows the words of captions alone

__all__ = ["MissingWeights", "Model", "architecture", "export", "load", "names"]


@dataclass(eq=False)
class Model:
    """A denoising network with its training noise schedule and, for a latent model, its autoencoder."""

    name: str
    weights: str  # "embedded", "hub", "local" (a folder), "random" or "memory" (a pipeline)
    unet: nn.Module
    scheduler: "SchedulerMixin"
    vae: nn.Module | None = None
    revision: str | None = None  # commit on the hub
    text_encoder: nn.Module | None = None  # of a text-conditioned model, with its tokenizer
    tokenizer: Any = None
    _hashed: tuple | None = field(default=None, init=False, repr=False)  # what the hash was taken of, and the hash

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.unet.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return next(self.unet.parameters(), torch.empty(0)).dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the network denoises."""
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError(f"the configuration of {self.name!r} gives no sample_size: set model.unet.config's")
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def image_size(self) -> int:
        """Height of the images, in pixels."""
        return self.latent_shape[1] * (2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae else 1)

    @property
    def latent_scale(self) -> tuple[float, float]:
        """(scale, shift) between the autoencoder's codes and latents = (codes - shift) * scale; (1, 0) without one."""
        if self.vae is None:
            return 1.0, 0.0
        config = self.vae.config
        # A VQModel that names no factor was trained without one (CompVis's scale_factor is 1): diffusers' default of
        # 0.18215 is Stable Diffusion's, and ruins these images (huggingface/diffusers issue 6725).
        unnamed = "scaling_factor" in config.get("_use_default_values", ())
        scale = 1.0 if unnamed and type(own.inside(self.vae)).__name__ == "VQModel" else config.scaling_factor
        return float(scale), float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [n, 3, H, W], about [-1, 1], of latents [n, *latent_shape]; of a model in pixels, the same tensor."""
        if self.vae is None:
            return latents
        scale, shift = self.latent_scale
        return self.vae.decode(latents.to(self.vae.dtype) / scale + shift).sample

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents [n, *latent_shape] (the mean, for a variational autoencoder) of images [n, 3, H, W] in [-1, 1]."""
        if self.vae is None:
            return images
        scale, shift = self.latent_scale
        code = self.vae.encode(images.to(self.vae.dtype))
        return ((code.latents if hasattr(code, "latents") else code.latent_dist.mean) - shift) * scale

    @property
    def conditional(self) -> bool:
        """Whether the network is steered by text."""
        return any(kind.__name__ == "UNet2DConditionModel" for kind in type(own.inside(self.unet)).__mro__)

    @property
    def of_captions(self) -> bool:
        """Whether it knows the words of captions alone: faces-sd, whatever it is called and wherever it lies."""
        from .text import ORDINARY, unknown_words

        return bool(unknown_words(self.tokenizer, [ORDINARY]))

    @property
    def guidance(self) -> float:
        """Weight of classifier-free guidance at which prompts are followed unless another is asked for."""
        return FACES_GUIDANCE if self.of_captions else GUIDANCE

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """What cross-attention sees of each prompt: [n, tokens, channels]. "" is no prompt.

        Raises ValueError for a model that has no text encoder, and as `text.prompt_tokens` does.
        """
        from .text import prompt_tokens

        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError(f"prompts: model {self.name!r} has no text encoder to read them with")
        numbers = prompt_tokens(self.tokenizer, prompts, self.text_encoder.config.max_position_embeddings)
        return self.text_encoder(input_ids=numbers.to(self.device)).last_hidden_state

    def parts(self) -> dict[str, nn.Module]:
        """The networks by name: "unet" and, where there are any, "vae" and "text_encoder"."""
        return {part: network for part in NETWORKS if (network := getattr(self, part)) is not None}

    @property
    def weights_hash(self) -> str:
        """Names this model in records: a hash of its tensors, configurations and schedule; of architecture and seed where
        weights are random. Changing a tensor in place changes it."""
        if self.weights == "random":
            configuration = json.dumps(PUBLISHED[SHORT[self.name]], sort_keys=True).encode()
            return f"random-{hashlib.sha256(configuration).hexdigest()[:12]}-seed{SEED}"
        settings = {part: _settings(network) for part, network in {**self.parts(), "scheduler": self.scheduler}.items()}
        settings["scale"] = self.latent_scale
        tensors = [(f"{part}.{key}", t) for part, net in sorted(self.parts().items()) for key, t in own.inside(net).state_dict().items()]
        state = json.dumps(settings, sort_keys=True, default=str), [(t.data_ptr(), t._version) for _, t in tensors]
        if self._hashed is None or self._hashed[0] != state:  # reading every weight takes a while
            digest = hashlib.sha256(state[0].encode())
            for name, tensor in tensors:
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
            self._hashed = state, digest.hexdigest()[:16]
        return self._hashed[1]

    def require_trained(self, what: str) -> None:
        """Raises ValueError where `what`, a measure of quality, is asked of random weights."""
        if self.weights == "random":
            raise ValueError(
                f"{what} needs trained weights, but model {self.name!r} has random ones, "
                "which serve time, memory and FLOPs only: load it with weights='auto'"
            )


def _settings(part: Any) -> dict:
    """A configuration without what the libraries note about their own version, files and how it was loaded."""
    config = getattr(part, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)  # of transformers, of diffusers
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in ("transformers_version", "dtype")}


def names() -> list[str]:
    """What load() knows without a hub: the embedded models, and the published ones that weights="random" times."""
    return [*(name for name in EMBEDDED if not absent(name)), *SHORT]


def absent(name: str) -> list[str]:
    """Which networks of an embedded model have no weights in this installation."""
    return [o for o in (name, *EMBEDDED[name].values()) if not any((paths.EMBEDDED / o).rglob("*.safetensors"))]


def load(
    name: "str | Path | DiffusionPipeline",  # a name of names(), a hub id "organisation/name", a folder, or a pipeline
    weights: str = "auto",  # embedded, else cached hub, else download; never random
    device: str | torch.device = "auto",  # CUDA, else Apple MPS, else CPU
    dtype: torch.dtype | None = None,  # default: float32
    revision: str | None = None,  # of a hub model; default: the pinned commit, else the cached or newest main
) -> Model:
    """A model ready to sample. weights="random" gives a published architecture with seeded random weights, no download.

    A pipeline in memory keeps its own device and dtype where these are not given; its networks are put in evaluation mode, and
    the model gets a scheduler of its own, of the same values. Raises MissingWeights, which tells the command that gets them,
    and ValueError for anything it does not know and for a scheduler whose noise is no discrete schedule of betas.
    """
    if weights not in SOURCES:
        raise ValueError(f"weights={weights!r} is not one of {', '.join(SOURCES)}")
    place = find_device(device)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype={dtype!r} is not a floating-point torch dtype")
    model = _find(name, weights, revision)
    own.check_schedule(model.scheduler, model.scheduler.config)
    given = model.weights == "memory"
    for network in model.parts().values():
        to = {"device": None if given and device == "auto" else place, "dtype": dtype or (None if given else torch.float32)}
        nn.Module.to(network, **to)  # diffusers' own `to` warns of every dtype, of no module in particular
    return model


def find_device(device: str | torch.device) -> torch.device:
    """The device of that name, "auto" the best there is; raises ValueError for one that this machine does not have."""
    available = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if device == "auto":
        return torch.device(available[0])
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not one of auto, {', '.join(available)}") from error
    if place.type not in available:
        raise ValueError(f"device={device!r} is not on this machine, which has {', '.join(available)}")
    return place


def _find(name: Any, weights: str, revision: str | None) -> Model:
    embedded = isinstance(name, str) and name in EMBEDDED
    if name in tuple(GONE):
        raise MissingWeights(f"name={name!r} is gone from the hub; the same weights are at {GONE[name]!r}")
    if (weights == "embedded" and not embedded) or (weights == "hub" and embedded):
        raise ValueError(f"weights={weights!r} does not fit name={name!r}: embedded are {', '.join(EMBEDDED)}")
    local = weights == "random" or embedded or not isinstance(name, str) or Path(name or "?").is_dir()
    if revision is not None and local:
        raise ValueError(f"revision={revision!r} is for models of the hub, not for name={str(name)!r}")
    if weights == "random":
        return _from_architecture(name)
    if embedded:
        return _from_package(name)
    if not isinstance(name, str | Path):
        return _from_pipeline(name)
    is_folder = bool(str(name)) and not published(name) and Path(name).is_dir()
    return _from_folder(Path(name)) if is_folder else _from_hub(str(name), revision)


def _from_architecture(name: Any) -> Model:
    import diffusers

    repository = published(name)
    if repository is None:
        raise ValueError(f"weights='random' is for the published {', '.join(SHORT)}, not name={name!r}")
    networks = architecture(repository)
    configuration = PUBLISHED[repository]["scheduler"]
    scheduler = getattr(diffusers, configuration["_class_name"]).from_config(configuration)
    made = {part: randomise(networks[part]) for part in NETWORKS if part in networks}
    return Model(repository.split("/")[1], "random", scheduler=scheduler, **made)


def _from_pipeline(pipeline: "DiffusionPipeline") -> Model:
    parts = own.parts(pipeline)
    if not isinstance(parts["unet"], nn.Module) or parts["scheduler"] is None:
        raise ValueError(f"name={type(pipeline).__name__} is neither text nor a pipeline with a unet and a scheduler")
    model = Model(type(pipeline).__name__, "memory", **parts | {"scheduler": own.written_out(parts["scheduler"])})
    for network in model.parts().values():
        network.eval()
    return model


def _from_package(name: str) -> Model:
    folders = layout(paths.EMBEDDED / name)
    for owner in absent(name):
        raise MissingWeights(f"{owner!r} is not in this installation: `frugal train {owner}` makes it")
    return Model(name, "embedded", **read(folders | {part: paths.EMBEDDED / at for part, at in EMBEDDED[name].items()}))


def _from_folder(folder: Path) -> Model:
    if missing := lacking(folder):
        raise MissingWeights(f"name={str(folder)!r}, a folder, has no {', no '.join(missing)}")
    return Model(str(folder), "local", **read(layout(folder)))


def _from_hub(name: str, revision: str | None) -> Model:
    repository = published(name) or name
    if not re.fullmatch(ID, repository):
        raise ValueError(f"name={name!r} is not one of {', '.join(names())}, a hub id or a diffusers folder")
    known = repository in PUBLISHED
    folder = fetch(repository, revision, f"zoo.load({name!r}, weights='random') times it without." if known else "")
    return Model(repository.split("/")[1] if known else name, "hub", **read(layout(folder)), revision=folder.name)


def export(name: str | Path, folder: str | Path) -> Path:
    """Writes a model, float32, as a whole diffusers pipeline: DDPM, LDM or Stable Diffusion, see `exported.pipeline`.

    `folder` must be new or empty; ValueError where it is not.
    """
    from .exported import pipeline

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder={str(folder)!r} exists already and is not an empty folder")
    pipeline(load(name, device="cpu")).save_pretrained(folder)
    return folder
