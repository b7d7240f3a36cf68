"""Diffusers folders, local or of the Hugging Face hub: what one holds, reading it, fetching it; safetensors only."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

PINNED = {  # commits that the published configurations were read from; other models record the one they resolve to
    "google/ddpm-celebahq-256": "cd5c944777ea2668051904ead6cc120739b86c4d",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
}
ID = r"\w[\w.-]*/\w[\w.-]*"  # organisation/name
GONE = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
PARTS = {
    "unet": "config.json", "vae": "config.json", "vqvae": "config.json", "scheduler": "scheduler_config.json",
    "text_encoder": "config.json", "tokenizer": "tokenizer_config.json",
}  # fmt: skip
SETTINGS = ("scheduler", "tokenizer")  # parts without weights
WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # of weights in several files
FILES = ("config.json", "scheduler_config.json", WEIGHTS, INDEX, "diffusion_pytorch_model-*.safetensors")
TEXT_FILES = (
    "text_encoder/config.json", f"text_encoder/{TEXT_WEIGHTS}", "tokenizer/*.json", "tokenizer/merges.txt",
)  # fmt: skip
NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "AutoencoderKL", "VQModel")


class MissingWeights(ValueError):
    """The weights asked for are not on this machine; the message tells the command that gets them."""


def layout(folder: Path) -> dict[str, Path]:
    """Folder of each part of a diffusers folder: its own, or the root, where google/ddpm-* keep unet and scheduler."""
    found = {part: folder / part for part, file in PARTS.items() if (folder / part / file).exists()}
    at_root = {part: folder for part in ("unet", "scheduler") if (folder / PARTS[part]).exists()}
    return at_root | found


def lacking(folder: Path) -> list[str]:
    """What a folder must have before it can be loaded and has not; a network's weights count as safetensors only."""
    parts = layout(folder)
    configurations = [f"{PARTS[part]} of its {part}" for part in ("unet", "scheduler") if part not in parts]
    networks = [part for part in parts if part not in SETTINGS]
    return configurations + [f"safetensors of its {part}" for part in networks if not _has_weights(parts[part])]


def _has_weights(folder: Path) -> bool:
    index = folder / INDEX
    if folder.name == "text_encoder":
        return (folder / TEXT_WEIGHTS).exists()
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {WEIGHTS}
    return all((folder / file).exists() for file in shards)


def read(folders: dict[str, Path]) -> dict[str, Any]:
    """The parts in folders as layout() gives them, on the CPU in float32, absent ones None: "unet", "scheduler", "vae",
    "text_encoder" and "tokenizer"."""
    import diffusers

    schedulers = tuple(name for name in dir(diffusers) if name.endswith("Scheduler"))
    scheduler = _class(folders["scheduler"] / PARTS["scheduler"], schedulers, "schedulers")
    vae = folders.get("vae") or folders.get("vqvae")
    return {
        "unet": _network(folders["unet"]),
        "scheduler": scheduler.from_pretrained(folders["scheduler"]),
        "vae": _network(vae) if vae else None,
        "text_encoder": text_encoder(folders["text_encoder"]) if "text_encoder" in folders else None,
        "tokenizer": _tokenizer(folders["tokenizer"]) if "tokenizer" in folders else None,
    }


def text_encoder(folder: Path) -> nn.Module:
    """The CLIPTextModel in a folder, alone or as half of a whole CLIP; float32, on the CPU."""
    import transformers

    with quiet():  # of a whole CLIP it would list every weight of the image encoder
        options = {"use_safetensors": True, "local_files_only": True}
        return transformers.CLIPTextModel.from_pretrained(folder, **options).float().eval()


@contextmanager
def quiet() -> Iterator[None]:
    """No notices and no progress bar from transformers while it loads."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _network(folder: Path) -> nn.Module:
    network = _class(folder / "config.json", NETWORKS, ", ".join(NETWORKS))
    return network.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()


def _class(configuration: Path, allowed: tuple[str, ...], description: str) -> type:
    import diffusers

    name = json.loads(configuration.read_text()).get("_class_name")
    if name not in allowed:
        raise ValueError(f"{configuration} is of class {name!r}, which is not one of diffusers' {description}")
    return getattr(diffusers, name)


def fetch(repository: str, revision: str | None = None, advice: str = "") -> Path:
    """Snapshot folder of a hub model, named after its commit: from the cache if it is whole there, else downloaded.

    repository: "organisation/name"; revision: branch, tag or commit (default: the pinned one, else the cached or newest
    main); advice: a sentence for the error. Raises MissingWeights with the command that downloads the model or, where
    the hub has no safetensors of it, the one that converts it.
    """
    from huggingface_hub import snapshot_download

    revision = revision or PINNED.get(repository)
    networks = [part for part in PARTS if part not in ("text_encoder", "tokenizer")]
    patterns = [f"{place}{file}" for place in ("", *(f"{part}/" for part in networks)) for file in FILES]
    patterns += TEXT_FILES
    for cached in (True, False):
        try:
            folder = snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=cached)
        except Exception as error:  # noqa: BLE001 (the client lets its HTTP library's errors through, whichever that is)
            message = _unreachable(repository, revision, error)
            continue
        missing = lacking(Path(folder))
        if not missing:
            return Path(folder)
        message = _unusable(repository, Path(folder).name, missing)
    raise MissingWeights(f"{message}. {advice}".strip())


def _unreachable(repository: str, revision: str | None, error: Exception) -> str:
    pin = f" --revision {revision}" if revision else ""
    reason = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
    return (
        f"{repository!r} is neither a folder nor in this machine's cache, and the hub did not give it "
        f"({type(error).__name__}: {reason}). Fetch it where there is a connection: "
        f'hf download {repository}{pin} --include "*.json" --include "*{WEIGHTS}"'
    )


def _unusable(repository: str, commit: str, missing: list[str]) -> str:
    convert = f"DiffusionPipeline.from_pretrained({repository!r}, revision={commit!r}).save_pretrained('FOLDER')"
    return (
        f"{repository!r} at {commit[:12]} has no {', no '.join(missing)}. Pickled weights are never loaded here: where "
        f'you trust them, convert once, python -c "from diffusers import DiffusionPipeline; {convert}", and load FOLDER'
    )
