import numpy as np
import pytest
import torch

from frugal.measure import redundancy
from frugal.models import faces


def test_merged_patches_are_the_means_of_their_groups():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen, groups = redundancy.merged_patches(image, 0.5)
    cut, merged = (torch.nn.functional.unfold(x[None], 4, stride=4)[0].T for x in (image, seen))
    for group in groups.unique():
        members = (groups == group).flatten()
        assert torch.allclose(merged[members], cut[members].mean(0).expand(int(members.sum()), -1), atol=1e-6)
    assert len(groups.unique()) == 32


def test_nothing_merged_is_the_image_itself():
    image = torch.rand(3, 32, 32)
    seen, groups = redundancy.merged_patches(image, 0.0)
    assert torch.equal(seen, image) and len(groups.unique()) == 64


@pytest.mark.parametrize("name", redundancy.PHOTOGRAPHS)
def test_photographs_are_square_and_no_flat_colour(name):
    image = redundancy.photograph(64, name)
    assert image.shape == (3, 64, 64) and 0 <= image.min() and image.max() <= 1 and image.std() > 0.1
    assert redundancy.patches(image).shape == (256, 48)


def test_an_unknown_photograph_is_refused_by_name():
    with pytest.raises(ValueError, match="name: got 'cat', allowed are astronaut"):
        redundancy.photograph(64, "cat")


def test_twins_are_found_at_their_distance():
    image = torch.zeros(3, 8, 8)
    image[:, :4, 4:], image[:, 4:, :4], image[:, 4:, 4:] = 0.5, 0.6, 0.1
    assert np.allclose(redundancy.twin_distances(image), [0.1, 0.1, 0.1, 0.1])
    assert np.allclose(redundancy.twin_distances(torch.zeros(3, 8, 8)), 0)


def test_drawn_faces_have_more_twins_and_lose_less_than_photographs():
    drawn = faces.Faces("test", size=64).images(range(4))
    photographs = torch.stack([redundancy.photograph(64, name) for name in redundancy.PHOTOGRAPHS])
    near = [np.mean([np.mean(redundancy.twin_distances(i) < 0.02) for i in images]) for images in (drawn, photographs)]
    assert near[0] > near[1]
    table = redundancy.redundancy({"drawn": drawn, "photographs": photographs}, (0.25, 0.5))
    means = table.groupby(["kind", "ratio"]).psnr.mean()
    assert means["drawn", 0.5] > means["photographs", 0.5] and means["drawn", 0.25] > means["drawn", 0.5]
