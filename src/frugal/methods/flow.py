"""What parallel sampling solves: the steps of a sampler without noise, each linear in its state and in clean samples predicted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import samplers
from .chain import Chain, Predict, _limit, on_schedule, predictor
from .coupling import wide

if TYPE_CHECKING:
    from ..models.zoo import Model

SOLVERS = ("ddim", "dpmpp_2m")


@dataclass(frozen=True)
class Flow(Chain):
    """The chain without noise of a solver: DDIM, or DPM-Solver++ 2M, which is DDIM's step and a slope. Float32 [K]."""

    slope: Tensor  # weight of how the clean sample has changed since the step before; 0 in the first step, and for DDIM
    yardstick: Tensor  # above 0: the standard deviation of DDPM's step, in which a tolerance is told

    def step(self, steps: Tensor, states: Tensor, cleans: Tensor, before: Tensor) -> Tensor:
        """The next state of each row: steps [n], states, cleans and those of the step before [n, C, H, W]."""
        return self.mean(steps, states, cleans) + wide(self.slope[steps], states) * (cleans - before)


def flow(model: "Model", steps: int, solver: str) -> Flow:
    """The steps of a model's solver, on the time steps of diffusers' scheduler; raises ValueError for anything unknown."""
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is not one of {', '.join(SOLVERS)}")
    scheduler = samplers._scheduler(model, steps, solver)
    ode, noise = on_schedule(model, scheduler, 0.0), on_schedule(model, scheduler, 1.0).std
    slope = torch.zeros_like(ode.signal) if solver == "ddim" else _slope(ode, scheduler)
    least = noise[noise > 0].min() if (noise > 0).any() else 1.0  # none is where the only step is the last, which has no noise
    return Flow(**vars(ode), slope=slope, yardstick=noise.clamp(min=least))


def flow_predictor(
    model: "Model", prompts: list[str] | None, guidance: float | None, flow: Flow, solver: str, count: int
) -> Predict:
    """As chain.predictor, for the solver's own way of clipping.

    DDIM in diffusers clips the clean sample and keeps the noise that the unclipped one tells of, so that in a step what is
    clipped weighs as much as the next state's signal. The scheduler of DPM-Solver++ knows dynamic thresholds alone.
    """
    predict = predictor(model, prompts, guidance, flow, count, clips=False)
    weight = 1 + flow.state_weight * flow.signal / flow.clean_weight if solver == "ddim" else torch.ones_like(flow.signal)
    if not (model.scheduler.config.get("thresholding") or (solver == "ddim" and model.scheduler.config.get("clip_sample"))):
        return predict

    def limited(states: Tensor, steps: Tensor, images: Tensor) -> Tensor:
        cleans = predict(states, steps, images)
        return cleans + wide(weight[steps], cleans) * (_limit(model.scheduler, cleans) - cleans)

    return limited


def _slope(ode: Chain, scheduler: Any) -> Tensor:
    """D_i of DPM-Solver++ 2M is c_i + (c_i - c_{i-1}) h_i / (2 h_{i-1}), c the clean samples: algorithm 2 of arXiv 2211.01095.

    h: the steps in log(signal / spread). The last step is DDIM's where diffusers makes it so.
    """
    levels = [*(ode.signal.double() / ode.spread.double()).log().tolist(), -scheduler.sigmas[-1].double().log().item()]
    spacing = torch.tensor(levels, dtype=torch.float64).diff()
    slope, config = torch.zeros(len(ode), dtype=torch.float64), scheduler.config
    slope[1:] = spacing[1:] / spacing[:-1] / 2
    if scheduler.sigmas[-1] == 0 or config.euler_at_final or (config.lower_order_final and len(ode) < 15):
        slope[-1] = 0
    return slope.float().to(ode.signal) * ode.clean_weight
