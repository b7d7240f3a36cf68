"""What generators are measured by, on sets where the answer is known."""

import pytest

from frugal.measure import captions, generators
from frugal.measure.marks import Mark
from frugal.models import cards, faces


def test_marginals_and_diversity():
    data = faces.Faces("test")
    p = data.parameters(range(500))
    shares = generators.marginals(p)
    assert sum(shares["mouth", value] for value in faces.ATTRIBUTES["mouth"]) == pytest.approx(1)
    assert shares["hat_colour", "red"] < 0.25  # hatless faces show no colour
    alike = {name: value[:1].expand(50, *value.shape[1:]) for name, value in p.items()}
    assert generators.diversity(alike) == pytest.approx(0, abs=1e-6) and generators.diversity(p) > 0.5
    assert generators.farthest_marginal(p, p) == 0 and generators.farthest_marginal(alike, p) > 0.4


def test_nearest_training_face_is_found():
    train = faces.Faces("train").images([3, 700])
    distance, which = generators.nearest_training(train, count=1000)
    assert distance.max() < 2e-3 and which.tolist() == [3, 700]
    assert generators.nearest_training(faces.Faces("test").images([3]), count=1000)[0].min() > 0.02


def test_real_faces_keep_every_goal_and_blurred_or_copied_ones_do_not():
    data = faces.Faces("test")
    images, read, reference = data.images(range(64)), data.parameters(range(64)), data.parameters(range(4000))
    every = [*generators.marginal_marks(read, reference), *generators.diversity_marks(read), *generators.memory_marks(images, 1000)]
    assert all(mark.finished for mark in every) and sum(mark.goal is not None for mark in every) == 3
    copies = generators.memory_marks(faces.Faces("train").images(range(64)), 1000)
    assert not copies[-1].finished and copies[-1].value == 1
    alike = {name: value[:1].expand(64, *value.shape[1:]) for name, value in read.items()}
    assert not generators.diversity_marks(alike)[-1].finished and not generators.marginal_marks(alike, reference)[0].finished
    [close] = generators.kid_goals(data.images(range(64, 128)), None)
    [apart] = generators.kid_goals(generators.corruptions.blur(images, 3.0), None)
    assert apart.value > close.value and not apart.finished


def test_a_draft_is_measured_against_its_target(monkeypatch):
    own = [Mark("accepted by the judge", 0.2, 0.3), Mark("accepted, all", 0.2, goal=0.97)]
    monkeypatch.setattr(generators, "generator_marks", lambda name, samples, **bounds: own)
    monkeypatch.setattr(generators.zoo, "load", lambda name: type("M", (), {"unet": name}))
    monkeypatch.setattr(generators.cost, "flops", lambda network, *_: {"faces-ddpm": 100, "faces-ddpm-draft": 24}[network])
    card = {"marks": [{"what": "accepted by the judge", "value": 0.25}]}
    monkeypatch.setattr(cards, "read", lambda name: card)
    flops, share, *rest = generators.draft_marks("faces-ddpm-draft")
    assert (flops.value, flops.reached, share.value, share.reached) == (0.24, True, 0.8, True)
    assert [mark.value for mark in rest] == [0.2, 0.2] and all(mark.bound is mark.goal is None for mark in rest)
    card["marks"] = []
    with pytest.raises(ValueError, match="evaluate faces-ddpm"):
        generators.draft_marks("faces-ddpm-draft")


def test_pairs_never_trained_on_are_found_in_the_faces_that_show_them():
    data = faces.Faces("test", part="unseen")
    truth, images = data.parameters(range(64)), data.images(range(64))
    assert captions.pair_accuracy(images, truth) > 0.95
    assert captions.pair_accuracy(images.flip(0), truth) < 0.5
