"""How long do whole ticks take: a real Prometheus, a large fleet, the real loop?"""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from controller.actuation import Actuator
from controller.adapters.process_memory import peak_rss_mb
from controller.adapters.prometheus import PrometheusSource
from controller.adapters.prometheus_http import PrometheusHttp
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.system_clock import SystemClock
from controller.bench_processes import pause, prometheus_of
from controller.bench_world import (
    NoAudit,
    NoNotifier,
    ObservedFleet,
    TimedForecasts,
    TimedPolicy,
    load_before,
    still_pools,
)
from controller.errors import ForesailError, ObservationError
from controller.forecasts import ForecastSettings, Horizon
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.ports import Sources
from controller.shard_settings import WHOLE, ShardSettings
from policies.decide import Foresail
from policies.fleet import PoolState

SCRAPE_INTERVAL_S = 15.0
_SCRAPES_BEFORE = 3

PHASES = {
    "query": "until all answers of Prometheus are there as rows",
    "parse": "rows to arrays to measurements",
    "observe": "joined with the platform and the routes, checked",
    "forecast": "learn the load, forecast every workload",
    "decide": "everything that decide() does",
}


def measure_ticks(
    workloads: int,
    replicas: int,
    ticks: int,
    history_s: float,
    tell: Callable[[str], None] = lambda _: None,
    scrape_interval_s: float = SCRAPE_INTERVAL_S,
) -> dict[str, Any]:
    """Return the figures of ``bench tick --json``; ``tell`` is told what is going on.

    Raises:
        BadInput: If there is no Prometheus.
        ForesailError: If it does not come up, or does not see the fleet.
    """
    fleet = ObservedFleet(still_pools(workloads, replicas, SystemClock().now()))
    figures = ticks_of(fleet, ticks, history_s, tell, scrape_interval_s)
    return {"workloads": workloads, "replicas": replicas, **figures}


def ticks_of(
    fleet: ObservedFleet,
    ticks: int,
    history_s: float,
    tell: Callable[[str], None],
    scrape_interval_s: float,
    everywhere: Sequence[PoolState] | None = None,
    shard: ShardSettings = WHOLE,
) -> dict[str, Any]:
    """Return the figures of ticks that look at ``fleet``, scraped by a real Prometheus; raises as ``measure_ticks``.

    Where the fleet is that of a ``shard``, ``everywhere`` has the pools of all shards, which are scraped as well.
    """
    with prometheus_of(everywhere or fleet.pools(), scrape_interval_s, tell) as url:
        loop, source, watch = _loop(url, fleet, history_s, shard)
        try:
            _wait_for_scrapes(source, fleet, scrape_interval_s, tell)
            tell(f"{ticks} ticks")
            for _ in range(ticks + 1):
                watch.begin()
                record = loop.tick()
                if record.decision is None:
                    raise ForesailError(f"a tick could not observe the fleet: {record.error}", "bench tick")
                watch.end(source.took_s)
        finally:
            source.close()
    demand = len(record.fleet.demand) if record.fleet else 0
    if demand < len(fleet.models):
        raise ForesailError(f"the load of only {demand} of {len(fleet.models)} workloads was seen", "bench tick")
    return {
        "ticks": ticks,
        "history_s": history_s,
        **quantiles(watch.totals_s[1:], "tick_"),  # the first looks up names and fills caches
        "core": {"tick_p50_s": quantiles(watch.cores_s[1:])["p50_s"]},
        "rss_mb": round(peak_rss_mb(), 1),
        "phases": {name: quantiles([phase[name] for phase in watch.phases_s[1:]]) for name in PHASES},
    }


def quantiles(values: Sequence[float], prefix: str = "") -> dict[str, float]:
    """Return the median and the 0.99 quantile of seconds."""
    return {
        f"{prefix}p50_s": round(float(np.quantile(values, 0.5)), 4),
        f"{prefix}p99_s": round(float(np.quantile(values, 0.99)), 4),
    }


def core_s() -> float:
    """Return the seconds that one core has worked for this process so far, whatever else the machine had to do."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# ------------------------------------------------------------------------------------------ what is measured


class _Stopwatch:
    """How long each tick took, as a whole and by phase."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self.elapsed = elapsed
        self.totals_s: list[float] = []
        self.cores_s: list[float] = []
        self.phases_s: list[dict[str, float]] = []
        self._began = self._core_began = 0.0
        self._spent: dict[str, float] = {}

    def begin(self) -> None:
        self._began, self._core_began = self.elapsed(), core_s()
        self._spent = {"forecast": 0.0, "decide": 0.0}

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        began = self.elapsed()
        yield
        self._spent[phase] += self.elapsed() - began

    def end(self, metrics_s: Mapping[str, float]) -> None:
        total = self.elapsed() - self._began
        self.totals_s.append(total)
        self.cores_s.append(core_s() - self._core_began)
        known = {**metrics_s, **self._spent}
        self.phases_s.append({**known, "observe": total - math.fsum(known.values())})


def _loop(
    url: str, fleet: ObservedFleet, history_s: float, shard: ShardSettings
) -> tuple[ControlLoop, PrometheusSource, _Stopwatch]:
    clock = SystemClock()
    watch = _Stopwatch(clock.elapsed)
    settings = PrometheusSettings(url=url, query_timeout_s=60.0, read_timeout_s=120.0)
    source = PrometheusSource(PrometheusHttp(settings, clock.elapsed), settings, fleet.policy, clock.elapsed, shard)
    tick_s = fleet.policy.tick_s
    before = load_before(fleet.models, clock.now(), tick_s, history_s)
    loop = ControlLoop(
        Sources(clock, source, fleet, fleet),
        NoAudit(),
        Actuator(clock, fleet, fleet, NoNotifier(), ModeSettings(), lambda: False),
        TimedForecasts(watch.of, tick_s, ForecastSettings(), before),
        Horizon(fleet.policy.lead_time, tick_s),
        TimedPolicy(watch.of, Foresail(fleet.policy)),
    )
    return loop, source, watch


def _wait_for_scrapes(
    source: PrometheusSource, fleet: ObservedFleet, interval_s: float, say: Callable[[str], None]
) -> None:
    """Wait until every replica has been scraped often enough for rates."""
    clock, workloads = SystemClock(), len(fleet.models)
    replicas = sum(len(pool.replicas) for pool in fleet.pools())
    say(f"Prometheus scrapes {replicas:,} replicas every {interval_s:g} s; {_SCRAPES_BEFORE} times before")
    pause(interval_s * _SCRAPES_BEFORE)
    until = clock.elapsed() + 30.0 + 10 * interval_s
    while True:
        seen = loads = 0
        try:
            metrics = source.read(clock.now())
            seen, loads = len(metrics.replicas), len(metrics.demand)
        except ObservationError:
            if clock.elapsed() > until:
                raise
        if seen == replicas and loads == workloads:
            return
        if clock.elapsed() > until:
            told = f"{seen:,} of {replicas:,} replicas and the load of {loads:,} of {workloads:,} workloads"
            raise ForesailError(f"Prometheus sees only {told}", "bench tick")
        pause(interval_s / 3)
