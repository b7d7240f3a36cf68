"""Tables of the chapters as plain Markdown, filled from the run itself."""

import numpy as np
import pandas as pd

from ..measure.environment import versions
from ..measure.quality import median_interval
from .style import About
from .words import change


def markdown(head, rows) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def milliseconds(seconds) -> str:
    """The median of measured seconds with its 95 % interval (`quality.median_interval`), in milliseconds: 12.3 (12.1 to 12.6)."""
    found = median_interval(1000 * np.asarray(seconds))
    return f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f})"


def set_up(run, about: About) -> str:
    """The thesis's experiments beside those of an `experiments.Run`: its chapter 5, and what it leaves unsaid."""
    timed = [share.subject.title["model"] for share in run.shares]
    trained = [subject.title["model"] for subject in run.trained]
    found = {"Python" if name == "python" else name: version for name, version in versions().items()}
    software = ", ".join(f"{name} {found[name]}" for name in ("Python", "torch", "diffusers", "tomesd"))
    seeds = f"{run.request.seed} to {run.request.seed + run.images - 1}"
    whole = ", ".join(f"{share.rounds} rounds of {share.subject.title['model']}" for share in run.shares)
    quality = (
        "; ".join(f"{s.title['model']}, {len(draw.seeds)} images x {draw.steps} steps" for s, draw in run.drawn.items())
        if trained
        else "not measured: random weights"
    )
    ratios = ", ".join(f"{ratio:.0%}" for ratio in run.ratios)
    timed_as = f"single steps, interleaved: {whole}; scaled to 200 steps"
    if run.scale.times_large:
        timed_as = f"{run.scale.timed_images} images x {run.scale.timed_steps} steps, every iteration on the clock"
    clock = "the same; decoding given beside" if run.scale.times_large else "the network of one step; decoding given beside"
    plain = all(share.subject.plain for share in run.shares)
    layers = "every self-attention layer" + ("" if plain else ", of transformer blocks the highest resolution")
    composed = (
        "; large networks whole at a few ratios, the others composed from their layers"
        if any(s.layer_ratios for s in run.shares)
        else ""
    )
    samplers = ", ".join(sorted({draw.sampler.upper() for draw in run.drawn.values()})) or "none"
    prompted = "; ".join(
        f"{s.title['model']}: {len(set(draw.prompts))} prompts, guidance {draw.guidance:g}"
        for s, draw in run.drawn.items() if draw.prompts
    )  # fmt: skip
    rows = [
        ("hardware", "Google Colab, NVIDIA T4 (5.1)", about.device),
        ("software", "Python 3.10, diffusers 0.21.4 (5.1)", software),
        ("data", "CelebA-HQ at 256x256, 30,000 images (5.3)", "none for times; drawn faces, 64x64, for quality"),
        ("models timed", "DDPM, 113 M parameters; LDM, 274 M (5.3)", ", ".join(timed)),
        ("quality", "Stable Diffusion v1-5, 20 images x 200 steps (5.4, 5.6)", quality),
        ("ratios", "0 to 90% in steps of 10 (5.2)", ratios + composed),
        ("times", "100 images x 200 steps at each ratio (figure 5.1)", timed_as),
        ("on the clock", "first to end of the 200th iteration, decoding outside (5.2)", clock),
        ("statistic", "mean per image", "mean, median, quartiles, and the smallest detectable effect"),
        ("compared with", "the data set (5.2), the unmerged image of the same seed (5.4)", "both"),
        ("scheduler", "not stated", f"{samplers} for quality; DDIM, eta 0, for iterations"),
        ("batch", "not stated", "1 for times, up to 16 for quality"),
        ("precision", "not stated", "float32"),
        ("prompts, guidance", "not stated", prompted or "none: the models are not conditioned"),
        ("seeds", "the same for all ratios, not stated which (5.4)", seeds),
        ("attention", "not stated", "PyTorch's fused scaled_dot_product_attention, merged or not"),
        ("warm-up", "not stated", "one run of everything, not counted"),
        ("merging in DDPM and LDM", "not stated", f"method {run.request.method}, {layers}"),
        ("matching", "not stated", "anew in every layer and step, as published (reuse=1)"),
    ]  # fmt: skip
    return markdown(["", "thesis (section)", "here"], rows)


def saved_and_lost(effects: pd.DataFrame, quality: pd.DataFrame) -> str:
    """What merging saves beside what it costs, for the models of which both were measured."""
    means = (
        quality.assign(psnr=quality.psnr.replace(np.inf, np.nan))
        .groupby(["model", "ratio"])[["psnr", "ssim", "tokens_before", "tokens_after"]]
        .mean()
    )
    rows = []
    for row in effects.itertuples():
        if (row.model, row.ratio) in means.index:
            at = means.loc[row.model, row.ratio]
            verdict = f"{change(row.change, row.low, row.high)}, {row.verdict}"
            tokens = f"{at.tokens_before:.0f} to {at.tokens_after:.0f}"
            rows.append((row.model, f"{row.ratio:.0%}", tokens, verdict, f"{at.psnr:.1f} dB", f"{at.ssim:.3f}"))
    return markdown(["model", "ratio", "tokens of a step", "change of time, 95% interval within this run", "PSNR", "SSIM"], rows)


def noop(found: pd.DataFrame) -> str:
    """What tomesd did at each ratio, from `experiments.noop`."""
    rows = [
        (row.diffusers, f"{row.ratio:.0%}", row.patched, "bit-identical" if row.identical else "changed",
         f"{row.tokens_before} to {row.tokens_after} ({1 - row.tokens_after / row.tokens_before:.0%})")
        for row in found.itertuples()
    ]  # fmt: skip
    head = [
        "diffusers",
        "ratio asked",
        "UNet2DModel: modules patched",
        "its output",
        "transformer block: tokens (removed)",
    ]
    return markdown(head, rows)
