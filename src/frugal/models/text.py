"""Captions as tokens, and `faces-clip`: an encoder of captions and one of faces, trained to agree (arXiv 2103.00020)."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from .. import paths
from . import faces, hub

LENGTH = 32  # tokens of a caption, with its start and end; the longest needs 27
SPECIAL = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unknown>"}
WORD = re.compile(r"\w+|[^\w\s]+")  # what the tokenizer takes for one
ORDINARY = "a photograph of an astronaut riding a horse on the moon"  # words that no caption has
WIDTH, PATCH = 128, 8  # of both encoders; side of a patch of the image, in pixels


def vocabulary() -> list[str]:
    """The special tokens, then every word and sign that captions are made of."""
    first = {name: next(iter(values)) for name, values in faces.ATTRIBUTES.items()}
    first |= {"hair_style": "short", "hat": "cap"}  # values that hide nothing
    captions = [faces.caption(first | {name: value}) for name, values in faces.ATTRIBUTES.items() for value in values]
    return [*SPECIAL.values(), *sorted({word for c in captions for word in c.replace(",", " , ").split()})]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, in the shape of a transformers tokenizer; words no caption has are `<unknown>`."""
    numbers = {word: k for k, word in enumerate(vocabulary())}
    words = Tokenizer(models.WordLevel(numbers, unk_token=SPECIAL["unk_token"]))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [SPECIAL["bos_token"], SPECIAL["eos_token"]]
    words.post_processor = processors.TemplateProcessing(
        single=f"{ends[0]} $A {ends[1]}", special_tokens=[(token, numbers[token]) for token in ends]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=LENGTH, **SPECIAL)


def tokens(captions: list[str]) -> Tensor:
    """Token numbers of captions, padded: int64 [n, 32]."""
    return tokenizer()(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def prompt_tokens(words: Callable, prompts: Sequence[str], length: int) -> Tensor:
    """Numbers that a tokenizer gives prompts, padded for a text encoder: int64 [n, length].

    Raises ValueError for words that it has no token for, and for a prompt of more than `length` tokens: an image would follow
    neither, and not say so.
    """
    if unknown := unknown_words(words, prompts):
        raise ValueError(f"prompts: got {', '.join(map(repr, unknown))}, allowed are words that the model's tokenizer knows")
    rows = words(list(prompts), padding="max_length", max_length=length, truncation=False, verbose=False).input_ids
    if (longest := max(map(len, rows), default=0)) > length:
        raise ValueError(f"prompts: got one of {longest} tokens, allowed are at most {length}, its start and end among them")
    return torch.as_tensor(rows)


def unknown_words(words: Callable, prompts: Iterable[str]) -> list[str]:
    """Words and signs of prompts that a tokenizer has no token for; none where nothing stands for the unknown, as in CLIP."""
    unknown, pieces = getattr(words, "unk_token_id", None), list(dict.fromkeys(WORD.findall(" ".join(prompts))))
    if not pieces or unknown in (None, getattr(words, "eos_token_id", None)):  # CLIP names the end, and spells what is new
        return []
    found = words(pieces, add_special_tokens=False).input_ids
    return [piece for piece, numbers in zip(pieces, found, strict=True) if unknown in numbers]


def check_words(prompt: str) -> None:
    """Raise ValueError for a prompt with words that no caption has, with none at all, or with more than fit."""
    if unknown := unknown_words(tokenizer(), [prompt]):
        raise ValueError(f"{', '.join(vocabulary()[len(SPECIAL) :])} (unknown: {', '.join(unknown)})")
    if not 0 < (count := len(WORD.findall(prompt))) <= LENGTH - 2:
        raise ValueError(f"1 to {LENGTH - 2} words, not {count}")


def build_clip() -> CLIPModel:
    words = tokenizer()
    shared = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = {
        "vocab_size": len(words), "max_position_embeddings": LENGTH, "num_hidden_layers": 3,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    vision = {"image_size": 64, "patch_size": PATCH, "num_hidden_layers": 4}
    return CLIPModel(CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=WIDTH))


def load_clip() -> CLIPModel:
    """The trained `faces-clip`, float32, on the CPU."""
    with hub.quiet():
        return CLIPModel.from_pretrained(paths.EMBEDDED / "faces-clip", dtype=torch.float32).eval()


def embed(clip: CLIPModel, images: Tensor | None = None, captions: list[str] | None = None) -> tuple[Tensor, ...]:
    """Unit vectors [n, width] of images [n, 3, 64, 64] in [-1, 1], or of captions, or of both in this order."""
    found = []
    if images is not None:
        pooled = clip.vision_model(pixel_values=images).pooler_output
        found.append(clip.visual_projection(pooled))
    if captions is not None:
        pooled = clip.text_model(input_ids=tokens(captions).to(clip.device)).pooler_output
        found.append(clip.text_projection(pooled))
    return tuple(torch.nn.functional.normalize(vectors.float(), dim=1) for vectors in found)


def embed_as(clip: CLIPModel, captions: list[str], positions: bool = True, causal: bool = True) -> Tensor:
    """The captions' unit vectors of `embed`, layer by layer, with or without what tells the encoder of their order: the
    embedding of positions, and the mask by which a word sees those before it alone."""
    model, numbers = clip.text_model, tokens(captions).to(clip.device)
    states = model.embeddings(input_ids=numbers)
    if not positions:
        states = states - model.embeddings.position_embedding.weight[: states.shape[1]]
    hidden = (numbers == tokenizer().pad_token_id)[:, None, None, :].expand(-1, 1, LENGTH, -1)
    hidden = hidden | torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=clip.device).triu(1) if causal else hidden
    mask = torch.zeros(hidden.shape, device=clip.device).masked_fill(hidden, torch.finfo(torch.float32).min)
    for layer in model.encoder.layers:
        states = layer(states, mask)
    ends = (numbers == tokenizer().eos_token_id).int().argmax(1)
    pooled = model.final_layer_norm(states)[torch.arange(len(captions)), ends]
    return torch.nn.functional.normalize(clip.text_projection(pooled).float(), dim=1)


def one_apart(p: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same faces with one visible attribute changed, colours along with it; never a pair of values held out."""
    generator, changed = np.random.default_rng(seed), {name: value.clone() for name, value in p.items()}
    names, todo = list(faces.ATTRIBUTES), torch.arange(len(p["x"]))
    for _ in range(100):
        chosen = torch.from_numpy(generator.integers(len(names), size=len(todo)))
        for j, name in enumerate(names):
            rows, values = todo[chosen == j], len(faces.ATTRIBUTES[name])
            step = torch.from_numpy(generator.integers(1, values, size=len(rows)))
            changed[name][rows] = (p[name][rows] + step) % values
        part = {name: changed[name][todo] for name in (*names, "x")}
        bad = torch.from_numpy(faces.has_unseen_pair({name: part[name].numpy() for name in names}))
        for j, name in enumerate(names):
            bad |= (chosen == j) & ~faces.visible_mask(part, name)  # what is hidden makes no other caption
        for name in names:
            changed[name][todo[bad]] = p[name][todo[bad]]
        todo = todo[bad]
        if not len(todo):
            break
    for name, (attribute, *_) in faces.COLOURS.items():
        if attribute:
            base = torch.tensor(faces.PALETTE[name.removesuffix("_rgb")])
            moved = (p[name] + base[changed[attribute]] - base[p[attribute]]).clamp(0, 1)
            changed[name] = torch.where((changed[attribute] != p[attribute])[:, None], moved, p[name])
    return changed


def contrastive_loss(clip: CLIPModel, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    """Symmetric cross-entropy (arXiv 2103.00020, section 2.3); half the batch differs from the other in one attribute."""
    others = one_apart(
        {name: value.cpu() for name, value in parameters.items()}, seed=int(torch.randint(2**31, ()).item())
    )
    drawn = faces.draw_batch(others, images.shape[-1]).to(images.device)
    both = {name: torch.cat([value.cpu(), others[name]]) for name, value in parameters.items()}
    seen, said = embed(clip, torch.cat([images, 2 * drawn - 1]), faces.captions(both))
    logits = clip.logit_scale.exp().clamp(max=100) * seen @ said.T
    target = torch.arange(len(logits), device=logits.device)
    return (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
