"""Evaluation: its quantities on sets where the answer is known, and what it prints and writes."""

import json

import pytest
import torch

from frugal import paths
from frugal.measure import evaluate
from frugal.measure.evaluate import Mark
from frugal.models import cards, faces


def test_marks_compare_in_both_directions():
    assert Mark("a", 0.4, 0.3, goal=0.9).reached and not Mark("a", 0.4, 0.3, goal=0.9).finished
    assert Mark("a", 0.04, at_least=False, goal=0.05).finished and "not yet" in str(Mark("a", 0.4, 0.3, goal=0.9))
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


def test_evaluate_prints_writes_and_tells(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path)
    cards.write("faces-vae", cards.blank("faces-vae"))
    monkeypatch.setitem(evaluate.EVALUATIONS, "faces-vae", lambda: [Mark("sharp", 20.0, 31.0, goal=36.0), Mark("shown", 0.5)])
    assert evaluate.evaluate("faces-vae") is False
    assert "MISSED" in capsys.readouterr().out
    marks = json.loads(cards.file("faces-vae").read_text())["marks"]
    limits = {"bound": 31.0, "at_least": True, "reached": False, "goal": 36.0, "finished": False}
    assert marks[0] == {"what": "sharp", "value": 20.0} | limits
    assert "| sharp | 20 | at least 31 | no | at least 36 | no |" in cards.file("faces-vae").with_name("README.md").read_text()
    with pytest.raises(ValueError, match="faces-reader|judge"):
        evaluate.evaluate("faces")


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """Of all models only an autoencoder and a latent generator, with marks that are set here."""
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path)
    monkeypatch.setattr(evaluate.judge, "hashes", lambda: {"faces": "same"})
    monkeypatch.setattr(evaluate.judge, "fixed", lambda: {"hashes": {"faces": "same"}})
    found = {"faces-vae": [Mark("sharp", 36.5, 31.0, goal=36.0), Mark("shown", 0.5)], "faces-ldm": [Mark("KID", 0.4, at_least=False, goal=0.5)]}
    monkeypatch.setattr(evaluate, "EVALUATIONS", {name: lambda name=name: found[name] for name in found})
    for name in found:
        cards.write(name, cards.blank(name))
    return found


def test_the_table_of_marks_measures_what_has_none_and_shows_every_limit(two_models, capsys):
    assert evaluate.standing() is True
    told = capsys.readouterr().out
    assert "36.5   >= 36 reached" in told and "<= 0.5 reached" in told and "unchanged: faces same" in told
    evaluate.EVALUATIONS["faces-vae"] = None  # it is in the card now: not measured again
    assert evaluate.standing() is True and "shown" not in capsys.readouterr().out


def test_the_table_of_marks_tells_what_is_missed(two_models, monkeypatch, capsys):
    two_models["faces-ldm"] = [Mark("KID", 0.6, at_least=False, goal=0.5)]
    assert evaluate.standing() is False and "<= 0.5 MISSED" in capsys.readouterr().out
    two_models["faces-ldm"] = [Mark("accepted", 0.6, 0.7)]
    cards.write("faces-ldm", cards.blank("faces-ldm"))
    assert evaluate.standing() is False and ">= 0.7 MISSED" in capsys.readouterr().out
    two_models["faces-ldm"] = []
    cards.file("faces-ldm").unlink()
    assert evaluate.standing() is False and "no weights" in capsys.readouterr().out


def test_another_judge_than_the_fixed_one_is_a_missed_mark(two_models, monkeypatch, capsys):
    monkeypatch.setattr(evaluate.judge, "hashes", lambda: {"faces": "another"})
    assert evaluate.standing() is False and "CHANGED" in capsys.readouterr().out


def test_reconstruction_keeps_shape_and_range():
    class Vae(torch.nn.Module):
        def encode(self, x):
            return type("E", (), {"latent_dist": type("D", (), {"mean": x})})

        def decode(self, z):
            return type("S", (), {"sample": z})

    images = torch.rand(3, 3, 64, 64)
    assert torch.allclose(evaluate.reconstruct(Vae(), images), images, atol=1e-6)
