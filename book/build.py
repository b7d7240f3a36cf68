"""Builds the book: runs chapters, lays them beside the prose, calls Jupyter Book, and reports what a build cost.

    python book/build.py run notebooks/05_experiments.ipynb     one chapter into _build/notebooks
    python book/build.py site                                   staging tree -> _build/html
    python book/build.py pdf                                    all pages as one, printed by Chromium
    python book/build.py report                                 seconds against budgets, points measured

`make book` calls all three. With --output FOLDER everything goes to FOLDER/_build, as the tests' smoke run does.
"""

import argparse
import csv
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from frugal import notebook as notebooks
from frugal.measure import records, runs

ROOT = Path(__file__).resolve().parents[1]
SITE_SECONDS = 90  # its budget; a chapter's is in its metadata
IMAGES = ("image/png", "image/svg+xml", "image/jpeg")


def run_chapter(source: Path, build: Path, scale: str) -> None:
    """Execute a chapter at this scale; its measurements are kept in this build's own records."""
    os.environ.update(FRUGAL_RESULTS=str(build / "records"), FRUGAL_DRAWN=str(build), FRUGAL_CHAPTER=source.stem)
    print(f"{source.stem} at scale={scale}", flush=True)
    notebooks.check(source, {"scale": scale})
    notebooks.run(source, build / "notebooks" / source.name, {"scale": scale})


def build_site(root: Path, build: Path) -> None:
    """Stage and build all pages, warnings as errors: a page that pastes a number does not notice that it changed."""
    began = time.time()
    for folder in (build / "staging", build / "html"):
        shutil.rmtree(folder, ignore_errors=True)
    stage(root, build)
    index = build / "html" / "index.html"
    if not jupyter_book(build, "--all", "-W", "-n", "--keep-going"):
        index.unlink(missing_ok=True)  # so that make builds it again
        sys.exit("the site has warnings: they are above")
    # Jupyter Book's redirect names no icon: a browser asks for one that is not there, or leaves before it came.
    index.write_text(f'<link rel="icon" href="data:,">\n{index.read_text()}')
    (build / "site_seconds").write_text(f"{time.time() - began:.0f}")


def jupyter_book(build: Path, *options: str) -> bool:
    """Run Jupyter Book on the staging tree; whether it went well."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "--quiet", *options]
    return not subprocess.run([*command, "--path-output", build.parent, build / "staging"], check=False).returncode


def print_pdf(build: Path) -> Path:
    """The staged book as a single page, printed: build/frugal-diffusion.pdf."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        raise ValueError("chromium: not found, and it prints the book; Debian's package is called chromium")
    if not jupyter_book(build, "--builder", "singlehtml"):
        sys.exit("the book could not be laid out on a single page: see above")
    [laid_out] = (build / "singlehtml").rglob("intro.html")
    page = shutil.copy(laid_out, build / "singlehtml" / "printed.html")  # beside the pictures and styles that it names
    printed = build / "frugal-diffusion.pdf"
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=60000"]
    done = subprocess.run([*command, f"--print-to-pdf={printed}", Path(page).as_uri()], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{chromium} could not print the book: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return printed


def stage(root: Path, build: Path) -> None:
    """Lay prose and executed chapters out as they lie in the repository, so that links to it are right."""
    staging = build / "staging"
    shutil.copytree(
        root / "book", staging / "book", ignore=shutil.ignore_patterns("build.py", "__pycache__", "_toc.yml")
    )
    shutil.copy(root / "_config.yml", staging)
    shutil.copy(root / "book" / "_toc.yml", staging)
    if (statements := root / "book" / "claims.csv").exists():
        (staging / "book" / "_claims.md").write_text(claim_tables(statements), encoding="utf-8")
    (staging / "book" / "_records.md").write_text(record_table(build), encoding="utf-8")
    (staging / "notebooks").mkdir()
    for chapter in sorted((root / "notebooks").glob("*.ipynb")):
        executed = build / "notebooks" / chapter.name
        (staging / "notebooks" / chapter.name).write_text(with_alt_text(executed), encoding="utf-8")


def with_alt_text(chapter: Path) -> str:
    """The executed notebook with each figure's alternative text where MyST-NB looks for it: in its cell's metadata.

    Raises ValueError for a figure that has none.
    """
    content = nbformat.read(chapter, as_version=4)
    for number, cell in enumerate(content.cells):
        images = [
            (kind, output) for output in cell.get("outputs", []) for kind in IMAGES if kind in output.get("data", {})
        ]
        alts = {output.metadata.get(kind, {}).get("alt", "") for kind, output in images}
        if images and (len(alts) > 1 or "" in alts):
            raise ValueError(
                f"{chapter.name}, cell {number}: got {sorted(alts)}, allowed is one alternative text a cell"
            )
        if images:
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alts.pop()}
    return nbformat.writes(content)


def claim_tables(file: Path) -> str:
    """The statements of each source as a table; measurement and verdict are pasted from the chapter that glued them."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    parts = []
    for source, claims in itertools.groupby(rows, key=lambda row: row["source"]):
        title = source[0].upper() + source[1:]
        parts += [f"## {title}", "", "| section | claim | measured | verdict |", "|---|---|---|---|"]
        parts += [f"| {row['section']} | {row['claim']} | {' | '.join(claim_result(row))} |" for row in claims]
        parts.append("")
    return "\n".join(parts)


def claim_result(row: dict[str, str]) -> tuple[str, str]:
    """Measurement and verdict of a claim, as MyST: pasted by name, or the reason why there is none."""
    if not row["name"]:
        kind = "not measured here" if " yet" in row["why"] else "not measurable here"
        return "", f"{kind}: {row['why']}"
    chapter = f"../notebooks/{row['chapter']}.ipynb"
    pasted = (f"{{glue:text}}`{chapter}::{kind}_{row['name']}:s`" for kind in ("claim", "verdict"))
    link = f"[chapter {int(row['chapter'][:2])}]({chapter})"
    measured, verdict = pasted
    return f"{measured} ({link})", verdict


def record_table(build: Path) -> str:
    """What was measured where, when and with which versions: one row for the records that share all of that, and below
    what the numbers of the versions stand for."""
    found = [*(records.load_all(build / "records") if (build / "records").exists() else []), *records.load_shipped()]
    software = {used: str(k) for k, used in enumerate(sorted({_software(record) for record in found}), start=1)}

    def row(record: records.Record) -> tuple:
        origin = "this machine" if record.series == "here" else "shipped"
        commit = (record.commit or "none")[:7]
        return record.name, record.scale, origin, _where(record.device), software[_software(record)], record.end[:10], commit

    lines = [["measurement", "records", "scale", "series", "device", "versions", "date", "commit"]]
    rows = itertools.groupby(sorted(map(row, found)))
    lines += [["---"] * len(lines[0]), *([name, str(len(list(same))), *rest] for (name, *rest), same in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nVersions:\n\n" + "".join(f"* {number}: {used}\n" for used, number in software.items())


def _where(device: dict) -> str:
    """A device in words; threads are those of a processor."""
    threads = f", {device['threads']} thread{'s' if device['threads'] > 1 else ''}" if device.get("kind") == "cpu" else ""
    return f"{device.get('name')}{threads}, {device.get('dtype')}"


def _software(record: records.Record) -> str:
    return ", ".join(f"{library} {version}" for library, version in record.versions.items() if version)


def report(build: Path) -> None:
    """Print each chapter's seconds against its budget, the site's, and what the build's numbers rest on."""
    os.environ.pop("FRUGAL_CHAPTER", None)
    for chapter in sorted((build / "notebooks").glob("[!.]*.ipynb")):
        metadata = nbformat.read(chapter, as_version=4).metadata
        budget = metadata.get("frugal", {}).get("budget_seconds")
        against = f"of a budget of {budget} s" if budget else "without a budget"
        print(f"{chapter.stem}: {metadata.papermill.duration:.0f} s {against}")
    took = (build / "site_seconds").read_text()
    print(f"site: {took} s of a budget of {SITE_SECONDS} s, {build / 'html' / 'index.html'}")
    print(runs.tally(build / "records"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose book is built")
    parser.add_argument("--output", type=Path, help="the folder that holds _build; the checkout by default")
    steps = parser.add_subparsers(dest="step", required=True)
    run = steps.add_parser("run")
    run.add_argument("notebook", type=Path)
    run.add_argument("--scale", default="quick", choices=["smoke", "quick", "thesis"])
    steps.add_parser("site")
    steps.add_parser("pdf")
    steps.add_parser("report")
    asked = parser.parse_args()
    build = (asked.output or asked.root).resolve() / "_build"
    try:
        if asked.step == "run":
            run_chapter(asked.notebook, build, asked.scale)
        elif asked.step == "site":
            build_site(asked.root, build)
        elif asked.step == "pdf":
            print(print_pdf(build))
        else:
            report(build)
    except (ValueError, notebooks.CellFailed) as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
