"""Which idle replica is asked for one token now?

Only one of which nothing else tells: READY, silent for a while, with nothing known to be inside beside our own requests
that were never answered; and replicas that we took out of traffic as hung. What follows from the answers is in
``canary_evidence``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from policies.canary_evidence import IN_A_ROW, LONGEST_BACK_OFF_S, SAID, CanaryLook, CanarySettings
from policies.causes import HANG
from policies.decisions import Reason, SendCanary
from policies.fleet import FleetState, PoolKey, Role
from policies.healing_memory import CanaryBooks, CanaryMemory, CordonMemory
from policies.roster import Bools
from policies.watched import WatchedReplicas

ROUTINE_RATIO = 0.75
"""Share of the hourly cap that idle replicas may use up; the rest is for those that did not answer."""


_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom to ask now."""

    canaries: tuple[SendCanary, ...] = ()
    reasons: tuple[Reason, ...] = ()
    books: CanaryBooks = field(default_factory=CanaryBooks)


def ask(
    fleet: FleetState,
    books: CanaryBooks,
    watched: WatchedReplicas,
    cordons: Mapping[str, CordonMemory],
    ours: Collection[str],
    settings: CanarySettings,
    max_age_s: float,
) -> Asked:
    """Return who is asked now, within the caps, and what to remember of that.

    Who did not answer comes first, then what we took out of traffic as hung, then a peer for each who did not answer,
    then whoever has been silent longest: one that answers thereby goes to the end of that row.

    Args:
        fleet: As observed.
        books: As ``hear`` left them.
        watched: As there.
        cordons: Replicas that we took out of traffic, by name.
        ours: Keys of the pools that are ours.
        settings: How much may be asked.
        max_age_s: Who was not scraped for so long may be busy.
    """
    if not settings.enabled or not any(len(pool.roster) for pool in fleet.pools):
        return Asked(books=books if settings.enabled else CanaryBooks())
    look = CanaryLook(fleet, watched, max_age_s)
    draft = _Draft(look, books, settings)
    reachable = _reachable(look, ours)
    for place, why in _pressing(draft, reachable, cordons):
        draft.take(place, why)
    idle = np.flatnonzero(reachable & look.serving & look.calm & (look.inside == 0)).tolist()
    for place in _controls(draft, idle):
        draft.take(place, "a peer did not answer")
    silent = [place for place in idle if look.silent_s[place] >= settings.silent_s]
    for place in sorted(silent, key=lambda place: -look.silent_s[place]):
        if draft.full:
            break
        if look.name(place) not in draft.replicas:
            draft.take(place, f"no token for {look.silent_s[place]:.0f} s", routine=True)
    return draft.asked_for()


def _reachable(look: CanaryLook, ours: Collection[str]) -> Bools:
    """Return ``bool[N]``, who may be asked if nothing is inside: READY, with an address, and serving whole requests.

    A part of a disaggregated model does not answer by itself.
    """
    mine = [str(p.key) in ours and p.key.role is Role.UNIFIED for p in look.fleet.pools for _ in p.roster.ids]
    found: Bools = look.column("ready").astype(np.bool_) & look.column("addressed").astype(np.bool_)
    return found & np.array(mine, np.bool_)


def _pressing(draft: _Draft, reachable: Bools, cordons: Mapping[str, CordonMemory]) -> Iterator[tuple[int, str]]:
    """Yield those who did not answer and are due again, and those out of traffic of whom nobody knows.

    What is inside one that did not answer may be what it was asked, as often as it did not.
    """
    look = draft.look
    hung = {name for name, cordon in cordons.items() if cordon.cause == HANG.code}
    for name in dict.fromkeys((*draft.books.replicas, *sorted(hung))):
        place, known = look.places.get(name), draft.books.replicas.get(name)
        if place is None or not reachable[place] or (look.replica(place).cordoned and name not in hung):
            continue
        failed = 0 if known is None else known.failed
        if not (look.calm[place] and look.inside[place] <= failed):
            continue
        if known is not None and failed:
            if _due_again(known, look.fleet.at, draft.settings):
                yield place, f"{failed} in a row {SAID[known.kind or 'late']}"
        elif name in hung and known is None and look.silent_s[place] >= draft.settings.back_off_s:
            yield place, "out of traffic as hung: does it answer again?"


def _due_again(known: CanaryMemory, at: float, settings: CanarySettings) -> bool:
    """Return whether one that did not answer is asked again: at once, and ever later once it is evidence."""
    if known.outcome == "" or known.failed < IN_A_ROW:
        return known.outcome != ""
    wait_s = settings.back_off_s * 2.0 ** min(known.failed - IN_A_ROW, 10)
    return at - known.asked_at >= min(wait_s, LONGEST_BACK_OFF_S)


def _controls(draft: _Draft, idle: Sequence[int]) -> Iterator[int]:
    """Yield an idle peer for each pool in which somebody did not answer and nobody else has been heard since."""
    look, known_of = draft.look, draft.replicas
    suspected: dict[str, float] = {}
    for name, known in draft.books.replicas.items():
        if known.kind == "late" and known.first_at is not None and name in look.places:
            pool = str(look.pool(look.places[name]).key)
            suspected[pool] = max(known.first_at, suspected.get(pool, known.first_at))
    for pool, first_at in suspected.items():
        if draft.books.heard_at.get(pool, -math.inf) > first_at:
            continue
        members = [place for place in idle if str(look.pool(place).key) == pool]
        before = {place: known_of.get(look.name(place)) for place in members}
        free = [place for place, known in before.items() if known is None or known.outcome == "answered"]
        waiting = any(k is not None and k.outcome == "" and k.asked_at > first_at for k in before.values())
        if free and not waiting:
            yield max(free, key=lambda place: look.silent_s[place])


class _Draft:
    """Who is asked at this tick, and what is left of the caps."""

    def __init__(self, look: CanaryLook, books: CanaryBooks, settings: CanarySettings) -> None:
        self.look, self.books, self.settings = look, books, settings
        self.replicas = dict(books.replicas)
        self._canaries: list[SendCanary] = []
        self._reasons: list[Reason] = []
        self._refused: set[str] = set()
        recent = {m: tuple(t for t in times if look.fleet.at - t < _HOUR_S) for m, times in books.asked_at.items()}
        self._asked = {model: times for model, times in recent.items() if times}
        self._due: dict[str, int] = {}

    @property
    def full(self) -> bool:
        """Whether the fleet's cap is used up."""
        return len(self._canaries) >= self.settings.most_per_tick

    def take(self, place: int, why: str, *, routine: bool = False) -> None:
        """Ask one of them, if the caps allow it; a routine question waits for its turn."""
        look, settings, at = self.look, self.settings, self.look.fleet.at
        pool, replica, name = look.pool(place), look.replica(place), look.name(place)
        model, times = pool.key.model, self._asked.get(pool.key.model, ())
        if routine and not self._routine_left(model, times):
            return
        if self.full or len(times) >= settings.most_per_hour:
            self._refuse(model, len(times))
            return
        if routine:
            self._due[model] -= 1
        known = self.replicas.get(name) or CanaryMemory(look.life(place), at)
        self.replicas[name] = replace(known, asked_at=at, outcome="")
        self._asked[model] = (*times, at)
        self._canaries.append(SendCanary(replica.id, pool.key, replica.address, at, settings.deadline_s))
        self._reasons.append(Reason("canary", replica.id, 0, 1, f"asked for one token: {why}"))

    def _routine_left(self, model: str, times: tuple[float, ...]) -> bool:
        """Return whether the model is due another one: they come evenly over the hour, not all at once."""
        most = ROUTINE_RATIO * self.settings.most_per_hour
        if model not in self._due:
            since_s = self.look.fleet.at - times[-1] if times else _HOUR_S / most
            self._due[model] = int(since_s * most / _HOUR_S + 1e-9)
        return self._due[model] > 0 and len(times) < most

    def _refuse(self, model: str, asked: int) -> None:
        if model not in self._refused:
            self._refused.add(model)
            detail = f"{asked} in the last hour, {len(self._canaries)} in this tick: as many as may be"
            self._reasons.append(Reason("canary cap", model, asked, asked, detail))

    def asked_for(self) -> Asked:
        """Return what came of it."""
        books = CanaryBooks(self._asked, self.books.heard_at, self.replicas)
        return Asked(tuple(self._canaries), tuple(self._reasons), books)


def unasked(books: CanaryBooks, held: Collection[str], at: float | None) -> CanaryBooks:
    """Return ``books`` as if those of ``held``, by name, had not been asked at ``at``."""
    replicas, asked = dict(books.replicas), dict(books.asked_at)
    for name in held:
        known = replicas.get(name)
        if known is None or known.asked_at != at:
            continue
        model = PoolKey.parse(name.rpartition("/")[0]).model
        asked[model] = asked.get(model, ())[:-1]
        if known.first_at is not None:
            replicas[name] = replace(known, asked_at=known.first_at, outcome="unheard")
        else:
            del replicas[name]
    return CanaryBooks({model: times for model, times in asked.items() if times}, books.heard_at, replicas)
