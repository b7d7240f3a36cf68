"""Peak memory of a function: PyTorch's own count on CUDA, a fresh process's resident set elsewhere.

Importing PyTorch takes seconds, so one process beside this one does it once and gives every measurement a fork of its own.
"""

import contextlib
import gc
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter

import torch


@dataclass(frozen=True)
class Memory:
    """Bytes in use before a run, and at its peak."""

    loaded: int
    peak: int

    @property
    def extra(self) -> int:
        """What the run itself needed."""
        return self.peak - self.loaded


def peak_memory(function: Callable, *arguments, prepare: Callable | None = None, device="cpu") -> Memory:
    """Bytes before and at the peak of `function(*arguments)`, or of `function(prepare(*arguments))` after `prepare`.

    CUDA: what PyTorch has allocated (max_memory_allocated), in this process. Elsewhere: the resident set of a fresh
    fork of a process that has imported the function's module, after `prepare`, so only `.extra` compares. There both
    must be importable by name and the arguments JSON; the peak is the kernel's VmHWM, set back beforehand where it
    allows that, else ru_maxrss, which reads too low where `prepare` peaked higher. Raises ValueError for a function
    that cannot be imported and RuntimeError if the process fails.
    """
    if torch.device(device).type == "cuda":
        state = (prepare(*arguments),) if prepare else arguments
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        loaded = torch.cuda.memory_allocated(device)
        function(*state)
        torch.cuda.synchronize(device)
        return Memory(loaded, torch.cuda.max_memory_allocated(device))
    names = [f"{f.__module__}:{f.__qualname__}" if f else None for f in (function, prepare)]
    if any(name and ("<" in name or name.startswith("__main__:")) for name in names):
        raise ValueError(f"function: got {names}; functions at the top of an importable module are allowed")
    request = {"names": names, "arguments": arguments, "threads": torch.get_num_threads()}
    request |= {"path": sys.path, "folder": os.getcwd(), "environment": dict(os.environ)}
    found = _ask(json.dumps(request))
    if not isinstance(found, list):
        raise RuntimeError(f"peak_memory: the process of {names[0]} ended: {found}")
    return Memory(*found)


def _ask(request: str) -> list[int] | str:
    """[loaded, peak] by the process beside this one, or what went wrong there."""
    server, answer = _server(), ""
    try:
        with contextlib.suppress(BrokenPipeError):
            print(request, file=server.stdin, flush=True)
        answer = server.stdout.readline()
    finally:
        if not answer:  # it is dead, or this wait was interrupted and the answer would be taken for the next one's
            server.kill()
            _server.cache_clear()
    return json.loads(answer or "0") or "killed, perhaps for want of memory"


@cache
def _server() -> subprocess.Popen:
    """The process that is forked, started when first asked for; it ends with this one, which holds its standard input."""
    command = [sys.executable, "-c", "from frugal.measure.memory import _serve; _serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def _serve() -> None:
    """The other side of `peak_memory`: a line of JSON for each on standard input, [loaded, peak] or what went wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a measured function prints is no answer
    for line in sys.stdin:
        request = json.loads(line)
        sys.path[:] = request["path"]
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        with contextlib.suppress(Exception):  # imported here for all forks to come; a fork says what failed
            list(map(_named, request["names"]))
        reading, writing = os.pipe()
        if not (child := os.fork()):
            with os.fdopen(writing, "w") as pipe:
                json.dump(_measured(request), pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            print(pipe.read() or "0", file=answers, flush=True)
        os.waitpid(child, 0)


def _measured(request: dict) -> list[int] | str:
    torch.set_num_threads(request["threads"])
    try:
        run, prepare = map(_named, request["names"])
        state = (prepare(*request["arguments"]),) if prepare else request["arguments"]
        loaded = _resident(reset=True)
        run(*state)
        return [loaded, max(loaded, _resident())]
    except Exception as error:  # noqa: BLE001  whatever it is, the asking process raises it
        return f"{type(error).__name__}: {error}"


def _named(name: str | None) -> Callable | None:
    """The function "module:name"."""
    return name and attrgetter(name.partition(":")[2])(importlib.import_module(name.partition(":")[0]))


def _resident(reset: bool = False) -> int:
    """This process's highest resident set in bytes; `reset` gives the present one and starts the highest from it."""
    if reset:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).malloc_trim(0)  # what preparing has freed would else hide as much of the run
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as control:
            control.write("5")
    try:
        with open("/proc/self/status") as status:
            return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read())[1])
    except (OSError, TypeError):
        import resource

        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else 1024 * highest
