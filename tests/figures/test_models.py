"""The appendix: curves, neighbours and tables say what is on the cards."""

import numpy as np
import pytest
import torch

from frugal.figures import models, style
from frugal.models import cards


@pytest.fixture
def about():
    return style.About("quick", "a processor, float32")


@pytest.fixture
def card():
    marks = [
        {"what": "shown alone", "value": 0.5, "bound": None, "at_least": True, "goal": None, "reached": True, "finished": True},
        {"what": "sharp", "value": 31.5, "bound": 31.0, "at_least": True, "goal": 36.0, "reached": True, "finished": False},
    ]
    losses = {"loss": [[1000, 0.9], [2000, 0.4], [3000, 0.2]], "guided_loss": [[4000, 0.02], [5000, 0.01]]}
    trained = {"parameters": 1234, "images": 5000, "seconds": 7200.0, "device": "a processor"}
    return cards.blank("faces-ddpm") | losses | trained | {"marks": marks}


def test_curves_end_where_the_cards_end(about, card):
    plain = card | {"guided_loss": []}
    drawn = models.loss_curves({"faces-ddpm": card, "faces-vae": plain}, about, columns=2)
    with_guidance, without = drawn.figure.axes
    assert [line.get_xdata()[-1] for line in with_guidance.lines] == [3.0, 5.0] and len(without.lines) == 1
    assert np.allclose(without.lines[0].get_ydata(), [0.9, 0.4, 0.2])
    assert with_guidance.get_ylabel() == models.VELOCITY != without.get_ylabel()
    assert "faces-vae ends at 0.2" in drawn.alt


def test_each_image_stands_over_its_neighbour_and_their_distance(about):
    images = {"test faces": torch.rand(3, 3, 8, 8), "samples": torch.rand(3, 3, 8, 8)}
    nearest, distances = {title: 1 - pictures for title, pictures in images.items()}, {title: [0.1, 0.2, 0.3] for title in images}
    drawn = models.neighbours(images, nearest, distances, about)
    grid = np.array(drawn.figure.axes).reshape(4, 3)
    shown = torch.from_numpy(np.asarray(grid[3][1].images[0].get_array())).permute(2, 0, 1)
    assert torch.allclose(shown, nearest["samples"][1], atol=1e-6) and grid[3][1].get_xlabel() == "0.200"
    assert grid[2][0].get_ylabel() == "samples" and "samples 0.200" in drawn.alt


def test_tables_give_what_the_cards_say(card):
    told = models.provenance({"faces-ddpm": card})
    assert "| `faces-ddpm` |" in told and "| 1,234 | 5,000 | 2.00 | a processor | not reported by the device |" in told
    assert "| 1.500 kWh |" in models.provenance({"faces-ddpm": card | {"joules": 5.4e6}})
    lines = models.marks(card).splitlines()
    assert lines[2] == "| sharp | 31.5 | at least 31 | yes | at least 36 | no |" and lines[3].startswith("| shown alone | 0.5 |")


def test_a_bound_inside_the_band_of_its_mark_is_not_told_apart(card):
    about = {"at_least": False, "goal": None, "reached": True}
    kid = [about | {"what": "KID, below test faces blurred by 1 px", "value": 0.5, "bound": 0.7}]
    band = lambda high: [about | {"what": f"KID, {end} end of its 95 % band", "value": value, "bound": None} for end, value in (("lower", 0.1), ("upper", high))]
    first = lambda marks: models.marks(card | {"marks": marks}).splitlines()[2]
    assert first(kid + band(1.1)).endswith("| at most 0.7 | yes, not told apart |  |  |")
    assert first(kid + band(0.6)).endswith("| yes |  |  |") and first(kid).endswith("| yes |  |  |")


def test_energy_says_of_which_part_of_the_training_it_is(card):
    told = lambda device, **more: models.provenance({"faces-ddpm": card | {"device": device} | more})
    assert "| a chip, 1 thread, then a GPU | 1.500 kWh, of the part on a GPU alone |" in told("a chip, 1 threads, then a GPU", joules=5.4e6)
    assert "| a GPU | 1.500 kWh |" in told("a GPU", joules=5.4e6)
    assert "| a chip, 2 threads | not reported by the device |" in told("a chip, 2 threads")


def test_a_missed_bound_is_named(card):
    assert models.missed({"faces-ddpm": card}) == "Every bound is reached."
    below = card | {"marks": [card["marks"][1] | {"value": 3.0, "reached": False}]}
    assert models.missed({"a": card, "faces-ddpm-draft": below}) == "* **faces-ddpm-draft misses a bound**: sharp: 3 (at least 31)"


def test_networks_without_marks_are_not_called_good(card):
    fresh = {"a": card, "faces-reader": card | {"marks": []}, "faces-ddpm-draft": cards.blank("faces-ddpm-draft") | {"images": 640}}
    assert models.missed(fresh).splitlines() == [
        "* **faces-reader is not measured yet**: `frugal evaluate judge` measures it",
        "* **faces-ddpm-draft is not measured yet**: `frugal evaluate faces-ddpm-draft` measures it",
    ]
    text, verdict = models.claim_taught(fresh)
    assert text.endswith("with 640 further faces, is not measured yet") and verdict == "open"


def test_what_a_taught_network_loses_is_its_mark(card):
    kept = lambda value: {"faces-ddpm-draft": card | {"marks": [card["marks"][1] | {"what": "accepted, of faces-ddpm's", "value": value}]}}
    text, verdict = models.claim_taught(kept(0.045))
    assert "5,000 further faces, has 0.045 times" in text and verdict.startswith("holds of a network of fewer parameters, trained for 120 minutes;")
    assert models.claim_taught(kept(1.2))[1].startswith("does not hold") and models.claim_taught({})[1] == "open"


def test_only_networks_with_a_card_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(models.cards.paths, "EMBEDDED", tmp_path)
    assert models.trained() == {}
    cards.write("faces-vae", cards.blank("faces-vae"))
    assert list(models.trained()) == ["faces-vae"]
