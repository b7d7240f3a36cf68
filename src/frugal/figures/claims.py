"""Statements of the sources against measurements: of each the measurement and a verdict, as text.

`book/claims.csv` lists them all; a chapter glues what it measured under `claim_NAME` and `verdict_NAME`.
"""

from collections import Counter
from types import SimpleNamespace

import pandas as pd

from ..measure import growth
from ..measure.plan import EMBEDDED, PUBLISHED
from ..methods.merging import self_attentions
from ..models import zoo
from . import shipped
from . import times as timing
from .glue import glue_all
from .shares import holds, intervals
from .style import SMOKE, About
from .words import NEAR_HALF, QUARTER, UNSURE, listed, near_half, percent, span, with_interval

HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
LOST = f"{FAILS}: time is lost"
NOT_MEASURED = "not measured in this run"
MIDDLE = 0.5  # the ratio that the thesis finds best
MARGINAL = 0.01  # a saving of time up to which it is called marginal
SQUARED = 1.9  # the power of the tokens from which growth is called about their square


def keep(name: str, measured: str, verdict: bool | str, scale: str = "quick", of: str = "") -> None:
    """Glue what a chapter found of one statement; `of`: the few cases that the verdict is limited to. A smoke run passes none."""
    said = verdict if isinstance(verdict, str) else HOLDS if verdict else FAILS
    said += f", of {of}" if of else ""
    glue_all({f"claim_{name}": measured, f"verdict_{name}": SMOKE if scale == "smoke" else said})


def against(run) -> dict[str, str]:
    """{"claim_NAME": measurement, "verdict_NAME": verdict} for every statement, from an `experiments.Run`."""
    found: dict[str, str] = {}
    reference = shipped.of_models(timing.reference(), list(PUBLISHED), together=True)
    there = {device: _there(run, times) for device, times in reference.groupby("device")}
    for name, judge in CLAIMS.items():
        measured, verdict = judge(run) or (NOT_MEASURED, OPEN)
        if name in OF_TIMES and measured != NOT_MEASURED:
            verdict = f"{verdict} ({on_this(About.of(run))}){_also(judge, there)}"
        found[f"claim_{name}"] = measured
        found[f"verdict_{name}"] = SMOKE if run.request.scale == "smoke" else verdict
    return found


def on_this(about: About) -> str:
    """What limits a verdict that rests on times of this machine."""
    return f"on this machine, {about.device}"


def _there(run, times: pd.DataFrame) -> SimpleNamespace:
    """What the judges of times take, of another device: the steps were timed there, nothing was decoded or drawn."""
    return SimpleNamespace(seconds=times, decode=run.decode[:0], attention=run.attention, trained=[])


def _also(judge, there: dict[str, SimpleNamespace]) -> str:
    """What shipped times of the published pair say of the same claim; a device's settings are counted."""
    verdicts: dict[str, Counter] = {}
    for device, run in there.items():
        if found := judge(run):
            verdict, _, reason = found[1].partition(": ")
            verdicts.setdefault(device.partition(",")[0], Counter())[f"{verdict} ({reason})" if reason else verdict] += 1
    told = {
        name: f"{', '.join(f'{verdict} in {n}' for verdict, n in counts.items())} of {counts.total()} settings"
        for name, counts in verdicts.items()
    }
    return "".join(f"; on {name}, shipped: {text}" for name, text in told.items())


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
        verdicts = {True: f"{FAILS}: more than {limit} for one model at least", False: LOST if _lost(changes) else f"{HOLDS}: at most {limit}"}
        return f"best {_best_of(changes)}", verdicts.get(_saves_more(changes, MARGINAL), f"{OPEN}: {limit} could not be told")


def _lost(changes: dict[str, pd.DataFrame]) -> bool:
    """Whether each model's best ratio is surely slower than none: nothing is saved, not even little."""
    return all(rows.loc[rows.change.idxmin()].verdict == "slower" for rows in changes.values())


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
    if (changes := _published_changes(run)) and _pair(run):
        rows = run.attention.set_index("model").loc[list(PUBLISHED)]
        told = {
            row.Index: f"attention is {100 * row.share:.3g}% of the FLOPs of {row.parameters / 1e6:.1f} M parameters"
            for row in rows.itertuples()
        }
        return f"{_each(told)}; best {_best_of(changes)}", _by_size(rows.sort_values("parameters").share, changes)


def _by_size(shares: pd.Series, changes: dict[str, pd.DataFrame]) -> str:
    """Whether the larger network gains more, and whether its size or its share would explain that; `shares`: the smaller network's first."""
    small, large = (changes[model].loc[changes[model].change.idxmin()] for model in shares.index)
    if not (small.low > large.high or large.low > small.high):
        return f"{OPEN}: the two gains cannot be told apart"
    if small.change < large.change:
        return f"{FAILS}: the larger network gains less, or loses more"
    together = shares.iloc[1] > shares.iloc[0]
    return f"{OPEN}: size and attention's share go together in this pair" if together else f"{HOLDS}: the larger network gains more, at a smaller share"


def _decay(run):
    if not run.trained or run.fits.empty:
        return None
    fits = run.fits[run.fits.model.isin(run.as_thesis)]
    told = {f"{row.model}, {row.metric.upper()}": row.better for row in fits.itertuples()}
    verdicts = {"exponential": HOLDS, "linear": f"{FAILS}: a line fits better"}
    forms = set(told.values())
    verdict = f"{OPEN}: which form fits better differs"
    if len(forms) == 1:
        verdict = verdicts.get(*forms, f"{OPEN}: the two forms cannot be told apart")
    if verdict == HOLDS and not ((fits.b > 0) & (fits.c > 0)).all():
        verdict = f"{FAILS}: the fall steepens, a decay flattens"
    return f"better fit {_each(told)}{_rises(run.quality, fits)}", verdict


def _rises(quality: pd.DataFrame, fits: pd.DataFrame) -> str:
    """Where the mean quality is higher than at the ratio before, which is no fall of any form."""
    told = []
    for row in fits.itertuples():
        means = quality[(quality.model == row.model) & (quality.ratio > 0)].groupby("ratio")[row.metric].mean()
        up = means.index[means.diff() > 0]
        told += [f"; the mean rises to {listed(up)} ({row.model}, {row.metric.upper()})"] if len(up) else []
    return "".join(told)


def _share(run, limits):
    """The latent model's share of the pixel model's time where both were timed whole, and how often it lies between two limits."""
    if not _pair(run):
        return None
    without = intervals(run.seconds, *PUBLISHED)
    decode = run.decode[run.decode.model == PUBLISHED[1]]
    if not len(decode):
        return f"{_spread(without)} of the time at {listed(without.index)}", holds(without, *limits).removeprefix("is ")
    including = intervals(run.seconds, *PUBLISHED, float(decode.seconds.median()))
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
        verdicts = {True: f"{FAILS}: more is saved", False: LOST if _lost(changes) else f"{HOLDS} within a factor of 2"}
        return f"best {_best_of(changes)}", verdicts.get(_saves_more(changes, 2 * MARGINAL), f"{OPEN}: {limit} could not be told")


def _ten_times(run):
    if _pair(run):
        few = run.attention.set_index("model").parameters[PUBLISHED[0]]
        total = sum(p.numel() for network in zoo.architecture("stable-diffusion-v1-5").values() for p in network.parameters())
        return f"{total / few:.1f} times fewer in the DDPM than in Stable Diffusion v1-5", HOLDS if total / few > 9 else FAILS


def _square(run):
    if _pair(run):
        powers = {name: growth.exponents(zoo.architecture(name)["unet"]) for name in PUBLISHED}
        parts = {"products": "attention's two products", "attention": "attention with its linear maps", "network": "the whole network"}
        told = {name: ", ".join(f"{found[part]:.2f} of {text}" for part, text in parts.items()) for name, found in powers.items()}
        squared = [text for part, text in parts.items() if all(found[part] >= SQUARED for found in powers.values())]
        verdict = HOLDS if parts["network"] in squared else f"{HOLDS} of {squared[-1]} alone" if squared else FAILS
        return f"power of the tokens with which FLOPs grow, up to {growth.TIMES[-1]} times the side: {_each(told)}", verdict


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
OF_TIMES = ("near_half", "marginal", "slower", "bound", "half", "saved", "worth", "best")  # rest on what this machine timed
