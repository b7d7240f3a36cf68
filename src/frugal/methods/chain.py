"""The Markov chain that speculative sampling reproduces: a step is N(m(x), std^2 I), std given by the schedule alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import samplers
from .coupling import wide

if TYPE_CHECKING:
    from ..models.zoo import Model

LEAST_CHURN = 1e-6  # below it float32 loses the noise of a step
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # states [r, ...], steps [r], images [r] -> clean samples [r, ...]


@dataclass(frozen=True)
class Chain:
    """Steps 0 .. K - 1 of DDIM's family (arXiv 2010.02502, eq. 12), eta = churn: 0 is an ODE's, 1 is DDPM's.

    The mean of the step from a state x is linear in x and the clean sample predicted there. All tensors are float32 [K].
    """

    times: Tensor  # training time steps, int64, falling
    signal: Tensor  # x = signal * clean + spread * noise at the step's start
    spread: Tensor
    clean_weight: Tensor
    state_weight: Tensor
    std: Tensor  # 0 in a last step that removes all noise
    full_clean_weight: Tensor  # the same weights at churn 1, where x is followed by its mean given the clean sample alone
    full_state_weight: Tensor

    def __len__(self) -> int:
        return len(self.times)

    def mean(self, steps: Tensor, states: Tensor, cleans: Tensor) -> Tensor:
        """m of each row: steps [...], states and cleans [..., C, H, W]."""
        return _at(self.clean_weight, steps, states) * cleans + _at(self.state_weight, steps, states) * states

    def expected(self, steps: Tensor, states: Tensor, cleans: Tensor) -> Tensor:
        """E[next state | state, clean sample], whatever the churn: the posterior mean of arXiv 2006.11239, eq. 7."""
        return _at(self.full_clean_weight, steps, states) * cleans + _at(self.full_state_weight, steps, states) * states

    def velocity(self, steps: Tensor, states: Tensor, cleans: Tensor) -> Tensor:
        """What a network of arXiv 2202.00512 would have said for these clean samples."""
        return (_at(self.signal, steps, states) * states - cleans) / _at(self.spread, steps, states)

    def from_velocity(self, steps: Tensor, states: Tensor, velocities: Tensor) -> Tensor:
        """The clean samples that velocities stand for."""
        return _at(self.signal, steps, states) * states - _at(self.spread, steps, states) * velocities


def chain(model: "Model", steps: int, churn: float) -> Chain:
    """The chain of a model's schedule on the time steps of its DDIM; raises ValueError where it has none."""
    if isinstance(churn, bool) or not isinstance(churn, int | float) or not LEAST_CHURN <= churn <= 1:
        raise ValueError(
            f"churn={churn!r}: allowed is {LEAST_CHURN} to 1; at 0 no step draws noise, and drafts are never accepted"
        )
    return on_schedule(model, samplers._scheduler(model, steps, "ddim"), churn)


def on_schedule(model: "Model", scheduler: Any, churn: float) -> Chain:
    """The chain on a scheduler's own time steps; churn 0, which draws no noise, is its ODE by DDIM's steps."""
    alpha_bar, final = scheduler.alphas_cumprod.double(), getattr(scheduler, "final_alpha_cumprod", None)
    now = alpha_bar[scheduler.timesteps]
    last = 1 / (1 + scheduler.sigmas[-1].double() ** 2) if final is None else final.double()  # where the last step ends
    following = torch.cat([now[1:], last.reshape(1)])
    posterior = ((1 - following) / (1 - now) * (1 - now / following)).sqrt()  # eq. 16 of DDIM at eta = 1

    def weights(eta: float) -> tuple[Tensor, Tensor]:
        state = (1 - following - (eta * posterior) ** 2).clamp(min=0).sqrt() / (1 - now).sqrt()
        return following.sqrt() - state * now.sqrt(), state

    columns = [now.sqrt(), (1 - now).sqrt(), *weights(churn), churn * posterior, *weights(1.0)]
    return Chain(scheduler.timesteps.to(model.device), *(column.float().to(model.device) for column in columns))


def predictor(
    model: "Model", prompts: list[str] | None, guidance: float | None, chain: Chain, count: int, clips: bool = True
) -> Predict:
    """The clean sample that the model's network predicts for rows of any of `count` images at any step, in one call.

    Guidance as in sample(); `clips`: as the model's scheduler does, where it does. Raises ValueError for a network that predicts its own variance, or anything unknown.
    """
    kind, words, scale = _prediction(model), samplers._words(model, prompts, guidance, count), samplers._scale(guidance)

    @torch.no_grad()
    def predict(states: Tensor, steps: Tensor, images: Tensor) -> Tensor:
        output = samplers._output(model, states, chain.times[steps], [said[images] for said in words], scale)
        cleans = _clean(kind, chain, steps, states, output)
        return _limit(model.scheduler, cleans) if clips else cleans

    return predict


def _prediction(model: "Model") -> str:
    config, (channels, *_) = model.scheduler.config, model.latent_shape
    variance = str(config.get("variance_type") or "")
    if variance.startswith("learned") or getattr(model.unet.config, "out_channels", channels) != channels:
        raise ValueError(
            f"model: {model.name!r} learns the variance of its steps (variance_type={variance!r}); allowed are models whose "
            "schedule fixes it"
        )
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"model: {model.name!r} predicts {kind!r}; allowed are epsilon, v_prediction and sample")
    return kind


def _clean(kind: str, chain: Chain, steps: Tensor, states: Tensor, output: Tensor) -> Tensor:
    if kind == "v_prediction":
        return chain.from_velocity(steps, states, output)
    if kind == "epsilon":
        return (states - _at(chain.spread, steps, states) * output) / _at(chain.signal, steps, states)
    return output


def _limit(scheduler: Any, cleans: Tensor) -> Tensor:
    """As the scheduler clips: in draft and target alike, so it changes the mean alone."""
    config = scheduler.config
    if config.get("thresholding"):
        return scheduler._threshold_sample(cleans)
    return cleans.clamp(-config.clip_sample_range, config.clip_sample_range) if config.get("clip_sample") else cleans


def _at(values: Tensor, steps: Tensor, like: Tensor) -> Tensor:
    return wide(values[steps], like)
