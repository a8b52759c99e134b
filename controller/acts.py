"""What is a remedy called: as an act with a subject in records, and in words to people?"""

from __future__ import annotations

from dataclasses import dataclass

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
    UncordonReplica,
)


@dataclass(frozen=True, slots=True)
class Named:
    """An act as records name it, and what is done, in words."""

    act: Act
    subject: str
    words: str


def named(remedy: Remediation) -> Named | None:
    """Return what ``remedy`` is called; None for a failover, which the traffic plan of its decision carries out."""
    match remedy:
        case CordonReplica(replica=name, pool=pool, cause=cause):
            return Named("cordon", pool.replica(name), f"cordon {name}: {cause}")
        case UncordonReplica(replica=name, pool=pool, cause=cause):
            return Named("uncordon", pool.replica(name), f"uncordon {name}: {cause}")
        case RestartReplica(replica=name, pool=pool, cause=cause):
            return Named("restart", pool.replica(name), f"restart {name}: {cause}")
        case RollBack(pool=pool, revision=good, bad=bad, cause=cause):
            return Named("roll back", str(pool), f"roll back from revision {bad} to {good}: {cause}")
        case PauseRollout(pool=pool, cause=cause) | ResumeRollout(pool=pool, cause=cause):
            pauses = isinstance(remedy, PauseRollout)
            words = "pause its rollout" if pauses else "let its rollout go on"
            return Named("pause" if pauses else "resume", str(pool), f"{words}: {cause}")
        case AvoidNode(node=node, cause=cause):
            return Named("avoid", node, f"place nothing more there: {cause}")
        case Page(subject=subject, message=message):
            return Named("page", subject, message)
        case FailOver():
            return None
