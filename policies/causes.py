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
UNKNOWN = Cause("unknown", "unknown", "evidence of one kind only")

CAUSES: Mapping[str, Cause] = {
    cause.name: cause for cause in (HANG, EXITED, ERRORS, START_OVERDUE, STRAGGLER, EXPORTER, UNKNOWN)
}

STILL_SERVING = (STRAGGLER.code, ERRORS.code)
"""Causes for which a replica is taken out of traffic although it serves."""

_OF_CORDONS: Mapping[str, Cause] = {cause.code: cause for cause in (HANG, ERRORS, STRAGGLER)}


def cause_of(diagnosis: Diagnosis) -> Cause:
    """Return what is believed, by the name that the diagnosis gives or, of older records, by its code."""
    if diagnosis.name:
        return CAUSES[diagnosis.name]
    if diagnosis.cause == EXITED.code:
        return ERRORS if "cohort" in diagnosis.families else EXITED
    return next((cause for cause in CAUSES.values() if cause.code == diagnosis.cause), UNKNOWN)


def cause_of_cordon(code: str) -> Cause:
    """Return for what a replica was taken out of traffic, by the code that is on record."""
    return _OF_CORDONS.get(code, UNKNOWN)
