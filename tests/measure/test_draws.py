from dataclasses import replace

import pytest

from frugal import zoo
from frugal.measure import draws
from frugal.measure.plan import Subject
from frugal.models import faces
from frugal.models.zoo import FACES_GUIDANCE, GUIDANCE


@pytest.fixture
def faced(text_pipeline):
    """It reads with the tokenizer of captions."""
    return Subject.of(zoo.load(text_pipeline))


@pytest.fixture
def prompted(faced):
    """One whose tokenizer spells whatever it is given."""
    return Subject.of(replace(faced.model, tokenizer=lambda texts, **options: None))


def test_a_model_without_text_is_drawn_by_seeds_alone():
    subject = Subject("faces-ddpm")
    assert draws.draw(subject, 3, 5, seed=2) == draws.Draw(5, (2, 3, 4))
    assert draws.draw(subject, 3, 5).options == {}
    with pytest.raises(ValueError, match="prompts"):
        draws.draw(subject, 2, 5, prompts="a face")
    with pytest.raises(ValueError, match="guidance"):
        draws.draw(subject, 2, 5, guidance=2.0)


def test_prompts_are_one_a_seed_and_the_model_s_own_where_none_are_asked_for(prompted):
    lines = draws.PROMPTS.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 20  # the thesis's number of images
    assert draws.draw(prompted, 2, 5, seed=19).prompts == (lines[19], lines[0])
    assert draws.draw(prompted, 2, 5, prompts="one").prompts == ("one", "one")
    assert draws.draw(prompted, 2, 5, prompts=["a", "b"]).prompts == ("a", "b")
    with pytest.raises(ValueError, match="got 3, allowed are 1 or as many as images, 2"):
        draws.draw(prompted, 2, 5, prompts=["a", "b", "c"])


def test_faces_are_prompted_by_captions_of_test_faces_whatever_the_model_is_called(faced, prompted):
    for subject in (Subject("faces-sd"), faced):
        drawn = draws.draw(subject, 2, 5, seed=4)
        assert drawn.prompts == tuple(faces.Faces("test")[k]["caption"] for k in (4, 5)) and drawn.guidance == FACES_GUIDANCE
    assert not prompted.model.of_captions


def test_guidance_is_stated_whatever_was_asked(prompted):
    assert draws.draw(prompted, 1, 5).options["guidance"] == GUIDANCE
    assert draws.draw(prompted, 1, 5, guidance=3).options["guidance"] == 3.0


def test_some_of_the_seeds_keep_their_prompts(prompted):
    part = draws.draw(prompted, 3, 5, prompts=["a", "b", "c"]).part(slice(1, 3))
    assert part.seeds == (1, 2) and part.prompts == ("b", "c") and part.steps == 5
