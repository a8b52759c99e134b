"""What really happened in a world, and what was done about it? Noted from the simulator, not from beliefs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from controller.plans import target_of
from controller.ports import TickRecord
from forecasting.forecast import LoadForecast
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Decision,
    FailOver,
    Page,
    PauseRollout,
    Policy,
    RestartReplica,
    ResumeRollout,
    RollBack,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import FleetState, Phase
from policies.memory import PolicyMemory
from simulations.fleet import SimulatedFleet
from simulations.runner import Tick

DOWN = "mostly down"

_Carried: TypeAlias = (
    RestartReplica | CordonReplica | UncordonReplica | RollBack | PauseRollout | ResumeRollout | AvoidNode | Page
)

_MOST_OF_IT = 0.5
_GIVEN_UP = 0.01
"""A pool with a smaller share of the requests than this has been taken out of the route."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that was done.

    Attributes:
        at_s: Seconds after the start.
        act: ``restart``, ``cordon``, ``uncordon``, ``roll back``, ``pause``, ``resume``, ``avoid``, ``page``,
            ``fail over``, ``take back``, ``grow`` or ``shrink``.
        pool: Name of the pool; empty where it is about none.
        replica: Id of the replica; empty where it is about none.
        ailment: What was wrong with that replica, or with a pool that is given up, in truth at that moment; empty when
            nothing was.
        struck: Whether a fault had hit that replica.
        detail: The revision, the node, the message, or the replicas that are wanted.
    """

    at_s: float
    act: str
    pool: str = ""
    replica: str = ""
    ailment: str = ""
    struck: bool = False
    detail: str = ""

    def __str__(self) -> str:
        whom = self.replica or self.pool
        truth = f", which was {self.ailment or 'healthy'}" if self.replica or self.ailment else ""
        return f"{self.act} {whom}{truth}, at {self.at_s:.0f} s".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Belief:
    """A diagnosis: the name of a cause, of which pool and, unless it is about all of it, of which replica."""

    name: str
    pool: str
    replica: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """One tick, as it looked when all acts were done.

    Attributes:
        at_s: Seconds after the start.
        blind: Whether the fleet could not be observed.
        beliefs: What was diagnosed.
        deeds: What was done.
        healthy: Replicas that serve and that nothing is wrong with, in truth, by pool.
        ailing: Replicas that exited, or that serve and ail of something, in truth.
        desired: Replicas that are wanted, by pool.
        lost: Requests that have failed or were dropped so far.
    """

    at_s: float
    blind: bool
    beliefs: tuple[Belief, ...]
    deeds: tuple[Deed, ...]
    healthy: Mapping[str, int]
    ailing: int
    desired: Mapping[str, int]
    lost: int


@dataclass(slots=True)
class Witness:
    """Stands behind the policy of a run: it notes what is true of each replica in the moment before something is done.

    A policy decides and its acts are carried out in one and the same instant of the simulation.
    """

    policy: Policy
    moments: list[Moment] = field(default_factory=list)
    replica_hours: float = 0.0
    _fleet: SimulatedFleet | None = None
    _ailments: dict[str, tuple[str, bool]] = field(default_factory=dict)
    _given_up: set[str] = field(default_factory=set)
    _start_at: float = 0.0

    @property
    def name(self) -> str:
        """That of the policy."""
        return self.policy.name

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Let the policy decide, and note in what state those are whom it is about."""
        decision = self.policy.decide(fleet, forecasts, memory)
        self._ailments = {}
        if decision.remediations and self._fleet is not None:
            struck = set(self._fleet.struck)
            for replica in self._fleet.replicas:
                self._ailments[replica.id] = (replica.ailment, replica.id in struck)
        return decision

    def see(self, tick: Tick) -> None:
        """Note a tick, once its acts are done."""
        first, self._fleet = self._fleet is None, tick.fleet
        record, fleet = tick.record, tick.fleet
        if first:
            self._start_at = record.at
        states = fleet.cluster.pools()
        healthy = dict.fromkeys((pool.key.pool for pool in states), 0)
        names = list(healthy)
        ailing = 0
        for replica in fleet.replicas:
            ailing += replica.phase is Phase.FAILED
            if replica.phase is Phase.READY:
                ailment = replica.ailment
                ailing += bool(ailment)
                healthy[names[replica.pool]] += not (replica.cordoned or ailment)
                self.replica_hours += 15.0 / 3600.0
        decision, tallies = record.decision, fleet.tallies
        desired = {pool.key.pool: pool.desired for pool in states}
        self.moments.append(
            Moment(
                at_s=record.at - self._start_at,
                blind=decision is None,
                beliefs=()
                if decision is None
                else tuple(dict.fromkeys(Belief(d.name, d.pool.pool, d.subject) for d in decision.diagnoses)),
                deeds=tuple(self._deeds(record, healthy, desired)),
                healthy=healthy,
                ailing=ailing,
                desired=desired,
                lost=tallies.ended - tallies.completed,
            )
        )

    def _deeds(self, record: TickRecord, healthy: Mapping[str, int], desired: Mapping[str, int]) -> Iterator[Deed]:
        decision, at_s = record.decision, record.at - self._start_at
        if decision is None:
            return
        done = {(result.act, result.subject) for result in record.results if result.outcome == "done"}
        for remedy in decision.remediations:
            target = target_of(remedy)
            if isinstance(remedy, FailOver) or (target.act, target.subject) not in done:
                continue
            yield self._deed(remedy, target.act, at_s)
        for plan in decision.scaling:
            if ("scale", str(plan.pool)) in done:
                act = "grow" if plan.desired > plan.current else "shrink"
                yield Deed(at_s, act, plan.pool.pool, detail=f"{plan.current} -> {plan.desired}")
        for traffic in decision.traffic:
            if ("weights", traffic.model) in done:
                yield from self._moves(traffic, at_s, healthy, desired)

    def _deed(self, remedy: _Carried, act: str, at_s: float) -> Deed:
        match remedy:
            case RestartReplica() | CordonReplica() | UncordonReplica():
                ailment, struck = self._ailments.get(remedy.replica, ("", False))
                return Deed(at_s, act, remedy.pool.pool, remedy.replica, ailment, struck)
            case RollBack(pool=pool, revision=revision):
                return Deed(at_s, act, pool.pool, detail=revision)
            case PauseRollout(pool=pool) | ResumeRollout(pool=pool):
                return Deed(at_s, act, pool.pool)
            case AvoidNode(node=node):
                return Deed(at_s, act, detail=node)
            case Page(message=message):
                return Deed(at_s, act, detail=message)

    def _moves(
        self, traffic: TrafficPlan, at_s: float, healthy: Mapping[str, int], desired: Mapping[str, int]
    ) -> Iterator[Deed]:
        """Yield pools that lose all of their traffic, and those that get it back."""
        for key, weight in traffic.weights.items():
            if weight < _GIVEN_UP and key.pool not in self._given_up:
                self._given_up.add(key.pool)
                down = healthy[key.pool] < _MOST_OF_IT * desired[key.pool]
                yield Deed(at_s, "fail over", key.pool, ailment=DOWN if down else "")
            elif weight >= _GIVEN_UP and key.pool in self._given_up:
                self._given_up.discard(key.pool)
                yield Deed(at_s, "take back", key.pool)
