import pandas as pd
import pytest

from frugal.figures import autoencoder


@pytest.mark.parametrize(
    ("shares", "told", "verdict"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.6, 0.7], "60% of its time (95% interval 50% to 70%, 6 rounds", "holds"),
        ([0.9, 0.9, 0.9, 0.9, 0.9, 1.1], "90% of its time (95% interval 90% to 110%, 6 rounds", "open"),
        ([1.2] * 6, "120% of its time (95% interval 120% to 120%, 6 rounds", "does not hold"),
    ],
)
def test_what_a_latent_step_takes_is_judged_round_by_round_and_for_this_machine_alone(about, shares, told, verdict):
    drift = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]  # of the machine, from round to round
    rows = [(model, k, part * drift[k]) for model, parts in (("pixels", [1] * 6), ("latents", shares)) for k, part in enumerate(parts)]
    seconds = pd.DataFrame(rows, columns=["model", "round", "seconds"])
    counted = pd.DataFrame({"parameters": [2.0, 5.0], "flops": [4.0, 1.0]}, index=["pixels", "latents"])
    measured, said = autoencoder.claim_cost(counted, seconds, about)
    assert measured.startswith("with 2.5 times the parameters a step of latents takes 25% of the FLOPs of one of pixels") and told in measured
    assert said == f"{verdict} for these embedded models (on this machine, {about.device})"
