"""What would NVIDIA's exporter say of the GPUs of an emulated engine: power, clock, Xid errors?

An exporter sees GPUs whatever the engine says of itself: one that hangs draws little, one that is slow has a low clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from policies.engine_profile import EngineProfile
from simulations.live.engine_metrics import gauges
from simulations.live.timed_engine import TimedEngine

POWER_LIMIT_W, MAX_CLOCK_MHZ = 700.0, 1980.0
IDLE_RATIO, BUSY_RATIO = 0.12, 0.75
"""Of the power limit: with nothing to do (or waiting for what never comes), and with a full batch."""


class EmulatedGpus:
    """The GPUs of one engine; all alike.

    Attributes:
        xid: The last Xid error, 0 for none.
    """

    def __init__(self, replica: str, profile: EngineProfile) -> None:
        self.xid = 0
        self._labels = [
            {"gpu": str(number), "UUID": f"GPU-{replica}-{number}", "modelName": profile.gpu}
            for number in range(profile.gpus)
        ]

    def families(self, engine: TimedEngine) -> Iterator[Metric]:
        """Yield all metrics as they stand."""
        works = engine.requests > 0 and not engine.hung
        power = POWER_LIMIT_W * (IDLE_RATIO + (BUSY_RATIO - IDLE_RATIO) * works / engine.slowdown)
        for name, text, value in (
            ("SM_CLOCK", "SM clock frequency (in MHz).", MAX_CLOCK_MHZ / engine.slowdown),
            ("MAX_SM_CLOCK", "Maximum supported SM clock (in MHz).", MAX_CLOCK_MHZ),
            ("POWER_USAGE", "Power draw (in W).", power),
            ("ENFORCED_POWER_LIMIT", "Enforced power limit (in W).", POWER_LIMIT_W),
            ("XID_ERRORS", "Value of the last XID error encountered.", float(self.xid)),
        ):
            yield gauges(f"DCGM_FI_DEV_{name}", text, [(labels, value) for labels in self._labels])
