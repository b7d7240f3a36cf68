"""Sampling that follows a caption: equal to diffusers' own pipeline, one prompt a seed, guidance stated."""

from dataclasses import replace

import pytest
import torch
from diffusers import PNDMScheduler
from diffusers.utils.torch_utils import randn_tensor

from frugal import merge_tokens, sample, zoo
from frugal.methods.samplers import denoise
from frugal.models import faces
from frugal.models.zoo import FACES_GUIDANCE, GUIDANCE

PROMPTS = [faces.Faces("test")[k]["caption"] for k in range(2)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_equals_the_pipeline_of_diffusers(text_pipeline, guidance):
    model = zoo.load(text_pipeline)
    ours = sample(model, [3, 4], steps=5, prompts=PROMPTS, guidance=guidance)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    noise = randn_tensor((2, 4, 8, 8), generator=generators)
    theirs = text_pipeline(PROMPTS, num_inference_steps=5, guidance_scale=guidance, latents=noise, output_type="pt").images
    assert torch.allclose(ours, theirs, atol=2e-3)
    assert (ours[0] - ours[1]).abs().mean() > 0.01


@pytest.mark.parametrize("steps", [1, 4])
def test_the_published_scheduler_equals_the_pipeline_of_diffusers(text_pipeline, steps):
    text_pipeline.scheduler = PNDMScheduler.from_config(text_pipeline.scheduler.config, skip_prk_steps=True)
    noise = randn_tensor((1, 4, 8, 8), generator=[torch.Generator().manual_seed(3)])
    options = {"num_inference_steps": steps, "guidance_scale": 3.0, "latents": noise, "output_type": "pt"}
    theirs = text_pipeline(PROMPTS[:1], **options).images
    model = zoo.load(text_pipeline)
    assert torch.allclose(sample(model, [3], steps, "pndm", prompts=PROMPTS[:1], guidance=3.0), theirs, atol=2e-3)
    states = list(denoise(model, [3], steps, "pndm", prompts=PROMPTS[:1], guidance=3.0))
    assert [state.step for state in states] == list(range(steps))
    assert all(state.clean.isfinite().all() and state.clean.std() < 50 for state in states)


def test_images_depend_on_seed_and_prompt_alone(text_pipeline):
    model = zoo.load(text_pipeline)
    together = sample(model, [1, 2, 3], steps=3, prompts=PROMPTS[:1], guidance=2.0, batch_size=2)
    alone = sample(model, [2], steps=3, prompts=PROMPTS[0], guidance=2.0)
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    other = sample(model, [2], steps=3, prompts=PROMPTS[1], guidance=2.0)
    assert not torch.allclose(alone, other, atol=1e-3)


def test_without_prompts_it_is_unconditional(text_pipeline):
    model = zoo.load(text_pipeline)
    assert torch.equal(sample(model, [0], steps=2), sample(model, [0], steps=2, prompts=[""], guidance=1.0))


def test_guidance_is_the_model_s_own_where_none_is_asked_for(text_pipeline):
    captions = zoo.load(text_pipeline)
    ordinary = replace(captions, tokenizer=NoUnknown(captions.tokenizer))
    for model, own in ((captions, FACES_GUIDANCE), (ordinary, GUIDANCE)):
        assert model.guidance == own and model.of_captions == (own == FACES_GUIDANCE)
        for options in ({}, {"sampler": "speculative"}, {"sampler": "parallel"}):
            default = sample(model, [0], steps=2, prompts=PROMPTS[0], **options)
            assert torch.equal(default, sample(model, [0], steps=2, prompts=PROMPTS[0], guidance=own, **options))
    assert zoo.load("faces-sd", device="cpu").guidance == FACES_GUIDANCE
    assert zoo.load("faces-ldm", device="cpu").guidance == GUIDANCE


class NoUnknown:
    """A tokenizer that has a token for whatever it is given."""

    def __init__(self, words):
        self.words = words

    def __call__(self, *arguments, **options):
        return self.words(*arguments, **options)


def test_both_halves_of_guidance_merge_alike(text_pipeline):
    model = zoo.load(text_pipeline)
    with merge_tokens(model.unet, 0.5) as merging:
        same = sample(model, [0], steps=2, prompts=[""], guidance=5.0)
    assert {row["tokens_after"] for row in merging.report()} == {32}
    with merge_tokens(model.unet, 0.5):
        assert torch.allclose(same, sample(model, [0], steps=2, prompts=[""], guidance=1.0), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prompts": PROMPTS, "guidance": 0.5}, "guidance"), ({"guidance": 3.0}, "guidance"),
        ({"prompts": ["a", "b", "c"]}, "prompts"), ({"prompts": [1, 2]}, "prompts"),
        ({"prompts": PROMPTS, "guidance": float("nan")}, "guidance"),
    ],
)  # fmt: skip
def test_bad_input_is_named(text_pipeline, options, named):
    with pytest.raises(ValueError, match=named):
        sample(zoo.load(text_pipeline), [0, 1], steps=2, **options)


def test_a_model_without_its_text_encoder_says_so(text_pipeline):
    model = zoo.Model("half", "memory", text_pipeline.unet, text_pipeline.scheduler)
    with pytest.raises(ValueError, match="no text encoder"):
        sample(model, [0], steps=2, prompts=["a face"])
