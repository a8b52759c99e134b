"""What does a fault do to a simulated fleet, and when does it end?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from simulations.clock import EventQueue
from simulations.faults import (
    ColdStarts,
    CounterReset,
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    KvShrink,
    MetricLoss,
    MetricsFreeze,
    MetricsLoss,
    NodeLoss,
    OutOfMemory,
    Partition,
    Poison,
    Reclaim,
    ReplicaTarget,
    Retries,
    Rollout,
    SlowDown,
    StartFailures,
    StockOut,
    XidError,
)
from simulations.fleet_replica import FleetReplica
from simulations.metrics import SimulatedMetrics
from simulations.pool import SimulatedPool
from simulations.scheduling import Scheduler


class Strikes:
    """Lets faults happen to the parts of a fleet.

    Attributes:
        struck: Ids of the replicas that were hit, in order.
    """

    def __init__(
        self, pools: Sequence[SimulatedPool], scheduler: Scheduler, metrics: SimulatedMetrics, events: EventQueue
    ) -> None:
        self._pools, self._scheduler, self._metrics, self._events = pools, scheduler, metrics, events
        self.struck: list[str] = []

    def check(self, fault: Fault) -> None:
        """Make sure that the fault can happen.

        Raises:
            ValueError: If it names a pool that is not there, or a node that cannot be.
        """
        later = (XidError, OutOfMemory, KvShrink, Partition, MetricLoss, CounterReset, Retries, ColdStarts, Poison)
        if type(fault) in later:
            raise ValueError(f"{type(fault).__name__} cannot happen here yet")
        target = getattr(fault, "target", None)
        names = [pool.spec.key.pool for pool in self._pools]
        if target is not None and target.pool and target.pool not in names:
            raise ValueError(f"no pool {target.pool!r}; there are {', '.join(names)}")
        if isinstance(fault, Reclaim) and fault.node and not self._scheduler.could_be(fault.node):
            known = ", ".join(f"{name}-node-0" for name in self._scheduler.group_names)
            raise ValueError(f"no node can be called {fault.node!r}; nodes are called {known} and so on")

    def strike(self, fault: Fault, at: float) -> None:
        """Let the fault happen now."""
        match fault:
            case Rollout():
                self._pool(fault.target).roll_out(fault.revision, fault.behaviour, at)
            case StartFailures():
                for pool in self._named_or_all(fault.target):
                    failing_until = pool.starts.failing_until
                    failing_until[fault.reason] = max(failing_until[fault.reason], at + fault.duration_s)
            case StockOut():
                for pool in self._named_or_all(fault.target):
                    self._scheduler.stock_out(pool.index, at + fault.duration_s)
            case Reclaim() if fault.node:
                self._scheduler.reclaim(fault.node, fault.notice_s, at)
            case MetricsFreeze() | MetricsLoss(target=None):
                self._strike_metrics(fault, at)
            case Crash() | Hang() | SlowDown() | Errors() | NodeLoss() | Reclaim() | MetricsLoss() | ExporterFreeze():
                for replica in self._hit(fault.target or ReplicaTarget()):
                    self._strike_replica(fault, replica, at)

    def _strike_metrics(self, fault: MetricsFreeze | MetricsLoss, at: float) -> None:
        match fault:
            case MetricsFreeze():
                self._metrics.freeze(at + fault.duration_s)
            case MetricsLoss():
                self._metrics.lose(at + fault.duration_s)

    def _strike_replica(
        self,
        fault: Crash | Hang | SlowDown | Errors | NodeLoss | Reclaim | MetricsLoss | ExporterFreeze,
        replica: FleetReplica,
        at: float,
    ) -> None:
        match fault:
            case Crash():
                self._pools[replica.pool].crash(replica, at)
            case NodeLoss():
                self._scheduler.lose_node(replica.node, at, fault.grace_s)
            case Reclaim():
                self._scheduler.reclaim(replica.node, fault.notice_s, at)
            case Hang():
                replica.hang(shows_zero=fault.running_zero)
            case SlowDown():
                replica.slow_down(fault.factor)
                if math.isfinite(fault.duration_s):
                    self._events.plan(at + fault.duration_s, partial(_recover, replica, fault.factor))
            case Errors():
                replica.fail_requests(fault.share, at + fault.duration_s)
            case MetricsLoss():
                replica.lose_scrapes(at + fault.duration_s)
            case ExporterFreeze():
                replica.freeze_exporter(at + fault.duration_s)

    def _pool(self, target: ReplicaTarget) -> SimulatedPool:
        """Return the pool that is named, or else the first."""
        return next((pool for pool in self._pools if pool.spec.key.pool == target.pool), self._pools[0])

    def _named_or_all(self, target: ReplicaTarget) -> Sequence[SimulatedPool]:
        return [self._pool(target)] if target.pool else self._pools

    def _hit(self, target: ReplicaTarget) -> list[FleetReplica]:
        """Return the replicas at the target's position among the READY ones; none when none is READY."""
        ready = self._pool(target).ready()
        hit = ready if target.replica is None or not ready else [ready[target.replica % len(ready)]]
        self.struck += [replica.id for replica in hit]
        return hit


def _recover(replica: FleetReplica, factor: float, _at: float) -> None:
    replica.recover_from(factor)
