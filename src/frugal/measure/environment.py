"""Where a measurement is made: device, threads, versions and commit, without the machine's name or its folders."""

import functools
import importlib.metadata
import os
import platform
import subprocess

from frugal import paths
from frugal.machine import cpu_name

LIBRARIES = ("torch", "diffusers", "transformers", "tomesd")


def environment(device="cpu") -> dict:
    """This machine without its name, "device" (a mapping, memory in bytes), "versions" (a mapping) and "commit"."""
    return {"device": _device(str(device)), "versions": versions(), "commit": commit()}


@functools.cache
def versions() -> dict[str, str | None]:
    """Versions of Python, the libraries and this package; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for key, distribution in {**{name: name for name in LIBRARIES}, "frugal": "frugal-diffusion"}.items():
        try:
            found[key] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[key] = None
    return found


@functools.cache
def commit() -> str | None:
    """The checkout's commit, with "+changes" where files differ from it; None without git, a checkout or a commit."""
    root = paths.root()

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "") if root else None
    except (OSError, subprocess.CalledProcessError):
        return None


def _device(device: str) -> dict:
    import torch

    kind, cores = torch.device(device).type, os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    machine = {"kind": kind, "name": cpu_name(), "cores": cores, "threads": torch.get_num_threads()}
    machine |= {"memory": _memory(), "system": f"{platform.system()} {platform.machine()}"}
    if kind == "cuda":
        machine |= {
            "name": torch.cuda.get_device_name(device),
            "memory": torch.cuda.get_device_properties(device).total_memory,
        }
        machine["host"] = cpu_name()  # Python's share of a step runs there
    return machine


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
