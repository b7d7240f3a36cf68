"""Does quality decay exponentially or linearly with the ratio, and can the data tell?"""

import numpy as np
import pandas as pd

FEWEST = 4  # ratios above 0: leaving one out, an exponential's three numbers need three others
RATES = np.geomspace(0.01, 30, 300)
RATES = np.concatenate([-RATES[::-1], RATES])  # c of exp(-c r); below 0 the fall gets steeper with the ratio
RESAMPLES = 1000


def fit_decay(df: pd.DataFrame, quantity: str, seed: int = 0) -> pd.DataFrame:
    """Exponential a + b exp(-c r) and linear intercept + slope r fits of the mean `quantity` over the ratios r above 0.

    `df` as `quality_decay` gives it. One row a model with at least four such ratios: model, metric, images, a, b, c,
    intercept, slope, error_exponential and error_linear (root mean square error of predicting a ratio left out, in the
    quantity's unit), advantage (linear error less exponential error: above 0 the exponential is better) with its 95 %
    bootstrap interval over images low .. high, share (of the resamples in which the exponential is better), better
    ("exponential", "linear" or "not distinguishable"). A ratio that leaves an image identical, PSNR infinite, is left out.
    Both fits are linear least squares, the exponential's for every rate of a grid (variable projection, Golub and
    Pereyra 1973): nothing to start from, nothing that fails to converge. Raises ValueError for an unknown quantity.
    """
    if quantity not in ("psnr", "ssim"):
        raise ValueError(f"quantity: got {quantity!r}; psnr and ssim are allowed")
    rows = []
    for model, group in df[df.ratio > 0].groupby("model", sort=False):
        table = group.pivot(index="image", columns="ratio", values=quantity)
        table = table.loc[:, np.isfinite(table).all()]
        if table.shape[1] >= FEWEST:
            rows.append({"model": model, "metric": quantity, **_row(table, seed)})
    columns = ["model", "metric", "images", "a", "b", "c", "intercept", "slope", "error_exponential", "error_linear"]
    return pd.DataFrame(rows, columns=[*columns, "advantage", "low", "high", "share", "better"])


def curves(fits: pd.DataFrame, ratios=None) -> pd.DataFrame:
    """Both fitted curves, for drawing: model, metric, form ("exponential" or "linear"), ratio, value."""
    ratios = np.linspace(0.1, 0.9, 81) if ratios is None else np.asarray(ratios, dtype=float)
    parts = []
    for fit in fits.itertuples():
        forms = {"exponential": fit.a + fit.b * np.exp(-fit.c * ratios), "linear": fit.intercept + fit.slope * ratios}
        parts += [
            pd.DataFrame({"model": fit.model, "metric": fit.metric, "form": form, "ratio": ratios, "value": values})
            for form, values in forms.items()
        ]
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=["model", "metric", "form", "ratio", "value"])
    )


def _row(table: pd.DataFrame, seed: int) -> dict:
    ratios, values = table.columns.to_numpy(dtype=float), table.to_numpy()
    n = len(values)
    draws = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    means = np.vstack([values.mean(0), values[draws].mean(1)])  # as measured, then the resamples
    bases = {"exponential": np.exp(-RATES[:, None] * ratios), "linear": ratios[None]}
    errors = {form: _left_out_errors(basis, means) for form, basis in bases.items()}
    advantage = errors["linear"] - errors["exponential"]
    (a, b, place), (intercept, slope, _) = (tuple(x[0] for x in _fit(basis, means[:1])) for basis in bases.values())
    low, high = np.quantile(advantage[1:], [0.025, 0.975]) if n > 1 else (np.nan, np.nan)
    better = "exponential" if low > 0 else "linear" if high < 0 else "not distinguishable"
    row = {"images": n, "a": a, "b": b, "c": RATES[place], "intercept": intercept, "slope": slope}
    row |= {f"error_{form}": error[0] for form, error in errors.items()}
    row |= {"advantage": advantage[0], "low": low, "high": high, "share": (advantage[1:] > 0).mean(), "better": better}
    return {key: value if isinstance(value, str | int) else float(value) for key, value in row.items()}


def _fit(basis: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Constant, factor and place of the row of `basis` [shapes, ratios] closest to each row of y [rows, ratios]."""
    mean = basis.mean(1)
    x, centred = basis - mean[:, None], y - y.mean(1, keepdims=True)
    spread, common = (x**2).sum(1), centred @ x.T
    place = (common**2 / spread).argmax(1)  # the sum of squares that is explained
    factor = common[np.arange(len(y)), place] / spread[place]
    return y.mean(1) - factor * mean[place], factor, place


def _left_out_errors(basis: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Root mean square error of each row of y, every ratio predicted from the others."""
    squares = []
    for out in range(y.shape[1]):
        kept = np.arange(y.shape[1]) != out
        constant, factor, place = _fit(basis[:, kept], y[:, kept])
        squares.append((constant + factor * basis[place, out] - y[:, out]) ** 2)
    return np.sqrt(np.mean(squares, axis=0))
