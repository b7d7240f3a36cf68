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
