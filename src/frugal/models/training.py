"""`frugal train NAME`: one recipe a network, one loop for all; CPU or GPU, resumable, weights as float16 safetensors."""

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import paths
from . import cards
from .faces import Faces, draw_batch
from .reader import FacesReader, reading_loss

SIZE = 64
WARMUP = 200  # steps


@dataclass(frozen=True)
class Recipe:
    folder: str  # below models/embedded
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, dict[str, Tensor], Tensor], Tensor]  # network, parameters of a batch, its images in [-1, 1]
    minutes: float  # default, on two CPU cores
    batch: int
    rate: float  # peak of the cosine learning rate
    decay: float = 0.999  # of the moving average
    precision: str = "bf16"


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
    posterior = vae.encode(images).latent_dist
    latents, target = posterior.sample(), images
    if torch.rand(()) < 0.25:
        latents, target = nn.functional.avg_pool2d(latents, 2), nn.functional.avg_pool2d(images, 2)
    error = vae.decode(latents).sample.float() - target
    edges = (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2
    return error.abs().mean() + error.square().mean() + edges + 2e-4 * posterior.kl().mean() / latents[0].numel()


def velocity_loss(network: nn.Module, clean: Tensor, scheduler: DDPMScheduler) -> Tensor:
    """Mean squared error of the velocity (arXiv 2202.00512), time steps stratified over the batch."""
    n, steps = len(clean), scheduler.config.num_train_timesteps
    t = ((torch.arange(n) + torch.rand(n)) / n * steps).long().clamp(max=steps - 1).to(clean.device)
    noise = torch.randn_like(clean)
    noisy = scheduler.add_noise(clean, noise, t)
    return (network(noisy, t).sample.float() - scheduler.get_velocity(clean, noise, t)).square().mean()


def pixel_loss(network: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    return velocity_loss(network, images, SCHEDULES["faces-ddpm"])


def latent_loss(network: nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    return velocity_loss(network, encode(frozen_vae(str(images.device)), images), SCHEDULES["faces-ldm"])


_vaes: dict[str, AutoencoderKL] = {}


def frozen_vae(device: str) -> AutoencoderKL:
    if device not in _vaes:
        _vaes[device] = AutoencoderKL.from_pretrained(paths.EMBEDDED / "faces-vae", torch_dtype=torch.float32)
        _vaes[device].requires_grad_(False).to(device).eval()
    return _vaes[device]


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Normalised latents [n, c, h, w] of images in [-1, 1], by the mean of the posterior."""
    return (vae.encode(images).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 48, 64), latent_channels=4, layers_per_block=1, norm_num_groups=8, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,
    )  # fmt: skip


def build_ddpm() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIZE, in_channels=3, out_channels=3, block_out_channels=(32, 32, 80, 128), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), attention_head_dim=16, norm_num_groups=8,
    )  # fmt: skip


def build_ldm() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIZE // 4, in_channels=4, out_channels=4, block_out_channels=(64, 128, 192), layers_per_block=1,
        down_block_types=("AttnDownBlock2D",) * 3, up_block_types=("AttnUpBlock2D",) * 3,
        attention_head_dim=32, norm_num_groups=16,
    )  # fmt: skip


SCHEDULES = {"faces-ddpm": schedule(2.0), "faces-ldm": schedule(1.0)}
RECIPES = {
    "faces-reader": Recipe("faces-reader", FacesReader, reader_loss, minutes=15, batch=64, rate=2e-3, precision="no"),
    "faces-vae": Recipe("faces-vae", build_vae, vae_loss, minutes=40, batch=8, rate=1.5e-3),
    "faces-ddpm": Recipe("faces-ddpm/unet", build_ddpm, pixel_loss, minutes=180, batch=8, rate=1e-3),
    "faces-ldm": Recipe("faces-ldm/unet", build_ldm, latent_loss, minutes=90, batch=16, rate=1e-3),
}


def batches(first: int, size: int, device: torch.device) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
    """Endless (images seen after it, parameters, images in [-1, 1]) from training face `first` on, each face once until they run out."""
    data = Faces("train", SIZE)
    while True:
        parameters = data.parameters([k % len(data) for k in range(first, first + size)])
        parameters = {name: value.to(device) for name, value in parameters.items()}
        with torch.no_grad():
            images = torch.cat([draw_batch({k: v[i : i + 32] for k, v in parameters.items()}, SIZE) for i in range(0, size, 32)])
        first += size
        yield first, parameters, (2 * images - 1).contiguous(memory_format=memory_format(device))


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last feeds a GPU's half-precision units; on a CPU its group norm costs more than its convolutions save."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Linear warm-up over steps, then a cosine over the time that is given, down to a hundredth."""
    return recipe.rate * min(1, (step + 1) / WARMUP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))


class Run:
    """One network in training: its weights, their moving average, the optimiser, and how far it has come."""

    def __init__(self, name: str, device: str, resume: bool):
        self.name, self.recipe = name, RECIPES[name]
        self.target, self.checkpoint = paths.EMBEDDED / self.recipe.folder, paths.training() / name
        self.accelerator = Accelerator(mixed_precision=self.recipe.precision, cpu=device == "cpu")
        network = self.recipe.build()
        self.card = cards.blank(name)
        self.elapsed = 0.0  # seconds of the present call, what --resume goes on from
        if resume and (self.target / "config.json").exists():
            network = type(network).from_pretrained(self.target, torch_dtype=torch.float32)
            self.card = cards.read(name)
        network = network.train().to(memory_format=memory_format(self.device))
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.recipe.rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.network, self.optimiser = self.accelerator.prepare(network, optimiser)
        if resume and (self.checkpoint / "progress.json").exists():
            self.restore()
        self.ema = EMAModel(self.network.parameters(), decay=self.recipe.decay, use_ema_warmup=True, power=0.75)
        if resume and (self.checkpoint / "average.safetensors").exists():
            average = load_file(self.checkpoint / "average.safetensors", device=str(self.device))
            self.ema.shadow_params = [average[name] for name, _ in self.parameters()]
            self.ema.optimization_step = self.card["steps"]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.accelerator.unwrap_model(self.network).named_parameters())

    def step(self, parameters: dict[str, Tensor], images: Tensor, progress: float) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.card["steps"], progress)
        loss = self.recipe.loss(self.network, parameters, images)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.ema.step(self.network.parameters())
        self.card["steps"] += 1
        return loss.detach()

    def save(self) -> None:
        """Checkpoint for --resume (all of it as safetensors; nothing unpickles), each file replaced whole."""
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        names = [name for name, _ in self.parameters()]
        moments = {f"{name}.{key}": value.reshape(-1).clone() if value.ndim == 0 else value.contiguous()
                   for name, parameter in self.parameters() for key, value in self.optimiser.state[parameter].items()}  # fmt: skip
        tensors = {
            "network": {name: p.detach().contiguous() for name, p in self.parameters()},
            "average": {name: p.contiguous() for name, p in zip(names, self.ema.shadow_params, strict=True)},
            "optimiser": moments,
        }
        for file, content in tensors.items():
            save_file(content, self.checkpoint / f"{file}.part")
            (self.checkpoint / f"{file}.part").replace(self.checkpoint / f"{file}.safetensors")
        (self.checkpoint / "progress.json").write_text(json.dumps({"elapsed": self.elapsed, "card": self.card}))
        self.export()

    def restore(self) -> None:
        progress = json.loads((self.checkpoint / "progress.json").read_text())
        self.elapsed, self.card = progress["elapsed"], progress["card"]
        network = load_file(self.checkpoint / "network.safetensors", device=str(self.device))
        moments = load_file(self.checkpoint / "optimiser.safetensors", device=str(self.device))
        with torch.no_grad():
            for name, parameter in self.parameters():
                parameter.copy_(network[name])
                state = {key.removeprefix(name + "."): v for key, v in moments.items() if key.rpartition(".")[0] == name}
                self.optimiser.state[parameter] = {k: v[0].cpu() if k == "step" else v for k, v in state.items()}

    def export(self) -> None:
        """The moving average as an ordinary diffusers folder of float16 safetensors, with the schedule and the card."""
        self.ema.store(self.network.parameters())
        self.ema.copy_to(self.network.parameters())
        plain = self.recipe.build()
        plain.load_state_dict(self.accelerator.unwrap_model(self.network).state_dict())
        self.ema.restore(self.network.parameters())
        if isinstance(plain, AutoencoderKL):
            measure_latents(plain)
        plain.half().save_pretrained(self.target)
        if self.name in SCHEDULES:
            SCHEDULES[self.name].save_pretrained(self.target.parent / "scheduler")
        self.card |= {"parameters": sum(p.numel() for p in plain.parameters()), "device": device_name(self.device),
                      "torch": torch.__version__}  # fmt: skip
        cards.write(self.name, self.card)


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, faces: int = 512) -> None:
    """Give the autoencoder the shift and scale that bring latents of training faces to mean 0, standard deviation 1."""
    images = 2 * Faces("train", SIZE).images(range(faces)) - 1
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    vae.register_to_config(shift_factor=round(latents.mean().item(), 6), scaling_factor=round(1 / latents.std().item(), 6))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def train(name: str, minutes: float | None = None, resume: bool = False, device: str = "auto", seed: int = 0) -> dict:
    """Train one embedded network for `minutes` of wall time and write its weights and card; returns the card.

    `resume` goes on from the last checkpoint of an unfinished call, else from the embedded weights with a fresh
    learning-rate cycle and faces not seen yet. Raises ValueError for an unknown name or minutes that are not positive.
    """
    if name not in RECIPES:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(RECIPES)}")
    limit = 60 * (RECIPES[name].minutes if minutes is None else minutes)
    if not limit > 0:
        raise ValueError(f"minutes: got {minutes!r}, allowed is any number above 0")
    set_seed(seed)
    run = Run(name, ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device, resume)
    losses, shown, saved, began, before = [], time.time(), time.time(), time.time(), run.elapsed
    for images_seen, parameters, images in batches(run.card["images"], run.recipe.batch, run.device):
        losses.append(run.step(parameters, images, run.elapsed / limit))
        run.card["images"], now = images_seen, time.time()
        run.card["seconds"] += (now - began) - (run.elapsed - before)
        run.elapsed = before + now - began
        done = run.elapsed >= limit
        if done or now - shown > 15:
            run.card["loss"].append([images_seen, round(torch.stack(losses).mean().item(), 5)])
            print(f"{name}: {run.elapsed / 60:6.1f} of {limit / 60:g} min, {images_seen} faces, loss {run.card['loss'][-1][1]:.4f}", flush=True)
            losses, shown = [], now
        if done or now - saved > 240:
            run.save()
            saved = now
        if done:
            break
    for file in run.checkpoint.glob("*"):
        file.unlink()
    return run.card
