"""The data set: reproducible, disjoint, balanced, captioned, exactly masked, the same face at any size."""

import itertools

import numpy as np
import pytest
import torch

from frugal.models import faces
from frugal.models.faces import ATTRIBUTES, REGIONS, Faces


def test_face_depends_on_its_index_alone():
    data = Faces("train", 64)
    together = data.images([5, 900, 17])
    assert torch.allclose(together[2], data[17]["image"], atol=1e-6)
    assert torch.allclose(together, data.images([5, 900, 17]), atol=0)
    assert not torch.allclose(data[17]["image"], Faces("validation", 64)[17]["image"], atol=0.05)


def test_splits_are_disjoint_and_large():
    ranges = sorted((first, first + length) for first, length in faces.SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
    assert len(Faces("train")) >= 100_000
    numbers = Faces("train").parameters(range(100_000))
    distinct = np.unique(torch.stack([numbers[name] for name in faces.GEOMETRY], 1).numpy(), axis=0)
    assert len(distinct) == 100_000


def test_values_are_neither_rare_nor_dominant():
    p = Faces("train").parameters(range(20_000))
    for attribute, values in ATTRIBUTES.items():
        seen = faces.visible_mask(p, attribute)
        for code, value in enumerate(values):
            share = ((p[attribute] == code) & seen).float().mean().item()
            assert 0.05 <= share <= 0.60, (attribute, value, share)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_unseen_pairs_never_meet_outside_the_unseen_part(split):
    assert not faces.has_unseen_pair(Faces(split).parameters(range(10_000))).any()


def test_unseen_part_shows_every_pair_and_pairs_cover_every_attribute():
    p = Faces("test", part="unseen").parameters(range(5_000))
    assert faces.has_unseen_pair(p).all()
    assert {name for pair in faces.UNSEEN_PAIRS for name, _ in pair} == set(ATTRIBUTES)
    assert len(faces.UNSEEN_PAIRS) == 12
    for (a, value_a), (b, value_b) in faces.UNSEEN_PAIRS:
        both = (p[a] == faces.value_index(a, value_a)) & (p[b] == faces.value_index(b, value_b))
        assert both.any(), (value_a, value_b)


def test_item_is_image_caption_attributes_parameters_masks():
    item = Faces("test", 48)[3]
    assert item["image"].shape == (3, 48, 48) and item["image"].dtype == torch.float32
    assert 0 <= item["image"].min() and item["image"].max() <= 1
    assert set(item["masks"]) == set(REGIONS)
    assert torch.stack(list(item["masks"].values())).sum(0).eq(1).all()  # a partition of the pixels
    assert set(item["attributes"]) == set(ATTRIBUTES)


def test_drawing_again_gives_the_same_face_and_a_larger_one():
    item = Faces("train", 64)[7]
    assert torch.allclose(faces.draw(item["parameters"], 64), item["image"], atol=1e-5)
    large = torch.nn.functional.avg_pool2d(faces.draw(item["parameters"], 256)[None], 4)[0]
    assert (large - item["image"]).abs().mean() < 0.01


def test_hidden_values_are_left_out_of_captions():
    data, hidden = Faces("train"), 0
    for k in range(60):
        item = data[k]
        for attribute, value in item["attributes"].items():
            if value == faces.HIDDEN:
                hidden += 1
                assert item["parameters"][attribute] == faces.HIDDEN
                if attribute == "eyes":
                    assert " eyes" not in item["caption"]
            elif attribute not in ("hat", "glasses", "hair_style", "hair_colour", "hat_colour"):
                assert value in item["caption"]
    assert hidden > 10


def test_caption_is_a_sentence():
    values = {"skin": "tan", "hair_style": "long", "hair_colour": "red", "eyes": "round", "glasses": "round", "mouth": "smiling",
              "hat": "beanie", "hat_colour": "blue", "background": "green"}  # fmt: skip
    assert faces.caption(values) == (
        "a smiling face with tan skin, long red hair, round eyes, round glasses and a blue beanie on a green background"
    )
    bald = values | {
        "hair_style": "bald",
        "hair_colour": "hidden",
        "glasses": "sunglasses",
        "eyes": "hidden",
        "hat": "none",
    }
    assert faces.caption(bald | {"hat_colour": "hidden"}) == (
        "a smiling face with tan skin, no hair and sunglasses on a green background"
    )


def test_masks_follow_what_is_visible():
    data = Faces("train", 64)
    p = data.parameters(range(200))
    _, masks = faces.draw_batch(p, 64, masks=True)
    area = masks.flatten(2).sum(2)
    bald, hatless = p["hair_style"] == 0, p["hat"] == 0
    assert (area[bald, REGIONS.index("hair")] == 0).all() and (area[~bald & hatless, REGIONS.index("hair")] > 50).all()
    assert (area[hatless, REGIONS.index("hat")] == 0).all() and (area[~hatless, REGIONS.index("hat")] > 100).all()
    shaded = p["glasses"] == faces.value_index("glasses", "sunglasses")
    assert (area[shaded, REGIONS.index("eyes")] < 20).all() and (area[~shaded, REGIONS.index("eyes")] > 20).all()
    assert (area[:, REGIONS.index("mouth")] > 15).all()


def test_drawing_is_differentiable():
    p = Faces("train").parameters(range(4))
    for name in (*faces.GEOMETRY, *faces.COLOURS):
        p[name].requires_grad_(True)
    faces.draw_batch(p, 32).square().sum().backward()
    assert all(p[name].grad.isfinite().all() for name in (*faces.GEOMETRY, *faces.COLOURS))
    assert all(p[name].grad.abs().sum() > 0 for name in ("x", "y", "scale", "width", "skin_rgb", "background_rgb"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Faces("training"), "split"),
        (lambda: Faces("train", part="unseen"), "part"),
        (lambda: Faces("train", size=4), "size"),
        (lambda: Faces("train", size="big"), "size"),
        (lambda: faces.draw({"skin": "tan"}), "missing"),
        (lambda: faces.draw(Faces("train")[0]["parameters"] | {"mouth": "grin"}), "mouth"),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_index_beyond_the_end():
    with pytest.raises(IndexError):
        Faces("validation")[len(Faces("validation"))]
    assert Faces("validation")[-1]["image"].shape == (3, 64, 64)


def test_odd_requests_of_the_data_set():
    data = Faces("test", size=np.int64(32))
    assert data.images([]).shape == (0, 3, 32, 32) and data[0]["image"].shape == (3, 32, 32)
    with pytest.raises(ValueError, match="index: got 1.5"):
        data[1.5]
    with pytest.raises(ValueError, match="size: got True"):
        Faces("test", size=True)
