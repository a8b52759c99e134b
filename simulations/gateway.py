"""What happens to a request on its way: arrival, choice of a replica, waiting, retry, time-out, end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

from policies.fleet import Phase
from policies.slo import ServiceObjective
from simulations.clock import EventQueue
from simulations.fleet_replica import FleetReplica, GatewayRequest
from simulations.outcomes import Outcomes, RequestStatus
from simulations.router import LeastOutstanding, WeightedChoice
from simulations.settings import FleetSettings


class Timeouts:
    """Tells when requests have been watched for a fixed time; one event is planned at a time."""

    __slots__ = ("_events", "_expired", "_planned", "_timeout_s", "_watched")

    def __init__(self, timeout_s: float, events: EventQueue, expired: Callable[[GatewayRequest, float], None]) -> None:
        self._timeout_s = timeout_s
        self._events = events
        self._expired = expired
        self._watched: deque[tuple[float, GatewayRequest]] = deque()
        self._planned = False

    def watch(self, request: GatewayRequest, at: float) -> None:
        """Call ``expired(request, ...)`` when the time is up, unless the request has ended."""
        self._watched.append((at + self._timeout_s, request))
        if not self._planned:
            self._planned = True
            self._events.plan(at + self._timeout_s, self._look)

    def _look(self, at: float) -> None:
        watched = self._watched
        while watched and (watched[0][0] <= at or watched[0][1].ended):
            _, request = watched.popleft()
            if not request.ended:
                self._expired(request, at)
        self._planned = bool(watched)
        if watched:
            self._events.plan(watched[0][0], self._look)


class Gateway:
    """Knows every request until its outcome is known, and counts what a real gateway would count.

    Args:
        shares: First share of each pool.
        events: Where time-outs are planned.
        outcomes: Where every request gets its row.
        objective: When a request counts as served well.
        settings: Time-outs.

    Attributes:
        drained: Called with a draining replica and the instant at which it has nothing left to do.
        arrivals_total, prompt_tokens_total: Of requests that arrived.
        finished_total, within_total: Requests that ended, and those that ended within the objective.
        completed_total, output_tokens_total: Requests that completed, and their output tokens.
    """

    def __init__(
        self,
        shares: Sequence[float],
        events: EventQueue,
        outcomes: Outcomes,
        objective: ServiceObjective,
        settings: FleetSettings,
    ) -> None:
        self.drained: Callable[[FleetReplica, float], None] = lambda _replica, _at: None
        self.arrivals_total = 0
        self.prompt_tokens_total = 0
        self.finished_total = 0
        self.within_total = 0
        self.completed_total = 0
        self.output_tokens_total = 0
        self._outcomes = outcomes
        self._ttft_s, self._tpot_s = objective.ttft_s, objective.tpot_s
        self._shares = list(shares)
        self._choice = WeightedChoice(shares)
        self._serving = [LeastOutstanding() for _ in shares]
        self._held: dict[GatewayRequest, None] = {}
        self._holds = Timeouts(settings.gateway_timeout_s, events, self._hold_expired)
        self._hold_s = settings.gateway_timeout_s
        self._patience = Timeouts(settings.request_timeout_s, events, self._client_gave_up)

    @property
    def held_requests(self) -> int:
        """Requests held because no replica could take them."""
        return len(self._held)

    def shares(self) -> Sequence[float]:
        """Return the share of each pool."""
        return tuple(self._shares)

    def set_shares(self, shares: Sequence[float], at: float) -> None:
        """Replace the shares; held requests are assigned anew."""
        if list(shares) != self._shares:
            self._shares = list(shares)
            self._choice.set(shares)
            for request in tuple(self._held):
                self._assign(request, at)

    def arrive(self, at: float, prompt_tokens: int, output_tokens: int) -> None:
        """Take in a new request."""
        self.arrivals_total += 1
        self.prompt_tokens_total += prompt_tokens
        request = GatewayRequest(
            self._outcomes.arrived(at, prompt_tokens, output_tokens), at, prompt_tokens, output_tokens
        )
        self._patience.watch(request, at)
        self._assign(request, at)

    def open(self, replica: FleetReplica, at: float) -> None:
        """Send the replica requests from now on; those held for its pool go first."""
        self._serving[replica.pool].add(replica)
        for request in [request for request in self._held if request.pool == replica.pool]:
            self._send_or_hold(request, at)

    def close(self, replica: FleetReplica) -> None:
        """Send the replica no more requests."""
        self._serving[replica.pool].discard(replica)

    def lost(self, replica: FleetReplica, at: float, *, retry: bool) -> None:
        """Take note that the replica, closed before, is gone with all that it had.

        With ``retry``, requests that had not begun to stream are sent to another replica, once.
        """
        requests = tuple(replica.in_flight)
        replica.in_flight.clear()
        for request in requests:
            if retry and not request.streaming and not request.retried:
                request.retried = True
                request.forget()
                self._assign(request, at)
            else:
                self._end(request, RequestStatus.DROPPED_IN_FLIGHT, at)

    def completed(self, request: GatewayRequest, at: float) -> None:
        """Take note that the last token was sent."""
        replica = request.replica
        if request.ended or replica is None:
            return
        ttft_s = request.first_token_at - request.arrived_at
        tpot_s = (at - request.first_token_at) / (request.output_tokens - 1) if request.output_tokens > 1 else 0.0
        if ttft_s <= self._ttft_s and tpot_s <= self._tpot_s:
            self.within_total += 1
        self.completed_total += 1
        self.output_tokens_total += request.output_tokens
        replica.finished_total += 1
        replica.recent_tpot_s.append(tpot_s)
        self._end(request, RequestStatus.COMPLETED, at)
        self._left(request, replica, at)

    def _assign(self, request: GatewayRequest, at: float) -> None:
        request.pool = self._choice.next()
        self._send_or_hold(request, at)

    def _send_or_hold(self, request: GatewayRequest, at: float) -> None:
        replica = self._serving[request.pool].choose() if request.pool >= 0 else None
        if replica is None or replica.life is None:
            self._hold(request, at)
            return
        if request.held_until != math.inf:
            request.held_until = math.inf
            self._held.pop(request, None)
        request.replica = replica
        if not replica.life.engine.fits(request):  # a 4xx: the client's fault
            self._end(request, RequestStatus.FAILED, at)
            return
        if replica.fails_next(at):
            replica.failed_total += 1
            self._serving[request.pool].touch(replica)  # another's turn among equals
            self._end(request, RequestStatus.FAILED, at)
            return
        replica.in_flight[request] = None
        self._serving[request.pool].touch(replica)
        replica.life.submit(request, at)

    def _hold(self, request: GatewayRequest, at: float) -> None:
        request.replica = None
        if request.held_until == math.inf:
            request.held_until = at + self._hold_s
            self._holds.watch(request, at)
        self._held[request] = None

    def _hold_expired(self, request: GatewayRequest, at: float) -> None:
        if at >= request.held_until:
            del self._held[request]
            self._end(request, RequestStatus.FAILED, at)

    def _client_gave_up(self, request: GatewayRequest, at: float) -> None:
        replica = request.replica
        self._end(request, RequestStatus.FAILED, at)
        self._held.pop(request, None)
        if replica is not None:
            if replica.life is not None:
                replica.life.abort(request)
            self._left(request, replica, at)

    def _left(self, request: GatewayRequest, replica: FleetReplica, at: float) -> None:
        del replica.in_flight[request]
        self._serving[replica.pool].touch(replica)
        if replica.phase is Phase.DRAINING and not replica.in_flight:
            self.drained(replica, at)

    def _end(self, request: GatewayRequest, status: RequestStatus, at: float) -> None:
        request.ended = True
        self.finished_total += 1
        self._outcomes.ended(request.row, status, request.pool, request.first_token_at, at)
