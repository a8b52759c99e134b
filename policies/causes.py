"""Which troubles can be told apart, what are they called, and which playbook treats each?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.decisions import Diagnosis
from policies.facts import Scope


@dataclass(frozen=True, slots=True)
class Cause:
    """One row of the failure catalogue that can be told, or one way in which it shows.

    Attributes:
        name: What settings and playbooks call it.
        code: Of the failure catalogue.
        title: In a few words.
        scope: Whether it is told of a replica or of a whole pool.
        playbook: What treats it unless the settings say otherwise; empty for nothing.
        gravity: Of two that are believed of one subject, the larger is treated.
    """

    name: str
    code: str
    title: str
    scope: Scope = "replica"
    playbook: str = ""
    gravity: int = 0


HANG = Cause("hang", "F1", "engine hangs, process alive", playbook="eject-and-restart", gravity=8)
EXITED = Cause("exited", "F2", "engine exited", playbook="leave-to-the-platform", gravity=9)
ERRORS = Cause("errors", "F2", "engine answers with errors, process alive", playbook="replace-failing", gravity=7)
START_OVERDUE = Cause("start-overdue", "F4", "start does not finish", playbook="restart-overdue", gravity=6)
STRAGGLER = Cause("straggler", "F8", "one slow replica", playbook="replace-slow", gravity=5)
EXPORTER = Cause("exporter-frozen", "F13", "its metrics stand still, it does not", playbook="repair-metrics", gravity=2)
CUT_OFF = Cause("cut-off", "F12", "the gateway does not reach it, it is well", playbook="take-out-for-now", gravity=7)
HARDWARE = Cause("hardware", "F9", "its GPU is at fault", playbook="replace-elsewhere", gravity=10)
COLD_START = Cause("cold-start", "F19", "slow because it has just started", gravity=4)
COUNTER_RESET = Cause("counter-reset", "F14", "its counters began anew, it did not", gravity=1)
UNKNOWN = Cause("unknown", "unknown", "evidence of one kind only")

BAD_REVISION = Cause("bad-revision", "F3", "a new revision fails", "pool", "freeze-and-roll-back", 10)
STARTS_FAIL = Cause("starts-fail", "F4", "replicas of every revision fail to start", "pool", "hold-and-page", 9)
POISON = Cause(
    "poison", "F20", "one replica after the other exits: a request may kill them", "pool", "hold-and-page", 8
)
OUT_OF_MEMORY = Cause("out-of-memory", "F5", "engines run out of memory", "pool", "add-capacity", 7)
NODE_TROUBLE = Cause("node-trouble", "F11", "a node is lost or leaves", "pool", "make-good", 6)
UNREACHABLE = Cause("unreachable", "F12", "the gateway does not reach its engines", "pool", "fail-over", 6)
METRICS_LOST = Cause("metrics-lost", "F13", "metrics are missing, not engines", "pool", "wait-for-metrics", 5)
RETRY_STORM = Cause("retry-storm", "F17", "clients ask again for what failed", "pool", "ride-out-retries", 4)
PREEMPTIONS = Cause("preemption-storm", "F6", "requests push each other out of the KV cache", "pool", "add-capacity", 3)
OVERLOAD = Cause("overload", "F7", "more load than all replicas together can carry", "pool", "leave-to-scaling", 2)

CAUSES: Mapping[str, Cause] = {
    cause.name: cause
    for cause in (
        HANG, EXITED, ERRORS, START_OVERDUE, STRAGGLER, EXPORTER, CUT_OFF, HARDWARE, COLD_START, COUNTER_RESET, UNKNOWN,
        BAD_REVISION, STARTS_FAIL, POISON, OUT_OF_MEMORY, NODE_TROUBLE, UNREACHABLE, METRICS_LOST, RETRY_STORM,
        PREEMPTIONS, OVERLOAD,
    )
}  # fmt: skip

STILL_SERVING = (STRAGGLER.code, ERRORS.code)
"""Causes for which a replica is taken out of traffic although it serves."""

_OF_CORDONS: Mapping[str, Cause] = {cause.code: cause for cause in (HANG, ERRORS, STRAGGLER, CUT_OFF, HARDWARE)}


def cause_of(diagnosis: Diagnosis) -> Cause:
    """Return what is believed, by the name that the diagnosis gives or, of older records, by its code."""
    if diagnosis.name:
        return CAUSES[diagnosis.name]
    if diagnosis.cause == EXITED.code:
        return ERRORS if "cohort" in diagnosis.families else EXITED
    scope = "replica" if diagnosis.subject else "pool"
    return next((c for c in CAUSES.values() if (c.code, c.scope) == (diagnosis.cause, scope)), UNKNOWN)


def cause_of_cordon(code: str) -> Cause:
    """Return for what a replica was taken out of traffic, by the code that is on record."""
    return _OF_CORDONS.get(code, UNKNOWN)
