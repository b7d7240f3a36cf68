"""Statements of the sources against measurements: of each the measurement and a verdict, as text.

`book/claims.csv` lists them all; a chapter glues what it measured under `claim_NAME` and `verdict_NAME`.
"""

import pandas as pd

from ..measure.plan import EMBEDDED, PUBLISHED
from ..methods.merging import self_attentions
from ..models import zoo
from . import times as timing
from .glue import glue_all
from .shares import holds, intervals
from .style import SMOKE
from .words import NEAR_HALF, QUARTER, UNSURE, listed, near_half, percent, span, with_interval

HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
NOT_MEASURED = "not measured in this run"
MIDDLE = 0.5  # the ratio that the thesis finds best
MARGINAL = 0.01  # a saving of time up to which it is called marginal


def keep(name: str, measured: str, verdict: bool | str, scale: str = "quick", of: str = "") -> None:
    """Glue what a chapter found of one statement; `of`: the few cases that the verdict is limited to. A smoke run passes none."""
    said = verdict if isinstance(verdict, str) else HOLDS if verdict else FAILS
    said += f", of {of}" if of else ""
    glue_all({f"claim_{name}": measured, f"verdict_{name}": SMOKE if scale == "smoke" else said})


def against(run) -> dict[str, str]:
    """{"claim_NAME": measurement, "verdict_NAME": verdict} for every statement, from an `experiments.Run`."""
    found: dict[str, str] = {}
    for name, judge in CLAIMS.items():
        measured, verdict = judge(run) or (NOT_MEASURED, OPEN)
        found[f"claim_{name}"] = measured
        found[f"verdict_{name}"] = SMOKE if run.request.scale == "smoke" else verdict
    return found


def _pair(run, found: pd.DataFrame | None = None) -> bool:
    return set(PUBLISHED) <= set((run.attention if found is None else found).model)


def _published_changes(run) -> dict[str, pd.DataFrame]:
    """Of the published pair the changes that were measured, as what is composed decides nothing; empty unless both have some."""
    found = timing.effects(run.seconds)
    found = found[found.kind == "measured"]
    return {model: found[found.model == model] for model in PUBLISHED} if _pair(run, found=found) else {}


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
    if changes := _published_changes(run):
        found = {model: near_half(rows) for model, rows in changes.items()}
        verdicts = {"seen": HOLDS, "not seen": FAILS, "open": OPEN}
        judged = {model: verdicts[text.partition(":")[0]] for model, text in found.items()}
        same = len(set(judged.values())) == 1
        return _each(found), judged[PUBLISHED[0]] if same else "; ".join(f"{verdict} for {model}" for model, verdict in judged.items())


def _marginal(run):
    if changes := _published_changes(run):
        limit = percent(MARGINAL)
        verdicts = {True: f"{FAILS}: more than {limit} for one model at least", False: f"{HOLDS}: at most {limit}"}
        return f"best {_best_of(changes)}", verdicts.get(_saves_more(changes, MARGINAL), f"{OPEN}: {limit} could not be told")


def _best_of(changes: dict[str, pd.DataFrame]) -> str:
    best = {model: rows.loc[rows.change.idxmin()] for model, rows in changes.items()}
    return _each({m: f"at {row.ratio:.0%} {with_interval(row)}, {row.verdict}" for m, row in best.items()})


def _saves_more(changes: dict[str, pd.DataFrame], limit: float) -> bool | None:
    """Whether a model saves more than a share of its time; None where an interval reaches over it, or the rounds cannot tell."""
    rows = pd.concat(list(changes.values()))
    if ((rows.verdict == "faster") & (rows.high < -limit)).any():
        return True
    blind = (rows.verdict == UNSURE) & ~(rows.detectable <= limit)
    return None if (blind | (rows.low <= -limit)).any() else False


def _slower(run):
    if changes := _published_changes(run):
        apart = {m: rows[(rows.ratio - MIDDLE).abs() > 0.1 + 1e-9] for m, rows in changes.items()}
        slower = {model: rows.ratio[rows.verdict == "slower"] for model, rows in apart.items()}
        told = {m: f"slower at {listed(at) if len(at) else 'none'}; timed whole at {listed(changes[m].ratio)}" for m, at in slower.items()}
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


def _share(run, limits):
    """The latent model's share of the pixel model's time where both were timed whole, and how often it lies between two limits."""
    if not _pair(run):
        return None
    decoding = float(run.decode[run.decode.model == PUBLISHED[1]].seconds.median())
    without, including = (intervals(run.seconds, *PUBLISHED, added) for added in (0.0, decoding))
    verdict = f"{holds(without, *limits)}; with decoding it {holds(including, *limits)}".removeprefix("is ")
    return f"{_spread(without)} of the time at {listed(without.index)}, {_spread(including)} with decoding", verdict


def _spread(found) -> str:
    return f"{span(found.share)} (95% intervals {percent(found.low.min())} to {percent(found.high.max())})"


def _half(run):
    return _share(run, NEAR_HALF)


def _saved(run):
    return _share(run, QUARTER)


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
    if changes := _published_changes(run):
        limit = percent(2 * MARGINAL)
        verdicts = {True: f"{FAILS}: more is saved", False: f"{HOLDS} within a factor of 2"}
        return f"best {_best_of(changes)}", verdicts.get(_saves_more(changes, 2 * MARGINAL), f"{OPEN}: {limit} could not be told")


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
