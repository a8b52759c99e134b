"""Does a condition of a playbook hold for its subject, as things are at this tick?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from policies.causes import ERRORS, HANG, START_OVERDUE, STRAGGLER
from policies.decisions import Diagnosis
from policies.diagnosis import compared, confirmed
from policies.facts import Condition
from policies.failures import EXIT
from policies.fleet import Phase, PoolState, ReplicaState
from policies.healing_memory import CordonMemory, RunMemory
from policies.ledger import ROLL_BACK, Ledger
from policies.memory import ReplicaMemory
from policies.revisions import good_revision

LONGEST_BACK_OFF_S = 300.0
"""Longest time for which Kubernetes leaves a container that keeps exiting before it starts it again."""

STARTS_FAILED_S = 900.0
"""How long the starts of others that failed say that one more was no fault of its own."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a playbook is about, as of one tick.

    Attributes:
        replica: None when it is about the pool, or the replica is not there (any more).
        diagnosis: What is believed of it now; None when nothing is.
        why: What the run began with, for reasons and pages.
        elsewhere: Whether other pools of the stage can take what the pool carries.
        burning: Whether the error budget of its model is being spent too fast.
        surging: Whether far more of its model is offered than was forecast.
    """

    ledger: Ledger
    pool: PoolState
    replica: ReplicaState | None
    diagnosis: Diagnosis | None
    why: Diagnosis
    run: RunMemory
    elsewhere: bool = False
    burning: bool = False
    surging: bool = False

    @property
    def at(self) -> float:
        """The instant of the tick."""
        return self.ledger.fleet.at

    @property
    def name(self) -> str:
        """The name of the replica in the whole fleet, or of the pool."""
        return self.pool.key.replica(self.run.subject) if self.run.subject else str(self.pool.key)

    @property
    def page_about(self) -> str:
        """What pages about it name: one pool whose starts fail is one episode, however many starts fail."""
        return str(self.pool.key) if self.why.cause == START_OVERDUE.code else self.name

    @property
    def cordon(self) -> CordonMemory | None:
        """Our cordon of it."""
        return self.ledger.cordons.get(self.name)

    @property
    def seen(self) -> ReplicaMemory | None:
        """What was last seen of its counters."""
        return self.ledger.seen.memory.get(self.name)


def holds(condition: Condition, subject: Subject) -> bool:
    """Return whether ``condition`` holds; what is not known does not."""
    return _holds(condition.written, subject)


def _holds(written: Any, subject: Subject) -> bool:
    if isinstance(written, str):
        return bool(_SO[written](subject))
    ((word, inner),) = written.items()
    if word == "not":
        return not _holds(inner, subject)
    if word == "all":
        return all(_holds(each, subject) for each in inner)
    if word == "any":
        return any(_holds(each, subject) for each in inner)
    return _QUANTITIES[word](subject) >= float(inner)  # of NaN false


# Whether something is so


def recovered(cordon: CordonMemory | None, known: ReplicaMemory | None) -> bool:
    """Return whether a replica that we cordoned works again.

    A new life is a fresh start; else a hung engine must have worked, a slow one must keep up with its peers. One that
    answered with errors has no chance to show that it would not: nothing comes in.
    """
    if cordon is None or known is None:
        return False
    if known.life != cordon.life:
        return True
    if cordon.cause == ERRORS.code:
        return False
    if cordon.cause == STRAGGLER.code:
        return not known.slow_at
    if known.answered_at is not None and known.answered_at > cordon.at:
        return True
    counters = (cordon.steps_total, known.steps_total), (cordon.output_tokens_total, known.output_tokens_total)
    return any(None not in (before, now) and before != now for before, now in counters)


def doubt(replica: ReplicaState, cordon: CordonMemory, known: ReplicaMemory) -> str:
    """Return why a replica that was cordoned as hung may be alive after all; empty when the gateway rules that out.

    Nothing new comes in after the cordon. Where answers are counted and none came, whatever left was given up by its
    client. Where they are not, requests that end are a sign of life that only a human can weigh. A gateway that was
    away and finds nothing inside has seen nothing either.
    """
    if math.isnan(replica.in_flight_requests):
        return "no gateway confirms it, so that it is not restarted"
    if not cordon.confirmed:
        return "no gateway saw it stand still with requests inside, so that it is not restarted"
    if known.fell_at is not None and known.fell_at > cordon.at:
        return "requests inside ended since, answered or given up, so that it is not restarted"
    return ""


def _is(subject: Subject, phase: Phase) -> bool:
    return subject.replica is not None and subject.replica.phase is phase


def _recovered(subject: Subject) -> bool:
    return _is(subject, Phase.READY) and recovered(subject.cordon, subject.seen)


def _confirmed(subject: Subject) -> bool:
    if subject.cordon is not None and subject.cordon.confirmed:
        return True
    return subject.diagnosis is not None and confirmed(subject.diagnosis)


def _in_doubt(subject: Subject) -> bool:
    cordon, seen = subject.cordon, subject.seen
    if subject.replica is None or cordon is None or seen is None or cordon.cause != HANG.code:
        return False
    return doubt(subject.replica, cordon, seen) != ""


def _node_suspect(subject: Subject) -> bool:
    replica, ledger = subject.replica, subject.ledger
    if replica is None or not replica.node:
        return False
    node = ledger.fleet.nodes.get(replica.node)
    if (node is not None and not node.ready) or _gpu_fault(subject):
        return True
    return any(a.kind == "restart" and a.node == replica.node and a.target != replica.id for a in ledger.actions)


def _gpu_fault(subject: Subject) -> bool:
    return subject.replica is not None and subject.replica.node in subject.ledger.gpu_faults


def _sound(subject: Subject) -> bool:
    roster = subject.pool.roster
    serving = [r for r in roster.replicas if r.serving]
    return len(serving) >= subject.pool.desired and subject.diagnosis is None


def _lead_time_known(subject: Subject) -> bool:
    return subject.ledger.lead_times[str(subject.pool.key)].measured


def _good_revision(subject: Subject) -> bool:
    known = subject.ledger.known.get(str(subject.pool.key))
    return known is not None and good_revision(subject.pool, known, subject.ledger.settings) != ""


def _rolled_back(subject: Subject) -> bool:
    return subject.pool.revision != subject.run.life


def _rolled_back_before(subject: Subject) -> bool:
    key, revision = str(subject.pool.key), subject.pool.revision
    if any((a.pool, a.kind, a.target) == (key, ROLL_BACK, revision) for a in subject.ledger.actions):
        return True
    known = subject.ledger.known.get(key)
    before = known.revisions.get(revision) if known is not None else None
    return before is not None and before.rolled_back_at is not None


_SO: Mapping[str, Callable[[Subject], bool]] = {
    "sick": lambda s: s.diagnosis is not None,
    "confirmed": _confirmed,
    "in_doubt": _in_doubt,
    "recovered": _recovered,
    "cordoned": lambda s: s.replica is not None and s.replica.cordoned,
    "ready": lambda s: _is(s, Phase.READY),
    "empty": lambda s: s.replica is not None and s.name in s.ledger.seen.fresh and s.replica.empty,
    "compared": lambda s: s.diagnosis is not None and compared(s.diagnosis),
    "errors_seen": lambda s: s.replica is not None and s.replica.failed_answers_total > 0,
    "placed": lambda s: s.replica is not None and s.replica.phase is not Phase.PENDING,
    "node_suspect": _node_suspect,
    "gpu_fault": _gpu_fault,
    "nodes_may_be_avoided": lambda s: s.ledger.settings.may_avoid_nodes,
    "lead_time_known": _lead_time_known,
    "good_revision": _good_revision,
    "rolled_back": _rolled_back,
    "rolled_back_before": _rolled_back_before,
    "paused": lambda s: s.pool.paused,
    "sound": _sound,
    "room_elsewhere": lambda s: s.elsewhere,
    "out_of_use": lambda s: s.pool.weight == 0,
    "burning": lambda s: s.burning,
    "surging": lambda s: s.surging,
}


# From which quantity on


def _sick_s(subject: Subject) -> float:
    return math.nan if subject.diagnosis is None else subject.at - subject.diagnosis.since_at


def _out_of_traffic_s(subject: Subject) -> float:
    """Return how long it has been out of traffic; NaN while its metrics are not fresh."""
    if subject.cordon is None or subject.name not in subject.ledger.seen.fresh:
        return math.nan
    return subject.at - subject.cordon.at


def _silent_s(subject: Subject) -> float:
    """Return for how long nothing spoke for it.

    While it is believed to hang, that is since then. When nothing is left inside that could stand still, only the time
    counts for which it was scraped since it was taken out of traffic.
    """
    if subject.diagnosis is not None:
        return subject.at - subject.diagnosis.since_at
    if subject.cordon is None or subject.seen is None or subject.name not in subject.ledger.seen.fresh:
        return math.nan
    return subject.seen.observed_at - subject.cordon.at


def _failed_lead_times(subject: Subject) -> float:
    """Return for how long it has not been started again, since it exited or since the platform should have.

    Where starts of others failed too, it was no fault of its own, and the platform's next try may be the first that
    can succeed: that one is waited for, however far the platform has backed off.
    """
    replica, ledger = subject.replica, subject.ledger
    if replica is None or replica.phase is not Phase.FAILED:
        return math.nan
    known = ledger.known.get(str(subject.pool.key))
    failures = known.failures if known is not None else ()
    others = any(
        f.kind == EXIT and not f.serving and f.life.split("#")[0] != replica.id and f.at >= subject.at - STARTS_FAILED_S
        for f in failures
    )
    waited_s = subject.at - replica.since_at - others * LONGEST_BACK_OFF_S
    return waited_s / ledger.lead_times[str(subject.pool.key)].p90_s


_QUANTITIES: Mapping[str, Callable[[Subject], float]] = {
    "running_s": lambda s: s.at - s.run.began_at,
    "sick_s": _sick_s,
    "out_of_traffic_s": _out_of_traffic_s,
    "silent_s": _silent_s,
    "failed_lead_times": _failed_lead_times,
}
