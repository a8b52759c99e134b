"""What would a metrics store say of the simulated fleet: sampled, late, and sometimes not at all."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from controller.errors import ObservationError
from controller.ports import FleetMetrics
from policies.fleet import Demand, Phase, ReplicaMetrics, ServiceLevel
from policies.slo import ServiceObjective
from simulations.clock import EventQueue
from simulations.fleet_replica import FleetReplica
from simulations.gateway import Gateway
from simulations.pool import SimulatedPool
from simulations.settings import FleetSettings


@dataclass(frozen=True, slots=True)
class _GatewayScrape:
    at: float
    arrivals: int
    prompt_tokens: int
    finished: int
    within: int
    completed: int
    output_tokens: int
    held: int
    in_flight: Mapping[str, float]
    answered: Mapping[str, float]
    failed: Mapping[str, float]


class SimulatedMetrics:
    """The ``MetricSource`` port of a simulated fleet.

    Each replica is a scrape target with a phase of its own; the gateway is another, scraped once at the start of the
    simulation and from then on so that a control tick finds fresh figures (see ``FleetSettings``). A sample can be
    read ``scrape_delay_s`` after it was taken. A target whose engine does not run has no series, as after Prometheus'
    staleness marker. The gateway's figures carry no instant of their own, so they are missing rather than old when
    two scrapes in a row have failed.
    """

    def __init__(
        self,
        model: str,
        pools: Iterable[SimulatedPool],
        gateway: Gateway,
        events: EventQueue,
        objective: ServiceObjective,
        settings: FleetSettings,
    ) -> None:
        self._model = model
        self._pools = pools
        self._gateway = gateway
        self._events = events
        self._objective = objective
        self._settings = settings
        self._lost_until = -math.inf
        self._frozen_until = -math.inf
        self._samples: dict[str, deque[tuple[float, ReplicaMetrics | None]]] = {}
        self._samples_kept = 2 + math.ceil(settings.scrape_delay_s / settings.scrape_interval_s)
        self._scrapes: deque[_GatewayScrape] = deque()
        self._scrape_gateway(settings.epoch_at, again=False)
        first_at = settings.epoch_at + settings.gateway_scrape_offset_s
        first_at += settings.scrape_interval_s * (first_at <= settings.epoch_at)
        events.plan(first_at, self._scrape_gateway)

    # Faults

    def lose(self, until: float) -> None:
        """Let the metrics store be unreachable until then; nothing is recorded meanwhile."""
        self._lost_until = max(self._lost_until, until)

    def freeze(self, until: float) -> None:
        """Let the store answer with what it has, and record nothing new, until then."""
        self._frozen_until = max(self._frozen_until, until)

    # Scraping

    def watch(self, replica: FleetReplica, at: float) -> None:
        """Scrape a new replica from now on."""
        self._events.plan(at + replica.rng.uniform() * self._settings.scrape_interval_s, partial(self._scrape, replica))

    def _recording(self, at: float) -> bool:
        return at >= self._lost_until and at >= self._frozen_until

    def _scrape(self, replica: FleetReplica, at: float) -> None:
        if replica.removed:
            self._samples.pop(replica.id, None)
            return
        self._events.plan(at + self._settings.scrape_interval_s, partial(self._scrape, replica))
        if self._recording(at):
            samples = self._samples.setdefault(replica.id, deque(maxlen=self._samples_kept))
            before = samples[-1][1] if samples and at < replica.exporter_stuck_until else None
            stuck = None if before is None else replace(before, observed_at=at)
            samples.append((at, None if at < replica.scrape_lost_until else stuck or _sample(replica, at)))

    def _scrape_gateway(self, at: float, *, again: bool = True) -> None:
        if again:
            self._events.plan(at + self._settings.scrape_interval_s, self._scrape_gateway)
        if not self._recording(at):
            return
        gateway = self._gateway
        alive = [r for pool in self._pools for r in pool.replicas.values() if r.life is not None]
        scrape = _GatewayScrape(
            at=at,
            arrivals=gateway.arrivals_total,
            prompt_tokens=gateway.prompt_tokens_total,
            finished=gateway.finished_total,
            within=gateway.within_total,
            completed=gateway.completed_total,
            output_tokens=gateway.output_tokens_total,
            held=gateway.held_requests,
            in_flight={replica.id: float(len(replica.in_flight)) for replica in alive},
            answered={replica.id: float(replica.finished_total) for replica in alive},
            failed={replica.id: float(replica.failed_total) for replica in alive},
        )
        self._scrapes.append(scrape)
        windows_s = max(self._settings.output_tokens_window_s, self._objective.window_s)
        kept_s = windows_s + self._settings.scrape_delay_s + 2 * self._settings.scrape_interval_s
        while len(self._scrapes) > 2 and self._scrapes[1].at < at - kept_s:
            self._scrapes.popleft()

    # Reading

    def read(self, at: float) -> FleetMetrics:
        """Return the newest measurements known at ``at``.

        Raises:
            ObservationError: If the metrics store cannot be reached.
        """
        if at < self._lost_until:
            raise ObservationError("the metrics store does not answer", "simulated metrics", "wait until it is back")
        replicas, missing = self._read_replicas(at)
        visible = [scrape for scrape in self._scrapes if scrape.at + self._settings.scrape_delay_s <= at]
        oldest_useful = at - self._settings.scrape_delay_s - 2 * self._settings.scrape_interval_s
        if not visible or visible[-1].at < oldest_useful:
            signals = ("in_flight", "answered", "failed_answers", "demand", "service", "gateway_queued")
            return FleetMetrics(replicas=replicas, missing=(*missing, *(f"{s}:{self._model}" for s in signals)))
        demand = self._demand(visible)
        service = self._service(visible)
        return FleetMetrics(
            replicas=replicas,
            in_flight=visible[-1].in_flight,
            answered=visible[-1].answered,
            failed_answers=visible[-1].failed,
            demand={} if demand is None else {self._model: demand},
            service={} if service is None else {self._model: service},
            gateway_queued={self._model: float(visible[-1].held)},
            missing=(*missing, *((f"demand:{self._model}",) if demand is None else ())),
        )

    def _read_replicas(self, at: float) -> tuple[dict[str, ReplicaMetrics], tuple[str, ...]]:
        replicas: dict[str, ReplicaMetrics] = {}
        missing: list[str] = []
        for pool in self._pools:
            for replica in pool.replicas.values():
                sample = self._newest(replica.id, at)
                if sample is not None:
                    replicas[replica.id] = sample
                elif replica.phase in (Phase.READY, Phase.DRAINING):
                    missing.append(f"replica:{replica.id}")
        return replicas, tuple(missing)

    def _newest(self, name: str, at: float) -> ReplicaMetrics | None:
        for sampled_at, sample in reversed(self._samples.get(name, ())):
            if sampled_at + self._settings.scrape_delay_s <= at:
                return sample
        return None

    def _demand(self, visible: list[_GatewayScrape]) -> Demand | None:
        """Increase of the arrival counters between the last two scrapes; None while there is only one."""
        if len(visible) < 2:
            return None
        before, now = visible[-2], visible[-1]
        elapsed_s = now.at - before.at
        requests_per_s = (now.arrivals - before.arrivals) / elapsed_s
        return Demand(
            requests_per_s=requests_per_s,
            prompt_tokens_per_s=(now.prompt_tokens - before.prompt_tokens) / elapsed_s,
            output_tokens_per_s=requests_per_s * self._mean_output_tokens(visible),
        )

    def _mean_output_tokens(self, visible: list[_GatewayScrape]) -> float:
        """Mean of requests completed in the window, else of all completed ones, else the prior."""
        now = visible[-1]
        before = _at_or_before(visible, now.at - self._settings.output_tokens_window_s)
        if now.completed > before.completed:
            return (now.output_tokens - before.output_tokens) / (now.completed - before.completed)
        return now.output_tokens / now.completed if now.completed else self._settings.output_tokens_prior

    def _service(self, visible: list[_GatewayScrape]) -> ServiceLevel | None:
        """Ends over the objective's window, or over the time since the start while that is shorter."""
        now = visible[-1]
        before = _at_or_before(visible, now.at - self._objective.window_s)
        if now.at <= before.at:
            return None
        return ServiceLevel(
            window_s=now.at - before.at,
            finished=float(now.finished - before.finished),
            within_objective=float(now.within - before.within),
        )


def _at_or_before(scrapes: list[_GatewayScrape], at: float) -> _GatewayScrape:
    """Return the newest scrape taken by ``at``; the oldest when all are later."""
    return next((scrape for scrape in reversed(scrapes) if scrape.at <= at), scrapes[0])


def _sample(replica: FleetReplica, at: float) -> ReplicaMetrics | None:
    """Return what the engine says of itself; None when it does not run."""
    life = replica.life
    if life is None:
        return None
    engine = life.engine
    ttft_p95_s = float(np.quantile(replica.recent_ttft_s, 0.95)) if replica.recent_ttft_s else math.nan
    tpot_mean_s = math.fsum(replica.recent_tpot_s) / len(replica.recent_tpot_s) if replica.recent_tpot_s else math.nan
    replica.recent_ttft_s.clear()
    replica.recent_tpot_s.clear()
    return ReplicaMetrics(
        observed_at=at,
        running_requests=float(life.shown_running),
        queued_requests=float(engine.queued_requests),
        kv_cache_ratio=engine.kv_cache_ratio,
        steps_total=float(engine.steps_total),
        prompt_tokens_total=float(engine.prompt_tokens_total),
        output_tokens_total=float(engine.output_tokens_total),
        finished_requests_total=float(replica.finished_total),
        failed_requests_total=float(replica.failed_total),
        ttft_p95_s=ttft_p95_s,
        tpot_mean_s=tpot_mean_s,
    )
