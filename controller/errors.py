"""Which errors a user or the loop can meet, as one tree.

::

    ForesailError                  says what is wrong, where, and what to do
    |- BadInput                    the user's file, option or setting is wrong (exit code 2)
    |  `- BadSetting               ... in the settings file: file, line, key, remedy
    |- ObservationError            the world could not be read; the loop holds
    |  `- QueryRefused             ... one question of many: the others may have been answered
    |- ActuationError              a write failed or was refused; the loop records it and goes on
    |  `- StalePlan                the plan expired or the object changed since it was looked at
    |- RegistryError               the model registry or an artifact cannot be used
    `- AuditError                  the audit log cannot be opened, written or read

The loop catches ObservationError and ActuationError. Anything outside this tree is a bug.
"""

from __future__ import annotations


class ForesailError(Exception):
    """Root of the tree.

    Args:
        what: What is wrong, with the value that is.
        where: File, line, key or option it was found at.
        remedy: What to do about it.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.remedy}" if self.remedy else text


class BadInput(ForesailError):
    """Something the user gave cannot be used."""


class BadSetting(BadInput):
    """A setting is unknown, of the wrong type, or impossible."""


class ObservationError(ForesailError):
    """Metrics or cluster state could not be read."""


class QueryRefused(ObservationError):
    """One query was refused, or its answer cannot be used; others may be answered."""


class ActuationError(ForesailError):
    """A write to the cluster or router failed or was refused."""


class StalePlan(ActuationError):
    """The plan is older than it may be, or its object has changed."""


class RegistryError(ForesailError):
    """The model registry cannot be opened, or an artifact is missing, damaged or not what it claims."""


class AuditError(ForesailError):
    """The audit log cannot be opened, written or read."""
