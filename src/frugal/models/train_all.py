"""`frugal train --all`: whatever is below its goals, for as long as there is time; to be run again and again."""

import json
import math
import shutil
import time
from pathlib import Path

import torch

from .. import paths
from . import cards, training
from .faces import Faces, draw_batch
from .guidance import unguided
from .recipes import RECIPES, SCHEDULES, SIZE

RESTS_ON = {  # a network: those whose weights it is trained with
    "faces-ddpm-draft": ("faces-ddpm",), "faces-ldm": ("faces-vae",), "faces-sd": ("faces-vae", "faces-clip"),
}  # fmt: skip
TURN = 9.0  # minutes that a network gets at once: a shorter cycle of the learning rate mends little
GUIDED_SHARE = 0.2  # of a turn, for the last cycle of a network that ends on its own guided prediction
STARTING = 0.3  # minutes to load a network, to write it, and to compare it with what it was
LEAST = 1.0  # minutes of a call; a network with two cycles is loaded twice
HELD_OUT, PART = 128, 32  # faces by which old and new weights are compared, and how many at a time
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
    """Train what is below its goals for `minutes` of wall time in all, from committed weights or checkpoints.

    A network that ended on its guided prediction learns from the data first and ends on that again. Weights that came out no
    better are replaced by those before. Returns the names of the networks whose weights changed. Raises ValueError for
    minutes that would train nothing and a device that this machine has not.
    """
    if not LEAST <= minutes < math.inf:
        raise ValueError(f"minutes: got {minutes!r}, allowed is {LEAST:g} or more: less would go into loading and comparing alone")
    training.zoo.find_device(device)
    deadline = time.monotonic() + 60 * minutes
    plan = turns(below_goals(), minutes)
    trained = [name for name, share in plan.items() if take_turn(name, share, deadline, device)]
    if not plan:
        print("nothing is below its goals")
    else:
        print(f"trained: {', '.join(trained)}; `frugal evaluate --marks` measures them" if trained else "all weights are what they were")
    return trained


def take_turn(name: str, minutes: float, deadline: float, device: str) -> bool:
    """Train a network for its minutes, or what is left of them; whether its weights are new ones."""
    print(f"{name}: {minutes:.1f} min, {standing(name)}", flush=True)
    parts, before, begun, plain = cycles(name, minutes), set_aside(name), False, None
    for k, (guidance, part) in enumerate(parts):
        later = sum(other for _, other in parts[k + 1 :])
        left = (deadline - time.monotonic()) / 60 - STARTING - later
        if left <= 0:
            print(f"{name}: no time is left for {'its last cycle' if begun else 'it'}", flush=True)
            break
        plain = RECIPES[name].load() if guidance else None
        options = {"resume": True, "guidance": guidance, "compiled": pays_to_compile(name, part, device)}
        training.train(name, minutes=min(part, left), device=device, **options)
        begun = True
    return begun and (before is None or stays(name, before, plain, device))


def set_aside(name: str) -> Path | None:
    """Copy a network's folder to below the one that is returned; None where it has no weights yet.

    Where its guided cycle was cut off, the copy from before that turn is still the one to compare with.
    """
    if not has_weights(name):
        return None
    aside = paths.training() / "before"
    if not ((aside / name).exists() and unfinished_guidance(name)):
        shutil.rmtree(aside / name, ignore_errors=True)
        shutil.copytree(paths.EMBEDDED / name, aside / name)
    return aside


def stays(name: str, before: Path, plain: torch.nn.Module | None, device: str) -> bool:
    """Whether a network is better after its turn than below `before`, on held-out faces; else its folder is put back as it was.

    `plain`: the network as it was before its guided cycle, if it had one.
    """
    if "guidance" in _card(name, before) and "guidance" not in cards.read(name):
        better, told = False, "its guided cycle is missing"
    else:
        old, new = (held_out_loss(name, root, plain, device) for root in (before, paths.EMBEDDED))
        better, told = new < old, f"loss on {HELD_OUT} held-out faces {old:.5g} before, {new:.5g} after"
    if better:
        shutil.rmtree(before / name)
    else:
        shutil.rmtree(paths.EMBEDDED / name)
        shutil.move(before / name, paths.EMBEDDED / name)
    print(f"{name}: {told}{'' if better else '; no better, so its weights are those before'}", flush=True)
    return better


def _card(name: str, root: Path) -> dict:
    return json.loads((root / name / "card.json").read_text())


@torch.no_grad()
def held_out_loss(name: str, root: Path, plain: torch.nn.Module | None, device: str) -> float:
    """The recipe's loss of the weights below `root` on validation faces: the same faces, times and noise in every call.

    Of what learned a guided prediction, the loss with the guidance taken back, see `guidance.unguided`.
    """
    recipe, place, scale = RECIPES[name], training.zoo.find_device(device), _card(name, root).get("guidance")
    network = recipe.load(root).requires_grad_(False).to(place).eval()
    network = unguided(network, plain.to(place), scale) if scale else network
    parameters, losses = Faces("validation").parameters(range(HELD_OUT)), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for first in range(0, HELD_OUT, PART):
            part = {key: value[first : first + PART].to(place) for key, value in parameters.items()}
            losses.append(recipe.loss(network, part, 2 * draw_batch(part, SIZE) - 1).item())
    return sum(losses) / len(losses)


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
    if unfinished := unfinished_guidance(name):
        return [(unfinished, minutes)]  # that cycle was cut off: it ends first
    last = (scale, GUIDED_SHARE * minutes)
    return [(None, minutes - last[1]), last]


def unfinished_guidance(name: str) -> float | None:
    """The scale of a guided cycle that was cut off; None where none was."""
    progress = paths.training() / name / "progress.json"
    return json.loads(progress.read_text())["card"].get("guidance") if progress.exists() else None


def pays_to_compile(name: str, minutes: float, device: str) -> bool:
    """Whether torch.compile, which takes minutes on a CPU, is likely to win that time back; a GPU's steps are captured instead."""
    on_cpu = training.zoo.find_device(device).type == "cpu"
    return name in SCHEDULES and on_cpu and minutes >= WORTH_COMPILING and any(map(shutil.which, ("g++", "clang++")))
