"""The README's opening: written between its markers from numbers and cards, the rest left as it is."""

import json

import nbformat
import pandas as pd
import pytest

from frugal.figures import readme
from frugal.measure import gains
from frugal.models import cards


@pytest.fixture
def numbers():
    model = {
        "parameters": 2e6,
        "attention_share": 0.05,
        "image_seconds": 12.3,
        "change_50": -0.012,
        "change_50_low": -0.02,
        "detectable": 0.043,
    }
    model |= {"change_50_high": 0.001, "change_50_verdict": "not distinguishable from zero"}
    found = {f"{slug}_{key}": value for slug in readme.PUBLISHED | readme.EMBEDDED for key, value in model.items()}
    return found | {"image_steps": 200.0, "faces_ldm_psnr_50": 21.4}


def test_table_has_a_row_a_model_and_names_the_device(numbers):
    table = readme.table(numbers)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5 and "21.4 dB" in rows[-2] and "random weights" in rows[2]
    assert "| -1.2% (-2.0% to +0.1%), not distinguishable from zero | 4.3% |" in rows[2]
    assert readme.about().device in table and " %" not in table


def test_the_note_names_the_method_and_the_rule_by_which_a_change_counts(numbers):
    table = readme.table(numbers)
    assert "50% merged (`tome`)" in table and "(reuse 1)" in table and "95% interval within one run" in table
    assert "running the unmerged network twice in each." in table
    assert "A change that is smaller, or whose interval holds zero, is not distinguishable" in table
    few = {name: value for name, value in numbers.items() if not name.endswith("detectable")}
    assert "rounds too few" in readme.table(few)


def test_a_readme_without_markers_is_refused():
    begin, end = (part.format("results") for part in (readme.BEGIN, readme.END))
    assert readme.filled(f"a {begin} old {end} b", {"results": "new"}) == f"a {begin}\n\nnew\n\n{end} b"
    with pytest.raises(ValueError, match="between which merging is written"):
        readme.filled(f"a {begin} {end} b", {"results": "new", "merging": "more"})


def test_a_draft_that_misses_its_bound_says_so(monkeypatch):
    marks = [
        {"what": "FLOPs, of faces-ddpm's", "value": 0.234, "bound": 0.25, "at_least": False, "reached": True},
        {"what": "accepted, of faces-ddpm's", "value": 0.045, "bound": 0.5, "at_least": True, "reached": False},
        {"what": "accepted by the judge", "value": 0.03, "bound": None, "at_least": True, "reached": True},
    ]
    monkeypatch.setattr(cards, "read", lambda name: {"marks": marks})
    reached, missed = readme.drafting().split("; ")
    assert reached.endswith("FLOPs, of faces-ddpm's 23.4% (at most 25%: reached)")
    assert missed == "accepted, of faces-ddpm's 4.5% (at least 50%: **missed**)."
    monkeypatch.setattr(cards, "read", lambda name: {})
    assert "not evaluated" in readme.drafting()


def test_writes_between_the_markers_only(numbers, tmp_path, monkeypatch):
    (tmp_path / "_build").mkdir()
    (tmp_path / "_build" / "numbers.json").write_text(json.dumps(numbers))
    names = ("results", "figures", "merging", "elsewhere", "models")
    old = [f"{readme.BEGIN.format(name)}\nstale\n{readme.END.format(name)}\n\n" for name in names]
    (tmp_path / "README.md").write_text("above\n\n" + "between\n\n".join(old) + "below\n")
    chapter = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 125.0}})
    (tmp_path / "_build" / "notebooks").mkdir()
    for name in readme.DRAWN:
        nbformat.write(chapter, tmp_path / "_build" / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(
        readme,
        "picture",
        lambda: type("P", (), {"save": lambda self, where: where.mkdir(parents=True, exist_ok=True)})(),
    )
    card = cards.blank("faces-ldm") | {
        "device": "a processor",
        "evaluated_in": 61.0,
        "marks": [
            {"what": "accepted by the judge", "value": 0.5, "bound": 0.6, "at_least": True, "reached": False},
            {"what": "accepted, all 512 seeds", "value": 0.4, "bound": None, "goal": 0.97},
            {"what": "largest difference of a marginal", "value": 0.07, "bound": 0.15, "at_least": False, "reached": True},
            {"what": "diversity (mean distance of pairs)", "value": 0.9, "bound": None},
            {"what": "diversity of test faces", "value": 1.0, "bound": None},
        ],
    }
    monkeypatch.setattr(cards, "read", lambda name: card)
    for _ in range(2):  # writing again changes nothing
        readme.write(tmp_path)
        text = (tmp_path / "README.md").read_text()
        assert text.startswith("above\n\n<!--") and text.endswith(f"{readme.END.format('models')}\n\nbelow\n") and "stale" not in text
        assert f"{readme.END.format('results')}\n\nbetween\n\n{readme.BEGIN.format('figures')}" in text
        assert text.count("| model | parameters |") == 1 and "| faces-ldm | 50% | 60% | 40% | 97% | 7 points | 90% |" in text
        assert "accepted by the judge 50.0% (at least 60%: **missed**)" in text
        assert "| 6.1 both models on the same axes | chapter 5 |" in text and "2 min, the chapter" in text
    assert (tmp_path / "book" / "_static").is_dir()


def test_what_a_model_makes_of_its_captions_is_said_from_its_card(monkeypatch):
    said = {"caption's attributes, balanced accuracy, guidance 2": (0.9, 0.75), "  of skin": (0.8, 0.5), "  of hat": (1.0, 0.5)}
    said |= {"the same by chance": (0.25, None), "the same of the autoencoder's reconstructions": (0.95, None)}
    marks = [{"what": what, "value": value, "bound": bound} for what, (value, bound) in said.items()]
    card = cards.blank("faces-sd") | {"device": "a processor", "images": 1234, "seconds": 600.0}
    monkeypatch.setattr(cards, "read", lambda name: card | {"marks": marks})
    told = readme.captioned()
    assert "90.0% of what its caption says (bound 75%; the worst attribute 80%; chance 25%" in told
    assert "limit 95.0%), guidance 2, 256 captions; 1,234 images seen in 10 minutes on a processor" in told
    monkeypatch.setattr(cards, "read", lambda name: card)
    assert "not evaluated" in readme.captioned()


def test_the_default_way_of_merging_is_told_of_every_device(monkeypatch):
    row = {"device": "a card, float16", "pixels": 768, "backend": "math", "ratio": 0.5, "way": "weighted, reuse 2", "change": -0.5, "low": -0.6, "high": -0.4,
           "lead": 0.02, "lead_low": -0.01, "lead_high": 0.04}  # fmt: skip
    others = [row | {"ratio": 0.75}, row | {"way": "tome, reuse 3"}, row | {"way": "tomesd", "lead": float("nan")}]
    monkeypatch.setattr(gains, "networks", lambda: pd.DataFrame([row, *others], columns=gains.WHOLE))
    *_, line = readme.merged().splitlines()
    assert "faster in 1 of 1 settings, slower in 0" in readme.merged()
    assert line == "| a card, float16 | 768 px | math | -50.0% (-60.0% to -40.0%) | +2.0% (-1.0% to +4.0%) |" and readme.merged().count("a card") == 1
    monkeypatch.setattr(gains, "networks", lambda: pd.DataFrame(columns=gains.WHOLE))
    assert "not measured yet: `frugal bench merging`" in readme.merged()
