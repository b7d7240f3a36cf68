"""Training: schedules, recipes, resuming, and weights that plain diffusers opens."""

import json

import diffusers
import pytest
import torch

from frugal import machine, paths
from frugal.models import batches, cards, recipes, training
from frugal.models.faces import Faces


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setattr(paths, "training", lambda: tmp_path / "training")
    return tmp_path


def test_shifted_cosine_lowers_the_signal_everywhere_and_ends_in_noise():
    plain, shifted = recipes.schedule(1.0).alphas_cumprod, recipes.schedule(2.0).alphas_cumprod
    assert (shifted[1:] < plain[1:]).all() and (plain.diff() < 0).all()
    assert plain[0] > 0.999 and shifted[-1] < 2e-4
    ratio = lambda a: a / (1 - a)
    assert torch.allclose(ratio(plain[500]) / ratio(shifted[500]), torch.tensor(4.0), rtol=0.02)


def test_latent_network_is_about_2_4_times_the_pixel_one():
    count = {name: sum(p.numel() for p in recipes.RECIPES[name].build().parameters()) for name in recipes.RECIPES}
    assert 2.2 <= count["faces-ldm"] / count["faces-ddpm"] <= 2.6
    assert sum(count.values()) <= 20e6


def test_velocity_loss_is_zero_for_the_velocity():
    scheduler, clean = recipes.schedule(1.0), torch.randn(8, 3, 8, 8)

    class Oracle(torch.nn.Module):
        def forward(self, noisy, t):
            alpha, sigma = scheduler.alphas_cumprod[t].sqrt(), (1 - scheduler.alphas_cumprod[t]).sqrt()
            alpha, sigma = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
            noise = (noisy - alpha * clean) / sigma
            return diffusers.models.unets.unet_2d.UNet2DOutput(sample=alpha * noise - sigma * clean)

    assert recipes.velocity_loss(Oracle(), clean, scheduler) < 1e-3
    assert (
        recipes.velocity_loss(lambda x, t: diffusers.models.unets.unet_2d.UNet2DOutput(sample=0 * x), clean, scheduler)
        > 0.3
    )


def test_batches_never_repeat_a_face():
    stream = batches.batches(100, 4, torch.device("cpu"))
    (seen, _, first), (_, _, second) = next(stream), next(stream)
    assert seen == 104 and first.shape == (4, 3, 64, 64) and first.min() >= -1 and first.max() <= 1
    assert not torch.equal(first, second)
    _, _, again = next(batches.batches(104, 4, torch.device("cpu")))
    assert torch.equal(second, again)


def test_a_gpu_draws_several_batches_at_once_and_gives_them_one_by_one(monkeypatch):
    drawn = []
    monkeypatch.setattr(batches, "draw_batch", lambda p, size: drawn.append(len(p["x"])) or torch.zeros(len(p["x"]), 3, size, size, device="meta"))
    stream = batches.batches(100, 4, torch.device("meta"))  # neither a CPU nor values
    found = [next(stream) for _ in range(batches.DRAWN_AHEAD + 1)]
    assert drawn == [4 * batches.DRAWN_AHEAD] * 2
    assert [seen for seen, _, _ in found] == list(range(104, 104 + 4 * len(found), 4))
    assert all(images.shape == (4, 3, 64, 64) and len(parameters["x"]) == 4 for _, parameters, images in found)


class AtOnce:
    """What a captured step does, on a device that cannot capture: one function, three times to warm up, then with other images."""

    made = 0

    def __init__(self, step, images):
        type(self).made, self.step = type(self).made + 1, step
        for _ in range(3):
            step(images)

    def __call__(self, images):
        return self.step(images)


def test_a_captured_step_is_made_once_and_told_its_rate_anew(elsewhere, monkeypatch):
    monkeypatch.setattr(training, "CapturedStep", AtOnce)
    run = training.Run("faces-ddpm", "cpu", resume=False)
    run.captures = True
    rates, weights = [], []
    for progress, (_, parameters, images) in zip((0.0, 0.5), batches.batches(0, 4, run.device), strict=False):
        assert run.step(parameters, images, progress).isfinite()
        rates.append(run.factor.item())
        weights.append(torch.cat([p.detach().flatten() for _, p in run.parameters()]))
    assert AtOnce.made == 1 and run.card["steps"] == 2 and rates[0] == pytest.approx(training.learning_rate(0, 0.0))
    assert rates[1] == pytest.approx(training.learning_rate(1, 0.5)) and not torch.equal(*weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a step is captured on a GPU alone")
def test_a_captured_step_learns_from_the_images_it_is_given(elsewhere):
    card = training.train("faces-ddpm", minutes=0.2, device="cuda")
    assert card["loss"][-1][1] < 0.5 * card["loss"][0][1]


def test_learning_rate_warms_up_and_falls():
    shares = [training.learning_rate(step, progress) for step, progress in ((0, 0), (5000, 0), (5000, 0.5), (5000, 1))]
    assert shares[0] < shares[1] == 1 and shares[1] > shares[2] > shares[3] > 0


@pytest.mark.parametrize("name", ["faces-reader", "faces-ddpm"])
def test_train_writes_weights_and_resumes(elsewhere, name):
    card = training.train(name, minutes=1e-4, device="cpu")
    folder = paths.EMBEDDED / recipes.RECIPES[name].folder
    again = training.train(name, minutes=1e-4, resume=True, device="cpu")
    assert again["steps"] > card["steps"] and again["images"] > card["images"]
    assert json.loads(cards.file(name).read_text()) == again
    assert f"# {name}" in cards.file(name).with_name("README.md").read_text()
    assert list(folder.glob("*.safetensors")) and not list(paths.EMBEDDED.rglob("*.bin"))
    assert not list((elsewhere / "training" / name).glob("*"))  # a finished call leaves no checkpoint


def test_going_on_refines_and_the_card_keeps_every_device(elsewhere, monkeypatch):
    here = training.train("faces-ddpm", minutes=1e-4, device="cpu")["device"]
    cards.write("faces-ddpm", cards.read("faces-ddpm") | {"device": f"another, then {here}"})
    assert training.Run("faces-ddpm", "cpu", resume=True).peak == training.REFINING < 1
    assert training.train("faces-ddpm", minutes=1e-4, resume=True, device="cpu")["device"] == f"another, then {here}"
    monkeypatch.setattr(training, "device_name", lambda device: "a third")
    again = training.train("faces-ddpm", minutes=1e-4, resume=True, device="cpu")
    assert again["device"] == f"another, then {here}, then a third"


@pytest.mark.parametrize("name", ["faces-reader", "faces-ddpm"])  # AdamW alone, and Muon beside it
def test_an_interrupted_run_goes_on_where_it_was(elsewhere, name):
    run = training.Run(name, "cpu", resume=False)
    _, parameters, images = next(batches.batches(0, 4, run.device))
    for _ in range(2):
        run.step(parameters, images, 0.1)
    run.elapsed = 12.0
    run.save()
    again = training.Run(name, "cpu", resume=True)
    assert again.elapsed == 12.0 and again.card["steps"] == 2 and again.peak == run.peak == 1
    for (layer, old), (_, new) in zip(run.parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new), layer
    old, new = run.optimiser.state(), again.optimiser.state()
    assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)
    assert any(value.abs().max() > 0 for value in old.values())
    for old, new in zip(run.ema.shadow_params, again.ema.shadow_params, strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    "arguments", [{"name": "faces"}, {"name": "faces-vae", "minutes": 0}, {"name": "faces-vae", "minutes": -1}]
)
def test_bad_input_is_named(arguments):
    with pytest.raises(ValueError, match="name|minutes"):
        training.train(**arguments)


def test_embedded_weights_are_ordinary_diffusers_folders():
    vae = diffusers.AutoencoderKL.from_pretrained(paths.EMBEDDED / "faces-vae", torch_dtype=torch.float32)
    ddpm = diffusers.DDPMPipeline.from_pretrained(paths.EMBEDDED / "faces-ddpm", torch_dtype=torch.float32)
    ldm = diffusers.UNet2DModel.from_pretrained(
        paths.EMBEDDED / "faces-ldm", subfolder="unet", torch_dtype=torch.float32
    )
    assert ddpm.scheduler.config.prediction_type == "v_prediction"
    assert ddpm(num_inference_steps=2, output_type="np").images.shape == (1, 64, 64, 3)
    assert ldm.config.in_channels == vae.config.latent_channels
    files = list(paths.EMBEDDED.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 40e6


def test_no_latent_channel_is_dead():
    vae = recipes.frozen_vae("cpu")
    images = 2 * Faces("test", 64).images(range(64)) - 1
    latents = recipes.encode(vae, images)
    assert 0.8 < latents.std() < 1.2 and abs(latents.mean()) < 0.1
    assert (latents.std(dim=(0, 2, 3)) > 0.3).all()


def test_an_autoencoder_is_not_begun_anew_under_the_models_that_use_it(elsewhere):
    (paths.EMBEDDED / "faces-ldm").mkdir(parents=True)
    with pytest.raises(ValueError, match="faces-ldm would no longer fit.*--resume"):
        training.Run("faces-vae", "cpu", resume=False)
    recipes.build_vae().save_pretrained(paths.EMBEDDED / "faces-vae")
    cards.write("faces-vae", cards.blank("faces-vae") | {"marks": [], "steps": 1})
    network = training.Run("faces-vae", "cpu", resume=True).network
    assert not any(p.requires_grad for p in network.encoder.parameters())
    assert all(p.requires_grad for p in network.decoder.parameters())


def test_new_weights_do_not_inherit_the_marks_of_old_ones(elsewhere):
    training.train("faces-ddpm", minutes=1e-4, device="cpu")
    cards.write("faces-ddpm", cards.read("faces-ddpm") | {"marks": []})
    training.train("faces-ddpm", minutes=1e-4, resume=True, device="cpu")
    assert "marks" not in cards.read("faces-ddpm")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device='abacus'"):
        training.train("faces-ddpm", minutes=1, device="abacus")


def test_compiling_is_asked_for_and_only_of_a_diffusion_network(elsewhere, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda network: asked.append(type(network).__name__) or network)
    training.train("faces-ddpm", minutes=1e-4, device="cpu")
    training.train("faces-ddpm", minutes=1e-4, device="cpu", compiled=True)
    assert asked == ["UNet2DModel"]
    with pytest.raises(ValueError, match="compiled: got True for faces-vae"):  # it is not called as a whole
        training.train("faces-vae", minutes=1e-4, compiled=True)


def test_a_compiled_network_is_used_only_where_its_gradient_is_the_plain_one(elsewhere, monkeypatch, capsys):
    def other(network):
        """The same output, its gradient turned round."""

        def call(*arguments):
            found = network(*arguments)
            found.sample = 2 * found.sample.detach() - found.sample
            return found

        return call

    run = training.Run("faces-ddpm", "cpu", resume=False)
    _, parameters, images = next(batches.batches(0, 4, run.device))
    state = torch.random.get_rng_state()
    monkeypatch.setattr(torch, "compile", lambda network: network)
    assert run.compile(parameters, images) and run.called is run.network and capsys.readouterr().out == ""
    assert all(p.grad is None for _, p in run.parameters()) and torch.equal(state, torch.random.get_rng_state())
    monkeypatch.setattr(torch, "compile", other)
    assert not run.compile(parameters, images) and run.called is run.network
    assert "cosine -1.00" in capsys.readouterr().out


def test_energy_is_noted_where_the_device_counts_it(elsewhere, monkeypatch):
    counted = iter((10.0, 35.0, 100.0, 110.0))
    monkeypatch.setattr(training, "joules", lambda kind: next(counted))
    assert training.train("faces-ddpm", minutes=1e-4, device="cpu")["joules"] == 25
    assert training.train("faces-ddpm", minutes=1e-4, resume=True, device="cpu")["joules"] == 35
    monkeypatch.setattr(training, "joules", lambda kind: None)
    assert training.train("faces-ddpm", minutes=1e-4, resume=True, device="cpu")["joules"] == 35


def test_a_device_without_a_counter_reports_no_energy(monkeypatch):
    def no_library(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(machine.ctypes, "CDLL", no_library)
    assert machine.joules("cuda") is None and machine.joules("mps") is None
    monkeypatch.setattr(machine.Path, "glob", lambda self, pattern: [])
    assert machine.joules("cpu") is None
