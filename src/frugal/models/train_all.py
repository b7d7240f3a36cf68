"""`frugal train --all`: whatever is below its goals, for as long as there is time; to be run again and again."""

import json
import shutil
import time

from .. import paths
from . import cards, training
from .recipes import RECIPES, SCHEDULES

RESTS_ON = {  # a network: those whose weights it is trained with
    "faces-ddpm-draft": ("faces-ddpm",), "faces-ldm": ("faces-vae",), "faces-sd": ("faces-vae", "faces-clip"),
}  # fmt: skip
TURN = 9.0  # minutes that a network gets at once: a shorter cycle of the learning rate mends little
GUIDED_SHARE = 0.2  # of a turn, for the last cycle of a network that ends on its own guided prediction
STARTING = 0.1  # minutes to load a network, and to write it
WORTH_COMPILING = 30.0  # minutes from which compiling pays on a CPU


def has_weights(name: str) -> bool:
    return any((paths.EMBEDDED / name).rglob("*.safetensors"))


def below_goals() -> list[str]:
    """The networks whose cards show a mark or goal that is missed, or none yet; those first that rest on no others."""
    missing = [name for name in RECIPES if not has_weights(name) or not _finished(cards.read(name))]
    frozen = has_weights("faces-reader") and any(has_weights(name) for name in SCHEDULES)  # generators are judged by it
    return [name for name in missing if not (name == "faces-reader" and frozen)]


def _finished(card: dict) -> bool:
    marks = card.get("marks", ())
    return bool(marks) and all(mark["reached"] and mark.get("finished", True) for mark in marks)


def turns(names: list[str], minutes: float) -> dict[str, float]:
    """Minutes of each network, in the order of `names`: turns of nine minutes or all, to whoever has been trained least.

    Least as a share of its recipe's time; a network waits until all that it rests on have weights or a turn of their own.
    """
    count = max(1, int(minutes / TURN))
    given = dict.fromkeys(names, 0.0)
    before = {name: cards.read(name)["seconds"] / 60 if has_weights(name) else 0.0 for name in names}
    for _ in range(count if names else 0):
        ready = [n for n in names if all(has_weights(base) or given.get(base) for base in RESTS_ON.get(n, ()))]
        least = min(ready, key=lambda n: (before[n] + given[n]) / RECIPES[n].minutes)
        given[least] += minutes / count
    return {name: share for name, share in given.items() if share}


def train_all(minutes: float = TURN, device: str = "auto") -> list[str]:
    """Train what is below its goals for `minutes` of wall time in all, from committed weights or checkpoints; the names.

    A network that ended on its guided prediction learns from the data first and ends on that again. Raises ValueError for
    minutes that are not positive and a device that this machine has not.
    """
    if not minutes > 0:
        raise ValueError(f"minutes: got {minutes!r}, allowed is any number above 0")
    training.zoo.find_device(device)
    deadline = time.monotonic() + 60 * minutes
    plan = turns(below_goals(), minutes)
    for name, share in plan.items():
        print(f"{name}: {share:.1f} min, {standing(name)}", flush=True)
        for guidance, part in cycles(name, share):
            left = (deadline - time.monotonic()) / 60 - STARTING
            if left > 0:
                options = {"resume": True, "guidance": guidance, "compiled": pays_to_compile(name, part, device)}
                training.train(name, minutes=min(part, left), device=device, **options)
    print(f"trained: {', '.join(plan)}; `frugal evaluate --marks` measures them" if plan else "nothing is below its goals")
    return list(plan)


def standing(name: str) -> str:
    """Why a network is trained, in words."""
    if not has_weights(name):
        return "no weights yet"
    missed = [m["what"] for m in cards.read(name).get("marks", ()) if not (m["reached"] and m.get("finished", True))]
    return f"below: {'; '.join(missed)}" if missed else "not measured since it was trained"


def cycles(name: str, minutes: float) -> list[tuple[float | None, float]]:
    """(guidance, minutes) of each call of `training.train`: from the data, then to its own guided prediction."""
    scale = RECIPES[name].guidance
    if scale is None or not has_weights(name):
        return [(None, minutes)]
    last = (scale, GUIDED_SHARE * minutes)
    progress = paths.training() / name / "progress.json"
    if progress.exists() and (unfinished := json.loads(progress.read_text())["card"].get("guidance")):
        return [(unfinished, minutes)]  # that cycle was cut off: it ends first
    return [(None, minutes - last[1]), last]


def pays_to_compile(name: str, minutes: float, device: str) -> bool:
    """Whether torch.compile, which takes minutes on a CPU, is likely to win that time back; a GPU's steps are captured instead."""
    on_cpu = training.zoo.find_device(device).type == "cpu"
    return name in SCHEDULES and on_cpu and minutes >= WORTH_COMPILING and any(map(shutil.which, ("g++", "clang++")))
