"""The command line: what is refused, in one line, and what a run writes and prints."""

import subprocess
import sys
import types

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from frugal import cli, notebook, parameters, paths

DEFAULTS = "ratio: float | None = None\nmodel = None\nmethod = 'tome'\nsteps = None\nseed = 0\nscale = 'quick'"
CHECK = """from frugal import parameters

asked = parameters.validate(ratio=ratio, model=model, steps=steps, seed=seed, scale=scale)
print(f"merging {asked.ratio}, seed {asked.seed}")"""


def write(path, *cells):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = new_notebook(metadata={"kernelspec": kernel})
    content.cells = [new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    nbformat.write(content, path)
    return path


@pytest.fixture
def chapter(tmp_path):
    """A tiny notebook of chapter 5's name, which the command line therefore checks before it starts a kernel."""
    return write(tmp_path / "05_experiments.ipynb", (DEFAULTS, ["parameters"]), (CHECK, []))


@pytest.fixture
def copied(chapter):
    """The same under another name: only its own cell can refuse."""
    return chapter.rename(chapter.with_name("copy.ipynb"))


def frugal(capfd, *words):
    """(exit code, standard output, lines of standard error) of a command."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    captured = capfd.readouterr()
    return ended.value.code or 0, captured.out, captured.err.strip().splitlines()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("ratio", "1.5", "from 0 to 0.9"),
        ("ratio", "-0.1", "from 0 to 0.9"),
        ("ratio", "abc", "from 0 to 0.9"),
        ("ratio", "nan", "from 0 to 0.9"),
        ("steps", "0", "from 1"),
        ("steps", "2.5", "from 1"),
        ("seed", "-1", "from 0"),
        ("seed", str(2**32), "from 0 to 4000000000"),
        ("scale", "huge", "smoke, quick or thesis"),
        ("method", "magic", "tome, weighted, prune, todo, tomesd"),
        ("model", "faces-nobody", "faces-ddpm"),
    ],
)
def test_a_value_that_is_not_allowed_is_one_line_and_exit_2(chapter, capfd, name, value, allowed):
    code, _, lines = frugal(capfd, "run", chapter, "-p", name, value)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"parameter {name}: got ") and value in lines[0] and allowed in lines[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-p", "ration", "0.5"], "parameter ration: unknown"),
        (["-p", "ratio"], "option -p: got ratio"),
        (["-p"], "option -p: got nothing"),
    ],
)
def test_an_unknown_parameter_or_half_a_pair_is_one_line_and_exit_2(chapter, capfd, words, told):
    code, _, lines = frugal(capfd, "run", chapter, *words)
    assert (code, len(lines)) == (2, 1) and lines[0].startswith(told)


def test_an_unknown_notebook_is_one_line_and_exit_2(capfd, tmp_path):
    code, _, lines = frugal(capfd, "run", tmp_path / "99_nothing.ipynb")
    assert (code, len(lines)) == (2, 1) and lines[0].startswith("notebook: got")


def test_a_mistyped_path_runs_no_other_notebook(chapter, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(notebook, "folder", lambda: tmp_path)
    assert notebook.find("05_experiments") == notebook.find("05_experiments.ipynb") == chapter
    for mistyped in (tmp_path / "nowhere" / "05_experiments.ipynb", "05_experiments.v2", "nowhere/05_experiments"):
        code, out, [line] = frugal(capfd, "run", mistyped)
        assert (code, out) == (2, "") and line.startswith(f"notebook: got {mistyped}, allowed is")


def test_parameters_that_are_no_python_are_one_line_and_exit_2(capfd, tmp_path):
    own = write(tmp_path / "own.ipynb", ("ratio = 0.5\nseed = = 0", ["parameters"]))
    code, _, [line] = frugal(capfd, "run", own, "-p", "ratio", "0.1")
    assert code == 2 and line == f"notebook: got {own}, whose parameters are no Python (line 2: invalid syntax)"


def test_a_kernel_that_is_not_installed_is_one_line_and_exit_2(copied, capfd, tmp_path):
    content = nbformat.read(copied, as_version=4)
    content.metadata.kernelspec.name = "nobody"
    nbformat.write(content, copied)
    code, _, lines = frugal(capfd, "run", copied, tmp_path / "out" / "own.ipynb")
    assert code == 2 and lines[-1].startswith("kernel: got 'nobody', allowed are those installed: ") and "Traceback" not in "".join(lines)
    assert not list((tmp_path / "out").iterdir())


def test_a_run_shows_what_the_notebook_prints_and_writes_the_output(chapter, capfd, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    output = tmp_path / "runs" / "out.ipynb"
    code, out, _ = frugal(capfd, "run", chapter, "-p", "ratio", "0.5", "-p", "seed", "3", output)
    assert code == 0
    assert "merging 0.5, seed 3" in out and str(output) in out
    assert "papermill" in nbformat.read(output, as_version=4).metadata and str(tmp_path) not in output.read_text(encoding="utf-8")
    assert not list(output.parent.glob("*.failed.ipynb")) and not list(elsewhere.iterdir())


def test_a_failing_cell_ends_in_its_own_line_and_leaves_no_output(copied, capfd, tmp_path):
    output = tmp_path / "out.ipynb"
    code, _, lines = frugal(capfd, "run", copied, output, "-p", "ratio", "1.5")
    assert code == 1
    assert (
        lines[-1]
        == "ValueError: parameter ratio: got 1.5, allowed is a number from 0 to 0.9, or None for the sweep 0 .. 0.9"
    )
    assert not output.exists() and output.with_suffix(".failed.ipynb").exists()


def test_papermill_itself_ends_in_the_same_clear_line(copied, tmp_path):
    command = [sys.executable, "-m", "papermill", copied, tmp_path / "out.ipynb", "-p", "steps", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert (
        ended.stderr.strip()
        .splitlines()[-1]
        .startswith("ValueError: parameter steps: got 0, allowed is a whole number from 1")
    )


def test_a_bare_name_finds_the_chapter_and_runs_are_kept_under_build(chapter, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    (tmp_path / "notebooks").mkdir()
    moved = chapter.rename(tmp_path / "notebooks" / chapter.name)
    assert notebook.find("05_experiments") == moved
    assert notebook.default_output(moved) == tmp_path / "_build" / "runs" / chapter.name


def test_without_a_checkout_the_installed_chapters_are_used(chapter, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "root", lambda: None)
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    (tmp_path / "notebooks").mkdir()
    moved = chapter.rename(tmp_path / "notebooks" / chapter.name)
    monkeypatch.chdir(tmp_path)
    assert notebook.find("05_experiments") == moved
    assert notebook.default_output(moved).parent == tmp_path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("None", None),
        ("3", 3),
        ("True", True),
        ("ldm-celebahq-256", "ldm-celebahq-256"),
        ("a/b c", "a/b c"),
    ],
)
def test_a_word_is_the_value_it_spells(text, value):
    assert notebook.literal(text) == value


def test_parameters_have_defaults_and_allow_hub_ids_and_folders(tmp_path):
    assert parameters.validate().ratio is None
    assert parameters.validate(ratio=0, model="someone/model").model == "someone/model"
    assert parameters.validate(ratio=0.9, model=str(paths.EMBEDDED / "faces-ddpm")).ratio == 0.9
    with pytest.raises(ValueError, match="parameter model: got .* a diffusers folder"):
        parameters.validate(model=str(tmp_path))
    with pytest.raises(ValueError, match="^parameter ration: unknown, allowed are seed"):
        parameters.validate(ration=0.5)
    with pytest.raises(ValueError, match="'faces-ldm' follows no text"):
        parameters.validate(model="faces-ldm", prompts="a smiling face")


def test_a_seed_ends_where_the_samplers_or_the_test_faces_do():
    for name, chapter in parameters.CHAPTERS.items():
        last = next(limit.le for limit in chapter.model_fields["seed"].metadata if hasattr(limit, "le"))
        with pytest.raises(ValueError, match=f"parameter seed: got {last + 1}, allowed is a whole number from 0 to {last}"):
            parameters.validate(chapter, seed=last + 1)
        images = chapter.model_fields.get("images")
        most = max((limit.le for limit in images.metadata if hasattr(limit, "le")), default=1) if images else 1
        assert last + most <= (20_000 if name == "03_autoencoder" else 2**32) and parameters.validate(chapter, seed=last).seed == last


def test_the_readme_says_which_seeds_are_allowed():
    seed = parameters.Experiments.model_fields["seed"]
    assert f"| `seed` | {seed.description} | `{seed.default}` |" in (paths.root() / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["watts", "price"])
def test_watts_and_price_are_finite(name):
    with pytest.raises(ValueError, match=f"parameter {name}: got inf, allowed is a finite number"):
        parameters.validate(parameters.Diffusion, **{name: float("inf")})


def test_prompts_are_one_or_one_an_image():
    two, asked = ["a smiling face", "a sad face"], {"model": "faces-sd"}
    for images, scale, count in ((3, "quick", 3), (None, "quick", 16)):
        with pytest.raises(ValueError, match=f"^parameter prompts: got 2 texts, allowed is one, or one for each of the {count} images"):
            parameters.validate(**asked, prompts=two, images=images, scale=scale)
    for prompts, images in ((two, 2), (two[:1], 3), (two[0], 3)):
        assert parameters.validate(**asked, prompts=prompts, images=images).prompts == prompts
    assert parameters.validate(**asked, prompts=two, scale="smoke").prompts == two  # two images


def stand_in(monkeypatch, name):
    """A module in place of the real one, for commands that only hand their arguments on."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(name, module, raising=False)
    return module


@pytest.mark.parametrize(("reached", "code"), [(True, 0), (False, 1)])
def test_evaluate_ends_with_1_where_a_mark_is_missed(capfd, monkeypatch, reached, code):
    asked = []
    stand_in(monkeypatch, "frugal.measure.evaluate").evaluate = lambda name, samples: asked.append(name) or reached
    assert frugal(capfd, "evaluate", "faces-ldm")[0] == code
    assert asked == ["faces-ldm"]


def test_train_and_export_hand_their_arguments_on(capfd, monkeypatch, tmp_path):
    asked = []
    stand_in(monkeypatch, "frugal.models.training").train = lambda *given, **named: asked.append((given, named))
    stand_in(monkeypatch, "frugal.models.zoo").export = lambda *given: asked.append(given)
    assert frugal(capfd, "train", "faces-ldm", "--minutes", "0.5", "--resume", "--guidance", "1.5", "--compile")[0] == 0
    assert frugal(capfd, "export", "faces-ldm", tmp_path)[0] == 0
    options = {"minutes": 0.5, "resume": True, "device": "auto", "guidance": 1.5, "compiled": True}
    assert asked == [(("faces-ldm",), options), ("faces-ldm", tmp_path)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "--marks", "--samples", "64"], "--samples: got it with --marks, where it changes nothing"),
        (["bench", "noop", "--device", "cpu"], "--device: got it for benchmark 'noop', allowed is it for 'merging' and 'batching'"),
        (["bench", "faces", "--ratios", "0.5"], "--ratios: got it for benchmark 'faces', allowed is it for 'merging'"),
        (["bench", "nobody", "--device", "cpu"], "name: got 'nobody', allowed are faces, noop, prediction, merging, batching"),
        (["bench", "batching", "--images", "3"], "--images: got it for benchmark 'batching', allowed are --model and --device"),
    ],
)
def test_an_option_that_changes_nothing_is_one_line_and_exit_2(capfd, words, told):
    code, _, lines = frugal(capfd, *words)
    assert (code, lines[-1]) == (2, told)


def test_what_merging_allows_are_options_of_the_command_line(capfd):
    from frugal.measure import bench_merging

    _, out, _ = frugal(capfd, "bench", "--help")
    assert all(f"--{name}" in out for name in {*bench_merging.OF_NETWORK, *bench_merging.OF_LAYER, *bench_merging.OF_QUALITY})
