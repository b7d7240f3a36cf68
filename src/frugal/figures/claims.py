"""Statements of the sources against measurements: of each the measurement and a verdict, as text.

`book/claims.csv` lists them all; a chapter glues what it measured under `claim_NAME` and `verdict_NAME`.
"""

import pandas as pd

from ..measure.plan import EMBEDDED, PUBLISHED
from ..measure.timing import time_share
from ..methods.merging import self_attentions
from ..models import zoo
from . import times as timing
from .glue import glue_all
from .style import SMOKE
from .words import NEAR_HALF, QUARTER, UNSURE, holds, listed, near_half, percent, span

HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
NOT_MEASURED = "not measured in this run"
MIDDLE = 0.5  # the ratio that the thesis finds best
MARGINAL = 0.01  # a saving of time up to which it is called marginal


def keep(name: str, measured: str, verdict: bool | str, scale: str = "quick") -> None:
    """Glue what a chapter found of one statement; a smoke run passes no verdict."""
    said = verdict if isinstance(verdict, str) else HOLDS if verdict else FAILS
    glue_all({f"claim_{name}": measured, f"verdict_{name}": SMOKE if scale == "smoke" else said})


def against(run) -> dict[str, str]:
    """{"claim_NAME": measurement, "verdict_NAME": verdict} for every statement, from an `experiments.Run`."""
    found: dict[str, str] = {}
    for name, judge in CLAIMS.items():
        measured, verdict = judge(run) or (NOT_MEASURED, OPEN)
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
        same = (round(pixel / 1e6), round(latent / 1e6)) in [(113, 274), (114, 274)]
        times = "almost three times" if latent / pixel > 2.75 else f"{latent / pixel:.1f} times, not almost three"
        return measured, f"the counts hold; {times}" if same else FAILS


def _billion(run):
    networks = zoo.architecture("stable-diffusion-v1-5")
    count = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    total = sum(count.values())
    measured = f"{total:,} counted, {count['unet']:,} of them in the network"
    return measured, HOLDS if abs(total / 1e9 - 1) < 0.1 else FAILS


def _near_half(run):
    if _pair(run):
        found = {model: near_half(rows) for model, rows in _published_changes(run).items()}
        agree = sum(text.startswith("seen") for text in found.values())
        unsure = any(text.startswith("open") for text in found.values())
        return _each(found), OPEN if unsure else (FAILS, "holds for one model", HOLDS)[agree]


def _marginal(run):
    if _pair(run):
        best = {model: rows.loc[rows.change.idxmin()] for model, rows in _published_changes(run).items()}
        told = {m: f"{percent(row.change, signed=True)} at {row.ratio:.0%} ({row.verdict})" for m, row in best.items()}
        large = any(row.verdict == "faster" and row.change < -MARGINAL for row in best.values())
        blind = any(row.verdict == UNSURE and not row.detectable <= MARGINAL for row in best.values())
        limit = percent(MARGINAL)
        verdict = f"{FAILS}: more than {limit} for one model at least" if large else f"open: {limit} could not be told" if blind else ""
        return f"best {_each(told)}", verdict or f"{HOLDS}: at most {limit}"


def _slower(run):
    if _pair(run):
        apart = {m: rows[(rows.ratio - MIDDLE).abs() > 0.1 + 1e-9] for m, rows in _published_changes(run).items()}
        slower = {model: rows.ratio[rows.verdict == "slower"] for model, rows in apart.items()}
        told = {m: f"slower at {listed(at)}" if len(at) else "slower at no ratio" for m, at in slower.items()}
        verdicts = set(pd.concat(list(apart.values())).verdict)
        if "faster" in verdicts:
            return _each(told), f"{FAILS}: some are faster"
        return _each(told), HOLDS if verdicts == {"slower"} else f"{OPEN}: could not be told at every ratio"


def _bound(run):
    if _pair(run):
        rows = run.attention.set_index("model").loc[list(PUBLISHED)]
        told = {
            row.Index: f"attention is {100 * row.share:.3g}% of the FLOPs of {row.parameters / 1e6:.1f} M parameters"
            for row in rows.itertuples()
        }
        few, many = (rows.share[rows.parameters == f(rows.parameters)].iloc[0] for f in (min, max))
        verdict = f"{FAILS}: attention's share bounds the gain, and the larger network has the larger share"
        return _each(told), verdict if many > few else "consistent: the smaller share is the larger network's"


def _decay(run):
    if not run.trained or run.fits.empty:
        return None
    fits = run.fits[run.fits.model.isin(run.as_thesis)]
    told = {f"{row.model}, {row.metric.upper()}": row.better for row in fits.itertuples()}
    verdicts = {"exponential": HOLDS, "linear": f"{FAILS}: a line fits better"}
    forms = set(told.values())
    verdict = verdicts.get(*forms, f"{OPEN}: the two forms cannot be told apart") if len(forms) == 1 else "mixed"
    if verdict == HOLDS and not ((fits.b > 0) & (fits.c > 0)).all():
        verdict = f"{FAILS}: the fall steepens, a decay flattens"
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
    verdict = f"{HOLDS} for the embedded pair: no time is saved" if set(worth) == {"slower"} else f"{OPEN}: whether time is saved could not be told"
    return _each(told), "depends on what the loss is worth" if "faster" in worth else verdict


def _best(run):
    if _pair(run):
        best = {model: rows.loc[rows.change.idxmin()] for model, rows in _published_changes(run).items()}
        told = {m: f"{percent(-row.change)} less at {row.ratio:.0%} ({row.verdict})" for m, row in best.items()}
        saved = [-row.change for row in best.values() if row.verdict == "faster"]
        near = all(value <= 2 * MARGINAL for value in saved)
        return _each(told), OPEN if not saved else f"{HOLDS} within a factor of 2" if near else f"{FAILS}: more is saved"


def _ten_times(run):
    if _pair(run):
        few = run.attention.set_index("model").parameters[PUBLISHED[0]]
        total = sum(p.numel() for network in zoo.architecture("stable-diffusion-v1-5").values() for p in network.parameters())
        return f"{total / few:.1f} times fewer in the DDPM than in Stable Diffusion v1-5", HOLDS if total / few > 9 else FAILS


def _square(run):
    if _pair(run):
        rows = run.attention.set_index("model").share.loc[list(PUBLISHED)]
        told = _each({model: f"{100 * share:.3g}% of the FLOPs" for model, share in rows.items()})
        return f"attention with its linear maps, outside of which nothing grows so: {told}", f"{FAILS} for the networks" if (rows < 0.5).all() else HOLDS


def _tokens(run):
    names = (*PUBLISHED, "stable-diffusion-v1-5")
    finest = {}
    for name in names:
        unet = zoo.architecture(name)["unet"]
        factor = min(layer.factor for layer in self_attentions(unet))
        finest[name] = (unet.config.sample_size // factor) ** 2
    measured = _each({name: f"{count:,} tokens" for name, count in finest.items()})
    more = finest[names[2]] > max(finest[n] for n in PUBLISHED)
    return f"at the finest attention, {measured}", f"{HOLDS} for the number of tokens; the cause is not tested" if more else FAILS


def _each(told: dict[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in told.items())


CLAIMS = {
    "parameters": _parameters, "billion": _billion, "near_half": _near_half, "marginal": _marginal,
    "slower": _slower, "bound": _bound, "decay": _decay, "half": _half, "saved": _saved, "worth": _worth,
    "best": _best, "ten_times": _ten_times, "square": _square, "tokens": _tokens,
}  # fmt: skip
