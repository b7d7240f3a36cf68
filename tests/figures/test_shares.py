import numpy as np
import pandas as pd
import pytest

from frugal.figures import shares


def test_a_share_is_of_medians_with_decoding_in_the_latent_model_s_time():
    seconds = {"pixel": [9.0, 10.0, 11.0], "latent": [1.0, 2.0, 4.0]}
    rows = [(model, ratio, value, "measured") for model, values in seconds.items() for ratio in (0.0, 0.5) for value in values]
    times = pd.DataFrame([*rows, ("pixel", 0.9, 1.0, "measured"), ("latent", 0.9, 1.0, "composed")], columns=["model", "ratio", "seconds", "kind"])
    alone, decoded = (shares.intervals(times, "pixel", "latent", decoding) for decoding in (0.0, 3.0))
    assert alone.share.tolist() == [0.2] * 2 and decoded.share.tolist() == [0.5] * 2 and alone.index.tolist() == [0, 0.5]
    assert np.allclose(decoded[["low", "high"]], [4 / 11, 7 / 9])  # of so few rounds from the least to the most
    single = shares.intervals(times.drop_duplicates(["model", "ratio"]), "pixel", "latent", 3.0)
    assert single.share.tolist() == pytest.approx([4 / 9] * 2) and single[["low", "high"]].isna().all(axis=None)
