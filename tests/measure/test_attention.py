import pytest
import torch

from frugal import sample, zoo
from frugal.measure import attention
from frugal.models import text


@pytest.fixture
def model(text_pipeline):
    return zoo.load(text_pipeline)


def test_watching_changes_nothing_and_is_over_afterwards(model):
    noise, said = torch.randn(2, 4, 8, 8), model.encode_text(["a smiling face", "a sad face"])
    with torch.no_grad():
        before = model.unet(noise, 5, encoder_hidden_states=said).sample
        with attention.cross_attention(model.unet) as found:
            during = model.unet(noise, 5, encoder_hidden_states=said).sample
        after = model.unet(noise, 5, encoder_hidden_states=said).sample
    assert torch.equal(before, during) and torch.equal(before, after)
    assert all(len(maps) == 1 for maps in found.values())
    for [maps] in found.values():
        assert maps.shape[0] == 2 and maps.shape[1] == maps.shape[2] and maps.shape[3] == said.shape[1]
        assert torch.allclose(maps.sum(-1), torch.ones(maps.shape[:3]), atol=1e-5)


def test_scales_are_counted_with_the_blocks_that_ask_the_text(model):
    assert attention.crossed_scales(model.unet) == {1: ["down_blocks.0", "up_blocks.1"], 2: ["mid_block"]}
    with attention.cross_attention(model.unet) as found:
        assert {name.split(".attentions")[0] for name in found} == {"down_blocks.0", "up_blocks.1", "mid_block"}
    assert attention.crossed_scales(zoo.load("faces-ldm", device="cpu").unet) == {1: [], 2: [], 4: []}


def test_maps_are_means_over_calls_and_layers():
    found = {"a": [torch.full((2, 8, 8, 3), 1.0), torch.full((2, 8, 8, 3), 3.0)], "small": [torch.zeros(2, 4, 4, 3)]}
    maps = attention.averaged(found, slice(-1, None), side=16)
    assert maps.shape == (1, 3, 16, 16) and torch.allclose(maps, torch.full_like(maps, 2.0))


def test_a_network_without_text_is_refused():
    with pytest.raises(ValueError, match="without cross-attention"), attention.cross_attention(zoo.load("faces-ddpm").unet):
        pass


def test_watched_samples_are_the_samples(model):
    prompt = "a smiling face"
    images, maps = attention.watched_samples(model, prompt, [3], 2, 2.0)
    assert torch.equal(images, sample(model, [3], 2, "dpmpp_2m", prompts=prompt, guidance=2.0))
    assert maps.shape[0] == 1 and maps.shape[2:] == model.latent_shape[1:]


def test_words_are_found_where_they_stand():
    words = text.tokenizer()
    places = attention.words_of(words, "a sad face with dark skin, no hair and sunglasses on a pink background")
    tokens = words.convert_ids_to_tokens(
        words("a sad face with dark skin, no hair and sunglasses on a pink background").input_ids
    )
    assert {about: [tokens[k] for k in found] for about, found in places.items()} == {
        "skin": ["skin"], "hair": ["hair"], "glasses": ["sunglasses"], "mouth": ["sad"], "background": ["background"]
    }  # fmt: skip


def test_where_words_look_is_measured_on_every_word_and_region():
    table = attention.word_regions(zoo.load("faces-sd", device="cpu"), 8)
    assert list(table.columns) == ["word", "region", "lift", "faces"]
    assert {"skin", "hair", "mouth", "background"} <= set(table.word) and (table.lift > 0).all()
    assert table.faces.between(1, 8).all() and not table.duplicated(["word", "region"]).any()
    assert table.set_index(["word", "region"]).lift["skin", "skin"] > 1


def test_costs_are_recorded_once_and_grow(monkeypatch, tmp_path):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path))
    table = attention.costs((64, 256, 1024), 3, scale="smoke", device="cpu")
    assert set(table.kind) == {"plain", "fused", "projections"} and len(table) == 3 * 3 * 3 and (table.seconds > 0).all()
    assert len(list(tmp_path.glob("attention-cost-*.json"))) == 1
    again = attention.costs((64, 256, 1024), 3, scale="smoke", device="cpu")
    assert again.equals(table)
    with pytest.raises(ValueError, match="tokens: got"):
        attention.costs((64,), 3, scale="smoke")


def test_the_three_kinds_compute_what_they_say():
    functions = attention._functions(16, torch.device("cpu"))
    assert torch.allclose(functions["plain 16"](), functions["fused 16"](), atol=1e-5)
    assert functions["projections 16"]().shape == (16, 4 * attention.WIDTH)
    assert attention.flops("plain", 32) == 4 * attention.flops("plain", 16)
    assert attention.flops("projections", 32) == 2 * attention.flops("projections", 16)
