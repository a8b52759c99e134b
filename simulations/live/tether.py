"""How does a child die with its parent? It asks the kernel to, then becomes its command: ``tether.py PARENT COMMAND``.

A script of its own, run before the command in the child itself: nothing runs between fork and exec in a parent that has
threads. Linux only (prctl); elsewhere the command is run without the tether.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec, cleared by fork
_ORPHANED = 125


def main() -> None:
    """Become the command; leave at once when the parent is gone already."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(_ORPHANED)
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is the caller's, given word by word
    except OSError as error:
        sys.exit(f"{sys.argv[2]}: {error.strerror}")


if __name__ == "__main__":
    main()
