import pandas as pd
import pytest

from frugal.figures import times as timing
from frugal.figures import words


def found(times, model):
    table = timing.effects(times)
    return table[table.model == model]


def test_an_effect_inside_the_band_is_not_distinguishable_from_zero(times):
    text = words.effect(found(times, "ddpm-celebahq-256"))
    assert "Measured: the change at 50% and 90% is not distinguishable from zero." in text and "less time" not in text


def test_an_effect_outside_the_band_is_told_with_its_sign(times):
    text = words.effect(found(times, "ldm-celebahq-256"))
    assert "less time at" in text and "most at 90%: −9" in text and "more time" not in text
    slower = times.assign(seconds=times.seconds * (1 + (times.ratio > 0.6)), kind=times.kind.replace("composed", "measured"))
    assert "more time at 70%, 80% and 90%" in words.effect(found(slower, "ldm-celebahq-256"))


def test_what_is_composed_is_told_apart_from_what_was_measured(times):
    measured, composed = words.effect(found(times, "ldm-celebahq-256")).split(" Composed from the times of its layers, not measured: ")
    assert "Measured: less time at 50% and 90% (most at 90%: −9" in measured and "95% interval −9" in measured
    assert composed.startswith("less time at 10%, 20%, 30%, 40%, 60%, 70% and 80%")
    alone = words.effect(found(times[times.kind != "composed"], "ldm-celebahq-256"))
    assert alone == measured


def test_the_thesis_s_reading_is_seen_only_where_it_is(times):
    assert words.near_half(found(times, "ddpm-celebahq-256")) == "open: at 50% and 90% the change is not distinguishable from zero"
    assert words.near_half(found(times, "ldm-celebahq-256")) == "not seen: no ratio is slower, fastest at 90%"
    assert words.near_half(found(times[times["round"] < 3], "ldm-celebahq-256")).startswith("open")
    valley = times.assign(seconds=600 * (1 + (times.ratio - 0.5).abs() - 0.2 * (times.ratio > 0)))
    shifted = valley.assign(seconds=valley.seconds.where(valley.ratio > 0, 480))
    flipped = shifted.assign(seconds=shifted.seconds.where(shifted.ratio != 0.5, 400) * (1 + 1e-3 * times["round"]))
    assert words.near_half(found(flipped, "ldm-celebahq-256")) == "seen: faster at 50% only, slower at 90%"  # the others are composed
    whole = flipped.assign(kind=flipped.kind.replace("composed", "measured"))
    assert words.near_half(found(whole, "ldm-celebahq-256")).startswith("seen: faster at 50% only, slower at 10%")
    assert words.near_half(found(times[times.ratio != 0.5], "ldm-celebahq-256")).startswith("open")


@pytest.mark.parametrize(
    ("verdicts", "detectable", "said"),
    [
        (["slower", "faster", "slower", "slower"], [0.01] * 4, "seen: faster at 40% only, slower at 10%, 50% and 90%"),
        (["slower", "faster", "slower", "slower"], [0.01, 0.01, 0.01, float("nan")], "open: the rounds are too few to tell"),
        ([words.UNSURE, "slower", words.UNSURE, "slower"], [0.01] * 4, "open: at 10% and 50% the change is not distinguishable from zero"),
        ([words.UNSURE, "slower", "slower", "slower"], [0.01] * 4, "not seen: slower at 40%, 50% and 90%, no ratio is faster"),
    ],
)
def test_the_thesis_s_reading_stays_open_until_every_ratio_near_half_is_slower(verdicts, detectable, said):
    rows = {"ratio": [0.1, 0.4, 0.5, 0.9], "change": 0.1, "verdict": verdicts, "detectable": detectable, "kind": "measured"}
    assert words.near_half(pd.DataFrame(rows)) == said


def test_peaks_say_where_merging_raises_them():
    memory = pd.DataFrame({"model": ["one", "one", "two", "two"], "ratio": [0.0, 0.9] * 2, "bytes": [2**20, 2**21, 2**21, 2**20]})
    first, _, *lines = words.peaks(memory).splitlines()
    assert first == "Merging raises the peak in 1 of 2 cases, each measured once:"
    assert lines[0] == "* **one**: 1 MiB untouched, 2 MiB with 90% merged (+100%)" and lines[1].endswith("1 MiB with 90% merged (−50%)")
    assert words.peaks(memory[memory.ratio == 0]).startswith("Peaks of steps with nothing merged, each measured once:\n\n* **one**: 1 MiB untouched\n")


def test_readings_say_what_is_seen_or_not(times):
    asked, *models = words.readings(timing.effects(times)).splitlines()
    assert asked.startswith("Less time near 50% only (taken as 40% to 60%)") and "timed whole" in asked
    assert models[-1].startswith("* **ldm-celebahq-256**: not seen:")


@pytest.mark.parametrize(
    ("shares", "half", "saved"),
    [
        ([0.2, 0.22], "does not hold", "holds at every ratio"),
        ([0.45, 0.5], "holds at every ratio", "does not hold"),
        ([0.27, 0.28], "does not hold", "does not hold"),
        ([0.2, 0.5], "holds at some ratios", "holds at some ratios"),
        ([0.395, 0.5], "is open: an interval reaches over the limit", "does not hold"),
    ],
)
def test_the_thesis_s_two_statements_are_tested(shares, half, saved):
    text = words.two_statements(pd.DataFrame({"share": shares}).assign(low=lambda t: t.share - 0.01, high=lambda t: t.share + 0.01))
    assert f"(5.5, taken as 40 to 60%) {half}," in text and text.endswith(f"(6.1) {saved}")


def test_the_latent_model_s_share_is_given_with_and_without_decoding(times, decode):
    without, including = words.compared(times, decode).splitlines()
    assert "without decoding" in without and "38% to 42%" in without and "(both timed whole at 0%, 50% and 90%)" in without
    assert "with decoding" in including and "holds at some ratios" in including


def test_numbers_are_rounded_for_reading():
    assert [words.percent(x) for x in (0.1269, 0.007, 1.5, 0.998, 1.0, 0.99)] == ["13%", "0.7%", "150%", "99.8%", "100%", "99%"]
    assert words.percent(-0.031, signed=True) == "−3.1%" and words.listed([0.1, 0.2, 0.3]) == "10%, 20% and 30%"


def test_the_bound_is_amdahl_s():
    assert "at most 2.000 times" in words.bound(
        pd.DataFrame({"model": ["half"], "parameters": [2e6], "share": [0.5], "bound": [2.0]})
    )


def test_a_run_says_beforehand_what_it_takes():
    text = words.forecast({"seconds": 600.0, "memory": 2.0**31, "disk": 2.0**20, "cells": 3, "all": 4})
    assert text.startswith("About 10 min of measuring, 2.0 GiB of memory and 1.0 MiB of disk: 3 of 4") and "come on top" in text
    assert "reads them" in words.forecast({"seconds": 0.0, "memory": 0.0, "disk": 0.0, "cells": 0, "all": 4})


def test_the_better_fit_is_named_only_where_the_data_can_tell():
    row = {
        "model": "m",
        "metric": "psnr",
        "error_exponential": 1.0,
        "error_linear": 2.0,
        "advantage": 1.0,
        "low": 0.5,
        "high": 1.5,
        "c": 2.0,
    }
    assert "the exponential fits better" in words.decay(pd.DataFrame([row | {"better": "exponential"}]))
    assert "cannot be told apart" in words.decay(pd.DataFrame([row | {"better": "not distinguishable"}]))
    assert "too few" in words.decay(pd.DataFrame())
    falls = [words.decay(pd.DataFrame([row | {"better": "exponential", "c": c}])) for c in (2.0, -2.0)]
    assert "The exponential's rate is 2: the fall flattens" in falls[0] and "rate is −2: the fall steepens" in falls[1]  # a + b exp(-c r)


def test_a_comparison_that_detects_nothing_says_so():
    rows = pd.DataFrame(
        {"model": "m", "quantity": "psnr", "ratio": [0.1, 0.9], "verdict": ["not distinguishable from zero", "lower"]}
    )
    assert "at 90%, of 2 ratios" in words.against_the_data(rows)
    assert "at no ratio, of 1 ratio." in words.against_the_data(rows[:1])


def test_the_no_op_is_told_per_version():
    rows = pd.DataFrame({"series": "here", "diffusers": "0.21.4", "ratio": [0.5, 0.9], "patched": 0, "identical": True,
                         "tokens_before": 256, "tokens_after": [128, 64]})  # fmt: skip
    assert "0 modules of a UNet2DModel patched, output bit-identical; 90% asked" in words.noop(rows)
    assert "removes 75%" in words.noop(rows)
