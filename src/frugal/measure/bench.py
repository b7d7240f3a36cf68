"""Benchmarks by name, for `frugal bench`: faces drawn a second, tomesd on a UNet2DModel, predictions of a speed-up.

Imports little, as `noop_here` also runs in the environment of the thesis's versions, where most of this package cannot.
"""

import importlib.metadata
import os
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterable
from pathlib import Path

import torch

from . import records, runs

THESIS_VERSIONS = {
    "diffusers": "0.21.4",
    "huggingface_hub": "0.25.0",
    "transformers": "<4.45",
    "numpy": "<2",
}  # and tomesd
NOOP_RATIOS = (0.1, 0.5, 0.7, 0.75, 0.8, 0.9)
IMAGES_A_ROUND = 512
AT_LEAST = 1000  # faces a second on one core


def bench(name: str) -> bool:
    """Run a benchmark, a name in BENCHMARKS, and print what it finds; False where its target is missed.

    Raises ValueError for another name.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"name: got {name!r}, allowed are {', '.join(BENCHMARKS)}")
    said = BENCHMARKS[name]()
    print(said, flush=True)
    return not said.endswith("MISSED")


def faces(size: int = 64, rounds: int = 7, images: int = IMAGES_A_ROUND) -> str:
    """Faces drawn a second on one core: the median of several rounds, every one of other faces."""
    from ..models.faces import Faces

    threads, data, seconds = torch.get_num_threads(), Faces("train", size=size), []
    torch.set_num_threads(1)
    try:
        data.images(range(images))
        for k in range(1, rounds + 1):
            start = time.perf_counter()
            data.images(range(k * images, (k + 1) * images))
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    rate, low, high = (images / s for s in (statistics.median(seconds), max(seconds), min(seconds)))
    verdict = "met" if rate >= AT_LEAST else "MISSED"
    return (
        f"faces: {rate:,.0f} images/s of {size}x{size} on one core, median of {rounds} rounds ({low:,.0f} to {high:,.0f}); "
        f"at least {AT_LEAST:,}: {verdict}"
    )


def noop(thesis_versions: bool = True) -> str:
    """Records of the no-op with this environment's libraries and, where packages can be had, with the thesis's."""
    found = [noop_here()]
    if thesis_versions:
        print(f"setting up diffusers {THESIS_VERSIONS['diffusers']} in a throwaway environment ...", flush=True)
        try:
            found.append(noop_there())
        except (OSError, subprocess.SubprocessError) as error:
            print(f"no environment with the thesis's versions could be set up ({error}): the shipped record stands")
    return "\n".join(noop_sentence(record) for record in found)


def noop_here(scale: str = "quick") -> records.Record:
    """The record of what tomesd does under the libraries installed here, measured unless stored."""
    asked = {name: importlib.metadata.version(name) for name in ("diffusers", "tomesd")} | {"ratios": NOOP_RATIOS}
    return records.measure("count", "noop", asked, noop_probe, scale=scale, source=(noop_probe, tiny_network))


def noop_there() -> records.Record:
    """The same record made under the thesis's diffusers, in a virtual environment that is removed afterwards."""
    wanted = {
        "diffusers": THESIS_VERSIONS["diffusers"],
        "tomesd": importlib.metadata.version("tomesd"),
        "ratios": NOOP_RATIOS,
    }
    about = {"scale": "quick", "source": (noop_probe, tiny_network)}
    if found := records.find("count", "noop", wanted, **about):
        return found
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python")
        pinned = [f"{name}{v if v.startswith('<') else '==' + v}" for name, v in THESIS_VERSIONS.items()]
        same = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "tomesd")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *same, *pinned], check=True, capture_output=True)
        probe_with(python)
    return records.find("count", "noop", wanted, **about)


def probe_with(python: str) -> None:
    """Let another Python interpreter make its record, in this one's store."""
    from .. import paths

    source = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": source,
        "FRUGAL_RESULTS": str(paths.results()),
        "FRUGAL_RUN": runs.run(),
    }
    command = "from frugal.measure import bench; bench.noop_here()"
    subprocess.run([python, "-c", command], check=True, capture_output=True, env=environment)


def noop_sentence(record: records.Record) -> str:
    """What a record of the no-op says, in one line."""
    values, asked = record.values, record.asked
    patched, identical = int(values["unet2d_patched"].sum()), bool(values["unet2d_identical"].all())
    tokens = dict(zip(asked["ratios"], values["tokens_after"].astype(int), strict=True))
    return (
        f"diffusers {asked['diffusers']}, tomesd {asked['tomesd']}: {patched} modules of a UNet2DModel patched, output "
        f"{'bit-identical' if identical else 'CHANGED'}; of {int(values['tokens_before'][0])} tokens of a transformer block "
        + ", ".join(f"{count} are left at {ratio}" for ratio, count in tokens.items())
    )


def noop_probe() -> dict:
    """tomesd at every ratio on a UNet2DModel, modules patched and output identical or not, and on a transformer block.

    Tiny networks of the published kinds: which modules are patched depends on their classes, not on their width.
    """
    import tomesd

    patched, identical, after = [], [], []
    plain, conditional = tiny_network("UNet2DModel"), tiny_network("UNet2DConditionModel")
    noise, words = torch.randn(1, 3, 16, 16), torch.randn(1, 4, 16)
    with torch.no_grad():
        untouched = plain(noise, 500).sample
        for ratio in NOOP_RATIOS:
            tomesd.apply_patch(plain, ratio=ratio, max_downsample=8)
            patched.append(sum(type(module).__name__ == "ToMeBlock" for module in plain.modules()))
            identical.append(torch.equal(plain(noise, 500).sample, untouched))
            tomesd.remove_patch(plain)
            tomesd.apply_patch(conditional, ratio=ratio)
            [first, *_] = [module for module in conditional.modules() if type(module).__name__ == "ToMeBlock"]
            seen = []
            handle = first.attn1.register_forward_pre_hook(
                lambda _, arguments, seen=seen: seen.append(arguments[0].shape[1])
            )
            conditional(noise, 500, words)
            handle.remove()
            tomesd.remove_patch(conditional)
            after.append(seen[0])
    counts = {
        "unet2d_patched": patched,
        "unet2d_identical": identical,
        "tokens_before": [16 * 16],
        "tokens_after": after,
    }
    return {name: {"unit": "count", "values": values} for name, values in counts.items()}


@torch.no_grad()
def library_outputs(unet: torch.nn.Module, ratios: Iterable[float], seed: int = 0) -> dict[float, torch.Tensor]:
    """What a text-conditioned network answers under tomesd itself at each ratio, with the same destinations and input.

    Nothing is refused here, ratios above 0.75 included: that is what it shows. The network is left as it was.
    """
    import tomesd

    def random(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(unet.device)

    size, found = unet.config.sample_size, {}
    noise, words = random(1, unet.config.in_channels, size, size), random(1, 8, unet.config.cross_attention_dim)
    for ratio in ratios:
        tomesd.apply_patch(unet, ratio=ratio)
        unet._tome_info["args"]["generator"] = torch.Generator(unet.device).manual_seed(seed)
        found[ratio] = unet(noise, 500, words).sample
        tomesd.remove_patch(unet)
    return found


def tiny_network(kind: str) -> torch.nn.Module:
    """A small UNet2DModel or UNet2DConditionModel for 16x16 inputs with attention, any version of diffusers, fixed weights."""
    import diffusers

    sizes = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
    }
    if kind == "UNet2DModel":
        blocks = {
            "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        }
        options = blocks | {"attention_head_dim": 8}
    else:
        down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
        options = {"down_block_types": down, "up_block_types": up, "cross_attention_dim": 16, "attention_head_dim": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(diffusers, kind)(**sizes, **options, norm_num_groups=8).eval()


def prediction() -> str:
    """The score of `predict_speedup` at points held out."""
    from . import bench_prediction

    return bench_prediction.prediction()


def merging() -> str:
    """What merging saves, at the command's defaults."""
    from . import bench_merging

    bench_merging.asked()
    return "merging: recorded"


def batching() -> str:
    """What batch of states this device takes at the price of one, at the command's defaults."""
    from . import batching as batches

    batches.asked()
    return "batching: recorded"


BENCHMARKS = {"faces": faces, "noop": noop, "prediction": prediction, "merging": merging, "batching": batching}
