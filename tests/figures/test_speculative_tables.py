"""Tables of the chapter on speculative sampling: what is not exact says so, and what is not measured too."""

import re

import numpy as np
import pandas as pd
import pytest

from frugal.figures import speculative_tables
from frugal.measure import arms, fewer_steps, speculation
from frugal.measure.arms import COLUMNS
from frugal.measure.plan import Subject
from frugal.methods import speculative


def costs(*rows):
    base = {"arm": "a", "sampler": "speculative", "steps": 100, "draft": "tweedie", "verify": "replay", "window": 10, "churn": 0.5, "temperature": 1.0,
            "images": 2, "calls": 20.0, "calls_median": 20.0, "calls_min": 19.0, "calls_max": 21.0, "rows": 200.0, "draft_rows": 0.0, "seconds": 2.0, "accepted": 0.5}
    return pd.DataFrame([base | row for row in rows], columns=speculation.COST_COLUMNS)


CHAIN = {"sampler": "ddim", "draft": None, "verify": None, "calls": 100.0, "rows": 100.0, "seconds": 1.0}


def test_whatever_is_not_exact_says_so():
    table = speculative_tables.arms(costs({}, {"temperature": 2.0}, CHAIN, CHAIN | {"steps": 30}, {"sampler": "dpmpp_2m", "steps": 20})).splitlines()[2:]
    laws = [line.split(" | ")[1] for line in table]
    assert laws == ["exact in law", "approximate", "itself", "a shorter chain", "another sampler"]
    assert "temperature 2" in table[1] and "sequential chain, 30 steps" in table[3] and "1 of 2" in table[0]


def test_what_it_costs_is_said_of_the_exact_arm_alone():
    said = speculative_tables.pays(costs({}, {"temperature": 2.0, "calls": 5.0}, CHAIN))
    assert "20.0 calls in place of 100, 5.0 times fewer" in said and "2.0 times the time" in said
    assert "calls in place of 100, to which come 90 of the smaller network" in speculative_tables.pays(costs({"draft_rows": 90.0}, CHAIN))
    assert "50 % of the time" in speculative_tables.pays(costs({"seconds": 0.5}, CHAIN))


def slides(model="m", **kid):
    """Rows of one model as `speculation.slides_rows` gives them, by KID; the chain's band is 0.009 to 0.011."""
    names = {"draft": "Draft (100 steps)", "target": "Target (100 steps)", "few": "Target (30 steps)", "short": "Target (10 steps)", "ours": "Speculative, temperature 1",
             "warm": "Speculative, temperature 2"}
    rows = [
        {"configuration": names[key], "model": model, "kid": value, "kid_low": value - 0.001, "kid_high": value + 0.001, "score": 3.5, "rows": 100.0, "accepted": 0.9, "calls": 17.5,
         "images": np.nan if np.isnan(value) else 512} for key, value in kid.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["configuration", *COLUMNS])


def test_the_slides_table_names_the_law_the_band_and_what_is_lacking():
    rows = pd.concat([slides(target=0.01, few=np.nan, ours=0.0105), slides("other", draft=0.05, target=0.01, warm=0.02).assign(arm=["draft", "chain", "warm"])])
    mine, other = speculative_tables.slides(rows, {"other": costs({"arm": "warm", "seconds": 0.5})}).split("\n\n")
    assert mine.startswith("| `m` |") and other.startswith("| `other` |")
    assert "| Target (100 steps) | itself | 3.50 | 0.010 (0.009 to 0.011) |  | 17.5 | 100 |  |  | 90.0% |" in mine
    assert "| Target (30 steps) | a shorter chain | not measured |" in mine and "| Speculative, temperature 1 | exact in law | 3.50 | 0.011 (0.010 to 0.011) | yes |" in mine
    assert "| Draft (100 steps) | another network's | 3.50 | 0.050 (0.049 to 0.051) | no |" in other and "| no | 17.5 | 100 |  | 0.50 s | 90.0% |" in other and "| Speculative, temperature 2 | approximate |" in other
    assert "| 2.34 | 10.32 | 35.40 |" in speculative_tables.published()
    solver = speculative_tables.slides(pd.concat([slides(target=0.01), slides(ours=0.012).assign(configuration="DPM-Solver++ 2M (20 steps)")]), {})
    assert "| DPM-Solver++ 2M (20 steps) | another sampler |" in solver and solver.splitlines()[-1].split(" | ")[4] == "no"


def test_laws_are_told_apart_model_by_model():
    rows = pd.concat([slides(target=0.01, few=0.02, short=0.03, ours=0.0105, warm=0.0205), slides("other", target=0.01, few=0.02, short=0.0105, ours=0.02, warm=0.022)])
    said = speculative_tables.tested(rows)
    assert "1 of 2 arms that are exact" in said and "10 steps of 1 of 2 models, and that of 30 steps of 2 of 2" in said and "30 sequential steps: 1 of 2" in said
    assert "not measured" in speculative_tables.tested(slides(target=0.01, ours=np.nan))


def test_the_churns_of_good_chains_are_those_of_every_model():
    rows = pd.DataFrame({"arm": ["ddim, 100 steps, eta 0.5", "ddim, 100 steps, eta 1.0", "ddim, 30 steps, eta 0.5"] * 2, "steps": [100, 100, 30] * 2, "images": 512,
                         "model": ["a"] * 3 + ["b"] * 3, "kid": [0.5, 0.9, 9, 0.6, 0.55, 9], "kid_high": [0.7, 1.1, 9, 0.8, 0.75, 9]})
    said = speculative_tables.churns(rows, 0.5)
    assert "a: 0.50 at 0.5, 0.90 at 1, the best one's band ending at 0.70; b: 0.60 at 0.5, 0.55 at 1, the best one's band ending at 0.75." in said
    assert "on every model: 0.5; here the churn is 0.5" in said and "not measured" in speculative_tables.churns(rows.assign(images=64), 0.5)


def test_shipped_counts_name_the_law_and_lack_nothing_silently():
    rows = pd.DataFrame({"sampler": ["ddim", "speculative", "speculative"], "arm": ["d", "s", "s, temperature 2.0"], "images": [512, 512, 512], "calls": 17.25, "calls_median": 17.0,
                         "calls_max": 21, "rows": 260.0, "draft_rows": [0, 0, 211.0], "model": "m"})
    lines = speculative_tables.counted(rows).splitlines()[2:]
    assert lines == ["| `m` | s | exact in law | 512 | 17.2 | 17 | 21 | 260 |  |", "| `m` | s, temperature 2.0 | approximate | 512 | 17.2 | 17 | 21 | 260 | 211 |"]
    assert "frugal sweep steps" in speculative_tables.counted(rows[:1]) and "frugal sweep steps" in speculative_tables.counted(rows.assign(images=64))


def test_the_laws_of_the_shipped_samples_are_told_apart():
    """What the project says of its own models: exact arms have their chain's KID, and the test refuses ten steps."""
    rows = pd.concat([speculation.slides_rows(Subject(name), speculation.own_draft(name), fewer_steps.CHAIN, speculative.CHURN) for name in fewer_steps.NAMES])
    said = re.fullmatch(r".*: (\d) of (\d) arms that are exact.*refuses the chain of 10 steps of (\d) of (\d) models,.*30 sequential steps: (\d) of (\d)\.", speculative_tables.tested(rows))
    inside, exact, refused, models, warm, all_warm = map(int, said.groups())
    assert inside == exact >= 2 and refused == models == 3 and warm == all_warm >= 1
    chosen = speculative_tables.churns(pd.concat([arms.shipped(Subject(name)) for name in fewer_steps.NAMES]), speculative.CHURN)
    assert f"{speculative.CHURN:g}" in chosen.partition("on every model: ")[2].partition(";")[0].split(", ")


def test_a_way_needs_more_calls_only_where_its_test_says_so_among_all():
    found = pd.DataFrame([("a", "block", "reflection", 64, 30.0, 29.5, 0.5, 0.2, 0.8, 0.01), ("b", "draft clean", "default", 64, 20.0, 20.1, -0.1, -0.3, -0.01, 0.04),
                          ("b", "reflection", "default", 64, 20.1, 22.1, -2.0, -3.0, -1.0, 0.001), ("b", "window 5", "default", 64, 20.1, 20.1, 0.0, -1.0, 1.0, 0.9)], columns=speculation.PAIRED)
    said = speculative_tables.paired(found)
    assert "| `a` | block | reflection | 64 | 30.0 | 29.5 | +0.50 (+0.20 to +0.80) | more |" in said
    assert "(-0.30 to -0.01) | not told apart |" in said and "(-3.00 to -1.00) | fewer |" in said  # .04 of four is not sure
    assert "calls are: not told apart on b (-0.10)." in said and "fewer on b (-0.10)" in speculative_tables.paired(found[1:2])
    assert "frugal sweep steps" in speculative_tables.paired(found[:0])


def test_four_differences_among_zeros_are_no_sign_of_anything():
    assert speculation._flipped(np.array([1.0] * 4 + [0.0] * 60)) == pytest.approx(2 / 16, abs=0.02)
    assert speculation._flipped(np.array([1.0] * 12 + [0.0] * 52)) < 0.01


def test_shipped_ways_are_compared_on_the_same_seeds():
    found = speculation.paired(Subject("faces-ldm"), fewer_steps.CHAIN)
    assert set(zip(found.way, found.beside, strict=True)) <= set(speculation.COMPARED) and (found.images >= fewer_steps.PACED).all()
    assert np.allclose(found.calls - found.calls_beside, found.more) and ((found.low <= found.more) & (found.more <= found.high)).all() and len(found)


def test_misses_of_larger_states_are_held_against_the_square_root():
    found = pd.DataFrame({"model": ["a", "b"], "dimensions": [1024, 4096], "velocity": 1.0, "clean": 0.3, "tweedie": [0.2, 0.3]})
    said = speculative_tables.across(found)
    assert "| `a` | 1,024 | 1.00 | 0.30 | 0.20 | 0.0063 |" in said
    assert "From a to b the numbers are 4 times as many, whose root is 2.00; the distance of `tweedie` is 1.50 times as large: a number is missed by 1.3 times less." in said
    assert "missed by 1.5 times more" in speculative_tables.across(found.assign(tweedie=[0.2, 0.6]))
    assert "times" not in speculative_tables.across(found[:1])


def test_the_riddle_is_seen_only_where_both_sides_of_it_are():
    rows = slides(target=0.01, few=0.02, short=0.5).assign(score=[3.5, 3.6, 9.0])
    assert "3.50 to 3.60" in speculative_tables.oddity(rows) and "the same riddle" in speculative_tables.oddity(rows)
    assert "no riddle to be seen" in speculative_tables.oddity(rows.assign(kid=[0.01, 0.0105, 0.5]))
    assert "do not part" in speculative_tables.oddity(rows.assign(score=[3.5, 3.4, 9.0])) and "not measured" in speculative_tables.oddity(rows[:1])


@pytest.mark.parametrize(("kid", "verdict"), [({}, "not measured yet"), ({"target": 0.01, "ours": 0.0105}, "holds"), ({"target": 0.01, "ours": 0.02}, "outside")])
def test_the_claim_is_judged_by_large_samples(kid, verdict):
    rows = slides(**kid)
    same = speculative_tables.claim_fewer(costs({}, CHAIN), rows)
    assert not kid or same[1] == "does not hold: no fewer calls"
    said, found = speculative_tables.claim_fewer(costs({}, CHAIN), rows.assign(calls=rows.calls.where(rows.configuration != "Target (100 steps)", 100.0)))
    assert verdict in found and ("KID" in said) == bool(kid)
    assert ("17.5 calls an image in place of 100" if kid else "20.0 calls in place of 100") in said  # of the large sample, where there is one
