"""What governs the gain of merging: one attention layer over resolution, backend and width, and whole networks predicted."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..methods.merging import METHOD
from ..models.architectures import published
from . import bench_prediction, cost, merging_layer, records, thesis
from .environment import environment
from .plan import Subject
from .predict import Prediction, predict_speedup
from .timing import label

COLUMNS = ["backend", "pixels", "tokens", "channels", "ratio", "way", "milliseconds", "speedup", "speedup_low", "speedup_high", "ideal",
           "share", "low", "high", "device", "series"]  # fmt: skip
WHOLE = ["device", "pixels", "backend", "ratio", "way", "change", "low", "high", "lead", "lead_low", "lead_high", "untouched", "seconds",
         "rounds", "end"]  # fmt: skip
SCORED = ["resolution", "backend", "ratio", "measured", "low", "high", "predicted", "flops", "rounds", "way", "device", "series"]
THESIS = (("ddpm-celebahq-256", None, ("fused",)), ("ldm-celebahq-256", None, ("fused",)))  # model, pixels (None: its own), backends
TEXT = "stable-diffusion-v1-5"
FAR = 0.05  # of a step's time: a prediction that misses by more is called far off
EMBEDDED = (("faces-ddpm", None, ("fused",)), ("faces-sd", None, ("fused", "math")))


@dataclass(frozen=True)
class Plan:
    """How much the chapter measures by itself; shipped records show more of it."""

    networks: tuple[tuple[str, int | None, tuple[str, ...]], ...]
    pixels: tuple[int, ...]  # of the images whose tokens the layer sees
    channels: tuple[int, ...]  # of the layer, at as many tokens as `fixed` pixels have
    fixed: int
    rounds: int


PLANS = {
    "smoke": Plan(EMBEDDED, (64, 128), (80, 160), 128, 4),
    "quick": Plan((*THESIS, (TEXT, 320, ("fused", "math"))), (128, 192, 256, 384, 512), (80, 160, 320, 640), 384, 4),
    "thesis": Plan(
        (*THESIS, *((TEXT, side, ("fused", "math")) for side in (512, 768, 1024))),
        (256, 384, 512, 768, 1024, 1536, 2048), (80, 160, 320, 640, 1280), 512, 7,
    ),
}  # fmt: skip


def layer_gains(
    pixels: Iterable[int], backends: Iterable[str] = ("fused", "math"), channels: Iterable[int] = (merging_layer.CHANNELS,),
    ratio: float = 0.5, *, rounds: int = 5, device: str = "cpu", scale: str = "quick",
) -> pd.DataFrame:  # fmt: skip
    """The layer of `merging_layer` at every backend, side of the image and width: one row a way of merging, COLUMNS.

    speedup: over the untouched layer; ideal: of the layer on the tokens that are kept; share of it, from low to high. Intervals of 95 %,
    from paired rounds.
    """
    rows = []
    for backend in backends:
        for side in pixels:
            for width in channels:
                options = {"rounds": rounds, "channels": width, "device": device, "scale": scale}
                found = merging_layer.shares((ratio,), side, backend, **options)
                rows += _rows(found, backend, side, width, environment(device)["device"]["name"], "here")
    return pd.DataFrame(rows, columns=COLUMNS)


def shipped_layers(ratio: float = 0.5, channels: int = merging_layer.CHANNELS) -> pd.DataFrame:
    """The same of the default method from shipped records, of other machines or longer runs; empty where there are none."""
    rows = []
    for record in records.load_shipped():
        asked = record.asked
        if record.name == "merging-layer" and asked["method"] == METHOD and asked["channels"] == channels and ratio in asked["ratios"]:
            found = [share for share in merging_layer.compared(record) if share.ratio == ratio]
            rows += _rows(found, asked["backend"], asked["resolution"], channels, where(record), "shipped")
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["backend", "pixels"], ignore_index=True, kind="stable")


def peaks(model: str = TEXT, methods: Iterable[str] = (METHOD, "tome")) -> pd.DataFrame:
    """Peak memory of a step above the loaded network, from this machine's records and shipped ones of `frugal bench merging`.

    `methods` are alike in memory: of the same step the last record counts. Columns pixels, backend, ratio, device, less (the
    untouched network's peak over the merged one's); empty where no record is.
    """
    found: dict[tuple, dict[tuple, float]] = {}
    for record in (*records.load_shipped(), *records.load_all()):
        if record.name == "merging-memory" and record.model["name"] == model and record.asked["method"] in (None, *methods):
            asked = record.asked
            same = where(record), asked["size"][0] * merging_layer.PIXELS, asked["backend"], asked["batch"], str(asked["layers"])
            found.setdefault(same, {})[asked["ratio"] if asked["method"] else 0] = float(record.values["extra"][0])
    rows = [
        (pixels, backend, ratio, device, sizes[0] / size)
        for (device, pixels, backend, *_), sizes in found.items() if 0 in sizes for ratio, size in sorted(sizes.items()) if ratio
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["pixels", "backend", "ratio", "device", "less"])


def networks(model: str = TEXT) -> pd.DataFrame:
    """A merged step of a whole network against the untouched one, from shipped records and this machine's of `frugal bench merging`.

    One row a setting and way of merging, WHOLE; change, low, high: of a step's time against the untouched network, lead and its interval
    against tomesd, nan for tomesd itself, each with 95 % of paired rounds; untouched, seconds: medians of a step. Of two records of one
    setting that of the default method, then the longer one, then the newer.
    """
    rows = []
    for record in (*records.load_shipped(), *records.load_all()):
        if record.name == "merging" and record.model["name"] == model and record.model["weights"] == "random" and _plain(record.asked):
            rows += [(*row, record.asked["method"] == METHOD) for row in _compared(record)]
    found = pd.DataFrame(rows, columns=[*WHOLE, "default"]).sort_values(["default", "rounds", "end"], kind="stable").drop(columns="default")
    found = found.drop_duplicates(["device", "pixels", "backend", "ratio", "way"], keep="last")
    return found.sort_values(["device", "backend", "pixels", "ratio", "way"], ignore_index=True)


def _plain(asked: dict) -> bool:
    return asked["batch"] == 1 and asked["layers"] == "auto"


def _compared(record: records.Record) -> list[tuple]:
    asked, values, rows = record.asked, record.values, []
    about = where(record), asked["size"][0] * merging_layer.PIXELS, asked["backend"]
    for ratio in asked["ratios"]:
        ours, theirs = f"{asked['method']} {ratio:g}", values.get(f"{asked['against']} {ratio:g}")
        merged = merging_layer.over_period(values[ours], values.get(f"{ours} later", values[ours]), asked["reuse"])
        ways = {merging_layer.way(asked["method"], asked["reuse"]): merged} | ({} if theirs is None else {asked["against"]: theirs})
        for way, seconds in ways.items():
            change, lead = cost.paired_interval(values["plain"], seconds), [float("nan")] * 3
            if theirs is not None and way != asked["against"]:
                against = cost.paired_interval(theirs, seconds)
                lead = [against.value, against.low, against.high]
            medians = float(np.median(values["plain"])), float(np.median(seconds))
            rows.append((*about, ratio, way, change.value, change.low, change.high, *lead, *medians, asked["rounds"], record.end))
    return rows


def together(found: pd.DataFrame) -> pd.DataFrame:
    """Merging and fused attention at once, against neither: rows of `networks`, fused, whose device and image were timed with math too.

    Columns besides: both, untouched seconds with math attention over merged seconds with fused; alone, over untouched ones with fused.
    The two networks ran apart, so there are no rounds to pair.
    """
    neither = found[found.backend == "math"].groupby(["device", "pixels"]).untouched.median().rename("neither")
    rows = found[found.backend == "fused"].join(neither, on=["device", "pixels"], how="inner")
    return rows.assign(both=rows.neither / rows.seconds, alone=rows.neither / rows.untouched)


def of_experiments(ratio: float = 0.5, scale: str = "quick") -> pd.DataFrame:
    """What the published method changed in a step of whole networks, from this machine's records of chapter 5.

    Columns model, change, low, high: -0.1 is a tenth less, with 95 % of paired rounds; empty where the chapter has not run.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for record in _published("network", scale):
        if ratio in record.asked["ratios"]:
            seconds = record.values
            pairs.setdefault(record.model["name"], []).append((seconds[label(0)][0], seconds[label(ratio)][0]))
    found = {model: cost.paired_interval(*zip(*rounds, strict=True)) for model, rounds in pairs.items()}
    return pd.DataFrame([(model, x.value, x.low, x.high) for model, x in found.items()], columns=["model", "change", "low", "high"])


def peaks_of_experiments(scale: str = "quick") -> pd.DataFrame:
    """Peak memory of a step merged by the published method over that of the untouched network, from this machine's records of chapter 5.

    Columns model, ratio, more: 1.1 is a tenth more, of one run each; empty where the chapter has not run.
    """
    found: dict[str, dict[float, float]] = {}
    for record in _published("memory", scale):
        found.setdefault(record.model["name"], {})[record.asked["ratio"]] = float(record.values["extra"][0])
    rows = [
        (model, ratio, size / sizes[0]) for model, sizes in found.items() if 0 in sizes for ratio, size in sorted(sizes.items()) if ratio
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "ratio", "more"])


def _published(name: str, scale: str) -> list[records.Record]:
    """This machine's records of chapter 5 of the published method on inputs of full size."""
    asked = {"method": thesis.METHOD, "divisor": 1}
    return [r for r in records.load_all() if r.name == name and r.scale == scale and asked.items() <= r.asked.items()]


def where(record: records.Record) -> str:
    """The device of a record, with the numbers it computed in where these are not float32."""
    dtype = record.device["dtype"]
    return record.device["name"] + ("" if dtype == "float32" else f", {dtype}")


def _rows(shares, backend: str, side: int, width: int, device: str, series: str) -> list[tuple]:
    tokens = (side // merging_layer.PIXELS) ** 2
    return [
        (backend, side, tokens, width, s.ratio, s.way, s.milliseconds, s.speedup.value, s.speedup.low, s.speedup.high, s.ideal,
         s.share.value, s.share.low, s.share.high, device, series) for s in shares
    ]  # fmt: skip


def predictions(
    networks, ratio: float = 0.5, *, seed: int = 0, rounds: int = 3, device: str = "auto", scale: str = "quick"
) -> list[tuple[str, Prediction]]:
    """(model, prediction) of each of a plan's networks at its resolution and backends; published ones with random weights."""
    found = []
    for name, pixels, backends in networks:
        model = Subject.of((name, "random" if published(name) else "embedded"), device).model
        for backend in backends:
            found.append((name, predict_speedup(model, METHOD, ratio, pixels, backend, seed=seed, rounds=rounds, scale=scale)))
    return found


def held_out() -> pd.DataFrame:
    """The points at which the prediction was scored, of each device from its newest record, this machine's before shipped ones.

    SCORED: measured, low, high, predicted and flops are shares of a step's time saved; way: of merging; rounds: of whole networks
    behind a measurement. Empty where no record is.
    """
    found, rounds, rows = {}, {}, []
    for loaded in (records.load_shipped(), records.load_all()):  # what comes later takes the place
        found |= {r.device["name"]: r for r in sorted(loaded, key=lambda r: r.end) if r.name == "prediction-score"}
        rounds |= {(r.device["name"], r.asked["size"][0], r.asked["backend"]): r.asked["rounds"] for r in loaded if r.name == "prediction-held-out"}
    for device, record in found.items():
        values = {name: record.values[name] for name in ("measured", "low", "high", "predicted", "flops")}
        about = {"way": merging_layer.way(record.asked["method"], **bench_prediction.OPTIONS), "device": device, "series": record.series}
        for k, point in enumerate(record.asked["points"]):
            key = device, point["resolution"] // merging_layer.PIXELS, point["backend"]
            found_at = {name: float(v[k]) for name, v in values.items()} | {"rounds": rounds.get(key, bench_prediction.ROUNDS)}
            rows.append(point | found_at | about)
    return pd.DataFrame(rows, columns=SCORED)


@dataclass(frozen=True)
class Errors:
    """How far off a prediction of the time saved is, at some points of `held_out`."""

    median: float  # of the share of a step's time
    largest: float
    worst: pd.Series  # the point of the largest
    far: int  # points that are missed by more than FAR
    over: int  # points at which less was saved than foretold
    sure: int  # points whose measured interval leaves no doubt whether time is saved or lost
    right: int  # of these, foretold
    points: int


def errors(points: pd.DataFrame, column: str = "predicted") -> Errors:
    """`column` of some points of `held_out` against what was measured there."""
    off = points[column] - points.measured
    sure = (points.low > 0) | (points.high < 0)
    right = sure & (np.sign(points[column]) == np.sign(points.measured))
    worst = points.loc[off.abs().idxmax()]
    counts = (int(some.sum()) for some in (off.abs() > FAR, off > 0, sure, right))
    return Errors(float(off.abs().median()), float(off.abs().max()), worst, *counts, len(points))
