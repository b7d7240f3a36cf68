"""The processor's name, as cards and records give it."""

import functools
import platform
import re
from pathlib import Path


@functools.cache
def cpu_name() -> str:
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def joules(kind: str) -> float | None:
    """The counter of the energy used so far by the processor ("cpu") or the first GPU ("cuda"); None where none is reported.

    Of a CPU Linux's RAPL counters of all packages, which only the administrator may read and which virtual machines lack;
    of a GPU the driver's, where NVIDIA's `pynvml` is installed.
    """
    if kind == "cpu":
        try:
            counters = [float(file.read_text()) for file in Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj")]
        except OSError:
            return None
        return sum(counters) / 1e6 if counters else None
    if kind == "cuda":
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1e3
        except pynvml.NVMLError:
            return None
    return None
