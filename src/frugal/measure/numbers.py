"""Headline numbers of chapter 5, derived from its tables: the only results that prose may quote."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .decay import AUTOENCODER, UNRELATED
from .plan import EMBEDDED, PUBLISHED
from .timing import UNSURE, time_share

MIDDLE = 0.5  # the ratio the thesis finds best


def numbers(tables: Mapping[str, pd.DataFrame]) -> dict[str, float | str]:
    """Flat {name: number or text} of what the tables hold; a table that is missing or empty gives none.

    `tables`: network, seconds, decode, changes, detectable, attention, memory, quality, fits, baselines, dataset_changes,
    noop, as `experiments.Run` names them. Names begin with the model's, "-" written "_"; a number that is not finite is
    left out.
    """
    found: dict[str, float | str] = {}
    for name, derive in DERIVED.items():
        table = tables.get(name)
        if table is not None and len(table):
            found |= derive(table)
    found |= _pair(tables)
    plain = {name: value if isinstance(value, str) else float(value) for name, value in found.items()}
    return {name: value for name, value in plain.items() if isinstance(value, str) or np.isfinite(value)}


def slug(model: str) -> str:
    """A model's name as the beginning of a number's."""
    return model.replace("-", "_").replace("/", "_")


def percent(ratio: float) -> str:
    return f"{100 * ratio:.0f}"


def _network(table: pd.DataFrame) -> dict:
    base = table[(table.ratio == 0) & (table.kind == "measured")].groupby("model").seconds
    return {f"{slug(model)}_step_seconds": value for model, value in base.median().items()}


def _seconds(table: pd.DataFrame) -> dict:
    measured = table[table.ratio == 0]
    found = {
        f"{slug(model)}_image_seconds": s
        for model, s in measured[measured.kind == "measured"].groupby("model").seconds.mean().items()
    }
    return found | {"image_steps": int(table.steps.iloc[0])}


def _decode(table: pd.DataFrame) -> dict:
    return {
        f"{slug(model)}_decode_seconds": seconds for model, seconds in table.groupby("model").seconds.median().items()
    }


def _detectable(table: pd.DataFrame) -> dict:
    return {f"{slug(row.model)}_detectable": row.effect for row in table.itertuples()}


def _changes(table: pd.DataFrame) -> dict:
    """The change at 50 %, a measured one before a composed one, and the best one of those measured, if any was."""
    found: dict[str, float | str] = {}
    preferred = table.sort_values("kind", key=lambda kind: kind != "measured").drop_duplicates(["model", "ratio"])
    for model, rows in preferred.groupby("model", sort=False):
        whole = rows[rows.kind == "measured"]
        best = rows.loc[(whole if len(whole) else rows).change.idxmin()]
        at = rows.set_index("ratio")
        name = slug(model)
        found |= {
            f"{name}_best_ratio": best.ratio,
            f"{name}_best_change": best.change,
            f"{name}_best_verdict": best.verdict,
            f"{name}_best_kind": best.kind,
        }
        found |= {f"{name}_told_apart": int((rows.verdict != UNSURE).sum())}
        if MIDDLE in at.index:
            middle = at.loc[MIDDLE]
            found |= {f"{name}_change_50_{key}": middle[key] for key in ("low", "high", "verdict", "kind")}
            found[f"{name}_change_50"] = middle.change
    return found


def _attention(table: pd.DataFrame) -> dict:
    found = {}
    for row in table.itertuples():
        name = slug(row.model)
        found |= {f"{name}_parameters": row.parameters, f"{name}_gflop": row.flops / 1e9}
        found |= {f"{name}_attention_share": row.share, f"{name}_speedup_bound": row.bound}
    return found


def _memory(table: pd.DataFrame) -> dict:
    return {f"{slug(row.model)}_memory_mib_{percent(row.ratio)}": row.bytes / 2**20 for row in table.itertuples()}


def _quality(table: pd.DataFrame) -> dict:
    means = table[table.ratio > 0].groupby(["model", "ratio"])[["psnr", "ssim"]].mean()
    found = {"quality_images": table.image.nunique()}
    return found | {
        f"{slug(model)}_{quantity}_{percent(ratio)}": row[quantity]
        for (model, ratio), row in means.iterrows()
        for quantity in ("psnr", "ssim")
    }


def _fits(table: pd.DataFrame) -> dict:
    found = {}
    for row in table.itertuples():
        name = f"{slug(row.model)}_{row.metric}"
        found |= {f"{name}_better_fit": row.better, f"{name}_fit_advantage": row.advantage, f"{name}_rate": row.c}
        found |= {f"{name}_fit_advantage_low": row.low, f"{name}_fit_advantage_high": row.high}
        found |= {f"{name}_error_exponential": row.error_exponential, f"{name}_error_linear": row.error_linear}
    return found


def _baselines(table: pd.DataFrame) -> dict:
    names = {UNRELATED: "unrelated", AUTOENCODER: "autoencoder"}
    means = table.groupby(["model_or_baseline", "ratio"], dropna=False)[["psnr", "ssim"]].mean()
    found = {}
    for (source, ratio), row in means.iterrows():
        end = "" if source in names else f"_{percent(ratio)}"
        begin = names.get(source, f"{slug(source)}_to_dataset")
        found |= {f"{begin}_{quantity}{end}": row[quantity] for quantity in ("psnr", "ssim")}
    return found


def _dataset_changes(table: pd.DataFrame) -> dict:
    sure = table.verdict != UNSURE
    counts = sure.groupby([table.model, table.quantity]).sum()
    return {f"{slug(model)}_to_dataset_{quantity}_told_apart": n for (model, quantity), n in counts.items()}


def _noop(table: pd.DataFrame) -> dict:
    found: dict[str, float | str] = {}
    for row in table.itertuples():
        version = f"noop_{row.diffusers.replace('.', '_')}"
        found[f"{version}_tokens_{percent(row.ratio)}"] = row.tokens_after
    for diffusers, rows in table.groupby("diffusers"):
        version = f"noop_{diffusers.replace('.', '_')}"
        found |= {
            f"{version}_patched": rows.patched.sum(),
            f"{version}_output": "identical" if rows.identical.all() else "changed",
        }
    return found | {"noop_patched": int(table.patched.sum())}


def _pair(tables: Mapping[str, pd.DataFrame]) -> dict:
    """The thesis's sections 5.5 and 6.1: the latent model's share of the pixel model's time, over all ratios."""
    seconds, decode, attention = (tables.get(name) for name in ("seconds", "decode", "attention"))
    found: dict[str, float | str] = {}
    for prefix, (pixel, latent) in (("published", PUBLISHED), ("embedded", EMBEDDED)):
        if attention is not None and {pixel, latent} <= set(attention.model):
            parameters = attention.set_index("model").parameters
            found[f"{prefix}_parameter_ratio"] = parameters[latent] / parameters[pixel]
        if seconds is None or not {pixel, latent} <= set(seconds.model):
            continue
        found |= _shares(f"{prefix}_time_share", time_share(seconds, pixel, latent))
        if decode is not None and latent in set(decode.model):
            decoding = decode[decode.model == latent].seconds.median()
            found |= _shares(f"{prefix}_time_share_with_decoding", time_share(seconds, pixel, latent, decoding))
    return found


def _shares(name: str, shares: pd.Series) -> dict:
    return {name: shares[0.0], f"{name}_lowest": shares.min(), f"{name}_highest": shares.max()}


DERIVED = {
    "network": _network, "seconds": _seconds, "decode": _decode, "detectable": _detectable, "changes": _changes,
    "attention": _attention, "memory": _memory, "quality": _quality, "fits": _fits, "baselines": _baselines,
    "dataset_changes": _dataset_changes, "noop": _noop,
}  # fmt: skip
