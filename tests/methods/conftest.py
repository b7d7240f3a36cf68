"""What several tests of methods use."""

import diffusers
import pytest
import torch

from frugal.models.recipes import schedule
from frugal.models.zoo import Model


@pytest.fixture(scope="session")
def small_model():
    """Makes a model in pixels, of random weights, for images of a given side; what is tested is the loop."""

    def make(side: int) -> Model:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = diffusers.UNet2DModel(
                sample_size=side, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            )  # fmt: skip
        return Model("tiny", "memory", unet.eval(), schedule(2.0))

    return make
