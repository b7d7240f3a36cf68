"""Pipelines handed in: the same images as from their folder, or one clear refusal."""

from copy import deepcopy

import diffusers
import pytest
import torch

from frugal import sample, zoo
from frugal.models import own


@pytest.fixture
def pipeline(small_unet):
    return lambda scheduler, **options: diffusers.DDPMPipeline(small_unet(**options), scheduler)


@pytest.fixture
def small_unet():
    def make(**options):
        torch.manual_seed(0)
        shape = {"sample_size": 8, "block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
        return diffusers.UNet2DModel(**shape | {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)} | options)

    return make


@pytest.mark.parametrize("kind", ["DDPM", "LCM", "TCD", "EulerDiscrete", "UnCLIP"])
def test_a_pipeline_in_memory_and_its_folder_give_the_same_images_under_the_same_hash(tmp_path, pipeline, kind):
    given = pipeline(getattr(diffusers, f"{kind}Scheduler")())
    given.save_pretrained(tmp_path)
    memory, folder = zoo.load(given, device="cpu"), zoo.load(tmp_path, device="cpu")
    assert memory.weights_hash == folder.weights_hash
    for sampler in ("ddim", "euler", "dpmpp_2m", "heun"):
        assert torch.allclose(*(sample(model, [1], 4, sampler) for model in (memory, folder)), atol=1e-5)


def test_a_scheduler_is_written_out_and_the_one_given_left_alone():
    given = diffusers.LCMScheduler()
    before = deepcopy(dict(given.config))
    written = own.written_out(given)
    assert dict(given.config) == before and "beta_start" in before["_use_default_values"]
    assert type(written) is type(given) and not written.config.get("_use_default_values")
    assert torch.equal(diffusers.DDIMScheduler.from_config(written.config).betas, given.betas)


@pytest.mark.parametrize(
    "kind", ["FlowMatchEulerDiscrete", "EDMEuler", "KarrasVe", "ScoreSdeVe", "CMStochasticIterative", "IPNDM", "DDPMWuerstchen"]
)
def test_schedulers_without_betas_are_refused(pipeline, tmp_path, kind):
    given = pipeline(getattr(diffusers, f"{kind}Scheduler")())
    with pytest.raises(ValueError, match=f"^scheduler: got {kind}Scheduler, allowed is one whose configuration gives its betas"):
        zoo.load(given)
    given.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^scheduler: got {kind}Scheduler"):
        zoo.load(tmp_path)


def test_schedulers_whose_configuration_does_not_tell_their_noise_are_refused(pipeline):
    flow = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    with pytest.raises(ValueError, match="got DPMSolverMultistepScheduler of prediction_type 'flow_prediction'"):
        zoo.load(pipeline(flow))
    with pytest.raises(ValueError, match="got HeunDiscreteScheduler,"):  # betas that no other scheduler knows
        zoo.load(pipeline(diffusers.HeunDiscreteScheduler(beta_schedule="exp")))
    changed = diffusers.DDPMScheduler()
    changed.alphas_cumprod = changed.alphas_cumprod**2
    with pytest.raises(ValueError, match="got DDPMScheduler,"):
        zoo.load(pipeline(changed))


@pytest.mark.parametrize("trained_betas", [None, [0.01] * 100])
@pytest.mark.parametrize("rescaled", [False, True])
def test_schedules_of_betas_are_taken(trained_betas, rescaled):
    steps = {"num_train_timesteps": 100, "trained_betas": trained_betas, "rescale_betas_zero_snr": rescaled}
    for kind in ("DDPM", "DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LCM"):
        scheduler = getattr(diffusers, f"{kind}Scheduler")(**steps)
        own.check_schedule(own.written_out(scheduler), scheduler.config | {"_use_default_values": []})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"in_channels": 9, "out_channels": 4}, "takes 9 channels and gives 4"), ({"num_class_embeds": 5}, "conditioned on a class"),
        ({"in_channels": 3, "out_channels": 6}, "takes 3 channels and gives 6"),
    ],
)  # fmt: skip
def test_networks_that_sampling_cannot_run_are_refused_by_it(pipeline, options, said):
    model = zoo.load(pipeline(diffusers.DDPMScheduler(), **options))
    for sampler in ("ddim", "parallel"):
        with pytest.raises(ValueError, match=f"^model: the network of 'DDPMPipeline' .*{said}; allowed is a UNet2DModel"):
            sample(model, [0], 2, sampler)


def test_a_network_that_asks_for_more_than_a_text_is_refused(text_pipeline):
    shape = {key: value for key, value in text_pipeline.unet.config.items() if not key.startswith("_")} | {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 60
    }  # fmt: skip
    unet = diffusers.UNet2DConditionModel.from_config(shape)
    given = diffusers.StableDiffusionPipeline(**text_pipeline.components | {"unet": unet}, requires_safety_checker=False)
    with pytest.raises(ValueError, match="conditioned on more than a text, as Stable Diffusion XL is"):
        sample(zoo.load(given), [0], 2, prompts="a face")


def test_a_learned_variance_is_for_the_samplers_that_take_it(pipeline):
    model = zoo.load(pipeline(diffusers.DDPMScheduler(variance_type="learned_range"), out_channels=6))
    for sampler in ("ddpm", "dpmpp_2m", "dpmpp_2m_sde"):
        assert sample(model, [0], 2, sampler).shape == (1, 3, 8, 8)
    for sampler in ("ddim", "unipc", "euler", "heun", "edm", "pndm", "speculative", "parallel"):
        with pytest.raises(ValueError, match=f"sampler='{sampler}': .* learns the variance .* allowed are ddpm, dpmpp_2m, dpmpp_2m_sde"):
            sample(model, [0], 2, sampler)


def test_a_pipeline_in_training_is_put_in_evaluation_mode(pipeline):
    given = pipeline(diffusers.DDPMScheduler(), dropout=0.5)
    given.unet.train()
    model = zoo.load(given)
    assert torch.equal(sample(model, [0], 2), sample(model, [0], 2)) and not given.unet.training


def test_a_compiled_network_is_known_by_the_one_inside(text_pipeline):
    plain = zoo.load(text_pipeline)
    components = text_pipeline.components | {"unet": torch.compile(text_pipeline.unet, backend="eager")}
    compiled = zoo.load(diffusers.StableDiffusionPipeline(**components, requires_safety_checker=False))
    assert compiled.conditional and compiled.weights_hash == plain.weights_hash
    ours, theirs = (sample(model, [0], 2, prompts="a sad face") for model in (compiled, plain))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(sample(compiled, [0], 2), sample(plain, [0], 2), atol=1e-5)
