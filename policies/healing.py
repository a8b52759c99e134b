"""What is done about what looks sick: a playbook for each subject, unless too much looks sick at once.

Who owns what: this module opens the books of a tick (acts settled, cordons that are still on, playbooks that run) and
closes them; in between only the ``Ledger`` writes into them, asked by the playbooks as ``treatment`` carries them on.
``disruption`` keeps nothing, it says what is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from policies.anomaly import Watch
from policies.breaker import stopped_models
from policies.burn import Burn
from policies.burn_gate import soft
from policies.causes import (
    BAD_REVISION,
    CAUSES,
    HARDWARE,
    UNKNOWN,
    cause_of,
    cause_of_cordon,
)
from policies.conditions import Subject
from policies.decisions import Diagnosis, Page, Reason, Remediation
from policies.diagnosis import answers_with_errors, serves_nothing
from policies.disruption import settled
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.healing_memory import ActionMemory, CordonMemory, RunMemory
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTime
from policies.ledger import ROLL_BACK, Ledger
from policies.lost_capacity import lost_capacity
from policies.memory import PolicyMemory, PoolMemory
from policies.paging import once_per_episode
from policies.playbook import Do, Hold
from policies.revisions import left_revisions, looks_worse
from policies.treatment import acts_on_platform, advance, paths
from policies.wire import digest

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
    """What else counts: could others take the traffic of a pool, how fast do budgets of models burn, which load surges?

    ``unseen`` is what humans should know of models that are not observed.
    """

    elsewhere: Mapping[PoolKey, bool] = field(default_factory=dict)
    burn: Mapping[str, Burn] = field(default_factory=dict)
    unseen: Sequence[Page] = ()
    surging: Collection[str] = ()


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
        diagnoses: All of them; those of pools that are not ours are left alone, and those of replicas that the platform
            cannot be asked about.
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
    pools = left_revisions(fleet, [act for act in memory.actions if act.kind == ROLL_BACK], memory.pools)
    known = {**memory.pools, **pools}
    outside = outside or Outside()
    ledger = Ledger(fleet, seen, lead_times, floors, known, settings, actions, cordons, memory.pages, burn=outside.burn)
    ledger.gpu_faults = frozenset(memory.xids)
    untold = {pool.key for pool in fleet.pools if pool.untold}
    ours = [d for d in diagnoses if str(d.pool) in least and not (d.subject and d.pool in untold)]
    ledger.stopped = frozenset(stopped_models(ours, ledger))
    ledger.failing |= {d.pool.replica(d.subject) for d in diagnoses if answers_with_errors(d)}
    listed = {str(pool.key): pool for pool in fleet.pools}
    there = known.keys() | listed.keys()
    runs = {name: run for name, run in memory.runs.items() if run.pool in there}  # else its pool is gone for good
    ward = _Ward(ledger, settings, outside, runs, listed)
    believed = _by_model(d for d in ours if d.cause != UNKNOWN.code)
    for model in fleet.models:
        ward.admit(believed.get(model, ()))
        for pool in fleet.pools_of(model):
            if pool.untold:
                continue
            if str(pool.key) in least:
                ward.take_over(pool)
            else:
                ward.discharge(pool)
    ward.treat_all(believed)
    for key in least:
        if key in listed and key in known:
            ward.wait_for_verdict(listed[key], known[key])
    ledger.pages += outside.unseen
    ledger.reasons += [Reason("not observed", page.subject, 0, 0, page.message) for page in outside.unseen]
    pages, episodes = once_per_episode(ledger.pages, memory.pages, fleet.at, settings.page_quiet_s)
    return Course(
        (*ledger.remedies, *pages),
        tuple(ledger.reasons),
        tuple(ledger.actions),
        ledger.cordons,
        ward.kept(),
        episodes,
        lost_capacity(ledger, ward.holding),
        ledger.stopped,
        ward.holding,
        pools,
    )


def _by_model(diagnoses: Iterable[Diagnosis]) -> Mapping[str, Sequence[Diagnosis]]:
    found: dict[str, list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        found.setdefault(diagnosis.pool.model, []).append(diagnosis)
    return found


@dataclass(slots=True)
class _Ward:
    """The playbooks that run, by the name of their subject."""

    ledger: Ledger
    settings: HealingSettings
    outside: Outside
    runs: dict[str, RunMemory]
    pools: Mapping[str, PoolState]
    holding: dict[PoolKey, frozenset[Hold]] = field(default_factory=dict)
    present: dict[str, Diagnosis] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)

    def admit(self, believed: Sequence[Diagnosis]) -> None:
        """Begin a playbook for what is newly believed."""
        for diagnosis in believed:
            self._admit(diagnosis)

    def _admit(self, diagnosis: Diagnosis) -> None:
        pool = self.pools[str(diagnosis.pool)]
        replica = next((r for r in pool.replicas if r.id == diagnosis.subject), None)
        name = _name(diagnosis)
        cordon = self.ledger.cordons.get(name)
        if replica is not None and replica.cordoned and cordon is None:
            self.ledger.page(name, diagnosis, "somebody else took it out of traffic: left to them")
            self.left.add(name)
            return
        if diagnosis.name == HARDWARE.name and replica is not None and replica.phase is not Phase.READY:
            self.ledger.broken.add(name)
        if serves_nothing(diagnosis):
            self.ledger.hung.add(name)
            if cordon is not None:
                self.ledger.cordons[name] = replace(cordon, confirmed=True)
        self.present[name] = diagnosis
        cause, run = cause_of(diagnosis), self.runs.get(name)
        if run is not None and run.soft and not soft(diagnosis):
            self.runs[name] = run = replace(run, soft=False)
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
            self._digest(playbook),
            cause,
            why.cause,
            str(why.pool),
            why.subject,
            life,
            at,
            at + known.deadline.over(self.ledger.lead_times[str(why.pool)].p90_s),
            why.sentence,
            soft=soft(why),
        )

    def _digest(self, playbook: str) -> str:
        if playbook not in self.digests:
            self.digests[playbook] = digest(self.settings.all_playbooks[playbook])
        return self.digests[playbook]

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

    def treat_all(self, believed: Mapping[str, Sequence[Diagnosis]]) -> None:
        """Carry on every playbook, model by model: of what is believed now first, in that order."""
        runs_of: dict[str, list[str]] = {}
        for name, run in self.runs.items():
            runs_of.setdefault(run.pool, []).append(name)
        for model in self.ledger.fleet.models:
            present = dict.fromkeys(name for name in map(_name, believed.get(model, ())) if name in self.runs)
            others = [name for pool in self.ledger.fleet.pools_of(model) for name in runs_of.get(str(pool.key), ())]
            for name in (*present, *(name for name in others if name not in present)):
                if self._within_reach(self.runs[name]):
                    self._treat(name)

    def _within_reach(self, run: RunMemory) -> bool:
        """Whether a playbook can go on: its pool is listed, and can be asked for what the playbook may want of it."""
        pool, playbook = self.pools.get(run.pool), self.settings.all_playbooks.get(run.playbook)
        if pool is None or not pool.untold:
            return pool is not None
        return not run.subject and playbook is not None and not acts_on_platform(playbook)

    def _treat(self, name: str) -> None:
        run, ledger = self.runs[name], self.ledger
        pool, playbook = self.pools[run.pool], self.settings.all_playbooks.get(run.playbook)
        diagnosis = self.present.get(name)
        why = diagnosis or _as_it_began(run, ledger.cordons.get(name), ledger.fleet.at)
        if run.over:
            if diagnosis is not None and run.state == "failed":
                ledger.page(str(pool.key), why, f"{run.playbook} failed: {run.why}")
            return
        if playbook is None or self._digest(run.playbook) != run.digest:
            # Its steps are others now: what was done stands in the books, and the new ones begin at the first.
            self._begin_anew(name, why, pool)
            return
        replica = next((r for r in pool.replicas if r.id == run.subject), None) if run.subject else None
        if run.subject and self._left(name, run, why, replica):
            return
        if replica is not None and self._revision_fails(pool, replica):
            ledger.note("of a revision that fails", why, "its roll-back replaces it")
            return
        burn = self.outside.burn.get(pool.key.model)
        subject = Subject(
            ledger, pool, replica, diagnosis, why, run,
            self.outside.elsewhere.get(pool.key, False), burn is not None and burn.burning,
            pool.key.model in self.outside.surging,
        )  # fmt: skip
        after = advance(playbook, subject)
        self.runs[name] = after.run
        waits = replica is not None and not after.run.over and ledger.on_trial(pool, replica, why, run.began_at)
        if holding := ledger.permitted(pool, why, after.holding | ({"growth"} if waits else set())):
            self.holding[pool.key] = self.holding.get(pool.key, frozenset()) | holding
        if after.run.state == "failed":
            self._escalate(name, after.run, why, pool, replica)
        elif replica is not None and not after.run.over:
            self._overlong(subject)

    def wait_for_verdict(self, pool: PoolState, known: PoolMemory) -> None:
        """Let a pool not grow by a revision on trial that looks worse, at this look, than the one before it."""
        if looks_worse(pool, known, self.ledger.fleet.at, self.settings):
            detail = f"revision {pool.revision} looks worse than others: no growth by it at this look"
            self.ledger.reasons.append(Reason("revision on trial", str(pool.key), 0, 0, detail))
            self.holding[pool.key] = self.holding.get(pool.key, frozenset()) | {"growth"}

    def _overlong(self, subject: Subject) -> None:
        """A human is told of a replica that is not well again after so long, whatever its playbook waits for."""
        lasts_s = subject.at - subject.run.began_at
        if lasts_s > OVERLONG_S:
            detail = f"{subject.run.playbook} runs for {lasts_s:.0f} s, and it is not healed"
            self.ledger.page(subject.page_about, subject.why, detail)

    def _revision_fails(self, pool: PoolState, replica: ReplicaState) -> bool:
        """Whether it is of a revision that is believed to fail: a restart would only bring another one of that."""
        believed, run = self.present.get(str(pool.key)), self.runs.get(str(pool.key))
        treated = run is not None and run.cause == BAD_REVISION.name and not run.over
        fails = treated or (believed is not None and believed.name == BAD_REVISION.name)
        return fails and replica.revision == pool.revision

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


def _name(diagnosis: Diagnosis) -> str:
    return diagnosis.pool.replica(diagnosis.subject) if diagnosis.subject else str(diagnosis.pool)


def _as_it_began(run: RunMemory, cordon: CordonMemory | None, at: float) -> Diagnosis:
    """Return why a playbook runs whose diagnosis does not stand any more."""
    since_at = run.began_at if cordon is None else cordon.at
    sentence = f"{run.sentence} (begun {at - run.began_at:.0f} s ago)" if at > run.began_at else run.sentence
    families = ("latency",) if run.soft else ()
    return Diagnosis(run.code, run.subject, PoolKey.parse(run.pool), since_at, families, sentence, name=run.cause)


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
