"""The tally of a build: what was measured in it, reused, and shipped."""

import os
import subprocess
import sys

from frugal import paths
from frugal.measure import records, runs


def ask(k=0, **about):
    return records.measure("count", "question", {"k": k}, lambda: {"n": {"unit": "1", "values": [1]}}, scale="quick", **about)


def test_tally_of_a_run(store, monkeypatch):
    for k in (0, 1, 1):
        ask(k)
    assert runs.tally() == runs.Tally(2, 0, runs.tally().shipped)
    monkeypatch.setenv("FRUGAL_RUN", "second")
    ask(1)
    ask(2)
    tally = runs.tally()
    assert (tally.measured, tally.reused) == (1, 1)
    assert str(tally).startswith("1 measured here, 1 reused from an earlier run here, ")


def test_tally_counts_what_is_shipped(store, tmp_path, monkeypatch):
    ask(store=tmp_path / "shipped")
    monkeypatch.setattr(paths, "shipped", lambda: tmp_path / "shipped")
    assert runs.tally(store) == runs.Tally(0, 0, 1)
    monkeypatch.setattr(paths, "shipped", lambda: tmp_path / "nothing")
    assert runs.tally(store).shipped == 0


def test_tally_counts_chapters_that_were_left_alone(store, monkeypatch):
    monkeypatch.setenv("FRUGAL_CHAPTER", "05_experiments")
    ask(0)
    ask(1)
    monkeypatch.setenv("FRUGAL_RUN", "second")
    assert (runs.tally().measured, runs.tally().reused) == (0, 2)
    monkeypatch.setenv("FRUGAL_CHAPTER", "04_attention")
    ask(2)
    assert (runs.tally().measured, runs.tally().reused) == (1, 2)
    with open(store / runs.LOG, "a") as log:
        log.write('{"run": "sec')
    assert (runs.tally().measured, runs.tally().reused) == (1, 2)


def test_processes_of_a_build_share_its_tally(store):
    program = (
        "from frugal.measure import records; "
        "records.measure('count', 'other', {'k': 9}, lambda: {'n': {'unit': '1', 'values': [1]}}, scale='quick')"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    ask()
    assert runs.tally().measured == 2 and len(records.load_all()) == 2
