from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frugal.figures import claims
from frugal.figures.style import SMOKE
from frugal.measure import fits

HERE = " (on this machine, a machine)"


@pytest.fixture
def run(times, decode, decay, monkeypatch):
    """What an experiments.Run holds, of both pairs; nothing is shipped."""
    monkeypatch.setattr(claims.About, "of", lambda run: claims.About("quick", "a machine"))
    monkeypatch.setattr(claims.timing, "reference", lambda: None)
    small = times.assign(
        model=times.model.str.replace("celebahq-256", "").map({"ddpm-": "faces-ddpm", "ldm-": "faces-ldm"}),
        seconds=times.seconds / 100,
    )
    attention = pd.DataFrame(
        {
            "model": ["ddpm-celebahq-256", "ldm-celebahq-256"],
            "parameters": [113_673_219, 274_056_163],
            "share": [0.007, 0.127],
        }
    )
    return SimpleNamespace(
        request=SimpleNamespace(scale="quick"), seconds=pd.concat([times, small]), decode=decode,
        attention=attention, quality=decay,
        fits=fits.fit_decay(decay, "psnr"), trained=["faces-ddpm", "faces-ldm"], as_thesis=["faces-ddpm", "faces-ldm"], ratios=tuple(np.arange(10) / 10),
    )  # fmt: skip


def test_every_claim_has_a_measurement_and_a_verdict(run):
    found = claims.against(run)
    assert set(found) == {f"{kind}_{name}" for kind in ("claim", "verdict") for name in claims.CLAIMS}
    assert all(text.strip() and claims.NOT_MEASURED not in text for text in found.values())


def test_verdicts_follow_from_the_measurements(run):
    found = claims.against(run)
    assert "a ratio of 2.41" in found["claim_parameters"] and found["verdict_parameters"] == "the counts hold; 2.4 times, not almost three"
    assert found["verdict_near_half"] == "open for ddpm-celebahq-256; does not hold for ldm-celebahq-256" + HERE
    assert found["verdict_best"] == "does not hold: more is saved" + HERE and "at 90% −9" in found["claim_best"]
    assert found["verdict_slower"] == "does not hold: some are faster" + HERE  # the latent model, made up so
    assert found["verdict_saved"] == "does not hold; with decoding it does not hold" + HERE
    assert "113.7 M" in found["claim_bound"] and found["claim_billion"].startswith("1,066,235,307")
    quick = run.seconds.assign(seconds=run.seconds.seconds.where(run.seconds.model != "ldm-celebahq-256", 100.0))
    run.seconds = quick
    assert claims.against(run)["verdict_saved"].startswith("holds at every ratio")


def test_an_exponential_decay_holds_only_where_it_fits_better(run):
    assert run.fits.better.tolist() == ["exponential"] * 2
    assert claims.against(run)["verdict_decay"] == "holds"
    run.fits = run.fits.assign(better="not distinguishable")
    assert claims.against(run)["verdict_decay"] == "open: the two forms cannot be told apart"
    run.fits = run.fits.assign(better=["linear", "exponential"])
    assert claims.against(run)["verdict_decay"] == "open: which form fits better differs"


@pytest.mark.parametrize("column", ["b", "c"])
def test_a_curve_that_fits_better_but_falls_ever_faster_is_no_decay(run, column):
    run.fits[column] *= -1
    assert claims.CLAIMS["decay"](run)[1] == "does not hold: the fall steepens, a decay flattens"


def test_a_mean_that_rises_with_the_ratio_is_named(run):
    assert "rises" not in claims.against(run)["claim_decay"]
    higher = (run.quality.model == "faces-ldm") & run.quality.ratio.between(0.55, 0.75)
    run.quality = run.quality.assign(psnr=run.quality.psnr.where(~higher, 33 + run.quality.ratio))
    assert claims.against(run)["claim_decay"].endswith("; the mean rises to 60% and 70% (faces-ldm, PSNR)")


@pytest.mark.parametrize(
    ("where", "verdict"),
    [([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], "holds"), ([0.9], "open: could not be told at every ratio"), ([], "open: could not be told at every ratio")],
)
def test_slower_away_from_the_middle_holds_where_every_such_ratio_is(run, where, verdict):
    level = run.seconds[run.seconds.ratio == 0].groupby("model").seconds.median()
    drift = 1 + 1e-3 * np.random.default_rng(0).standard_normal(len(run.seconds))
    slower = np.where(run.seconds.ratio.isin(where) & (run.seconds.kind != "again"), 1.2, 1)
    kind = run.seconds.kind.replace("composed", "measured")
    run.seconds = run.seconds.assign(seconds=run.seconds.model.map(level).to_numpy() * drift * slower, kind=kind)
    assert claims.against(run)["verdict_slower"] == verdict + HERE


@pytest.mark.parametrize(
    ("pixel", "latent", "verdict"),
    [
        (0.2, 0.2, "holds for the embedded pair: no time is saved"),
        (0.2, 0.0, "open: whether time is saved could not be told"),
        (0.2, -0.2, "depends on what the loss is worth"),
    ],
)
def test_no_time_is_saved_only_where_both_networks_take_longer(run, pixel, latent, verdict):
    seconds = run.seconds[run.seconds.model.str.startswith("faces")]
    change = np.where(seconds.ratio == claims.MIDDLE, seconds.model.map({"faces-ddpm": pixel, "faces-ldm": latent}), 0)
    noise = 1 + 1e-3 * np.random.default_rng(0).standard_normal(len(seconds))
    run.seconds = seconds.assign(seconds=(1 + change) * noise)
    assert claims.CLAIMS["worth"](run)[1] == verdict


def test_what_is_composed_decides_nothing(run):
    composed = run.seconds.kind == "composed"
    halved = run.seconds.assign(seconds=run.seconds.seconds.where(~composed, run.seconds.seconds / 2))
    names = ("near_half", "marginal", "best", "slower", "half", "saved")
    before = {name: claims.CLAIMS[name](run) for name in names}
    run.seconds = halved
    assert {name: claims.CLAIMS[name](run) for name in names} == before
    run.seconds = run.seconds[composed | (run.seconds.ratio == 0)]
    assert {claims.CLAIMS[name](run) for name in names[:4]} == {None}  # so the verdict is open


@pytest.mark.parametrize(
    ("saved", "spread", "marginal", "best"),
    [
        (0.05, 1e-3, "does not hold: more than 1% for one model at least", "does not hold: more is saved"),
        (0.015, 1e-3, "does not hold: more than 1% for one model at least", "holds within a factor of 2"),
        (0.0, 1e-4, "holds: at most 1%", "holds within a factor of 2"),
        (-0.4, 1e-3, "does not hold: time is lost", "does not hold: time is lost"),
        (0.02, 1e-2, "open: 1% could not be told", "open: 2% could not be told"),
    ],
)
def test_a_limit_that_an_interval_reaches_over_leaves_the_verdict_open(run, saved, spread, marginal, best):
    noise = 1 + spread * np.random.default_rng(0).standard_normal(len(run.seconds))
    merged = np.where(run.seconds.ratio > 0, 1 - saved, 1)
    run.seconds = run.seconds.assign(seconds=100 * merged * noise)
    found = claims.against(run)
    assert (found["verdict_marginal"], found["verdict_best"]) == (marginal + HERE, best + HERE)


def test_almost_half_is_open_where_the_interval_of_the_share_reaches_over_the_limit(run):
    level = {"ddpm-celebahq-256": 100.0, "ldm-celebahq-256": 40.0}
    spread = 1 + 0.05 * np.linspace(-1, 1, 5)[run.seconds["round"]]
    run.seconds = run.seconds.assign(seconds=run.seconds.model.map(level).fillna(1.0) * spread)
    found = claims.against(run)
    assert found["verdict_half"].startswith("open: an interval reaches over the limit")
    assert found["verdict_saved"].startswith("does not hold")
    assert "40% (95% intervals 3" in found["claim_half"] and "at 0%, 50% and 90%" in found["claim_half"]


def test_what_was_not_measured_stays_open(run):
    run.attention, run.trained = run.attention[:1], []
    found = claims.against(run)
    assert found["claim_half"] == claims.NOT_MEASURED and found["verdict_half"] == "open"
    assert found["claim_worth"] == claims.NOT_MEASURED and found["verdict_decay"] == "open"


def test_a_smoke_run_passes_no_verdict(run):
    run.request.scale = "smoke"
    assert {text for name, text in claims.against(run).items() if name.startswith("verdict")} == {SMOKE}


def test_what_follows_from_published_shapes_is_counted(run):
    found = claims.against(run)
    assert found["claim_ten_times"].startswith("9.4 times") and found["verdict_ten_times"] == "holds"
    run.attention = run.attention.assign(parameters=[1_066_235_307 // 8, 274_056_163])
    assert claims.CLAIMS["ten_times"](run) == ("8.0 times fewer in the DDPM than in Stable Diffusion v1-5", "does not hold")
    assert "4,096 tokens" in found["claim_tokens"] and found["verdict_tokens"].startswith("holds for the number of tokens")
    assert "ldm-celebahq-256: 2.00 of attention's two products, 1.70 of" in found["claim_square"]
    assert found["verdict_square"] == "holds of attention's two products alone"


@pytest.mark.parametrize(
    ("powers", "verdict"),
    [((2.0, 1.9, 1.9), "holds"), ((2.0, 1.95, 1.2), "holds of attention with its linear maps alone"), ((1.5, 1.2, 1.0), "does not hold")],
)
def test_the_square_of_the_tokens_is_judged_by_the_powers(run, monkeypatch, powers, verdict):
    monkeypatch.setattr(claims.growth, "exponents", lambda unet: dict(zip(("products", "attention", "network"), powers, strict=True)))
    assert claims.against(run)["verdict_square"] == verdict


@pytest.mark.parametrize(
    ("small", "large", "share", "verdict"),
    [
        (0.0, -0.1, 0.127, "open: size and attention's share go together in this pair"),
        (0.0, -0.1, 0.001, "holds: the larger network gains more, at a smaller share"),
        (-0.1, 0.0, 0.127, "does not hold: the larger network gains less, or loses more"),
        (-0.1, -0.1, 0.127, "open: the two gains cannot be told apart"),
    ],
)
def test_the_size_of_the_network_explains_a_gain_only_where_its_share_does_not(run, small, large, share, verdict):
    change = run.seconds.model.map({"ddpm-celebahq-256": small, "ldm-celebahq-256": large}).fillna(0)
    noise = 1 + 1e-3 * np.random.default_rng(0).standard_normal(len(run.seconds))
    run.seconds = run.seconds.assign(seconds=100 * (1 + change * (run.seconds.ratio > 0)) * noise)
    run.attention = run.attention.assign(share=[0.007, share])
    assert claims.against(run)["verdict_bound"] == verdict + HERE


def test_shipped_times_of_the_pair_are_judged_beside_those_of_this_machine(run, monkeypatch):
    pair = run.seconds[run.seconds.model.str.contains("celebahq")]
    slower = pair.seconds * (1 + 0.4 * (pair.ratio > 0)) * pair.model.map({"ldm-celebahq-256": 4}).fillna(1)
    settings = [pair.assign(seconds=slower, kind=pair.kind.replace("composed", "measured"), device=f"a GPU, {way}") for way in ("float16", "float32")]
    alone = pair[pair.model == "ldm-celebahq-256"].assign(device="another")  # has not timed both
    monkeypatch.setattr(claims.timing, "reference", lambda: pd.concat([*settings, alone]))
    found = claims.against(run)
    assert found["verdict_slower"] == f"does not hold: some are faster{HERE}; on a GPU, shipped: holds in 2 of 2 settings"
    assert found["verdict_best"] == f"does not hold: more is saved{HERE}; on a GPU, shipped: does not hold (time is lost) in 2 of 2 settings"
    assert found["verdict_half"].endswith(f"{HERE}; on a GPU, shipped: does not hold in 2 of 2 settings")  # 160 to 170 %
    assert found["verdict_worth"].endswith(HERE) and "machine" not in found["verdict_parameters"]


def test_a_chapter_keeps_what_it_found_and_a_smoke_run_passes_no_verdict(monkeypatch):
    kept = {}
    monkeypatch.setattr(claims, "glue_all", kept.update)
    claims.keep("sharing", "216 weights", True)
    claims.keep("origin", "the data", False, "quick")
    claims.keep("tried", "3", True, "smoke", of="4 images")
    claims.keep("few", "3", False, of="4 images")
    assert kept["verdict_sharing"] == "holds" and kept["verdict_origin"] == "does not hold"
    assert kept["verdict_few"] == "does not hold, of 4 images"
    assert kept["verdict_tried"] == SMOKE and kept["claim_sharing"] == "216 weights"
