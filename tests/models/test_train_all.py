"""`frugal train --all`: who is trained, in which order, for how long."""

import json

import pytest
import torch

from frugal import paths
from frugal.models import cards, train_all, training
from frugal.models.recipes import RECIPES


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """An installation in which every network has weights and has reached its goals."""
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setattr(paths, "training", lambda: tmp_path / "training")
    for name, recipe in RECIPES.items():
        note(name, True, recipe.minutes)
        (paths.EMBEDDED / name / "weights.safetensors").touch()


def note(name, finished, minutes):
    mark = {"what": "good", "value": 1.0, "bound": None, "at_least": True, "goal": 2.0, "reached": True, "finished": finished}
    cards.write(name, cards.blank(name) | {"marks": [mark], "seconds": 60 * minutes})


@pytest.fixture
def calls(monkeypatch):
    """What `train` was asked for, while a minute asked is a minute gone."""
    made, clock = [], [0.0]

    def train(name, minutes, device, resume, guidance, compiled):
        made.append((name, round(minutes, 2), guidance))
        clock[0] += 60 * minutes

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(train_all.time, "monotonic", lambda: clock[0])
    return made


def test_nothing_is_trained_where_all_goals_are_reached(trained, calls, capsys):
    assert train_all.train_all(9, "cpu") == [] and not calls
    assert "nothing is below" in capsys.readouterr().out


def test_the_one_trained_least_gets_a_single_turn(trained, calls, capsys):
    note("faces-vae", False, 40)
    note("faces-sd", False, 20)
    assert train_all.train_all(9, "cpu") == ["faces-sd"]
    assert calls == [("faces-sd", 8.9, None)]  # a tenth of a minute is for loading and writing
    assert "below: good" in capsys.readouterr().out


def test_longer_times_are_turns_in_the_order_of_dependence(trained, calls):
    for name in ("faces-sd", "faces-vae", "faces-ddpm"):
        note(name, False, RECIPES[name].minutes)
    train_all.train_all(27, "cpu")
    assert [name for name, *_ in calls] == ["faces-vae", "faces-ddpm", "faces-ddpm", "faces-sd"]
    assert sum(minutes for _, minutes, _ in calls) == pytest.approx(26.9, abs=0.11)
    assert [guidance for name, _, guidance in calls if name == "faces-ddpm"] == [None, 1.4]


def test_a_guided_cycle_that_was_cut_off_ends_first(trained, calls):
    note("faces-ldm", False, 1)
    folder = paths.training() / "faces-ldm"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"card": {"guidance": 1.2}}))
    train_all.train_all(9, "cpu")
    assert calls == [("faces-ldm", 8.9, 1.2)]


def test_what_rests_on_missing_weights_waits_for_them(trained, calls):
    for name in ("faces-vae", "faces-ldm", "faces-sd"):
        (paths.EMBEDDED / name / "weights.safetensors").unlink()
    assert train_all.turns(train_all.below_goals(), 9) == {"faces-vae": 9}
    assert list(train_all.turns(train_all.below_goals(), 27)) == ["faces-vae", "faces-ldm", "faces-sd"]


def test_a_network_without_marks_counts_as_below_and_the_frozen_reader_never(trained):
    cards.write("faces-clip", cards.blank("faces-clip"))
    note("faces-reader", False, 1)
    assert train_all.below_goals() == ["faces-clip"]


def test_the_embedded_order_depends_least_on_others():
    order = list(RECIPES)
    assert all(order.index(base) < order.index(name) for name, bases in train_all.RESTS_ON.items() for base in bases)


@pytest.mark.parametrize("arguments", [{"minutes": 0}, {"minutes": -3.0}, {"minutes": 9, "device": "abacus"}])
def test_bad_input_is_named(trained, calls, arguments):
    with pytest.raises(ValueError, match="minutes|device"):
        train_all.train_all(**arguments)
    assert not calls


def test_only_a_long_turn_on_a_cpu_is_worth_compiling(monkeypatch):
    monkeypatch.setattr(train_all.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert train_all.pays_to_compile("faces-ldm", train_all.WORTH_COMPILING, "cpu")
    assert not train_all.pays_to_compile("faces-ldm", train_all.WORTH_COMPILING - 1, "cpu")
    assert not train_all.pays_to_compile("faces-vae", train_all.WORTH_COMPILING, "cpu")
    monkeypatch.setattr(train_all.training.zoo, "find_device", lambda device: torch.device("cuda"))
    assert not train_all.pays_to_compile("faces-ldm", train_all.WORTH_COMPILING, "cuda")  # a GPU's steps are captured
