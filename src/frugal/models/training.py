"""`frugal train NAME`: one loop for every recipe; CPU or GPU, resumable, weights as float16 safetensors."""

import json
import math
import os
import time

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDPMPipeline
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import paths
from ..machine import cpu_name, joules
from . import cards, text, zoo
from .batches import batches
from .captured import CapturedStep
from .guidance import guided
from .optimiser import Optimiser
from .recipes import RECIPES, SCHEDULES, Teacher, measure_latents

WARMUP = 200  # steps
REFINING = 0.5  # of the peak rate, for a cycle that goes on from trained weights
DISTILLING = 0.25  # the same where it learns its own guided prediction, which is close
GUIDED = tuple(name for name, recipe in RECIPES.items() if recipe.guidance)  # text has a guidance of its own
LATENT = ("faces-ldm", "faces-sd")  # trained in the latents of faces-vae
FAITHFUL = 0.99  # cosine to the plain gradient from which a compiled network is trusted; rounding to bfloat16 leaves 0.9998
LARGER_BATCH = 16  # times a recipe's, which is a CPU's: less would leave a GPU idle
CAPTURED = ("faces-ddpm", "faces-ddpm-draft", "faces-ldm")  # whose loss asks for images alone, and launches the same kernels in every step


def learning_rate(step: int, progress: float) -> float:
    """Share of the peak rate: linear warm-up over steps, then a cosine over the time that is given, down to a hundredth."""
    return min(1, (step + 1) / WARMUP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))


class Run:
    """One network in training: its weights, their moving average, the optimiser, and how far it has come."""

    def __init__(self, name: str, device: str, resume: bool, guidance: float | None = None):
        self.name, self.recipe = name, RECIPES[name]
        self.target, self.checkpoint = paths.EMBEDDED / self.recipe.folder, paths.training() / name
        self.accelerator = accelerator(device)
        self.elapsed = 0.0  # seconds of the present call, what --resume goes on from
        goes_on = resume and (self.target / "config.json").exists()
        self.peak = (REFINING if guidance is None else DISTILLING) if goes_on else 1.0
        network, self.card = (self.recipe.load(), cards.read(name)) if goes_on else (self.recipe.build(), cards.blank(name))
        self.teaching = {} if guidance is None else {"teacher": self.teacher(network, guidance, goes_on)}
        if not self.teaching:  # what was learned from a teacher is unlearned on noise
            self.card = {key: value for key, value in self.card.items() if not key.startswith("guid")}
        check_order(name, goes_on)
        decodes_alone = name == "faces-vae" and bool(users_of_latents())
        self.captures = self.device.type == "cuda" and (name in CAPTURED or decodes_alone)
        if decodes_alone:
            network.encoder.requires_grad_(False)  # its latents are what they were trained on: only decoding may improve
            network.quant_conv.requires_grad_(False)
        network = network.train()
        if self.device.type == "cpu":  # there the gradient of fused attention takes twice as long as that of the plain one
            for layer in network.modules():
                if isinstance(layer, Attention):
                    layer.set_processor(AttnProcessor())
        self.network = self.called = self.accelerator.prepare(network)
        self.optimiser = Optimiser(self.accelerator.unwrap_model(self.network), self.recipe.rate, self.recipe.matrix_rate)
        self.captured, self.factor = None, torch.ones((), device=self.device)
        if resume and (self.checkpoint / "progress.json").exists():
            self.restore()
        self.ema = EMAModel(self.network.parameters(), decay=self.recipe.decay, use_ema_warmup=True, power=0.75, foreach=True)
        if resume and (self.checkpoint / "average.safetensors").exists():
            average = load_file(self.checkpoint / "average.safetensors", device=str(self.device))
            self.ema.shadow_params = [average[name] for name, _ in self.parameters()]
            self.ema.optimization_step = self.card["steps"]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def teacher(self, network: torch.nn.Module, scale: float, goes_on: bool) -> Teacher:
        """What the trained network says under guidance, which it now learns to say by itself; noted in the card."""
        if self.name not in GUIDED or not goes_on:
            raise ValueError(f"guidance: got {scale!r} for {self.name}, allowed is --resume of {', '.join(GUIDED)}")
        if "guidance" in self.card:
            raise ValueError(f"guidance: got {scale!r}, but {self.name} has learned {self.card['guidance']:g} already")
        predict = guided(network.to(self.device), scale)
        self.card |= {"guidance": scale, "guided_from": self.card["images"], "guided_loss": []}
        return predict

    @property
    def losses(self) -> list:
        """The curve in the card: a teacher's is not on the scale of the noise's."""
        return self.card["guided_loss" if self.teaching else "loss"]

    def parameters(self) -> list[tuple[str, Tensor]]:
        return list(self.accelerator.unwrap_model(self.network).named_parameters())

    def backward(self, network: torch.nn.Module, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.half and computes_in_bfloat16(self.device)):
            loss = self.recipe.loss(network, parameters, images, **self.teaching)
        self.accelerator.backward(loss)
        return loss

    def compile(self, parameters: dict[str, Tensor], images: Tensor) -> bool:
        """Let torch.compile fuse the network, if its gradient of these images is the plain one's.

        PyTorch 2.13's on a CPU is not, in bfloat16: at the widest level of faces-ddpm it points elsewhere, with no error.
        """
        compiled, found = torch.compile(self.network), []
        for network in (self.network, compiled):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.backward(network, parameters, images)
            found.append(torch.cat([(p.grad if p.grad is not None else 0 * p.detach()).flatten() for _, p in self.parameters()]))
            self.network.zero_grad()
        likeness = torch.cosine_similarity(*found, dim=0).item()
        if likeness >= FAITHFUL:
            self.called, self.captures = compiled, False  # one or the other: both at once were never tried
        else:
            print(f"{self.name}: torch.compile gives another gradient here (cosine {likeness:.2f}), so it is not used", flush=True)
        return likeness >= FAITHFUL

    def step(self, parameters: dict[str, Tensor], images: Tensor, progress: float) -> Tensor:
        factor = self.peak * learning_rate(self.card["steps"], progress)
        if self.captures:
            self.factor.fill_(factor)
            self.captured = self.captured or CapturedStep(lambda batch: self.update(parameters, batch, self.factor), images)
            loss = self.captured(images)
        else:
            loss = self.update(parameters, images, factor)
        self.ema.step(self.network.parameters())
        self.card["steps"] += 1
        return loss

    def update(self, parameters: dict[str, Tensor], images: Tensor, factor: float | Tensor) -> Tensor:
        """One step of the weights; the loss before it."""
        loss = self.backward(self.called, parameters, images)
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step(factor)
        return loss.detach()

    def save(self) -> None:
        """Checkpoint for --resume (all of it as safetensors; nothing unpickles), each file replaced whole."""
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        names = [name for name, _ in self.parameters()]
        tensors = {
            "network": {name: p.detach().contiguous() for name, p in self.parameters()},
            "average": {name: p.contiguous() for name, p in zip(names, self.ema.shadow_params, strict=True)},
            "optimiser": self.optimiser.state(),
        }
        for file, content in tensors.items():
            save_file(content, self.checkpoint / f"{file}.part")
            (self.checkpoint / f"{file}.part").replace(self.checkpoint / f"{file}.safetensors")
        (self.checkpoint / "progress.json").write_text(json.dumps({"elapsed": self.elapsed, "peak": self.peak, "card": self.card}))

    def restore(self) -> None:
        progress = json.loads((self.checkpoint / "progress.json").read_text())
        if progress["card"].get("guidance") != self.card.get("guidance"):
            raise ValueError(f"guidance: got {self.card.get('guidance')}, but the unfinished call in {self.checkpoint} has another")
        self.elapsed, self.peak, self.card = progress["elapsed"], progress["peak"], progress["card"]
        network = load_file(self.checkpoint / "network.safetensors", device=str(self.device))
        self.optimiser.restore(load_file(self.checkpoint / "optimiser.safetensors", device=str(self.device)))
        with torch.no_grad():
            for name, parameter in self.parameters():
                parameter.copy_(network[name])

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
        if self.name in ("faces-ddpm", "faces-ddpm-draft"):
            DDPMPipeline(unet=plain, scheduler=SCHEDULES[self.name]).save_config(self.target.parent)
        if self.name == "faces-clip":
            text.tokenizer().save_pretrained(self.target)
        self.card.pop("marks", None)  # they were measured of other weights
        earlier, here = self.card.get("device", ""), device_name(self.device)
        devices = earlier if earlier.endswith(here) else f"{earlier}, then {here}".removeprefix(", then ")
        counted = sum(p.numel() for p in plain.parameters())
        self.card |= {"parameters": counted, "device": devices, "torch": torch.__version__}
        cards.write(self.name, self.card)


def users_of_latents() -> list[str]:
    """The networks that were trained in the latents of faces-vae."""
    return [user for user in LATENT if (paths.EMBEDDED / user).exists()]


def check_order(name: str, goes_on: bool) -> None:
    """Raises ValueError for a network on which others that were trained after it rest."""
    if name == "faces-reader" and (judged := [n for n in SCHEDULES if (paths.EMBEDDED / n).exists()]):
        raise ValueError(
            f"name: got {name!r}, the network of the judge, which is frozen since {', '.join(judged)} began to be trained"
        )
    if name == "faces-vae" and not goes_on and (used := users_of_latents()):
        raise ValueError(
            f"name: got {name!r} from the start, whose latents {', '.join(used)} would no longer fit; allowed is "
            "--resume, which improves its decoder, or removing their folders first"
        )


def accelerator(device: str) -> Accelerator:
    """The training device; raises ValueError for one this machine does not have."""
    place = zoo.find_device(device)
    if place.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, for what is not in bfloat16
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(place)  # which it would choose by itself
    return Accelerator(cpu=place.type == "cpu")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Where that is quicker and safe: on a CPU, and on the GPUs that have it in hardware."""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def train(
    name: str,
    minutes: float | None = None,
    resume: bool = False,
    device: str = "auto",
    seed: int = 0,
    guidance: float | None = None,
    compiled: bool = False,
) -> dict:
    """Train one embedded network for `minutes` of wall time and write its weights and card; returns the card.

    `resume` goes on from the last checkpoint of an unfinished call, else from the embedded weights with a fresh
    learning-rate cycle at half the peak and faces not seen yet. The embedded weights change when it is done, not before.
    `guidance` (with `resume`, of faces-ddpm or faces-ldm, once): learn the network's own prediction under
    perturbed-attention guidance of that scale, see `guidance.guided`; a last cycle, at a quarter of the peak.
    `compiled`: let torch.compile fuse a diffusion network, which takes minutes at first and a compiler of C++ on a CPU;
    where it gives another gradient than the network itself, it is not used.
    Raises ValueError for an unknown name, minutes that are not positive, a device this machine has not, guidance or
    compiling that does not fit, and an autoencoder begun anew under models that were trained in its latents.
    """
    if name not in RECIPES:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(RECIPES)}")
    limit = 60 * (RECIPES[name].minutes if minutes is None else minutes)
    if not limit > 0:
        raise ValueError(f"minutes: got {minutes!r}, allowed is any number above 0")
    if compiled and name not in SCHEDULES:
        raise ValueError(f"compiled: got True for {name}, allowed is that of {', '.join(SCHEDULES)}")
    set_seed(seed)
    run = Run(name, device, resume, guidance)
    losses, shown, saved, began, before = [], time.time(), time.time(), time.time(), run.elapsed
    used = joules(run.device.type)
    size = run.recipe.batch * (LARGER_BATCH if run.device.type == "cuda" else 1)
    if compiled:
        run.compile(*next(batches(run.card["images"], size, run.device))[1:])
    for images_seen, parameters, images in batches(run.card["images"], size, run.device):
        losses.append(run.step(parameters, images, run.elapsed / limit))
        run.card["images"], now = images_seen, time.time()
        run.card["seconds"] += (now - began) - (run.elapsed - before)
        run.elapsed = before + now - began
        done = run.elapsed >= limit
        if done or now - shown > 15:
            run.losses.append([images_seen, round(torch.stack(losses).mean().item(), 5)])
            print(
                f"{name}: {run.elapsed / 60:6.1f} of {limit / 60:g} min, {images_seen} faces, loss {run.losses[-1][1]:.4f}",
                flush=True,
            )
            losses, shown = [], now
        if done:
            break
        if now - saved > 240:
            run.save()
            saved = now
    if used is not None:
        run.card["joules"] = run.card.get("joules", 0.0) + joules(run.device.type) - used
    run.export()
    for file in run.checkpoint.glob("*"):
        file.unlink()
    return run.card
