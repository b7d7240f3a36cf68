"""The project's files against each other: address, versions, dependencies, rooms, notebooks, what is packaged."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXTRAS = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]

IMPORTED_AS = {
    "pillow": "PIL",
    "scikit-image": "skimage",
    "pyyaml": "yaml",
    "beautifulsoup4": "bs4",
    "ipython": "IPython",
}
# Needed at run time though no line imports them: a notebook's kernel, and loading of weights inside diffusers.
USED_BY_OTHERS = {
    "ipykernel",
    "accelerate",
    "jupyter-book",
    "sphinx-mathjax-offline",
    "hatchling",
    "nbstripout",
    "ruff",
}
CONDA_NAMES = {"pytorch": "torch"}
ROOMS = ["models", "methods", "measure", "figures"]


def distribution(name: str) -> str:
    return CONDA_NAMES.get(name, name).lower().replace("_", "-")


def requirements(lines) -> dict:
    return {distribution(requirement.name): requirement.specifier for requirement in map(Requirement, lines)}


def imports(source: str, package: str = "") -> set[str]:
    """Absolute dotted names that a module imports, from inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def code(notebook: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


def package_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT / "src").parent.parts)


def addresses(text: str) -> set[str]:
    """Every mention of this repository, on GitHub itself or in a link made from it."""
    return set(re.findall(r"github(?:\.com)?/([\w.-]+/frugal-diffusion)\b", text))


@pytest.mark.parametrize(
    "file", ["README.md", "CITATION.cff", "book/intro.md", *[str(n.relative_to(ROOT)) for n in NOTEBOOKS]]
)
def test_every_mention_of_the_repository_is_its_address(file):
    assert addresses((ROOT / file).read_text()) <= {REPOSITORY.removeprefix("https://github.com/")}


def test_readme_and_citation_name_the_repository():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == REPOSITORY
    assert f"{REPOSITORY}/actions/workflows/book.yml/badge.svg" in (ROOT / "README.md").read_text()
    assert addresses((ROOT / "README.md").read_text())


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == "0.1.0"


def test_conda_and_pip_ask_for_the_same():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    conda = requirements([line for line in listed if isinstance(line, str) and line != "pip"])
    assert conda.pop("python") == PROJECT["requires-python"]
    assert pip.pop() == "-e ."
    assert {**conda, **requirements(pip)} == requirements([*PROJECT["dependencies"], *EXTRAS])


def test_dependencies_have_lower_bounds_only():
    operators = {
        name: {part.operator for part in specifier} for name, specifier in requirements(PROJECT["dependencies"]).items()
    }
    assert {name for name, used in operators.items() if used != {">="}} == set()


def test_constraints_pin_everything_that_is_asked_for():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = requirements(lines)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    for name, specifier in requirements([*PROJECT["dependencies"], *EXTRAS]).items():
        (pin,) = pins[name]
        assert specifier.contains(pin.version), name


def test_what_is_imported_is_what_is_declared():
    sources = [(path.read_text(), package_of(path)) for path in (ROOT / "src").rglob("*.py")]
    sources += [
        ("\n".join(re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", cell) for cell in code(path)), "") for path in NOTEBOOKS
    ]
    needed = {name.split(".")[0] for source, package in sources for name in imports(source, package)}
    needed -= {*sys.stdlib_module_names, "frugal", "google"}  # google.colab is there on Colab alone
    declared = requirements(PROJECT["dependencies"])
    modules = {IMPORTED_AS.get(name, name.replace("-", "_")): name for name in declared}
    assert needed - set(modules) == set()
    assert {name for module, name in modules.items() if module not in needed} - USED_BY_OTHERS == set()


@pytest.mark.parametrize("room", ROOMS)
def test_imports_between_rooms_run_one_way(room):
    above = {f"frugal.{name}" for name in ROOMS[ROOMS.index(room) + 1 :]}
    wrong = {
        (path.name, name)
        for path in (ROOT / "src" / "frugal" / room).rglob("*.py")
        for name in imports(path.read_text(), package_of(path))
        if ".".join(name.split(".")[:2]) in above
    }
    assert wrong == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin_clean_and_opens_in_colab(notebook):
    content = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert "colab" in content.metadata and content.metadata["frugal"]["budget_seconds"] > 0
    assert "import frugal" in cells[0].source and f"git+{REPOSITORY}" in cells[0].source
    assert "torch" not in cells[0].source and "numpy" not in cells[0].source
    assert "parameters" in cells[1].metadata.tags
    assert "validate" in cells[2].source
    assert max(len(cell.source.splitlines()) for cell in cells) <= 15


def packaged(target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return zipfile.ZipFile(packaged("wheel", tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_chapters_weights_and_published_configurations(wheel):
    held = set(wheel.namelist())
    folder = ROOT / "src" / "frugal"
    data = {
        f"frugal/{path.relative_to(folder)}" for path in (folder / "models" / "embedded").rglob("*") if path.is_file()
    }
    chapters = {f"frugal/notebooks/{path.name}" for path in NOTEBOOKS}
    assert NOTEBOOKS and {*data, *chapters, "frugal/models/published.json", "frugal/cli.py"} <= held
    assert not any(name.startswith(("tests/", "book/")) for name in held)


def test_an_installed_package_has_the_shipped_records(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    asked = (
        "from frugal import paths; from frugal.measure import arms, records; from frugal.measure.plan import Subject;"
        "print(paths.root(), len(records.load_shipped()), len(arms.shipped(Subject('faces-ldm'))))"
    )
    (tmp_path / "empty").mkdir()
    command, elsewhere = [sys.executable, "-c", asked], os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    told = subprocess.run(command, cwd=tmp_path / "empty", env=elsewhere, capture_output=True, check=True, text=True).stdout
    root, found, shown = told.split()
    assert (root, int(found)) == ("None", len(list((ROOT / "results" / "records").glob("*.json")))) and int(shown) > 0


def test_the_source_distribution_is_a_whole_checkout(tmp_path):
    with tarfile.open(packaged("sdist", tmp_path)) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in held}
    asked = {name for test in (ROOT / "tests").rglob("*.py") for name in re.findall(r'ROOT / "([\w.]+)"', test.read_text(encoding="utf-8"))}
    assert {*asked, "tests", "results", "README.md", "CITATION.cff", "LICENSE", "LICENSE-text", "LICENSE-weights"} - {"_build"} <= tops
    kept = ["git", "ls-files", "-z"]  # outside git, as in a source distribution itself, it tells nothing
    tracked = subprocess.run(kept, cwd=ROOT, capture_output=True, check=False, text=True).stdout.split("\0")
    assert {name for name in tracked if name and (ROOT / name).is_file()} <= held


def test_make_help_lists_the_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for target in ("book", "test", "experiments", "clean"):
        assert f"make {target} " in shown


def test_the_environment_is_installed_again_only_after_a_change_of_what_it_holds():
    makefile = (ROOT / "Makefile").read_text()
    assert "$(INSTALLED): pyproject.toml constraints.txt" in makefile
    assert PROJECT["scripts"] == {"frugal": "frugal.cli:main"}


def test_the_workflow_tests_and_publishes():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    steps = {
        job: [step.get("run", step.get("uses", "")) for step in jobs["steps"]] for job, jobs in workflow["jobs"].items()
    }
    assert ".ci/run" in steps["test"]
    assert any(step.startswith("make book") for step in steps["build"])
    assert workflow["jobs"]["publish"]["needs"] == ["test", "build"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("file", ["LICENSE", "LICENSE-text", "LICENSE-weights", "CITATION.cff", "CHANGELOG.md"])
def test_licences_and_citation_stand_where_the_readme_says(file):
    assert (ROOT / file).is_file() and file in (ROOT / "README.md").read_text()


def test_the_glossary_has_the_thesis_s_thirteen_entries_and_those_of_its_measures():
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8").partition("## Abbreviations")[2]
    entries = re.findall(r"^\| ([A-Z]\w+)(?: \(AI\))? \|", text, re.MULTILINE)
    thesis = ["DDPM", "GPT", "GPU", "IA", "LDM", "LLM", "NLP", "PSNR", "PTQ", "RAM", "SSIM", "ToMe", "VRAM"]
    assert entries == [*thesis, "FID", "IS", "KID", "NFE", "VAE"]


def test_the_site_s_numbers_of_chapters_are_those_of_their_files():
    parts = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())["parts"]
    [chapters] = [part["chapters"] for part in parts if part.get("numbered")]
    assert [int(Path(entry["file"]).name[:2]) for entry in chapters] == list(range(1, len(chapters) + 1))


def test_every_work_is_cited_with_its_address():
    works = (ROOT / "book" / "references.bib").read_text(encoding="utf-8").split("\n@")[1:]
    assert len(works) > 50
    for work in works:
        assert all(f"{field} = {{" in work for field in ("author", "title", "year", "url")), work
    keys = [work.split("{")[1].split(",")[0] for work in works]
    assert len(keys) == len(set(keys))


def test_every_paper_the_package_names_is_among_the_references():
    works = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    sources = [*(ROOT / "src" / "frugal").rglob("*.py"), *NOTEBOOKS]
    named = {number for file in sources for number in re.findall(r"\b(\d{4}\.\d{5})\b", file.read_text(encoding="utf-8"))}
    assert named and {number for number in named if number not in works} == set()
