"""Which acts of an incident were held, and did its subject work while they were wanted?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from controller.incidents.incident import HeldAct
from controller.incidents.looks import condition_of, life_of, remedy_s, works
from controller.incidents.ticks import Subject, Tick, WantedAct

_NO_DRY_RUN = ("the plan is stale", "not on record", "an error that nobody foresaw")
_NOT_JUDGED = ("page", "uncordon")
_SERVING_ILL = frozenset(("latency", "answers", "errors", "cohort"))


@dataclass(slots=True)
class _Wanted:
    """A held act while it is wanted: how often it was looked at, and how often its subject was seen to work.

    Of what stands still one step proves that it works; what is slow or fails requests may have a good moment, so that
    it must have worked in most looks.
    """

    act: HeldAct
    once_is_enough: bool
    looks: int = 0
    worked: int = 0
    worked_at: float | None = None

    def told(self) -> HeldAct:
        works_on = self.worked > 0 if self.once_is_enough else 2 * self.worked > self.looks
        return replace(self.act, worked_at=self.worked_at if works_on else None)


class HeldActs:
    """The held acts of one incident, each once per life of its subject."""

    def __init__(self, subject: Subject, since_at: float) -> None:
        """Begin with none; what was asked for since ``since_at`` may be a replacement."""
        self._subject, self._since_at = subject, since_at
        self._wanted: dict[tuple[str, str], _Wanted] = {}

    def take(self, tick: Tick, before: Tick | None, act: WantedAct, families: Collection[str], *, ill: bool) -> None:
        """Note that ``act`` was held in ``tick``, whose evidence is of ``families`` where its subject is ``ill``."""
        if act.verb in _NOT_JUDGED or act.detail.startswith(_NO_DRY_RUN):
            return
        key = (act.verb, life_of(tick, self._subject))
        wanted = self._wanted.get(key)
        if wanted is None:
            where = condition_of(tick, self._subject, self._since_at)
            helps_s = remedy_s(tick, act.verb, act.pool or self._subject.pool)
            made = HeldAct(act.verb, tick.at, tick.at, act.detail, key[1], where, helps_s)
            wanted = self._wanted[key] = _Wanted(made, once_is_enough=not _SERVING_ILL & set(families))
        wanted.act = replace(wanted.act, last_at=tick.at)
        if wanted.looks and not ill:
            return  # it has recovered, and the act is about to be given up
        wanted.looks += 1
        if works(tick, before, self._subject, families):
            wanted.worked += 1
            wanted.worked_at = tick.at if wanted.worked_at is None else wanted.worked_at

    def forget(self, tick: Tick, verb: str) -> None:
        """Note that an act was done after all: no dry run."""
        self._wanted.pop((verb, life_of(tick, self._subject)), None)

    def told(self) -> tuple[HeldAct, ...]:
        """Return them, in the order in which they were first wanted."""
        return tuple(wanted.told() for wanted in self._wanted.values())
