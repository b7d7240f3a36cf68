"""Distances of draft and target along a path: the path is the sampler's own, and the drafts miss what a formula says."""

import numpy as np
import pytest
import torch

from frugal import paths
from frugal.measure import draft_distances as found
from frugal.measure.plan import Subject
from frugal.methods.chain import chain
from frugal.methods.drafts import FrozenClean, FrozenVelocity, Tweedie
from frugal.methods.samplers import denoise

STEPS, CHURN, LAGS = 8, 0.6, (1, 3)


@pytest.fixture(scope="module")
def subject():
    return Subject("faces-ldm")


@pytest.fixture(scope="module")
def walked(subject):
    walk = chain(subject.model, STEPS, CHURN)
    return walk, *found.path(subject, walk, 5)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path / "records"))
    return {"steps": STEPS, "lags": LAGS, "seed": 5, "scale": "smoke"}


def test_a_path_is_that_of_the_sequential_sampler(subject, walked):
    _, states, cleans = walked
    theirs = list(denoise(subject.model, [5], STEPS, "ddim", eta=CHURN))
    assert torch.allclose(states[1:], torch.cat([s.sample for s in theirs[:-1]]), atol=1e-4)
    assert torch.allclose(cleans, torch.cat([s.clean for s in theirs]), atol=1e-4)


def test_a_frozen_clean_image_misses_by_its_own_change(walked):
    walk, states, cleans = walked
    apart = found.drafted(walk, states, cleans, FrozenClean(), LAGS)
    for row, lag in zip(apart, LAGS, strict=True):
        for k, first in enumerate(range(1, STEPS - 1)):
            at = first + lag - 1
            if at > STEPS - 2:  # the last step draws no noise
                assert row[k].isnan().all()
            else:
                assert torch.allclose(row[k], walk.clean_weight[at] * (cleans[first - 1] - cleans[at]), atol=1e-5)


def test_a_frozen_velocity_moves_by_the_share_of_the_signal(walked):
    walk, states, cleans = walked
    [row] = found.drafted(walk, states, cleans, FrozenVelocity(walk), (2,))
    velocity = (walk.signal[1] * states[1] - cleans[1]) / walk.spread[1]
    guess = walk.signal[3] * states[3] - walk.spread[3] * velocity
    assert torch.allclose(row[1], walk.clean_weight[3] * (guess - cleans[3]), atol=1e-5)


def test_the_gain_of_a_step_knows_none_that_follow(walked):
    walk, states, cleans = walked
    sums = found.gain_sums(walk, states, cleans)
    changed = cleans.clone()
    changed[4:] += 1
    others = found.gain_sums(walk, states, changed)
    assert sums.shape == (STEPS, 2, 4) and not sums[:2].any()
    assert torch.equal(sums[:5], others[:5]) and not torch.equal(sums[5], others[5])
    apart = found.drafted(walk, states, cleans, Tweedie(walk), (1,))[0]
    surprise = states[4] - walk.expected(torch.tensor(3), states[3], cleans[3])
    guess = cleans[3] + (sums[4, 0] / sums[4, 1]).clamp(-1, 1)[:, None, None] * surprise
    assert torch.allclose(apart[3], walk.clean_weight[4] * (guess - cleans[4]), atol=1e-5)


def test_tables_agree_with_one_another_and_come_back_from_records(subject, store):
    table = found.distances(subject, churns=[CHURN], **store)
    assert set(table.draft) == {"velocity", "clean", "tweedie"} and np.isfinite(table.distance).all()
    assert table.groupby("lag").step.agg(["min", "max"]).to_numpy().tolist() == [[1, 6], [3, 6]]
    [row] = found.across([subject], churn=CHURN, **store).to_dict("records")
    assert row["model"] == "faces-ldm" and row["dimensions"] == 4 * 16 * 16
    for draft in found.DRAFTS:
        assert row[draft] == table[(table.draft == draft) & (table.lag == 1)].distance.median()
    assert len(list(paths.results("smoke").glob("*.json"))) == 1  # one path serves all
    gains = found.gains(subject, churn=CHURN, **store)
    assert gains.step.tolist() == list(range(2, STEPS)) and gains.velocity.between(0, 1).all() and np.isfinite(gains.tweedie).all()


@pytest.mark.parametrize(("name", "value"), [("lags", (2, 3)), ("lags", (0, 1)), ("steps", 3), ("churns", [0.0])])
def test_what_is_not_allowed_is_said_in_one_line(subject, store, name, value):
    with pytest.raises(ValueError, match="allowed") as wrong:
        found.distances(subject, **({"churns": [CHURN]} | store | {name: value}))
    assert "\n" not in str(wrong.value)
