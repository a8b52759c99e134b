"""What exactly would be written, what was it decided against, and which digest names that?

An approval is for one such plan and for nothing else, so that whatever changes between asking and acting (another
count, another life of the replica, somebody else's write) makes another plan that nobody has approved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias, assert_never

from controller.instants import instant
from controller.maintenance import HeldClass
from controller.modes import ActionClass
from controller.ports import Act
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    FailOver,
    Page,
    PauseRollout,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    ScalingPlan,
    SendCanary,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import FleetState, PoolKey
from policies.wire import Plain, canonical_json, plain

ID_CHARS = 12
_PREFIX = b"foresail plan 1\n"

Part: TypeAlias = ScalingPlan | TrafficPlan | Remediation
"""One part of a decision."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a part of a decision is done to, and what may hold it: the mode of its class, or maintenance."""

    act: Act
    subject: str
    model: str
    action_class: ActionClass
    held_class: HeldClass


VERBS: Mapping[type[Remediation], Act] = {
    CordonReplica: "cordon",
    UncordonReplica: "uncordon",
    RestartReplica: "restart",
    RollBack: "roll back",
    PauseRollout: "pause",
    ResumeRollout: "resume",
}
"""What acts on replicas and pools are called."""


def target_of(part: Part | SendCanary) -> Target:
    """Return what ``part`` acts on; a failover is carried out as weights, and a canary acts on nothing."""
    match part:
        case ScalingPlan(pool=pool):
            held = HeldClass.SCALE_UP if part.desired > part.current else HeldClass.SCALE_DOWN
            return Target("scale", str(pool), pool.model, ActionClass.SCALING, held)
        case TrafficPlan(model=model) | FailOver(model=model):
            return Target("weights", model, model, ActionClass.TRAFFIC, HeldClass.TRAFFIC)
        case CordonReplica() | UncordonReplica() | RestartReplica():
            subject = part.pool.replica(part.replica)
            return Target(VERBS[type(part)], subject, part.pool.model, ActionClass.HEALING, HeldClass.HEALING)
        case RollBack(pool=pool) | PauseRollout(pool=pool) | ResumeRollout(pool=pool):
            return Target(VERBS[type(part)], str(pool), pool.model, ActionClass.HEALING, HeldClass.HEALING)
        case SendCanary(pool=pool, replica=replica):
            return Target("canary", pool.replica(replica), pool.model, ActionClass.HEALING, HeldClass.HEALING)
        case AvoidNode(node=node):
            return Target("avoid", node, "", ActionClass.HEALING, HeldClass.HEALING)
        case Page(subject=subject):
            return Target("page", subject, subject, ActionClass.HEALING, HeldClass.HEALING)
        case _:
            assert_never(part)


def facts_of(part: Part, fleet: FleetState | None) -> Mapping[str, Plain]:
    """Return all that ``part`` would write, and the state of its object in ``fleet`` that it was decided against."""
    match part:
        case ScalingPlan():
            return {
                "pool": str(part.pool),
                "current": part.current,
                "desired": part.desired,
                "version": part.version,
                "retire_first": list(part.retire_first),
            }
        case TrafficPlan(model=model, weights=weights):
            pools = fleet.pools_of(model) if fleet is not None else ()
            before = {str(pool.key): plain(pool.weight) for pool in pools}
            return {"model": model, "before": before, "after": {str(key): plain(w) for key, w in weights.items()}}
        case CordonReplica() | UncordonReplica() | RestartReplica():
            return {
                "pool": str(part.pool),
                "replica": part.replica,
                "cause": part.cause,
                **_life(part.pool, part.replica, fleet),
            }
        case RollBack():
            return {"pool": str(part.pool), "revision": part.revision, "bad": part.bad, "cause": part.cause}
        case PauseRollout(pool=pool) | ResumeRollout(pool=pool):
            there = [p.revision for p in fleet.pools if p.key == pool] if fleet is not None else []
            return {"pool": str(pool), "revision": there[0] if there else None, "cause": part.cause}
        case AvoidNode():
            return {"node": part.node, "cause": part.cause}
        case FailOver():
            return {
                "model": part.model,
                "origin": str(part.origin),
                "destination": str(part.destination),
                "cause": part.cause,
            }
        case Page():
            return {"subject": part.subject, "cause": part.cause, "message": part.message}
        case _:
            assert_never(part)


def plan_digest(part: Part, fleet: FleetState | None) -> str:
    """Return the digest of what ``part`` would write: SHA-256 in hexadecimal.

    Equal for equal plans over equal states of their object, whatever else has changed in the fleet.
    """
    return digest_of(target_of(part).act, facts_of(part, fleet))


def digest_of(act: str, facts: Mapping[str, Plain]) -> str:
    """Return the digest of an act with these facts, as when a proposal is read back from a file."""
    return sha256(_PREFIX + canonical_json({"act": act, "facts": facts}).encode("ascii")).hexdigest()


def said(facts: Mapping[str, Plain]) -> str:
    """Return facts in words, each of them: who approves must see what the digest is of.

    >>> said({"pool": "m/a/unified", "retire_first": [], "after": {"m/a/unified": 0.5}, "requested_at": 0})
    'pool m/a/unified, retire_first none, after (m/a/unified 0.5), requested_at 1970-01-01 00:00:00Z'
    """
    return ", ".join(f"{name} {_words(name, value)}" for name, value in facts.items())


def _words(name: str, value: Plain) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key} {_words(key, item)}' for key, item in value.items())})" if value else "none"
    if isinstance(value, list):
        return " and ".join(_words("", item) for item in value) or "none"
    if isinstance(value, int | float) and name.endswith("_at"):
        return instant(value)
    return "unknown" if value is None else str(value)


def _life(key: PoolKey, replica: str, fleet: FleetState | None) -> dict[str, Plain]:
    """Return what names the life of a replica: its restarts in place, and since when the platform has it."""
    seen = [r for p in fleet.pools if p.key == key for r in p.replicas if r.id == replica] if fleet is not None else []
    return {"life": seen[0].life, "requested_at": plain(seen[0].requested_at)} if seen else {"life": None}
