import torch

from frugal.figures import sheets
from frugal.measure import redundancy


def test_the_picture_of_merging_counts_its_tokens(about):
    images = {"noise": torch.rand(3, 32, 32), "a photograph": redundancy.photograph(32)}
    drawn = sheets.merging(images, about, ratios=(0.0, 0.5))
    titles = [axes.get_title(loc="left") for axes in drawn.figure.axes]
    assert titles[::2] == ["0%: 64 tokens"] * 2
    assert all(title.startswith("50%: 32 tokens, ") and title.endswith(" dB") for title in titles[1::2])
    assert "a photograph" in drawn.alt


def test_examples_have_a_row_a_model_and_seed_and_a_column_a_ratio(about):
    images = {model: {ratio: torch.full((2, 3, 8, 8), ratio) for ratio in (0.0, 0.5, 0.9)} for model in ("a", "b")}
    drawn = sheets.examples(images, [3, 4], about)
    assert len(drawn.figure.axes) == 12
    assert drawn.figure.axes[1].images[0].get_array().max() == 0.5
    assert "seed 4" in drawn.figure.axes[3].get_ylabel() and "3, 4" in drawn.alt


def test_sheets_beside_the_data_show_as_many_of_each(about):
    drawn = sheets.beside_data({"faces": torch.zeros(10, 3, 8, 8), "model": torch.zeros(7, 3, 8, 8)}, about, columns=4)
    assert "7 images" in drawn.alt
    assert [axes.images[0].get_array().shape for axes in drawn.figure.axes] == [(16, 32, 3)] * 2
