"""The simulated fleet without any trick: every step of every engine is an event, every request an object.

``PlainKernel`` answers to the same calls as ``simulations.fleet_kernel.FleetKernel`` and shows its figures in arrays of
the same fields, so that pools, metrics and faults run on either.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.engine_profile import EngineProfile
from simulations.kernel.arrays import Timing
from simulations.kernel.layout import (
    DONE,
    DRAINED,
    EMPTY,
    NEEDS_ARRIVALS,
    REPLICA,
    ROW,
    SAMPLE,
    TRAFFIC,
    WORLD,
)
from simulations.outcomes import RequestStatus
from tests.reference.plain_engine import PlainEngine
from tests.reference.plain_engine import Sequence as EngineSequence

_MOST_REPLICAS = 256


class Request:
    """One request, as the gateway knows it."""

    def __init__(self, row: int, arrived_at: float, prompt: int, output: int) -> None:
        self.row, self.arrived_at, self.prompt, self.output = row, arrived_at, prompt, output
        self.sent_at = self.first_token_at = math.nan
        self.retried = self.ended = False
        self.pool = -1
        self.replica: Replica | None = None
        self.held_until = math.inf
        self.sequence = EngineSequence(row, prompt, output)

    @property
    def streaming(self) -> bool:
        return not math.isnan(self.first_token_at)


class Replica:
    """One replica: its engine, and who is there."""

    def __init__(self, number: int, pool: int, profile: EngineProfile, owner: Any) -> None:
        self.number, self.pool, self.profile, self.owner = number, pool, profile, owner
        self.engine: PlainEngine | None = None
        self.life = 0
        self.busy = self.hung = self.shows_zero = self.in_traffic = self.watched = False
        self.slowdown = 1.0
        self.touched = 0
        self.in_flight: list[Request] = []
        self.finished = self.failed = 0
        self.ttft_s: list[float] = []
        self.tpot_s: list[float] = []
        self.samples: list[tuple[float, tuple[float, ...] | None]] = []


class PlainKernel:
    """See ``FleetKernel`` for what each verb means."""

    def __init__(
        self,
        profiles: Sequence[EngineProfile],
        timing: Timing,
        samples: int,
        *,
        epoch_at: float = 0.0,
        keep_rows: bool = True,
        replicas: int = 0,
    ) -> None:
        self.profiles, self.timing, self.epoch_at = list(profiles), timing, epoch_at
        self.now = 0.0
        self.exhausted = False
        self.state = SimpleNamespace(
            replicas=np.zeros(_MOST_REPLICAS, REPLICA),
            traffic=np.zeros(_MOST_REPLICAS, TRAFFIC),
            samples=np.zeros((_MOST_REPLICAS, samples), SAMPLE),
            rows=np.zeros(0, ROW),
        )
        for name in ("failing_until", "scrape_lost_until", "exporter_stuck_until"):
            self.state.replicas[name] = -math.inf
        self.world = np.zeros(1, WORLD)[0]
        self.world["recording_from"] = -math.inf
        self._replicas: dict[int, Replica] = {}
        self._numbers = itertools.count()
        self._requests: dict[int, Request] = {}
        self._rows: list[Request] = []
        self._held: list[Request] = []
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._planned = itertools.count()
        self._touches = itertools.count(1)
        self._batch: list[tuple[float, int, int]] = []
        self._cursor = 0
        self._weights = [0.0] * len(profiles)
        self._credit = [0.0] * len(profiles)
        self._drained: Replica | None = None

    # Load and time

    def feed(
        self, arrival_s: npt.ArrayLike, prompt_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike, hashes: Any = None
    ) -> None:
        columns = (np.asarray(column).tolist() for column in (arrival_s, prompt_tokens, output_tokens))
        self._batch = list(zip(*columns, strict=True))
        self._cursor = 0

    def no_more_arrivals(self) -> None:
        self.exhausted = True

    @property
    def batch_used_up(self) -> bool:
        return self._cursor == len(self._batch)

    @property
    def last_arrival_at(self) -> float:
        return self._batch[-1][0]

    def run(self, until: float, *, arrivals_too: bool, until_empty: bool = False) -> int:
        self._drained = None
        while True:
            if until_empty and self.world["ended"] == self.world["arrivals"]:
                return EMPTY
            if self.batch_used_up and not self.exhausted:
                return NEEDS_ARRIVALS
            event_at = self._events[0][0] if self._events else math.inf
            arrives_at = math.inf if self.batch_used_up else self._batch[self._cursor][0]
            if event_at <= arrives_at and event_at <= until:
                at, _, happening = heapq.heappop(self._events)
                self.now = at
                happening(at)
            elif arrives_at < until or (arrives_at == until and arrivals_too):
                self.now = arrives_at
                self._arrive(*self._batch[self._cursor])
                self._cursor += 1
            else:
                self.now = until
                return DONE
            if self._drained is not None:
                return DRAINED

    def _plan(self, at: float, happening: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._planned), happening))

    # Replicas

    @property
    def drained_owner(self) -> Any:
        assert self._drained is not None
        return self._drained.owner

    def add_replica(self, pool: int, owner: object = None) -> int:
        number = next(self._numbers)
        self._replicas[number] = Replica(number, pool, self.profiles[pool], owner)
        return number

    def remove_replica(self, r: int) -> None:
        del self._replicas[r]

    def replica(self, r: int) -> Any:
        return self.state.replicas[r]

    def traffic(self, r: int) -> Any:
        return self.state.traffic[r]

    def begin_life(self, r: int) -> None:
        replica = self._replicas[r]
        replica.engine = PlainEngine(replica.profile)
        replica.life += 1
        replica.busy = replica.hung = replica.shows_zero = False
        replica.finished = replica.failed = 0
        self._show(replica)

    def end_life(self, r: int) -> None:
        replica = self._replicas[r]
        replica.engine = None
        replica.life += 1
        replica.ttft_s, replica.tpot_s = [], []
        record = self.state.replicas[r]
        record["failing_until"] = record["exporter_stuck_until"] = -math.inf

    def open(self, r: int) -> None:
        replica = self._replicas[r]
        if not replica.in_traffic:
            replica.in_traffic = True
            self._touch(replica)
        for request in [request for request in self._held if request.pool == replica.pool]:
            self._send_or_hold(request)

    def close(self, r: int) -> None:
        self._replicas[r].in_traffic = False

    def lose(self, r: int, *, retry: bool) -> None:
        replica = self._replicas[r]
        requests, replica.in_flight = sorted(replica.in_flight, key=lambda each: (each.sent_at, each.row)), []
        self._show(replica)
        for request in requests:
            if retry and not request.streaming and not request.retried:
                request.retried = True
                request.sequence = EngineSequence(request.row, request.prompt, request.output)
                self._assign(request)
            else:
                self._end(request, RequestStatus.DROPPED_IN_FLIGHT)

    def hang(self, r: int, *, shows_zero: bool) -> None:
        self._replicas[r].hung, self._replicas[r].shows_zero = True, shows_zero

    def change_speed(self, r: int, slowdown: float) -> None:
        self._replicas[r].slowdown = slowdown

    # Pools

    def set_weights(self, weights: Sequence[float]) -> None:
        self._weights, self._credit = list(weights), [0.0] * len(weights)
        for request in list(self._held):
            self._assign(request)

    def _next_pool(self) -> int:
        """Smooth weighted round robin: all gain their weight, the richest is chosen and pays the sum."""
        some = [pool for pool, weight in enumerate(self._weights) if weight > 0]
        if len(some) < 2:
            return some[0] if some else -1
        for pool in some:
            self._credit[pool] += self._weights[pool]
        best = max(some, key=lambda pool: self._credit[pool])
        self._credit[best] -= math.fsum(self._weights)
        return best

    # A request on its way

    def _arrive(self, at: float, prompt: int, output: int) -> None:
        request = Request(len(self._rows), at, prompt, output)
        self._rows.append(request)
        self.state.rows = np.concatenate([self.state.rows, np.zeros(1, ROW)])
        self.state.rows[-1] = (at, math.nan, math.nan, prompt, output, -1, RequestStatus.IN_SYSTEM)
        self.world["arrivals"] += 1
        self.world["prompt_tokens"] += prompt
        self._plan(at + self.timing.patience_s, lambda _: self._give_up(request))
        self._assign(request)

    def _assign(self, request: Request) -> None:
        request.pool = self._next_pool()
        self._send_or_hold(request)

    def _send_or_hold(self, request: Request) -> None:
        there = [r for r in self._replicas.values() if r.in_traffic and r.pool == request.pool]
        if not there:
            self._hold(request)
            return
        replica = min(there, key=lambda r: (len(r.in_flight), r.touched))
        if request in self._held:
            self._held.remove(request)
            self.world["held"] = len(self._held)
            request.held_until = math.inf
        request.replica = replica
        assert replica.engine is not None
        size = replica.profile.block_tokens
        if -(-(request.prompt + request.output - 1) // size) > replica.profile.kv_cache_tokens // size:
            self._end(request, RequestStatus.FAILED)
            return
        record = self.state.replicas[replica.number]
        if self.now < record["failing_until"]:
            record["failures_due"] += record["failing_share"]
            if record["failures_due"] >= 1.0 - 1e-9:
                record["failures_due"] -= 1.0
                replica.failed += 1
                self._touch(replica)
                self._end(request, RequestStatus.FAILED)
                return
        request.sent_at = self.now
        replica.in_flight.append(request)
        self._touch(replica)
        self._requests[id(request.sequence)] = request
        replica.engine.submit(request.sequence)
        if not replica.busy and not replica.hung:
            self._step(replica)

    def _hold(self, request: Request) -> None:
        request.replica = None
        if request not in self._held:
            request.held_until = until = self.now + self.timing.hold_s
            self._held.append(request)
            self._plan(until, lambda _: self._hold_expired(request, until))
        self.world["held"] = len(self._held)

    def _hold_expired(self, request: Request, until: float) -> None:
        if request in self._held and request.held_until == until:
            self._held.remove(request)
            self._end(request, RequestStatus.FAILED)

    def _give_up(self, request: Request) -> None:
        if request.ended:
            return
        self._end(request, RequestStatus.FAILED)
        replica = request.replica
        if request in self._held:
            self._held.remove(request)
            self.world["held"] = len(self._held)
        elif replica is not None:
            if replica.engine is not None and not replica.hung:
                replica.engine.abort(request.sequence)
            self._left(request, replica)

    def _left(self, request: Request, replica: Replica) -> None:
        replica.in_flight.remove(request)
        self._touch(replica)
        if self.state.traffic[replica.number]["draining"] and not replica.in_flight:
            self._drained = replica

    def _end(self, request: Request, status: RequestStatus) -> None:
        assert not request.ended
        request.ended = True
        row = self.state.rows[request.row]
        row["status"], row["pool"] = status, request.pool
        row["first_token_at"], row["finished_at"] = request.first_token_at, self.now
        self.world["ended"] += 1
        self.world["held"] = len(self._held)

    def _touch(self, replica: Replica) -> None:
        replica.touched = next(self._touches)
        self._show(replica)

    def _show(self, replica: Replica) -> None:
        record = self.state.replicas[replica.number]
        self.state.traffic["in_flight"][replica.number] = len(replica.in_flight)
        record["finished"], record["failed"] = replica.finished, replica.failed

    # Engines

    def _step(self, replica: Replica) -> None:
        assert replica.engine is not None
        seconds = replica.engine.begin_step()
        replica.busy = seconds > 0.0
        if replica.busy:
            life = replica.life
            self._plan(self.now + seconds * replica.slowdown, lambda at: self._step_ended(replica, life, at))

    def _step_ended(self, replica: Replica, life: int, at: float) -> None:
        engine = replica.engine
        if engine is None or replica.life != life or replica.hung:
            return
        engine.end_step()
        for sequence in engine.first_tokens:
            request = self._requests[id(sequence)]
            if not request.streaming:
                request.first_token_at = at
                replica.ttft_s.append(at - request.sent_at)
        for sequence in engine.finished:
            request = self._requests[id(sequence)]
            if not request.ended:
                self._completed(request, replica)
        if replica.engine is engine:
            self._step(replica)

    def _completed(self, request: Request, replica: Replica) -> None:
        ttft_s = request.first_token_at - request.arrived_at
        tpot_s = (self.now - request.first_token_at) / (request.output - 1) if request.output > 1 else 0.0
        self.world["within"] += ttft_s <= self.timing.ttft_s and tpot_s <= self.timing.tpot_s
        self.world["completed"] += 1
        self.world["output_tokens"] += request.output
        replica.finished += 1
        replica.tpot_s.append(tpot_s)
        self._end(request, RequestStatus.COMPLETED)
        self._left(request, replica)

    # Scrapes

    def watch(self, r: int, first_at: float) -> None:
        replica = self._replicas[r]
        self._plan(first_at, lambda at: self._scrape(replica, at))

    def _scrape(self, replica: Replica, at: float) -> None:
        if replica.number not in self._replicas:
            return
        self._plan(at + self.timing.scrape_interval_s, lambda then: self._scrape(replica, then))
        if at < self.world["recording_from"]:
            return
        record = self.state.replicas[replica.number]
        before = replica.samples[-1][1] if replica.samples else None
        figures = None
        if at >= record["scrape_lost_until"]:
            stuck = before is not None and at < record["exporter_stuck_until"]
            figures = before if stuck else self._figures(replica)
        replica.samples.append((at, figures))
        kept = self.state.samples.shape[1]
        self.state.samples[replica.number, record["samples"] % kept] = (
            (at, *figures, 0.0, 0.0, 1) if figures is not None else (at, *([0.0] * 12), 0)
        )
        record["samples"] += 1

    def _figures(self, replica: Replica) -> tuple[float, ...] | None:
        engine = replica.engine
        if engine is None:
            return None
        ttft_p95_s = float(np.quantile(replica.ttft_s, 0.95)) if replica.ttft_s else math.nan
        tpot_mean_s = math.fsum(replica.tpot_s) / len(replica.tpot_s) if replica.tpot_s else math.nan
        replica.ttft_s, replica.tpot_s = [], []
        return (
            0.0 if replica.shows_zero else len(engine.running),
            len(engine.waiting),
            1.0 - engine.free / engine.total,
            engine.steps_total,
            engine.prompt_tokens_total,
            engine.output_tokens_total,
            replica.finished,
            replica.failed,
            ttft_p95_s,
            tpot_mean_s,
        )
