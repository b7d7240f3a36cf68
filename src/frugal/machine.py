"""The processor's name, as cards and records give it."""

import ctypes
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
    of an NVIDIA GPU its driver's.
    """
    try:
        if kind == "cpu":
            counters = [float(file.read_text()) for file in Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj")]
            return sum(counters) / 1e6 if counters else None
        return _driver_joules() if kind == "cuda" else None
    except OSError:
        return None


def _driver_joules() -> float | None:
    """By NVML, of which the driver brings the library; OSError where there is none, None where the card does not count."""
    library, handle, used = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p(), ctypes.c_ulonglong()
    failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
    failed = failed or library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used))
    return None if failed else used.value / 1e3  # in millijoules
