"""What is done about what looks sick: a playbook for each subject, unless too much looks sick at once.

Who owns what: this module opens the books of a tick (acts settled, cordons that are still on, playbooks that run) and
closes them; in between only the ``Ledger`` writes into them, asked by the playbooks as ``treatment`` carries them on.
``disruption`` keeps nothing, it says what is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from policies.anomaly import Watch
from policies.breaker import stopped_models
from policies.causes import (
    CAUSES,
    HANG,
    UNKNOWN,
    cause_of,
    cause_of_cordon,
)
from policies.conditions import Subject
from policies.decisions import CordonReplica, Diagnosis, Reason, Remediation, UncordonReplica
from policies.diagnosis import answers_with_errors, confirmed
from policies.disruption import settled
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTime
from policies.ledger import ROLL_BACK, Ledger
from policies.memory import ActionMemory, CordonMemory, PolicyMemory, PoolMemory, RunMemory
from policies.paging import once_per_episode, page_key
from policies.playbook import Action, Do, Hold
from policies.revisions import left_by_roll_back, on_trial
from policies.treatment import advance, paths
from policies.wire import digest

__all__ = ["Course", "HealingSettings", "heal", "unlearn"]


OVERLONG_S = 3600.0
"""A playbook for a replica that has not come to an end after so long is told, if it has not told anybody itself."""


@dataclass(frozen=True, slots=True)
class Course:
    """What healing wants now, and what to remember.

    Attributes:
        lost: How many replicas of each pool must not be counted on.
        stopped: Models in which too much looks sick for anything to be given up.
        holding: What playbooks that run hold, by pool.
        pools: Memory of pools that changed.
    """

    remediations: tuple[Remediation, ...]
    reasons: tuple[Reason, ...]
    actions: tuple[ActionMemory, ...]
    cordons: Mapping[str, CordonMemory]
    runs: Mapping[str, RunMemory]
    pages: Mapping[str, float]
    lost: Mapping[str, int]
    stopped: frozenset[str] = frozenset()
    holding: Mapping[PoolKey, frozenset[Hold]] = field(default_factory=dict)
    pools: Mapping[str, PoolMemory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outside:
    """What else a playbook may ask about a pool: whether others could take its traffic, and whether budgets burn."""

    elsewhere: Mapping[PoolKey, bool] = field(default_factory=dict)
    burning: Collection[str] = ()


def heal(
    fleet: FleetState,
    diagnoses: Sequence[Diagnosis],
    seen: Watch,
    memory: PolicyMemory,
    lead_times: Mapping[str, LeadTime],
    least: Mapping[str, int],
    settings: HealingSettings,
    outside: Outside | None = None,
) -> Course:
    """Return remedies within the budgets, as the playbook for each cause asks for them.

    Args:
        fleet: What is there.
        diagnoses: All of them; those of pools that are not ours are left alone.
        seen: What this tick's look at the replicas found.
        memory: Acts, cordons, playbooks and pages so far; of its pools, this tick's.
        lead_times: By pool key.
        least: Replicas that must go on serving, by key of each pool that is ours. From any other pool our cordons are
            lifted, and nothing else is done there.
        settings: Playbooks and budgets.
        outside: What else playbooks may ask.
    """
    floors = {stage: sum(least.get(str(p.key), 0) for p in fleet.pools_in(stage)) for stage in fleet.stages}
    actions, cordons = settled(fleet, memory.actions, settings), _still_on(fleet, seen, memory.cordons)
    pools = _left_revisions(fleet, memory)
    known = {**memory.pools, **pools}
    ledger = Ledger(fleet, seen, lead_times, floors, known, settings, actions, cordons, memory.pages)
    ours = [d for d in diagnoses if str(d.pool) in least]
    ledger.stopped = frozenset(stopped_models(ours, ledger))
    ledger.failing |= {d.pool.replica(d.subject) for d in diagnoses if answers_with_errors(d)}
    there = known.keys() | {str(pool.key) for pool in fleet.pools}
    runs = {name: run for name, run in memory.runs.items() if run.pool in there}  # else its pool is gone for good
    ward = _Ward(ledger, settings, outside or Outside(), runs)
    for model in fleet.models:
        believed = [d for d in ours if d.pool.model == model and d.cause != UNKNOWN.code]
        ward.admit(believed)
        for pool in fleet.pools_of(model):
            if str(pool.key) in least:
                ward.take_over(pool)
            else:
                ward.discharge(pool)
        ward.treat(model, believed, least)
    pages, episodes = once_per_episode(ledger.pages, memory.pages, fleet.at, settings.page_quiet_s)
    return Course(
        (*ledger.remedies, *pages),
        tuple(ledger.reasons),
        tuple(ledger.actions),
        ledger.cordons,
        ward.kept(),
        episodes,
        _lost(ledger, ward.holding),
        ledger.stopped,
        ward.holding,
        pools,
    )


@dataclass(slots=True)
class _Ward:
    """The playbooks that run, by the name of their subject."""

    ledger: Ledger
    settings: HealingSettings
    outside: Outside
    runs: dict[str, RunMemory]
    holding: dict[PoolKey, frozenset[Hold]] = field(default_factory=dict)
    present: dict[str, Diagnosis] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)

    def admit(self, believed: Sequence[Diagnosis]) -> None:
        """Begin a playbook for what is newly believed."""
        for diagnosis in believed:
            self._admit(diagnosis)

    def _admit(self, diagnosis: Diagnosis) -> None:
        pool, replica = _find(self.ledger.fleet, diagnosis)
        name = _name(diagnosis)
        cordon = self.ledger.cordons.get(name)
        if replica is not None and replica.cordoned and cordon is None:
            self.ledger.page(name, diagnosis, "somebody else took it out of traffic: left to them")
            self.left.add(name)
            return
        if diagnosis.cause == HANG.code and confirmed(diagnosis):
            self.ledger.hung.add(name)
            if cordon is not None:
                self.ledger.cordons[name] = replace(cordon, confirmed=True)
        self.present[name] = diagnosis
        cause, run = cause_of(diagnosis), self.runs.get(name)
        graver = run is not None and CAUSES.get(run.cause, UNKNOWN).gravity < cause.gravity
        if run is not None and run.over and not graver and self._still_tired(run):
            return
        if run is not None and not run.over and not graver:
            return
        if replica is not None and pool.key.model in self.ledger.stopped and cordon is None:
            return
        self._begin(diagnosis, cause.name, pool, replica)

    def _still_tired(self, run: RunMemory) -> bool:
        """Whether a playbook that is over is not begun again yet, though the trouble stands."""
        return self.ledger.fleet.at - (run.ended_at or 0.0) < self.settings.again_after_s

    def _begin(self, why: Diagnosis, cause: str, pool: PoolState, replica: ReplicaState | None) -> None:
        name = self.settings.playbook_for(cause)
        if name:
            life = replica.life if replica is not None else pool.revision
            self.runs[_name(why)] = self._run_of(name, why, cause, life)

    def _run_of(self, playbook: str, why: Diagnosis, cause: str, life: str) -> RunMemory:
        at, known = self.ledger.fleet.at, self.settings.all_playbooks[playbook]
        return RunMemory(
            playbook,
            digest(known),
            cause,
            why.cause,
            str(why.pool),
            why.subject,
            life,
            at,
            at + known.deadline.over(self.ledger.lead_times[str(why.pool)].p90_s),
            why.sentence,
        )

    def take_over(self, pool: PoolState) -> None:
        """See to replicas that are out of traffic and that no playbook is about, or one that failed a while ago."""
        for place in pool.roster.cordoned:
            self._take_over(pool, pool.replicas[place])

    def _take_over(self, pool: PoolState, replica: ReplicaState) -> None:
        name, at = pool.key.replica(replica.id), self.ledger.fleet.at
        run = self.runs.get(name)
        if replica.phase is not Phase.READY or (run is not None and not run.over):
            return
        cordon = self.ledger.cordons.get(name)
        if run is not None and self._still_tired(run):
            if run.state == "failed" or cordon is None:
                return
            if run.playbook == self.settings.playbook_for(cause_of_cordon(cordon.cause).name):
                why = _as_it_began(run, cordon, at)
                self.ledger.page(name, why, f"{run.playbook} is over and left it out of traffic: uncordon or remove it")
                return
        if cordon is None:
            if name not in self.left:
                nobody = Diagnosis("cordon", replica.id, pool.key, at, (), "it is out of traffic")
                self.ledger.page(name, nobody, "not by us as far as we remember: uncordon or remove it")
            return
        cause = cause_of_cordon(cordon.cause)
        why = Diagnosis(cordon.cause, replica.id, pool.key, cordon.at, (), f"{cause.title}, as far as is on record")
        if not self.settings.playbook_for(cause.name):
            detail = "we took it out of traffic, and no playbook puts it back: uncordon or remove it"
            self.ledger.page(name, why, detail)
        self._begin(why, cause.name, pool, replica)

    def discharge(self, pool: PoolState) -> None:
        """Lift our own cordons in a pool that is not ours any more, and forget its playbooks."""
        for place in pool.roster.cordoned:
            replica = pool.replicas[place]
            if pool.key.replica(replica.id) in self.ledger.cordons:
                self.ledger.uncordon(pool, replica, "not ours", "its pool is not in the settings any more")
        for name in [name for name, run in self.runs.items() if run.pool == str(pool.key)]:
            del self.runs[name]

    def treat(self, model: str, believed: Sequence[Diagnosis], least: Mapping[str, int]) -> None:
        """Carry on every playbook of the model: of what is believed now first, in that order."""
        first = [name for name in map(_name, believed) if name in self.runs]
        others = [
            name
            for name, run in self.runs.items()
            if name not in first and run.pool in least and PoolKey.parse(run.pool).model == model
        ]
        for name in (*first, *others):
            self._treat(name)

    def _treat(self, name: str) -> None:
        run, ledger = self.runs[name], self.ledger
        pool = next((p for p in ledger.fleet.pools if str(p.key) == run.pool), None)
        if pool is None:
            return  # not listed just now
        playbook = self.settings.all_playbooks.get(run.playbook)
        diagnosis = self.present.get(name)
        why = diagnosis or _as_it_began(run, ledger.cordons.get(name), ledger.fleet.at)
        if run.over:
            if diagnosis is not None and run.state == "failed":
                ledger.page(str(pool.key), why, f"{run.playbook} failed: {run.why}")
            return
        if playbook is None or digest(playbook) != run.digest:
            # Its steps are others now: what was done stands in the books, and the new ones begin at the first.
            self._begin_anew(name, why, pool)
            return
        replica = next((r for r in pool.replicas if r.id == run.subject), None) if run.subject else None
        if run.subject and self._left(name, run, why, replica):
            return
        subject = Subject(
            ledger, pool, replica, diagnosis, why, run,
            self.outside.elsewhere.get(pool.key, False), pool.key.model in self.outside.burning,
        )  # fmt: skip
        after = advance(playbook, subject)
        self.runs[name] = after.run
        if after.holding:
            self.holding[pool.key] = self.holding.get(pool.key, frozenset()) | after.holding
        if after.run.state == "failed":
            self._escalate(name, after.run, why, pool, replica)
        elif replica is not None and not after.run.over:
            self._overlong(subject)

    def _overlong(self, subject: Subject) -> None:
        """A human is told of a replica that is not well again after so long, whatever its playbook waits for."""
        lasts_s = subject.at - subject.run.began_at
        if lasts_s > OVERLONG_S:
            detail = f"{subject.run.playbook} runs for {lasts_s:.0f} s, and it is not healed"
            self.ledger.page(subject.page_about, subject.why, detail)

    def _left(self, name: str, run: RunMemory, why: Diagnosis, replica: ReplicaState | None) -> bool:
        """Return whether nothing is to be done about a replica: it is not there, or leaves, or is left.

        It is left when it came back by itself, or somebody else took it in hand. A human is told of one that was
        restarted and does not get away.
        """
        if replica is not None and replica.phase is Phase.DRAINING:
            acts = [a for a in self.ledger.actions if (a.kind, a.pool, a.target) == ("restart", run.pool, replica.id)]
            if acts and not (acts[-1].open or acts[-1].verified):
                waited_s = self.ledger.fleet.at - acts[-1].started_at
                self.ledger.page(name, why, f"its restart was asked for {waited_s:.0f} s ago, and it does not end")
            return True
        if name in self.left:
            del self.runs[name]
            return True
        if self._restarted(run):
            return False
        if replica is None:
            return True
        if name in self.present or name in self.ledger.cordons or _took_effect(run):
            return False
        del self.runs[name]
        return True

    def _begin_anew(self, name: str, why: Diagnosis, pool: PoolState) -> None:
        run = self.runs.pop(name)
        replica = next((r for r in pool.replicas if r.id == run.subject), None)
        if run.subject and replica is None:
            return
        self._begin(why, run.cause, pool, replica)

    def _escalate(
        self, name: str, run: RunMemory, why: Diagnosis, pool: PoolState, replica: ReplicaState | None
    ) -> None:
        """Take the next rung: another playbook, or a human. What failed only at its end has done what it was for."""
        further = self.settings.all_playbooks[run.playbook].escalates_to
        closing = any(path.startswith("after.") for path in run.steps)
        if further is None or closing or (run.subject and replica is None):
            self.ledger.page(str(pool.key), why, f"{run.playbook} failed: {run.why}")
            return
        self.ledger.note("escalation", why, f"{run.playbook} failed: {run.why}; {further} takes over")
        self.runs[name] = self._run_of(further, why, run.cause, run.life)

    def kept(self) -> Mapping[str, RunMemory]:
        """Return what is to be remembered: not what is over and done with, nor what has become of nothing."""
        there = {p.key.replica(r.id) for p in self.ledger.fleet.pools for r in p.roster.replicas}
        return {name: run for name, run in self.runs.items() if self._matters(name, run, there)}

    def _matters(self, name: str, run: RunMemory, there: Collection[str]) -> bool:
        sick, out = name in self.present, name in self.ledger.cordons
        if run.over:
            return sick or out
        if run.subject and name not in there:
            # Not listed just now: its restart may be under way, or the platform's answer is incomplete.
            return self._restarted(run) or name in self.ledger.seen.memory
        return not run.subject or sick or out or _took_effect(run) or self._restarted(run)

    def _restarted(self, run: RunMemory) -> bool:
        """Whether it asked for a restart, which goes on by itself, so that the run is not over with its subject."""
        playbook = self.settings.all_playbooks.get(run.playbook)
        if playbook is None:
            return False
        steps = (*paths("steps", playbook.steps), *paths("after", playbook.after))
        restarts = {path for path, step in steps if isinstance(step, Do) and step.do == "restart"}
        return any(step.asked_at is not None and path in restarts for path, step in run.steps.items())


def not_to_be_learned(memory: PolicyMemory) -> frozenset[str]:
    """Return the models whose load is not what clients want, so that no forecast should learn it."""
    return frozenset(PoolKey.parse(run.pool).model for run in memory.runs.values() if "learning" in run.holding)


def unlearn(
    memory: PolicyMemory, held: Collection[tuple[str, str]], not_paged: Collection[tuple[str, str]]
) -> PolicyMemory:
    """Return ``memory`` without what a mode, the kill switch or staleness kept from being done.

    Only what was *held* surely did not happen. A write that failed may have taken effect: it stays on record, counts
    as an attempt, and a cordon that came to nothing is not seen in the next observation. A step of a playbook whose act
    was held has not been taken; that another one asks twice does no harm, for it looks at the books before.

    Args:
        memory: Of the decision.
        held: ``(act, subject)`` that were not attempted.
        not_paged: ``(subject, cause)`` of pages that reached nobody.
    """
    if not held and not not_paged:
        return memory
    undone = {page_key(subject, cause) for subject, cause in not_paged}
    runs = memory.runs.items()
    return replace(
        memory,
        actions=tuple(a for a in memory.actions if not (a.open and (a.kind, _subject_of(a)) in held)),
        cordons={name: cordon for name, cordon in memory.cordons.items() if ("cordon", name) not in held},
        runs={name: _not_asked(run, memory.decided_at) if _concerns(name, held) else run for name, run in runs},
        pages={key: at for key, at in memory.pages.items() if key not in undone},
    )


def _concerns(name: str, held: Collection[tuple[str, str]]) -> bool:
    """Return whether one of the acts may be that of the playbook about ``name``."""
    return any(act == "avoid" or (act in _OF_PLAYBOOKS and subject == name) for act, subject in held)


_OF_PLAYBOOKS = frozenset(get_args(Action)) - {"avoid node"}
"""What results call the acts of playbooks; the one that is about a node is called ``avoid``."""


def _not_asked(run: RunMemory, decided_at: float | None) -> RunMemory:
    """Return the run as if it had asked for nothing at the last decision."""
    steps = {
        path: replace(step, asked_at=None, attempts=max(0, step.attempts - 1))
        if step.asked_at is not None and step.asked_at == decided_at
        else step
        for path, step in run.steps.items()
    }
    return replace(run, steps=steps)


def _subject_of(action: ActionMemory) -> str:
    """Return what the result of an act calls its subject."""
    return action.pool if action.kind == ROLL_BACK else f"{action.pool}/{action.target}"


def _name(diagnosis: Diagnosis) -> str:
    return diagnosis.pool.replica(diagnosis.subject) if diagnosis.subject else str(diagnosis.pool)


def _find(fleet: FleetState, diagnosis: Diagnosis) -> tuple[PoolState, ReplicaState | None]:
    pool = next(p for p in fleet.pools if p.key == diagnosis.pool)
    return pool, next((r for r in pool.replicas if r.id == diagnosis.subject), None)


def _as_it_began(run: RunMemory, cordon: CordonMemory | None, at: float) -> Diagnosis:
    """Return why a playbook runs whose diagnosis does not stand any more."""
    since_at = run.began_at if cordon is None else cordon.at
    sentence = f"{run.sentence} (begun {at - run.began_at:.0f} s ago)" if at > run.began_at else run.sentence
    return Diagnosis(run.code, run.subject, PoolKey.parse(run.pool), since_at, (), sentence, name=run.cause)


def _took_effect(run: RunMemory) -> bool:
    """Whether anything that it asked for showed, so that it goes on though its trouble does not stand any more."""
    shown = any(step.asked_at is not None and step.outcome == "done" for step in run.steps.values())
    return shown or run.state in ("closing", "undoing")


def _still_on(fleet: FleetState, seen: Watch, known: Mapping[str, CordonMemory]) -> dict[str, CordonMemory]:
    """Return our cordons that the platform still shows, or may show again: of replicas not listed just now."""
    if not known:
        return {}
    present = {pool.key.replica(r.id): r for pool in fleet.pools for r in pool.roster.replicas}
    return {
        name: cordon
        for name, cordon in known.items()
        if (present[name].cordoned if name in present else name in seen.memory)
    }


def _left_revisions(fleet: FleetState, memory: PolicyMemory) -> dict[str, PoolMemory]:
    """Return memory of the pools that left a revision because we rolled it back."""
    found: dict[str, PoolMemory] = {}
    for act in memory.actions:
        if act.kind != ROLL_BACK:
            continue
        pool = next((p for p in fleet.pools if str(p.key) == act.pool), None)
        if pool is None or pool.revision == act.target or act.pool not in memory.pools:
            continue
        known = found.get(act.pool, memory.pools[act.pool])
        before = known.revisions.get(act.target)
        if before is None or before.rolled_back_at is None:
            found[act.pool] = left_by_roll_back(known, act.target, fleet.at)
    return found


def _lost(ledger: Ledger, holding: Mapping[PoolKey, Iterable[Hold]]) -> Mapping[str, int]:
    """Replicas per pool that the platform counts but that will not serve soon: the planner must not count on them.

    What keeps exiting is made good only as long as it is an exception: more of what does not start helps nobody. Nor is
    anything of a revision that is on trial: what takes its place would be of the same.
    A playbook may ask for one more than the load needs.
    """
    back = {r.pool.replica(r.replica) for r in ledger.remedies if isinstance(r, UncordonReplica)}
    out = {r.pool.replica(r.replica) for r in ledger.remedies if isinstance(r, CordonReplica)} | ledger.waiting
    lost = dict.fromkeys((str(pool.key) for pool in ledger.fleet.pools), 0)
    for pool in ledger.fleet.pools:
        known = ledger.known.get(str(pool.key))
        trial = pool.revision if known is not None and on_trial(pool, known, ledger.settings) else None
        for r in pool.roster.replicas if out else pool.roster.troubled:
            if r.revision == trial:
                continue
            name = pool.key.replica(r.id)
            away = r.phase is Phase.READY and (r.cordoned or name in out) and name not in back
            looping = r.phase is Phase.FAILED and r.restarts > 1 and pool.key.model not in ledger.stopped
            lost[str(pool.key)] += away or looping
        lost[str(pool.key)] += "one more" in holding.get(pool.key, ())
    return lost
