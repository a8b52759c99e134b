"""How much memory has this process, and how much has it had at most?"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def rss_mb() -> float:
    """Return the resident memory that this program has now, in MiB; its peak where there is no ``/proc``."""
    return _told("VmRSS:") or peak_rss_mb()


def peak_rss_mb() -> float:
    """Return the most resident memory that this program has had so far, in MiB.

    Linux tells it per address space (``VmHWM`` in proc(5)). What getrusage(2) tells is kept across exec and so may be
    that of the program which started this one; it is the answer where there is no ``/proc``, in bytes on macOS.
    """
    if told := _told("VmHWM:"):
        return told
    units_per_mb = 1024.0**2 if sys.platform == "darwin" else 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_mb


def _told(name: str) -> float:
    """Return what the system says of this program, in MiB; 0 where it does not."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024.0
    return 0.0
