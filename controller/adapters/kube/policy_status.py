"""What does a ScalingPolicy show of the newest tick: its columns, and whether it is accepted, acted on and owned?

Pure. A condition keeps the time of its last transition for as long as its status stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from controller.adapters.kube.json_reading import entries, text, under
from controller.adapters.kube.policy_settings import Verdict
from controller.modes import ActionClass, Mode
from controller.ports import ActResult, TickRecord
from controller.settings import Settings
from policies.decisions import Reason, ScalingPlan
from policies.fleet import PoolKey, PoolState
from policies.lead_time import lead_time
from policies.memory import PoolMemory
from policies.scaling import coming_demand

Status: TypeAlias = dict[str, Any]

COLUMNS = ("observedGeneration", "target", "current", "desired", "forecast", "mode", "why")
ACCEPTED, ACTIVE, OWNED = "Accepted", "Active", "Owned"
_LONGEST_WHY = 1024
_LONGEST_MESSAGE = 4096
_BESIDE = frozenset(("traffic", "traffic held", "canary", "canary cap", "fail over", "fail back", "no failover"))
"""Rules that say nothing of how many replicas a pool is to have."""


class Seen:
    """One tick, by what is looked for in it."""

    def __init__(self, record: TickRecord) -> None:
        self.record = record
        self.pools: Mapping[PoolKey, PoolState] = (
            {pool.key: pool for pool in record.fleet.pools} if record.fleet else {}
        )
        decision = record.decision
        self.plans: Mapping[PoolKey, ScalingPlan] = {plan.pool: plan for plan in decision.scaling} if decision else {}
        self.results: dict[str, list[ActResult]] = {}
        for result in record.results:
            if result.act == "scale":
                self.results.setdefault(result.subject, []).append(result)
        self.reasons: dict[str, list[tuple[int, Reason]]] = {}
        for number, reason in enumerate(decision.reasons if decision else ()):
            if reason.rule not in _BESIDE:
                self.reasons.setdefault(reason.subject, []).append((number, reason))


@dataclass(frozen=True, slots=True)
class _Condition:
    """What a condition says."""

    kind: str
    holds: bool
    reason: str
    message: str


def status_of(verdict: Verdict, seen: Seen, settings: Settings, before: object) -> Status:
    """Return the status of a policy after the tick that was ``seen``; ``before`` is what it shows now.

    What is not known is left out. ``settings`` are those that were in use.
    """
    status: Status = {}
    if verdict.in_force is not None:
        status |= {"observedGeneration": verdict.in_force.generation, **_columns(verdict, seen, settings)}
    if not verdict.accepted and verdict.in_force is None:
        status["why"] = verdict.message[:_LONGEST_WHY]
    elif seen.record.decision is None:
        status["why"] = f"not observed: {_unseen(seen)}"[:_LONGEST_WHY]
    told = (_accepted(verdict), _active(verdict, seen, settings), _owned(verdict, seen))
    status["conditions"] = [*_conditions(told, verdict.policy.generation, seen.record.at, before)]
    return status


def patch_of(status: Status, before: object) -> Status | None:
    """Return the merge patch that makes ``before`` the ``status``; None where it is that already."""
    was = before if isinstance(before, dict) else {}
    changed = {name: status.get(name) for name in (*COLUMNS, "conditions") if status.get(name) != was.get(name)}
    return changed or None


def is_figures(patch: Status, before: object) -> bool:
    """Return whether a patch changes no more than what moves at every tick: the forecast, and the reason's figures."""
    if patch.keys() - {"forecast", "why", "conditions"}:
        return False
    return "conditions" not in patch or _kinds(patch["conditions"]) == _kinds(entries(before, "conditions"))


def _kinds(conditions: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("type", "status", "reason", "observedGeneration")
    return [tuple(map(condition.get, keys)) for condition in conditions]


def _columns(verdict: Verdict, seen: Seen, settings: Settings) -> Status:
    columns: Status = {"mode": str(settings.modes.of(ActionClass.SCALING, verdict.model))}
    decision, pools = seen.record.decision, _pools(verdict, seen)
    if not pools:
        return columns
    columns["current"] = sum(len(pool.roster) for pool in pools)
    if decision is None:
        return columns
    columns["desired"] = sum(_desired(pool, seen) for pool in pools)
    memories = [decision.memory.pools.get(str(pool.key), PoolMemory()) for pool in pools]
    if all(memory.targets for memory in memories):
        columns["target"] = sum(memory.targets[-1][1] for memory in memories)
    words = {"forecast": _forecast(verdict, seen, settings, memories), "why": _why(verdict, seen)[:_LONGEST_WHY]}
    return columns | {name: said for name, said in words.items() if said}


def _pools(verdict: Verdict, seen: Seen) -> list[PoolState]:
    return [seen.pools[key] for key in verdict.pools if key in seen.pools]


def _desired(pool: PoolState, seen: Seen) -> int:
    plan = seen.plans.get(pool.key)
    return pool.desired if plan is None else plan.desired


def _forecast(verdict: Verdict, seen: Seen, settings: Settings, memories: Sequence[PoolMemory]) -> str:
    """Return the load that was forecast for when a replica asked for now would serve, to two digits."""
    forecast, policy = seen.record.forecasts.get(verdict.model), settings.policy
    if forecast is None:
        return ""
    lead_s = max(lead_time(memory, policy.lead_time).p90_s for memory in memories)
    coming = coming_demand(forecast, policy.scaling.level, seen.record.at + lead_s + policy.tick_s)
    return f"{float(f'{coming.requests_per_s:.1e}'):g} requests/s in {lead_s:.0f} s"


def _why(verdict: Verdict, seen: Seen) -> str:
    """Return whose replicas they are, the last reason that changed their number, or else the last that there is."""
    names = {verdict.model, *map(str, verdict.pools), *(str(key.stage) for key in verdict.pools)}
    found = sorted([each for name in names for each in seen.reasons.get(name, ())], key=lambda each: each[0])
    reasons = [reason for _, reason in found]
    owned = [reason for reason in reasons if reason.rule == "other owner"]
    changing = [reason for reason in reasons if reason.before != reason.after]
    decided = (owned if len(owned) == len(verdict.pools) else changing) or reasons
    return f"{decided[-1].rule}: {decided[-1].detail}" if decided else ""


def _unseen(seen: Seen) -> str:
    """Return why a tick could not decide, on one line."""
    return " ".join(seen.record.error.split()) or "nothing was decided"


def _accepted(verdict: Verdict) -> _Condition:
    return _Condition(ACCEPTED, verdict.accepted, verdict.reason, verdict.message)


def _active(verdict: Verdict, seen: Seen, settings: Settings) -> _Condition:
    """Say whether its pools are scaled by us, or what keeps us from it."""

    def held(reason: str, message: str) -> _Condition:
        return _Condition(ACTIVE, False, reason, message)

    if verdict.in_force is None:
        return held("NotFollowed", "no version of it can be followed")
    record, pools = seen.record, _pools(verdict, seen)
    if record.decision is None:
        return held("NotObserved", _unseen(seen))
    absent = [str(key) for key in verdict.pools if key not in seen.pools]
    if not pools:
        return held("NoWorkload", f"there is no workload that is {' or '.join(absent)}")
    if all(pool.owner for pool in pools):
        return held("OwnedByOther", "somebody else sets the number of replicas")
    mode = settings.modes.of(ActionClass.SCALING, verdict.model)
    if mode in (Mode.OBSERVE, Mode.RECOMMEND):
        return held(str(mode).capitalize(), f"the mode of scaling is {mode}: it is decided, and not done")
    results = [result for key in verdict.pools for result in seen.results.get(str(key), ())]
    for outcome in ("failed", "held"):
        told = [f"{r.subject}: {r.detail or outcome}" for r in results if r.outcome == outcome]
        if told:
            return held(outcome.capitalize(), "; ".join(told))
    if record.error:
        return held("Failed", record.error)
    message = "replicas are set as decided" if mode is Mode.AUTO else "replicas are set as somebody approves"
    return _Condition(ACTIVE, True, str(mode).capitalize(), "; but there is no ".join([message, *absent]))


def _owned(verdict: Verdict, seen: Seen) -> _Condition:
    """Say who else sets the number of replicas of its pools."""
    owners = [f"{pool.key}: {pool.owner}" for pool in _pools(verdict, seen) if pool.owner]
    if owners:
        return _Condition(OWNED, True, "OtherOwner", "; ".join(owners))
    return _Condition(OWNED, False, "NobodyElse", "nobody else is known to set the number of replicas")


def _conditions(told: Iterable[_Condition], generation: int, at: float, before: object) -> Iterator[Status]:
    """Yield the conditions as they are written; those of others stay as they are."""
    was = {name: each for each in entries(before, "conditions") if (name := text(each, "type"))}
    for condition in told:
        status, earlier = str(condition.holds), was.pop(condition.kind, {})
        since = text(earlier, "lastTransitionTime") if under(earlier, "status") == status else ""
        yield {
            "type": condition.kind,
            "status": status,
            "observedGeneration": generation,
            "lastTransitionTime": since or _rfc3339(at),
            "reason": condition.reason,
            "message": condition.message[:_LONGEST_MESSAGE],
        }
    yield from was.values()


def _rfc3339(at: float) -> str:
    whole = math.floor(at) if math.isfinite(at) else 0
    return datetime.fromtimestamp(whole, UTC).isoformat().replace("+00:00", "Z")
