"""Tables, sentences and claims of the chapter on merging that pays, from the tables of `measure.gains`."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from torch import nn

from ..measure import gains, merging_layer, thesis
from ..measure.predict import Prediction
from ..methods.merging import merge_tokens
from . import words
from .claims import FAILS, HOLDS, NOT_MEASURED, OPEN, on_this
from .gains import Doubling, governed, scored_points, scored_way
from .shipped import side
from .style import About
from .tables import markdown

PAPER = Path(__file__).with_name("merging_paper.csv")  # ratio, fid, seconds, gigabytes an image, source, url: what the method's paper reports
CLAIMED = 0.6  # of the tokens: up to which the method's paper merges
SIDE = 512  # pixels of its images, by the thesis
TWICE, MEMORY, XFORMERS = 2, 5.6, 5.4  # what the thesis quotes from it: times as fast, less memory, and as fast with xFormers


def advice(found: list[tuple[str, Prediction]]) -> str:
    """When to merge: a Markdown table of predictions."""
    rows = [
        (f"`{name}`", f"{p.resolution[1]} px", p.backend or "own", f"{p.time_share:.1%}", f"{p.bound:.2f}x",
         f"{p.speedup:.2f}x ({p.low:.2f} to {p.high:.2f})", str(p).rpartition(": ")[2])
        for name, p in found
    ]  # fmt: skip
    return markdown(["network", "image", "attention", "of a step's time", "bound", f"predicted at {found[0][1].ratio:.0%}", "advice"], rows)


def reach(found: list[tuple[str, Prediction]]) -> str:
    """Whether a factor of two is within any bound, and what the backend of attention does to the share: sentences."""
    named = {f"`{name}` at {p.resolution[1]} px with {p.backend or 'its own'} attention": p for name, p in found}
    largest = max(named, key=lambda name: named[name].bound)
    within = [name for name, p in named.items() if p.bound >= TWICE]
    share = words.span([p.time_share for p in named.values()], "{:.1%}".format)
    none = f"No method gives it that acts there alone: the largest bound is {named[largest].bound:.2f}x, of {largest}."
    said = f"Whoever expects a factor of two from these networks expects it from {share} of a step. "
    said += f"It is within the bound of {'; '.join(within)}." if within else none
    for (name, size), both in _by_backend(found).items():
        fused, math = (f"{both[backend].time_share:.1%}" for backend in ("fused", "math"))
        said += f" `{name}` at {size[1]} px spends {fused} of a step there where attention is *fused*, and {math} where it is *math*."
    return said


def _by_backend(found: list[tuple[str, Prediction]]) -> dict[tuple, dict[str, Prediction]]:
    """The predictions by backend of every network and size that has both."""
    pairs: dict[tuple, dict[str, Prediction]] = {}
    for name, p in found:
        pairs.setdefault((name, p.resolution), {})[p.backend] = p
    return {key: both for key, both in pairs.items() if {"fused", "math"} <= set(both)}


def beside_bound(found: list[tuple[str, Prediction]], measured: pd.DataFrame) -> str:
    """What chapter 5 measured of the same networks (`gains.of_experiments`) beside the bound: a Markdown table, or what measures it."""
    changes, rows = {row.model: row for row in measured.itertuples()}, []
    for name, p in found:
        if row := changes.get(name):
            gained, low, high = (1 / (1 + change) for change in (row.change, row.high, row.low))
            rows.append((f"`{name}`", f"{gained:.3f}x ({low:.3f} to {high:.3f})", f"{p.bound:.3f}x", _beside(low, high, p.bound)))
    if not rows:
        return "Chapter 5 measures the published method on these networks; it has not run here at this ratio."
    way = f"`{thesis.METHOD}`, never reused (chapter 5)"
    return markdown(["network", f"measured at {found[0][1].ratio:.0%}, {way}", "bound", ""], rows)


def _beside(low: float, high: float, bound: float) -> str:
    """Where an interval of speed-ups lies beside a bound, which was timed in another run."""
    if low > bound:
        return "above it: the layers took a larger share when chapter 5 ran than when they were timed here"
    return "within the bound" if high <= bound else "not told apart from the bound"


def scored(points: pd.DataFrame) -> str:
    """What was scored, and how far to trust the prediction, from `gains.held_out`: a sentence, and a line of Markdown for each device."""
    lines, default = {}, merging_layer.way()
    others = "" if default in set(points.way) else f" That of the default, `{default}`, which this chapter's tables predict, is not."
    scores = f"Scored is the prediction of {scored_way(points)}, at {scored_points(points)}.{others}"
    for device, some in points.groupby("device", sort=False):
        found = gains.errors(some)
        worst = found.worst
        where = f"{worst.resolution} px, {worst.backend} attention, {worst.ratio:.0%} merged"
        both = f"predicted {_saved(worst.predicted)}, measured {_saved(worst.measured)}"
        lines[device] = (
            f"the median error is {100 * found.median:.1f} points of a step's time; {found.far} of {found.points} are above "
            f"{100 * gains.FAR:.0f}, the largest is {100 * found.largest:.1f} ({where}: {both}). Whether merging saves time or costs it is "
            f"foretold at {found.right} of the {found.sure} points where the measurement leaves no doubt. "
            f"Less is saved than foretold at {found.over}, more at {found.points - found.over}."
        )
    return f"{scores}\n\n{words.bullets(lines)}"


def _saved(share: float) -> str:
    return f"{words.percent(abs(share))} {'saved' if share >= 0 else 'added'}"


def shares(table: pd.DataFrame) -> str:
    """What each way of merging reaches of the ideal speed-up: a Markdown table."""
    rows = [
        (f"{row.backend}, {row.pixels} px", f"{row.ratio:.0%}", row.way, f"{row.milliseconds:.0f} ms", f"{row.speedup:.2f}x",
         f"{row.ideal:.2f}x", f"{row.share:.2f} ({row.low:.2f} to {row.high:.2f})")
        for row in table.itertuples()
    ]  # fmt: skip
    return markdown(["layer", "merged", "way", "time", "speed-up", "ideal", "share of the ideal"], rows)


def paid(found: pd.DataFrame) -> str:
    """Where merging took less time and where more, from `gains.networks`: a Markdown table, a row a device and backend, and sentences."""
    rows = []
    for (device, backend), some in found.groupby(["device", "backend"], sort=False):
        faster, slower = _counts(some, "low", "high")
        ends = (some.loc[at] for at in (some.change.idxmin(), some.change.idxmax()))
        ends = (f"{words.percent(row.change, signed=True)} ({_setting(row)})" for row in ends)
        rows.append((device, backend, len(some), faster, slower, len(some) - faster - slower, *ends))
    table = markdown(["device", "attention", "settings", "faster", "slower", "neither for sure", "least time", "most time"], rows)
    return "\n\n".join([table, _along_images(found), *_beside_library(found)])


def _setting(row) -> str:
    return f"{row.way}, {row.ratio:.0%}, {row.pixels} px"


def _counts(found: pd.DataFrame, low: str, high: str) -> tuple[int, int]:
    """Rows whose change is below 0 for sure, and above."""
    return int((found[high] < 0).sum()), int((found[low] > 0).sum())


def _along_images(found: pd.DataFrame) -> str:
    series = [some.sort_values("pixels").change for _, some in found.groupby(["device", "backend", "ratio", "way"]) if len(some) > 1]
    more = sum(change.iloc[-1] < change.iloc[0] for change in series)
    told = f"the largest does better than the smallest in {more} of {len(series)}" if series else "none has more than one size"
    return f"Of the series that differ in nothing but the size of the image, {told}."


def _beside_library(found: pd.DataFrame) -> list[str]:
    """A sentence for each way of merging that ran beside tomesd."""
    told = []
    for way, some in found[found.lead.notna()].groupby("way"):
        less, more = _counts(some, "lead_low", "lead_high")
        worst = some.loc[some.lead.idxmax()]
        where = f"({worst.ratio:.0%}, {worst.pixels} px, {worst.backend} attention, {worst.device})"
        most = f"{words.percent(worst.lead, signed=True)} where it does worst {where}"
        told.append(f"`{way}` takes less time than `tomesd` in {less} of {len(some)} settings and more in {more}, {most}.")
    return told


def leads(found: pd.DataFrame) -> str:
    """The same against tomesd at equal work: a Markdown table, a row a setting and way, a column a ratio."""
    ours = found[found.lead.notna()]
    ratios, rows = sorted(ours.ratio.unique()), []
    for (device, backend, pixels, way), some in ours.groupby(["device", "backend", "pixels", "way"], sort=False):
        cells = {row.ratio: words.change(row.lead, row.lead_low, row.lead_high) for row in some.itertuples()}
        rows.append((device, f"{pixels} px, {backend}", way, *(cells.get(ratio, "") for ratio in ratios)))
    return markdown(["device", "image, attention", "way", *(f"{ratio:.0%} merged" for ratio in ratios)], rows)


def paper_and_thesis(found: list[tuple[str, Prediction]], peaks: pd.DataFrame, whole: pd.DataFrame) -> str:
    """What the paper and the thesis report, and what is predicted here, or measured (`gains.peaks`, `gains.networks`): a Markdown table."""
    twice, xformers, rows = "up to 2x (RTX 4090, float16, attention not fused, 60 %)", "up to 5.4x (large images, xFormers)", []
    for name, p in found:
        here = f"{p.speedup:.2f}x predicted, bound {p.bound:.2f}x"
        paper = twice if name.startswith("stable") and p.backend == "math" else ""
        thesis = "marginal, best near 50 %" if name.endswith("celebahq-256") else "quality only" if name.startswith("stable") else ""
        rows.append((f"time, `{name}`, {p.resolution[1]} px, {p.backend} attention", paper, thesis, here))
    for (name, size), both in _by_backend(found).items():
        what = f"time, `{name}`, {size[1]} px: merged with fused attention, against neither"
        rows.append((what, xformers, "not tried", f"{_together(**both):.2f}x predicted"))
    rows.append((f"time, `{gains.TEXT}`, by `frugal bench merging`", twice, "quality only", claim_twice(whole)[0]))
    rows.append(("the same: merged with fused attention, against neither", xformers, "not tried", claim_xformers(whole)[0]))
    rows.append(("peak memory", "up to 5.6x less (60 %)", "not measured", claim_memory(peaks)[0]))
    return markdown(["what", "paper (2303.17604)", "thesis", f"here, {found[0][1].ratio:.0%} where nothing else stands"], rows)


def _together(math: Prediction, fused: Prediction) -> float:
    """Speed-up by merging and fused attention at once: only what fused attention leaves in the layers comes from the other network.

    The same layers outside attention were timed in both, and not alike: one time of theirs, that of the network with neither,
    keeps their scatter out of the gain.
    """
    outside = math.seconds_before * (1 - math.time_share)
    left = fused.seconds_after - fused.seconds_before * (1 - fused.time_share)
    return math.seconds_before / (outside + left)


def paper_times() -> str:
    """The seconds and the FID that the method's paper reports at each ratio: a sentence."""
    table = pd.read_csv(PAPER)
    told = ", ".join(f"{row.seconds:.2f} s (FID {row.fid:.2f}) at {row.ratio:.0%}" for row in table.itertuples())
    return f"The paper's own times of an image: {told} ({table.source.iloc[0]})."


def claim_paper_best() -> tuple[str, str]:
    """Whether the paper reports its best times near half, from its own table."""
    table = pd.read_csv(PAPER).sort_values("ratio")
    if table.seconds.is_monotonic_decreasing:
        return paper_times(), f"{FAILS} of time: the more is merged the less it takes, up to {table.ratio.max():.0%}, its last; its best FID is at {table.ratio[table.fid.idxmin()]:.0%}"
    low, high = words.NEAR_HALF
    return paper_times(), HOLDS if low <= table.ratio[table.seconds.idxmin()] <= high else FAILS


def claim_weights(unet: nn.Module, ratio: float) -> tuple[str, str]:
    """Whether merging lowers what a network's weights take: counted with it and without."""

    def weigh() -> int:
        return sum(p.numel() * p.element_size() for p in (*unet.parameters(), *unet.buffers()))

    plain = weigh()
    with merge_tokens(unet, ratio=ratio):
        merged = weigh()
    measured = f"{plain:,} bytes of weights without merging, {merged:,} with it: what merging lowers is needed on top of them"
    return measured, f"{FAILS if merged >= plain else HOLDS} of merging; SVDiff, a way of fine-tuning, is outside this book"


def claim_side() -> tuple[str, str]:
    """The side of the images of the paper's model, from its published configuration."""
    pixels = side(gains.TEXT)
    return f"{pixels} x {pixels} pixels in its published configuration", HOLDS if pixels == SIDE else FAILS


def claim_governed(over: dict[str, Doubling], about: About) -> tuple[str, str]:
    """The thesis's size of the model: whether more parameters raise the gain of a layer as much as more tokens do."""
    parameters, tokens = over["parameters"], over["tokens"]
    verdict = FAILS if parameters.high < tokens.low else HOLDS if parameters.low >= tokens.high else OPEN
    return governed(over), f"{verdict} of one layer ({on_this(about)})"


def claim_twice(whole: pd.DataFrame) -> tuple[str, str]:
    """Up to twice as fast at up to 60 %, from `gains.networks`: the fastest step with each backend, and whether it reaches that."""
    whole = whole[whole.ratio <= CLAIMED]

    def fastest(rows: pd.DataFrame) -> tuple[str, str]:
        best, enough = rows.loc[rows.change.idxmin()], rows[1 / (1 + rows.change) >= TWICE]
        verdict = f"{HOLDS} at {words.span(enough.pixels, '{} px'.format)}" if len(enough) else FAILS
        return f"{1 / (1 + best.change):.2f}x at best ({_setting(best)}, {best.device})", verdict

    return _each_backend(whole, fastest)


def claim_memory(peaks: pd.DataFrame, own: pd.DataFrame | None = None) -> tuple[str, str]:
    """Up to 5.6 times less memory at up to 60 %, from `gains.peaks`: the ratios next to that, and whether it lies between them.

    own: of chapter 5's networks, from `gains.peaks_of_experiments`, which the statement is not about; they are told beside.
    """

    def less(rows: pd.DataFrame) -> tuple[str, str]:
        below, above = rows[rows.ratio <= CLAIMED], rows[rows.ratio > CLAIMED]
        near = [some[some.ratio == end] for some, end in ((below, below.ratio.max()), (above, above.ratio.min())) if len(some)]
        told = [f"{words.span(some.less, '{:.1f}x'.format)} less at {some.ratio.iloc[0]:.0%}" for some in near]
        verdict = HOLDS if (below.less >= MEMORY).any() else FAILS
        if verdict == FAILS and (near[-1].less >= MEMORY).any():
            verdict = f"{OPEN} at {CLAIMED:.0%}, between two that were measured,"
        return f"{', '.join(told)}, {words.span(rows.pixels, '{} px'.format)}", verdict

    told, verdict = _each_backend(peaks, less)
    beside = f"; {_peaks_beside(own)}" if own is not None and len(own) else ""
    if not len(peaks):
        return f"{told}{beside}", verdict
    return f"{told} ({'; '.join(peaks.device.unique())}){beside}", f"{verdict}; what the images lose is not judged here"


def _peaks_beside(own: pd.DataFrame) -> str:
    raised = f"raises it in {(own.more > 1).sum()} of {len(own)} runs of chapter 5's networks"
    return f"merging {words.span(own.ratio, '{:.0%}'.format)} {raised}, {words.span(own.more, '{:.2f}x'.format)} of the untouched peak"


def claim_xformers(whole: pd.DataFrame) -> tuple[str, str]:
    """Up to 5.4 times as fast with xFormers, whose part fused attention plays, from `gains.networks`, and what that gives alone."""
    found = gains.together(whole[whole.ratio <= CLAIMED])
    if not len(found):
        return NOT_MEASURED, OPEN
    best = found.loc[found.both.idxmax()]
    verdict = f"{HOLDS} for both together" if best.both >= XFORMERS else FAILS
    verdict += "; merging adds nothing to fused attention there" if best.alone >= best.both else ""
    return f"{best.both:.2f}x at best ({_setting(best)}, {best.device}), {best.alone:.2f}x by fused attention alone", verdict


def _each_backend(rows: pd.DataFrame, judge: Callable[[pd.DataFrame], tuple[str, str]]) -> tuple[str, str]:
    """What `judge` says of the rows of each backend, measurement and verdict."""
    if not len(rows):
        return NOT_MEASURED, OPEN
    told = {backend: judge(some) for backend, some in rows.groupby("backend")}
    verdicts = [f"{verdict} with {backend} attention" for backend, (_, verdict) in told.items()]
    return "; ".join(f"{backend} attention: {text}" for backend, (text, _) in told.items()), "; ".join(verdicts)
