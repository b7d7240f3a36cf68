"""The latent model's share of the pixel model's time at the ratios that were timed whole, and what can be said of it."""

import numpy as np
import pandas as pd


def intervals(times: pd.DataFrame, pixel: str, latent: str, decoding: float = 0.0) -> pd.DataFrame:
    """Share of the medians at every ratio timed whole, with its 95 % bootstrap interval: ratio (the index), share, low, high.

    Only what `times` (of `timing.image_seconds`) measured counts, nothing composed. The rounds of the two models did not
    take turns, so each is drawn from by itself; a single round has no interval.
    """
    seconds = times[times.kind == "measured"].groupby(["model", "ratio"]).seconds.apply(np.array)
    common = [ratio for ratio in seconds[latent].index if ratio in seconds[pixel].index]
    rows = [_share(seconds[latent, ratio], seconds[pixel, ratio], decoding) for ratio in common]
    return pd.DataFrame(rows, index=pd.Index(common, name="ratio"), columns=["share", "low", "high"])


def holds(found: pd.DataFrame, low: float, high: float) -> str:
    """At how many ratios of `intervals` the share lies between two limits: open where an interval reaches over one."""
    inside = (found.low >= low) & (found.high <= high)
    outside = (found.high < low) | (found.low > high)
    if not (inside | outside).all():
        return "is open: an interval reaches over the limit"
    return "holds at every ratio" if inside.all() else "holds at some ratios" if inside.any() else "does not hold"


def _share(latent: np.ndarray, pixel: np.ndarray, decoding: float) -> tuple[float, float, float]:
    from scipy.stats import bootstrap

    def share(latent, pixel, axis=-1):
        return (np.median(latent, axis=axis) + decoding) / np.median(pixel, axis=axis)

    if min(len(latent), len(pixel)) < 2:
        return share(latent, pixel), np.nan, np.nan
    found = bootstrap((latent, pixel), share, method="percentile", rng=0).confidence_interval
    return share(latent, pixel), found.low, found.high
