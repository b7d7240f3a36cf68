"""Tables and sentences of the chapter on speculative sampling: what the arms cost, whose law they have, and the slides' table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..measure import speculation
from ..methods.speculative import DRAFT
from .tables import markdown

EXACT, APPROXIMATE = "exact in law", "approximate"
SURE = 0.05  # false discovery rate of the ways that are told apart
PUBLISHED = {  # CIFAR-10, by the slides: FID, IS, NFE where they state one
    "Draft (100 steps)": ("81.58", "7.60", ""), "Target (100 steps)": ("2.45", "10.31", "100"), "Target (30 steps)": ("7.68", "11.32", ""),
    "Speculative, temperature 2": ("2.34", "10.32", "35.40"),
}  # fmt: skip


def across(found: pd.DataFrame) -> str:
    """`draft_distances.across` as a Markdown table, and how the distance grows with the dimension from the smallest state to the largest."""
    drafts = [name for name in found if name not in ("model", "dimensions")]
    rows = [(f"`{row['model']}`", f"{row['dimensions']:,}", *(f"{row[name]:.2f}" for name in drafts), f"{row[DRAFT] / row['dimensions'] ** 0.5:.4f}") for _, row in found.iterrows()]
    table = markdown(["model", "numbers in a state", *drafts, f"{DRAFT}, a number"], rows)
    small, large = found.loc[found.dimensions.idxmin()], found.loc[found.dimensions.idxmax()]
    if small.dimensions == large.dimensions:
        return table
    root, grown = (large.dimensions / small.dimensions) ** 0.5, large[DRAFT] / small[DRAFT]
    less = f"a number is missed by {root / grown:.1f} times less" if grown < root else f"a number is missed by {grown / root:.1f} times more"
    return (
        f"{table}\n\nFrom {small.model} to {large.model} the numbers are {large.dimensions / small.dimensions:.0f} times as many, whose root is {root:.2f}; "
        f"the distance of `{DRAFT}` is {grown:.2f} times as large: {less}."
    )


def arms(found: pd.DataFrame) -> str:
    """`speculation.costs` as a Markdown table; whatever is not exact says so."""
    steps = _chain(found).steps
    rows = [
        (_named(row), _law(row, steps), f"{row.calls:.1f}", f"{row.calls_median:g}", f"{row.calls_max:.0f}", f"{row.rows:.0f}", _draft_rows(row), f"{row.seconds:.2f} s",
         "" if np.isnan(row.accepted) else f"{row.accepted * row.images:.0f} of {row.images}") for row in found.itertuples()
    ]  # fmt: skip
    return markdown(["way", f"law of the {steps}-step chain", "calls: mean", "median", "most", "rows", "of the draft", "time of an image", "accepted"], rows)


def _draft_rows(row) -> str:
    """Rows of a draft network, which are its calls in a row: it writes one state after another."""
    return f"{row.draft_rows:.0f}" if row.draft_rows > 0 else ""


def _named(row) -> str:
    if row.sampler != "speculative":
        return {"ddim": f"sequential chain, {row.steps} steps", "dpmpp_2m": f"DPM-Solver++ 2M, {row.steps} steps"}[row.sampler]
    warm = f", temperature {row.temperature:g}" if row.temperature != 1 else ""
    return f"{row.draft}, {row.verify}, window {row.window:.0f}{warm}"


def _chain(found: pd.DataFrame):
    """The sequential chain among arms, the longest there is."""
    chains = found[found.sampler == "ddim"]
    return chains.loc[chains.steps.idxmax()]


def _law(row, steps: int) -> str:
    if row.sampler == "dpmpp_2m":
        return "another sampler"
    if row.sampler == "ddim":
        return "itself" if row.steps == steps else "a shorter chain"
    return EXACT if row.temperature == 1 else APPROXIMATE


def pays(found: pd.DataFrame) -> str:
    """What the fewest calls of an exact arm cost in rows and seconds beside the sequential chain, from `speculation.costs`."""
    exact = found[(found.sampler == "speculative") & (found.temperature == 1)]
    best, chain = exact.loc[exact.calls.idxmin()], _chain(found)
    times = best.seconds / chain.seconds
    spent = f"{times:.1f} times the time" if times > 1 else f"{100 * times:.0f} % of the time"
    own = f", to which come {best.draft_rows:.0f} of the smaller network, one after another" if best.draft_rows > 0 else f", {chain.calls / best.calls:.1f} times fewer in a row"
    return f"With {_named(best)}: {best.calls:.1f} calls in place of {chain.calls:.0f}{own}; {best.rows:.0f} rows in place of {chain.rows:.0f}, and {spent} on this device."


def slides(rows: pd.DataFrame, timed: Mapping[str, pd.DataFrame]) -> str:
    """The slides' table turned on its side, one for each model of `speculation.slides_rows`: a row a configuration.

    timed: `speculation.costs` of some of the models, whose seconds on this device stand beside the arms.
    """
    seconds = {(model, row.arm): f"{row.seconds:.2f} s" for model, found in timed.items() for row in found.itertuples()}
    tables = []
    for model, some in rows.groupby("model", sort=False):
        chain = _whole(some)
        lines = [
            (row.configuration, _law_of(row, chain), f"{row.score:.2f}", f"{row.kid:.3f} ({row.kid_low:.3f} to {row.kid_high:.3f})", _inside(row, chain), f"{row.calls:.1f}",
             f"{row.rows:.0f}", _draft_rows(row), seconds.get((model, row.arm), ""), f"{row.accepted:.1%}") if row.images > 0
            else (row.configuration, _law_of(row, chain), "not measured", *[""] * 7) for row in some.itertuples()
        ]  # fmt: skip
        tables.append(markdown([f"`{model}`", "law", "reader-IS", "KID (95 % band)", "in the chain's band", "NFE", "rows", "of the draft", "time of an image", "accepted"], lines))
    return "\n\n".join(tables)


def _whole(some: pd.DataFrame):
    """The whole chain among the rows of one model: the first that is the target's."""
    return next(row for row in some.itertuples() if row.configuration.startswith("Target"))


def _law_of(row, chain) -> str:
    if row.configuration.startswith("Speculative"):
        return EXACT if "temperature 1" in row.configuration else APPROXIMATE
    if row.configuration.startswith("DPM"):
        return "another sampler"
    return "itself" if row.configuration == chain.configuration else "a shorter chain" if row.configuration.startswith("Target") else "another network's"


def _inside(row, chain) -> str:
    """Whether a distance lies in the band of the chain's; "" where that is not asked."""
    return "" if row.configuration == chain.configuration or np.isnan(chain.kid) else "yes" if chain.kid_low <= row.kid <= chain.kid_high else "no"


def tested(rows: pd.DataFrame) -> str:
    """What the KID of `slides_rows` says of the laws: exact arms, the shortest chain, and the approximate arms beside FEW steps."""
    exact, short, longer, warm = [], [], [], []
    for model, some in rows.groupby("model", sort=False):
        chain, by_name = _whole(some), {row.configuration: row for row in some.itertuples() if row.images > 0}
        exact += [_inside(row, chain) == "yes" for row in by_name.values() if _law_of(row, chain) == EXACT and _inside(row, chain)]
        short += [_inside(row, chain) == "no" for name, row in by_name.items() if name == f"Target ({speculation.SHORTEST} steps)" and _inside(row, chain)]
        few = by_name.get(f"Target ({speculation.FEW} steps)")
        longer += [_inside(few, chain) == "no"] if few and _inside(few, chain) else []
        warm += [row.kid <= few.kid_high for row in by_name.values() if few and _law_of(row, chain) == APPROXIMATE]
    if not exact:
        return "Whether KID tells the exact arms from their chain is not measured yet."
    return (
        f"Inside the band of their model's whole chain: {sum(exact)} of {len(exact)} arms that are exact in law. The same test refuses the chain of {speculation.SHORTEST} steps "
        f"of {sum(short)} of {len(short)} models, and that of {speculation.FEW} steps of {sum(longer)} of {len(longer)}: it tells no finer differences. Approximate arms whose KID is not above the band of {speculation.FEW} sequential steps: {sum(warm)} of {len(warm)}."
    )


def churns(rows: pd.DataFrame, churn: float) -> str:
    """KID of the whole chain over churn, and whether it is as good as the best of its model: in words, from `arms.shipped`."""
    told, good, chains = [], [], rows[rows.arm.str.contains("eta") & (rows.images >= speculation.LARGE)]
    chains = chains.assign(churn=chains.arm.str.extract(r"eta (\S+)$")[0].astype(float)).sort_values("churn")
    for model, some in chains[chains.steps == chains.steps.max()].groupby("model", sort=False):
        limit = some.kid_high[some.kid.idxmin()]
        told.append(f"{model}: {', '.join(f'{row.kid:.2f} at {row.churn:g}' for row in some.itertuples())}, the best one's band ending at {limit:.2f}")
        good.append(set(some.churn[some.kid <= limit]))
    if not told:
        return "How good the chain is at other churns is not measured yet."
    everywhere = ", ".join(f"{value:g}" for value in sorted(set.intersection(*good)))
    return f"KID of the sequential chain over churn: {'; '.join(told)}. Inside on every model: {everywhere or 'none'}; here the churn is {churn:g}."


def counted(rows: pd.DataFrame) -> str:
    """Calls of the speculative arms of `arms.shipped`, of large samples: a Markdown table, or what measures them."""
    some = rows[(rows.sampler == "speculative") & (rows.images >= speculation.LARGE)]
    if some.empty:
        return "Larger numbers of images are not measured yet for these weights: `frugal sweep steps` does it."
    lines = [
        (f"`{row.model}`", row.arm, APPROXIMATE if "temperature" in row.arm else EXACT, row.images, f"{row.calls:.1f}", f"{row.calls_median:g}", f"{row.calls_max:.0f}", f"{row.rows:.0f}", _draft_rows(row))
        for row in some.itertuples()
    ]  # fmt: skip
    return markdown(["shipped records", "arm", "law", "images", "calls: mean", "median", "most", "rows", "of the draft"], lines)


def paired(found: pd.DataFrame) -> str:
    """`speculation.paired` of some models: a Markdown table, or what measures them."""
    if found.empty:
        return "The ways are not compared on the same seeds yet for these weights: `frugal sweep steps` does it."
    lines = [
        (f"`{row.model}`", row.way, row.beside, row.images, f"{row.calls:.1f}", f"{row.calls_beside:.1f}", f"{row.more:+.2f} ({row.low:+.2f} to {row.high:+.2f})", verdict)
        for row, verdict in zip(found.itertuples(), _told_apart(found), strict=True)
    ]  # fmt: skip
    table = markdown(["model", "way", "beside", "images", "calls", "calls beside", "difference (95 %)", "calls are"], lines)
    return f"{table}\n\nMore or fewer: by a test that flips the signs of the differences, with a false discovery rate of {SURE:.0%} over the table. {_of_the_gain(found)}"


def _told_apart(found: pd.DataFrame) -> list[str]:
    from scipy.stats import false_discovery_control

    sure = false_discovery_control(found.p) < SURE
    return [("more" if row.more > 0 else "fewer") if told else "not told apart" for row, told in zip(found.itertuples(), sure, strict=True)]


def _of_the_gain(found: pd.DataFrame) -> str:
    """What the default draft's gain saves: the draft without it is `clean`."""
    own = found.assign(calls_are=_told_apart(found))[found.way == "draft clean"]
    told = "; ".join(f"{row.calls_are} on {row.model} ({row.more:+.2f})" for row in own.itertuples())
    return f"Without the gain, which is the draft `clean`, calls are: {told}." if told else ""


def oddity(rows: pd.DataFrame) -> str:
    """Whether the slides' riddle shows here: what becomes of reader-IS and KID in FEW steps, model by model, from `slides_rows`.

    A KID within the whole chain's band has not worsened.
    """
    told = []
    for model, some in rows.groupby("model", sort=False):
        long, short = _whole(some), next((row for row in some.itertuples() if row.configuration == f"Target ({speculation.FEW} steps)"), None)
        if short and short.configuration != long.configuration and short.images > 0 and long.images > 0:
            worse = short.kid > long.kid_high
            riddle = "the same riddle" if worse and short.score > long.score else "the two do not part in that way" if worse else "which the chain's band holds: no riddle to be seen"
            told.append(f"{model}: reader-IS from {long.score:.2f} to {short.score:.2f}, KID from {long.kid:.3f} to {short.kid:.3f}, {riddle}")
    return f"Here, from the whole chain to {speculation.FEW} steps: {'; '.join(told)}." if told else "Whether the same happens on these faces is not measured yet."


def published() -> str:
    """The row of the slides, CIFAR-10, in the same shape."""
    return markdown(["configuration, by the slides (CIFAR-10, ε = 0.25)", "FID", "IS", "NFE"], [(name, *values) for name, values in PUBLISHED.items()])


def claim_fewer(found: pd.DataFrame, rows: pd.DataFrame) -> tuple[str, str]:
    """The slides' conclusion: fewer calls of the target, and its performance kept, by the `slides_rows` of one model; where large
    samples are not measured, by `costs`."""
    known = rows[rows.images > 0].set_index("configuration")
    names = "Speculative, temperature 1", f"Target ({_chain(found).steps} steps)"
    if not set(names) <= set(known.index):
        return pays(found), "fewer calls, more rows; exact in law, by a proof that is tested; large samples not measured yet"
    ours, chain = (known.loc[name] for name in names)
    kept = chain.kid_low <= ours.kid <= chain.kid_high
    said = f"{ours.calls:.1f} calls an image in place of {chain.calls:.0f}, {ours.rows:.0f} rows in place of {chain.rows:.0f}; KID {ours.kid:.4f}, the chain's {chain.kid:.4f}; {ours.images:.0f} images"
    if not ours.calls < chain.calls:
        return said, "does not hold: no fewer calls"
    return said, "holds, at more rows" if kept else "fewer calls; KID outside the chain's band"
