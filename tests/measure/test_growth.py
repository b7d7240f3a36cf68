import pytest
from diffusers import UNet2DModel

from frugal.measure import cost, growth


@pytest.fixture
def unet():
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return UNet2DModel(16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8, **blocks)


def test_work_is_that_of_attention_with_and_without_its_maps(unet):
    found, shape = growth.work(unet, 16), (1, 3, 16, 16)
    assert 0 < found["products"] < found["attention"] < found["network"]
    assert found["attention"] / found["network"] == pytest.approx(cost.attention_share(unet, shape))
    assert found["products"] == len(cost.attention_layers(unet)) * 4 * 64**2 * 16  # two products, a multiply-add counting 2


def test_only_the_products_grow_with_the_square_of_the_tokens(unet):
    powers = growth.exponents(unet)
    assert powers["products"] == pytest.approx(2) and 1 < powers["network"] < powers["attention"] < 2
