"""Where things are: a checkout's root if there is one, else the caller's folder."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
EMBEDDED = PACKAGE / "models" / "embedded"


def root() -> Path | None:
    """The checkout that this package is imported from or the caller stands in; None where there is none (Colab)."""
    for start in (PACKAGE, Path.cwd().resolve()):
        for folder in (start, *start.parents):
            if (folder / "_config.yml").exists() and (folder / "src" / "frugal").is_dir():
                return folder
    return None


def results(scale: str = "quick") -> Path:
    """Where measurements made on this machine go: $FRUGAL_RESULTS, else _build/records, else ./results.

    Those of scale "smoke" are no results: else _build/test/records, else ./smoke/results.
    """
    if "FRUGAL_RESULTS" in os.environ:
        return Path(os.environ["FRUGAL_RESULTS"])
    checkout, smoke = root(), scale == "smoke"
    if checkout:
        return checkout / "_build" / ("test/records" if smoke else "records")
    return Path.cwd() / ("smoke/results" if smoke else "results")


def drawn(scale: str = "quick") -> Path:
    """Where a run's figures and numbers go: $FRUGAL_DRAWN, which the book's build sets to _build, else `runs` beside the
    measurements, so that a run of one's own replaces nothing of the book's."""
    return Path(os.environ["FRUGAL_DRAWN"]) if "FRUGAL_DRAWN" in os.environ else results(scale).parent / "runs"


def shipped() -> Path:
    """The committed reference records: the checkout's, else those installed with the package."""
    return (root() or PACKAGE) / "results" / "records"


def training() -> Path:
    """Where unfinished training keeps its checkpoints."""
    checkout = root()
    return (checkout / "_build" if checkout else Path.cwd() / "frugal") / "training"
