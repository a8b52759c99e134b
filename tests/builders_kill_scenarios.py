"""Scenarios in which every step of every shipped playbook, and of some that an operator might write, is reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.adapters.sql_audit import SqlAudit
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTimeSettings
from policies.placement import PoolSettings
from policies.settings import PolicySettings
from policies.stabilization import StabilizationSettings
from simulations.faults import (
    Fault,
    Hang,
    Partition,
    ReplicaTarget,
)
from tests.builders_fleet import a_batch, a_fleet, a_key, a_pool, a_profile, poisson
from tests.builders_kills import Life, Shore, Trouble

LONG_S = 4800.0
"""Seconds for which requests come."""

SEEN_S = 180.0
"""Within so many seconds what is wrong has been seen."""

GATEWAY_SILENT = ("in_flight", "answered", "failed_answers", "unreached")


@dataclass(frozen=True)
class Scenario:
    """One way through a playbook.

    ``healing`` and ``world`` are settings of healing and of the simulated fleet, ``pools`` the number of replicas of
    each pool.
    """

    name: str
    faults: tuple[Fault, ...]
    healing: Mapping[str, Any] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    pools: tuple[tuple[str, int], ...] = (("main", 6),)
    world: Mapping[str, Any] = field(default_factory=dict)
    pool: Mapping[str, Any] = field(default_factory=dict)
    lead_time: Mapping[str, Any] = field(default_factory=dict)

    def life(self, audit: SqlAudit) -> Life:
        """Return the scenario at its beginning."""
        specs = [a_pool(count, name, **{"lead_time_s": 45.0, **self.pool})
                 for name, count in self.pools]  # fmt: skip
        rate = 0.5 * sum(count for _, count in self.pools)
        batch = a_batch(poisson(rate, round(rate * LONG_S), seed=7), 200, 300)
        world = {"restart_backoff_s": 30.0, "request_timeout_s": 120.0, **self.world}
        fleet = a_fleet(specs, [batch], seed=5, **world)
        for fault in self.faults:
            fleet.inject(fault)
        return Life(Shore(fleet, self.troubles), self.settings, audit)

    @property
    def calm_s(self) -> float:
        """From when on nothing happens to it any more by itself, and what did has been seen."""
        ends = [fault.at_s + lasts_s for fault in self.faults
                if (lasts_s := getattr(fault, "duration_s", 0.0)) < math.inf]  # fmt: skip
        begins = [fault.at_s for fault in self.faults]
        return max(begins + ends + [trouble.until_s for trouble in self.troubles]) + SEEN_S

    @property
    def settings(self) -> PolicySettings:
        """How its controller decides."""
        healing = {"cooldown_s": 30.0, "page_quiet_s": 900.0, "good_after_s": 120.0, **self.healing}
        return PolicySettings(
            pools={
                str(a_key(name)): PoolSettings(profile=a_profile(), min_replicas=count, max_replicas=count + 2)
                for name, count in self.pools
            },
            healing=HealingSettings.model_validate(healing),
            lead_time=LeadTimeSettings(**{"default_s": 60.0, **self.lead_time}),
            stabilization=StabilizationSettings(down_window_s=60.0, unforecast_down_window_s=60.0),
        )


def treating(cause: str, playbook: str, **healing: Any) -> dict[str, Any]:
    return {"treatments": {cause: playbook}, **healing}


def _second(replica: int) -> ReplicaTarget:
    return ReplicaTarget("main", replica)


TWO = (("main", 4), ("spare", 4))
CUT_OFF = (Partition(300.0, ReplicaTarget("main", None), 300.0),)

SCENARIOS: Sequence[Scenario] = (
    Scenario("hang", (Hang(300.0),)),
    Scenario("hang that ends", (Hang(300.0, duration_s=120.0),)),
)
