"""What attention does and costs: where an image looks for each word of its caption, and seconds against tokens."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..methods import merging, samplers
from ..models import drawing, faces, zoo
from . import cost, records

Maps = dict[str, list[Tensor]]  # layer: one [n, h, w, tokens] a call, mean over its heads
WORDS = {  # of a caption, by what they are about; a hat's and a mouth's words mean one thing each
    "skin": ("skin",), "hair": ("hair",), "eyes": ("eyes",), "glasses": ("glasses", "sunglasses"),
    "mouth": tuple(faces.ATTRIBUTES["mouth"]), "hat": ("cap", "beanie", "hat"), "background": ("background",),
}  # fmt: skip
HEADS, WIDTH = 4, 64  # of the layer that is timed


class Watched:
    """Attention processor that notes which token each place of the image takes how much from, then attends as before."""

    def __init__(self, original, note):
        self.original, self.note = original, note

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *arguments, **options):
        query, key = (attn.head_to_batch_dim(part) for part in (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)))
        shares = attn.get_attention_scores(query, key).unflatten(0, (len(hidden_states), -1)).mean(1)
        side = math.isqrt(shares.shape[1])
        self.note(shares.float().unflatten(1, (side, side)).detach().cpu())
        return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *arguments, **options)


@contextmanager
def cross_attention(unet: nn.Module) -> Iterator[Maps]:
    """Note the maps of every cross-attention layer at every call; the network computes what it did before.

    Raises ValueError for a network without cross-attention, or one whose images are not square.
    """
    layers = [(name, layer) for name, layer in cost.attention_layers(unet) if layer.is_cross_attention]
    if not layers:
        raise ValueError(f"unet: got {type(unet).__name__} without cross-attention; a text-conditioned network is allowed")
    size = unet.config.sample_size
    if not isinstance(size, int) and len(set(size)) > 1:
        raise ValueError(f"unet: got images of {size[0]}x{size[1]}; square ones are allowed")
    found: Maps = {}
    with ExitStack() as stack:
        for name, layer in layers:
            stack.callback(layer.set_processor, layer.processor)
            layer.set_processor(Watched(layer.processor, found.setdefault(name, []).append))
        yield found


def crossed_scales(unet: nn.Module) -> dict[int, list[str]]:
    """The blocks with cross-attention by how much smaller than the network's input they work, for every scale of the network."""
    scales: dict[int, list[str]] = {2**level: [] for level in range(len(unet.down_blocks))}
    for layer in merging.self_attentions(unet):
        block = layer.name.split(".attentions")[0]
        if layer.block is not None and layer.block.attn2 is not None and block not in scales[layer.factor]:
            scales[layer.factor].append(block)
    return scales


def averaged(found: Maps, rows: slice = slice(None), side: int = 16) -> Tensor:
    """One map a token, mean over calls and over the layers that are large enough to show one: [n, tokens, side, side].

    `rows`: of the batch; with guidance its second half saw the prompt. Layers below 8x8 are left out.
    """
    large = [maps for maps in found.values() if maps and maps[0].shape[1] >= min(8, side)]
    means = [torch.stack(maps).mean(0)[rows].permute(0, 3, 1, 2) for maps in large]
    return torch.stack([nn.functional.interpolate(mean, (side, side), mode="bilinear") for mean in means]).mean(0)


def watched_samples(
    model: zoo.Model, prompt: str, seeds: Iterable[int], steps: int = 25, guidance: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Images [n, 3, H, W] in [0, 1] of one prompt, and where each looked for every token: [n, tokens, h, w]."""
    seeds = list(seeds)
    with cross_attention(model.unet) as found:
        images = samplers.sample(model, seeds, steps, "dpmpp_2m", batch_size=len(seeds), prompts=prompt, guidance=guidance)
    return images, averaged(found, slice(-len(seeds), None), model.latent_shape[1])


@torch.inference_mode()
def word_regions(model: zoo.Model, images: int = 64, timestep: int = 500, first: int = 0) -> pd.DataFrame:
    """Where the network looks for a word, on noised test faces given their own captions, whose regions are known exactly.

    Columns word, region, lift (mean attention inside the region, over that of the whole image: 1 is indifference), faces
    (that show both). Source of the maps: Hertz et al., arXiv 2208.01626.
    """
    data = faces.Faces("test", model.image_size)
    p = data.parameters(range(first, first + images))
    pictures, masks = faces.draw_batch(p, model.image_size, masks=True)
    said = faces.captions(p)
    clean = model.encode((2 * pictures - 1).to(model.device))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(first)).to(clean)
    t = torch.full((images,), timestep, device=clean.device)
    with cross_attention(model.unet) as found:
        model.unet(model.scheduler.add_noise(clean, noise, t), t, encoder_hidden_states=model.encode_text(said))
    maps = averaged(found, side=model.latent_shape[1])
    shares = nn.functional.adaptive_avg_pool2d(masks.float(), maps.shape[-1])
    sums: dict[tuple[str, str], list[float]] = {}
    for k, caption in enumerate(said):
        for word, places in words_of(model.tokenizer, caption).items():
            seen = maps[k, places].mean(0)
            for region, mask in zip(drawing.REGIONS, shares[k], strict=True):
                if mask.sum() >= 1:  # at least one token's worth of it
                    inside = (seen * mask).sum() / mask.sum() / seen.mean()
                    sums.setdefault((word, region), []).append(inside.item())
    rows = [{"word": w, "region": r, "lift": sum(v) / len(v), "faces": len(v)} for (w, r), v in sums.items()]
    return pd.DataFrame(rows)


def words_of(tokenizer, caption: str) -> dict[str, list[int]]:
    """Positions of a caption's tokens by what they are about: the keys of WORDS that it names."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(caption).input_ids)
    places = {about: [k for k, token in enumerate(tokens) if token in words] for about, words in WORDS.items()}
    return {about: found for about, found in places.items() if found}


def costs(tokens: Iterable[int], rounds: int = 7, *, scale: str = "quick", device="auto") -> pd.DataFrame:
    """Seconds of self-attention against the number of tokens, every size in turn in each round.

    Columns kind ("plain": scores written out, "fused": PyTorch's own kernel, "projections": the four linear maps around
    them), tokens, round, seconds, flops. 4 heads of 16 channels, batch 1, float32. Raises ValueError for fewer than two sizes.
    """
    tokens, place = tuple(tokens), zoo.find_device(device)
    if len(set(tokens)) < 2 or not all(isinstance(n, int) and n > 0 for n in tokens):
        raise ValueError(f"tokens: got {tokens!r}, allowed are two or more whole numbers from 1")
    asked = {"tokens": tokens, "rounds": rounds, "heads": HEADS, "width": WIDTH}
    record = records.measure(
        "time", "attention-cost", asked, partial(_costs, tokens, rounds, place), scale=scale,
        source=(_costs, _functions, plain_attention, cost.interleaved), device=str(place),
    )  # fmt: skip
    rows = []
    for name, values in record.values.items():
        kind, count = name.split()
        rows += [
            {"kind": kind, "tokens": int(count), "round": k, "seconds": v, "flops": flops(kind, int(count))}
            for k, v in enumerate(values)
        ]
    return pd.DataFrame(rows)


def flops(kind: str, tokens: int) -> int:
    """2 FLOPs a multiply-add: two products [N, N, width], or four maps [N, width, width]."""
    return 8 * tokens * WIDTH**2 if kind == "projections" else 4 * tokens**2 * WIDTH


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K' / sqrt(d)) V with all scores in memory at once (Vaswani et al., arXiv 1706.03762, equation 1)."""
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return scores.softmax(-1) @ value


def _functions(count: int, place: torch.device) -> dict:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(3, 1, HEADS, count, WIDTH // HEADS, generator=generator).to(place)
    rows, weight = (torch.randn(n, WIDTH, generator=generator).to(place) for n in (count, 4 * WIDTH))
    return {
        f"plain {count}": partial(plain_attention, *parts),
        f"fused {count}": partial(nn.functional.scaled_dot_product_attention, *parts),
        f"projections {count}": partial(nn.functional.linear, rows, weight),
    }


@torch.inference_mode()
def _costs(tokens: tuple[int, ...], rounds: int, place: torch.device) -> dict:
    functions = {name: function for count in tokens for name, function in _functions(count, place).items()}
    measured = cost.interleaved(functions, rounds, 2, place)
    return {name: {"unit": "s", "values": values} for name, values in measured.items()}


def exponent(table: pd.DataFrame, kind: str, last: int = 3) -> float:
    """The power of the number of tokens with which the median seconds of `costs` grow over its `last` largest sizes."""
    medians = table[table.kind == kind].groupby("tokens").seconds.median().iloc[-last:]
    return float(np.polyfit(np.log(medians.index.to_numpy(float)), np.log(medians.to_numpy()), 1)[0])
