"""Tables as the measurements give them, made up and small."""

import numpy as np
import pandas as pd
import pytest

from frugal.figures import style

PAIR = {"ddpm-celebahq-256": 600.0, "ldm-celebahq-256": 250.0}
RATIOS = [k / 10 for k in range(10)]


@pytest.fixture
def about():
    return style.About("quick", "a machine, 1 thread, float32")


@pytest.fixture
def times():
    """Both models at ten ratios in five rounds: the pixel model stays, the latent one gains 10% a unit of ratio."""
    rng = np.random.default_rng(0)
    rows = [
        (model, "random", ratio, k, base * (1 - 0.1 * ratio * ("ldm" in model) + 1e-3 * rng.standard_normal()))
        for model, base in PAIR.items()
        for ratio in RATIOS
        for k in range(5)
    ]
    table = pd.DataFrame(rows, columns=["model", "weights", "ratio", "round", "seconds"])
    table = table.assign(kind=np.where(table.ratio.isin([0, 0.5, 0.9]), "measured", "composed"))
    twin = table[table.ratio == 0].assign(kind="again", seconds=lambda t: t.seconds * (1 + 1e-3 * rng.standard_normal(len(t))))
    return pd.concat([table, twin], ignore_index=True).assign(steps=200, scaled=True)


@pytest.fixture
def decode():
    return pd.DataFrame({"model": "ldm-celebahq-256", "round": range(3), "seconds": [5.0, 5.0, 6.0]})


@pytest.fixture
def decay():
    """PSNR and SSIM of four images a ratio and model, identical at ratio 0."""
    rows = [
        (model, ratio, image, 40 * np.exp(-ratio) + image if ratio else np.inf, 1 - 0.3 * ratio)
        for model in ("faces-ddpm", "faces-ldm")
        for ratio in RATIOS
        for image in range(4)
    ]
    return pd.DataFrame(rows, columns=["model", "ratio", "image", "psnr", "ssim"]).assign(weights="embedded")
