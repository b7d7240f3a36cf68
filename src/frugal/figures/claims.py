"""The thesis's statements against a run's tables: of each the measurement and a verdict, as text."""

import pandas as pd

from ..measure.plan import EMBEDDED, PUBLISHED
from ..measure.timing import time_share
from ..models import zoo
from . import times as timing
from .style import SMOKE
from .words import NEAR_HALF, QUARTER, UNSURE, holds, listed, near_half, percent, span

NOT_MEASURED = "not measured in this run"
MIDDLE = 0.5  # the ratio that the thesis finds best
MARGINAL = 0.01  # a saving of time up to which it is called marginal


def against(run) -> dict[str, str]:
    """{"claim_NAME": measurement, "verdict_NAME": verdict} for every statement, from an `experiments.Run`."""
    found: dict[str, str] = {}
    for name, judge in CLAIMS.items():
        measured, verdict = judge(run) or (NOT_MEASURED, "open")
        found[f"claim_{name}"] = measured
        found[f"verdict_{name}"] = SMOKE if run.request.scale == "smoke" else verdict
    return found


def _pair(run, pair=PUBLISHED) -> bool:
    return set(pair) <= set(run.attention.model)


def _published_changes(run) -> dict[str, pd.DataFrame]:
    found = timing.effects(run.seconds)
    return {model: found[found.model == model] for model in PUBLISHED}


def _parameters(run):
    if _pair(run):
        pixel, latent = run.attention.set_index("model").parameters.loc[list(PUBLISHED)]
        measured = f"{pixel:,} and {latent:,} counted, a ratio of {latent / pixel:.2f}"
        return measured, "confirmed" if (round(pixel / 1e6), round(latent / 1e6)) in [
            (113, 274),
            (114, 274),
        ] else "not confirmed"


def _billion(run):
    networks = zoo.architecture("stable-diffusion-v1-5")
    count = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    total = sum(count.values())
    return f"{total:,} counted, {count['unet']:,} of them in the network", "confirmed" if abs(
        total / 1e9 - 1
    ) < 0.1 else "not confirmed"


def _near_half(run):
    if _pair(run):
        found = {model: near_half(rows) for model, rows in _published_changes(run).items()}
        agree = sum(text.startswith("seen") for text in found.values())
        unsure = any(text.startswith("open") for text in found.values())
        return _each(found), "open" if unsure else ("not confirmed", "confirmed for one model", "confirmed")[agree]


def _marginal(run):
    if _pair(run):
        best = {model: rows.loc[rows.change.idxmin()] for model, rows in _published_changes(run).items()}
        told = {m: f"{percent(row.change, signed=True)} at {row.ratio:.0%} ({row.verdict})" for m, row in best.items()}
        large = any(row.verdict == "faster" and row.change < -MARGINAL for row in best.values())
        blind = any(row.verdict == UNSURE and not row.detectable <= MARGINAL for row in best.values())
        limit = percent(MARGINAL)
        verdict = f"more than {limit} for one model at least" if large else f"open: {limit} could not be told" if blind else ""
        return f"best {_each(told)}", verdict or f"confirmed: at most {limit}"


def _slower(run):
    if _pair(run):
        slower = {model: rows.ratio[rows.verdict == "slower"] for model, rows in _published_changes(run).items()}
        told = {
            model: f"slower at {listed(ratios)}" if len(ratios) else "slower at no ratio"
            for model, ratios in slower.items()
        }
        apart = [((ratios - MIDDLE).abs() > 0.1 + 1e-9).any() for ratios in slower.values()]
        return _each(told), "confirmed" if all(apart) else "confirmed for one model" if any(apart) else "not confirmed"


def _bound(run):
    if _pair(run):
        rows = run.attention.set_index("model").loc[list(PUBLISHED)]
        told = {
            row.Index: f"attention is {100 * row.share:.3g}% of the FLOPs of {row.parameters / 1e6:.1f} M parameters"
            for row in rows.itertuples()
        }
        few, many = (rows.share[rows.parameters == f(rows.parameters)].iloc[0] for f in (min, max))
        verdict = "not confirmed: attention's share bounds the gain, and the larger network has the larger share"
        return _each(told), verdict if many > few else "consistent: the smaller share is the larger network's"


def _decay(run):
    if run.trained and len(run.fits):
        told = {f"{row.model}, {row.metric.upper()}": row.better for row in run.fits.itertuples()}
        forms = set(told.values())
        verdicts = {"exponential": "confirmed", "linear": "not confirmed: a line fits better"}
        verdict = verdicts.get(*forms, "the two forms cannot be told apart") if len(forms) == 1 else "mixed"
        if verdict == "confirmed" and not ((run.fits.b > 0) & (run.fits.c > 0)).all():
            verdict = "not confirmed: the fall steepens, a decay flattens"
        return f"better fit {_each(told)}", verdict


def _share(run, statement):
    """The latent model's share of the pixel model's time at every ratio, and how often a statement about it holds."""
    if not _pair(run):
        return None
    decoding = float(run.decode[run.decode.model == PUBLISHED[1]].seconds.median())
    without, including = (time_share(run.seconds, *PUBLISHED, added) for added in (0.0, decoding))
    verdict = f"{holds(statement(without))}; with decoding it {holds(statement(including))}"
    return f"{span(without)} of the time, {span(including)} with decoding", verdict


def _half(run):
    return _share(run, lambda share: share.between(*NEAR_HALF))


def _saved(run):
    return _share(run, lambda share: share < QUARTER)


def _worth(run):
    if not run.trained or not set(EMBEDDED) <= set(run.quality.model) or MIDDLE not in run.ratios:
        return None
    found, told, worth = timing.effects(run.seconds).set_index(["model", "ratio"]), {}, []
    for model in EMBEDDED:
        at, lost = found.loc[model, MIDDLE], run.quality[(run.quality.model == model) & (run.quality.ratio == MIDDLE)]
        change = at.verdict if at.verdict == UNSURE else percent(at.change, signed=True)
        told[model] = f"time {change}, {lost.psnr.mean():.1f} dB and SSIM {lost.ssim.mean():.2f} at {MIDDLE:.0%}"
        worth.append(at.verdict)
    verdict = "confirmed for the embedded pair: no time is saved" if set(worth) == {"slower"} else "open: whether time is saved could not be told"
    return _each(told), "depends on what the loss is worth" if "faster" in worth else verdict


def _each(told: dict[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in told.items())


CLAIMS = {
    "parameters": _parameters, "billion": _billion, "near_half": _near_half, "marginal": _marginal,
    "slower": _slower, "bound": _bound, "decay": _decay, "half": _half, "saved": _saved, "worth": _worth,
}  # fmt: skip
