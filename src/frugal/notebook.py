"""Notebooks from outside: where a chapter is, what it can be asked, and running it with papermill."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

from frugal import parameters, paths


class CellFailed(RuntimeError):
    """A cell raised; the message is the exception's own last line."""


def folder() -> Path:
    """The chapters of the checkout, else those installed with the package."""
    checkout = paths.root()
    return checkout / "notebooks" if checkout else paths.PACKAGE / "notebooks"


def find(name: str) -> Path:
    """A notebook by path, or a chapter by its bare name; raises ValueError naming the chapters there are."""
    if Path(name).is_file() and Path(name).suffix == ".ipynb":
        return Path(name)
    chapter = folder() / f"{name.removesuffix('.ipynb')}.ipynb"
    if Path(name).name == name and chapter.is_file():  # a path that leads nowhere is no chapter
        return chapter
    chapters = ", ".join(sorted(path.stem for path in folder().glob("*.ipynb"))) or "none"
    raise ValueError(f"notebook: got {name}, allowed is the path of a notebook or a chapter: {chapters}")


def default_output(notebook: Path) -> Path:
    """Where a run is written if nothing else is said: _build/runs of the checkout, else the caller's folder."""
    checkout = paths.root()
    if checkout:
        return checkout / "_build" / "runs" / notebook.name
    return Path.cwd() / f"{notebook.stem}.run.ipynb"


def literal(text: str) -> Any:
    """A command line's word as the Python value it spells, else as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def names(notebook: Path) -> list[str]:
    """What the cell tagged `parameters` assigns; papermill's inspection overlooks annotations like `float | None`."""
    import nbformat

    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except Exception as broken:  # noqa: BLE001 (each version of the format has its own)
        raise ValueError(f"notebook: got {notebook}, which is none ({type(broken).__name__})") from None
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    try:
        statements = ast.parse("\n".join(tagged)).body
    except SyntaxError as broken:
        raise ValueError(f"notebook: got {notebook}, whose parameters are no Python (line {broken.lineno}: {broken.msg})") from None
    found = []
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def check(notebook: Path, given: dict[str, Any]) -> None:
    """Raise ValueError, one line, for a name the notebook has no parameter of or a value its chapter refuses."""
    allowed = names(notebook)
    for name in given:
        if name not in allowed:
            raise ValueError(f"parameter {name}: unknown, {notebook.name} has {', '.join(allowed) or 'none'}")
    if notebook.stem in parameters.CHAPTERS:
        parameters.validate(parameters.CHAPTERS[notebook.stem], **given)


def run(notebook: Path, output: Path, given: dict[str, Any]) -> Path:
    """Run a notebook with these parameters, its printed lines shown as they come, and return where it was written.

    The output appears under its name only when the run succeeded; a failed run is kept as NAME.failed.ipynb.
    Raises CellFailed with the exception's last line, ValueError for a kernel that is not installed.
    """
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    if output.is_dir():
        raise ValueError(f"output: got {output}, a folder; allowed is the path of a notebook to write")
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".failed.ipynb")
    streams = {"stdout_file": sys.stdout, "stderr_file": sys.stderr}
    try:
        execute_notebook(str(notebook), str(unfinished), given, progress_bar=False, **streams)
    except PapermillExecutionError as failure:
        raise CellFailed(f"{failure.ename}: {failure.evalue}".strip().splitlines()[-1]) from None
    except NoSuchKernel as unknown:
        unfinished.unlink(missing_ok=True)  # nothing ran
        installed = ", ".join(KernelSpecManager().find_kernel_specs())
        raise ValueError(f"kernel: got {unknown.name!r}, allowed are those installed: {installed}") from None
    _forget_paths(unfinished)
    return unfinished.replace(output)


def _forget_paths(file: Path) -> None:
    """Leave out of a notebook's metadata the folders of this machine that papermill notes: notebooks are handed on."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for key in ("input_path", "output_path"):
        content["metadata"]["papermill"].pop(key)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
