"""What does a platform that is watched say of itself: how fresh is what it told, what did its API answer?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CODES = ("400", "401", "403", "404", "409", "410", "422", "429", "500", "502", "503", "504")
"""Statuses that are told one by one; others would let whatever answers make up labels."""

NO_ANSWER, OTHER = "none", "other"
FINE = "2xx"


def code_of(status: int) -> str:
    """Return what a status is counted as.

    >>> [code_of(status) for status in (201, 409, 418)]
    ['2xx', '409', 'other']
    """
    if 200 <= status < 300:
        return FINE
    return str(status) if str(status) in CODES else OTHER


@dataclass(frozen=True, slots=True)
class WatchFigures:
    """How the watches of one kind of object do, all namespaces together.

    Attributes:
        cluster: Member that it is in; empty where there is one cluster.
        resource: As rules of roles name it: ``deployments.apps``.
        age_s: Seconds since anything was heard of the one that was silent longest; since it began where nothing was.
        lists: Lists that were taken over: the first one, those after ``resync_s``, and where a watch lost the thread.
        failures: Rounds that an error ended.
    """

    cluster: str
    resource: str
    age_s: float
    lists: int
    failures: int


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """All there is to say at one instant; counts begin anew when the settings are loaded anew.

    Attributes:
        watches: Each kind of object of each cluster once.
        answers: Counts by cluster, verb and ``code_of``, ``NO_ANSWER`` where none came.
        events: Counts of Events by what became of them: ``told``, ``refused``, ``dropped`` (too many waited).
    """

    watches: tuple[WatchFigures, ...] = ()
    answers: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)


def no_figures() -> ClusterFigures:
    """Return nothing: the platform is not one that is watched."""
    return ClusterFigures()
