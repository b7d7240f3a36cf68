"""The judge: passes real faces, refuses what is no face, and says which values it saw."""


import pytest
import torch

from frugal.measure import corruptions, judge
from frugal.models import faces


@pytest.fixture(scope="module")
def real():
    return faces.Faces("test").images(range(100, 228))


def test_passes_real_faces(real):
    assert judge.accepts(real).float().mean() >= 0.95


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: corruptions.blur(x, 2.5),
        lambda x: x.flip(2),
        corruptions.halves,
        lambda x: torch.rand(x.shape, generator=torch.Generator().manual_seed(0)),
        lambda x: corruptions.noised(x, 1.0, torch.Generator().manual_seed(0)),
        lambda x: x.mean(0, keepdim=True),
    ],
)
def test_refuses_what_is_no_face(real, spoil):
    assert judge.accepts(spoil(real)).float().mean() <= 0.10


def test_reads_what_was_drawn():
    data = faces.Faces("test")
    rows = judge.read(data.images(range(64)))
    truth = [data[k]["attributes"] for k in range(64)]
    for attribute in faces.ATTRIBUTES:
        right = sum(row[attribute] == true[attribute] for row, true in zip(rows, truth, strict=True))
        assert right >= 60, attribute
    assert faces.draw(rows[0], size=96).shape == (3, 96, 96)


def test_one_wrong_feature_counts(real):
    mouth = corruptions.swapped("mouth", 40)
    assert judge.distance(mouth).median() > judge.distance(real[:40]).median()
    assert judge.errors(mouth)["mouth"].median() > 1.5 * judge.errors(real[:40])["mouth"].median()


def test_swaps_are_visible_and_local():
    original = faces.Faces("test").images(range(512))
    changed = corruptions.swapped("background", 10)
    assert len(changed) == 10
    assert (changed[:, None] - original[None, :256]).abs().mean((2, 3, 4)).amin(1).gt(0.005).all()


def test_distance_is_that_of_the_worst_region(real):
    errors, scales = judge.errors(real[:8]), judge.fixed()["scales"]
    worst = torch.stack([errors[region] / scales[region] for region in judge.REGIONS]).amax(0)
    assert torch.equal(judge.distance(real[:8]), worst)


def test_frozen_by_hash():
    """Data set, reader, comparison and threshold are those that the generators' marks were measured with."""
    frozen = {"faces": "63734a3b49545f36", "reader": "95f826070e444bf5", "judge": "07189ecec784ba28"}
    assert judge.hashes() == judge.fixed()["hashes"] == frozen


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(3, 64, 64),
        torch.rand(0, 3, 64, 64),
        torch.rand(2, 3, 32, 32),
        2 * torch.ones(1, 3, 64, 64),
        torch.full((1, 3, 64, 64), torch.nan),
        "face",
    ],
)
def test_bad_images_are_named(images):
    with pytest.raises(ValueError, match="images"):
        judge.accepts(images)


def test_blur_of_nothing_is_the_image(real):
    assert torch.equal(corruptions.blur(real[:2], 0.1), real[:2])
    assert torch.allclose(corruptions.blur(torch.full((1, 3, 64, 64), 0.3), 2.0), torch.tensor(0.3), atol=1e-6)
