"""In which words, and under which reason, do people read in an Event what was done, what was not, and what was held?

``kubectl get events`` shows the object and the reason beside the message: it says what became of that object first, and
why after a colon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.plans import Part
from controller.ports import Act, ActResult
from controller.recommendations import what_of
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Decision,
    FailOver,
    Page,
    PauseRollout,
    Reason,
    Remediation,
    RestartReplica,
    ResumeRollout,
    RollBack,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)

HUMAN_CALLED = "HumanCalled"
MOST_BYTES = 1024
"""An API server takes no longer message."""

_HEALED: Mapping[type[Remediation], tuple[str, str]] = {
    CordonReplica: ("ReplicaCordoned", "took replica {part.replica} out of traffic ({cause})"),
    UncordonReplica: ("ReplicaUncordoned", "gave replica {part.replica} its traffic back ({cause})"),
    RestartReplica: ("ReplicaRestarted", "ended replica {part.replica}, so that another one starts ({cause})"),
    RollBack: ("RolledBack", "rolled back from revision {part.bad} to {part.revision} ({cause})"),
    PauseRollout: ("RolloutPaused", "paused its rollout ({cause})"),
    ResumeRollout: ("RolloutResumed", "let its rollout go on ({cause})"),
    AvoidNode: ("NodeAvoided", "no further replicas are placed here ({cause})"),
}
"""What each remedy is told as once it is done."""

_FAILED: Mapping[Act, str] = {
    "cordon": "CordonFailed",
    "uncordon": "UncordonFailed",
    "restart": "RestartFailed",
    "roll back": "RollBackFailed",
    "pause": "PauseFailed",
    "resume": "ResumeFailed",
    "avoid": "AvoidFailed",
    "weights": "TrafficShiftFailed",
    "scale": "ScaleFailed",
}
_STALE = "the plan is stale"
_HELD = (
    ("waits for approval", "HeldForApproval", ""),
    ("mode ", "HeldByMode", ""),
    ("kill switch", "HeldByKillSwitch", ""),
    ("maintenance", "HeldForMaintenance", ""),
    (_STALE, "HeldAsStale", "; the next tick plans anew"),
    ("not on record", "HeldUnrecorded", ""),
)
"""How what held an act begins, as what that is told, and what comes of it."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """How a rule that withholds something is told.

    Attributes:
        warning: Whether it is worth one.
        words: With the reason's ``detail``, and the numbers ``before`` and ``after`` the rule.
    """

    reason: str
    warning: bool
    words: str


_LIMITED = "Limited to {after} of {before} replicas by the {rule}: {detail}"
_NOT_HEALED = "Not healed now, by the {rule}: {detail}"
_NOT_ROLLED_BACK = "Not rolled back, {rule}: {detail}"

WITHHELD: Mapping[str, Withheld] = {
    "other owner": Withheld("ScaleRefused", True, "Not scaled: {detail}"),
    "failing pool": Withheld("ScaleRefused", True, "Not scaled up: it would get no more replicas while it fails"),
    "growth held": Withheld("ScaleRefused", True, "Kept at {after} of {before} replicas: {detail}"),
    "GPU budget": Withheld("ScaleLimited", True, _LIMITED),
    "money budget": Withheld("ScaleLimited", True, _LIMITED),
    "bounds": Withheld("ScaleLimited", False, _LIMITED),
    "blind": Withheld("HeldUnobserved", True, "Not scaled for want of data: {detail}"),
    "out of room": Withheld("OutOfRoom", True, "No room for all replicas that the load needs: {detail}"),
    "waiting for GPUs": Withheld("WaitingForGpus", True, "Waiting for GPUs: {detail}"),
    "breaker": Withheld("HealingStopped", True, "Healing stopped: {detail}"),
    "disruption budget": Withheld("HealingRefused", False, _NOT_HEALED),
    "fleet disruption budget": Withheld("HealingRefused", False, _NOT_HEALED),
    "serving floor": Withheld("HealingRefused", False, _NOT_HEALED),
    "node budget": Withheld("HealingRefused", True, _NOT_HEALED),
    "attempt cap": Withheld("HealingRefused", True, _NOT_HEALED),
    "no good revision": Withheld("RollBackRefused", True, _NOT_ROLLED_BACK),
    "rolled back before": Withheld("RollBackRefused", True, _NOT_ROLLED_BACK),
    "no failover": Withheld("FailoverRefused", True, "Traffic not moved elsewhere: {detail}"),
    "seen again": Withheld("SeenAgain", False, "Seen again: {detail}"),
}
"""Rules that withhold something, and what ends that."""


def done_words(part: Part, decision: Decision) -> tuple[str, str]:
    """Return the reason of what was done, and what that is, in the past tense and without why."""
    match part:
        case ScalingPlan(current=before, desired=after):
            direction = "up" if after > before else "down"
            return f"Scaled{direction.capitalize()}", f"scaled {direction} from {before} to {after} replicas"
        case TrafficPlan(model=model) | FailOver(model=model):
            failed_over = any(isinstance(one, FailOver) and one.model == model for one in decision.remediations)
            shared = what_of(part).replace("share traffic", "traffic is shared", 1)
            return ("FailedOver", f"failed over: {shared}") if failed_over else ("TrafficShifted", shared)
        case Page(message=message):
            return HUMAN_CALLED, message
        case _:
            reason, words = _HEALED[type(part)]
            return reason, words.format(part=part, cause=_cause(part.cause, decision))


def undone_words(part: Part, result: ActResult) -> tuple[str, str]:
    """Return the reason of what was held or failed, and what that is, without why it was to be done."""
    what = f"call a human: {part.message}" if isinstance(part, Page) else what_of(part)
    detail = " ".join(result.detail.split())
    if result.outcome == "failed":
        return _FAILED.get(result.act, "Failed"), f"Could not {what}: {detail}"
    known = ((reason, then) for begins, reason, then in _HELD if detail.startswith(begins))
    reason, then = next(known, ("Held", ""))
    return reason, f"Would {what}; held: {detail}{then}"


def withheld_words(reason: Reason) -> str:
    """Return what a rule of ``WITHHELD`` withheld, and why."""
    before, after = f"{reason.before:.4g}", f"{reason.after:.4g}"
    return WITHHELD[reason.rule].words.format(rule=reason.rule, detail=reason.detail, before=before, after=after)


def capital(text: str) -> str:
    """Return ``text`` as a sentence begins."""
    return text[:1].upper() + text[1:]


def shortened(message: str) -> str:
    """Return a message that an API server takes: on one line, and not too long."""
    line = " ".join(message.split())
    told = line.encode()
    return line if len(told) <= MOST_BYTES else told[: MOST_BYTES - 3].decode(errors="ignore") + "..."


def _cause(cause: str, decision: Decision) -> str:
    """Return a cause with its name, where the decision says it: ``F7 hang``."""
    name = next((d.name for d in decision.diagnoses if d.cause == cause and d.name), "")
    return f"{cause} {name}" if name else cause
