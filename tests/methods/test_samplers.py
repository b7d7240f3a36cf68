"""Every sampler: exact where the best prediction is known, equal to diffusers' own loops, one image a seed."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch import nn

from frugal.methods.samplers import SAMPLERS, State, denoise, sample
from frugal.models import zoo
from frugal.models.recipes import schedule
from frugal.models.zoo import Model

MEAN, DEVIATION = 0.3, 0.25  # of the Gaussian data


class GaussianDenoiser(nn.Module):
    """The best possible prediction for pixels drawn from N(MEAN, DEVIATION^2), in closed form."""

    def __init__(self, scheduler, size=16):
        super().__init__()
        self.config = SimpleNamespace(sample_size=size, in_channels=3)
        self.alpha_bar, self.kind = scheduler.alphas_cumprod, scheduler.config.prediction_type
        self.calls = 0

    def forward(self, x, t):
        self.calls += 1
        alpha_bar = self.alpha_bar[int(t)]
        a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        clean = MEAN + a * DEVIATION**2 / (a**2 * DEVIATION**2 + b**2) * (x - a * MEAN)
        noise = (x - a * clean) / b
        return SimpleNamespace(sample=a * noise - b * clean if self.kind == "v_prediction" else noise)


def gaussian(scheduler=None):
    scheduler = scheduler or schedule(2.0)
    return Model("gaussian", "memory", GaussianDenoiser(scheduler), scheduler)


def published_schedule():
    return diffusers.DDPMScheduler(clip_sample=False, beta_start=1e-4, beta_end=0.02)


@pytest.fixture(scope="module")
def tiny(small_model):
    return small_model(16)


@pytest.mark.parametrize("make", [lambda: schedule(2.0), lambda: schedule(1.0), published_schedule])
@pytest.mark.parametrize(
    ("sampler", "error"),  # of the deviation after 50 steps: the samplers of second order are nearly exact
    [("ddpm", 0.2), ("ddim", 0.11), ("euler", 0.11), ("dpmpp_2m", 0.05), ("dpmpp_2m_sde", 0.05), ("unipc", 0.05), ("heun", 0.05)],
)
def test_gaussian_data_come_back(sampler, error, make):
    scheduler = make()
    assert scheduler.alphas_cumprod[-1] < 1e-4
    images = 2 * sample(gaussian(scheduler), range(10), steps=50, sampler=sampler) - 1
    assert images.isfinite().all()
    assert images.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert images.std().item() == pytest.approx(DEVIATION, rel=error)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_steps_come_closer(sampler):
    coarse, fine = (2 * sample(gaussian(), range(10), steps=steps, sampler=sampler) - 1 for steps in (20, 100))
    assert abs(fine.std() - DEVIATION) < 0.5 * abs(coarse.std() - DEVIATION)


@pytest.mark.parametrize("steps", [30, 60])
def test_ddim_reaches_the_data_where_steps_do_not_divide_the_training_steps(steps):
    states = list(denoise(gaussian(), range(10), steps=steps))
    euler = list(denoise(gaussian(), range(10), steps=steps, sampler="euler"))  # the same method in other coordinates
    assert torch.equal(states[-1].sample, states[-1].clean)  # the last step removes all noise
    assert torch.allclose(states[-1].sample, euler[-1].sample, atol=0.001)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_depends_on_its_seed_alone(tiny, sampler):
    options = {"steps": 3, "sampler": sampler, "eta": 1.0 if sampler == "ddim" else 0.0}
    together = sample(tiny, [7, 2, 5], **options)
    reordered = sample(tiny, [5, 7, 2], batch_size=2, **options)
    alone = sample(tiny, [2], **options)
    assert together.shape == (3, 3, 16, 16) and together.dtype == torch.float32
    assert 0 <= together.min() and together.max() <= 1
    assert torch.allclose(together, reordered[[1, 2, 0]], atol=2e-4)
    assert torch.allclose(together[1:2], alone, atol=2e-4)
    assert (together[0] - together[1]).abs().mean() > 0.01


@pytest.mark.parametrize("steps", [2, 7])
def test_equals_diffusers_ddpm_pipeline(tiny, steps):
    pipeline = diffusers.DDPMPipeline(tiny.unet, tiny.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = pipeline(batch_size=2, generator=generators, num_inference_steps=steps, output_type="np").images
    ours = sample(tiny, [3, 4], steps=steps, sampler="ddpm")
    assert torch.allclose(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_equals_diffusers_ddim_pipeline(tiny, eta):
    pipeline = diffusers.DDIMPipeline(tiny.unet, diffusers.DDIMScheduler.from_config(tiny.scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = pipeline(batch_size=2, generator=generators, num_inference_steps=5, eta=eta, output_type="np").images
    ours = sample(tiny, [3, 4], steps=5, eta=eta)
    assert torch.allclose(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "unipc", "euler", "heun"])
def test_equals_diffusers_own_loop(tiny, sampler):
    kind, options = SAMPLERS[sampler]
    scheduler = kind.from_config(tiny.scheduler.config, **options)
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(9)
    more = {"generator": generator} if sampler == "dpmpp_2m_sde" else {}
    x = torch.randn(1, 3, 16, 16, generator=generator) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(tiny.unet(scheduler.scale_model_input(x, t), t).sample, t, x, **more).prev_sample
    assert torch.allclose(sample(tiny, [9], steps=4, sampler=sampler), (x / 2 + 0.5).clamp(0, 1), atol=1e-6)


def test_pndm_says_the_same_clean_sample_of_noise_and_of_velocity():  # it keeps none itself
    schedules = [diffusers.DDPMScheduler(prediction_type=kind, clip_sample=False) for kind in ("epsilon", "v_prediction")]
    noise, velocity = (next(denoise(gaussian(s), [0], steps=4, sampler="pndm")) for s in schedules)
    assert torch.allclose(noise.clean, velocity.clean, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_state_a_step(sampler):
    model = gaussian()
    states = list(denoise(model, [0, 1], steps=6, sampler=sampler))
    assert [state.step for state in states] == list(range(6))
    times = [state.timestep for state in states]
    assert times == sorted(times, reverse=True) and len(set(times)) == 6
    assert times[0] == pytest.approx(999, abs=0.5)  # edm's levels of noise lie between time steps
    assert model.unet.calls == {"heun": 11, "edm": 11, "pndm": 7}.get(sampler, 6)
    for state in states:  # on one scale whatever the sampler, so that trajectories compare
        assert state.sample.shape == state.clean.shape == (2, 3, 16, 16)
        assert state.sample.std() < 1.3 and state.clean.std() < 1.0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_stay_finite(sampler, steps):
    assert sample(gaussian(), [0], steps=steps, sampler=sampler).isfinite().all()


def test_the_caller_can_stop_early_and_keeps_its_gradient_mode(tiny):
    before = torch.get_rng_state()
    for state in denoise(tiny, [0], steps=5):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        if state.step == 1:
            break
    assert isinstance(state, State) and not state.sample.is_inference() and not state.sample.requires_grad
    weight = torch.ones(1, requires_grad=True)
    (state.sample * weight).sum().backward()  # a normal tensor: inference tensors refuse this
    assert weight.grad is not None
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone


def test_half_precision_starts_from_the_same_noise(tiny):
    reference = sample(tiny, [1], steps=3)
    tiny.unet.to(torch.bfloat16)
    try:
        half = sample(tiny, [1], steps=3)
    finally:
        tiny.unet.to(torch.float32)
    assert half.dtype == torch.float32 and (half - reference).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds is empty"), ({"seeds": 3}, "seeds=3"), ({"seeds": [0.5]}, "seeds=0.5"),
        ({"seeds": [-1]}, "seeds=-1"),
        ({"steps": 0}, "steps=0 .* from 1 to 1000"), ({"steps": 1001}, "steps=1001"), ({"steps": 2.0}, "steps=2.0"),
        ({"sampler": "plms"}, "^sampler='plms' is not one of ddpm, ddim, .*pndm, speculative, parallel$"), ({"sampler": ["ddim"]}, "sampler="), ({"eta": "x"}, "eta='x'"),
        ({"model": "faces-ddpm"}, "model: got str"), ({"batch_size": 0}, "batch_size=0"),
        ({"eta": 1.5}, "eta=1.5"), ({"eta": 0.5, "sampler": "euler"}, "eta=0.5"),
        ({"prompts": ["a face"]}, "prompts=.*unconditional"), ({"guidance": 7.5}, "guidance=7.5"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(**{"model": gaussian(), "seeds": [0], "steps": 2} | arguments)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"guidance": float("inf")}, "guidance=inf"), ({"guidance": float("nan")}, "guidance=nan"), ({"guidance": True}, "guidance=True"),
        ({"guidance": "x"}, "guidance='x'"), ({"prompts": 3}, "prompts: got 1 of .'int'"), ({"prompts": ["a", 2]}, "prompts: got 2 of"),
    ],
)  # fmt: skip
def test_bad_text_is_named(text_pipeline, said, message):
    with pytest.raises(ValueError, match=message):
        sample(zoo.load(text_pipeline), **{"seeds": [0], "steps": 2, "prompts": ["a face"]} | said)


def test_denoise_refuses_before_the_first_state():
    with pytest.raises(ValueError, match="steps=0"):
        denoise(gaussian(), [0], steps=0)


def test_steps_that_a_spacing_cannot_place_are_refused():
    model = gaussian(diffusers.DDPMScheduler(timestep_spacing="leading", clip_sample=False))
    with pytest.raises(ValueError, match="steps=1000 does not fit sampler='dpmpp_2m'"):
        denoise(model, [0], steps=1000, sampler="dpmpp_2m")
    model = gaussian(diffusers.DDPMScheduler(timestep_spacing="leading", steps_offset=1, clip_sample=False))
    with pytest.raises(ValueError, match="steps=1000 does not fit"):  # one of them would be 1000
        denoise(model, [0], steps=1000)
    with pytest.raises(ValueError, match="steps=61 does not fit .* 62 time steps"):  # one of them would be -1
        denoise(gaussian(), [0], steps=61)
