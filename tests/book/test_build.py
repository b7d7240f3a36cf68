"""The build of a book of one page and one chapter: glue, alternative text, what is built again, the report."""

import re
import runpy
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from frugal.measure import records

from .conftest import ROOT, build

MEASURE = """from frugal.measure import records

count = lambda: {"tokens": {"unit": "", "values": [128]}}
records.measure("count", "tokens", {"ratio": 0.5}, count, scale=scale)
print("tokens counted")"""
FIGURE = """import matplotlib.pyplot as plt
from frugal.figures import glue

figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([0, 1])
plt.close(figure)
"""
SHOWN = f'{FIGURE}glue.show(figure, alt="A line that rises.")\nglue.glue_all({{"tokens_left": 128}})'
PAGE = "# A page\n\nMerging leaves {glue:text}`../notebooks/01_tiny.ipynb::tokens_left:d` tokens of $N = 256$.\n\n"


def tiny(root, figure=SHOWN, page=PAGE):
    """A checkout's book at its smallest."""
    (root / "book").mkdir(exist_ok=True)
    (root / "notebooks").mkdir(exist_ok=True)
    shutil.copy(ROOT / "_config.yml", root)
    for folder in ("_extensions", "_static"):
        shutil.copytree(ROOT / "book" / folder, root / "book" / folder, dirs_exist_ok=True)
    (root / "book" / "references.bib").touch()
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/01_tiny\n"
    )
    (root / "book" / "intro.md").write_text(page + "```{include} _records.md\n```\n")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    chapter = new_notebook(metadata={"kernelspec": kernel, "frugal": {"budget_seconds": 60}})
    chapter.cells = [
        new_markdown_cell("# A chapter"),
        new_code_cell("scale = 'quick'", metadata={"tags": ["parameters"]}),
        new_code_cell(MEASURE),
        new_code_cell(figure),
    ]
    nbformat.write(chapter, root / "notebooks" / "01_tiny.ipynb")
    return root / "notebooks" / "01_tiny.ipynb"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A built tiny book: its root, what the run printed and what the report said in the same build and in the next."""
    root = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRUGAL_RUN", "first")
        printed = build("run", tiny(root), "--scale", "smoke", root=root)
        build("site", root=root)
        reports = [build("report", root=root)]
        patch.setenv("FRUGAL_RUN", "second")
        reports.append(build("report", root=root))
    return root, printed, reports


def test_a_glued_number_and_a_figure_reach_the_pages(book):
    html = book[0] / "_build" / "html"
    intro, chapter = (html / "book" / "intro.html").read_text(), (html / "notebooks" / "01_tiny.html").read_text()
    assert "Merging leaves" in intro and ">128<" in intro
    assert 'alt="A line that rises."' in chapter and "tokens counted" in chapter
    assert "cdn." not in intro + chapter


def test_the_record_is_in_the_build_s_own_store_and_on_the_page(book):
    assert [file.name.split("-")[0] for file in (book[0] / "_build" / "records").glob("*.json")] == ["tokens"]
    assert "this machine" in (book[0] / "_build" / "html" / "book" / "intro.html").read_text()


def test_the_table_of_records_is_narrow_and_tells_threads_of_processors_alone(monkeypatch, tmp_path):
    device = {"name": "a chip", "kind": "cpu", "threads": 1, "dtype": "float32"}
    used = {"python": "3.11", "torch": "2", "frugal": None}
    one = SimpleNamespace(name="arm", scale="quick", series="shipped", device=device, versions=used, end="2026-01-02T03", commit=None)
    two = SimpleNamespace(**vars(one) | {"device": device | {"threads": 2}, "commit": 10 * "abcd"})
    card = SimpleNamespace(**vars(one) | {"device": device | {"name": "a card", "kind": "cuda"}, "versions": used | {"torch": "3"}})
    monkeypatch.setattr(records, "load_shipped", lambda: [one, two, card, one])
    lines = runpy.run_path(ROOT / "book" / "build.py")["record_table"](tmp_path).splitlines()
    assert lines[2:5] == [
        "| arm | 1 | quick | shipped | a card, float32 | 2 | 2026-01-02 | none |",
        "| arm | 2 | quick | shipped | a chip, 1 thread, float32 | 1 | 2026-01-02 | none |",
        "| arm | 1 | quick | shipped | a chip, 2 threads, float32 | 1 | 2026-01-02 | abcdabc |",
    ]
    assert lines[-2:] == ["* 1: python 3.11, torch 2", "* 2: python 3.11, torch 3"]


def test_the_report_gives_the_budget_and_what_the_numbers_rest_on(book):
    _, printed, (first, second) = book
    assert "tokens counted" in printed
    assert "s of a budget of 60 s" in first
    assert re.search(r"^site: \d+ s of a budget of 90 s, .*index\.html$", first, re.MULTILINE)
    assert first.splitlines()[-1].startswith("1 measured here, 0 reused from an earlier run here, ")
    assert second.splitlines()[-1].startswith("0 measured here, 1 reused from an earlier run here, ")


def test_a_number_that_changed_changes_on_the_page_that_pastes_it(book):
    executed = book[0] / "_build" / "notebooks" / "01_tiny.ipynb"
    before = executed.read_text()
    executed.write_text(before.replace('"128"', '"96"'))
    build("site", root=book[0])
    assert ">96<" in (book[0] / "_build" / "html" / "book" / "intro.html").read_text()
    executed.write_text(before)


def test_a_name_that_no_chapter_glues_fails_the_build(book):
    tiny(book[0], page=PAGE.replace("tokens_left", "tokens_gone"))
    with pytest.raises(RuntimeError, match="tokens_gone"):
        build("site", root=book[0])


def test_a_figure_without_alternative_text_fails_the_build(tmp_path):
    build("run", tiny(tmp_path, figure=f"{FIGURE}display(figure)"), "--scale", "smoke", root=tmp_path)
    with pytest.raises(RuntimeError, match="one alternative text a cell"):
        build("site", root=tmp_path)
