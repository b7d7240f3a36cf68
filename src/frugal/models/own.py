"""A pipeline or a network of one's own: its parts, its scheduler as a file would give it, and what sampling asks of both."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

PREDICTIONS = ("epsilon", "sample", "v_prediction")
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")


def inside(network: nn.Module) -> nn.Module:
    """The network that torch.compile wrapped, whose class and weights' names are its own; any other is returned as it is."""
    return getattr(network, "_orig_mod", network)


def parts(pipeline: "DiffusionPipeline") -> dict[str, Any]:
    """The parts of a pipeline in memory, named as `hub.read` names those of a folder, absent ones None."""
    found = {part: getattr(pipeline, part, None) for part in ("unet", "scheduler", "vae", "text_encoder", "tokenizer")}
    return found | {"vae": found["vae"] or getattr(pipeline, "vqvae", None)}


def written_out(scheduler: Any) -> "SchedulerMixin":
    """A new scheduler of the same values, all of them set, as a file would set them.

    diffusers leaves out what nobody set when it makes one scheduler of another, so that the defaults of the other hold.
    Raises ValueError as `check_schedule` does.
    """
    config = getattr(scheduler, "config", {})
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    check_schedule(scheduler, values)
    return type(scheduler).from_config(values)


def check_schedule(scheduler: Any, config: Mapping) -> None:
    """Raises ValueError unless `config`, its configuration, gives every sampler the noise that a scheduler has itself."""
    signal, kind = getattr(scheduler, "alphas_cumprod", None), config.get("prediction_type", PREDICTIONS[0])
    made = _signal(config)
    same = isinstance(signal, torch.Tensor) and signal.shape == made.shape
    if not same or not torch.allclose(made, signal.cpu().to(made.dtype), rtol=1e-4, atol=1e-6) or kind not in PREDICTIONS:
        what = type(scheduler).__name__ if kind in PREDICTIONS else f"{type(scheduler).__name__} of prediction_type {kind!r}"
        raise ValueError(
            f"scheduler: got {what}, allowed is one whose configuration gives its betas, as those of DDPM, DDIM, PNDM, DPM-Solver, "
            f"Euler and LCM do, and whose prediction_type is {', '.join(PREDICTIONS[:-1])} or {PREDICTIONS[-1]}"
        )


def _signal(config: Mapping) -> torch.Tensor:
    """alphas_cumprod as a scheduler made from `config` has them; none where DDPM's does not know the shape of its betas."""
    from diffusers import DDPMScheduler

    values = {key: config[key] for key in BETAS if key in config and key not in config.get("_use_default_values", ())}
    try:
        return DDPMScheduler(**values).alphas_cumprod
    except NotImplementedError:
        return torch.empty(0)


def learns_variance(unet: nn.Module, scheduler: Any) -> bool:
    """Whether the second half of the network's channels is the variance of a step."""
    given, variance = getattr(unet.config, "out_channels", None), scheduler.config.get("variance_type")
    return given == 2 * unet.config.in_channels and str(variance).startswith("learned")


def check_network(name: str, unet: nn.Module, scheduler: Any) -> None:
    """Raises ValueError for a network that `sample` cannot run: it tells it the noisy sample, the time and a text, nothing else."""
    if found := _unfit(unet, scheduler):
        raise ValueError(
            f"model: the network of {name!r} {found}; allowed is a UNet2DModel or UNet2DConditionModel that is told no more than "
            "the time and a text, and gives as many channels as it takes"
        )


def _unfit(unet: nn.Module, scheduler: Any) -> str | None:
    from diffusers import ModelMixin, UNet2DConditionModel, UNet2DModel

    network, config = inside(unet), unet.config
    taken = getattr(config, "in_channels", None)
    given = getattr(config, "out_channels", taken)
    if isinstance(network, ModelMixin) and not isinstance(network, UNet2DModel | UNet2DConditionModel):
        return f"is a {type(network).__name__}"
    added, projected = (getattr(config, key, None) for key in ("addition_embed_type", "encoder_hid_dim_type"))
    if added not in (None, "text") or projected not in (None, "text_proj"):
        return "is conditioned on more than a text, as Stable Diffusion XL is"
    if getattr(network, "class_embedding", None) is not None:
        return "is conditioned on a class"
    if given != taken and not learns_variance(unet, scheduler):
        return f"takes {taken} channels and gives {given}"
    return None
