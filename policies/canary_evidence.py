"""What follows when an idle replica that was asked for one token gives none?

A replica that gets no requests shows nothing: no counter moves whether it is well or hangs. Whom to ask, so that it
shows, is in ``canaries``. What comes back is a witness of its own, and convicts nobody alone:

* ``canary``: taken, and not answered in time, twice in a row. ``canary-errors`` and ``canary-unreached``: answered with
  an error, and no connection, as often. All three are one witness.
* ``progress``: the engine's own counters stood still meanwhile, although a request got in: its gauges say so, or a peer
  that was asked since has answered, so that the way to the pool is open and the question is one that engines answer.

Any sign of life clears it. A request that is refused (busy, asked in the wrong way) says nothing of the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Anomaly
from policies.fleet import FleetState, Phase, PoolState, ReplicaState
from policies.healing_memory import CanaryBooks, CanaryMemory
from policies.replica import CanaryOutcome
from policies.roster import Bools, Floats, joined
from policies.watched import WatchedReplicas

IN_A_ROW = 2
"""So many have to fail, all in the same way, for it to be evidence."""

STANDS_S = 900.0
"""How long a failed request is evidence: longer than the longest back-off."""

LONGEST_BACK_OFF_S = 600.0
UNHEARD_S = 60.0
"""How long after its deadline the outcome of a request may be told; then it never will be."""

_KINDS: Mapping[CanaryOutcome, Literal["error", "late", "unreached"]] = {
    CanaryOutcome.ERROR: "error",
    CanaryOutcome.LATE: "late",
    CanaryOutcome.UNREACHED: "unreached",
}
_FAMILIES = {"late": "canary", "error": "canary-errors", "unreached": "canary-unreached"}
SAID = {"late": "were not answered", "error": "were answered with errors", "unreached": "found no connection"}


class CanarySettings(BaseModel):
    """When idle replicas are asked for one token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        False, description="Whether to ask at all: it sends requests that nobody ordered to the engines."
    )
    silent_s: float = Field(
        120.0,
        ge=10,
        le=86400,
        description="Time without a token, and with nothing inside, in seconds, after which a replica is asked.",
    )
    deadline_s: float = Field(
        20.0,
        gt=0,
        le=120,
        description="Time in seconds that the token may take; an idle engine takes less than a second of it.",
    )
    most_per_hour: int = Field(
        480,
        ge=1,
        le=3600,
        description="Most requests per model in an hour. Three quarters are shared out evenly over the idle replicas, "
        "the rest is for those that did not answer.",
    )
    most_per_tick: int = Field(8, ge=1, le=100, description="Most requests in the whole fleet in one tick.")
    back_off_s: float = Field(
        60.0,
        gt=0,
        le=LONGEST_BACK_OFF_S,
        description="Time in seconds before a replica that failed twice is asked again; doubles up to ten minutes.",
    )


@dataclass(frozen=True, slots=True)
class Heard:
    """What follows from the requests so far."""

    anomalies: tuple[Anomaly, ...] = ()
    books: CanaryBooks = field(default_factory=CanaryBooks)


class CanaryLook:
    """The N replicas of a fleet side by side, with what was said of them and what is remembered."""

    def __init__(self, fleet: FleetState, watched: WatchedReplicas, max_age_s: float) -> None:
        self.fleet, self._watched = fleet, watched
        self._rows = [(pool, place) for pool in fleet.pools for place in range(len(pool.roster))]
        self.places = {name: place for place, name in enumerate(watched.names[: len(self._rows)])}
        told = joined([pool.told for pool in fleet.pools])
        self.inside: Floats = told.of("running_requests") + told.of("queued_requests")
        self.calm: Bools = told.fresh(fleet.at, max_age_s) & ~(told.in_flight > 0)
        self.observed_at = self._of_row("observed_at")
        self.alive_at: Floats = np.fmax(self._of_row("moved_at"), self._of_row("answered_at"))
        self.silent_s: Floats = fleet.at - np.fmax(self.alive_at, self.column("since_at"))
        self.serving: Bools = self.column("serving").astype(np.bool_)

    def _of_row(self, name: str) -> Floats:
        found: Floats = self._watched.of_row(name)[: len(self._rows)]
        return found

    def column(self, name: str) -> Floats:
        """Return ``[N]``, a column of the rosters."""
        found: Floats = np.concatenate([getattr(pool.roster, name) for pool in self.fleet.pools])
        return found

    def pool(self, place: int) -> PoolState:
        """Return the pool of one."""
        return self._rows[place][0]

    def replica(self, place: int) -> ReplicaState:
        """Return what the platform says of one."""
        pool, row = self._rows[place]
        return pool.roster.replicas[row]

    def name(self, place: int) -> str:
        """Return its name in the whole fleet."""
        return self._watched.names[place]

    def life(self, place: int) -> str:
        """Return what names its life."""
        return self._watched.lives[place]


def hear(
    fleet: FleetState, books: CanaryBooks, watched: WatchedReplicas, settings: CanarySettings, max_age_s: float
) -> Heard:
    """Return what the answers say, and what to remember of them.

    Args:
        fleet: As observed, with the answers that came.
        books: As of the last tick.
        watched: What is remembered of all replicas as of this tick, those of the fleet first.
        settings: Whether canaries are sent at all; if not, nothing is heard or remembered.
        max_age_s: Older metrics are no evidence.
    """
    if not settings.enabled:
        return Heard()
    there = {str(pool.key) for pool in fleet.pools}
    heard_at = {pool: at for pool, at in books.heard_at.items() if pool in there}
    if not books.replicas:
        return Heard(books=replace(books, heard_at=heard_at))
    look, kept = CanaryLook(fleet, watched, max_age_s), {}
    for name, known in books.replicas.items():
        place = look.places.get(name)
        if place is None or look.life(place) != known.life:
            continue
        after = _told(known, fleet, name, settings)
        if after.outcome not in (known.outcome, "unheard"):
            after = replace(after, told_at=fleet.at)
        if after.outcome == "answered":
            pool = str(look.pool(place).key)
            heard_at[pool] = max(known.asked_at, heard_at.get(pool, known.asked_at))
        matters = _still_counts(after, float(look.alive_at[place]), fleet.at, settings)
        if matters is not None:
            kept[name] = matters
    found = [
        anomaly
        for name, known in kept.items()
        for anomaly in _evidence(look, look.places[name], known, heard_at, settings, max_age_s)
    ]
    return Heard(tuple(found), replace(books, heard_at=heard_at, replicas=kept))


def _told(known: CanaryMemory, fleet: FleetState, name: str, settings: CanarySettings) -> CanaryMemory:
    """Return what is known once its answer, if there is one, is taken in."""
    if known.outcome:
        return known
    answer = fleet.canaries.get(name)
    if answer is None or answer.asked_at != known.asked_at:
        overdue = fleet.at - known.asked_at > settings.deadline_s + UNHEARD_S
        return replace(known, outcome="unheard") if overdue else known
    if answer.outcome is CanaryOutcome.ANSWERED:
        return replace(known, outcome="answered", kind="", failed=0, first_at=None)
    kind = _KINDS.get(answer.outcome)
    if kind is None:
        return replace(known, outcome="refused")
    if known.kind == kind:
        return replace(known, outcome=kind, failed=known.failed + 1)
    return replace(known, outcome=kind, kind=kind, failed=1, first_at=known.asked_at)


def _still_counts(known: CanaryMemory, alive_at: float, at: float, settings: CanarySettings) -> CanaryMemory | None:
    """Return it as far as it still matters: failures not after a sign of life, nor for ever.

    Who has answered is not asked again for a while, whether its counters show that or not.
    """
    if known.first_at is not None and (alive_at > known.first_at or at - known.asked_at > STANDS_S):
        known = replace(known, kind="", failed=0, first_at=None)
    if known.outcome == "" or known.failed:
        return known
    matters_s = {"answered": settings.silent_s, "refused": STANDS_S}.get(known.outcome, 0.0)
    return known if at - known.asked_at < matters_s else None


def _evidence(
    look: CanaryLook,
    place: int,
    known: CanaryMemory,
    heard_at: Mapping[str, float],
    settings: CanarySettings,
    max_age_s: float,
) -> Iterator[Anomaly]:
    at, pool, replica = look.fleet.at, look.pool(place), look.replica(place)
    if known.failed < IN_A_ROW or known.first_at is None or replica.phase is not Phase.READY or not known.kind:
        return
    detail = (
        f"{known.failed} requests for one token in a row {SAID[known.kind]}, the first {at - known.first_at:.0f} s ago"
    )
    score = known.failed / IN_A_ROW
    yield Anomaly(_FAMILIES[known.kind], replica.id, pool.key, score, known.first_at, detail)
    observed_at = float(look.observed_at[place])
    stood = observed_at >= known.first_at + settings.deadline_s and at - observed_at <= max_age_s
    peer_at = heard_at.get(str(pool.key), -math.inf)
    if known.kind != "late" or not stood:
        return
    if look.inside[place] > 0:
        witness = f"{look.inside[place]:.0f} of them inside, as it says itself"
    elif peer_at > known.first_at:
        witness = f"a peer that was asked {at - peer_at:.0f} s ago has answered"
    else:
        return
    detail = f"no engine step since the first of them was sent: {witness}"
    yield Anomaly("progress", replica.id, pool.key, score, known.first_at, detail)
