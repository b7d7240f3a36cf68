"""A model as a whole pipeline of diffusers."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from .zoo import Model


def pipeline(model: "Model") -> "DiffusionPipeline":
    """Its DDPM, LDM or Stable Diffusion pipeline, made of the model's own networks.

    The latter two know a scale of the latents but no shift, so the shift moves into the autoencoder's 1x1
    convolutions: same images.
    """
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, StableDiffusionPipeline

    if model.vae is not None:
        _fold_shift(model)
    if model.conditional:
        parts = {part: getattr(model, part) for part in ("vae", "text_encoder", "tokenizer", "unet")}
        unused = dict.fromkeys(("safety_checker", "feature_extractor"))
        scheduler = DDIMScheduler.from_config(model.scheduler.config)
        return StableDiffusionPipeline(**parts, **unused, scheduler=scheduler, requires_safety_checker=False)
    if model.vae is None:
        return DDPMPipeline(model.unet, DDPMScheduler.from_config(model.scheduler.config))
    return LDMPipeline(model.vae, model.unet, DDIMScheduler.from_config(model.scheduler.config))


@torch.no_grad()
def _fold_shift(model: "Model") -> None:
    scale, shift = model.latent_scale
    if shift:  # post_quant_conv(z + shift) and quant_conv(h) - shift, exactly, as neither has padding
        after, before = model.vae.post_quant_conv, model.vae.quant_conv
        after.bias += shift * after.weight.sum(dim=(1, 2, 3))
        before.bias[: model.vae.config.latent_channels] -= shift
        model.vae.register_to_config(shift_factor=None)
    model.vae.register_to_config(scaling_factor=scale)
