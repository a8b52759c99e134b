"""What a controller that is killed is held against: the same scenario without a kill, tick by tick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import policies.healing
from controller.adapters.sql_audit import SqlAudit
from controller.ports import ActsRecord, TickRecord
from policies.conditions import Subject
from policies.healing_memory import RunMemory
from policies.playbook import Playbook, Step, blocks_of
from policies.treatment import Advance
from tests.builders_kill_scenarios import Scenario
from tests.builders_kills import Brief, Deed, Kill, Life, runs_of, state_of

QUIET_TICKS = 8
"""For so many ticks nothing may change before a run counts as over."""

MOST_TICKS = 260

LATER_TICKS = 5
"""By how many ticks, beside those of the pause, a world may stand still later than without the kill.

One for the tick that was lost; three because nobody saw in the pause since when an engine stands still, so that the 45
seconds for which it must be seen to do so begin anew; one because what is done in another tick shows in another scrape.
"""

DESTRUCTIVE = ("restart", "roll back", "avoid")

Place = tuple[str, str]
"""A playbook and the path of a step in it."""


@dataclass
class Course:
    """A scenario played to its end without a kill.

    Attributes:
        lives: Before each tick, from the one before the first fault on.
        records: What each tick left in the log.
        writes: Acts of each tick.
        touched: Steps that each tick was about.
        settled: Tick from which on nothing changed.
    """

    scenario: Scenario
    audit: SqlAudit
    lives: list[Life] = field(default_factory=list)
    records: list[TickRecord] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    touched: list[frozenset[Place]] = field(default_factory=list)
    final: Brief = ()
    settled: int = 0

    @property
    def deeds(self) -> Sequence[Deed]:
        return self.lives[-1].shore.deeds

    @property
    def places(self) -> frozenset[Place]:
        """Every step that it reaches."""
        return frozenset().union(*self.touched)

    def places_at(self, kills: Sequence[Kill]) -> frozenset[Place]:
        """Every step that was a current one at one of these kills."""
        return frozenset().union(*(self.touched[kill.tick] for kill in kills))

    @property
    def first_tick(self) -> int:
        """The tick before the first that a playbook has to do with."""
        return next(n for n, places in enumerate(self.touched) if places) - 1

    @property
    def last_tick(self) -> int:
        """The tick after the last that a playbook has to do with, or that changed something."""
        last = max(n for n, places in enumerate(self.touched) if places)
        return min(len(self.records) - 1, max(last, self.settled) + 1)


def played(scenario: Scenario, audit: SqlAudit) -> Course:
    """Play a scenario to its end."""
    course, life = Course(scenario, audit), scenario.life(audit)
    state: Brief = ()
    with noting_steps() as touched:
        while not _over(course, life, state):
            course.lives.append(life.copied() if life.shore.elapsed_s >= scenario.begins_s else life)
            before = len(life.shore.deeds)
            touched.clear()
            course.records.append(life.tick())
            course.writes.append(len(course.records[-1].results))
            course.touched.append(frozenset(touched))
            if (now := state_of(life)) != state or life.shore.deeds[before:]:
                state, course.settled = now, len(course.records)
    course.lives.append(life)
    course.final = state
    assert life.checks.violations == []
    return course


def _over(course: Course, life: Life, state: Brief) -> bool:
    quiet = life.tick_number - course.settled >= QUIET_TICKS
    assert life.tick_number < MOST_TICKS, f"{course.scenario.name} does not end: {state}"
    return quiet and life.shore.elapsed_s > course.scenario.calm_s and not _running(life)


def _running(life: Life) -> bool:
    return any(not run.over for run in runs_of(life))


def kills_of(course: Course, pauses: Sequence[int] = (0, 1, 4)) -> Iterator[Kill]:
    """Yield every kill from the tick before the playbook begins to the one after its end."""
    for tick in range(course.first_tick, course.last_tick + 1):
        for pause in pauses:
            yield Kill(tick, "unrecorded", 0, pause)
            for act in range(course.writes[tick]):
                yield Kill(tick, "before act", act, pause)
                yield Kill(tick, "on its way", act, pause)
            if course.writes[tick]:
                yield Kill(tick, "unsettled", 0, pause)
            yield Kill(tick, "over", 0, pause)


@dataclass(frozen=True)
class Aftermath:
    """What became of a kill: ``wrong`` is what is not as it is without the kill and should be.

    ``later_ticks`` is how much later the world stood still, beside the pause.
    """

    wrong: tuple[str, ...]
    later_ticks: int


def aftermath(course: Course, kill: Kill) -> Aftermath:
    """Kill the controller there, and play the scenario to its end."""
    life = course.lives[kill.tick].copied()
    _put_on_record(course.audit, course.records[kill.tick - 1])
    life.be_killed(kill)
    allowed = kill.pause + LATER_TICKS
    state, settled = (), life.tick_number
    most = course.settled + allowed + QUIET_TICKS
    while life.tick_number < most and not _stands_still(course, life, state, settled):
        before = len(life.shore.deeds)
        life.tick()
        if (now := state_of(life)) != state or life.shore.deeds[before:]:
            state, settled = now, life.tick_number
    found = [f"invariant: {violation}" for violation in life.checks.violations]
    if state != course.final:
        found.append(f"ends as {state}, without the kill as {course.final}")
    if settled > course.settled + allowed:
        found.append(f"over {settled - course.settled} ticks later, {allowed} are allowed")
    found += _wrong_deeds(course, life, kill)
    return Aftermath(tuple(found), settled - course.settled - kill.pause)


def _stands_still(course: Course, life: Life, state: Brief, settled: int) -> bool:
    quiet = life.tick_number - max(settled, course.settled) >= QUIET_TICKS // 2
    return quiet and state == course.final and not _running(life)


def _wrong_deeds(course: Course, life: Life, kill: Kill) -> Iterator[str]:
    deeds, base = life.shore.deeds, course.deeds
    first = {replica.id for replica in course.lives[course.first_tick].shore.fleet.replicas}
    for verb in DESTRUCTIVE:
        mine, theirs = (Counter(d.subject if verb != "restart" or d.subject in first else "a newer one"
                                for d in each if d.verb == verb) for each in (deeds, base))  # fmt: skip
        if mine != theirs:
            yield f"{verb}: {dict(mine)}, without the kill {dict(theirs)}"
    once = Counter(d.subject for d in deeds if d.verb == "restart")
    yield from (f"{name} restarted {count} times" for name, count in once.items() if count > 1)
    yield from (f"{d.subject} restarted at {d.at_s:.0f} s although it was well" for d in deeds
                if d.verb == "restart" and not d.truth)  # fmt: skip
    yield from _wrong_pages(course, life, kill)


def _wrong_pages(course: Course, life: Life, kill: Kill) -> Iterator[str]:
    """A page that may have been sent is not sent again, and nobody is told of what came and went in the pause."""
    if kill.pause and not life.shore.deeds:
        return
    tick_s = course.scenario.settings.tick_s
    pages, usual = (Counter(d.subject for d in each if d.verb == "page") for each in (life.shore.deeds, course.deeds))
    sent = Counter(d.subject for d in course.deeds if d.verb == "page" and round(d.at_s / tick_s) == kill.tick)
    missed = Counter(
        d.subject
        for d in course.deeds
        if d.verb == "page" and kill.pause and 0 <= round(d.at_s / tick_s) - kill.tick <= kill.pause
    )
    in_doubt = sent if kill.point in ("before act", "on its way", "unsettled") else Counter[str]()
    for subject in {*pages, *usual}:
        if not usual[subject] - in_doubt[subject] - missed[subject] <= pages[subject] <= usual[subject]:
            yield f"page {subject}: {pages[subject]} times, without the kill {usual[subject]}"


def _put_on_record(audit: SqlAudit, record: TickRecord) -> None:
    """Let the log end with that tick, as it did then."""
    entry_id = audit.append(replace(record, results=(), error=""))
    if record.results:
        audit.settle(ActsRecord(record.at, entry_id, record.results, record.error))


def sampled(course: Course, number: int) -> list[Kill]:
    """Return about so many kills, spread evenly, and one at least while each step was the current one."""
    kills = list(kills_of(course))
    stride = max(1, len(kills) // number)
    found = kills[stride // 2 :: stride]
    missing = course.places - course.places_at(found)
    while missing:
        more = max(kills, key=lambda kill: len(course.touched[kill.tick] & missing))
        found.append(more)
        missing -= course.touched[more.tick]
    return found


# Which steps


@contextmanager
def noting_steps() -> Iterator[set[Place]]:
    """Note every step that a tick is about: reached, begun, waited for, or over."""
    touched: set[Place] = set()
    real = policies.healing.advance

    def noting(playbook: Playbook, subject: Subject) -> Advance:
        after = real(playbook, subject)
        touched.update((subject.run.playbook, path) for path in _touched(subject.run, after.run))
        return after

    policies.healing.advance = noting
    try:
        yield touched
    finally:
        policies.healing.advance = real


def _touched(before: RunMemory, after: RunMemory) -> Iterator[str]:
    for path, step in after.steps.items():
        if step != before.steps.get(path) or not step.outcome:
            yield path


def places_of(playbooks: Mapping[str, Playbook]) -> set[Place]:
    """Return every step of every playbook."""
    return {
        (name, path)
        for name, playbook in playbooks.items()
        for part in ("steps", "after")
        for path in _paths(part, getattr(playbook, part))
    }


def _paths(prefix: str, steps: Sequence[Step]) -> Iterator[str]:
    for place, step in enumerate(steps):
        path = f"{prefix}.{place}"
        yield path
        for name, inner in blocks_of(step).items():
            yield from _paths(f"{path}.{name}" if name else path, inner)
