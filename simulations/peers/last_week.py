"""What would an HPA do that also looks at the same time last week?

Grafana Mimir ships this for its queriers (``autoscaling_querier_predictive_scaling_*`` in
``operations/mimir/autoscaling.libsonnet`` of Mimir 2.15): beside the ordinary metric a second one asks for what would
have been enough a week ago, as the maximum between 6 d 23 h 30 min and 7 d ago, so that half an hour before last week's
peak there are replicas for it. The larger answer counts; the rest is the HPA of ``hpa.py``.

The first metric is requests per replica as for ``hpa``. The second is last week's load in requests/s, in means of a
minute, over a share of what a replica sustained in its load test. It comes from the metrics store, so that what was
recorded before the run counts; while nothing is a week old it says 0, as KEDA does for an empty answer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from forecasting.forecast import LoadForecast
from forecasting.series import REQUESTS, LoadSeries
from policies.decisions import Decision
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.hpa import HpaSettings, autoscaled, recommended, shared_out
from simulations.peers.signals import share_of

_STEP_S = 60.0


class LastWeekSettings(HpaSettings):
    """An HPA with a second metric."""

    period_s: float = Field(604800.0, ge=3600, le=31 * 86400, description="How long ago it looks, in seconds: a week.")
    ahead_s: float = Field(
        1800.0,
        gt=0,
        le=86400,
        description="Seconds from then on that count now; the lead time and some. Mimir's half an hour.",
    )


class RecordedRates:
    """Requests/s of one model in means of a minute, as far back as is asked for."""

    __slots__ = ("_kept_s", "_minutes")

    def __init__(self, kept_s: float, before: LoadSeries | None = None) -> None:
        self._kept_s = kept_s
        self._minutes: OrderedDict[int, tuple[float, int]] = OrderedDict()
        for step, rate in enumerate([] if before is None else before.values[:, REQUESTS].tolist()):
            if before is not None and not math.isnan(rate):
                self.add(before.start_at + step * before.step_s, rate)

    def add(self, at: float, requests_per_s: float) -> None:
        """Take the rate seen at ``at``, and let go of what is too old."""
        minute = int(at // _STEP_S)
        summed, count = self._minutes.get(minute, (0.0, 0))
        self._minutes[minute] = (summed + requests_per_s, count + 1)
        oldest = minute - int(self._kept_s // _STEP_S)
        while next(iter(self._minutes)) < oldest:  # several where the last look was longer than a minute ago
            self._minutes.popitem(last=False)

    def most(self, from_at: float, until_at: float) -> float:
        """Return the largest mean of a minute that begins in that time; 0 when nothing is recorded of it."""
        minutes = range(int(from_at // _STEP_S), int(until_at // _STEP_S) + 1)
        means = [
            summed / count for minute in minutes if (seen := self._minutes.get(minute)) for summed, count in [seen]
        ]
        return max(means, default=0.0)


@dataclass(slots=True)
class LastWeek:
    """One object with two metrics per pool.

    Attributes:
        pools: Bounds per pool, by key text.
        targets: Requests per replica to aim at, by the same keys.
        targets_per_s: Requests/s per replica to aim at.
        before: Load recorded before the run, of the one model there is.
    """

    pools: Mapping[str, PoolSettings]
    targets: Mapping[str, float]
    targets_per_s: Mapping[str, float]
    settings: LastWeekSettings
    before: LoadSeries | None = None
    name: str = "last-week"
    _recorded: dict[str, RecordedRates] = field(default_factory=dict)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's object asks for."""
        expected = {model: self._a_week_ago(fleet, model) for model in fleet.models}

        def answers(pool: PoolState) -> list[int | None]:
            name, tolerance = str(pool.key), self.settings.tolerance_ratio
            then = expected[pool.key.model] * share_of(fleet, pool)
            by_week = shared_out(then, self.targets_per_s[name], pool.desired, tolerance)
            return [recommended(pool, self.targets[name], tolerance), by_week]

        return autoscaled(fleet, memory, self.pools, answers, self.settings)

    def _a_week_ago(self, fleet: FleetState, model: str) -> float:
        """Note the load of now, and return the most that came from a week ago until ``ahead_s`` later."""
        settings = self.settings
        if model not in self._recorded:
            self._recorded[model] = RecordedRates(settings.period_s, self.before)
        recorded = self._recorded[model]
        demand = fleet.demand.get(model)
        if demand is not None:
            recorded.add(fleet.at, demand.requests_per_s)
        then_at = fleet.at - settings.period_s
        return recorded.most(then_at, then_at + settings.ahead_s)
