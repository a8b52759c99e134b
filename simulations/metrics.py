"""What would a metrics store say of the simulated fleet: sampled, late, and sometimes not at all."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controller.by_replica import Figures, Ids, Scrapes
from controller.errors import ObservationError
from controller.ports import FleetMetrics
from policies.fleet import Demand, Phase, ServiceLevel
from policies.roster import ROW
from policies.slo import ServiceObjective
from simulations.clock import EventQueue
from simulations.fleet_kernel import FleetKernel
from simulations.fleet_replica import FleetReplica
from simulations.kernel.layout import SAMPLE
from simulations.pool import SimulatedPool
from simulations.settings import FleetSettings

_SAMPLED = (
    "at", "running", "queued", "kv_cache_ratio", "steps_total", "prompt_tokens_total", "output_tokens_total",
    "finished_total", "failed_total", "ttft_p95_s", "tpot_mean_s", "preemptions_total", "aborted_total", "gpu_xid",
    "gpu_power_ratio", "gpu_clock_ratio",
)  # fmt: skip
"""Columns of a sample, in the order of the fields of ``ReplicaMetrics``."""

_COLUMNS = SAMPLE.names or ()
_FIGURES = [_COLUMNS.index(name) for name in _SAMPLED]


def scrapes_kept(settings: FleetSettings) -> int:
    """Return how many scrapes of a replica have to be kept, for the newest that can be read to be among them."""
    return 2 + math.ceil(settings.scrape_delay_s / settings.scrape_interval_s)


@dataclass(frozen=True, slots=True)
class _GatewayScrape:
    at: float
    arrivals: int
    prompt_tokens: int
    finished: int
    within: int
    completed: int
    output_tokens: int
    seen_looked_up: int
    seen_cached: int
    held: int
    alive: Ids
    in_flight: npt.NDArray[np.int32]
    answered: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]
    unreached: npt.NDArray[np.int64]
    node_xids: Mapping[str, float]

    def by_replica(self, figures: npt.NDArray[np.integer]) -> Figures:
        """Return one of the last four by the replica's id."""
        return Figures(self.alive, figures.astype(np.float64))


class _Looked:
    """Replicas that are asked for the same again and again: their ids and numbers, made anew when they are others."""

    def __init__(self) -> None:
        self.replicas: list[FleetReplica] = []
        self.ids = Ids(())
        self.rows = np.zeros(0, np.int64)

    def at(self, replicas: list[FleetReplica]) -> _Looked:
        """Return this, of these replicas now."""
        if replicas != self.replicas:
            self.replicas = replicas
            self.ids = Ids([replica.id for replica in replicas])
            self.rows = np.array([replica.row for replica in replicas], np.int64)
        return self


class SimulatedMetrics:
    """The ``MetricSource`` port of a simulated fleet.

    Each replica is a scrape target with a phase of its own; the gateway is another, scraped once at the start of the
    simulation and from then on so that a control tick finds fresh figures (see ``FleetSettings``). A sample can be
    read ``scrape_delay_s`` after it was taken. A target whose engine does not run has no series, as after Prometheus'
    staleness marker. The gateway's figures carry no instant of their own, so they are missing rather than old when
    two scrapes in a row have failed. So are the Xid errors of nodes, which their exporters tell whether or not an
    engine runs there; they are scraped together with the gateway.

    Attributes:
        node_xids: Asked at each scrape for the newest Xid of each node whose GPUs are exported.
    """

    def __init__(
        self,
        model: str,
        pools: Iterable[SimulatedPool],
        kernel: FleetKernel,
        events: EventQueue,
        objective: ServiceObjective,
        settings: FleetSettings,
    ) -> None:
        self._model = model
        self._pools = pools
        self._kernel = kernel
        self._events = events
        self._objective = objective
        self._settings = settings
        self._lost_until = -math.inf
        self._frozen_until = -math.inf
        self._unexported: list[tuple[int, float, float]] = []
        self.node_xids: Callable[[], Mapping[str, float]] = dict
        self._scrapes: deque[_GatewayScrape] = deque()
        self._alive, self._watched = _Looked(), _Looked()
        self._scrape_gateway(settings.epoch_at, again=False)
        first_at = settings.epoch_at + settings.gateway_scrape_offset_s
        first_at += settings.scrape_interval_s * (first_at <= settings.epoch_at)
        events.plan(first_at, self._scrape_gateway)

    # Faults

    def lose(self, until: float) -> None:
        """Let the metrics store be unreachable until then; nothing is recorded meanwhile."""
        self._lost_until = max(self._lost_until, until)
        self._tell_kernel()

    def freeze(self, until: float) -> None:
        """Let the store answer with what it has, and record nothing new, until then."""
        self._frozen_until = max(self._frozen_until, until)
        self._tell_kernel()

    def lose_metric(self, figure: str, since: float, until: float) -> None:
        """Let no engine export a figure, a field of ``ReplicaMetrics``, in that time."""
        self._unexported.append((ROW[figure], since, until))

    def _tell_kernel(self) -> None:
        self._kernel.world["recording_from"] = max(self._lost_until, self._frozen_until) - self._kernel.epoch_at

    # Scraping

    def watch(self, replica: FleetReplica, at: float) -> None:
        """Scrape a new replica from now on."""
        phase_s = replica.rng.uniform() * self._settings.scrape_interval_s
        self._kernel.watch(replica.row, at - self._kernel.epoch_at + phase_s)

    def _recording(self, at: float) -> bool:
        return at >= self._lost_until and at >= self._frozen_until

    def _scrape_gateway(self, at: float, *, again: bool = True) -> None:
        if again:
            self._events.plan(at + self._settings.scrape_interval_s, self._scrape_gateway)
        if not self._recording(at):
            return
        world, state = self._kernel.world, self._kernel.state
        alive = self._alive.at([r for pool in self._pools for r in pool.replicas.values() if r.alive])
        rows = alive.rows
        scrape = _GatewayScrape(
            at=at,
            arrivals=int(world["arrivals"]),
            prompt_tokens=int(world["prompt_tokens"]),
            finished=int(world["ended"]),
            within=int(world["within"]),
            completed=int(world["completed"]),
            output_tokens=int(world["output_tokens"]),
            seen_looked_up=int(world["seen_looked_up"]),
            seen_cached=int(world["seen_cached"]),
            held=int(world["held"]),
            alive=alive.ids,
            in_flight=state.traffic["in_flight"][rows],
            answered=state.replicas["finished"][rows],
            failed=state.replicas["failed"][rows],
            unreached=state.replicas["unreached"][rows],
            node_xids=self.node_xids(),
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
            signals = ("in_flight", "answered", "failed_answers", "unreached", "demand", "service", "gateway_queued")
            return FleetMetrics(replicas=replicas, missing=(*missing, *(f"{s}:{self._model}" for s in signals)))
        last, demand = visible[-1], self._demand(visible)
        service = self._service(visible)
        return FleetMetrics(
            replicas=replicas,
            in_flight=last.by_replica(last.in_flight),
            answered=last.by_replica(last.answered),
            failed_answers=last.by_replica(last.failed),
            unreached=last.by_replica(last.unreached),
            node_xids=last.node_xids,
            gateway_oldest_at=last.at,
            gateway_newest_at=last.at,
            demand={} if demand is None else {self._model: demand},
            service={} if service is None else {self._model: service},
            gateway_queued={self._model: float(last.held)},
            missing=(*missing, *((f"demand:{self._model}",) if demand is None else ())),
        )

    def _read_replicas(self, at: float) -> tuple[Scrapes, tuple[str, ...]]:
        watched = self._watched.at([replica for pool in self._pools for replica in pool.replicas.values()])
        state, epoch_at, rows = self._kernel.state, self._kernel.epoch_at, watched.rows
        # The newest of each that can be read by now: most often the last, or the one before.
        sampled_at, kept = state.samples["at"][rows], np.arange(state.samples.shape[1])
        visible = (sampled_at + self._settings.scrape_delay_s <= at - epoch_at) & (
            kept < state.replicas["samples"][rows][:, None]
        )
        place = np.where(visible, sampled_at, -1.0).argmax(axis=1)
        newest = state.samples[rows, place]
        known = visible[np.arange(len(rows)), place] & (newest["there"] != 0)
        metrics = newest.view(np.float64).reshape(len(rows), len(_COLUMNS)).T[_FIGURES]
        metrics[0] += epoch_at
        for figure, since, until in self._unexported:
            metrics[figure, (since <= metrics[0]) & (metrics[0] < until)] = np.nan
        missing: list[str] = []
        for silent in np.flatnonzero(~known).tolist():
            replica = watched.replicas[silent]
            if replica.phase in (Phase.READY, Phase.DRAINING):
                missing.append(f"replica:{replica.id}")
        return Scrapes(watched.ids, known, metrics), tuple(missing)

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
            cached_prompt_ratio=self._cached_prompt_ratio(visible),
        )

    def _mean_output_tokens(self, visible: list[_GatewayScrape]) -> float:
        """Mean of requests completed in the window, else of all completed ones, else the prior."""
        now = visible[-1]
        before = _at_or_before(visible, now.at - self._settings.output_tokens_window_s)
        if now.completed > before.completed:
            return (now.output_tokens - before.output_tokens) / (now.completed - before.completed)
        return now.output_tokens / now.completed if now.completed else self._settings.output_tokens_prior

    def _cached_prompt_ratio(self, visible: list[_GatewayScrape]) -> float:
        """Share found of the prompt tokens that prefix caches were asked for in that window; 0 when for none."""
        now = visible[-1]
        before = _at_or_before(visible, now.at - self._settings.output_tokens_window_s)
        if now.seen_looked_up <= before.seen_looked_up:
            return 0.0
        ratio = (now.seen_cached - before.seen_cached) / (now.seen_looked_up - before.seen_looked_up)
        return min(max(ratio, 0.0), 1.0)

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
