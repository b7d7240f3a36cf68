"""DDIM at any number of steps."""

from fractions import Fraction
from typing import Any

import diffusers
from torch import Tensor


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
