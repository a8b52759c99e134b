"""How few GPU hours would do for someone who knows every arrival, but waits as long for a replica as everybody?

The plan is made before the run, from the trace itself. With ``need(s)`` replicas needed at instant ``s``, the plan asks
at ``t`` for the largest need between ``t`` and ``t + lead time + tick``:

* a replica needed at ``s`` is asked for early enough to be READY then;
* a replica that falls idle is kept exactly when it is needed again within the lead time. Starting one anew would burn
  its GPUs for a whole lead time before it serves, so keeping it over a shorter gap is cheaper, and giving it up for a
  longer gap is cheaper. This holds for each replica on its own, so the plan as a whole is the cheapest one.

It knows the load, not the future of single requests: capacity is the load-tested one that every policy is given, and
the need follows the load smoothed over ``ClairvoyantSettings.smoothing_s``. So it is the lower bound on GPU hours *of
policies that size by this capacity model*; a policy that runs replicas beyond their tested capacity may use less and
pay with attainment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from forecasting.forecast import LoadForecast
from forecasting.series import FloatArray
from policies.decisions import Decision
from policies.fleet import FleetState, PoolKey
from policies.memory import PolicyMemory
from simulations.peers.answer import decision_of


class ClairvoyantSettings(BaseModel):
    """What the one who knows the load still has to assume."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    smoothing_s: float = Field(
        60.0,
        gt=0,
        description="Window over which the known load is averaged, in seconds. Requests live for tens of seconds, so "
        "shorter peaks even out in the batch.",
    )
    utilisation_ratio: float = Field(
        0.9,
        gt=0,
        le=1.5,
        description="Share of the load-tested capacity that is planned with. The test holds concurrency constant, "
        "arrivals come in bursts within the window above: a recorded hour of chat on some 25 replicas met an objective "
        "of 99 % to 97.4 % with all of the capacity, and to 99.0 % with 0.9 of it.",
    )
    lead_time_ratio: float = Field(
        1.15, ge=1, description="Planned lead time over the configured mean: starts vary, and a late replica is a miss."
    )


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Replicas to ask for, as steps: ``counts[i]`` from ``at[i]`` on. Before the first step, ``counts[0]``."""

    at: tuple[float, ...]
    counts: tuple[int, ...]

    def count(self, at: float) -> int:
        """Return the replicas to ask for at that instant."""
        return self.counts[max(0, bisect_right(self.at, at) - 1)]


def plan_ahead(need: FloatArray, start_at: float, step_s: float, look_ahead_s: float) -> ReplicaPlan:
    """Return the cheapest plan that has ``need`` replicas READY in time.

    Args:
        need: ``float64[T]``, replicas needed in each step, not rounded.
        start_at: Instant at which the first step begins.
        step_s: Length of a step, in seconds.
        look_ahead_s: Lead time plus the time between decisions, in seconds.

    >>> plan_ahead(np.array([1.0, 1.0, 1.0, 2.4, 1.0, 1.0]), 0.0, 60.0, 90.0)
    ReplicaPlan(at=(0.0, 60.0, 240.0), counts=(1, 3, 1))
    """
    whole = np.ceil(need - 1e-6).astype(int)
    ahead = int(np.ceil(look_ahead_s / step_s))
    windows = [int(whole[i : i + ahead + 1].max()) for i in range(len(whole))]
    changes = [i for i in range(len(windows)) if i == 0 or windows[i] != windows[i - 1]]
    return ReplicaPlan(tuple(start_at + i * step_s for i in changes), tuple(windows[i] for i in changes))


@dataclass(frozen=True, slots=True)
class Clairvoyant:
    """Replays a plan per pool."""

    plans: Mapping[PoolKey, ReplicaPlan]
    name: str = "clairvoyant"

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what the plan says for now."""
        return decision_of(fleet, memory, {key: plan.count(fleet.at) for key, plan in self.plans.items()})
