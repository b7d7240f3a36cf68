"""Sentences that follow from the tables: what a figure shows is said from its data, never typed in beforehand."""

import numpy as np
import pandas as pd

from ..measure.plan import TEXT
from ..measure.timing import UNSURE
from .shares import holds, intervals

NEAR_HALF = (0.4, 0.6)  # what "near 50 %" and "almost half" are taken to mean
QUARTER = (0, 0.25)  # of the time is left where "more than 75 %" is saved


KINDS = {"measured": "Measured", "composed": "Composed from the times of its layers, not measured"}


INTERVALS = "95% intervals, between two of the rounds (of fewer than six, from the least to the most)"  # quality.median_interval


def percent(value: float, signed: bool = False) -> str:
    """A share as text with two significant digits: 0.127 -> 13%, signed -0.031 -> −3.1%; what is not all is no 100%: 0.998 -> 99.8%."""
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.2g}"
    if "e" in text:
        text = f"{100 * value:{sign}.{1 if 0.99 < abs(value) < 1 else 0}f}"
    return f"{text}%".replace("-", "\u2212")


def change(value: float, low: float, high: float) -> str:
    """A relative change and its interval: -1.2% (-2.0% to -0.4%)."""
    return f"{value:+.1%} ({low:+.1%} to {high:+.1%})"


def with_interval(row) -> str:
    """The change of a row of `times.effects` and its interval, rounded: −10%, 95% interval −13% to −1%."""
    value, low, high = (percent(x, signed=True) for x in (row.change, row.low, row.high))
    return f"{value}, 95% interval {low} to {high}"


def span(values, form=percent) -> str:
    """The range of some values as text: 38% to 42%, or one of them where both ends read alike."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def listed(ratios) -> str:
    """Ratios as text: [0.1, 0.2] -> "10% and 20%"."""
    *first, last = [f"{ratio:.0%}" for ratio in ratios]
    return f"{', '.join(first)} and {last}" if first else last


def bullets(lines: dict[str, str]) -> str:
    """One line of Markdown an entry."""
    return "\n".join(f"* **{name}**: {text}" for name, text in lines.items())


def effect(found: pd.DataFrame) -> str:
    """What merging did to one model's time, from the rows of `times.effects`; what is composed says so."""
    smallest = found.detectable.iloc[0]
    start = (
        f"These rounds would find a change of {percent(smallest)} or more. "
        if np.isfinite(smallest)
        else "The rounds are too few to tell. "
    )
    told = [(label, found[found.kind == kind]) for kind, label in KINDS.items()]
    return start + " ".join(f"{label}: {_took(rows)}." for label, rows in told if len(rows))


def _took(found: pd.DataFrame) -> str:
    real = found[found.verdict != UNSURE]
    if real.empty:
        asked = f"any of the {len(found)} ratios" if len(found) > 3 else listed(found.ratio)
        return f"the change at {asked} is {UNSURE}"
    parts = []
    for word, verdict in (("less", "faster"), ("more", "slower")):
        if len(rows := real[real.verdict == verdict]):
            extreme = rows.loc[rows.change.abs().idxmax()]
            most = f"most at {extreme.ratio:.0%}: " if len(rows) > 1 else ""
            parts.append(f"{word} time at {listed(rows.ratio)} ({most}{with_interval(extreme)})")
    rest = found.drop(real.index)
    tail = f"; at {listed(rest.ratio)} the change is {UNSURE}" if len(rest) else ""
    return f"{' and '.join(parts)}{tail}"


def effects(found: pd.DataFrame) -> str:
    """What merging did to each model's time, from `times.effects`."""
    return bullets({model: effect(rows) for model, rows in found.groupby("model", sort=False)})


def near_half(found: pd.DataFrame) -> str:
    """Whether one model's times, as far as it was timed whole, agree with the thesis's "faster near 50 % only, slower away from it"."""
    found = found[found.kind == "measured"]
    inside = found.ratio.between(NEAR_HALF[0] - 1e-9, NEAR_HALF[1] + 1e-9)
    faster, slower, unsure = (found.verdict == verdict for verdict in ("faster", "slower", UNSURE))
    if not inside.any() or not np.isfinite(found.detectable).all():
        return "open: the rounds are too few to tell"
    if (faster & inside).any() and slower[~inside].any() and not faster[~inside].any():
        return f"seen: faster at {listed(found.ratio[faster])} only, slower at {listed(found.ratio[slower])}"
    if unsure.any() and not faster[~inside].any() and not slower[inside].all():
        return f"open: at {listed(found.ratio[unsure])} the change is {UNSURE}"
    best = found.loc[found.change.idxmin()]
    parts = [f"slower at {listed(found.ratio[slower])}" if slower.any() else "no ratio is slower"]
    parts.append(f"fastest at {best.ratio:.0%}" if faster.any() else "no ratio is faster")
    return f"not seen: {', '.join(parts)}"


def readings(found: pd.DataFrame) -> str:
    """`near_half` of each model, from `times.effects`."""
    taken = f"taken as {NEAR_HALF[0]:.0%} to {NEAR_HALF[1]:.0%}"
    asked = f"Less time near 50% only ({taken}), and more time away from it, at the ratios timed whole:"
    return f"{asked}\n\n" + bullets({model: near_half(rows) for model, rows in found.groupby("model", sort=False)})


def compared(times: pd.DataFrame, decode: pd.DataFrame) -> str:
    """Figure 6.1 in words: the latent model's share of the pixel model's time against the thesis's two statements."""
    pixel, latent = times.model.unique()
    decoding = float(decode[decode.model == latent].seconds.median())
    lines = {}
    for label, added in (("without decoding", 0.0), ("with decoding", decoding)):
        found = intervals(times, pixel, latent, added)
        saved = f"saves {span(1 - found.share)}" if (found.share < 1).all() else "does not save time throughout"
        at = f"{latent} takes {span(found.share)} of the time of {pixel} (both timed whole at {listed(found.index)})"
        lines[label] = f"{at} and {saved}: {two_statements(found)}."
    return bullets(lines)


def two_statements(found: pd.DataFrame) -> str:
    """The thesis's "almost half the time" (5.5) and "more than 75 % saved" (6.1) against `shares.intervals`."""
    half, saved = holds(found, *NEAR_HALF), holds(found, *QUARTER)
    return f"“almost half the time” (5.5, taken as 40 to 60%) {half}, “more than 75% saved” (6.1) {saved}"


def bound(shares: pd.DataFrame) -> str:
    """The bound on any attention method (Amdahl 1967), from `experiments.attention_share`."""
    return bullets({
        row.model: f"attention is {100 * row.share:.3g}% of the FLOPs of its {row.parameters / 1e6:.1f} M parameters; "
        f"were it free, a step would be at most {row.bound:.3f} times as fast, if time followed FLOPs."
        for row in shares.itertuples()
    })  # fmt: skip


def decay(fits: pd.DataFrame) -> str:
    """Which form the fall of quality has, from `fits.fit_decay`."""
    if fits.empty:
        return "Fewer than four ratios above 0 were measured: too few to tell one form of decay from another."
    lines = {}
    for row in fits.itertuples():
        unit = " dB" if row.metric == "psnr" else ""
        missed = f"{row.error_exponential:.2g}{unit} (exponential) and {row.error_linear:.2g}{unit} (linear)"
        errors = f"a ratio left out is missed by {missed}"
        sure = "cannot be told apart" if row.better == "not distinguishable" else f"the {row.better} fits better"
        difference = f"the difference is {row.advantage:+.2g}{unit}, 95% interval {row.low:+.2g} to {row.high:+.2g}"
        shape = (
            f"The exponential's rate is {row.c:.2g}: the fall {'flattens' if row.c > 0 else 'steepens'} with the ratio."
        )
        lines[f"{row.model}, {row.metric.upper()}"] = f"{sure}: {errors}; {difference}. {shape}".replace("-", "\u2212")
    return bullets(lines)


def against_the_data(changes: pd.DataFrame) -> str:
    """What a comparison with the data set can detect, from `decay.dataset_changes`."""
    lines = {}
    for (model, quantity), rows in changes.groupby(["model", "quantity"], sort=False):
        sure = rows[rows.verdict != UNSURE]
        told = f"told from ratio 0 at {listed(sure.ratio)}" if len(sure) else "told from ratio 0 at no ratio"
        lines[f"{model}, {quantity.upper()}"] = f"{told}, of {len(rows)} {'ratios' if len(rows) > 1 else 'ratio'}."
    return bullets(lines)


def peaks(memory: pd.DataFrame) -> str:
    """What merging did to the peak memory of a step, from `experiments.memory`: a sentence, and a line for each model."""
    lines, raised = {}, []
    for model, rows in memory.groupby("model", sort=False):
        sizes = rows.set_index("ratio").bytes / 2**20
        merged = sizes[sizes.index > 0]
        raised += list(merged > sizes[0])
        told = [f"{size:.4g} MiB with {ratio:.0%} merged ({percent(size / sizes[0] - 1, signed=True)})" for ratio, size in merged.items()]
        lines[model] = ", ".join([f"{sizes[0]:.4g} MiB untouched", *told])
    told = f"Merging raises the peak in {sum(raised)} of {len(raised)} cases" if raised else "Peaks of steps with nothing merged"
    return f"{told}, each measured once:\n\n{bullets(lines)}"


def noop(found: pd.DataFrame) -> str:
    """What tomesd does to a UNet2DModel, and to ratios above its cap, from `experiments.noop`."""
    lines = {}
    for (series, diffusers), rows in found.groupby(["series", "diffusers"], sort=False):
        same = "bit-identical" if rows.identical.all() else "changed"
        removed = 1 - (rows.tokens_after / rows.tokens_before).min()
        most = f"{rows.ratio.max():.0%} asked of a network that it does patch removes {removed:.0%} of the tokens"
        where = "measured here" if series == "here" else "shipped record"
        lines[f"diffusers {diffusers} ({where})"] = (
            f"{rows.patched.sum()} modules of a UNet2DModel patched, output {same}; {most}."
        )
    return bullets(lines)


def how_drawn(drawn) -> str:
    """How the images of text-conditioned models were sampled, from an `experiments.Run`'s `drawn`: a sentence or more."""
    told = []
    for subject, draw in drawn.items():
        if draw.prompts is None:
            continue
        name = subject.title["model"]
        said = f"“{draw.prompts[0]}”" if len(set(draw.prompts)) == 1 else f"{len(set(draw.prompts))} different prompts"
        how = f"{name}: {len(draw.seeds)} images, {draw.steps} steps ({draw.sampler}), {said}, guidance {draw.guidance:g}"
        stands = " (a stand-in, at 64x64, for the thesis's Stable Diffusion v1-5 at 512x512)" if name == TEXT else ""
        told.append(f"{how}{stands}. ")
    return "".join(told)


def duration(seconds: float) -> str:
    """Seconds as text: 95 -> 95 s, 312 -> 5 min."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def forecast(found: dict[str, float]) -> str:
    """How long a run will take, before it begins, from `experiments.forecast`."""
    if not found["cells"]:
        return f"All {found['all']} measurements were made here before: this run reads them."
    disk = max(found["disk"] / 2**20, 0.1)
    return (
        f"About {duration(found['seconds'])} of measuring, {found['memory'] / 2**30:.1f} GiB of memory and {disk:.1f} MiB of disk: "
        f"{found['cells']:.0f} of {found['all']:.0f} measurements are still to be made. Starting and drawing the figures come on top."
    )
