"""May another replica be disturbed now? Budget, breaker, cooldown, attempt cap, and when an act counts as verified."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from policies.burn_gate import DEFAULT_GATE, GatedAct
from policies.fleet import FleetState, PoolState, ReplicaState, Stage
from policies.healing_memory import ActionMemory
from policies.lead_time import LeadTime
from policies.revisions import RevisionSettings


class DisruptionSettings(RevisionSettings):
    """How much may be disturbed at once, and how often."""

    disruption_budget: int = Field(1, ge=0, description="Replicas of one model that may be under repair at once.")
    fleet_disruption_budget: int = Field(3, ge=0, description="Replicas of the whole fleet under repair at once.")
    breaker_ratio: float = Field(
        0.34,
        gt=0,
        le=1,
        description="Share of a model's replicas, or of the whole fleet's, that look sick at once from which healing "
        "stops and a human is told: then the cause is the model, the clients or the metrics, not a replica.",
    )
    breaker_min_sick: int = Field(2, ge=1, description="The breaker needs at least this many sick replicas.")
    floor_ratio: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Healing never leaves fewer serving replicas than this share of those that are or were healthy: "
        "what starts for the first time counts once it serves, or growing would stand in the way of healing.",
    )
    cooldown_s: float = Field(
        300.0, ge=0, description="Quiet time after a restart in the same pool before the next; doubles per attempt."
    )
    max_attempts: int = Field(4, ge=1, description="Restarts in one pool within attempt_window_s, then a human.")
    attempt_window_s: float = Field(3600.0, gt=0, description="Window of the attempt cap, in seconds.")
    may_avoid_nodes: bool = Field(
        False, description="Whether replicas may be kept off a node that looks bad; it takes the right to cordon nodes."
    )
    avoided_nodes_ratio: float = Field(
        0.1, ge=0, le=0.5, description="Largest share of all nodes that may be avoided at once; one is always allowed."
    )
    burn_gate: tuple[GatedAct, ...] = Field(
        DEFAULT_GATE,
        description="What is done for latency alone only while the error budget of the model burns or is about to: "
        "cordon, restart (of what still has requests inside), roll back, fail over (a playbook's hold of traffic). Two "
        "are not among them by default: a cordon, which waits for enough others to serve and can be taken back, and a "
        "roll back, for a slow revision is on all replicas by the time that a budget burns.",
    )

    def breaker_open(self, sick: int, present: int) -> bool:
        """Return whether ``sick`` of ``present`` replicas are too many to be single failures (invariant I3)."""
        return sick >= self.breaker_min_sick and sick >= self.breaker_ratio * present

    def serving_floor(self, healthy: int, min_replicas: int) -> int:
        """Return how many replicas of a stage must go on serving while others are under repair (invariant I1)."""
        return max(min_replicas, math.ceil(self.floor_ratio * healthy - 1e-9))


def gone(fleet: FleetState, known: Iterable[str]) -> Mapping[str, int]:
    """Return by pool key how many replicas are among ``known``, names in the whole fleet, and are not there."""
    present = {name for pool in fleet.pools for name in pool.roster.names(str(pool.key))}
    return Counter(name.rpartition("/")[0] for name in known if name not in present)


def last_healthy(fleet: FleetState, stage: Stage, gone: Mapping[str, int]) -> int:
    """Return how many replicas of ``stage`` are or lately were healthy, those that are sick now included.

    Args:
        fleet: What is there.
        stage: Which replicas.
        gone: By pool key, those that were scraped lately and are not there: what a lost node took with it counts until
            it is forgotten.
    """
    pools = fleet.pools_in(stage)
    began = sum(not r.starting or r.restarts > 0 for pool in pools for r in pool.roster.replicas)
    return min(sum(len(pool.roster) for pool in pools), began + sum(gone.get(str(pool.key), 0) for pool in pools))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a replica is not disturbed now; ``final`` when only a human can go on."""

    rule: str
    detail: str
    final: bool = False


def why_not_now(model: str, repairs: Collection[tuple[str, str]], settings: DisruptionSettings) -> Refusal | None:
    """Return what stands against one more repair of ``model``, given ``(model, replica name)`` of those under way."""
    if sum(1 for other, _ in repairs if other == model) >= settings.disruption_budget:
        return Refusal("disruption budget", "another replica is under repair")
    if len(repairs) >= settings.fleet_disruption_budget:
        return Refusal("fleet disruption budget", "other replicas are under repair")
    return None


def why_no_restart(
    pool: PoolState,
    replica: ReplicaState,
    actions: Sequence[ActionMemory],
    lead: LeadTime,
    at: float,
    settings: DisruptionSettings,
) -> Refusal | None:
    """Return what stands against restarting ``replica``, budgets aside: load time, attempt cap, cooldown.

    Every restart of the last ``attempt_window_s`` counts as an attempt. Those that failed verification make the next
    one wait for ``cooldown_s``, 2 x, 4 x ... since the last of them.
    """
    if replica.starting and at - replica.begun_at < lead.p90_s:
        return Refusal("inside its load time", f"90 % of starts take {lead.p90_s:.0f} s")
    mine = [act for act in actions if act.pool == str(pool.key) and act.kind == "restart"]
    if len(mine) >= settings.max_attempts:
        detail = f"{len(mine)} restarts within {settings.attempt_window_s:.0f} s did not help"
        return Refusal("attempt cap", detail, final=True)
    failed = [act for act in mine if not act.open and not act.verified]
    quiet_s = settings.cooldown_s * 2.0 ** (len(failed) - 1)
    if failed and at - failed[-1].started_at < quiet_s:
        return Refusal("cooldown", f"{quiet_s:.0f} s between restarts in one pool")
    return None


def settled(fleet: FleetState, actions: Sequence[ActionMemory], settings: DisruptionSettings) -> list[ActionMemory]:
    """Close acts that are verified, or past their deadline; forget those beyond the attempt window.

    A restart is verified once the old life of its replica is gone and one asked for since then serves, or the pool
    serves in full without it; a roll-back once the pool has left the revision and serves in full.
    """
    pools = {str(pool.key): pool for pool in fleet.pools}
    kept = []
    for act in actions:
        pool = pools.get(act.pool)
        if not act.open and fleet.at - act.started_at > settings.attempt_window_s:
            continue
        if act.open and fleet.at > act.started_at and pool is not None and _worked(pool, act, fleet.at):
            kept.append(replace(act, open=False, verified=True))
        elif act.open and fleet.at > act.deadline_at:
            kept.append(replace(act, open=False, verified=False))
        else:
            kept.append(act)
    return kept


def _worked(pool: PoolState, act: ActionMemory, at: float) -> bool:
    if act.kind != "restart":
        there = pool.roster
        left = pool.revision != act.target and all(r.revision != act.target for r in there.replicas)
        return left and there.serving_count >= pool.desired
    return _replaced(pool, act, at)


def _replaced(pool: PoolState, act: ActionMemory, at: float) -> bool:
    """A replica that seems to be requested in the future is an old one: the clock was set back."""
    asked_since = {r.id for r in pool.roster.replicas if act.started_at <= r.requested_at <= at}
    if act.target in pool.roster.ids and act.target not in asked_since:
        return False
    there = pool.roster
    if there.serving_count >= pool.desired and not asked_since:
        return True
    new = [r for r in pool.replicas if r.id in asked_since]
    return (there.serving_count >= pool.desired and all(map(_works, new))) or any(r.serving and _works(r) for r in new)


def _works(replica: ReplicaState) -> bool:
    """Return whether tokens came out of it, or nothing is known to have gone in."""
    seen = replica.metrics
    inside = replica.in_flight_requests > 0 or (seen is not None and seen.running_requests > 0)
    return not inside or (seen is not None and seen.output_tokens_total > 0)
