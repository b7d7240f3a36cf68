"""What is trained and on which loss: one recipe a network, their schedules of noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from .. import paths
from . import hub, text
from .faces import Faces, captions
from .reader import FacesReader, reading_loss

SIZE = 64
Teacher = Callable[[Tensor, Tensor], Tensor]  # noisy sample, time steps -> velocity


@dataclass(frozen=True)
class Recipe:
    folder: str  # below models/embedded
    build: Callable[[], nn.Module]
    loss: Callable[
        [nn.Module, dict[str, Tensor], Tensor], Tensor
    ]  # network, parameters of a batch, its images in [-1, 1]
    minutes: float  # default, on two CPU cores
    batch: int
    rate: float  # peak of the cosine learning rate
    matrix_rate: float = 0.0  # the same of Muon, which trains hidden kernels where it is above 0
    decay: float = 0.999  # of the moving average
    half: bool = True  # whether the network computes in bfloat16
    guidance: float | None = None  # scale of the guided prediction that a training ends on, see `guidance`

    def load(self, root: Path | None = None) -> nn.Module:
        """The network with its weights below `root` (None: the embedded ones), float32, on the CPU."""
        with hub.quiet():
            return type(self.build()).from_pretrained((root or paths.EMBEDDED) / self.folder, torch_dtype=torch.float32)


def shifted_cosine(shift: float, steps: int = 1000) -> list[float]:
    """Betas of the cosine schedule (arXiv 2102.09672) with its log signal-to-noise ratio lowered by 2 log(shift)
    (arXiv 2301.11093): flat pictures stay legible under more noise than photographs do."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    logsnr = (-2 * torch.log(torch.tan(math.pi * t / 2)) - 2 * math.log(shift)).clamp(-9.5, 11)
    alpha_bar = torch.sigmoid(logsnr)
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(1e-6, 0.999).tolist()


def schedule(shift: float) -> DDPMScheduler:
    return DDPMScheduler(
        trained_betas=[round(b, 9) for b in shifted_cosine(shift)], prediction_type="v_prediction",
        clip_sample=False, timestep_spacing="trailing",
    )  # fmt: skip


def reader_loss(reader: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    noise = 0.08 * torch.rand(len(images), 1, 1, 1, device=images.device)
    return reading_loss(reader(images + noise * torch.randn_like(images)), parameters)


def vae_loss(vae: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    """L1 of pixels and of image gradients, a small KL, and equivariance to halving the latents (arXiv 2502.09509)."""
    learns_to_encode = vae.encoder.conv_in.weight.requires_grad
    with torch.set_grad_enabled(learns_to_encode):
        posterior = vae.encode(images).latent_dist
    latents, target = posterior.sample(), images
    if learns_to_encode and torch.rand(()) < 0.25:
        latents, target = nn.functional.avg_pool2d(latents, 2), nn.functional.avg_pool2d(images, 2)
    error = vae.decode(latents).sample.float() - target
    edges = (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2
    return error.abs().mean() + error.square().mean() + edges + 2e-4 * posterior.kl().mean() / latents[0].numel()


def velocity_loss(
    network: nn.Module, clean: Tensor, scheduler: DDPMScheduler, teacher: Teacher | None = None, **condition: Tensor
) -> Tensor:
    """Mean squared error of the velocity (arXiv 2202.00512), or to a teacher's; time steps stratified over the batch."""
    n, steps = len(clean), scheduler.config.num_train_timesteps
    within = torch.arange(n, device=clean.device) + torch.rand(n, device=clean.device)
    t = (within / n * steps).long().clamp(max=steps - 1)
    noise = torch.randn_like(clean)
    noisy = scheduler.add_noise(clean, noise, t)
    target = teacher(noisy, t) if teacher else scheduler.get_velocity(clean, noise, t)
    return (network(noisy, t, **condition).sample.float() - target).square().mean()


def pixel_loss(network: nn.Module, parameters: dict[str, Tensor], images: Tensor, teacher: Teacher | None = None) -> Tensor:
    return velocity_loss(network, images, SCHEDULES["faces-ddpm"], teacher)


def draft_loss(network: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    """To what faces-ddpm predicts, not to the noise itself: a draft is to guess the larger network's next step."""
    larger = frozen_ddpm(str(images.device))
    predict = torch.no_grad()(lambda noisy, t: larger(noisy, t).sample.float())
    return velocity_loss(network, images, SCHEDULES["faces-ddpm-draft"], predict)


def latent_loss(network: nn.Module, parameters: dict[str, Tensor], images: Tensor, teacher: Teacher | None = None) -> Tensor:
    latents = encode(frozen_vae(str(images.device)), images).float()
    return velocity_loss(network, latents, SCHEDULES["faces-ldm"], teacher)


def text_loss(network: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    """The latent loss given captions, a tenth of them withheld for guidance (arXiv 2207.12598)."""
    device = str(images.device)
    latents = encode(frozen_vae(device), images).float()
    said = [caption if kept else "" for caption, kept in zip(captions(parameters), torch.rand(len(images)) > 0.1)]
    with torch.no_grad():
        words = frozen_text(device)(input_ids=text.tokens(said).to(device)).last_hidden_state
    return velocity_loss(network, latents, SCHEDULES["faces-sd"], encoder_hidden_states=words.float())


@cache
def frozen_vae(device: str) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(paths.EMBEDDED / "faces-vae", torch_dtype=torch.float32)
    return vae.requires_grad_(False).to(device).eval()


@cache
def frozen_ddpm(device: str) -> UNet2DModel:
    network = UNet2DModel.from_pretrained(paths.EMBEDDED / "faces-ddpm" / "unet", torch_dtype=torch.float32)
    return network.requires_grad_(False).to(device).eval()


@cache
def frozen_text(device: str) -> nn.Module:
    return hub.text_encoder(paths.EMBEDDED / "faces-clip").requires_grad_(False).to(device)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Normalised latents [n, c, h, w] of images in [-1, 1], by the mean of the posterior."""
    return (vae.encode(images).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 48, 64), latent_channels=4, layers_per_block=1, norm_num_groups=8, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,
    )  # fmt: skip


def pixel_network(widths: tuple[int, ...], head: int, groups: int) -> UNet2DModel:
    """A U-Net on pixels: channels of each level, of an attention head, and groups of the norms."""
    return UNet2DModel(
        sample_size=SIZE, in_channels=3, out_channels=3, block_out_channels=widths, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=head, norm_num_groups=groups,
    )  # fmt: skip


def build_ddpm() -> UNet2DModel:
    return pixel_network((24, 32, 64, 96, 112), head=16, groups=8)


def build_draft() -> UNet2DModel:
    """faces-ddpm at less than a quarter of its FLOPs: few channels where pixels are many."""
    return pixel_network((12, 16, 24, 48, 56), head=8, groups=4)


def build_ldm() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIZE // 4, in_channels=4, out_channels=4, block_out_channels=(64, 128, 192), layers_per_block=1,
        down_block_types=("AttnDownBlock2D",) * 3, up_block_types=("AttnUpBlock2D",) * 3,
        attention_head_dim=32, norm_num_groups=16,
    )  # fmt: skip


def build_sd() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4, in_channels=4, out_channels=4, block_out_channels=(64, 96, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=text.WIDTH, attention_head_dim=(2, 3, 4), norm_num_groups=16,  # heads, whatever the name says
    )  # fmt: skip


SCHEDULES = {"faces-ddpm": schedule(2.0), "faces-ddpm-draft": schedule(2.0), "faces-ldm": schedule(1.0), "faces-sd": schedule(1.0)}
RECIPES = {
    "faces-reader": Recipe("faces-reader", FacesReader, reader_loss, minutes=15, batch=64, rate=2e-3, half=False),
    "faces-vae": Recipe("faces-vae", build_vae, vae_loss, minutes=40, batch=8, rate=1.5e-3),
    "faces-ddpm": Recipe("faces-ddpm/unet", build_ddpm, pixel_loss, minutes=90, batch=16, rate=2e-3, matrix_rate=3e-3, guidance=1.4),
    "faces-ddpm-draft": Recipe("faces-ddpm-draft/unet", build_draft, draft_loss, minutes=60, batch=16, rate=2e-3, matrix_rate=3e-3),
    "faces-clip": Recipe("faces-clip", text.build_clip, text.contrastive_loss, minutes=10, batch=64, rate=1e-3),
    "faces-ldm": Recipe("faces-ldm/unet", build_ldm, latent_loss, minutes=90, batch=32, rate=2e-3, matrix_rate=3e-3, guidance=1.3),
    "faces-sd": Recipe("faces-sd/unet", build_sd, text_loss, minutes=90, batch=32, rate=2e-3, matrix_rate=3e-3),
}


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, faces: int = 512) -> None:
    """Give the autoencoder the shift and scale that bring latents of training faces to mean 0, standard deviation 1."""
    images = 2 * Faces("train", SIZE).images(range(faces)) - 1
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 6), scaling_factor=round(1 / latents.std().item(), 6)
    )
