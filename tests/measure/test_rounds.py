"""A trajectory watched while it converges, and seconds foretold from batches."""

import dataclasses

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch

from frugal import sample
from frugal.measure import batching, records, rounds
from frugal.measure.plan import Subject
from frugal.models.recipes import schedule
from frugal.models.zoo import Model


@pytest.fixture(scope="module")
def subject():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
        )
    return Subject.of(Model("tiny", "memory", unet.eval(), schedule(1.0)))


def test_a_front_converges_from_front_to_back(subject):
    seen = rounds.front(subject, 12, seed=3, window=5, tolerance=0)
    assert seen.errors.shape == (seen.calls, 13) and seen.rows > 12 and seen.committed[-1] == 12
    for k, errors in enumerate(seen.errors):
        assert errors[0] == 0 and np.isfinite(errors[: min(k + 6, 13)]).all() and np.isnan(errors[seen.committed[k] + 5 :]).all()
        assert (errors[: seen.committed[k] + 1] < 1e-4).all()
    assert seen.errors[0][5] > 1e-3 > seen.errors[-1][5]
    assert seen.shown[0] == 1 and seen.shown[-1] == seen.calls and seen.steps_shown[-1] == 12
    assert seen.pictures.shape == (2, len(seen.shown), 3, 8, 8) and torch.allclose(seen.pictures[0, -1], seen.pictures[1, -1], atol=1e-4)
    assert not torch.allclose(seen.pictures[0, 0], seen.pictures[1, 0], atol=1e-4)


def test_the_summary_foretells_seconds_from_calls_and_batches():
    columns = ["model", "arm", "image", "calls", "rows", "seconds", "error", "psnr"]
    found = pd.DataFrame([("m", "a", 0, 10, 40, 1.0, 0.1, 30.0), ("m", "a", 1, 20, 80, 3.0, 0.3, 20.0)], columns=columns)
    measured = pd.DataFrame([("m", b, 0.1 * b, 0, 0, b, b, b, "d", "here") for b in (1, 8)], columns=batching.COLUMNS)
    [row] = rounds.summary(found, measured).itertuples()
    assert (row.images, row.calls, row.rows, row.seconds, row.error, row.psnr) == (2, 15, 60, 2.0, 0.3, 25.0)
    assert row.predicted == pytest.approx(15 * 0.4)


def test_closeness_is_counted_against_each_solvers_own_sequential_image(subject, monkeypatch):
    monkeypatch.setattr(rounds, "WAYS", (("ddim", "anderson", "signal"), ("dpmpp_2m", "picard", "step")))
    cell = rounds.closeness_cell(subject, 2, seed=5, steps=12)
    found = cell.function()
    for label, (solver, method, unit) in zip(cell.asked["arms"], rounds.WAYS, strict=True):
        ours = sample(subject.model, [5, 6], 12, "parallel", batch_size=1, solver=solver, method=method, unit=unit)  # one by one, as they are drawn
        apart = (ours - sample(subject.model, [5, 6], 12, solver)).abs().flatten(1).amax(1)
        assert torch.allclose(torch.as_tensor(found[f"{label}: error"]["values"]), apart, atol=1e-4)
        assert all(1 <= calls <= 12 for calls in found[f"{label}: calls"]["values"])


def test_shipped_closeness_is_of_these_weights_alone(subject, monkeypatch, tmp_path):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path))
    record = rounds.closeness_cell(subject, 2, steps=8).measure("smoke")
    foreign = dataclasses.replace(record, model=record.model | {"weights_hash": "other"})
    monkeypatch.setattr(records, "load_shipped", lambda: [record, foreign])
    found = rounds.closeness(subject)
    more, calls = rounds.fewer(subject), [record.values[f"{label}: calls"] for label in record.asked["arms"]]
    assert list(more) == ["picard", "paradigms"] and more["picard"].value == (calls[1] - calls[0]).mean() and more["picard"].n == 2
    assert found[["solver", "method", "unit"]].apply(tuple, axis=1).tolist() == list(rounds.WAYS)
    assert (found.calls <= found.calls_max).all() and (found.calls_max <= 8).all() and found.near.between(0, 1).all() and (found.images == 2).all()
    monkeypatch.setattr(records, "load_shipped", lambda: [foreign])
    assert rounds.closeness(subject).empty and rounds.fewer(subject) == {}
