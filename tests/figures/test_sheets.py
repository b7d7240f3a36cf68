import torch

from frugal.figures import sheets


def test_merged_patches_are_the_means_of_their_groups():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen, groups = sheets.merged_patches(image, 0.5)
    cut, merged = (torch.nn.functional.unfold(x[None], 4, stride=4)[0].T for x in (image, seen))
    for group in groups.unique():
        members = (groups == group).flatten()
        assert torch.allclose(merged[members], cut[members].mean(0).expand(int(members.sum()), -1), atol=1e-6)
    assert len(groups.unique()) == 32


def test_nothing_merged_is_the_image_itself():
    image = torch.rand(3, 32, 32)
    seen, groups = sheets.merged_patches(image, 0.0)
    assert torch.equal(seen, image) and len(groups.unique()) == 64


def test_the_picture_of_merging_counts_its_tokens(about):
    images = {"noise": torch.rand(3, 32, 32), "a photograph": sheets.photograph(32)}
    drawn = sheets.merging(images, about, ratios=(0.0, 0.5))
    titles = [axes.get_title(loc="left") for axes in drawn.figure.axes]
    assert titles[::2] == ["0%: 64 tokens"] * 2
    assert all(title.startswith("50%: 32 tokens, ") and title.endswith(" dB") for title in titles[1::2])
    assert "a photograph" in drawn.alt


def test_the_photograph_is_one():
    image = sheets.photograph()
    assert image.shape == (3, 64, 64) and 0 <= image.min() and image.max() <= 1 and image.std() > 0.1


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
