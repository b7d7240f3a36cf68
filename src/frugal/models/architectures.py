"""Published architectures with seeded random weights: time, memory and FLOPs do not depend on what was learned."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())  # hub id: {part: configuration}
SHORT = {repository.split("/")[1]: repository for repository in PUBLISHED}
SEED = 0


def published(name: Any) -> str | None:
    """The hub id of a published model, from its short or full name; None for anything else."""
    return SHORT.get(name, name if name in PUBLISHED else None) if isinstance(name, str) else None


def architecture(name: str) -> dict[str, nn.Module]:
    """The networks of a published model on the meta device, without memory: "unet", and "vae", "text_encoder" if any.

    Raises ValueError for a name that is not published.
    """
    import diffusers
    import transformers

    repository = published(name)
    if repository is None:
        raise ValueError(f"name={name!r} is not one of the published {', '.join(SHORT)}")
    networks = {}
    with torch.device("meta"):
        for part, configuration in PUBLISHED[repository].items():
            if part == "text_encoder":
                networks[part] = transformers.CLIPTextModel(transformers.CLIPTextConfig(**configuration))
            elif part != "scheduler":
                network = getattr(diffusers, configuration["_class_name"])
                networks[part.removeprefix("vq")] = network.from_config(configuration)
    return networks


def randomise(network: nn.Module, seed: int = SEED) -> nn.Module:
    """Gives a network on the meta device memory and weights: U(-b, b) of variance 1 / fan-in, norms 1, biases 0.

    That keeps activations finite and far from denormal numbers, which would be slow. The global generator is untouched.
    """
    generator = torch.Generator().manual_seed(seed)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                bound = math.sqrt(3 / parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        for name, buffer in network.named_buffers():
            if name.endswith("position_ids"):  # of a text encoder: no weights, so they have to be right
                buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return network.eval()
