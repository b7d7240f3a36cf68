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
        fits=fits.fit_decay(decay, "psnr"), trained=["faces-ddpm", "faces-ldm"], ratios=tuple(np.arange(10) / 10),
    )  # fmt: skip


def test_every_claim_has_a_measurement_and_a_verdict(run):
    found = claims.against(run)
    assert set(found) == {f"{kind}_{name}" for kind in ("claim", "verdict") for name in claims.CLAIMS}
    assert all(text.strip() and claims.NOT_MEASURED not in text for text in found.values())


def test_verdicts_follow_from_the_measurements(run):
    found = claims.against(run)
    assert "a ratio of 2.41" in found["claim_parameters"] and found["verdict_parameters"] == "confirmed"
    assert found["verdict_near_half"] == "not confirmed" and found["verdict_slower"] == "not confirmed"
    assert found["verdict_saved"] == "does not hold; with decoding it does not hold"
    assert "113.7 M" in found["claim_bound"] and found["claim_billion"].startswith("1,066,235,307")
    quick = run.seconds.assign(seconds=run.seconds.seconds.where(run.seconds.model != "ldm-celebahq-256", 100.0))
    run.seconds = quick
    assert claims.against(run)["verdict_saved"].startswith("holds at every ratio")


def test_an_exponential_decay_is_confirmed_only_where_it_fits_better(run):
    assert run.fits.better.tolist() == ["exponential"] * 2
    assert claims.against(run)["verdict_decay"] == "confirmed"
    run.fits = run.fits.assign(better="not distinguishable")
    assert claims.against(run)["verdict_decay"] == "the two forms cannot be told apart"
    run.fits = run.fits.assign(better=["linear", "exponential"])
    assert claims.against(run)["verdict_decay"] == "mixed"


def test_what_was_not_measured_stays_open(run):
    run.attention, run.trained = run.attention[:1], []
    found = claims.against(run)
    assert found["claim_half"] == claims.NOT_MEASURED and found["verdict_half"] == "open"
    assert found["claim_worth"] == claims.NOT_MEASURED and found["verdict_decay"] == "open"


def test_a_smoke_run_passes_no_verdict(run):
    run.request.scale = "smoke"
    assert {text for name, text in claims.against(run).items() if name.startswith("verdict")} == {SMOKE}
