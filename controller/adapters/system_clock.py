"""What time is it really: the one file that reads the machine's clocks."""

from __future__ import annotations

import time

# Where there is none, the monotonic clock counts a sleeping machine's time too.
_LASTING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """Wall clock and stopwatch of this machine."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC; may step when the machine's clock is set."""
        return time.time()

    def elapsed(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        return time.perf_counter()

    def lasting(self) -> float:
        """Seconds from an arbitrary start; never goes back, and goes on while the machine sleeps."""
        return time.clock_gettime(_LASTING)
