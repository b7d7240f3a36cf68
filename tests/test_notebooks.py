"""The chapters as files, and run at scale=smoke into a temporary folder."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from papermill import inspect_notebook

from frugal import parameters
from frugal.figures import claims
from frugal.figures.style import SMOKE

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MARKDOWN_OF_MYST_ALONE = re.compile(r"^(```|:::)\s*\{|\{[a-z:]+\}`", re.MULTILINE)
every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def plain(source: str) -> str:
    """Python that ast can read, without IPython's magics."""
    return re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.MULTILINE)


def test_there_is_a_chapter():
    assert CHAPTERS


@every_chapter
def test_no_outputs_in_git_and_stable_names_of_cells(chapter):
    notebook = read(chapter)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert all(re.fullmatch(r"[a-z][a-z0-9-]+", cell.id) for cell in notebook.cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@every_chapter
def test_cells_are_short_and_prose_is_plain_markdown(chapter):
    notebook = read(chapter)
    assert all(len(cell.source.splitlines()) <= 15 for cell in code(notebook))
    assert all(
        not MARKDOWN_OF_MYST_ALONE.search(cell.source) for cell in notebook.cells if cell.cell_type == "markdown"
    )
    assert sum(cell.source.startswith("# ") for cell in notebook.cells if cell.cell_type == "markdown") == 1


@every_chapter
def test_the_set_up_cell_can_be_run_again_and_names_the_repository(chapter):
    first = code(read(chapter))[0].source
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert f"git+{repository}@main" in first and "torch" not in first and "numpy" not in first
    for _ in range(2):
        exec(compile(plain(first), chapter.name, "exec"), {})  # noqa: S102 (frugal is here: nothing is installed)


@every_chapter
def test_the_second_cell_holds_the_parameters_each_annotated_and_commented(chapter):
    second, third = code(read(chapter))[1:3]
    assert second.metadata.tags == ["parameters"] and "parameters.validate" in third.source
    assert all(isinstance(line, ast.AnnAssign) for line in ast.parse(second.source).body)
    assert all("#" in line for line in second.source.splitlines())
    model = parameters.CHAPTERS[chapter.stem]
    found = {name: ast.literal_eval(given["default"]) for name, given in inspect_notebook(str(chapter)).items()}
    assert found == {name: field.default for name, field in model.model_fields.items()}


@every_chapter
def test_colab_is_told_to_lend_a_gpu(chapter):
    assert read(chapter).metadata.accelerator == "GPU" and "gpuType" in read(chapter).metadata.colab


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Chapter 5 run at scale=smoke by papermill from a folder of its own, and that folder."""
    folder = tmp_path_factory.mktemp("smoke")
    asked = [str(ROOT / "notebooks" / "05_experiments.ipynb"), "out.ipynb", "-p", "scale", "smoke", "-p", "images", "2"]
    run = papermill(folder, *asked)
    assert run.returncode == 0, run.stderr[-3000:]
    return read(folder / "out.ipynb"), folder


def papermill(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"FRUGAL_RESULTS": str(folder / "records"), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *words]
    return subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)


def figures(notebook) -> list:
    outputs = [output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]
    return [output.metadata["image/png"] for output in outputs]


def text(notebook) -> str:
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return "\n".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/markdown", "")) for output in outputs
    )


def test_every_figure_is_there_with_alternative_text_and_watermark(smoke):
    notebook, folder = smoke
    names = {file.stem for file in (folder / "runs" / "figures").glob("*.png")}
    assert {"05_figure_5.1", "05_figure_5.1_embedded", "05_figure_5.2", "05_figure_5.3", "05_figure_6.1"} <= names
    assert len(figures(notebook)) == len(names) and all(figure["alt"].strip() for figure in figures(notebook))
    captions = [line for line in text(notebook).splitlines() if "Device:" in line]
    assert len(captions) == len(names) and all(SMOKE[1:] in caption for caption in captions)


def test_a_run_warns_of_nothing_and_says_what_it_takes(smoke):
    notebook, _ = smoke
    errors = [output.text for cell in code(notebook) for output in cell.outputs if output.get("name") == "stderr"]
    assert errors == []
    printed = [output.text for cell in code(notebook) for output in cell.outputs if output.get("name") == "stdout"]
    assert any("GiB of memory" in line for line in printed)  # a stream, which is shown while the notebook runs


def test_numbers_and_claims_are_kept_for_the_book(smoke):
    notebook, folder = smoke
    numbers = json.loads((folder / "runs" / "numbers.json").read_text())
    glued = {
        output.metadata["scrapbook"]["name"]
        for cell in code(notebook)
        for output in cell.outputs
        if "scrapbook" in output.get("metadata", {})
    }
    assert set(numbers) < glued and numbers["scale"] == "smoke"
    assert f"{len(numbers)} numbers kept in numbers.json." in text(notebook)
    assert not re.search(r"\b(0 of 0|1 images)\b", text(notebook))
    pasted = {f"{kind}_{row['name']}" for row in statements() if row["chapter"] == "05_experiments" for kind in ("claim", "verdict")}
    assert pasted and pasted <= glued


def statements() -> list[dict[str, str]]:
    with (ROOT / "book" / "claims.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_every_claim_is_kept_by_its_chapter_or_says_why_it_is_not_measured():
    rows = statements()
    assert {row["source"] for row in rows} == {"thesis", "slides", "SwD"}
    assert all(row["claim"].endswith(".") and row["section"] and bool(row["name"]) != bool(row["why"]) for row in rows)
    named = [row for row in rows if row["name"]]
    assert len({row["name"] for row in named}) == len(named)
    of_the_experiments = {row["name"] for row in named if row["chapter"] == "05_experiments"}
    assert of_the_experiments == set(claims.CLAIMS)
    for row in named:
        source = "".join(cell.source for cell in code(read(ROOT / "notebooks" / f"{row['chapter']}.ipynb")))
        assert row["chapter"] == "05_experiments" or f'claims.keep("{row["name"]}"' in source


def beginning(folder: Path) -> Path:
    """Chapter 5 up to the check of its parameters."""
    chapter = read(ROOT / "notebooks" / "05_experiments.ipynb")
    validated = next(k for k, cell in enumerate(chapter.cells) if "parameters.validate" in cell.source)
    chapter.cells = chapter.cells[: validated + 1]
    nbformat.write(chapter, folder / "first.ipynb")
    return folder / "first.ipynb"


def test_with_one_path_and_its_output_piped_papermill_writes_the_notebook_there(tmp_path):
    run = papermill(tmp_path, beginning(tmp_path).name, "-p", "ratio", "0.5")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "ratio=0.5" in text(nbformat.reads(run.stdout, as_version=4))


@pytest.mark.parametrize(
    ("name", "value"), [("ratio", "1.5"), ("ratio", "-0.1"), ("ratio", "abc"), ("steps", "0"), ("model", "nonsense")]
)
def test_what_is_not_allowed_ends_in_one_clear_line(tmp_path, name, value):
    run = papermill(tmp_path, beginning(tmp_path).name, "out.ipynb", "-p", name, value)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ") and name in last and value in last and "allowed" in last


def test_as_many_components_as_are_allowed(tmp_path):
    run = papermill(tmp_path, str(ROOT / "notebooks" / "03_autoencoder.ipynb"), "out.ipynb", "-p", "scale", "smoke", "-p", "components", "256")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "256 of 768 numbers keep" in text(read(tmp_path / "out.ipynb"))


def test_speculative_sampling_of_a_pipeline_of_ones_own(tmp_path):
    """As a model of the hub, of other things than faces: it predicts the noise, is clipped, and no judge knows its images."""
    shape = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
    unet = UNet2DModel(**shape, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path / "own")
    asked = {"scale": "smoke", "model": str(tmp_path / "own"), "images": "1"}
    words = [word for name, value in asked.items() for word in ("-p", name, value)]
    run = papermill(tmp_path, str(ROOT / "notebooks" / "08_speculative.ipynb"), "out.ipynb", *words)
    assert run.returncode == 0, run.stderr[-3000:]
    told = text(read(tmp_path / "out.ipynb"))
    assert "| itself | 8.0 |" in told and "of 1 |" not in told and "| Target (8 steps) | itself | not measured |" in told


@pytest.mark.parametrize("chapter", ["07_samplers", "08_speculative", "09_parallel"])
def test_fewer_steps_of_a_model_that_follows_text(tmp_path, chapter):
    words = [word for name, value in {"scale": "smoke", "model": "faces-sd", "images": "2"}.items() for word in ("-p", name, value)]
    run = papermill(tmp_path, str(ROOT / "notebooks" / f"{chapter}.ipynb"), "out.ipynb", *words)
    assert run.returncode == 0, run.stderr[-3000:]
    assert all(figure["alt"].strip() for figure in figures(read(tmp_path / "out.ipynb")))


@pytest.mark.parametrize(("model", "weights"), [("nonsense", "auto"), ("faces-ldm", "hub"), ("ddpm-cifar10-32", "embedded"), ("ddpm-cifar10-32", "random")])
def test_chapter_8_refuses_models_and_weights_that_do_not_fit(model, weights):
    with pytest.raises(ValueError, match="allowed"):
        parameters.validate(parameters.Speculative, model=model, weights=weights)
    assert parameters.validate(parameters.Speculative, model="ddpm-cifar10-32", weights="hub").weights == "hub"
