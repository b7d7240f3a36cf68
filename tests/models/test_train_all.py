"""`frugal train --all`: who is trained, in which order, for how long."""

import json
import shutil

import pytest
import torch

from frugal import paths
from frugal.models import cards, train_all, training
from frugal.models.recipes import RECIPES, Recipe


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """An installation in which every network has weights and has reached its goals."""
    monkeypatch.setattr(paths, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setattr(paths, "training", lambda: tmp_path / "training")
    monkeypatch.setattr(Recipe, "load", lambda recipe: None)
    monkeypatch.setattr(train_all, "held_out_loss", lambda name, root, plain, device: 1.0 if root == paths.EMBEDDED else 2.0)
    for name, recipe in RECIPES.items():
        note(name, True, recipe.minutes)
        (paths.EMBEDDED / name / "weights.safetensors").touch()


def note(name, finished, minutes):
    mark = {"what": "good", "value": 1.0, "bound": None, "at_least": True, "goal": 2.0, "reached": True, "finished": finished}
    cards.write(name, cards.blank(name) | {"marks": [mark], "seconds": 60 * minutes})


def taught(guidance):
    return {"guidance": guidance, "guided_from": 0} if guidance else {}


@pytest.fixture
def calls(monkeypatch):
    """What `train` was asked for, while a minute asked is a minute gone."""
    made, clock = [], [0.0]

    def train(name, minutes, device, resume, guidance, compiled):
        made.append((name, round(minutes, 2), guidance))
        clock[0] += 60 * minutes
        card = {key: value for key, value in cards.read(name).items() if key not in ("marks", "guidance")}
        cards.write(name, card | taught(guidance))
        (paths.EMBEDDED / name / "weights.safetensors").write_bytes(b"new")

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
    assert calls == [("faces-sd", 8.7, None)]  # the rest is for loading, writing and comparing
    assert "below: good" in capsys.readouterr().out


def test_longer_times_are_turns_in_the_order_of_dependence(trained, calls):
    for name in ("faces-sd", "faces-vae", "faces-ddpm"):
        note(name, False, RECIPES[name].minutes)
    train_all.train_all(27, "cpu")
    assert [name for name, *_ in calls] == ["faces-vae", "faces-ddpm", "faces-ddpm", "faces-sd"]
    assert sum(minutes for _, minutes, _ in calls) == pytest.approx(26.7, abs=0.01)
    assert [guidance for name, _, guidance in calls if name == "faces-ddpm"] == [None, 1.4]


def test_the_least_time_reaches_the_guided_cycle_too(trained, calls):
    note("faces-ldm", False, 20)
    assert train_all.train_all(train_all.LEAST, "cpu") == ["faces-ldm"]
    assert [guidance for *_, guidance in calls] == [None, 1.3] and all(minutes > 0 for _, minutes, _ in calls)


def test_a_network_the_time_did_not_reach_is_not_listed(trained, calls, monkeypatch, capsys):
    note("faces-vae", False, 20)
    note("faces-sd", False, 45)
    monkeypatch.setattr(train_all, "TURN", 0.5)  # two turns in the least time; the first takes it all
    monkeypatch.setattr(train_all, "cycles", lambda name, minutes: [(None, 1.0)])
    assert train_all.train_all(train_all.LEAST, "cpu") == ["faces-vae"] == [name for name, *_ in calls]
    assert "faces-sd: no time is left for it" in capsys.readouterr().out


def files(name):
    return {path.relative_to(paths.EMBEDDED): path.read_bytes() for path in (paths.EMBEDDED / name).rglob("*") if path.is_file()}


@pytest.mark.parametrize("new, kept", [(0.9, True), (1.0, False), (1.3, False), (float("nan"), False)])
@pytest.mark.parametrize("name", ["faces-ddpm", "faces-ddpm-draft"])  # two cycles, and one
def test_weights_stay_only_where_held_out_faces_say_they_are_better(trained, calls, monkeypatch, capsys, name, new, kept):
    note(name, False, 1)
    cards.write(name, cards.read(name) | taught(RECIPES[name].guidance))
    before = files(name)
    monkeypatch.setattr(train_all, "held_out_loss", lambda name, root, plain, device: new if root == paths.EMBEDDED else 1.0)
    assert train_all.train_all(9, "cpu") == ([name] if kept else [])
    assert calls and (files(name) == before) is not kept
    told = capsys.readouterr().out
    assert f"{name}: loss on {train_all.HELD_OUT} held-out faces 1 before, {new:.5g} after" in told
    assert (f"trained: {name}" in told) is kept and ("its weights are those before" in told) is not kept
    assert not list((paths.training() / "before").iterdir())


def test_a_network_that_lost_its_guided_prediction_is_put_back(trained, calls, monkeypatch, capsys):
    note("faces-ddpm", False, 1)
    cards.write("faces-ddpm", cards.read("faces-ddpm") | taught(1.4))
    before = files("faces-ddpm")
    monkeypatch.setattr(train_all, "cycles", lambda name, minutes: [(None, minutes), (1.4, 0.0)])  # no time for the last
    assert train_all.train_all(9, "cpu") == [] and files("faces-ddpm") == before
    assert "its guided cycle is missing" in capsys.readouterr().out


def test_a_turn_that_was_cut_off_is_compared_with_what_came_before_it(trained, calls, monkeypatch):
    note("faces-ldm", False, 1)
    cards.write("faces-ldm", cards.read("faces-ldm") | taught(1.3))
    before = files("faces-ldm")
    train_all.set_aside("faces-ldm")
    training.train("faces-ldm", 1, "cpu", True, None, False)  # from the data; then the guided cycle is cut off
    folder = paths.training() / "faces-ldm"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"card": {"guidance": 1.3}}))
    monkeypatch.setattr(train_all, "held_out_loss", lambda name, root, plain, device: 2.0 if root == paths.EMBEDDED else 1.0)
    assert train_all.train_all(9, "cpu") == [] and files("faces-ldm") == before


@pytest.mark.parametrize("name", RECIPES)
def test_held_out_loss_tells_worse_weights_of_every_recipe(monkeypatch, tmp_path, name):
    monkeypatch.setattr(train_all, "HELD_OUT", 8)
    monkeypatch.setattr(train_all, "PART", 4)
    plain, worse = RECIPES[name].load(), RECIPES[name].load()
    with torch.no_grad():
        for parameter in worse.parameters():
            parameter.mul_(0.5)
    worse.save_pretrained(tmp_path / RECIPES[name].folder)
    shutil.copy(cards.file(name), tmp_path / name)
    losses = [train_all.held_out_loss(name, root, plain, "cpu") for root in (paths.EMBEDDED, paths.EMBEDDED, tmp_path)]
    assert losses[0] == losses[1] < losses[2]


def test_a_guided_cycle_that_was_cut_off_ends_first(trained, calls):
    note("faces-ldm", False, 1)
    folder = paths.training() / "faces-ldm"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"card": {"guidance": 1.2}}))
    train_all.train_all(9, "cpu")
    assert calls == [("faces-ldm", 8.7, 1.2)]


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


@pytest.mark.parametrize("arguments", [{"minutes": 0}, {"minutes": -3.0}, {"minutes": 0.05}, {"minutes": float("inf")}, {"minutes": 9, "device": "abacus"}])
def test_bad_input_is_named(trained, calls, arguments):
    note("faces-sd", False, 20)
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
