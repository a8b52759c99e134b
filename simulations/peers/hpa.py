"""What would the Kubernetes Horizontal Pod Autoscaler do, on running and waiting requests per replica?

A ``Pods`` metric with an ``AverageValue`` target, ``autoscaling/v2`` with the behaviour that it defaults to. Follows
``pkg/controller/podautoscaler`` of Kubernetes 1.34: ``replica_calculator.go`` (``calcPlainMetricReplicas``,
``groupPods``) for the count, ``horizontal.go`` (``recordInitialRecommendation``,
``stabilizeRecommendationWithBehaviors``, ``convertDesiredReplicasWithBehaviorRate``,
``calculateScaleUpLimitWithScalingRules``, ``calculateScaleDownLimitWithBehaviors``) for what is made of it. The
second half also serves the rivals that end in an HPA object: KEDA, WVA, PHPA and the seasonal metric.

How a replica appears to it: PENDING is an unready pod; LOADING and FAILED are running pods whose container gives no
metrics; DRAINING is a pod that is being deleted. The original counts in thousandths; this counts in floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from pydantic import Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision, Reason
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory, PoolMemory
from policies.placement import PoolSettings
from simulations.peers.answer import decision_of
from simulations.peers.rhythm import Rhythm


class Behaviour(Rhythm):
    """``spec.behavior`` of an autoscaling/v2 object and the controller's flags, at the defaults they ship with.

    Of several limits of one direction the one that allows most counts (``selectPolicy: Max``).
    """

    tick_s: float = Field(15.0, ge=1, le=3600, description="Seconds between two syncs, the controller's default.")
    tolerance_ratio: float = Field(
        0.1, ge=0, lt=1, description="Deviation from the target that is ignored; the controller's flag of that name."
    )
    up_ratio: float = Field(
        1.0, ge=0, description="Growth allowed per period, as a share: scaleUp Percent 100; 0 is no such limit."
    )
    up_replicas: int = Field(4, ge=0, description="Growth allowed per period, in replicas, if more: scaleUp Pods 4.")
    up_period_s: float = Field(15.0, gt=0, description="Period of the growth limits, in seconds.")
    up_window_s: float = Field(0.0, ge=0, le=3600, description="Scale-up stabilization window, in seconds.")
    down_ratio: float = Field(
        1.0, ge=0, le=1, description="Shrinking allowed per period: scaleDown Percent 100; 0 is no such limit."
    )
    down_replicas: int = Field(0, ge=0, description="Shrinking allowed per period, in replicas, if more.")
    down_period_s: float = Field(15.0, gt=0, description="Period of the shrinking limits, in seconds.")
    down_window_s: float = Field(300.0, ge=0, le=3600, description="Scale-down stabilization window, in seconds.")


class HpaSettings(Behaviour):
    """What an operator writes into the object beside the behaviour."""

    target_ratio: float = Field(
        0.7,
        gt=0,
        le=2,
        description="Target for requests per replica, as a share of those that one replica held in its load test.",
    )


@dataclass(frozen=True, slots=True)
class Hpa:
    """One autoscaler object per pool, which sees what Prometheus last scraped of each replica.

    Attributes:
        pools: Bounds per pool, by key text. A pool that is not listed has no autoscaler.
        targets: Requests per replica to aim at, by the same keys.
    """

    pools: Mapping[str, PoolSettings]
    targets: Mapping[str, float]
    settings: HpaSettings
    name: str = "hpa"

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's autoscaler asks for."""

        def answers(pool: PoolState) -> list[int | None]:
            return [recommended(pool, self.targets[str(pool.key)], self.settings.tolerance_ratio)]

        return autoscaled(fleet, memory, self.pools, answers, self.settings)


def autoscaled(
    fleet: FleetState,
    memory: PolicyMemory,
    pools: Mapping[str, PoolSettings],
    answers: Callable[[PoolState], Sequence[int | None]],
    settings: Behaviour,
) -> Decision:
    """Return what one object per pool asks for, whose metrics answer as ``answers`` says.

    Args:
        fleet: What was looked at.
        memory: What was remembered.
        pools: Bounds per pool, by key text.
        answers: Returns the count that each metric asks for; None where a metric cannot be read.
        settings: How fast the count may follow.
    """
    desired, remembered, reasons = {}, dict(memory.pools), []
    for pool in fleet.pools:
        name = str(pool.key)
        if name in pools:
            known = remembered.get(name, PoolMemory())
            count, remembered[name], why = _reconciled(pool, pools[name], known, fleet.at, answers, settings)
            desired[pool.key] = count
            reasons += why
    return decision_of(fleet, memory, desired, tuple(reasons), remembered)


def _reconciled(
    pool: PoolState,
    bounds: PoolSettings,
    memory: PoolMemory,
    at: float,
    answers: Callable[[PoolState], Sequence[int | None]],
    settings: Behaviour,
) -> tuple[int, PoolMemory, list[Reason]]:
    """Return the count for one pool, what to remember, and why."""
    name = str(pool.key)
    if not memory.targets:  # what ran before the first look counts as a recommendation
        memory = replace(memory, targets=((at, pool.desired),), desired=((at, pool.desired),))
    if pool.desired == 0:
        return 0, memory, []  # zero means switched off
    if not bounds.min_replicas <= pool.desired <= bounds.max_replicas:
        wanted = min(max(pool.desired, bounds.min_replicas), bounds.max_replicas)
        return wanted, _remembered(memory, wanted, at, settings), []
    answer = of_several(answers(pool), pool.desired)
    if answer is None:
        return pool.desired, memory, [Reason("no metrics", name, pool.desired, pool.desired, "nothing to go by")]
    stable, memory = stabilized(answer, pool.desired, memory, at, settings)
    limited = rate_limited(stable, pool.desired, memory.desired, at, settings)
    limited = min(max(limited, bounds.min_replicas, 1), bounds.max_replicas)  # zero is for whoever feeds it
    reasons = [] if answer == limited else [Reason("behavior", name, answer, limited, f"stabilized {stable}")]
    return limited, _remembered(memory, limited, at, settings), reasons


def of_several(answers: Sequence[int | None], current: int) -> int | None:
    """Return the largest of the counts that single metrics ask for.

    None when none can be read, and when one cannot be read while the others would shrink: it might forbid it.
    """
    known = [answer for answer in answers if answer is not None]
    if not known or (len(known) < len(answers) and max(known) < current):
        return None
    return max(known)


def shared_out(total: float, target: float, current: int, tolerance_ratio: float) -> int:
    """Return the count at which each replica's part of ``total`` is ``target``: an ``External`` metric's AverageValue.

    16 waiting requests at a target of 5 per replica want ceil(3.2) = 4 replicas; 3 have a ratio of 16 / 15 = 1.07,
    within tolerance, and will do.
    """
    if abs(total / (target * max(1, current)) - 1.0) <= tolerance_ratio:
        return current
    return math.ceil(total / target)


def recommended(pool: PoolState, target: float, tolerance_ratio: float) -> int | None:
    """Return the count that brings requests per replica to ``target``; None when no replica gave metrics.

    Three replicas with 10, 20 and 30 requests at a target of 12: ratio 20 / 12 = 1.67, ceil(1.67 * 3) = 5 replicas.
    With two more that are still loading the ratio is 60 / 5 / 12 = 1.0, within tolerance: they will do.
    """
    roster = pool.roster
    requests = pool.told.of("running_requests") + pool.told.of("queued_requests")
    seen: list[float] = requests[roster.staying & ~np.isnan(requests)].tolist()
    unready = roster.pending_count
    missing = len(roster) - roster.draining_count - len(seen) - unready
    if not seen:
        return None
    ratio = sum(seen) / len(seen) / target
    counted = list(seen)
    if ratio < 1.0:  # shrinking: who says nothing is taken to be exactly at the target
        counted += [target] * missing
    elif ratio > 1.0:  # growing: who says nothing or is not ready is taken to be idle
        counted += [0.0] * (missing + unready)
    careful = sum(counted) / len(counted) / target
    flipped = (ratio < 1.0 < careful) or (careful < 1.0 < ratio)
    if abs(1.0 - careful) <= tolerance_ratio or flipped:
        return pool.desired
    count = math.ceil(careful * len(counted))
    turned = (careful < 1.0 and count > pool.desired) or (careful > 1.0 and count < pool.desired)
    return pool.desired if turned and len(counted) != len(seen) else count


def stabilized(wanted: int, current: int, memory: PoolMemory, at: float, settings: Behaviour) -> tuple[int, PoolMemory]:
    """Return the count between the lowest recommendation of the up window and the highest of the down window.

    The recommendation itself, not what is made of it, is remembered.
    """
    lowest = min([wanted, *(n for t, n in memory.targets if t > at - settings.up_window_s)])
    highest = max([wanted, *(n for t, n in memory.targets if t > at - settings.down_window_s)])
    window_s = max(settings.up_window_s, settings.down_window_s)
    kept = tuple((t, n) for t, n in memory.targets if t > at - window_s)
    return min(max(current, lowest), highest), replace(memory, targets=(*kept, (at, wanted)))


def rate_limited(
    wanted: int, current: int, changes: Sequence[tuple[float, int]], at: float, settings: Behaviour
) -> int:
    """Return ``wanted`` within what may be added or taken away, counted from the replicas at the period's start."""
    if wanted > current:
        began = _count_before(changes, current, at - settings.up_period_s)
        most = max(math.ceil(began * (1.0 + settings.up_ratio)), began + settings.up_replicas)
        return min(wanted, max(most, current))
    if wanted < current:
        began = _count_before(changes, current, at - settings.down_period_s)
        least = min(int(began * (1.0 - settings.down_ratio)), began - settings.down_replicas)
        return max(wanted, min(max(0, least), current))
    return wanted


def _count_before(changes: Sequence[tuple[float, int]], current: int, cutoff_at: float) -> int:
    """Return the current count less what was added and plus what was taken away after ``cutoff_at``."""
    moved = sum(after - before for (_, before), (at, after) in pairwise(changes) if at > cutoff_at)
    return current - moved


def _remembered(memory: PoolMemory, count: int, at: float, settings: Behaviour) -> PoolMemory:
    """Return ``memory`` with the count decided now, one entry per change of the last period and the one before."""
    period_s = max(settings.up_period_s, settings.down_period_s)
    older = [entry for entry in memory.desired if entry[0] <= at - period_s][-1:]
    kept = [*older, *(entry for entry in memory.desired if entry[0] > at - period_s)]
    if not kept or kept[-1][1] != count:
        kept.append((at, count))
    return replace(memory, desired=tuple(kept))
