"""What is one replica of the simulated fleet: its phase, its engine's life, and the requests that it has."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from policies.engine_profile import EngineProfile
from policies.fleet import Phase, ReplicaState
from simulations.clock import EventQueue
from simulations.replica import EngineRequest, ReplicaEngine

_MOST_RECENT = 10_000  # requests between two scrapes whose latencies are kept; older ones go when scrapes are lost


class GatewayRequest(EngineRequest):
    """A request as the gateway sees it.

    Attributes:
        row: Its row among the outcomes.
        sent_at: When its replica got it; NaN before.
        first_token_at: When streaming began; NaN before.
        streaming: Whether a token has been sent.
        retried: Whether it has been sent to a second replica after a crash.
        ended: Whether its outcome is known.
        pool: Position of the pool that it was last assigned to; -1 for none.
        replica: Where it is; None while it is held at the gateway.
        held_until: When the gateway gives up; infinity while it is not held.
    """

    __slots__ = (
        "arrived_at",
        "ended",
        "first_token_at",
        "held_until",
        "pool",
        "replica",
        "retried",
        "row",
        "sent_at",
        "streaming",
    )

    def __init__(self, row: int, arrived_at: float, prompt_tokens: int, output_tokens: int) -> None:
        super().__init__(prompt_tokens, output_tokens)
        self.row = row
        self.arrived_at = arrived_at
        self.sent_at = math.nan
        self.first_token_at = math.nan
        self.streaming = False
        self.retried = False
        self.ended = False
        self.pool = -1
        self.replica: FleetReplica | None = None
        self.held_until = math.inf


Completed: TypeAlias = Callable[[GatewayRequest, float], None]


class EngineLife:
    """One life of an engine, from the end of its start-up to its exit. It runs steps as long as there is work."""

    __slots__ = ("_busy", "_completed", "_events", "_replica", "_shown_running", "ended", "engine", "hung")

    def __init__(self, replica: FleetReplica, profile: EngineProfile, events: EventQueue, completed: Completed) -> None:
        self.engine: ReplicaEngine[GatewayRequest] = ReplicaEngine(profile)
        self.ended = False
        self.hung = False
        self._replica = replica
        self._events = events
        self._completed = completed
        self._busy = False
        self._shown_running: int | None = None

    @property
    def shown_running(self) -> int:
        """The running gauge, which a hung engine may report as zero."""
        return self.engine.running_requests if self._shown_running is None else self._shown_running

    def submit(self, request: GatewayRequest, at: float) -> None:
        """Queue the request; an idle engine starts a step at once."""
        request.sent_at = at
        self.engine.submit(request)
        if not self._busy and not self.hung:
            self._step(at)

    def abort(self, request: GatewayRequest) -> None:
        """Drop the request. A hung engine no longer listens."""
        if not self.hung:
            self.engine.abort(request)

    def hang(self, running_shown: int | None) -> None:
        """Stop stepping, the step under way included; show ``running_shown`` running requests, None for what it has."""
        self.hung = True
        self._shown_running = running_shown

    def _step(self, at: float) -> None:
        seconds = self.engine.begin_step()
        self._busy = seconds > 0.0
        if self._busy:
            self._events.plan(at + seconds * self._replica.slowdown, self._step_ended)

    def _step_ended(self, at: float) -> None:
        if self.ended or self.hung:
            return
        engine = self.engine
        engine.end_step()
        for request in engine.first_tokens:
            if not request.streaming:
                request.streaming = True
                request.first_token_at = at
                self._replica.recent_ttft_s.append(at - request.sent_at)
        for request in engine.finished:
            self._completed(request, at)
        if not self.ended:
            self._step(at)


class FleetReplica:
    """One replica: what the platform knows of it, what the gateway has sent it, what its engine counts.

    Attributes:
        placed_at: When it got its GPUs; NaN while it waits for them.
        ready_at: When it last became READY; NaN before.
        life: The engine while it runs (READY or DRAINING), else None.
        lives: Grows with each start; planned events of an earlier life are void.
        slowdown: Factor on step times: the product of all slow-downs that last.
        in_traffic: Whether the gateway may send it new requests.
        stamp: See ``router.LeastOutstanding``.
        replaces: The replica of another revision that drains when this one is READY.
        finished_total, failed_total: Requests of this life that it answered, and that it answered with an error of its
            own, as its engine and the gateway both count them.
        recent_ttft_s: As an engine counts it: from its own queue on, taken at the first token; since the last scrape.
        recent_tpot_s: Of the requests completed since then.
        exporter_stuck_until: Until then each scrape of this life says what the one before said.
    """

    def __init__(self, name: str, pool: int, revision: str, at: float, rng: np.random.Generator) -> None:
        self.id = name
        self.pool = pool
        self.revision = revision
        self.rng = rng
        self.phase = Phase.PENDING
        self.requested_at = at
        self.since_at = at
        self.placed_at = math.nan
        self.ready_at = math.nan
        self.node = ""
        self.restarts = 0
        self.backoffs = 0
        self.cordoned = False
        self.removed = False
        self.superseded = False
        self.replaces: FleetReplica | None = None
        self.life: EngineLife | None = None
        self.lives = 0
        self.slowdown = 1.0
        self._slowed_by: list[float] = []
        self.in_flight: dict[GatewayRequest, None] = {}
        self.in_traffic = False
        self.stamp = 0
        self.finished_total = 0
        self.failed_total = 0
        self._failing_share = 0.0
        self._failing_until = -math.inf
        self._failures_due = 0.0
        self.recent_ttft_s: deque[float] = deque(maxlen=_MOST_RECENT)
        self.recent_tpot_s: deque[float] = deque(maxlen=_MOST_RECENT)
        self.scrape_lost_until = -math.inf
        self.exporter_stuck_until = -math.inf

    def enter(self, phase: Phase, at: float) -> None:
        """Change phase."""
        self.phase = phase
        self.since_at = at

    def begin_life(self, life: EngineLife) -> None:
        """Let a fresh engine serve; its counters begin at zero."""
        self.life = life
        self.finished_total = self.failed_total = 0

    def end_life(self) -> None:
        """Let the engine, if there is one, be gone, and void what was planned for this life."""
        self.lives += 1
        self.exporter_stuck_until = self._failing_until = -math.inf
        if self.life is not None:
            self.life.ended = True
            self.life = None
        self.recent_ttft_s.clear()
        self.recent_tpot_s.clear()

    def hang(self, running_shown: int | None) -> None:
        """Let the engine stop stepping, if it runs."""
        if self.life is not None:
            self.life.hang(running_shown)

    def fail_requests(self, share: float, until: float) -> None:
        """Answer that share of what this life gets with an error until then."""
        self._failing_share, self._failing_until, self._failures_due = share, until, 0.0

    def fails_next(self, at: float) -> bool:
        """Return whether the request that comes now is answered with an error; it counts as having come."""
        if at >= self._failing_until:
            return False
        self._failures_due += self._failing_share
        fails = self._failures_due >= 1.0 - 1e-9
        self._failures_due -= fails
        return fails

    def slow_down(self, factor: float) -> None:
        """Let every step take ``factor`` times as long, on top of what slows it already."""
        self._slowed_by.append(factor)
        self.slowdown = math.prod(self._slowed_by)

    def recover_from(self, factor: float) -> None:
        """End one slow-down of that factor."""
        self._slowed_by.remove(factor)
        self.slowdown = math.prod(self._slowed_by)

    @property
    def stays(self) -> bool:
        """Whether it counts towards the pool's desired replicas."""
        return self.phase is not Phase.DRAINING and not self.superseded

    def state(self) -> ReplicaState:
        """Return it as the platform tells it: without metrics and without what the gateway knows."""
        return ReplicaState(
            id=self.id,
            phase=self.phase,
            requested_at=self.requested_at,
            since_at=self.since_at,
            revision=self.revision,
            node=self.node,
            restarts=self.restarts,
            cordoned=self.cordoned,
        )
