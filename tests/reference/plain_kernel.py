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
from policies.fleet import Role
from simulations.block_hashes import BlockHashes
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
from simulations.serving import Serving
from tests.reference.plain_engine import PlainEngine
from tests.reference.plain_engine import Sequence as EngineSequence
from tests.reference.plain_parties import Replica, Request
from tests.reference.plain_routing import PlainRouting, PlainShares
from tests.reference.plain_scrapes import scrape

_MOST_REPLICAS = 256
_UNIFIED = Serving()

_ENGINE, _TRANSFER, _OTHER, _ARRIVAL = range(4)
"""Kinds of events, in the order in which they come at one instant."""


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
        serving: Serving = _UNIFIED,
    ) -> None:
        self.profiles, self.timing, self.epoch_at = list(profiles), timing, epoch_at
        self.serving = serving
        self.now = 0.0
        self.exhausted = False
        self.state = SimpleNamespace(
            replicas=np.zeros(_MOST_REPLICAS, REPLICA),
            traffic=np.zeros(_MOST_REPLICAS, TRAFFIC),
            samples=np.zeros((_MOST_REPLICAS, samples), SAMPLE),
            rows=np.zeros(0, ROW),
        )
        for name in ("failing_until", "scrape_lost_until", "exporter_stuck_until", "unreached_until"):
            self.state.replicas[name] = -math.inf
        for name in ("gpu_xid", "gpu_clock", "gpu_scale"):
            self.state.replicas[name] = math.nan
        self.world = np.zeros(1, WORLD)[0]
        self.world["recording_from"] = -math.inf
        self._replicas: dict[int, Replica] = {}
        self._numbers = itertools.count()
        self._rows: list[Request] = []
        self._held: list[Request] = []
        self._events: list[tuple[float, int, int, Callable[[float], None]]] = []
        self._planned = itertools.count()
        self._batch: list[tuple[float, int, int, tuple[int, ...]]] = []
        self._cursor = 0
        self._shares = PlainShares(serving, len(profiles))
        self._routing = PlainRouting(serving, len(profiles))
        self._drained: Replica | None = None
        self._returns_until, self._return_most, self._return_after_s = -math.inf, 0, math.nan
        self._poisons_coming: list[int] = []
        self.returning = 0

    # Load and time

    def feed(
        self,
        arrival_s: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        hashes: BlockHashes | None = None,
    ) -> None:
        columns = [np.asarray(column).tolist() for column in (arrival_s, prompt_tokens, output_tokens)]
        self._batch = list(zip(*columns, [()] * len(columns[0]) if hashes is None else hashes, strict=True))
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
            if until_empty and self.world["ended"] == self.world["arrivals"] and not self.returning:
                return EMPTY
            if self.batch_used_up and not self.exhausted:
                return NEEDS_ARRIVALS
            event_at = self._events[0][0] if self._events else math.inf
            arrives_at = math.inf if self.batch_used_up else self._batch[self._cursor][0]
            if event_at <= arrives_at and event_at <= until:
                at, _, _, happening = heapq.heappop(self._events)
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

    def _plan(self, at: float, happening: Callable[[float], None], kind: int = _OTHER) -> None:
        heapq.heappush(self._events, (at, kind, next(self._planned), happening))

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
        replica.forget_life()
        replica.engine = PlainEngine(replica.profile, self._cached_unit_tokens(replica))
        replica.engine.keep(replica.kept_ratio)
        self._show(replica)

    def _cached_unit_tokens(self, replica: Replica) -> int:
        """Return how many tokens a unit of the replica's prefix cache has; 0 when there is none."""
        unit_tokens = self.serving.unit_tokens
        whole_blocks = unit_tokens % replica.profile.block_tokens == 0
        return unit_tokens if whole_blocks and self._role(replica) is not Role.DECODE else 0

    def _role(self, replica: Replica) -> Role:
        return self.serving.role(replica.pool)

    def end_life(self, r: int) -> None:
        """Let the engine be gone with its transfers; who was there stays in flight until ``lose``."""
        replica = self._replicas[r]
        replica.engine = None
        finished, failed, unreached = replica.finished, replica.failed, replica.unreached
        replica.forget_life()
        replica.finished, replica.failed, replica.unreached = finished, failed, unreached
        record = self.state.replicas[r]
        record["failing_until"] = record["exporter_stuck_until"] = -math.inf

    def open(self, r: int) -> None:
        replica = self._replicas[r]
        if not replica.in_traffic:
            self._routing.enter(replica)
            self._show(replica)
        for request in [request for request in self._held if request.pool == replica.pool]:
            self._send_or_hold(request)

    def close(self, r: int) -> None:
        if self._replicas[r].in_traffic:
            self._routing.leave(self._replicas[r])

    def lose(self, r: int, *, retry: bool) -> None:
        replica = self._replicas[r]
        requests, replica.in_flight = sorted(replica.in_flight, key=lambda each: (each.sent_at, each.row)), []
        self._show(replica)
        for request in requests:
            request.connecting = False
            if retry and not request.streaming and not request.retried:
                request.retried = True
                self._assign(request)
            else:
                self._fail(request, RequestStatus.DROPPED_IN_FLIGHT)

    def hang(self, r: int, *, shows_zero: bool) -> None:
        replica = self._replicas[r]
        if not replica.hung:
            replica.hangs += 1
            replica.hung_left_s = replica.step_ends_at - self.now
        replica.hung, replica.shows_zero = True, shows_zero

    def go_on(self, r: int) -> None:
        replica = self._replicas[r]
        if not replica.hung or replica.engine is None:
            return
        replica.hung = replica.shows_zero = False
        for request in replica.unheard:
            assert request.sequence is not None
            replica.engine.abort(request.sequence)
            replica.aborted += 1
        replica.unheard = []
        if replica.busy:
            self._plan_end_of_step(replica, self.now + replica.hung_left_s)
        else:
            self._step(replica)

    def keep_blocks(self, r: int, kept_ratio: float) -> None:
        replica = self._replicas[r]
        replica.kept_ratio = kept_ratio
        if (engine := replica.engine) is None:
            return
        engine.keep(kept_ratio)
        inside = [each for each in replica.in_flight if each.sequence is not None and engine.has(each.sequence)]
        if not replica.busy and not replica.hung:
            self._step(replica)
        for request in sorted(inside, key=lambda each: each.row):
            assert request.sequence is not None
            if self._blocks(request.sequence, replica) > engine.total:
                self._give_up(request)

    def kv_cache_ratio(self, r: int) -> float:
        engine = self._replicas[r].engine
        assert engine is not None
        return engine.kv_cache_ratio

    def reset_counters(self, r: int) -> None:
        replica = self._replicas[r]
        if replica.engine is not None:
            replica.engine.reset_counters()
        replica.aborted = 0
        replica.finished_hidden, replica.failed_hidden = replica.finished, replica.failed

    # Clients that come again

    def let_clients_return(self, until: float, times: int, after_s: float) -> None:
        self._returns_until, self._return_most, self._return_after_s = until, times, after_s

    def send_poison(self, number: int, prompt: int, output: int, attempt: int) -> None:
        self._poisons_coming.append(number)
        self.returning += 1
        self._plan(self.now, lambda at: self._come_back(at, prompt, output, attempt, number), _ARRIVAL)

    def poisoned(self, number: int) -> tuple[bool, Any]:
        if number in self._poisons_coming:
            return True, None
        for request in self._rows:
            if request.poison == number and not request.ended:
                replica = request.replica
                engine = None if replica is None else replica.engine
                inside = engine is not None and request.sequence in [*engine.running, *engine.kept]
                return True, replica.owner if replica is not None and inside and not request.connecting else None
        return False, None

    def _come_back(self, at: float, prompt: int, output: int, attempt: int, poison: int) -> None:
        self.returning -= 1
        if poison:
            self._poisons_coming.remove(poison)
        self.world["returned"] += attempt > 0
        self._arrive(at, prompt, output, (), attempt, poison)

    def change_speed(self, r: int, slowdown: float) -> None:
        self._replicas[r].slowdown = slowdown

    # Pools

    def set_weights(self, weights: Sequence[float]) -> None:
        self._shares.set_weights(weights)
        for request in list(self._held):
            self._assign(request)

    # A request on its way

    def _arrive(
        self, at: float, prompt: int, output: int, hashes: tuple[int, ...], attempt: int = 0, poison: int = 0
    ) -> None:
        request = Request(len(self._rows), at, prompt, output, hashes)
        request.attempt, request.poison = attempt, poison
        self._rows.append(request)
        self.state.rows = np.concatenate([self.state.rows, np.zeros(1, ROW)])
        self.state.rows[-1] = (at, math.nan, math.nan, prompt, output, -1, RequestStatus.IN_SYSTEM, attempt)
        self.world["arrivals"] += 1
        self.world["prompt_tokens"] += prompt
        self._plan(at + self.timing.patience_s, lambda _: self._give_up(request))
        self._assign(request)

    def _assign(self, request: Request) -> None:
        request.pool = self._shares.next_pool(request.stage)
        self._send_or_hold(request)

    def _send_or_hold(self, request: Request) -> None:
        replica = self._routing.choose(request)
        if replica is None:
            self._hold(request)
            return
        if request in self._held:
            self._held.remove(request)
            self.world["held"] = len(self._held)
            request.held_until = math.inf
        request.replica = replica
        assert replica.engine is not None
        record = self.state.replicas[replica.number]
        if self.now < record["unreached_until"]:
            self._connect(request, replica)
            return
        sequence = request.becomes_a_sequence(self._role(replica))
        if self._blocks(sequence, replica) > replica.engine.total:
            self._end(request, RequestStatus.FAILED)
            return
        if self.now < record["failing_until"]:
            record["failures_due"] += record["failing_share"]
            if record["failures_due"] >= 1.0 - 1e-9:
                record["failures_due"] -= 1.0
                replica.failed += 1
                self._routing.sent(replica)
                self._show(replica)
                self._fail(request)
                return
        request.sent_at = self.now
        replica.in_flight.append(request)
        self._routing.sent(replica)
        self._routing.queued(request, replica)
        self._show(replica)
        replica.engine.submit(sequence)
        if not replica.busy and not replica.hung:
            self._step(replica)

    @staticmethod
    def _blocks(sequence: EngineSequence, replica: Replica) -> int:
        """Return how many blocks the sequence has at its end."""
        return -(-(sequence.prompt + sequence.output - 1) // replica.profile.block_tokens)

    def _connect(self, request: Request, replica: Replica) -> None:
        """Try to reach the replica, in vain."""
        request.sequence = None
        request.connecting = True
        request.sent_at = until = self.now + self.timing.connect_s
        replica.in_flight.append(request)
        self._routing.sent(replica)
        self._show(replica)
        self._plan(until, lambda _: self._not_reached(request, replica, until))

    def _not_reached(self, request: Request, replica: Replica, until: float) -> None:
        if request.connecting and request.replica is replica and request.sent_at == until:
            request.connecting = False
            replica.unreached += 1
            self._fail(request)
            self._left(request, replica)

    def _fail(self, request: Request, status: RequestStatus = RequestStatus.FAILED) -> None:
        """Let the request end without an answer; its client may come again."""
        self._end(request, status)
        if self.now < self._returns_until and request.attempt < self._return_most and not request.poison:
            again = (request.prompt, request.output, request.attempt + 1, 0)
            self.returning += 1
            self._plan(self.now + self._return_after_s, lambda at: self._come_back(at, *again), _ARRIVAL)

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
            self._fail(request)

    def _give_up(self, request: Request) -> None:
        if request.ended:
            return
        self._fail(request)
        replica = request.replica
        if request in self._held:
            self._held.remove(request)
            self.world["held"] = len(self._held)
        elif replica is not None:
            request.connecting = False
            engine = replica.engine
            if engine is not None and request.sequence is not None and engine.has(request.sequence):
                if replica.hung:
                    replica.unheard.append(request)
                else:
                    engine.abort(request.sequence)
                    replica.aborted += 1
            self._left(request, replica)

    def _left(self, request: Request, replica: Replica) -> None:
        replica.in_flight.remove(request)
        self._routing.left(replica)
        self._show(replica)
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

    def _show(self, replica: Replica) -> None:
        record = self.state.replicas[replica.number]
        self.state.traffic["in_flight"][replica.number] = len(replica.in_flight)
        record["finished"], record["failed"] = replica.finished, replica.failed
        record["unreached"] = replica.unreached

    # Engines

    def _step(self, replica: Replica) -> None:
        assert replica.engine is not None
        seconds = replica.engine.begin_step()
        replica.busy = seconds > 0.0
        if replica.busy:
            self._plan_end_of_step(replica, self.now + seconds * replica.slowdown)

    def _plan_end_of_step(self, replica: Replica, at: float) -> None:
        replica.step_ends_at = at
        life, hangs = replica.life, replica.hangs
        self._plan(at, lambda then: self._step_ended(replica, life, hangs, then), _ENGINE)

    def _step_ended(self, replica: Replica, life: int, hangs: int, at: float) -> None:
        engine = replica.engine
        if engine is None or (replica.life, replica.hangs) != (life, hangs):
            return
        engine.end_step()
        for sequence in engine.first_tokens:
            request = self._rows[sequence.name]
            if not request.streaming:
                request.first_token_at = at
                replica.ttft_s.append(at - request.sent_at)
        for sequence in engine.finished:
            request = self._rows[sequence.name]
            if not request.ended:
                self._answered(request, replica)
        if replica.engine is engine:
            self._step(replica)

    def _answered(self, request: Request, replica: Replica) -> None:
        """Take note that the replica has done its part of the request."""
        replica.finished += 1
        self._routing.answered(replica, self.now - request.sent_at)
        if self._role(replica) is Role.PREFILL and request.output > 1:
            self._show(replica)
            self._move(request, replica)
        else:
            self._completed(request, replica)

    def _move(self, request: Request, replica: Replica) -> None:
        """Send keys and values away as soon as those of the requests before are."""
        begins_at = max(self.now, replica.sends_until)
        moved_bytes = request.prompt * replica.profile.kv_bytes_per_token
        replica.sends_until = begins_at + (self.serving.kv_latency_s + moved_bytes / self.serving.kv_bytes_per_s)
        life, sequence = replica.life, request.sequence
        assert sequence is not None
        self._plan(replica.sends_until, lambda _: self._moved(request, sequence, replica, life), _TRANSFER)

    def _moved(self, request: Request, sequence: EngineSequence, replica: Replica, life: int) -> None:
        if replica.engine is None or replica.life != life:
            return
        replica.engine.let_go(sequence)
        if not replica.busy and not replica.hung:
            self._step(replica)
        if not request.ended:
            self._left(request, replica)
            request.stage = 1
            self._assign(request)

    def _completed(self, request: Request, replica: Replica) -> None:
        ttft_s = request.first_token_at - request.arrived_at
        tpot_s = (self.now - request.first_token_at) / (request.output - 1) if request.output > 1 else 0.0
        self.world["within"] += ttft_s <= self.timing.ttft_s and tpot_s <= self.timing.tpot_s
        self.world["completed"] += 1
        self.world["output_tokens"] += request.output
        replica.tpot_s.append(tpot_s)
        self._end(request, RequestStatus.COMPLETED)
        self._left(request, replica)

    # Scrapes

    def watch(self, r: int, first_at: float) -> None:
        replica = self._replicas[r]
        self._plan(first_at, lambda at: self._scrape(replica, at))

    def _scrape(self, replica: Replica, at: float) -> None:
        if replica.number in self._replicas:
            self._plan(at + self.timing.scrape_interval_s, lambda then: self._scrape(replica, then))
            if at >= self.world["recording_from"]:
                scrape(replica, at, self.world, self.state)
