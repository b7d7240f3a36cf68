"""What several folders of tests use."""

import diffusers
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from frugal.models import text
from frugal.models.recipes import schedule


@pytest.fixture(scope="session")
def text_pipeline():
    """A Stable Diffusion pipeline of toy size; what is tested is the loop, not its images."""
    words = text.tokenizer()
    shape = {"vocab_size": len(words), "max_position_embeddings": text.LENGTH, "hidden_size": 16, "intermediate_size": 32}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
                                      down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
        encoder = CLIPTextModel(CLIPTextConfig(**shape))
    scheduler = diffusers.DDIMScheduler.from_config(schedule(1.0).config)
    return diffusers.StableDiffusionPipeline(
        vae.eval(), encoder.eval(), words, unet.eval(), scheduler, None, None, requires_safety_checker=False
    )
