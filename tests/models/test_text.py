"""Captions as tokens, captions one attribute apart, and the contrastive loss."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from frugal import sample
from frugal.models import faces, text, zoo


def test_every_caption_is_made_of_known_words_and_fits():
    data = faces.Faces("test", part="unseen")
    captions = faces.captions(data.parameters(range(500))) + faces.captions(faces.Faces("train").parameters(range(500)))
    numbers = text.tokens(captions)
    assert numbers.shape == (1000, text.LENGTH)
    words = text.tokenizer()
    assert not (numbers == words.unk_token_id).any()
    assert ((numbers == words.eos_token_id).sum(1) == 1).all()  # nothing was cut off
    assert len({tuple(row.tolist()) for row in numbers}) == len(set(captions))
    assert words.convert_ids_to_tokens(text.tokens(["a purple face"])[0, :4].tolist())[2] == "<unknown>"


def test_one_apart_changes_what_a_caption_says_and_no_geometry():
    p = faces.Faces("train").parameters(range(300))
    q = text.one_apart(p, seed=1)
    for before, after in zip(faces.to_rows(p), faces.to_rows(q), strict=True):
        changed = [name for name in faces.ATTRIBUTES if before[name] != after[name]]
        shown = {name for name in changed if faces.HIDDEN not in (before[name], after[name])}
        assert len(shown) == 1  # what appears or vanishes with it (a hat's colour) counts with it
        assert all(before[name] == after[name] for name in faces.GEOMETRY)
    assert all(a != b for a, b in zip(faces.captions(p), faces.captions(q), strict=True))
    assert not faces.has_unseen_pair({name: q[name].numpy() for name in faces.ATTRIBUTES}).any()
    same = q["hat"] == p["hat"]
    moved = (q["skin_rgb"] != p["skin_rgb"]).any(1)
    assert torch.equal(moved, q["skin"] != p["skin"]) and same.any()


def test_contrastive_loss_starts_at_chance_and_reaches_every_weight():
    torch.manual_seed(0)
    clip, p = text.build_clip(), faces.Faces("train").parameters(range(8))
    loss = text.contrastive_loss(clip, p, 2 * faces.draw_batch(p, 64) - 1)
    assert abs(loss.item() - math.log(16)) < 0.5  # eight faces, and eight that differ in one attribute
    loss.backward()
    still = [name for name, parameter in clip.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not still


def test_reading_layer_by_layer_is_the_encoder_s_own():
    clip, said = text.load_clip(), [faces.Faces("test")[k]["caption"] for k in range(4)]
    with torch.inference_mode():
        [own] = text.embed(clip, captions=said)
        assert torch.allclose(text.embed_as(clip, said), own, atol=1e-5)
        for options in ({"positions": False}, {"causal": False}):
            assert not torch.allclose(text.embed_as(clip, said, **options), own, atol=1e-2)


def test_without_positions_and_mask_a_caption_is_a_bag_of_words():
    one, two = "a sad face on a blue background", "a blue face on a sad background"
    with torch.inference_mode():
        first, second = text.embed_as(text.load_clip(), [one, two], positions=False, causal=False)
        assert torch.allclose(first, second, atol=1e-5)
        first, second = text.embed_as(text.load_clip(), [one, two])
        assert not torch.allclose(first, second, atol=1e-2)


@pytest.mark.parametrize(("prompt", "named"), [("a purple face", "purple"), ("<pad> face", "unknown: <, pad, >"), ("", "1 to 30 words"), ("a " * 40, "not 40")])
def test_a_prompt_that_no_caption_could_be_is_refused(prompt, named):
    with pytest.raises(ValueError, match=named):
        text.check_words(prompt)
    text.check_words(faces.Faces("test")[0]["caption"])


def test_prompts_become_the_numbers_that_the_library_pads_them_to():
    said, words = [faces.Faces("test")[0]["caption"], ""], text.tokenizer()
    assert torch.equal(text.prompt_tokens(words, said, text.LENGTH), text.tokens(said))


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a zebra, a unicorn and a sad face", "got 'zebra', 'unicorn', allowed"), ("<pad> face", "'<', 'pad', '>'"), ("a\nZebra", "got 'Zebra'"),
        ("face " * 31, "33 tokens, allowed are at most 32"),
    ],
)  # fmt: skip
def test_a_model_refuses_what_it_would_not_read_in_one_line(text_pipeline, prompt, named):
    for model in (zoo.load(text_pipeline), zoo.load("faces-sd", device="cpu")):
        with pytest.raises(ValueError, match=named) as refused:
            sample(model, [0, 1], 2, prompts=["a sad face", prompt], guidance=2.0)
        assert "\n" not in str(refused.value)
        assert model.encode_text([" ".join(["face"] * 30), ""]).shape[:2] == (2, text.LENGTH)


def test_a_tokenizer_without_a_token_for_the_unknown_is_held_to_the_length_alone(text_pipeline):
    spelling = text.tokenizer().__class__(tokenizer_object=text.tokenizer().backend_tokenizer, eos_token="<end>", unk_token="<end>", pad_token="<pad>")
    model = replace(zoo.load(text_pipeline), tokenizer=spelling)
    assert model.encode_text(["a zebra"]).isfinite().all()
    with pytest.raises(ValueError, match="33 tokens"):
        model.encode_text(["zebra " * 31])
    unread = replace(model, tokenizer=lambda texts, max_length, **_options: SimpleNamespace(input_ids=torch.zeros(len(texts), max_length).long()))
    assert unread.encode_text(["any words " * 99]).isfinite().all()
