"""What would a fleet have done: a trace of requests, served by simulated pools on a virtual clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from policies.fleet import PoolKey
from policies.slo import ServiceObjective
from simulations.block_hashes import BLOCK_TOKENS, BlockHashes
from simulations.canaries import SimulatedCanaries
from simulations.clock import EventQueue, VirtualClock
from simulations.cluster import SimulatedCluster
from simulations.faults import Fault
from simulations.fleet_kernel import FleetKernel
from simulations.fleet_replica import FleetReplica
from simulations.fleet_setup import first_shares, one_model, serving, timing
from simulations.gateway import Gateway
from simulations.kernel.layout import DONE, DRAINED, NEEDS_ARRIVALS
from simulations.metrics import SimulatedMetrics, scrapes_kept
from simulations.outcomes import Outcomes
from simulations.platform_settings import PlatformSettings
from simulations.pool import PoolSpec, SimulatedPool
from simulations.router import SimulatedRouter
from simulations.scheduling import Berth, Scheduler
from simulations.settings import FleetSettings
from simulations.strikes import Strikes
from simulations.tallies import Tallies


class Arrivals(Protocol):
    """The columns of a ``simulations.trace.RequestBatch`` that the fleet reads.

    A batch may have ``block_hashes`` as well, ``BlockHashes`` of N prompts or None.
    """

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

    ``clock``, ``metrics``, ``cluster``, ``router`` and ``canaries`` satisfy the controller's ports. Nothing happens but
    in ``advance`` and ``finish``, and what happens depends on the arguments alone.

    Args:
        pools: At least one, all of one model, with distinct pool names.
        requests: Batches in order; arrivals are relative to ``settings.epoch_at``.
        objective: When a request counts as served well in the metrics.
        settings: Timeouts, delays and rhythms.
        seed: Decides lead times, reclaims and scrape phases.
        platform: Nodes, GPU stock and quota, spot, and who pays for what.
        keep_rows: Whether ``outcomes`` has a row for every request; memory then grows with their number.
        unit_tokens: Prompt tokens that one of the block hashes covers.
        kernel_of: Makes what serves the requests; tests put a slow and plain one in its place.

    Attributes:
        tallies: What became of the requests, counted.

    Raises:
        ValueError: If the pools do not belong together.
    """

    def __init__(  # noqa: PLR0913 - the last two are there for tests
        self,
        pools: Sequence[PoolSpec],
        requests: Iterable[Arrivals],
        objective: ServiceObjective,
        settings: FleetSettings,
        seed: int,
        platform: PlatformSettings | None = None,
        *,
        keep_rows: bool = False,
        unit_tokens: int = BLOCK_TOKENS,
        kernel_of: Callable[..., FleetKernel] = FleetKernel,
    ) -> None:
        self._model = one_model([spec.key for spec in pools])
        self.clock = VirtualClock(settings.epoch_at)
        self._epoch_at = settings.epoch_at
        self._grace_s = settings.finish_grace_s
        self._events = EventQueue()
        self._keeps_rows = keep_rows
        self._kernel = kernel_of(
            [spec.profile for spec in pools],
            timing(settings, objective),
            scrapes_kept(settings),
            epoch_at=settings.epoch_at,
            keep_rows=keep_rows,
            replicas=sum(spec.replicas for spec in pools) + 1,
            serving=serving(pools, settings, seed, unit_tokens),
        )
        self.tallies = Tallies(self._kernel)
        self._gateway = Gateway(first_shares(pools), self._kernel)
        self._pools: list[SimulatedPool] = []
        self.metrics = SimulatedMetrics(self._model, self._pools, self._kernel, self._events, objective, settings)
        berths = [Berth(spec.key.pool, spec.profile, spec.price_usd, spec.gpu_stock) for spec in pools]
        self._scheduler = Scheduler(
            berths, platform or PlatformSettings(), settings.gpus_per_node, self._events, seed, settings.epoch_at
        )
        if settings.gpu_metrics:
            self.metrics.node_xids = self._scheduler.xids
        for index, spec in enumerate(pools):
            pool = SimulatedPool(
                index, spec, self._gateway, self._events, settings, seed, self.metrics.watch, self._scheduler
            )
            self._pools.append(pool)
        self.cluster = SimulatedCluster(self._pools, self._scheduler, self.clock)
        self.canaries = SimulatedCanaries(self._pools, self._events, self.clock)
        self._strikes = Strikes(self._pools, self._scheduler, self.metrics, self._kernel, self._events)
        self.router = SimulatedRouter([spec.key for spec in pools], self._gateway, self.clock)
        self._batches = iter(requests)

    @property
    def outcomes(self) -> Outcomes:
        """One row per request that has arrived.

        Raises:
            ValueError: If the fleet was not told to keep them.
        """
        if not self._keeps_rows:
            raise ValueError("this fleet keeps no rows of requests; make it with keep_rows=True, or ask its tallies")
        return Outcomes(self._kernel.state.rows, self.tallies.requests, self._epoch_at)

    def advance(self, until_s: float) -> None:
        """Let everything up to and including the instant ``until_s`` happen, and set the clock to it.

        At one instant engines come first, then time-outs and scrapes, then what was planned, then arrivals.

        Raises:
            ValueError: If ``until_s`` lies in the past.
        """
        if not until_s >= self.clock.now():
            raise ValueError(f"virtual time cannot go from {self.clock.now()} to {until_s}")
        self._go_on(until_s)

    def finish(self) -> int:
        """Let all requests arrive, then run on until each has ended, at most ``FleetSettings.finish_grace_s``.

        Returns:
            Requests that are still in the system then.
        """
        while not self.arrivals_over:
            self._go_on(self._epoch_at + self._kernel.last_arrival_at)
        self._go_on(self.clock.now() + self._grace_s, until_empty=True)
        return self.unfinished_requests

    def _go_on(self, until_at: float, *, until_empty: bool = False) -> None:
        """Let kernel and planned events take turns up to ``until_at``, or until no request is left."""
        while not (until_empty and self.unfinished_requests == 0 and self._kernel.returning == 0):
            planned = self._events.next_at <= until_at
            at = self._events.next_at if planned else until_at
            why = self._kernel.run(at - self._epoch_at, arrivals_too=not planned, until_empty=until_empty)
            if why == NEEDS_ARRIVALS:
                self._load_batch()
                continue
            self.clock.advance_to(max(self.clock.now(), min(at, self._epoch_at + self._kernel.now)))
            if why == DRAINED:
                replica = self._kernel.drained_owner
                self._pools[replica.pool].drained(replica, self.clock.now())
            elif why == DONE and planned:
                self._events.run(at, self.clock)
            elif why == DONE:
                return

    def _load_batch(self) -> None:
        """Give the kernel the next batch that is not empty, or tell it that there is none."""
        for batch in self._batches:
            if len(batch.arrival_s):
                hashes: BlockHashes | None = getattr(batch, "block_hashes", None)
                self._kernel.feed(batch.arrival_s, batch.prompt_tokens, batch.output_tokens, hashes)
                return
        self._kernel.no_more_arrivals()

    def inject(self, fault: Fault) -> None:
        """Let ``fault`` happen ``fault.at_s`` seconds after the start; at once when that has passed.

        Raises:
            ValueError: If it names a pool that is not there, or a node that cannot be.
        """
        self._strikes.check(fault)
        at = max(self._epoch_at + fault.at_s, self.clock.now())
        self._events.plan(at, partial(self._strikes.strike, fault))

    @property
    def arrivals_over(self) -> bool:
        """Whether the last request has arrived."""
        if self._kernel.batch_used_up and not self._kernel.exhausted:
            self._load_batch()
        return self._kernel.batch_used_up

    @property
    def replicas(self) -> tuple[FleetReplica, ...]:
        """All replicas that are there, as they are in truth, pool by pool and oldest first."""
        return tuple(replica for pool in self._pools for replica in pool.replicas.values())

    @property
    def struck(self) -> tuple[str, ...]:
        """Ids of the replicas that faults have hit so far, in order."""
        return tuple(self._strikes.struck)

    @property
    def unfinished_requests(self) -> int:
        """Requests that have arrived and not ended."""
        return self.tallies.requests - self.tallies.ended

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
