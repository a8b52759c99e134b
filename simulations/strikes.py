"""What does a fault do to a simulated fleet, and when does it end?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

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
from simulations.fleet_kernel import FleetKernel
from simulations.fleet_replica import FleetReplica
from simulations.metrics import SimulatedMetrics
from simulations.pool import SimulatedPool
from simulations.scheduling import Scheduler
from simulations.watches import MemoryWatch, PoisonWatch

_OfPool: TypeAlias = Rollout | StartFailures | StockOut | ColdStarts | OutOfMemory
_OfReplica: TypeAlias = (
    Crash | Hang | SlowDown | Errors | Partition | KvShrink | CounterReset | MetricsLoss | ExporterFreeze
)


class Strikes:
    """Lets faults happen to the parts of a fleet.

    Attributes:
        struck: Ids of the replicas that were hit, in order.
    """

    def __init__(
        self,
        pools: Sequence[SimulatedPool],
        scheduler: Scheduler,
        metrics: SimulatedMetrics,
        kernel: FleetKernel,
        events: EventQueue,
    ) -> None:
        self._pools, self._scheduler, self._metrics = pools, scheduler, metrics
        self._kernel, self._events = kernel, events
        self._poisons = 0
        self.struck: list[str] = []

    def check(self, fault: Fault) -> None:
        """Make sure that the fault can happen.

        Raises:
            ValueError: If it names a pool that is not there, or a node that cannot be.
        """
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
            case Rollout() | StartFailures() | StockOut() | ColdStarts() | OutOfMemory():
                self._strike_pool(fault, at)
            case Retries() | Poison():
                self._strike_clients(fault, at)
            case MetricsFreeze() | MetricLoss() | MetricsLoss(target=None):
                self._strike_metrics(fault, at)
            case Reclaim(node=node) if node:
                self._scheduler.reclaim(node, fault.notice_s, at)
            case NodeLoss() | Reclaim() | XidError():
                for replica in self._hit(fault.target):
                    self._strike_node(fault, replica, at)
            case _:
                target = fault.target or ReplicaTarget()
                for replica in self._hit(target):
                    self._strike_replica(fault, replica, at)
                if target.replica is None:
                    until = at + getattr(fault, "duration_s", math.inf)
                    meet = partial(self._strike_newcomer, fault, until)
                    self._pool(target).starts.met_when_ready.append((until, meet))

    def _strike_pool(self, fault: _OfPool, at: float) -> None:
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
            case ColdStarts():
                meet = partial(self._slow_down, fault.factor, 1.0, fault.lasting_s)
                self._pool(fault.target).starts.met_when_ready.append((at + fault.duration_s, meet))
            case OutOfMemory():
                MemoryWatch(self._pool(fault.target), fault.ratio, at + fault.duration_s, self._events).look(at)

    def _strike_clients(self, fault: Retries | Poison, at: float) -> None:
        match fault:
            case Retries():
                until_s = at + fault.duration_s - self._kernel.epoch_at
                self._kernel.let_clients_return(until_s, fault.times, fault.backoff_s)
            case Poison():
                self._poisons += 1
                PoisonWatch(
                    self._poisons, fault.prompt_tokens, fault.times, self._kernel, self._pools, self._events
                ).send(at)

    def _strike_metrics(self, fault: MetricsFreeze | MetricsLoss | MetricLoss, at: float) -> None:
        match fault:
            case MetricsFreeze():
                self._metrics.freeze(at + fault.duration_s)
            case MetricsLoss():
                self._metrics.lose(at + fault.duration_s)
            case MetricLoss():
                self._metrics.lose_metric(fault.metric, at, at + fault.duration_s)

    def _strike_node(self, fault: NodeLoss | Reclaim | XidError, replica: FleetReplica, at: float) -> None:
        match fault:
            case NodeLoss():
                self._scheduler.lose_node(replica.node, at, fault.grace_s)
            case Reclaim():
                self._scheduler.reclaim(replica.node, fault.notice_s, at)
            case XidError():
                node = self._scheduler.node_of(replica)
                node.xid = fault.code
                node.broken |= fault.exits
                for pool in self._pools:
                    for neighbour in pool.on(node.name):
                        neighbour.report_xid(fault.code)
                        if fault.exits:
                            pool.crash(neighbour, at)

    def _strike_replica(self, fault: _OfReplica, replica: FleetReplica, at: float) -> None:
        until = at + getattr(fault, "duration_s", math.inf)
        match fault:
            case Crash():
                self._pools[replica.pool].crash(replica, at)
            case Hang():
                replica.hang(shows_zero=fault.running_zero, until=until)
                self._end(until, partial(replica.go_on, replica.lives))
            case SlowDown():
                self._slow_down(fault.factor, fault.clock_ratio, fault.duration_s, replica, at)
            case Errors():
                replica.fail_requests(fault.share, until)
            case Partition():
                replica.be_unreachable(until)
            case KvShrink():
                replica.keep_kv_cache(fault.kept_ratio)
                self._end(until, replica.get_kv_cache_back)
            case CounterReset():
                replica.reset_counters()
            case MetricsLoss():
                replica.lose_scrapes(until)
            case ExporterFreeze():
                replica.freeze_exporter(until)

    def _strike_newcomer(self, fault: _OfReplica, until: float, replica: FleetReplica, at: float) -> None:
        """Let what lasts until some instant happen to a replica that becomes READY before it."""
        match fault:
            case Partition():
                replica.be_unreachable(until)
            case KvShrink():
                replica.keep_kv_cache(fault.kept_ratio)
                self._end(until, replica.get_kv_cache_back)

    def _slow_down(
        self, factor: float, clock_ratio: float, duration_s: float, replica: FleetReplica, at: float
    ) -> None:
        replica.slow_down(factor, clock_ratio)
        self._end(at + duration_s, lambda _: replica.recover_from(factor, clock_ratio))

    def _end(self, until: float, happening: Callable[[float], None]) -> None:
        if math.isfinite(until):
            self._events.plan(until, happening)

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
