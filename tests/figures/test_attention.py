import numpy as np
import pandas as pd
import torch

from frugal.figures import attention
from frugal.models.mixture import Mixture


def test_words_stand_at_their_places(about):
    drawn = attention.word_space(np.array([[0.0, 1], [1, 0], [2, 2]]), {"red": "hair", "blue": "hat", "green": "hat"}, about)
    places = {note.get_text(): tuple(note.xy) for note in drawn.figure.axes[0].texts}
    assert places == {"red": (0.0, 1.0), "blue": (1.0, 0.0), "green": (2.0, 2.0)}
    assert "hair, hat" in drawn.alt
    close = attention.word_space(np.array([[0.0, 1], [0.01, 1], [2, 2]]), {"red": "hair", "blue": "hat", "green": "hat"}, about)
    assert sorted(note.get_text() for note in close.figure.axes[0].texts) == ["green", "red, blue"]


def test_every_word_has_its_map(about):
    maps = {word: torch.rand(8, 8) for word in ("red", "hat", "eyes", "skin", "hair", "face", "blue")}
    drawn = attention.word_maps(torch.rand(3, 32, 32), maps, "a face", about)
    titles = [axes.get_title(loc="left") for axes in drawn.figure.axes]
    assert titles[0] == "generated" and titles[1:8] == list(maps) and "a face" in drawn.caption


def test_regions_are_a_table_of_lifts(about):
    rows = [(w, r, 2.0 if w == r else 0.5, 4) for w in ("skin", "hair") for r in ("skin", "hair", "shirt")]
    table = pd.DataFrame(rows, columns=["word", "region", "lift", "faces"])
    drawn = attention.word_regions(table, 4, about)
    assert [text.get_text() for text in drawn.figure.axes[0].texts].count("2.00") == 2
    assert "skin 2.00, hair 2.00" in drawn.alt


def test_own_regions_are_counted_above_the_mean_and_above_all_others():
    rows = [("skin", "skin", 3.0), ("skin", "mouth", 4.0), ("hair", "hair", 2.0), ("hair", "skin", 1.0)]
    table = pd.DataFrame([*rows, ("hat", "hat", 0.5), ("hat", "skin", 0.6)], columns=["word", "region", "lift"])
    told = attention.regions_in_words(table)
    assert "Above 1 for 2 of 3 words; the largest of all regions for 1 (hair)." in told
    assert told.endswith("elsewhere: hat in that of skin; skin in that of mouth.")
    assert attention.regions_in_words(table[2:4]).endswith("the largest of all regions for 1 (hair).")


def test_guidance_is_drawn_from_the_card_s_marks(about):
    marks = {f"{kind} at guidance {w}": v for kind, vs in {"accuracy": (0.8, 0.9), "accepted": (0.5, 0.7)}.items() for w, v in zip((1, 2), vs)}
    marks |= {"the same by chance": 0.25, "the same of the autoencoder's reconstructions": 0.95}
    drawn = attention.guidance(marks, about)
    curves = [line.get_ydata() for line in drawn.figure.axes[0].get_lines()[:2]]
    assert [list(curve) for curve in curves] == [[0.8, 0.9], [0.5, 0.7]]
    assert "accepted at 2: 70%, with 90.0%" in drawn.alt


def test_alignment_counts_its_diagonal(about):
    scores = torch.eye(3)
    scores[2] = torch.tensor([0.9, 0.0, 0.1])
    drawn = attention.alignment(scores, torch.rand(3, 3, 8, 8), ["one two three", "four five six", "seven eight nine"], about)
    assert drawn.alt.startswith("2 of 3")


def test_powers_are_read_off_the_times(about):
    rows = [
        (kind, n, k, 1e-6 * n**power, 1)
        for kind, power in (("plain", 2), ("fused", 1.5), ("projections", 1)) for n in (64, 256, 1024) for k in range(3)
    ]  # fmt: skip
    drawn = attention.costs(pd.DataFrame(rows, columns=["kind", "tokens", "round", "seconds", "flops"]), about)
    labels = [text.get_text() for text in drawn.figure.axes[0].get_legend().get_texts()]
    assert [label[-4:] for label in labels] == ["2.00", "1.50", "1.00"]


def test_twins_are_counted_by_kind(about):
    images = {"flat": torch.zeros(2, 3, 16, 16), "noise": torch.rand(2, 3, 16, 16)}
    lost = pd.DataFrame(
        [(kind, k, ratio, 30.0) for kind in images for k in range(2) for ratio in (0.25, 0.5)],
        columns=["kind", "image", "ratio", "psnr"],
    )
    drawn = attention.twins(images, lost, about)
    assert "100% of the patches of flat" in drawn.alt and "0% of the patches of noise" in drawn.alt


def test_what_loses_more_by_merging_is_said_ratio_by_ratio():
    rows = [("flat", 0.25, 150.0), ("flat", 0.5, 40.0), ("flat", 0.75, 24.0), ("noise", 0.25, 37.0), ("noise", 0.5, 30.0), ("noise", 0.75, 25.0)]
    lost = pd.DataFrame([(*row[:2], row[2] + k) for row in rows for k in (-1, 0, 1)], columns=["kind", "ratio", "psnr"])
    told = attention.merging_in_words(lost)
    assert told.startswith("By the median flat keep 60.0 dB or more at 25%, 40.0 dB at 50%, 24.0 dB at 75%; noise keep 37.0 dB at 25%,")
    assert told.endswith("The most is lost by noise at 25% and 50%, by flat at 75%.")


def test_paths_run_to_the_data(about):
    drawn = attention.trajectories(Mixture(), about, count=9)
    lines = drawn.figure.axes[0].get_lines()
    assert len(lines) == 9 + 3  # the paths, one of them again, its origin, and a line in the legend alone
    assert "arrows: what a consistency model learns" in drawn.caption
    assert any("jumps of a consistency model" in text.get_text() for text in drawn.figure.legends[0].get_texts())
    lines, means = lines[:-1], np.asarray(Mixture().means)
    assert all(min(abs(means - line.get_ydata()[0])) < 0.3 for line in lines)
