"""Every source of a model: package, hub (a small one on the loopback), folder, memory, random; and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import diffusers
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from frugal import paths
from frugal.methods.samplers import sample
from frugal.models import architectures, hub, zoo

COUNTS = {
    "ddpm-celebahq-256": 113_673_219, "ldm-celebahq-256": 274_056_163,
    "stable-diffusion-v1-5": 859_520_964, "ddpm-cifar10-32": 35_746_307,
}  # fmt: skip
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tiny_unet(channels=3, size=16, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return diffusers.UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=1,
            block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=None,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip


def tiny_autoencoder(kind=diffusers.AutoencoderKL, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind(
            block_out_channels=(8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4, sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, **options,
        ).eval()  # fmt: skip


def tiny_scheduler():
    return diffusers.DDPMScheduler(prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing")


def root_layout(folder: Path) -> Path:
    """As google/ddpm-*: network and schedule side by side at the root."""
    tiny_unet().save_pretrained(folder)
    tiny_scheduler().save_pretrained(folder)
    return folder


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path)
    tiny_autoencoder(scaling_factor=0.7, shift_factor=0.4).half().save_pretrained(tmp_path / "faces-vae")
    for name, unet in {"faces-ddpm": tiny_unet(), "faces-ldm": tiny_unet(4, 8)}.items():
        unet.half().save_pretrained(tmp_path / name / "unet")
        tiny_scheduler().save_pretrained(tmp_path / name / "scheduler")
    return tmp_path


# --- published architectures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_published_parameter_counts(name):
    networks = architectures.architecture(name)
    assert sum(p.numel() for p in networks["unet"].parameters()) == COUNTS[name]
    assert all(p.is_meta for network in networks.values() for p in network.parameters())
    filled = [networks[part] for part in ("unet", "vae") if part in networks]
    assert not any(list(network.buffers()) for network in filled)  # random weights would leave them undefined
    if name == "stable-diffusion-v1-5":  # the thesis's "about a billion"
        assert sum(p.numel() for network in networks.values() for p in network.parameters()) == 1_066_235_307


def test_published_heads_are_kept():
    heads = [architectures.PUBLISHED[architectures.SHORT[name]]["unet"]["attention_head_dim"] for name in COUNTS]
    assert heads == [None, 32, 8, None]
    network = architectures.architecture("ddpm-cifar10-32")["unet"]
    assert {module.heads for module in network.modules() if hasattr(module, "heads")} == {1}


@pytest.fixture
def small_published(monkeypatch):
    """The published LDM shrunk, so that its random weights cost nothing."""
    repository = "CompVis/ldm-celebahq-256"
    parts = json.loads(json.dumps(architectures.PUBLISHED[repository]))
    parts["unet"] |= {"block_out_channels": [32, 32, 32, 32], "sample_size": 16}
    parts["vqvae"] |= {"block_out_channels": [32, 32, 32], "num_vq_embeddings": 16, "sample_size": 64}
    monkeypatch.setitem(architectures.PUBLISHED, repository, parts)


def test_random_weights_are_seeded_finite_and_leave_the_global_generator_alone(small_published):
    before = torch.get_rng_state()
    first, second = (zoo.load("ldm-celebahq-256", weights="random", device="cpu") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.weights, first.name, first.revision) == ("random", "ldm-celebahq-256", None)
    assert (first.latent_shape, first.image_size, first.latent_scale) == ((3, 16, 16), 64, (1.0, 0.0))
    state, again = first.unet.state_dict(), second.unet.state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert first.weights_hash == second.weights_hash and first.weights_hash.startswith("random-")
    latents = torch.randn(1, *first.latent_shape)
    for _ in range(2):
        with torch.no_grad():
            latents = first.unet(latents, 500).sample
        assert latents.isfinite().all() and 1e-3 < latents.std() < 1e3
    assert first.decode(latents).shape == (1, 3, 64, 64) and first.decode(latents).isfinite().all()


def test_quality_of_random_weights_is_refused(small_published, tmp_path):
    with pytest.raises(ValueError, match="PSNR needs trained weights, but model 'ldm-celebahq-256' has random ones"):
        zoo.load("ldm-celebahq-256", weights="random", device="cpu").require_trained("PSNR")
    assert zoo.load(root_layout(tmp_path), device="cpu").require_trained("PSNR") is None


# --- package, folder, memory -----------------------------------------------------------------------------------------


def test_names():
    assert set(zoo.names()) == {"faces-ddpm", "faces-ddpm-draft", "faces-ldm", "faces-sd", *COUNTS}


def test_embedded_pixel_model(embedded):
    model = zoo.load("faces-ddpm", device="cpu")
    assert (model.weights, model.latent_shape, model.image_size, model.vae) == ("embedded", (3, 16, 16), 16, None)
    assert model.dtype == torch.float32 and model.device.type == "cpu" and not model.unet.training
    assert list(model.parts()) == ["unet"]
    assert model.scheduler.config.prediction_type == "v_prediction"
    assert sample(model, [0, 1], steps=2).shape == (2, 3, 16, 16)


def test_embedded_latent_model_shares_the_autoencoder(embedded):
    model = zoo.load("faces-ldm", weights="embedded", device="cpu")
    assert (model.latent_shape, model.image_size, model.latent_scale) == ((4, 8, 8), 32, (0.7, 0.4))
    assert list(model.parts()) == ["unet", "vae"]
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = model.encode(images)
    codes = model.vae.encode(images).latent_dist.mean
    assert torch.allclose(latents, (codes - 0.4) * 0.7, atol=1e-6)
    assert torch.allclose(model.decode(latents), model.vae.decode(codes).sample, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in zoo.EMBEDDED if not zoo.absent(name)])
def test_the_package_s_own_weights(name):
    """The folders that ship: float16 safetensors that plain diffusers opens too."""
    model = zoo.load(name, device="cpu")
    assert model.image_size == 64
    images = sample(model, [0], steps=2, sampler="dpmpp_2m")
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all() and images.std() > 0.01
    folder = paths.EMBEDDED / name
    plain = type(model.unet).from_pretrained(folder / "unet", torch_dtype=torch.float32)
    assert all(torch.equal(tensor, model.unet.state_dict()[key]) for key, tensor in plain.state_dict().items())
    stored = load_file(folder / "unet" / hub.WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert diffusers.DDPMScheduler.from_pretrained(folder / "scheduler").config == model.scheduler.config


def test_the_package_s_text_model_opens_in_plain_diffusers_and_draws_the_same(tmp_path):
    model, prompt = zoo.load("faces-sd", device="cpu"), "a smiling face with tan skin and no hair on a green background"
    zoo.export("faces-sd", tmp_path / "sd")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(5))
    options = {"num_inference_steps": 5, "guidance_scale": 2.0, "latents": noise, "output_type": "pt"}
    theirs = pipeline(prompt, **options).images
    assert torch.allclose(sample(model, [5], 5, prompts=prompt, guidance=2.0), theirs, atol=5e-3)


def test_the_hash_of_a_text_model_tells_its_encoder_apart():
    model, other = zoo.load("faces-sd", device="cpu"), zoo.load("faces-sd", device="cpu")
    assert model.weights_hash == other.weights_hash
    with torch.no_grad():
        next(other.text_encoder.parameters()).add_(0.01)
    assert model.weights_hash != other.weights_hash


def test_the_package_s_pair_mirrors_the_thesis():
    pixels, latents = (zoo.load(name, device="cpu").unet for name in ("faces-ddpm", "faces-ldm"))
    ratio = sum(p.numel() for p in latents.parameters()) / sum(p.numel() for p in pixels.parameters())
    assert ratio == pytest.approx(274_056_163 / 113_673_219, rel=0.1)


def test_missing_embedded_weights_tell_how_to_make_them(tmp_path, monkeypatch, embedded):
    (tmp_path / "faces-vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(zoo.MissingWeights, match="frugal train faces-vae"):
        zoo.load("faces-ldm")
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path / "nothing")
    with pytest.raises(zoo.MissingWeights, match="frugal train faces-ddpm"):
        zoo.load("faces-ddpm")


@pytest.mark.parametrize("layout", ["root", "subfolders"])
def test_a_local_folder(tmp_path, layout):
    if layout == "root":
        root_layout(tmp_path)
    else:
        diffusers.DDPMPipeline(tiny_unet(), tiny_scheduler()).save_pretrained(tmp_path)
    model = zoo.load(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert (model.weights, model.name, model.dtype) == ("local", str(tmp_path), torch.bfloat16)
    assert torch.equal(model.unet.conv_in.weight, tiny_unet().conv_in.weight.bfloat16())


def test_pickled_weights_are_refused(tmp_path):
    tiny_unet().save_pretrained(tmp_path / "unet", safe_serialization=False)
    tiny_scheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(zoo.MissingWeights, match="has no safetensors of its unet"):
        zoo.load(tmp_path)


def test_a_foreign_class_is_refused(tmp_path):
    root_layout(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "AutoModel"}))
    with pytest.raises(ValueError, match="class 'AutoModel'"):
        zoo.load(tmp_path)


def test_a_pipeline_in_memory_stays_as_it_is():
    pipeline = diffusers.DDPMPipeline(tiny_unet().to(torch.bfloat16), tiny_scheduler())
    model = zoo.load(pipeline)
    assert model.unet is pipeline.unet and (model.weights, model.name) == ("memory", "DDPMPipeline")
    assert model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="name=int is neither"):
        zoo.load(3)


def test_a_vq_model_without_a_factor_has_factor_one():
    unnamed, named = tiny_autoencoder(diffusers.VQModel), tiny_autoencoder(diffusers.VQModel, scaling_factor=0.5)
    assert unnamed.config.scaling_factor == 0.18215  # Stable Diffusion's, wrong here
    for autoencoder, scale in ((unnamed, 1.0), (named, 0.5)):
        pipeline = diffusers.LDMPipeline(autoencoder, tiny_unet(4, 8), diffusers.DDIMScheduler())
        assert zoo.load(pipeline).latent_scale == (scale, 0.0)


def test_weights_hash_names_the_weights(tmp_path):
    model, same = (zoo.load(root_layout(tmp_path), device="cpu") for _ in range(2))
    assert model.weights_hash == same.weights_hash and len(model.weights_hash) == 16
    assert zoo.load(diffusers.DDPMPipeline(tiny_unet(seed=5), tiny_scheduler())).weights_hash != model.weights_hash


@pytest.mark.parametrize("name", ["faces-ddpm", "faces-ldm"])
def test_export_is_a_pipeline_that_diffusers_runs_alone(embedded, tmp_path, name):
    folder = zoo.export(name, tmp_path / "out")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = pipeline(batch_size=2, generator=generators, num_inference_steps=2, output_type="np").images
    sampler = "ddpm" if name == "faces-ddpm" else "ddim"
    ours = sample(zoo.load(name, device="cpu"), [3, 4], steps=2, sampler=sampler)
    assert torch.allclose(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2), atol=1e-5)
    again = zoo.load(folder, device="cpu")  # and so does this package
    assert torch.allclose(sample(again, [3, 4], steps=2, sampler=sampler), ours, atol=1e-5)
    with pytest.raises(ValueError, match="not an empty folder"):
        zoo.export(name, folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "faces-gan"}, "name='faces-gan' is not one of faces-ddpm, faces-ddpm-draft, faces-ldm, faces-sd, ddpm-celebahq-256"),
        ({"name": "faces-ddpm", "weights": "best"}, "weights='best' is not one of auto, embedded, hub, random"),
        ({"name": "faces-ddpm", "weights": "hub"}, "weights='hub' does not fit name='faces-ddpm'"),
        ({"name": "ddpm-cifar10-32", "weights": "embedded"}, "does not fit name='ddpm-cifar10-32'"),
        ({"name": "faces-ddpm", "weights": "random"}, "weights='random' is for the published ddpm-celebahq-256"),
        ({"name": "faces-ddpm", "device": "abacus"}, "device='abacus' is not one of auto"),
        ({"name": "faces-ddpm", "dtype": torch.int64}, "dtype=torch.int64 is not a floating-point"),
        ({"name": "runwayml/stable-diffusion-v1-5"}, "gone from the hub.*'stable-diffusion-v1-5/stable-d"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.load(**arguments)


# --- hub -------------------------------------------------------------------------------------------------------------


class SmallHub(BaseHTTPRequestHandler):
    """The few endpoints of a hub that huggingface_hub asks for, over folders; remembers the files it gave out."""

    repositories: ClassVar[dict[str, Path]] = {}
    served: ClassVar[list[str]] = []

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        for repository, folder in self.repositories.items():
            files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
            if path.startswith(f"api/models/{repository}"):
                return self.answer(200, json.dumps(self.listing(path, repository, files)).encode())
            revision, _, name = path.removeprefix(f"{repository}/resolve/").partition("/")
            if path.startswith(f"{repository}/resolve/") and name in files:
                if self.command == "GET":
                    self.served.append(name)
                commit = revision if len(revision) == 40 else COMMIT
                etag = hashlib.sha256(files[name]).hexdigest()
                return self.answer(200, files[name], **{"ETag": f'"{etag}"', "X-Repo-Commit": commit})
        return self.answer(404, **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def listing(self, path, repository, files):
        if "/tree/" in path:
            return [{"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in files.items()]
        return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "private": False}

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def use_hub(endpoint, tmp_path, monkeypatch):
    """use_hub({id: folder}) puts folders on the hub; use_hub(None) leaves nobody at its address. The cache is empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def use(repositories):
        address = endpoint if repositories is not None else "http://127.0.0.1:9"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(SmallHub, "repositories", repositories or {})
        monkeypatch.setattr(SmallHub, "served", [])
        return SmallHub.served

    return use


def test_root_layout_from_the_hub_then_from_the_cache(use_hub, tmp_path):
    folder = root_layout(tmp_path / "repository")
    network = "diffusion_pytorch_model"
    for junk in ("README.md", f"{network}.bin", f"{network}.fp16.safetensors", "safety_checker/model.safetensors"):
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_bytes(b"not wanted")
    served = use_hub({"google/ddpm-cifar10-32": folder})
    model = zoo.load("ddpm-cifar10-32", device="cpu")
    assert (model.name, model.weights, model.revision) == ("ddpm-cifar10-32", "hub", COMMIT)
    assert torch.equal(model.unet.conv_in.weight, tiny_unet().conv_in.weight)
    assert model.unet.config.attention_head_dim is None
    assert set(served) == {"config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"}
    use_hub(None)
    cached = zoo.load("google/ddpm-cifar10-32", weights="hub", device="cpu")
    assert (cached.name, cached.revision, cached.weights_hash) == (model.name, COMMIT, model.weights_hash)


def test_latent_model_from_the_hub_without_its_scaling_factor(use_hub, tmp_path):
    pipeline = diffusers.LDMPipeline(tiny_autoencoder(diffusers.VQModel), tiny_unet(4, 8), diffusers.DDIMScheduler())
    pipeline.save_pretrained(tmp_path / "repository")
    config = tmp_path / "repository" / "vqvae" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "scaling_factor"}))
    use_hub({"CompVis/ldm-celebahq-256": tmp_path / "repository"})
    model = zoo.load("ldm-celebahq-256", device="cpu")
    assert model.latent_scale == (1.0, 0.0) and model.image_size == 32
    assert torch.equal(model.decode(torch.zeros(1, 4, 8, 8)), pipeline.vqvae.decode(torch.zeros(1, 4, 8, 8)).sample)
    zoo.export("ldm-celebahq-256", tmp_path / "out")  # writes the factor down, so that diffusers is right as well
    assert json.loads((tmp_path / "out" / "vqvae" / "config.json").read_text())["scaling_factor"] == 1.0


def test_a_text_conditioned_model_from_the_hub_brings_its_encoder(use_hub, tmp_path, text_pipeline):
    text_pipeline.save_pretrained(tmp_path / "repository")
    use_hub({"somebody/painter": tmp_path / "repository"})
    model, own = zoo.load("somebody/painter", device="cpu"), zoo.load(text_pipeline)
    assert model.conditional and set(model.parts()) == {"unet", "vae", "text_encoder"}
    assert torch.allclose(model.encode_text(["a sad face"]), own.encode_text(["a sad face"]), atol=1e-6)
    zoo.export(tmp_path / "repository", tmp_path / "out")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    assert torch.equal(again.unet.conv_in.weight, text_pipeline.unet.conv_in.weight)
    (tmp_path / "out" / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(zoo.MissingWeights, match="no safetensors of its text_encoder"):
        zoo.load(tmp_path / "out")


def test_pinned_revision(use_hub, tmp_path):
    use_hub({"google/ddpm-celebahq-256": root_layout(tmp_path / "repository")})
    assert zoo.load("ddpm-celebahq-256", device="cpu").revision == hub.PINNED["google/ddpm-celebahq-256"]
    assert zoo.load("ddpm-celebahq-256", device="cpu", revision="main").revision == COMMIT


def test_any_id(use_hub, tmp_path):
    use_hub({"somebody/butterflies": root_layout(tmp_path / "repository")})
    model = zoo.load("somebody/butterflies", device="cpu")
    assert (model.name, model.weights) == ("somebody/butterflies", "hub")


def test_an_interrupted_download_is_completed(use_hub, tmp_path):
    use_hub({"somebody/butterflies": root_layout(tmp_path / "repository")})
    commit = Path(hub.fetch("somebody/butterflies"))
    (commit / "diffusion_pytorch_model.safetensors").unlink()
    assert zoo.load("somebody/butterflies", device="cpu").revision == commit.name


@pytest.mark.parametrize("reachable", [True, False])
def test_offline_or_refused_tells_the_command(use_hub, reachable):
    use_hub({} if reachable else None)
    with pytest.raises(zoo.MissingWeights) as error:
        zoo.load("ddpm-cifar10-32")
    assert 'hf download google/ddpm-cifar10-32 --include "*.json"' in str(error.value)
    assert "zoo.load('ddpm-cifar10-32', weights='random') times it without" in str(error.value)
    with pytest.raises(zoo.MissingWeights, match="hf download somebody/nothing") as error:
        zoo.load("somebody/nothing")
    assert "random" not in str(error.value)


def test_a_repository_of_pickles_tells_how_to_convert(use_hub, tmp_path):
    folder = root_layout(tmp_path / "repository")
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    served = use_hub({"google/ddpm-cifar10-32": folder})
    with pytest.raises(zoo.MissingWeights, match="no safetensors of its unet.*convert once.*save_pretrained"):
        zoo.load("ddpm-cifar10-32")
    assert "diffusion_pytorch_model.bin" not in served


def test_the_environment_variable_chooses_the_hub(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(SmallHub, "repositories", {"google/ddpm-cifar10-32": root_layout(tmp_path / "repository")})
    code = "from frugal.models import hub; print(hub.fetch('google/ddpm-cifar10-32').name)"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"PYTHONPATH": str(paths.PACKAGE.parent)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == COMMIT, done.stderr


def test_a_revision_is_for_the_hub():
    with pytest.raises(ValueError, match="revision='nonsense'"):
        zoo.load("faces-ddpm", revision="nonsense")
