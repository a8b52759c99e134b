"""What would a fleet have done: a trace of requests, served by simulated pools on a virtual clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from policies.fleet import Phase, PoolKey
from policies.slo import ServiceObjective
from simulations.clock import EventQueue, VirtualClock
from simulations.cluster import SimulatedCluster
from simulations.faults import (
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    MetricsFreeze,
    MetricsLoss,
    NodeLoss,
    Reclaim,
    ReplicaTarget,
    SlowDown,
    StockOut,
)
from simulations.fleet_replica import FleetReplica
from simulations.gateway import Gateway
from simulations.metrics import SimulatedMetrics
from simulations.outcomes import Outcomes
from simulations.platform_settings import PlatformSettings
from simulations.pool import PoolSpec, SimulatedPool
from simulations.router import SimulatedRouter
from simulations.scheduling import Berth, Scheduler
from simulations.settings import FleetSettings


class Arrivals(Protocol):
    """The columns of a ``simulations.trace.RequestBatch`` that the fleet reads."""

    @property
    def arrival_s(self) -> npt.NDArray[np.float64]:
        """``float64[N]``, seconds after the start, ascending."""
        ...

    @property
    def prompt_tokens(self) -> npt.NDArray[np.int32]:
        """``int32[N]``."""
        ...

    @property
    def output_tokens(self) -> npt.NDArray[np.int32]:
        """``int32[N]``, at least 1."""
        ...


class SimulatedFleet:
    """All pools of one model, behind one gateway, under a given load.

    ``clock``, ``metrics``, ``cluster`` and ``router`` satisfy the controller's ports. Nothing happens but in
    ``advance`` and ``finish``, and what happens depends on the arguments alone.

    Args:
        pools: At least one, all of one model, with distinct pool names.
        requests: Batches in order; arrivals are relative to ``settings.epoch_at``.
        objective: When a request counts as served well in the metrics.
        settings: Timeouts, delays and rhythms.
        seed: Decides lead times, reclaims and scrape phases.
        platform: Nodes, GPU stock and quota, spot, and who pays for what.

    Attributes:
        outcomes: One row per request that has arrived.
        peak_replicas: Most replicas at one time, loading and draining ones included.

    Raises:
        ValueError: If the pools do not belong together.
    """

    def __init__(
        self,
        pools: Sequence[PoolSpec],
        requests: Iterable[Arrivals],
        objective: ServiceObjective,
        settings: FleetSettings,
        seed: int,
        platform: PlatformSettings | None = None,
    ) -> None:
        self._model = _one_model([spec.key for spec in pools])
        self.outcomes = Outcomes()
        self.peak_replicas = 0
        self.clock = VirtualClock(settings.epoch_at)
        self._epoch_at = settings.epoch_at
        self._grace_s = settings.finish_grace_s
        self._events = EventQueue()
        shares = _first_shares(pools)
        self._gateway = Gateway(shares, self._events, self.outcomes, objective, settings)
        self._gateway.drained = lambda replica, at: self._pools[replica.pool].drained(replica, at)
        self._pools: list[SimulatedPool] = []
        self.metrics = SimulatedMetrics(self._model, self._pools, self._gateway, self._events, objective, settings)
        berths = [Berth(spec.key.pool, spec.profile, spec.price_usd, spec.gpu_stock) for spec in pools]
        self._scheduler = Scheduler(
            berths, platform or PlatformSettings(), settings.gpus_per_node, self._events, seed, settings.epoch_at
        )
        for index, spec in enumerate(pools):
            pool = SimulatedPool(
                index, spec, self._gateway, self._events, settings, seed, self.metrics.watch, self._scheduler
            )
            self._pools.append(pool)
        self.cluster = SimulatedCluster(self._pools, self.clock)
        self.router = SimulatedRouter([spec.key for spec in pools], self._gateway, self.clock)
        self._arrivals = _arrivals(requests, settings.epoch_at)
        self._next = next(self._arrivals, None)

    def advance(self, until_s: float) -> None:
        """Let everything up to and including the instant ``until_s`` happen, and set the clock to it.

        Events that were planned for an instant come before arrivals at the same instant.

        Raises:
            ValueError: If ``until_s`` lies in the past.
        """
        events, clock, gateway, arrivals = self._events, self.clock, self._gateway, self._arrivals
        arrival = self._next
        while arrival is not None and arrival[0] <= until_s:
            at, prompt_tokens, output_tokens = arrival
            events.run(at, clock)
            clock.advance_to(at)
            gateway.arrive(at, prompt_tokens, output_tokens)
            arrival = next(arrivals, None)
        self._next = arrival
        events.run(until_s, clock)
        clock.advance_to(until_s)

    def finish(self) -> int:
        """Let all requests arrive, then run on until each has ended, at most ``FleetSettings.finish_grace_s``.

        Returns:
            Requests that are still in the system then.
        """
        while self._next is not None:
            self.advance(self._next[0])
        until_at = self.clock.now() + self._grace_s
        while self.unfinished_requests and self._events.next_at <= until_at:
            self.advance(self._events.next_at)
        return self.unfinished_requests

    def inject(self, fault: Fault) -> None:
        """Let ``fault`` happen ``fault.at_s`` seconds after the start; at once when that has passed.

        Raises:
            ValueError: If it names a pool that is not there, or a node that cannot be.
        """
        target = getattr(fault, "target", None)
        if target is not None and target.pool and target.pool not in {pool.spec.key.pool for pool in self._pools}:
            raise ValueError(f"no pool {target.pool!r}; there are {', '.join(p.spec.key.pool for p in self._pools)}")
        if isinstance(fault, Reclaim) and fault.node and not self._scheduler.could_be(fault.node):
            known = ", ".join(f"{name}-node-0" for name in self._scheduler.group_names)
            raise ValueError(f"no node can be called {fault.node!r}; nodes are called {known} and so on")
        at = max(self._epoch_at + fault.at_s, self.clock.now())
        self._events.plan(at, partial(self._strike, fault))

    @property
    def arrivals_over(self) -> bool:
        """Whether the last request has arrived."""
        return self._next is None

    @property
    def unfinished_requests(self) -> int:
        """Requests that have arrived and not ended."""
        return self._gateway.arrivals_total - self._gateway.finished_total

    def gpu_seconds(self, pool: PoolKey | None = None) -> float:
        """Return the GPU seconds paid until now by ``pool`` or all: from placement to removal of each replica.

        Of all, it is those of the nodes where the platform is paid by node.
        """
        now = self.clock.now()
        if pool is None and self._scheduler.paid_by_node:
            return self._scheduler.node_gpu_s(now)
        return math.fsum(p.gpu_seconds(now) for p in self._pools if pool is None or p.spec.key == pool)

    @property
    def replica_seconds(self) -> float:
        """Replica seconds until now, counted as for GPUs; divided by the duration they give the mean fleet size."""
        now = self.clock.now()
        return math.fsum(pool.gpu_seconds(now) / pool.spec.profile.gpus for pool in self._pools)

    @property
    def idle_gpu_seconds(self) -> float:
        """GPU seconds until now of nodes that were there for no replica."""
        now = self.clock.now()
        return self._scheduler.node_gpu_s(now) - math.fsum(pool.gpu_seconds(now) for pool in self._pools)

    @property
    def cost_usd(self) -> float:
        """What the GPU seconds until now cost, in US dollars."""
        now = self.clock.now()
        if self._scheduler.paid_by_node:
            return self._scheduler.node_usd(now)
        return math.fsum(pool.gpu_seconds(now) / 3600.0 * pool.spec.price_usd for pool in self._pools)

    def _strike(self, fault: Fault, at: float) -> None:
        if isinstance(fault, MetricsFreeze):
            self.metrics.freeze(at + fault.duration_s)
        elif isinstance(fault, StockOut):
            names = [pool.spec.key.pool for pool in self._pools]
            self._scheduler.stock_out(
                names.index(fault.target.pool) if fault.target.pool else None, at + fault.duration_s
            )
        elif isinstance(fault, Reclaim) and fault.node:
            self._scheduler.reclaim(fault.node, fault.notice_s, at)
        elif fault.target is None:
            self.metrics.lose(at + fault.duration_s)
        elif (replica := self._hit(fault.target)) is not None:
            self._strike_replica(fault, replica, at)

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
                self._scheduler.lose_node(replica.node, at)
            case Reclaim():
                self._scheduler.reclaim(replica.node, fault.notice_s, at)
            case Hang():
                replica.hang(running_shown=0 if fault.running_zero else None)
            case SlowDown():
                replica.slow_down(fault.factor)
                if math.isfinite(fault.duration_s):
                    self._events.plan(at + fault.duration_s, partial(_recover, replica, fault.factor))
            case Errors():
                replica.fail_requests(fault.share, at + fault.duration_s)
            case MetricsLoss():
                replica.scrape_lost_until = at + fault.duration_s
            case ExporterFreeze():
                replica.exporter_stuck_until = at + fault.duration_s

    def _hit(self, target: ReplicaTarget) -> FleetReplica | None:
        """Return the replica at the target's position among the READY ones; None when none is READY."""
        pool = next((p for p in self._pools if p.spec.key.pool == target.pool), self._pools[0])
        ready = [replica for replica in pool.replicas.values() if replica.phase is Phase.READY]
        return ready[target.replica % len(ready)] if ready else None


def _recover(replica: FleetReplica, factor: float, _at: float) -> None:
    replica.recover_from(factor)


def _first_shares(pools: Sequence[PoolSpec]) -> list[float]:
    """Return the first weights scaled to a sum of one; equal ones when all are zero."""
    total = math.fsum(spec.first_weight for spec in pools)
    return [spec.first_weight / total if total else 1.0 / len(pools) for spec in pools]


def _one_model(keys: Sequence[PoolKey]) -> str:
    models = {key.model for key in keys}
    if len(models) != 1:
        raise ValueError(f"a simulated fleet serves one model with at least one pool, got {sorted(models)}")
    if len({key.pool for key in keys}) != len(keys):
        raise ValueError(f"pool names repeat: {[key.pool for key in keys]}")
    return models.pop()


def _arrivals(batches: Iterable[Arrivals], epoch_at: float) -> Iterator[tuple[float, int, int]]:
    for batch in batches:
        yield from zip(
            (batch.arrival_s + epoch_at).tolist(),
            batch.prompt_tokens.tolist(),
            batch.output_tokens.tolist(),
            strict=True,
        )
