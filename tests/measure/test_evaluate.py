"""Evaluation: its quantities on sets where the answer is known, and what it prints and writes."""

import json

import pytest
import torch

from frugal import paths
from frugal.measure import evaluate
from frugal.measure.evaluate import Mark
from frugal.models import cards, faces


def test_marks_compare_in_both_directions():
    assert Mark("a", 1.0, 1.0).reached and not Mark("a", 0.9, 1.0).reached
    assert Mark("a", 0.1, 0.15, at_least=False).reached and not Mark("a", 0.2, 0.15, at_least=False).reached
    assert Mark("a", 5.0).reached and "MISSED" in str(Mark("a", 0.9, 1.0))


def test_accuracy_counts_visible_attributes_only():
    truth = faces.Faces("test").parameters(range(200))
    read = {name: truth[name].clone() for name in faces.ATTRIBUTES}
    read["eyes"][~faces.visible_mask(truth, "eyes")] = 2
    assert set(evaluate.accuracy(read, truth).values()) == {1.0}
    read["mouth"] = (read["mouth"] + 1) % 4
    assert evaluate.accuracy(read, truth)["mouth"] == 0.0


def test_marginals_and_diversity():
    data = faces.Faces("test")
    p = data.parameters(range(500))
    shares = evaluate.marginals(p)
    assert sum(shares["mouth", value] for value in faces.ATTRIBUTES["mouth"]) == pytest.approx(1)
    assert shares["hat_colour", "red"] < 0.25  # hatless faces show no colour
    alike = {name: value[:1].expand(50, *value.shape[1:]) for name, value in p.items()}
    assert evaluate.diversity(alike) == pytest.approx(0, abs=1e-6) and evaluate.diversity(p) > 0.5
    assert evaluate.farthest_marginal(p, p) == 0 and evaluate.farthest_marginal(alike, p) > 0.4


def test_nearest_training_face_is_found():
    train = faces.Faces("train").images([3, 700])
    assert evaluate.nearest_training(train, count=1000).max() < 2e-3
    assert evaluate.nearest_training(faces.Faces("test").images([3]), count=1000).min() > 0.02


def test_evaluate_prints_writes_and_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path)
    cards.write("faces-vae", cards.blank("faces-vae"))
    monkeypatch.setitem(evaluate.EVALUATIONS, "faces-vae", lambda: [Mark("sharp", 20.0, 31.0), Mark("shown", 0.5)])
    assert evaluate.evaluate("faces-vae") is False
    assert "MISSED" in capsys.readouterr().out
    marks = json.loads(cards.file("faces-vae").read_text())["marks"]
    assert marks[0] == {"what": "sharp", "value": 20.0, "bound": 31.0, "at_least": True, "reached": False}
    assert "| sharp | 20 | at least 31 | no |" in cards.file("faces-vae").with_name("README.md").read_text()
    with pytest.raises(ValueError, match="faces-reader|judge"):
        evaluate.evaluate("faces")


def test_reconstruction_keeps_shape_and_range():
    class Vae(torch.nn.Module):
        def encode(self, x):
            return type("E", (), {"latent_dist": type("D", (), {"mean": x})})

        def decode(self, z):
            return type("S", (), {"sample": z})

    images = torch.rand(3, 3, 64, 64)
    assert torch.allclose(evaluate.reconstruct(Vae(), images), images, atol=1e-6)
