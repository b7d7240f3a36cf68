"""What merging costs at equal work: a method against another on the same images, layers and token counts.

Whole images: PSNR and SSIM to the unmerged image of the same seed, from the records of `decay`. One layer's output: its error at
256-pixel faces, which a model of 64-pixel faces sees as 4,096 tokens, as many as Stable Diffusion at 512 px.
"""

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..methods import library, merging
from ..methods.merging import MergedAttention, Merging
from ..methods.reuse import Run
from ..models import zoo
from . import decay, quality

RATIOS = (0.25, 0.5, 0.75)


def images(
    model="faces-sd", ratios: Sequence[float] = RATIOS, count: int = 128, steps: int = 25, seed: int = 0, *,
    method: str = merging.METHOD, reuse: int = merging.REUSE, against: str = library.LIBRARY, scale: str = "quick", device="auto",
) -> pd.DataFrame:  # fmt: skip
    """PSNR (dB) and SSIM of both methods to the unmerged images, and the mean paired difference with its 95 % interval.

    Columns ratio, quantity, ours, theirs, difference, low, high, verdict ("higher", "lower" or "not distinguishable from
    zero"). Default layers. Raises ValueError for random weights and where the two do not do equal work.
    """
    drawn = decay.drawn([model], count, steps, seed, device=device)
    ours, theirs = (
        decay.quality_decay(drawn, ratios, watched=0, method=name, scale=scale, reuse=reuse).set_index(["ratio", "image"])
        for name in (method, against)
    )
    work = ["layers", "tokens_before", "tokens_after"]
    if not ours[work].equals(theirs[work]):
        raise ValueError(f"method: {method} and {against} remove other tokens or touch other layers: nothing to compare")
    rows = []
    for ratio in ratios:
        for quantity in ("psnr", "ssim"):
            pair = ours.loc[ratio, quantity], theirs.loc[ratio, quantity]
            found = quality.mean_interval(pair[0] - pair[1])
            sure = found.low > 0 or found.high < 0
            verdict = ("higher" if found.value > 0 else "lower") if sure else decay.UNSURE
            row = {"ratio": ratio, "quantity": quantity, "ours": pair[0].mean(), "theirs": pair[1].mean()}
            rows.append(row | {"difference": found.value, "low": found.low, "high": found.high, "verdict": verdict})
    return pd.DataFrame(rows)


@torch.no_grad()
def attention_error(
    model: str = "faces-sd", ratios: Sequence[float] = RATIOS, count: int = 4, steps: int = 25, *,
    method: str = merging.METHOD, reuse: int = merging.REUSE, seed: int = 0, size: int = 256, device="auto",
) -> pd.DataFrame:  # fmt: skip
    """Relative squared error of the attention layers' output against the untouched layers on the same input, by image.

    Test faces of `size` pixels are encoded and noised to a period of `reuse` neighbouring steps of `steps` at each of three
    noise levels, so that reused choices count as they occur. Columns ratio, layer, image, ours, theirs (tomesd's).
    """
    loaded = zoo.load(model, device=device)
    pictures = decay.test_faces(range(seed, seed + count), size).to(loaded.device)
    latents = loaded.encode(2 * pictures - 1)
    words = loaded.encode_text([""] * count)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    train = loaded.scheduler.config.num_train_timesteps
    rows = []
    for ratio in ratios:
        errors: dict[tuple[str, str], list[Tensor]] = {}
        for way in ("ours", "theirs"):
            with _watched(loaded.unet, ratio, way, method, reuse, seed, errors):
                for level in (0.75, 0.5, 0.25):
                    run = Run()
                    for step in range(reuse):
                        t = torch.tensor(int(level * train) - step * train // steps)
                        with run.step_at(step, float(t)):
                            noisy = loaded.scheduler.add_noise(latents, noise, t.expand(count))
                            loaded.unet(noisy, t, encoder_hidden_states=words)
        for name in dict.fromkeys(name for name, _ in errors):
            means = [torch.stack(errors[name, way]).mean(0).tolist() for way in ("ours", "theirs")]
            rows += [{"ratio": ratio, "layer": name, "image": seed + k, "ours": a, "theirs": b} for k, (a, b) in enumerate(zip(*means, strict=True))]
    return pd.DataFrame(rows)


@contextmanager
def _watched(unet, ratio, way, method, reuse, seed, errors):
    """Merged layers whose errors are noted under (layer, way), and whose untouched output is what the network goes on with."""
    merged = Merging(unet, ratio, merging.select(unet, "auto"), seed, reuse if way == "ours" else 1)
    generator = torch.Generator(unet.device).manual_seed(seed)
    reduce = merging.METHODS[method] if way == "ours" else library.published(generator)

    def compared(layer, original):
        merging_one = MergedAttention(merged, layer, reduce, original)

        def attend(attn, hidden_states, *arguments, **options):
            found, exact = merging_one(attn, hidden_states), original(attn, hidden_states)
            error = (found - exact).pow(2).mean((1, 2)) / exact.pow(2).mean((1, 2))
            errors.setdefault((layer.name, way), []).append(error.cpu())
            return exact

        return attend

    with ExitStack() as stack:
        for layer in merged.layers:
            layer.watch(stack)
            original = layer.attention.processor
            stack.callback(layer.attention.set_processor, original)
            layer.attention.set_processor(compared(layer, original))
        yield


def told(count: int = 128, steps: int = 25, **options) -> bool:
    """Print both comparisons with tomesd, options method, reuse and device; False where an image's likeness is surely lower or the
    mean error of attention is higher."""
    if count < 1:
        raise ValueError(f"images: got {count}, allowed is a whole number from 1")
    if (method := options.get("method", merging.METHOD)) not in merging.METHODS:  # before images are drawn
        raise ValueError(f"method: got {method!r}, allowed are {', '.join(merging.METHODS)}")
    whole = images(count=count, steps=steps, **options)
    print(whole.round(4).to_string(index=False), flush=True)
    errors = attention_error(**options)
    means = errors.groupby("ratio")[["ours", "theirs"]].mean()
    print(f"relative squared error of attention's output at 4,096 tokens:\n{means.round(5).to_string()}", flush=True)
    return not (whole.verdict == "lower").any() and bool(np.all(means.ours <= means.theirs))
