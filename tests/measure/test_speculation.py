"""What speculative sampling saves: acceptance against its law, fates of windows, counts by the hook, the slides' table."""

import math

import pandas as pd
import pytest

from frugal.measure import arms, fewer_steps, speculation
from frugal.measure.plan import Subject
from frugal.methods import speculative


@pytest.fixture(scope="module")
def subject():
    return Subject("faces-ldm")


def test_acceptance_lies_on_the_curve():
    found = speculation.couplings([0.25, 1.0, 2.0, 4.0], 40_000)
    assert [row.law for row in found.itertuples()] == pytest.approx([math.erfc(d / 8**0.5) for d in found.delta])
    assert ((found.accepted - found.law).abs() < 3 * found.error).all()
    assert found.error.to_list() == pytest.approx([(p * (1 - p) / 40_000) ** 0.5 for p in found.law])


def test_rejected_drafts_are_mirrored_about_the_midpoint():
    drafts, samples, accepted = speculation.coupled(1.5, 2000)
    assert (samples[accepted] == drafts[accepted]).all() and 0 < accepted.float().mean() < 1
    away = ~accepted
    assert samples[away, 0].numpy() == pytest.approx(1.5 - drafts[away, 0].numpy(), abs=1e-5)
    assert samples[away, 1].numpy() == pytest.approx(drafts[away, 1].numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "committed", "fates"),
    [(1, 1, ["drawn"]), (3, 3, ["kept", "kept", "drawn"]), (4, 2, ["kept", "mirrored", "thrown away", "thrown away"]), (2, 1, ["mirrored", "thrown away"])],
)
def test_fates_of_a_window(rows, committed, fates):
    assert speculation.fates(rows, committed) == fates


def test_every_step_is_taken_once_and_the_hook_counts_what_the_rounds_tell(subject, store):
    options = {"window": 4, "churn": 1.0, "scale": "smoke"}
    table = speculation.windows(subject, 9, 3, **options)
    taken = table[table.fate != "thrown away"]
    assert taken.step.tolist() == list(range(9))
    assert table.groupby("round").step.min().tolist() == [0, *(taken.groupby("round").step.max() + 1)][:-1]
    counts = speculation.counted(subject, 9, 3, **options)
    assert counts["calls told"] == counts["calls counted"] == table["round"].max() + 1
    assert counts["rows told"] == counts["rows counted"] == len(table)


def test_arms_go_by_the_names_of_the_sweep():
    assert speculation.speculation(100, churn=speculative.CHURN, temperature=1.0).options == ()
    assert set(speculation.slides_arms(fewer_steps.CHAIN, speculative.CHURN).values()) <= {arm for arm, _ in fewer_steps.arms()}
    plan = speculation.PLANS["quick"]
    found = speculation.ways(100, 0.5, 20, 2.0, plan)
    assert found[0].options == () and dict(found[1].options) == {"temperature": 2.0} and len(found) == len(set(found))
    options = [speculation.DEFAULTS | dict(arm.options) for arm in found if arm.sampler == "speculative"]
    exact = {(o["draft"], o["verify"]) for o in options if o["temperature"] == 1}
    pairs = {(draft, verify) for draft in speculative.DRAFTS for verify in ("replay", "reflection")}
    assert exact == pairs | {(speculative.DRAFT, "block")}
    assert [arm.steps for arm in found if arm.sampler == "ddim"] == [100, 30]
    drafts = speculation.ways(100, 0.5, 20, 2.0, plan, Subject("faces-ddpm-draft"))
    assert sum(dict(arm.options).get("draft") == "faces-ddpm-draft" for arm in drafts) == 2


def test_costs_are_counted_image_by_image_and_asked_once(subject, store):
    ways = [speculation.speculation(5, window=3), arms.Arm.of("ddim", 5, eta=0.5)]
    table = speculation.costs(subject, ways, 2, scale="smoke")
    ours, chain = table.itertuples()
    assert chain.calls == chain.rows == chain.calls_max == 5 and (ours.draft, ours.window, ours.temperature) == ("tweedie", 3, 1.0)
    assert 2 <= ours.calls <= ours.calls_max <= 5 <= ours.rows and (table.seconds > 0).all() and table.accepted.between(0, 1).all()
    assert speculation.costs(subject, ways, 2, scale="smoke").equals(table)  # seconds and all: from records


def test_the_solver_gets_as_many_calls_and_as_many_seconds(subject, monkeypatch):
    asked = []

    def costs(subject, ways, *_):
        asked.append([arm.steps for arm in ways])
        return pd.DataFrame({"calls": [float(arm.steps) for arm in ways], "seconds": [0.1 * arm.steps for arm in ways]}, index=range(len(ways)))

    monkeypatch.setattr(speculation, "costs", costs)
    speculation.beside(subject, pd.DataFrame({"calls": [17.4], "seconds": [4.2]}), 2)
    assert asked[-1] == [17, 42]
    speculation.beside(subject, pd.DataFrame({"calls": [17.4], "seconds": [9e9]}), 2)
    assert 900 < asked[-1][1] <= 1000


def test_a_draft_of_its_own_is_found_where_it_has_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(speculation.cards, "file", lambda name: tmp_path / f"{name}.json")
    assert speculation.own_draft("faces-ddpm") is None
    (tmp_path / "faces-ddpm-draft.json").touch()
    assert speculation.own_draft("faces-ddpm").name == "faces-ddpm-draft"


def test_the_slides_table_takes_large_samples_alone(monkeypatch):
    wanted = speculation.slides_arms(100, 0.5, "faces-ddpm-draft")
    rows = [{"arm": arm.label, "model": "m", "images": 512 if "Speculative" not in name else 256, "kid": 0.01} for name, arm in wanted.items()]
    monkeypatch.setattr(arms, "shipped", lambda subject: pd.DataFrame(rows, columns=arms.COLUMNS))
    subject, draft = Subject("faces-ddpm"), Subject("faces-ddpm-draft")
    found = speculation.slides_rows(subject, None, 100, 0.5)
    assert found.configuration.tolist() == list(speculation.slides_arms(100, 0.5)) and set(found.model) == {"faces-ddpm"}
    assert found[found.images > 0].configuration.tolist() == ["Target (100 steps)", "Target (30 steps)", "Target (10 steps)", "DPM-Solver++ 2M (20 steps)"]
    found = speculation.slides_rows(subject, draft, 100, 0.5)
    assert found.configuration.iloc[0] == "Draft (100 steps)" and found.configuration.iloc[-2] == "Speculative, temperature 1, draft network"
    assert set(found.model) == {"faces-ddpm"} and list(speculation.slides_arms(30, 0.5))[:2] == ["Target (30 steps)", "Target (10 steps)"]
