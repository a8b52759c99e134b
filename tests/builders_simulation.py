"""What tests of the simulator share: a trace made of given rates, and quick settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from controller.ports import ActsRecord, TickRecord
from policies.engine_profile import EngineProfile
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from simulations.case import SimulationSettings, pool_name
from simulations.trace import RequestBatch

PROMPT_TOKENS, OUTPUT_TOKENS = 600, 60
SMALL = profile_named("llama-3.1-8b-l40s-tp1").model_copy(
    update={"name": "small", "kv_cache_tokens": 12_000, "max_running": 24}
)
"""An engine with few places, so that a few requests/s already need several replicas and runs are quick."""
POOL = pool_name(SMALL)


@dataclass(frozen=True)
class RateTrace:
    """Poisson arrivals at given rates, all requests alike: load tests of all such traces are one and the same."""

    rates: Sequence[float]
    step_s: float = 60.0
    seed: int = 0
    name: str = "rates"
    generated: bool = True
    begins_at: float = 0.0

    def describe(self) -> str:
        return f"{self.name}: {len(self.rates)} rates"

    def batches(self) -> Iterator[RequestBatch]:
        rng = np.random.default_rng(self.seed)
        for number, rate in enumerate(self.rates):
            count = int(rng.poisson(rate * self.step_s))
            arrival_s = np.sort(rng.uniform(0, self.step_s, count)) + number * self.step_s
            yield RequestBatch(
                arrival_s,
                np.full(count, PROMPT_TOKENS, dtype=np.int32),
                np.full(count, OUTPUT_TOKENS, dtype=np.int32),
            )


@dataclass
class ListAudit:
    """An audit log in a list."""

    records: list[TickRecord] = field(default_factory=list)

    def append(self, record: TickRecord) -> str:
        self.records.append(record)
        return str(len(self.records))

    def settle(self, outcome: ActsRecord) -> None:
        index = int(outcome.intent) - 1
        self.records[index] = replace(self.records[index], results=outcome.results, error=outcome.error)


def quick_settings(profile: EngineProfile = SMALL, least: int = 1, **changes: Any) -> SimulationSettings:
    """Return settings for one pool of ``profile``, ``least`` to 40 replicas."""
    pools = {pool_name(profile): PoolSettings(profile=profile, min_replicas=least, max_replicas=40)}
    return SimulationSettings(**{"pools": pools, **changes})
