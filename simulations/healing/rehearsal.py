"""What does a playbook do when the trouble that it treats happens? Tried in a small simulated world, step by step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from controller.playbook_outline import escalating_to, label, said, treated_by
from controller.ports import TickRecord
from policies.decide import Foresail, PolicySettings
from policies.fleet import PoolKey
from policies.healing_memory import RunMemory, StepMemory
from policies.healing_settings import HealingSettings
from policies.playbook import Playbook, Step
from policies.treatment import paths
from simulations.case import prepare
from simulations.healing.plans import KINDS
from simulations.healing.runs import attained_s
from simulations.healing.truths import truth_of
from simulations.healing.verdict import Scene, judge
from simulations.healing.witness import Witness
from simulations.healing.worlds import Ground, Strike, World, built, dice, engines
from simulations.runner import Tick, replay

KIND_OF: Mapping[str, str] = {
    "hang": "F1",
    "exited": "F2",
    "errors": "F2-errors",
    "start-overdue": "F4",
    "straggler": "F8",
    "exporter-frozen": "F13-exporter",
    "cut-off": "F12",
    "hardware": "F9",
    "cold-start": "F19",
    "counter-reset": "F14",
    "bad-revision": "F3",
    "starts-fail": "F4",
    "poison": "F20",
    "out-of-memory": "F5",
    "node-trouble": "F11-reclaim",
    "unreachable": "F12",
    "metrics-lost": "F13-renamed",
    "retry-storm": "F17",
    "preemption-storm": "F6",
    "overload": "F7",
}
"""Which kind of world of the fault benchmark shows a cause."""

_FAULTS: Mapping[str, tuple[str, ...]] = {
    "start-overdue": ("stock-out@{at}:duration=900", "node-loss@{at}:pool={pool}"),
    "cut-off": ("partition@{at}:pool={pool},replica=0,duration=900",),
    "metrics-lost": ("metric-loss@{at}:metric=queued_requests,duration=900",),
    "hardware": ("xid@{at}:pool={pool},code=79", "hang@{at}:pool={pool}"),
    "poison": ("poison@{at}:times=1", "poison@1020:times=1", "poison@1080:times=1", "poison@1140:times=1"),
}
"""Faults for causes that what is drawn for the benchmark need not show."""

_NOT_JUDGED = ("start-overdue", "cut-off", "hardware")
"""Causes of which the benchmark knows the other form only, so that it cannot say what is wrong."""

MOST_BEGUN = 3
"""A playbook that begins more often ends while its trouble stands, and only comes round again."""

REPLICAS = 6
LEAD_TIME_S = 90.0
STRUCK_S = 960.0
"""After so long, what the pools began with is on record as good."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, ``at_s`` seconds after the fault struck, to a replica or pool; empty for neither."""

    at_s: float
    subject: str
    what: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How a playbook did.

    Attributes:
        playbook, cause: What was tried against what; no cause where none leads to it.
        fault: As ``simulate --fault`` takes it, or the load that was raised.
        events: What it did, step by step, and what the fleet was asked for.
        ended: How its runs ended, by subject.
        begun: How often it began for one subject, at most.
        recovered_s: Seconds from the strike until what was broken was back for good; infinity when it never was.
        wrong: What was done that is wrong for this failure, in words.
        violations: Invariants that were broken.
    """

    playbook: str
    cause: str
    fault: str = ""
    events: tuple[Event, ...] = ()
    ended: Mapping[str, str] = field(default_factory=dict)
    begun: int = 0
    recovered_s: float = math.inf
    wrong: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether it began, and not again and again, did nothing wrong and broke no invariant."""
        return 0 < self.begun <= MOST_BEGUN and not self.wrong and not self.violations


def cause_for(name: str, healing: HealingSettings) -> str:
    """Return a cause that leads to a playbook, by itself or by what escalates to it; empty when none does."""
    seen, ahead = {name}, [name]
    while ahead:
        at = ahead.pop(0)
        if causes := treated_by(at, healing):
            return causes[0]
        further = [each for each in escalating_to(at, healing) if each not in seen]
        seen.update(further)
        ahead += further
    return ""


def rehearse(name: str, policy: PolicySettings, seed: int = 0) -> Rehearsal:
    """Return how a playbook of ``policy.healing`` does in the world of ``seed``.

    It is the first remedy for its cause there, also where it would be a further one.
    """
    healing = policy.healing
    cause = cause_for(name, healing)
    if not cause:
        return Rehearsal(name, "")
    tried = healing.model_copy(update={"treatments": {**healing.treatments, cause: name}})
    world = small_world(cause, seed)
    here = {"healing": tried, "pools": {}, "objectives": {}, "objective": world.settings.policy.objective}
    own = policy.model_copy(update=here)
    case = prepare(world.trace, world.settings.model_copy(update={"policy": own}))
    witness = Witness(Foresail(case.policy))
    story = Story(cause, tried, world.ground.struck_s)

    def see(tick: Tick) -> None:
        witness.see(tick)
        story.see(tick.record)

    result = replay(case, "foresail", on_tick=see, started=(witness, case.first))
    card, truth = result.scorecard, truth_of(world.kind)
    scene = Scene(world.ground.struck_s, world.over_s, world.pool, frozenset(result.fleet.struck))
    lost = card.failed + card.dropped_in_flight
    verdict = judge(truth, scene, witness.moments, lost, attained_s(result, scene))
    wrong = () if cause in _NOT_JUDGED else verdict.wrong
    deeds = [
        Event(deed.at_s - scene.struck_s, deed.replica or deed.pool, f"-> {deed.act} {deed.detail}".rstrip())
        for moment in witness.moments
        for deed in moment.deeds
        if deed.at_s >= scene.struck_s
    ]
    events = sorted([*story.events, *deeds], key=lambda event: event.at_s)
    fault = "; ".join(world.settings.faults) or f"{truth.title}: a raised load"
    return Rehearsal(
        playbook=name,
        cause=cause,
        fault=fault,
        events=tuple(events),
        ended=story.ended,
        begun=max(story.begun.values(), default=0),
        recovered_s=verdict.recovered_s,
        wrong=wrong,
        violations=tuple(card.violations),
    )


def small_world(cause: str, seed: int) -> World:
    """Return a small world in which the trouble of that cause happens; equal arguments give equal worlds."""
    kind = KIND_OF[cause]
    plan, rng = KINDS[kind], dice(kind, seed)
    ground = Ground(
        profiles=engines(rng, plan.pools[0]),
        shape=plan.shapes[0],
        replicas=REPLICAS,
        floor=REPLICAS,
        most=math.ceil(REPLICAS * plan.room),
        level=min(plan.levels, key=lambda level: abs(level - 0.6)),
        lead_time_s=LEAD_TIME_S,
        struck_s=STRUCK_S,
        end_s=STRUCK_S + plan.after_s + 8.0 * LEAD_TIME_S,
    )
    strike = plan.strikes(ground, rng)
    if cause in _FAULTS:
        pool = ground.pools[0]
        faults = tuple(each.format(at=f"{STRUCK_S:g}", pool=pool) for each in _FAULTS[cause])
        strike = Strike(faults, pool, gpus_exported=True)
    return built(kind, seed, ground, strike, rng)


@dataclass(slots=True)
class Story:
    """What the runs of one cause come to, told from what is remembered of them tick by tick."""

    cause: str
    healing: HealingSettings
    struck_s: float
    events: list[Event] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    begun: Counter[str] = field(default_factory=Counter)
    _runs: dict[str, RunMemory] = field(default_factory=dict)
    _start_at: float = math.nan

    def see(self, record: TickRecord) -> None:
        """Tell what changed at a tick."""
        if math.isnan(self._start_at):
            self._start_at = record.at
        if record.decision is None:
            return
        at_s = record.at - self._start_at - self.struck_s
        now = {name: run for name, run in record.decision.memory.runs.items() if run.cause == self.cause}
        failures = [r.detail for r in record.decision.reasons if " failed: " in r.detail]
        for name, run in now.items():
            changes = list(self._changes(name, self._runs.get(name), run))
            if self.begun[name] <= MOST_BEGUN:
                self.events += [Event(at_s, _whom(run), what) for what in changes]
        for name in [name for name in self._runs if name not in now]:
            run = self._runs[name]
            failed = next((text for text in failures if f"{run.playbook} failed: " in text), "")
            why = failed.partition(f"{run.playbook} failed: ")[2]
            self.ended[name] = f"failed: {why}" if failed else "over"
            if self.begun[name] <= MOST_BEGUN:
                self.events.append(Event(at_s, _whom(run), f"{run.playbook}: {self.ended[name]}"))
        self._runs = now

    def _changes(self, name: str, before: RunMemory | None, run: RunMemory) -> Iterator[str]:
        if before is None or (before.playbook, before.began_at) != (run.playbook, run.began_at):
            took_over = "" if before is None else f", after {before.playbook} failed"
            self.begun[name] += before is None
            yield f"{run.playbook} begins{took_over}: {run.sentence}"
            before = None
        steps = _steps_of(self.healing.all_playbooks[run.playbook])
        known = {} if before is None else before.steps
        for path, step in steps.items():
            if path in run.steps:
                yield from _told(path, step, known.get(path, StepMemory(math.nan)), run.steps[path])
        state = "running" if before is None else before.state
        if run.state != state:
            yield f"{run.playbook} is {run.state}" + f": {run.why}" * bool(run.why)
        self.ended[name] = f"{run.state}: {run.why}" if run.why else run.state


def _whom(run: RunMemory) -> str:
    return run.subject or PoolKey.parse(run.pool).pool


def _steps_of(playbook: Playbook) -> dict[str, Step]:
    return {**dict(paths("steps", playbook.steps)), **dict(paths("after", playbook.after))}


def _told(path: str, step: Step, before: StepMemory, now: StepMemory) -> Iterator[str]:
    words = f"{label(path)} {said(step)}"
    if math.isnan(before.began_at) and not (now.asked_at or now.outcome or now.choice):
        yield words
    if now.choice and not before.choice:
        yield f"{words}: {'so' if now.choice == 'then' else 'not so'}"
    if now.asked_at is not None and now.asked_at != before.asked_at:
        yield f"{words} (attempt {now.attempts})"
    if now.outcome and not before.outcome and not now.choice:
        yield f"{label(path)} {now.outcome}"
