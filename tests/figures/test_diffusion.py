import pandas as pd
import pytest
import torch

from frugal import zoo
from frugal.figures import diffusion
from frugal.models import faces


@pytest.fixture(scope="module")
def model():
    return zoo.load("faces-ddpm", device="cpu")


def test_figure_1_1_has_noise_guesses_and_a_generation_at_every_time(model, about):
    face = faces.Faces("test")[7]["image"]
    drawn = diffusion.training_and_inference(model, face, about, times=(0, 500, 999), steps=2)
    assert len(drawn.figure.axes) == 9 and "Figure 1.1" in drawn.caption
    assert [axes.get_title(loc="left") for axes in drawn.figure.axes[:3]] == ["t = 0", "t = 500", "t = 999"]


def test_the_guess_is_worse_the_more_noise_there_is(model):
    noisy, guess, errors = diffusion.noise_and_guess(model, faces.Faces("test")[7]["image"], (0, 400, 999), seed=0)
    assert noisy.shape == guess.shape == (3, 3, 64, 64)
    assert errors[0] < errors[1] < errors[2] and errors[0] < 1e-3


def test_a_generation_begins_with_its_seed_s_noise_and_ends_in_its_image(model):
    last, first = diffusion.generation(model, (0, 999), seed=4, steps=3)
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(first, (noise / 2 + 0.5).clamp(0, 1), atol=1e-6)
    assert torch.equal(last, diffusion.samplers.sample(model, [4], steps=3)[0])


def test_variety_is_the_mean_difference_of_pairs(about):
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8), torch.ones(3, 8, 8)])
    assert diffusion.variety(images) == pytest.approx(2 / 3) and diffusion.variety(images[1:]) == 0
    assert "twice the same 0.000" in diffusion.compared_loops({"twice the same": images[1:], "data": images[:2]}, about).alt


def test_growth_cites_a_source_for_every_row_and_counts_what_can_be_counted(about):
    table = pd.read_csv(diffusion.GROWTH)
    assert table.source.str.len().gt(5).all() and table.url.str.startswith("https://arxiv.org/abs/").all()
    for name in ("ddpm-cifar10-32", "ddpm-celebahq-256", "ldm-celebahq-256", "stable-diffusion-v1-5"):
        counted = sum(p.numel() for p in zoo.architecture(name)["unet"].parameters())
        assert counted in set(table.parameters.dropna().astype(int)), name
    drawn = diffusion.growth(about)
    labels = {text.get_text() for text in drawn.figure.axes[0].texts}
    assert set(table.name) <= labels
    left, right = (corner[0] for corner in drawn.figure.axes[0].get_legend().get_window_extent().get_points())
    dotted = [line.get_window_extent().x0 for line in drawn.figure.axes[0].lines if line.get_linestyle() == ":"]
    assert len(dotted) == 3 and not any(left < x < right for x in dotted)


def test_whether_models_grew_steadily_is_computed_from_the_table():
    dates = pd.to_datetime(["2020", "2021", "2022"])
    sizes = pd.DataFrame({"kind": "model", "name": ["a", "b", "c"], "date": dates, "field": "images"})
    passed = pd.DataFrame({"kind": ["benchmark"], "name": ["d"], "date": pd.to_datetime(["2015"]), "field": ["vision"]})
    verdict = lambda *billions: diffusion.grown(pd.concat([sizes.assign(parameters=[1e9 * x for x in billions]), passed]))
    told, steady = verdict(1, 2, 3)
    assert told == "images: a (2020) 1 billion, c (2022) 3 billion; human reference passed: d 2015" and steady is True
    told, partly = verdict(1, 3, 2)
    assert "b (2021) 3 billion, the last c (2022) 2 billion" in told
    assert partly.startswith("holds in part") and "steadily in images" in partly
    assert verdict(2, 3, 1)[1] is False
    assert isinstance(diffusion.grown()[1], str)
