"""Peak memory of a function: PyTorch's own count on CUDA, a fresh process's resident set elsewhere."""

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
    process that has imported the function's module and run `prepare`, so only `.extra` compares. There both must be
    importable by name and the arguments JSON; the peak is the kernel's VmHWM, set back beforehand where it allows
    that, else ru_maxrss, which reads too low where `prepare` peaked higher. Raises ValueError for a function that
    cannot be imported and RuntimeError if the process fails.
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
    request = json.dumps([*names, arguments, torch.get_num_threads()])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-c", "from frugal.measure.memory import _measured; _measured()"]
    done = subprocess.run(command, check=False, input=request, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message: killed, perhaps for want of memory"])[-1]
        raise RuntimeError(f"peak_memory: the process of {names[0]} ended with {done.returncode}: {last}")
    return Memory(*json.loads(done.stdout.splitlines()[-1]))


def _measured() -> None:
    """The fresh process's side of `peak_memory`: a request on standard input, its last line of output the answer."""
    *names, arguments, threads = json.load(sys.stdin)
    torch.set_num_threads(threads)
    run, prepare = (n and attrgetter(n.split(":")[1])(importlib.import_module(n.split(":")[0])) for n in names)
    state = (prepare(*arguments),) if prepare else arguments
    loaded = _resident(reset=True)
    run(*state)
    print(json.dumps([loaded, max(loaded, _resident())]), flush=True)


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
