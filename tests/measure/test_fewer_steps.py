"""What the shipped samples of the chapters on fewer steps are held against: the bounds that the project set itself."""

import pytest

from frugal.measure import arms, fewer_steps, rounds, speculation
from frugal.measure.plan import Subject

CALLS = {"faces-ldm": {1.0: 26, 2.0: 20}, "faces-ddpm": {1.0: 40, 2.0: 30}}  # of a 100-step chain, at most, by temperature
ROUNDS = 25  # of 200 steps by ParaDiGMS


@pytest.mark.parametrize("model", CALLS)
@pytest.mark.parametrize("temperature", fewer_steps.TEMPERATURES)
def test_speculation_takes_no_more_calls_than_it_may(model, temperature):
    found = arms.shipped(Subject(model)).set_index("arm").loc[speculation.speculation(fewer_steps.CHAIN, temperature=temperature).label]
    assert found.images >= fewer_steps.PACED and 10 < found.calls <= CALLS[model][temperature]
    assert found.rows <= 10 * fewer_steps.CHAIN


def test_parallel_sampling_keeps_the_quality_and_the_better_way_the_images_in_fewer_rounds():
    ldm = Subject("faces-ldm")
    found = arms.shipped(ldm).set_index("arm")
    published, sequential = found.loc["parallel, 200 steps, method paradigms"], found.loc["ddim, 200 steps"]
    assert published.images >= fewer_steps.IMAGES and 10 < published.calls <= ROUNDS
    assert sequential.kid_low <= published.kid <= sequential.kid_high
    near = rounds.closeness(ldm).set_index(["solver", "method"])
    ours, theirs = (near.loc["ddim", method] for method in ("anderson", "paradigms"))
    assert ours.images == theirs.images >= fewer_steps.PACED and ours.calls < theirs.calls and ours.error <= rounds.NEAR < theirs.error
