"""Sampling from noise with diffusers' schedulers: a generator of every state, and the images it ends in.

Noise comes from each image's own seed, so image k is the same whatever the batch size or order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

if TYPE_CHECKING:
    from ..models.zoo import Model

BATCH = 32  # images at once unless told otherwise


class DDIMScheduler(diffusers.DDIMScheduler):
    """diffusers' DDIM, whose step ends where the next one begins also where `steps` does not divide the training steps.

    There the library steps by the quotient rounded down, while trailing and linspace time steps are further apart.
    """

    def step(self, model_output: Tensor, timestep: Tensor, *args: Any, **options: Any) -> Any:
        following = self.timesteps[self.timesteps < timestep]
        stride = int(timestep - following[0]) if len(following) else int(timestep) + 1
        steps = self.num_inference_steps
        self.num_inference_steps = Fraction(self.config.num_train_timesteps, stride)  # its floor quotient is the stride
        try:
            return super().step(model_output, timestep, *args, **options)
        finally:
            self.num_inference_steps = steps


SAMPLERS = {  # name: (scheduler, its options besides the model's own configuration)
    "ddpm": (diffusers.DDPMScheduler, {}),  # Ho et al., arXiv 2006.11239
    "ddim": (DDIMScheduler, {}),  # Song et al., arXiv 2010.02502
    # DPM-Solver++ 2M, and its stochastic form: Lu et al., arXiv 2211.01095
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "unipc": (diffusers.UniPCMultistepScheduler, {"solver_order": 2}),  # Zhao et al., arXiv 2302.04867
    "euler": (diffusers.EulerDiscreteScheduler, {}),  # Karras et al., arXiv 2206.00364, algorithm 2 without churn
    "heun": (diffusers.HeunDiscreteScheduler, {}),  # the same, algorithm 1: two network calls a step but in the last
}


STOCHASTIC = ("ddpm", "ddim", "dpmpp_2m_sde")  # may draw noise in every step


@dataclass(frozen=True)
class State:
    """Where sampling stands after one step."""

    step: int  # 0 .. steps - 1
    timestep: float  # training time at which the step began, falling
    sample: Tensor  # float32 [n, *latent_shape] after the step, scaled as the network sees it, whatever the sampler
    clean: Tensor | None  # the clean sample predicted in this step, same shape


def sample(
    model: "Model",
    seeds: Iterable[int],  # one image each
    steps: int = 50,  # 1 .. the scheduler's training steps
    sampler: str = "ddim",  # a name in SAMPLERS
    *,
    batch_size: int | None = None,  # images at once; default 32; changes no image
    eta: float = 0.0,  # of ddim: 0 deterministic .. 1 as noisy as ddpm
    prompts: Sequence[str] | None = None,
    guidance: float | None = None,
) -> Tensor:
    """Images, float32 [n, 3, H, W] in [0, 1] on the CPU, one a seed. Raises ValueError for bad input."""
    seeds = _seeds(seeds)
    size = BATCH if batch_size is None else _whole("batch_size", batch_size, 1)
    images = []
    for first in range(0, len(seeds), size):
        chunk = slice(first, first + size)
        for state in denoise(model, seeds[chunk], steps, sampler, eta=eta, prompts=prompts, guidance=guidance):
            latents = state.sample
        images.append((model.decode(latents).float() / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(images)


def denoise(
    model: "Model",
    seeds: Iterable[int],
    steps: int = 50,
    sampler: str = "ddim",
    *,
    eta: float = 0.0,
    prompts: Sequence[str] | None = None,
    guidance: float | None = None,
) -> Iterator[State]:
    """Yields the State after each step, all images in one batch; arguments as in sample(). Stop by leaving the loop.

    Bad input raises ValueError at once, not at the first state.
    """
    seeds = _seeds(seeds)
    _refuse_text(model, prompts, guidance)
    scheduler = _scheduler(model, steps, sampler)
    if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise ValueError(f"eta={eta!r}: allowed are 0 to 1 with sampler='ddim', 0 with every other")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: the same noise on every device
    options = {"generator": generators} if sampler in STOCHASTIC else {}
    options |= {"eta": eta} if sampler == "ddim" else {}
    noise = randn_tensor((len(seeds), *model.latent_shape), generator=generators, device=model.device)
    return _states(model, scheduler, noise * scheduler.init_noise_sigma, options)


def _states(model: "Model", scheduler: Any, noisy: Tensor, options: dict[str, Any]) -> Iterator[State]:
    step, began = 0, None
    for call, t in enumerate(scheduler.timesteps, start=1):
        began = float(t) if began is None else began
        noisy, clean, seen = _advance(model, scheduler, t, noisy, options)
        # The first of Heun's two calls is a trial: the step is done when the second has corrected it.
        if getattr(scheduler, "state_in_first_order", True) or call == len(scheduler.timesteps):
            yield State(step, began, seen, clean)
            step, began = step + 1, None


@torch.no_grad()  # around a step, never around a yield: the caller's gradient mode is the caller's
def _advance(model: "Model", scheduler: Any, t: Tensor, noisy: Tensor, options: dict[str, Any]) -> tuple[Tensor, ...]:
    output = model.unet(scheduler.scale_model_input(noisy, t).to(model.dtype), t).sample.float()
    result = scheduler.step(output, t, noisy, **options)
    clean = result.get("pred_original_sample")  # DPM-Solver++ and UniPC keep their prediction in model_outputs
    clean = scheduler.model_outputs[-1] if clean is None else clean
    return result.prev_sample, clean, scheduler.scale_model_input(result.prev_sample, t)


def _scheduler(model: "Model", steps: int, sampler: str) -> Any:
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r} is not one of {', '.join(SAMPLERS)}")
    kind, options = SAMPLERS[sampler]
    scheduler = kind.from_config(model.scheduler.config, **options)
    steps = _whole("steps", steps, 1, scheduler.config.num_train_timesteps)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.unique()
    if len(times) != steps or times[0] < 0:  # spacings round: at some counts times collide, or one more falls below 0
        raise ValueError(
            f"steps={steps} does not fit sampler={sampler!r}, for which diffusers places {len(times)} time steps: "
            "take a few more or fewer"
        )
    return scheduler


def _refuse_text(model: "Model", prompts: Sequence[str] | None, guidance: float | None) -> None:
    if type(model.unet).__name__ == "UNet2DConditionModel":
        raise ValueError(f"model={model.name!r} is text-conditioned; sampled are UNet2DModels, without text")
    for name, value in {"prompts": prompts, "guidance": guidance}.items():
        if value is not None:
            raise ValueError(f"{name}={value!r}: model {model.name!r} is unconditional and takes none")


def _seeds(seeds: Iterable[int]) -> list[int]:
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise ValueError(f"seeds={seeds!r} is not a collection of whole numbers, one an image")
    seeds = [_whole("seeds", seed, 0, 2**63 - 1) for seed in seeds]
    if not seeds:
        raise ValueError("seeds is empty: one seed an image, at least one")
    return seeds


def _whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    allowed = f"a whole number from {low}" + (f" to {high}" if high is not None else "")
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low or (high is not None and value > high):
        raise ValueError(f"{name}={value!r} is not {allowed}")
    return int(value)
