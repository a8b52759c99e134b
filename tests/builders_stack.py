"""Builders of a real live stack for tests: everything that ``foresail live up`` starts, in a thread of the test."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
import yaml

from controller.adapters.sql_audit import AuditEntry, SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.errors import AuditError, BadInput
from policies.fleet import PoolKey, PoolState, ReplicaState
from simulations.live.live_options import LiveOptions, PoolChoice
from simulations.live.live_profiles import MODEL
from simulations.live.load_client import Target
from simulations.live.load_player import LoadPlayer, LoadSettings
from simulations.live.load_report import LoadRow
from simulations.live.quick_playbooks import quick_playbooks
from simulations.live.stack import LiveStack
from simulations.trace import RequestBatch, Trace
from tests.builders_platform import needs_envoy

LOOK_S = 0.05
UP_S = 120.0

_T = TypeVar("_T")

# The daemon's times, squeezed to what engines that start in seconds and are scraped every second allow.
QUICK: Mapping[str, Any] = {
    "policy": {
        "tick_s": 1,
        "plan_expiry_s": 8,
        "objective": {"window_s": 30},
        "scaling": {"backlog_clear_s": 20},
        "stabilization": {"down_window_s": 5, "unforecast_down_window_s": 8},
        "guardrails": {"up_window_s": 2, "down_window_s": 5, "max_metrics_age_s": 10},
        "traffic": {"slow_start_s": 3},
        "anomaly": {
            "frozen_after_s": 6,
            "max_metrics_age_s": 10,
            "failing": {"half_life_s": 6, "look_back_s": 20, "max_age_s": 10},
        },
        "healing": {
            "good_after_s": 10,
            "cooldown_s": 5,
            "max_attempts": 50,
            "again_after_s": 20,
            "playbooks": quick_playbooks({"silent_s": 9, "out_of_traffic_s": 10, "running_s": 8, "back_off_s": 5}),
        },
    },
    "forecast": {"step_s": 2, "demand_window_s": 6},
    "prometheus": {"stale_after_s": 10, "means_window_s": 60, "means_refresh_s": 3, "latency_window_s": 10},
    "daemon": {"resume_grace_s": 1, "reload_check_s": 0.5},
}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` with what ``above`` says laid over it, section by section."""
    both = dict(below)
    for name, value in above.items():
        under = both.get(name)
        both[name] = merged(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
    return both


def prior(prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return settings by which lengths are assumed right until they are known: a test of what comes after that."""
    return {"prometheus": {"prompt_tokens_prior": prompt_tokens, "output_tokens_prior": output_tokens}}


class Requests(Trace):
    """Requests of one shape, evenly spaced at a rate that changes linearly from one of ``points`` to the next."""

    def __init__(self, points: Sequence[tuple[float, float]], prompt_tokens: int, output_tokens: int) -> None:
        """``points`` are ``(seconds, requests per second)``, the first at 0."""
        self.points, self._lengths = tuple(points), (prompt_tokens, output_tokens)

    def rate(self, at_s: float) -> float:
        """Return requests per second at an instant of the trace."""
        return float(np.interp(at_s, *zip(*self.points, strict=True)))

    def reaches_s(self, rate: float) -> float:
        """Return when the rate first exceeds ``rate``; infinity when it never does."""
        fine = np.arange(0.0, self.points[-1][0], 0.01)
        above = np.flatnonzero(np.interp(fine, *zip(*self.points, strict=True)) > rate)
        return float(fine[above[0]]) if len(above) else math.inf

    def batches(self) -> Iterator[RequestBatch]:
        fine = np.arange(0.0, self.points[-1][0], 0.01)
        due = np.cumsum(np.interp(fine, *zip(*self.points, strict=True)) * 0.01)
        arrival_s = np.interp(np.arange(1, int(due[-1]) + 1), due, fine)
        ones = np.ones(len(arrival_s), dtype=np.int32)
        yield RequestBatch(arrival_s, self._lengths[0] * ones, self._lengths[1] * ones)


def steady(rate: float, duration_s: float, prompt_tokens: int = 200, output_tokens: int = 40) -> Requests:
    """Return requests at one rate."""
    return Requests([(0.0, rate), (duration_s, rate)], prompt_tokens, output_tokens)


class Load:
    """A load player that replays a trace against the gateway, in a thread of its own."""

    def __init__(self, stack: RunningStack, trace: Trace) -> None:
        self.rows: list[LoadRow] = []
        self.began_at = math.nan
        self._clock = SystemClock()
        settings = LoadSettings(
            Target.parse(stack.stack.envoy.url), MODEL, timeout_s=60.0, grace_s=60.0, objective=stack.stack.objective
        )
        self._objective = stack.stack.objective
        self._player = LoadPlayer(trace, settings, self._take)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()), name="load player")
        self._thread.start()

    async def _play(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._player.play()

    def _take(self, row: LoadRow) -> None:
        if math.isnan(self.began_at) and math.isfinite(row.e2e_s):
            self.began_at = self._clock.now() - row.e2e_s - row.arrival_s  # it has ended just now
        self.rows.append(row)

    @property
    def playing(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Send no more; wait for what was sent."""
        if self._loop is not None and self.playing:
            self._loop.call_soon_threadsafe(self._player.stop)
        self.wait()

    def wait(self, timeout_s: float = 180.0) -> None:
        """Wait for the last answer."""
        self._thread.join(timeout_s)
        assert not self.playing, "the load player does not end"

    def errors(self, since_at: float = -math.inf, until_at: float = math.inf) -> list[LoadRow]:
        """Return the requests that failed and were to be sent between two instants."""
        return [r for r in self.rows if r.error and since_at <= self.began_at + r.arrival_s <= until_at]

    def attainment(self) -> float:
        """Return the share of all requests within the objective."""
        within = [r.ttft_s <= self._objective.ttft_s and r.tpot_s <= self._objective.tpot_s for r in self.rows]
        return sum(within) / len(within)


@dataclass(frozen=True)
class Tick:
    """What one tick decided, as the audit log tells it; ``results`` come from the row of its outcome."""

    entry: AuditEntry
    results: tuple[Mapping[str, Any], ...]
    settled: bool

    @property
    def at(self) -> float:
        return self.entry.at

    @property
    def decision(self) -> Mapping[str, Any]:
        return self.entry.record.get("decision") or {}

    def causes(self, replica: str) -> list[str]:
        """Return the causes that it diagnosed for a replica."""
        return [d["cause"] for d in self.decision.get("diagnoses", ()) if d["subject"] == replica]


class RunningStack:
    """A live stack in a thread of its own, without a player; use it as a context manager.

    The thread lives as long as the stack, for its children die with it.
    """

    stack: LiveStack

    def __init__(self, folder: Path, pools: Sequence[str], settings: Mapping[str, Any] = {}, **options: Any) -> None:
        needs_envoy()
        if shutil.which("prometheus") is None:
            pytest.skip("Prometheus is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "quick.yaml"
        here = {"registry": {"store": f"sqlite:///{folder}/no-models.db"}}
        config.write_text(yaml.safe_dump(merged(merged(QUICK, here), settings)))
        chosen = tuple(PoolChoice.parse(pool) for pool in pools)
        told = {"lead_time_s": 6.0, "scrape_interval_s": 1.0, **options}
        self.options = LiveOptions(folder / "live", chosen, config=config, player=False, **told)
        self.clock = SystemClock()
        self._began: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="live stack")
        self._log: SqlAudit | None = None
        self._loads: list[Load] = []

    def __enter__(self) -> RunningStack:
        self._thread.start()
        self._began.result(UP_S)
        self._log = SqlAudit.open_existing(self.stack.files.audit)
        self.until(lambda: bool(self.ticks(1)), "a tick is on record")
        return self

    def __exit__(self, *_error: object) -> None:
        for load in self._loads:
            load.stop()
        if self._log is not None:
            self._log.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with LiveStack(self.options) as self.stack:
                self._began.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if self._began.done():
                raise
            self._began.set_exception(error)

    def do(self, verb: Coroutine[Any, Any, _T], timeout_s: float = 60.0) -> _T:
        """Run a coroutine in the stack's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(verb, self._loop).result(timeout_s)

    def play(self, trace: Trace) -> Load:
        """Begin to replay ``trace``."""
        load = Load(self, trace)
        self._loads.append(load)
        return load

    # What is seen

    @property
    def now(self) -> float:
        return self.clock.now()

    def key(self, pool: str) -> PoolKey:
        return PoolKey(MODEL, pool)

    def pool(self, name: str) -> PoolState:
        (found,) = (pool for pool in self.stack.platform.pools() if pool.key.pool == name)
        return found

    def serving(self, pool: str) -> list[ReplicaState]:
        return [r for r in self.pool(pool).replicas if r.serving]

    def in_traffic(self, replica: str) -> bool:
        """Return whether Envoy itself would send the replica a request."""
        url = f"{self.stack.envoy.admin_url}/clusters"
        answer = httpx.get(url, params={"format": "json"}, trust_env=False).json()
        hosts = [host for cluster in answer["cluster_statuses"] for host in cluster.get("host_statuses", ())]
        return any(
            host["hostname"] == replica and host["health_status"].get("eds_health_status") == "HEALTHY"
            for host in hosts
        )

    def share(self, pool: str) -> float:
        """Return the pool's share of new requests."""
        return self.stack.platform.shares(MODEL)[self.key(pool)]

    def events(self, since_at: float, *what: str) -> list[Any]:
        """Return what happened to replicas since an instant; all of it where nothing is named."""
        return [e for e in list(self.stack.platform.events) if e.at >= since_at and (not what or e.what in what)]

    def ticks(self, most: int = 300, since_at: float = -math.inf) -> list[Tick]:
        """Return the newest ticks, oldest first, each with what became of it."""
        assert self._log is not None
        rows = sorted(self._log.recent(2 * most), key=lambda entry: int(entry.id))
        outcomes = {str(e.record["intent"]): e for e in rows if "intent" in e.record}
        found = []
        for row in rows:
            if row.record.get("type") == "TickRecord" and row.at >= since_at:
                told = outcomes.get(row.id)
                results = tuple((told or row).record.get("results", ()))
                found.append(Tick(row, results, told is not None or row.kind != "intended"))
        return found[-most:]

    @property
    def status_url(self) -> str:
        """Where the daemon says how it is."""
        return str(json.loads(self.stack.files.address.read_text())["daemon"])

    @property
    def newest_row(self) -> AuditEntry | None:
        """The newest row of the audit log, as quickly as it can be had; None while it is busy."""
        assert self._log is not None
        try:
            return self._log.read("last")
        except AuditError:
            return None

    # Waiting

    def pause(self, seconds: float) -> None:
        """Let real time pass: for a fault at a random instant."""
        threading.Event().wait(seconds)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0, look_s: float = LOOK_S) -> float:
        """Wait until ``condition`` holds, looking every ``look_s`` seconds, and return when it did."""
        end_s = self.clock.elapsed() + timeout_s
        while True:
            try:
                if condition():
                    return self.now
            except (AuditError, BadInput):  # the log is busy just now
                pass
            if self.clock.elapsed() > end_s:
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{self.story()}")
            threading.Event().wait(look_s)

    def until_tick(
        self, condition: Callable[[Tick], bool], what: str, since_at: float, timeout_s: float = 60.0
    ) -> Tick:
        """Wait for the first tick since an instant of which ``condition`` holds."""
        found: list[Tick] = []

        def there() -> bool:
            found[:] = [tick for tick in self.ticks(since_at=since_at) if condition(tick)][:1]
            return bool(found)

        self.until(there, what, timeout_s)
        return found[0]

    def settle(self, timeout_s: float = 60.0) -> float:
        """Wait until every pool has what it was asked for, all of it in traffic, and return when."""

        def whole() -> bool:
            pools = self.stack.platform.pools()
            return self.stack.platform.settled() and not any(r.cordoned for pool in pools for r in pool.replicas)

        return self.until(whole, "every replica serves", timeout_s)

    def story(self, last_s: float = 60.0) -> str:
        """Return what happened lately, for a failure's message."""
        since = self.now - last_s
        lines = [f"{e.at - self.now:6.1f} platform {e.replica} {e.what} {e.detail}" for e in self.events(since)]
        told: tuple[list[str], ...] = ()
        for tick in self.ticks(since_at=since):
            decided, error = tick.decision, tick.entry.record.get("error", "")
            acts = [f"{r['act']} {r['subject']} {r['outcome']} {r.get('detail', '')}" for r in tick.results]
            seen = [f"{d['cause']} {d['subject']} by {d['families']}" for d in decided.get("diagnoses", ())]
            why = [f"{r['rule']} {r['subject']} {r['before']:g}->{r['after']:g}" for r in decided.get("reasons", ())]
            if told != (told := (acts, seen, [error])):  # only what is new
                lines.append(f"{tick.at - self.now:6.1f} tick {tick.entry.id} {acts} {seen} {why} {error}")
        pools = [f"{p.key.pool} desired {p.desired}: {[(r.id, r.phase.value) for r in p.replicas]}"
                 for p in self.stack.platform.pools()]  # fmt: skip
        return "\n".join([*sorted(lines, key=lambda line: float(line.split()[0])), *pools])


@contextmanager
def running_stack(
    folder: Path, *pools: str, settings: Mapping[str, Any] = {}, **options: Any
) -> Iterator[RunningStack]:
    with RunningStack(folder, pools, settings, **options) as stack:
        yield stack
