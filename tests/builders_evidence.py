"""Fleets look by look: replicas that work on steadily, or as told, and what is believed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from policies.examination import Examination, examine
from policies.fleet import FleetState, Phase, PoolState, ReplicaMetrics, ReplicaState
from policies.lead_time import LeadTime
from policies.memory import PolicyMemory, PoolMemory
from policies.settings import PolicySettings
from tests.builders import AT, KEY, fleet, metrics, pool, replica, settings

LOOK_S = 15.0
LEAD = LeadTime(80.0, 100.0, 5, measured=True)
_TOLD = {each.name for each in fields(ReplicaMetrics)}


def working(name: str, after_s: float, **changes: Any) -> ReplicaState:
    """A replica ``after_s`` after ``AT`` that has done its steps and answered its requests until then."""
    told = {name: value for name, value in changes.items() if name in _TOLD}
    own: dict[str, Any] = {
        "answered_requests_total": 100.0 + after_s / 2.0,
        "failed_answers_total": 0.0,
        "unreached_requests_total": 0.0,
    } | {name: value for name, value in changes.items() if name not in _TOLD}
    figures: dict[str, Any] = {
        "steps_total": 1000.0 + 10.0 * after_s,
        "output_tokens_total": 2e4 + 100.0 * after_s,
        "prompt_tokens_total": 1e5 + 500.0 * after_s,
        "finished_requests_total": 100.0 + after_s / 2.0,
        "preemptions_total": 0.0,
        "aborted_requests_total": 0.0,
    }
    if own.get("phase", Phase.READY) is not Phase.READY:
        return replica(name, own.pop("phase"), **{key: own[key] for key in own if not key.endswith("_total")})
    seen = own.pop("metrics") if "metrics" in own else metrics(AT + after_s, **(figures | told))
    return replica(name, metrics=seen, **own)


def alike(count: int, after_s: float, **changes: Any) -> list[ReplicaState]:
    """Replicas ``a0`` and so on that are all as told."""
    return [working(f"a{place}", after_s, **changes) for place in range(count)]


@dataclass
class Examiner:
    """Who looks at a fleet every 15 s, and remembers."""

    settings: PolicySettings = field(default_factory=settings)
    memory: PolicyMemory = field(default_factory=PolicyMemory)

    def look(self, state: FleetState) -> Examination:
        """Look once."""
        known = {str(p.key): self.memory.pools.get(str(p.key), PoolMemory()) for p in state.pools}
        found = examine(state, self.memory, known, {str(p.key): LEAD for p in state.pools}, self.settings)
        pools = {key: replace(memory, listed_at=state.at) for key, memory in found.pools.items()}
        self.memory = replace(
            self.memory,
            replicas=found.watch.memory,
            pools=pools,
            models=found.models,
            decided_at=state.at,
            xids=found.xids,
        )
        return found

    def over(
        self, until_s: float, state: Callable[[float], PoolState | Sequence[ReplicaState]], **changes: Any
    ) -> Examination:
        """Look every 15 s from where it was until then, at what ``state`` says of each instant; the last one counts."""
        first = 0.0 if self.memory.decided_at is None else self.memory.decided_at - AT + LOOK_S
        after_s = first
        while after_s <= until_s:
            there = state(after_s)
            there = there if isinstance(there, PoolState) else pool(there)
            facts = {name: value(after_s) if callable(value) else value for name, value in changes.items()}
            found = self.look(fleet(there, at=AT + after_s, **facts))
            after_s += LOOK_S
        return found


def believed(found: Examination) -> set[tuple[str, str]]:
    """Return ``(cause, subject)``; the subject of a pool is empty."""
    return {(d.name, d.subject) for d in found.diagnoses}


def of_pool(found: Examination) -> set[str]:
    """Return the causes that are believed of pools."""
    return {d.name for d in found.diagnoses if not d.subject and d.name != "unknown"}


def said_of(found: Examination, subject: str = "") -> Mapping[str, float]:
    """Return the families of evidence against a subject, with when each began, in seconds after ``AT``."""
    return {a.family: a.since_at - AT for a in found.anomalies if a.replica == subject and a.pool == KEY}


def ever(examinations: Iterable[Examination]) -> set[str]:
    """Return all causes of pools that were believed at any of several looks."""
    return {name for found in examinations for name in of_pool(found)}
