import pytest
import torch
from torch import nn

from frugal import zoo
from frugal.figures import unet
from frugal.models.small_unet import SmallUNet


@pytest.fixture(scope="module")
def network():
    return zoo.load("faces-ddpm", device="cpu").unet


def test_blocks_are_those_of_the_configuration(network):
    found = unet.blocks(network)
    down = [block for block in found if block["part"] == "down"]
    up = [block for block in found if block["part"] == "up"]
    assert [block["channels"] for block in down] == list(network.config.block_out_channels)
    assert [block["kind"] for block in down] == list(network.config.down_block_types)
    assert [block["side"] for block in down] == [64 // 2**k for k in range(len(down))]
    assert [block["side"] for block in up] == [block["side"] for block in reversed(down)]
    assert [block["attention"] for block in down] == ["Attn" in kind for kind in network.config.down_block_types]


def test_figure_2_1_has_a_box_a_block_and_a_skip_a_level(network, about):
    drawn = unet.architecture(network, "faces-ddpm", about)
    kinds = [type(patch).__name__ for patch in drawn.figure.axes[0].patches]
    assert kinds.count("Rectangle") == len(unet.blocks(network))
    assert kinds.count("FancyArrowPatch") == len(network.down_blocks)
    assert "logarithm of the side" in drawn.caption and "width: grows with the channels" in drawn.caption
    [legend] = drawn.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["way down", "middle", "way up"]


def test_receptive_field_of_known_networks():
    assert unet.receptive_field(nn.Conv2d(1, 1, 5, padding=2)) == 5
    assert unet.receptive_field(nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)])) == 7
    assert unet.receptive_field(nn.Conv2d(1, 1, 1)) == 1


@pytest.mark.parametrize("skips", [True, False])
def test_the_small_network_keeps_the_shape_and_hears_the_time(skips):
    torch.manual_seed(0)
    network, x = SmallUNet(widths=(8, 16, 24), skips=skips), torch.randn(2, 3, 16, 16)
    early, late = network(x, torch.tensor([1, 1])), network(x, torch.tensor([900, 900]))
    assert early.shape == x.shape and not torch.allclose(early, late, atol=1e-4)


def test_skip_connections_carry_what_the_way_down_saw():
    torch.manual_seed(0)
    network, x, t = SmallUNet(widths=(8, 16, 24)), torch.randn(1, 3, 16, 16), torch.tensor([5])
    before = network(x, t)
    with torch.no_grad():  # cut the lowest level off: what is left came across
        network.middle.second[2].weight.zero_(), network.middle.shortcut.weight.zero_()
    assert not torch.allclose(network(x, t), network(2 * x, t), atol=1e-3) and before.isfinite().all()


def test_which_network_beats_a_blur_is_said_from_the_errors():
    errors = {"with the noise of time 400": 0.2, "the best blur": 0.01, "U-Net with": 0.005, "U-Net without": 0.04}
    larger = "A larger error than the best blur, 0.0100, has the U-Net without (0.0400)."
    assert unet.beside_blur(errors) == f"A smaller error than the best blur, 0.0100, has the U-Net with (0.0050). {larger}"
    both = unet.beside_blur(errors | {"U-Net with": 0.02})
    assert both == "A larger error than the best blur, 0.0100, has the U-Net with (0.0200) and the U-Net without (0.0400)."
