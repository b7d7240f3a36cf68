import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from frugal import paths
from frugal.measure import cost, quality, records

ASKED = {"ratio": 0.5, "steps": 25, "seeds": range(3)}


class Counted:
    """A measurement that counts how often it is made."""

    def __init__(self, values=(1.0, 2.0)):
        self.made, self.values = 0, values

    def __call__(self):
        self.made += 1
        return {"time": {"unit": "s", "values": self.values}}


def ask(function=None, kind="time", asked=ASKED, **about):
    about = {"scale": "quick", "source": cost, **about}
    return records.measure(kind, "sweep", asked, function or Counted(), **about)


def test_a_record_holds_what_it_depends_on(store):
    model = SimpleNamespace(name="faces-ddpm", weights="embedded", weights_hash="abc", revision=None)
    record = ask(model=model, dtype="torch.float32")
    assert record.asked == {"ratio": 0.5, "steps": 25, "seeds": [0, 1, 2]} and not record.reused
    assert record.quantities == {"time": {"unit": "s", "values": [1.0, 2.0]}}
    assert np.array_equal(record.values["time"], [1, 2])
    assert record.model == {"name": "faces-ddpm", "weights": "embedded", "weights_hash": "abc", "revision": None}
    assert {"kind", "name", "cores", "threads", "dtype"} <= set(record.device) and record.device["dtype"] == "float32"
    assert {"python", "torch", "diffusers", "frugal"} <= set(record.versions)
    assert record.start <= record.end and record.run == "first" and record.scale == "quick"
    [file] = store.glob("*.json")
    assert file.stem == f"sweep-{record.key}" and json.loads(file.read_text())["asked"]["ratio"] == 0.5


def test_asking_again_costs_nothing(store):
    function = Counted()
    first, again = ask(function), ask(function)
    assert function.made == 1 and again.reused and not first.reused and again == first
    assert records.find("time", "sweep", ASKED, scale="quick", source=cost) == first
    assert records.find("time", "sweep", {"ratio": 0.6}, scale="quick", source=cost) is None


def test_equal_questions_written_differently_are_one(store):
    assert ask().key == ask(asked={"seeds": np.arange(3), "steps": np.int64(25), "ratio": 0.5}).key


@pytest.mark.parametrize(
    "other",
    [
        {"asked": {**ASKED, "ratio": 0.6}}, {"scale": "thesis"}, {"source": quality}, {"dtype": "bfloat16"},
        {"kind": "memory"}, {"model": {"name": "m", "weights_hash": "1"}},
    ],
)  # fmt: skip
def test_another_question_is_another_record(store, other):
    function = Counted()
    ask(function)
    assert not ask(function, **other).reused and function.made == 2


@pytest.mark.parametrize(("kind", "reused"), [("time", False), ("memory", False), ("quality", True), ("count", True)])
def test_times_and_memory_belong_to_one_machine(store, monkeypatch, kind, reused):
    ask(kind=kind)
    here = records.environment()
    with monkeypatch.context() as patch:
        patch.setattr(
            records, "environment", lambda device: {"device": {**here["device"], "name": "another processor"}}
        )
        assert ask(kind=kind).reused is reused
    with monkeypatch.context() as patch:
        patch.setattr(records, "environment", lambda device: {"device": {**here["device"], "threads": 99}})
        assert ask(kind=kind).reused is reused
    monkeypatch.setattr(records, "versions", lambda: {**here["versions"], "torch": "1.0"})
    assert ask(kind=kind).reused is reused


def test_quality_belongs_to_one_set_of_weights(store):
    model = {"name": "faces-ddpm", "weights": "embedded", "weights_hash": "a"}
    ask(kind="quality", model=model)
    assert ask(kind="quality", model=model).reused
    assert not ask(kind="quality", model={**model, "weights_hash": "b"}).reused


def test_a_failed_measurement_leaves_nothing(store):
    def fail():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        ask(fail)
    assert not list(store.glob("*")) and not ask().reused


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"key": 1}', "\x00\x01", '"text"', "[" * 200_000])
def test_an_unreadable_record_is_named_and_measured_anew(store, content):
    function = Counted()
    file = store / f"sweep-{ask(function).key}.json"
    file.write_text(content)
    with pytest.warns(UserWarning, match=file.name):
        assert records.load_all() == []
    with pytest.warns(UserWarning, match=file.name):
        assert not ask(function).reused
    assert function.made == 2 and ask(function).reused and len(records.load_all()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"start": 5}, {"asked": None}, {"model": None}, {"device": []}, {"commit": 1}, {"quantities": []}, {"quantities": {}},
        {"quantities": {"time": {"values": [1.0]}}}, {"quantities": {"time": {"unit": None, "values": [1.0]}}}, {"quantities": {"time": 1}},
        *({"quantities": {"time": {"unit": "s", "values": values}}} for values in ([], "12", [10**400], ["12"], [True], [None], [[1.0]])),
    ],
)  # fmt: skip
def test_a_record_of_other_types_is_named_and_left_out(store, change):
    file = store / f"sweep-{ask().key}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    ask(asked={**ASKED, "ratio": 0.6})
    with pytest.warns(UserWarning, match=file.name):
        [left] = records.load_all()
    assert left.asked["ratio"] == 0.6


def test_a_record_under_another_name_is_refused(store):
    file = store / f"sweep-{ask().key}.json"
    file.rename(store / "sweep-0000.json")
    with pytest.warns(UserWarning, match="sweep-0000.json.*another record"):
        assert records.load_all() == []


def test_infinite_values_survive_strict_json(store):
    ask(Counted([np.inf, 30.0, np.nan]), kind="quality")
    [file] = store.glob("*.json")
    json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    [record] = records.load_all()
    assert np.array_equal(record.values["time"], [np.inf, 30, np.nan], equal_nan=True)


def test_no_folder_of_this_machine_in_a_record(store, tmp_path):
    model = {"name": str(tmp_path / "my-model"), "weights": "hub"}
    record = ask(model=model, asked={"folder": tmp_path / "one" / "unet"})
    other = ask(model=model, asked={"folder": tmp_path / "two" / "unet"})
    assert record.asked == other.asked == {"folder": "unet"} and record.key != other.key
    assert record.model["name"] == "my-model"
    for file in store.iterdir():
        assert str(tmp_path) not in file.read_text()


def test_shipped_records_never_stand_in(store, tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    record = ask(store=shipped)
    monkeypatch.setattr(paths, "shipped", lambda: shipped)
    function = Counted()
    assert not ask(function).reused and function.made == 1
    [reference] = records.load_shipped()
    assert reference.series == "shipped" and reference == record and records.load_all()[0].series == "here"
    monkeypatch.setattr(paths, "shipped", lambda: tmp_path / "nothing")
    assert records.load_shipped() == []


def test_table_is_tidy(store):
    a = ask(asked={"ratio": 0.0, "name": "x", "seeds": [1, 2]}, model={"name": "faces-ddpm", "weights": "embedded"})
    frame = records.table([a, replace(ask(asked={"ratio": 0.5, "method": "tome"}), series="shipped")])
    assert list(frame["value"]) == [1, 2, 1, 2] and list(frame["index"]) == [0, 1, 0, 1] and set(frame["unit"]) == {"s"}
    assert list(frame["ratio"]) == [0, 0, 0.5, 0.5] and frame["asked_name"][0] == "x" and frame["seeds"][0] == "[1, 2]"
    assert list(frame.groupby("series")["value"].mean()) == [1.5, 1.5] and frame["model"][0] == "faces-ddpm"
    assert records.table([]).empty and "value" in records.table([])


def test_source_hash_follows_the_source(tmp_path, monkeypatch):
    assert (
        records.source_hash(cost, quality.psnr) != records.source_hash(cost, quality.ssim) != records.source_hash(cost)
    )
    assert records.source_hash(Counted) == records.source_hash(Counted())
    with pytest.raises(ValueError, match="source"):
        records.source_hash(len)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "speed"}, "kind: got 'speed'"), ({"scale": "huge"}, "scale: got 'huge'"),
        ({"name": "a/b"}, "name: got 'a/b'"),
        ({"asked": {"ratio": float("nan")}}, r"asked\['ratio'\]: got nan"), ({"asked": {"f": len}}, r"asked\['f'\]"),
        ({"function": lambda: None}, "function: got None"), ({"function": lambda: {"t": [1]}}, "function: got t="),
        ({"function": lambda: {"t": {"unit": "s", "values": "abc"}}}, "function: got t"),
    ],
)  # fmt: skip
def test_bad_questions_are_named(store, change, named):
    question = {"kind": "time", "name": "x", "asked": {}, "function": Counted(), "scale": "quick", **change}
    with pytest.raises(ValueError, match=named):
        records.measure(**question)
    assert not list(store.glob("*.json"))


def test_environment_is_plain_and_anonymous(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: pytest.fail("asked for the machine's name"))
    environment = records.environment()
    assert environment["device"]["cores"] >= 1 and environment["device"]["name"]
    assert set(environment) == {"device", "versions", "commit"}
    assert os.path.expanduser("~") not in json.dumps(environment)
