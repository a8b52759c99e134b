"""How many threads may torch use while it fits and forecasts here? One."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block, if it has been imported at all.

    The nets are small: a second thread saves little on an idle machine and, waiting for its turn, makes a forecast
    thirty times slower on a busy one. Sums also come out alike on any number of cores.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
