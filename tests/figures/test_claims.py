from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frugal.figures import claims
from frugal.figures.style import SMOKE
from frugal.measure import fits


@pytest.fixture
def run(times, decode, decay):
    """What an experiments.Run holds, of both pairs."""
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
    assert found["verdict_near_half"] == "does not hold"
    assert found["verdict_slower"] == "does not hold: some are faster"  # the latent model, made up so
    assert found["verdict_saved"] == "does not hold; with decoding it does not hold"
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
    assert claims.against(run)["verdict_decay"] == "mixed"


@pytest.mark.parametrize(
    ("where", "verdict"),
    [([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], "holds"), ([0.9], "open: could not be told at every ratio"), ([], "open: could not be told at every ratio")],
)
def test_slower_away_from_the_middle_holds_where_every_such_ratio_is(run, where, verdict):
    level = run.seconds[run.seconds.ratio == 0].groupby("model").seconds.median()
    drift = 1 + 1e-3 * np.random.default_rng(0).standard_normal(len(run.seconds))
    slower = np.where(run.seconds.ratio.isin(where) & (run.seconds.kind != "again"), 1.2, 1)
    run.seconds = run.seconds.assign(seconds=run.seconds.model.map(level).to_numpy() * drift * slower)
    assert claims.against(run)["verdict_slower"] == verdict


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
    assert "4,096 tokens" in found["claim_tokens"] and found["verdict_tokens"].startswith("holds for the number of tokens")
    assert "ldm-celebahq-256: 12.7% of the FLOPs" in found["claim_square"] and found["verdict_square"].startswith("does not")


def test_a_chapter_keeps_what_it_found_and_a_smoke_run_passes_no_verdict(monkeypatch):
    kept = {}
    monkeypatch.setattr(claims, "glue_all", kept.update)
    claims.keep("sharing", "216 weights", True)
    claims.keep("origin", "the data", False, "quick")
    claims.keep("tried", "3", True, "smoke")
    assert kept["verdict_sharing"] == "holds" and kept["verdict_origin"] == "does not hold"
    assert kept["verdict_tried"] == SMOKE and kept["claim_sharing"] == "216 weights"
