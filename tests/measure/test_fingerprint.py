"""A network's name is that of its shapes and modules, and of how it was set to run."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

from frugal.measure.fingerprint import fingerprint, opaque


def network(heads=2):
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    shape = {"sample_size": 8, "block_out_channels": (16,), "layers_per_block": 1, "norm_num_groups": 4}
    return UNet2DConditionModel(**shape, **blocks, attention_head_dim=heads, cross_attention_dim=12).eval()


CHANGES = {
    "another kind of processor": lambda unet: unet.set_attn_processor(AttnProcessor()),
    "slices of one": lambda unet: unet.set_attn_processor(SlicedAttnProcessor(1)),
    "slices of two": lambda unet: unet.set_attn_processor(SlicedAttnProcessor(2)),
    "compiled in place": lambda unet: unet.compile(backend="eager"),
    "one block compiled": lambda unet: unet.mid_block.compile(backend="eager"),
    "in chunks": lambda unet: unet.mid_block.attentions[0].transformer_blocks[0].set_chunk_feed_forward(2, 1),
    "channels last": lambda unet: unet.to(memory_format=torch.channels_last),
    "half": lambda unet: unet.half(),
}


def test_what_time_depends_on_makes_another_name():
    names = {"as it is": fingerprint(network()), "other heads": fingerprint(network(4))}
    for said, change in CHANGES.items():
        unet = network()
        change(unet)
        names[said] = fingerprint(unet)
    assert len(set(names.values())) == len(names)


def test_what_was_learned_does_not():
    unet = network()
    before = fingerprint(unet)
    with torch.no_grad():
        unet.conv_in.weight += 1
    assert fingerprint(unet) == before == fingerprint(network())


@pytest.mark.parametrize("processor", [AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(1)])
def test_a_processor_of_ones_own_hides_what_its_time_depends_on(processor):
    unet = network()
    unet.set_attn_processor(processor)
    assert not opaque(unet)
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(type("Own", (type(processor),), {"__init__": lambda _: None})())
    assert opaque(unet)
