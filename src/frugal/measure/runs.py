"""Runs: which questions a build asked of the records, one JSON line each, and what its numbers rest on."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from frugal import paths

LOG = "runs.log"  # beside the records
PROCESS_RUN = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"


@dataclass(frozen=True)
class Tally:
    """How many records a build rests on: measured in its run, reused from an earlier run here, shipped."""

    measured: int
    reused: int
    shipped: int

    def __str__(self) -> str:
        here = f"{self.measured} measured here, {self.reused} reused from an earlier run here"
        return f"{here}, {self.shipped} shipped (reference series)"


def run() -> str:
    """The run a record belongs to: $FRUGAL_RUN, which all processes of a build share, else this process."""
    return os.environ.get("FRUGAL_RUN") or PROCESS_RUN


def tally(store: Path | None = None) -> Tally:
    """The records behind this run: all it asked for, and what each chapter it left alone asked for when it last ran.

    A chapter is what $FRUGAL_CHAPTER names: a build that finds its notebooks unchanged counts their records as reused.
    """
    latest: dict[str, tuple[str, dict]] = {}  # chapter: (its last run, {key: measured in that run})
    for event in _events(Path(store) if store else paths.results()):
        if not event["chapter"] and event["run"] != run():
            continue
        last, keys = latest.get(event["chapter"], (None, {}))
        keys = keys if last == event["run"] else {}
        keys[event["key"]] = event["measured"] or keys.get(event["key"], False)
        latest[event["chapter"]] = event["run"], keys
    asked = {key for _, keys in latest.values() for key in keys}
    measured = {key for last, keys in latest.values() for key, new in keys.items() if new and last == run()}
    return Tally(len(measured), len(asked - measured), len(list(paths.shipped().glob("*.json"))))


def log(store: Path, key: str, measured: bool) -> None:
    """Note that this run asked for a record, and whether it was measured for it."""
    event = {"run": run(), "chapter": os.environ.get("FRUGAL_CHAPTER", ""), "key": key, "measured": measured}
    with open(store / LOG, "a") as lines:  # one short write in append mode: lines of several processes do not mix
        lines.write(json.dumps(event) + "\n")


def _events(store: Path) -> list[dict]:
    try:
        lines = (store / LOG).read_text().splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
            events.append({key: event[key] for key in ("run", "chapter", "key", "measured")})
        except (ValueError, KeyError, TypeError):  # a line cut short by a kill
            continue
    return events
