import numpy as np
import pytest
import torch

from frugal import zoo
from frugal.measure import compression, quality
from frugal.models import drawing, faces


@pytest.fixture(scope="module")
def real():
    return faces.Faces("test").images(range(4))


def test_jpeg_costs_more_bytes_for_more_likeness(real):
    found = [compression.jpeg(real[0], setting) for setting in (10, 50, 95)]
    likeness = [quality.psnr(image[None], real[:1])[0] for image, _, _ in found]
    sizes = [size for _, size, _ in found]
    assert sizes == sorted(sizes) and likeness == sorted(likeness)
    assert all(0 < header < size for _, size, header in found)


def test_rounded_latents_take_bits_times_numbers_and_converge(real):
    model = zoo.load("faces-ldm", device="cpu")
    coarse, size = compression.rounded(model, real, 2)
    fine, _ = compression.rounded(model, real, 16)
    with torch.no_grad():
        exact = (model.decode(model.encode(2 * real - 1).clamp(-3, 3)) / 2 + 0.5).clamp(0, 1)
    assert size == 4 * 16 * 16 * 2 // 8
    assert torch.allclose(fine, exact, atol=1e-2) and quality.psnr(coarse, real).mean() < quality.psnr(fine, real).mean()
    table = compression.rate_distortion(model, real[:2])
    assert set(table.codec) == {"JPEG", "JPEG without header", "latents"} and np.isfinite(table.psnr).all()


def test_regions_are_scored_by_their_own_pixels():
    images = torch.zeros(2, 3, 64, 64)
    masks = torch.zeros(2, len(drawing.REGIONS), 64, 64, dtype=torch.bool)
    masks[:, 0, :32], masks[:, 2, 32:] = True, True
    rebuilt = images.clone()
    rebuilt[:, :, 32:] = 0.1
    found = compression.by_region(rebuilt, images, masks).set_index("region")
    assert found.psnr["skin"] == pytest.approx(20, abs=1e-3) and found.psnr["background"] > 100
    assert list(found.index) == ["background", "skin"] and found.share["skin"] == 0.5
