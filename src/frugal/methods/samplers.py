"""Sampling from noise with diffusers' schedulers: a generator of every state, and the images it ends in.

Noise comes from each image's own seed, so image k is the same whatever the batch size or order.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, signature
from numbers import Integral, Real
from typing import Any

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..models import own
from ..models.zoo import GUIDANCE, Model
from .ddim import DDIMScheduler
from .reuse import Run

BATCH = 32  # images at once unless told otherwise
Network = Callable[[Tensor, Tensor], Tensor]  # noisy sample, time -> prediction, float32

SAMPLERS = {  # name: (scheduler, its options besides the model's own configuration)
    "ddpm": (diffusers.DDPMScheduler, {}),  # Ho et al., arXiv 2006.11239
    "ddim": (DDIMScheduler, {}),  # Song et al., arXiv 2010.02502
    # DPM-Solver++ 2M, and its stochastic form: Lu et al., arXiv 2211.01095
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "unipc": (diffusers.UniPCMultistepScheduler, {"solver_order": 2}),  # Zhao et al., arXiv 2302.04867
    "euler": (diffusers.EulerDiscreteScheduler, {}),  # Karras et al., arXiv 2206.00364, algorithm 1 without its correction
    "heun": (diffusers.HeunDiscreteScheduler, {}),  # the same with it: two network calls a step but in the last
    # the same, at that paper's noise levels (its eq. 5) between the lowest and the highest of the training
    "edm": (diffusers.HeunDiscreteScheduler, {"use_karras_sigmas": True, "timestep_spacing": "linspace"}),
    # Liu et al., arXiv 2202.09778, as Stable Diffusion is published: one network call more than steps
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
}

OWN_PACE = {  # samplers whose images advance at their own pace, each a module beside this one: its rounds, and why eta is 0
    "speculative": ("speculate", "whose noise is told by churn"),
    "parallel": ("rounds", "whose solvers draw no noise"),
}
STOCHASTIC = ("ddpm", "ddim", "dpmpp_2m_sde")  # may draw noise in every step
LEARNED = ("ddpm", "dpmpp_2m", "dpmpp_2m_sde")  # take a network that learns the variance of its steps beside its prediction


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
    sampler: str = "ddim",  # a name in SAMPLERS or OWN_PACE
    *,
    batch_size: int | None = None,  # images at once; default 32; changes no image
    eta: float = 0.0,  # of ddim: 0 deterministic .. 1 as noisy as ddpm
    prompts: Sequence[str] | None = None,  # of a text-conditioned model: one for all seeds, or one a seed
    guidance: float | None = None,  # classifier-free, 1 (none) or more; default the model's own where there are prompts
    **pace: Any,  # with sampler="speculative" or "parallel": options of speculative.speculate, of parallel.rounds
) -> Tensor:
    """Images, float32 [n, 3, H, W] in [0, 1] on the CPU, one a seed. Raises ValueError for bad input.

    A text-conditioned model without prompts samples unconditionally. Its own guidance is zoo.FACES_GUIDANCE where it knows the
    words of captions alone, else zoo.GUIDANCE; denoise() takes the latter of every model.
    """
    _check_model(model)
    _check_sampler(model, sampler)
    seeds = _seeds(seeds)
    prompts = _prompts(model, prompts, len(seeds))
    guidance = model.guidance if guidance is None and prompts else guidance
    size = BATCH if batch_size is None else _whole("batch_size", batch_size, 1)
    run = _run(sampler, eta, pace)
    images = []
    for first in range(0, len(seeds), size):
        chunk = slice(first, first + size)
        latents = run(model, seeds[chunk], steps, prompts=prompts and prompts[chunk], guidance=guidance)
        images.append((model.decode(latents).float() / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(images)


def _run(sampler: str, eta: float, pace: dict[str, Any]) -> Callable[..., Tensor]:
    """What brings one batch from noise to the latents it ends in."""
    if isinstance(sampler, str) and sampler in OWN_PACE:
        return _own_pace(sampler, eta, pace)
    if pace:
        names, allowed = ", ".join(pace), " and ".join(f"sampler={name!r}" for name in OWN_PACE)
        raise ValueError(f"{names}: got sampler={sampler!r}, allowed with it are options of {allowed} alone")

    def states(*arguments: Any, **options: Any) -> Tensor:
        for state in denoise(*arguments, sampler, eta=eta, **options):
            latents = state.sample
        return latents

    return states


def _own_pace(sampler: str, eta: float, pace: dict[str, Any]) -> Callable[..., Tensor]:
    name, reason = OWN_PACE[sampler]
    rounds = getattr(import_module(f".{sampler}", __package__), name)
    known = [option for option, about in signature(rounds).parameters.items() if about.kind is Parameter.KEYWORD_ONLY]
    if unknown := set(pace) - set(known):
        raise ValueError(f"{', '.join(sorted(unknown))}: allowed with sampler={sampler!r} are {', '.join(sorted(known))}")
    if eta != 0:
        raise ValueError(f"eta={eta!r}: allowed is 0 with sampler={sampler!r}, {reason}")

    def ends(*arguments: Any, **options: Any) -> Tensor:
        for done in rounds(*arguments, **pace, **options):
            latents = done.samples
        return latents

    return ends


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
    _check_model(model)
    seeds = _seeds(seeds)
    network = _network(model, _prompts(model, prompts, len(seeds)), guidance, len(seeds))
    scheduler = _scheduler(model, steps, sampler)
    if not isinstance(eta, Real) or not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise ValueError(f"eta={eta!r}: allowed are 0 to 1 with sampler='ddim', 0 with every other")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: the same noise on every device
    options = {"generator": generators} if sampler in STOCHASTIC else {}
    options |= {"eta": eta} if sampler == "ddim" else {}
    noise = randn_tensor((len(seeds), *model.latent_shape), generator=generators, device=model.device)
    run = Run(halves=2 if _guided(guidance, prompts) else 1)
    return _states(network, scheduler, noise * scheduler.init_noise_sigma, options, run)


def _states(network: Network, scheduler: Any, noisy: Tensor, options: dict[str, Any], run: Run) -> Iterator[State]:
    step, began = 0, None
    for call, t in enumerate(scheduler.timesteps, start=1):
        began = float(t) if began is None else began
        with run.step_at(step, float(t)):
            noisy, clean, seen = _advance(network, scheduler, t, noisy, options)
        if not _is_trial(scheduler, call):
            yield State(step, began, seen, clean)
            step, began = step + 1, None


def _is_trial(scheduler: Any, call: int) -> bool:
    """Whether the step is still to be corrected by the next call: each first of Heun's two, and the very first of PNDM."""
    if isinstance(scheduler, diffusers.PNDMScheduler):
        return call == 1 and len(scheduler.timesteps) > 1
    return not getattr(scheduler, "state_in_first_order", True) and call < len(scheduler.timesteps)


@torch.no_grad()  # around a step, never around a yield: the caller's gradient mode is the caller's
def _advance(network: Network, scheduler: Any, t: Tensor, noisy: Tensor, options: dict[str, Any]) -> tuple[Tensor, ...]:
    output = network(scheduler.scale_model_input(noisy, t), t)
    result = scheduler.step(output, t, noisy, **options)
    clean = result.get("pred_original_sample")  # DPM-Solver++ and UniPC keep their prediction in model_outputs
    if clean is None and hasattr(scheduler, "model_outputs"):
        clean = scheduler.model_outputs[-1]
    elif clean is None:  # PNDM keeps the noise alone
        clean = _clean(scheduler, output, t, noisy)
    return result.prev_sample, clean, scheduler.scale_model_input(result.prev_sample, t)


def _clean(scheduler: Any, output: Tensor, t: Tensor, noisy: Tensor) -> Tensor:
    """The clean sample that a prediction of noise or velocity stands for (arXiv 2202.00512, section 4)."""
    signal = scheduler.alphas_cumprod[t.long().cpu()].sqrt().item()
    noise = (1 - signal**2) ** 0.5
    is_noise = scheduler.config.prediction_type == "epsilon"
    return (noisy - noise * output) / signal if is_noise else signal * noisy - noise * output


def _scheduler(model: "Model", steps: int, sampler: str) -> Any:
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r} is not one of {', '.join(SAMPLERS)}; sample() alone also takes 'speculative'")
    kind, options = SAMPLERS[sampler]
    scheduler = kind.from_config(model.scheduler.config, **options)
    steps = _whole("steps", steps, 1, scheduler.config.num_train_timesteps)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.unique()
    known = scheduler.config.num_train_timesteps  # spacings round: times may collide, fall below 0, or lie past the last
    if len(times) != steps or times[0] < 0 or times[-1] >= known:
        raise ValueError(
            f"steps={steps} does not fit sampler={sampler!r}, for which diffusers places {len(times)} time steps: "
            "take a few more or fewer"
        )
    return scheduler


def _check_model(model: "Model") -> None:
    if not hasattr(model, "latent_shape") or not hasattr(model, "scheduler"):
        raise ValueError(f"model: got {type(model).__name__}, allowed is what frugal.zoo.load returns")
    own.check_network(model.name, model.unet, model.scheduler)


def _check_sampler(model: "Model", sampler: str) -> None:
    known = (*SAMPLERS, *OWN_PACE)
    if not isinstance(sampler, str) or sampler not in known:
        raise ValueError(f"sampler={sampler!r} is not one of {', '.join(known)}")
    if sampler not in LEARNED and own.learns_variance(model.unet, model.scheduler):
        raise ValueError(f"sampler={sampler!r}: model {model.name!r} learns the variance of its steps; allowed are {', '.join(LEARNED)}")


def _prompts(model: "Model", prompts: Sequence[str] | None, count: int) -> list[str] | None:
    if prompts is None:
        return None
    if not model.conditional:
        raise ValueError(f"prompts={prompts!r}: model {model.name!r} is unconditional and takes none")
    prompts = [prompts] if isinstance(prompts, str) or not isinstance(prompts, Iterable) else list(prompts)
    if len(prompts) not in (1, count) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts: got {len(prompts)} of {sorted({type(prompt).__name__ for prompt in prompts})}, allowed are texts, one or as many as seeds, {count}")
    return prompts * (count if len(prompts) == 1 else 1)


def _network(model: "Model", prompts: list[str] | None, guidance: float | None, count: int) -> Network:
    """The network as a function of sample and time alone."""
    words, scale = _words(model, prompts, guidance, count), _scale(guidance)
    return lambda noisy, t: _output(model, noisy, t, words, scale)


def _words(model: "Model", prompts: list[str] | None, guidance: float | None, count: int) -> list[Tensor]:
    """What the network is told of `count` images: nothing without text; of two, the first is to be guided away from."""
    number = isinstance(guidance, Real) and not isinstance(guidance, bool)
    if guidance is not None and (prompts is None or not number or not 1 <= guidance < math.inf):
        raise ValueError(f"guidance={guidance!r}: allowed is a number from 1, of a text-conditioned model with prompts")
    if not model.conditional:
        return []
    nothing = [""] * count
    said = [nothing, prompts] if _guided(guidance, prompts) else [nothing if prompts is None else prompts]
    return [model.encode_text(texts).to(model.dtype) for texts in said]


def _output(model: "Model", noisy: Tensor, t: Tensor, words: list[Tensor], scale: float) -> Tensor:
    """What the network says, float32; with guidance, of both halves in one call (arXiv 2207.12598). `t`: one, or one a row."""
    rows = noisy.to(model.dtype)
    if not words:
        return model.unet(rows, t).sample.float()
    if len(words) == 1:
        return model.unet(rows, t, encoder_hidden_states=words[0]).sample.float()
    times = torch.cat([t, t]) if t.ndim else t
    both = model.unet(torch.cat([rows, rows]), times, encoder_hidden_states=torch.cat(words)).sample.float()
    without, with_prompt = both.chunk(2)
    return without + scale * (with_prompt - without)


def _scale(guidance: float | None) -> float:
    return GUIDANCE if guidance is None else guidance


def _guided(guidance: float | None, prompts: Sequence[str] | None) -> bool:
    """Whether the network gets two halves in one batch."""
    return prompts is not None and _scale(guidance) != 1


def _seeds(seeds: Iterable[int]) -> list[int]:
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise ValueError(f"seeds={seeds!r} is not a collection of whole numbers, one an image")
    seeds = [_whole("seeds", seed, 0, 2**32 - 1) for seed in seeds]  # PyTorch's generator on a CPU looks at no more bits
    if not seeds:
        raise ValueError("seeds is empty: one seed an image, at least one")
    return seeds


def _whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    allowed = f"a whole number from {low}" + (f" to {high}" if high is not None else "")
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low or (high is not None and value > high):
        raise ValueError(f"{name}={value!r} is not {allowed}")
    return int(value)
