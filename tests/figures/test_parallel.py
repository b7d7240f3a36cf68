"""Figures and sentences of the chapter on parallel sampling, from made-up measurements."""

import numpy as np
import pandas as pd
import pytest
import torch

from frugal.figures import parallel
from frugal.measure import batching
from frugal.measure.quality import Estimate
from frugal.measure.rounds import CLOSENESS, Front


def front(method="anderson", rounds=3, steps=6):
    errors = np.full((rounds, steps + 1), np.nan)
    for k in range(rounds):
        errors[k, : 2 * (k + 1) + 1] = 10.0 ** -np.arange(2 * (k + 1), -1, -1)
    return Front(method, errors, np.array([2, 4, 6])[:rounds], rounds, 8, [1, 3], [3, 6], torch.rand(2, 2, 3, 8, 8))


def batches(prices=(1.0, 1.1, 2.0)):
    rows = [("faces-ldm", 4**k, 0.1 * p, 0.09 * p, 0.11 * p, p, 0.9 * p, 1.1 * p, "a chip", "here") for k, p in enumerate(prices)]
    return pd.DataFrame(rows, columns=batching.COLUMNS)


def summary(seconds=12.0):
    rows = [
        ("ddim, 100 steps", 2, 100.0, 100.0, 10.0, 0.0, np.inf, 10.0),
        ("parallel, 100 steps, method anderson", 2, 20.0, 300.0, seconds, 0.004, 60.0, 11.0),
        ("parallel, 100 steps, method picard", 2, 18.0, 250.0, 8.0, 0.4, 20.0, 9.0),
        ("dpmpp_2m, 20 steps", 2, 20.0, 20.0, 2.0, 0.1, 30.0, 2.0),
    ]
    return pd.DataFrame(rows, columns=["arm", "images", "calls", "rows", "seconds", "error", "psnr", "predicted"])


def test_convergence_has_a_panel_a_method_on_one_scale(about):
    drawn = parallel.convergence([front(), front("picard", 2)], about)
    first, second, _ = drawn.figure.axes
    assert first.get_title(loc="left") == "anderson: 3 rounds" and second.get_title(loc="left")== "picard: 2 rounds"
    assert "A trajectory of 6 steps" in drawn.caption
    shown = [axes.collections[0] for axes in (first, second)]
    assert shown[0].get_array().shape == (3, 7) and shown[0].norm.vmin == shown[1].norm.vmin == parallel.FLOOR
    assert shown[0].norm.vmax == shown[1].norm.vmax == 1 and bool(np.ma.getmaskarray(shown[0].get_array())[0, 3:].all())
    assert "3 rounds, the last state is off by 1.0e+00" in drawn.alt
    first.figure.canvas.draw()
    assert all(tick == round(tick) for tick in first.get_yticks())  # a round is a whole number
    boxes = [axes.get_tightbbox() for axes in (first, second)]
    assert boxes[0].x1 <= boxes[1].x0 + 1  # no title runs into the next


def test_pictures_name_round_and_step(about):
    drawn = parallel.pictures(front(), about)
    assert [axes.get_title() or axes.get_title(loc="left") for axes in drawn.figure.axes[:2]] == ["round 1\nstep 3", "round 3\nstep 6"]
    assert "round 3 has reached step 6" in drawn.alt and len(drawn.figure.axes) == 4


def test_the_price_of_a_batch_and_the_seconds_foretold(about):
    shipped = batches((1.0, 1.0, 1.0)).assign(device="a large chip", series="shipped")
    drawn = parallel.price(batches(), summary(), about, shipped=shipped)
    left, right = drawn.figure.axes
    assert [text.get_text() for text in left.get_legend().texts] == ["a large chip", "as many times as states", "here"]
    assert len(right.get_legend().texts) == 4 and right.get_xlim() == right.get_ylim()
    assert "16 states cost 2.0 calls of one" in drawn.alt
    drawn.figure.canvas.draw()
    assert "a large chip" in drawn.caption
    for none in (batches()[:0], shipped.assign(model="another")):  # another network's price is another
        assert len(parallel.price(batches(), summary(), about, shipped=none).figure.axes[0].get_legend().texts) == 2


def test_the_table_tells_calls_rows_seconds_and_losses():
    head, _, *rows = parallel.arms(summary()).splitlines()
    assert "one image, mean of 2" in head and len(rows) == 4
    assert "| 20.0 | 300 | 12.0 s | 11.0 s | 0.0040 | 60.0 dB |" in rows[1] and "identical" in rows[0]


def test_whether_it_pays_is_said_of_the_most_exact_parallel_arm():
    slower = parallel.pays(summary(), batches())
    assert "a slow-down of 1.20" in slower and "20 calls instead of 100" in slower and "up to 4 states cost no more than 1.25 times one" in slower
    assert "Where 16 states cost 16 times one, it would be a slow-down of 3.0; where they cost as much as one, a speed-up of 5.0." in slower
    assert "a speed-up of 4.00" in parallel.pays(summary(2.5), batches()) and "no batch is to be had" in parallel.pays(summary(), batches((1, 3, 9)))


@pytest.mark.parametrize(("seconds", "verdict"), [(12.0, True), (8.0, "holds in part"), (2.5, False)])
def test_the_claim_holds_where_no_time_is_saved(seconds, verdict):
    text, found = parallel.claim_hardware(summary(seconds), batches())
    assert "5.0 times fewer calls in a row" in text
    assert found is verdict or (isinstance(verdict, str) and found.startswith(verdict))


def test_many_images_are_told_from_shipped_records_or_what_measures_them():
    rows = [("ddim", "anderson", "signal", 64, 16.25, 18, 0.0072, 1.0), ("ddim", "picard", "step", 64, 14.5, 15, 0.84, 0.25)]
    told = parallel.near(pd.DataFrame(rows, columns=CLOSENESS))
    assert "| ddim | anderson | 0.00025, signal | 64 | 16.2 | 18 | 0.0072 | 100% |" in told and "0.8400 | 25%" in told and "none above 0.01" in told
    assert "frugal sweep steps" in parallel.near(pd.DataFrame(columns=CLOSENESS))


def test_which_ways_come_to_the_sequential_images_is_said():
    rows = [("ddim", "anderson", "signal", 64, 16.25, 18, 0.0072, 1.0), ("dpmpp_2m", "anderson", "signal", 64, 14.5, 15, 0.11, 0.0)]
    table = pd.DataFrame(rows, columns=CLOSENESS)
    missed = "Not so, each at its default tolerance: `anderson` on dpmpp_2m (0% of its images, off by up to 0.11);"
    assert "come all of `anderson` on ddim." in parallel.reached(table) and missed in parallel.reached(table)
    assert "Not so" not in parallel.reached(table[:1]) and parallel.reached(table[1:]).startswith("Not so")
    assert parallel.reached(table[:0]) == ""


def test_what_looking_back_saves_is_told_with_its_interval():
    said = parallel.saved({"picard": Estimate(0.3, 0.05, 0.6, 64), "paradigms": Estimate(0, -0.2, 0.2, 64)})
    assert "those of `anderson`" in said and "+0.30 (+0.05 to +0.60) for `picard`, +0.00 (-0.20 to +0.20) for `paradigms`." in said
    assert parallel.saved({}) == ""


def test_sets_stand_beside_their_own_sequential_arm():
    def arm(label, sampler, steps, kid):
        return {"arm": label, "sampler": sampler, "steps": steps, "images": 512, "calls": 16.0, "rows": 300.0, "kid": kid, "kid_low": 0.1, "kid_high": 0.5, "accepted": 0.75}

    found = pd.DataFrame([
        arm("ddim, 200 steps", "ddim", 200, 0.3), arm("ddim, 100 steps", "ddim", 100, 0.3), arm("ddim, 200 steps, eta 0.5", "ddim", 200, 0.3),
        arm("parallel, 200 steps", "parallel", 200, 0.31), arm("parallel, 200 steps, method picard", "parallel", 200, np.nan),
    ])  # fmt: skip
    table = parallel.sets(found)
    assert "`parallel, 200 steps`: KID inside the band of the sequential images; 75% accepted beside 75%, which chance explains." in table
    worse = found.assign(kid=[0.3, 0.3, 0.3, 0.6, np.nan], accepted=[0.75, 0.75, 0.75, 0.6, 0.6])
    assert "KID **outside** the band of the sequential images; 60% accepted beside 75%, fewer than chance explains." in parallel.sets(worse)
    assert [line.split(" | ")[0] for line in table.splitlines()[2:4]] == ["| ddim, 200 steps", "| parallel, 200 steps"] and "0.310 (0.100 to 0.500) | 75%" in table
    assert all("frugal sweep steps" in parallel.sets(rows) for rows in (found[found.sampler == "ddim"], pd.DataFrame(columns=list(found))))
