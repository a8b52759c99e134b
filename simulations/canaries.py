"""What does a simulated engine make of a request for one token: the ``Canaries`` port of a simulated fleet?

It is answered as the engine is in truth when the token is due: not at all while it hangs, with errors in the share in
which it fails, without a connection where there is none. It takes no part in batches and is no request of anybody's, so
outcomes are those without it; the counters of the engine show it once it has ended. Two things are not played: that it
waits behind others (idle engines alone are asked), and that the gauges of an engine that hangs show it inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from controller.errors import ActuationError
from policies.decisions import SendCanary
from policies.engine_profile import EngineProfile
from policies.replica import CanaryAnswer, CanaryOutcome
from simulations.clock import EventQueue, VirtualClock
from simulations.fleet_replica import FleetReplica
from simulations.pool import SimulatedPool

PROMPT_TOKENS = 2
"""A word, and what begins a text."""

KEPT_S = 120.0
"""How long an answer is told."""


class SimulatedCanaries:
    """Asks the engines of a simulated fleet."""

    def __init__(self, pools: Sequence[SimulatedPool], events: EventQueue, clock: VirtualClock) -> None:
        self._pools = {pool.spec.key: pool for pool in pools}
        self._events, self._clock = events, clock
        self._ended: dict[str, tuple[float, CanaryAnswer]] = {}
        self._open: dict[str, SendCanary] = {}
        self._failures_due: dict[str, float] = {}

    def send(self, canary: SendCanary) -> None:
        """Ask a replica.

        Raises:
            ActuationError: If there is none at the address.
        """
        pool = self._pools.get(canary.pool)
        replica = pool.replicas.get(canary.replica) if pool is not None else None
        if pool is None or replica is None or replica.state().address != canary.address:
            raise ActuationError(f"nobody there: {canary.pool.replica(canary.replica)}", canary.address)
        name, at = canary.pool.replica(canary.replica), self._clock.now()
        self._open[name] = canary
        if not replica.alive or replica.unreachable:
            self._end(name, canary, CanaryOutcome.UNREACHED, at)
        elif self._fails(name, replica.failing_share):
            self._end(name, canary, CanaryOutcome.ERROR, at)
        else:
            token_s = _first_token_s(pool.spec.profile) * replica.slowdown
            due_at = at + min(token_s, canary.deadline_s)
            self._events.plan(due_at, partial(self._look, name, canary, replica, replica.lives))

    def answers(self, at: float) -> Mapping[str, CanaryAnswer]:
        """Return what became of the newest request to each replica that was asked lately."""
        self._ended = {name: ended for name, ended in self._ended.items() if at - ended[0] <= KEPT_S}
        return {name: answer for name, (_, answer) in self._ended.items() if name not in self._open}

    def _look(self, name: str, canary: SendCanary, replica: FleetReplica, lives: int, at: float) -> None:
        """See what has become of it when its token is due, or its time is over."""
        late_at = canary.asked_at + canary.deadline_s
        if replica.removed or replica.lives != lives:
            self._end(name, canary, CanaryOutcome.UNREACHED, at)
        elif not replica.hung and at < late_at:
            replica.count_canary(PROMPT_TOKENS)
            self._end(name, canary, CanaryOutcome.ANSWERED, at)
        elif at < late_at:
            self._events.plan(late_at, partial(self._look, name, canary, replica, lives))
        else:
            self._end(name, canary, CanaryOutcome.LATE, at)

    def _fails(self, name: str, share: float) -> bool:
        """Return whether this one is answered with an error: so many are, evenly spread."""
        due = self._failures_due.get(name, 0.0) + share
        self._failures_due[name] = due - 1.0 if due >= 1.0 - 1e-9 else due
        return due >= 1.0 - 1e-9

    def _end(self, name: str, canary: SendCanary, outcome: CanaryOutcome, at: float) -> None:
        if self._open.get(name) is canary:
            del self._open[name]
            self._ended[name] = at, CanaryAnswer(canary.asked_at, outcome, at - canary.asked_at)


def _first_token_s(profile: EngineProfile) -> float:
    """Return how long an idle engine takes for the one step of a canary."""
    tokens = PROMPT_TOKENS
    return profile.prefill_base_s + profile.prefill_per_token_s * tokens + profile.prefill_per_token2_s * tokens**2
