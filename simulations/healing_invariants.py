"""What must hold of every act of healing, checked against books of its own rather than those that healing keeps?

Where the policy has a figure that the platform does not show (who was healthy before, how long a start takes at most),
the rule is checked against a weaker one that shows: nothing is a violation here that would be none there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from controller.ports import TickRecord
from policies.causes import (
    BAD_REVISION,
    COLD_START,
    COUNTER_RESET,
    CUT_OFF,
    EXPORTER,
    HANG,
    HARDWARE,
    UNKNOWN,
    cause_of,
)
from policies.decide import PolicySettings
from policies.decisions import CordonReplica, Decision, RestartReplica, RollBack
from policies.diagnosis import serves_nothing, unexplained
from policies.fleet import FleetState, PoolKey, PoolState, ReplicaState
from policies.memory import PolicyMemory
from policies.pool_evidence import lately
from policies.revisions import LONGEST_LOOK_S

_HARMLESS = (UNKNOWN.name, EXPORTER.name, CUT_OFF.name, COLD_START.name, COUNTER_RESET.name)
_ENOUGH_STARTS = 5


@dataclass(slots=True)
class HealingChecks:
    """Watches what healing does in one run.

    Attributes:
        settings: What it must keep to.
        restarts: When each pool's replicas were restarted.
        rolled_back: ``(pool, revision)`` that were left by a roll-back.
        starts_s: How long starts took that were seen from the request to READY, by pool.
        served_s: For how long each ``(pool, revision)`` was seen serving.
        blamed: Pools whose revision was ever believed to fail.
    """

    settings: PolicySettings
    restarts: dict[PoolKey, list[float]] = field(default_factory=dict)
    rolled_back: set[tuple[PoolKey, str]] = field(default_factory=set)
    starts_s: dict[PoolKey, list[float]] = field(default_factory=dict)
    served_s: dict[tuple[PoolKey, str], float] = field(default_factory=dict)
    blamed: set[PoolKey] = field(default_factory=set)
    generation: int = 0
    _looked_at: float | None = None
    _starting: set[str] = field(default_factory=set)

    def found(self, record: TickRecord) -> Iterator[str]:
        """Yield what one tick broke, and take the tick into the books."""
        fleet, decision = record.fleet, record.decision
        if fleet is None or decision is None:
            return
        if self._looked_at is None and record.memory is not None:
            self._begin(record.memory)
        self._look(fleet, decision)
        done = {(result.act, result.subject) for result in record.results if result.outcome != "held"}
        yield from self._newer(decision)
        yield from self._through_the_breaker(fleet, decision)
        yield from self._below_the_floor(fleet, decision)
        for remedy in decision.remediations:
            if not isinstance(remedy, RestartReplica | RollBack):
                continue
            pool = next(p for p in fleet.pools if p.key == remedy.pool)
            if isinstance(remedy, RestartReplica):
                asked_for = ("restart", pool.key.replica(remedy.replica)) in done
                yield from self._bad_restart(pool, remedy, decision, asked_for=asked_for)
            else:
                yield from self._bad_roll_back(pool, remedy, asked_for=("roll back", str(pool.key)) in done)

    def _begin(self, memory: PolicyMemory) -> None:
        """Take over what was known when the run began."""
        for name, pool in memory.pools.items():
            for revision, known in pool.revisions.items():
                self.served_s[PoolKey.parse(name), revision] = known.healthy_s

    def _look(self, fleet: FleetState, decision: Decision) -> None:
        passed_s = fleet.at - self._looked_at if self._looked_at is not None else 0.0
        self._looked_at = fleet.at
        if passed_s < 0.0:  # the clock was set back, and what was noted goes with it
            self.restarts = {pool: [at + passed_s for at in times] for pool, times in self.restarts.items()}
        starting = set()
        for pool in fleet.pools:
            for revision in {r.revision for r in pool.roster.replicas if r.serving}:
                key = (pool.key, revision)
                self.served_s[key] = self.served_s.get(key, 0.0) + max(0.0, min(passed_s, LONGEST_LOOK_S))
            for replica in pool.roster.replicas:
                name = pool.key.replica(replica.id)
                if replica.starting:
                    starting.add(name)
                elif replica.serving and name in self._starting:
                    self.starts_s.setdefault(pool.key, []).append(replica.since_at - replica.begun_at)
        self._starting = starting
        self.blamed |= {d.pool for d in decision.diagnoses if d.name == BAD_REVISION.name}

    def _newer(self, decision: Decision) -> Iterator[str]:
        """Every plan is newer than the one before, and runs out (I7)."""
        if decision.generation <= self.generation:
            yield f"plan {decision.generation} came after plan {self.generation} (I7)"
        if not decision.at < decision.expires_at:
            yield f"plan {decision.generation} had run out when it was made (I7)"
        self.generation = decision.generation

    def _through_the_breaker(self, fleet: FleetState, decision: Decision) -> Iterator[str]:
        """Nothing is taken out or restarted where too much looks sick at once (I3)."""
        ours = [d for d in decision.diagnoses if str(d.pool) in self.settings.pools]
        believed = unexplained(fleet, ours, lately(decision.memory.pools))
        nodes = {(p.key, r.id): r.node for p in fleet.pools for r in p.roster.replicas}
        sick = {
            # One node with a GPU at fault is one failure, whatever it takes with it.
            (d.pool, d.subject): nodes[d.pool, d.subject] if d.name == HARDWARE.name else (d.pool, d.subject)
            for d in believed
            if d.subject and cause_of(d).name not in _HARMLESS
        }
        for stage in fleet.stages:
            pools = fleet.pools_in(stage)
            placed = sum(len(p.roster) - len(p.roster.unplaced) for p in pools)
            waiting = {(p.key, r.id) for p in pools for r in p.roster.unplaced}
            count = len({failure for at, failure in sick.items() if at[0].stage == stage and at not in waiting})
            if not self.settings.healing.breaker_open(count, placed):
                continue
            yield from (
                f"{remedy.pool.replica(remedy.replica)}: disturbed while {count} of {placed} look sick (I3)"
                for remedy in decision.remediations
                if isinstance(remedy, CordonReplica | RestartReplica) and remedy.pool.stage == stage
            )

    def _below_the_floor(self, fleet: FleetState, decision: Decision) -> Iterator[str]:
        """Enough go on serving beside what is taken from traffic although it may still serve (I1)."""
        hung = {(d.pool, d.subject) for d in decision.diagnoses if d.cause == HANG.code or serves_nothing(d)}
        taken = {
            (remedy.pool, remedy.replica)
            for remedy in decision.remediations
            if isinstance(remedy, CordonReplica | RestartReplica)
        }
        for stage in fleet.stages:
            pools = fleet.pools_in(stage)
            serving = {(p.key, r.id) for p in pools for r in p.roster.replicas if r.serving} - hung
            going = serving & taken
            minimum = sum(bounds.min_replicas for p in pools if (bounds := self.settings.pools.get(str(p.key))))
            floor = self.settings.healing.serving_floor(len(serving), minimum)
            if going and len(serving) - len(going) < floor:
                yield f"{stage}: {len(serving) - len(going)} of {len(serving)} left serving, {floor} must (I1)"

    def _bad_restart(
        self, pool: PoolState, remedy: RestartReplica, decision: Decision, *, asked_for: bool
    ) -> Iterator[str]:
        """Restarts are counted, spaced, and never of what is still within its load time (I5, I8)."""
        at, settings, name = decision.at, self.settings.healing, remedy.pool.replica(remedy.replica)
        before = [t for t in self.restarts.get(pool.key, []) if at - t <= settings.attempt_window_s]
        self.restarts[pool.key] = [*before, at] if asked_for else before
        if len(before) >= settings.max_attempts:
            yield f"{name}: restart {len(before) + 1} of its pool within {settings.attempt_window_s:.0f} s (I5)"
        acts = [a for a in decision.memory.actions if (a.pool, a.kind) == (str(pool.key), "restart")]
        failed = [a.started_at for a in acts if not a.open and not a.verified]
        if failed and at - max(failed) < settings.cooldown_s * 2.0 ** (len(failed) - 1):
            yield f"{name}: restarted {at - max(failed):.0f} s after the last of {len(failed)} in vain (I5)"
        if not any(a.target == remedy.replica and a.open for a in acts):
            yield f"{name}: restarted, and nobody will look whether it helped (I6)"
        replica = next((r for r in pool.replicas if r.id == remedy.replica), None)
        if replica is not None and self._loads(pool.key, replica, at):
            yield f"{name}: restarted while it loads, after {at - replica.begun_at:.0f} s (I8)"

    def _loads(self, pool: PoolKey, replica: ReplicaState, at: float) -> bool:
        took_s = self.starts_s.get(pool, [])
        return replica.starting and len(took_s) >= _ENOUGH_STARTS and at - replica.begun_at < median(took_s)

    def _bad_roll_back(self, pool: PoolState, remedy: RollBack, *, asked_for: bool) -> Iterator[str]:
        """Only to what served healthy for long enough, only from what fails, once per revision (I9)."""
        key, needed_s = pool.key, self.settings.healing.good_after_s
        served_s = self.served_s.get((key, remedy.revision), 0.0)
        if served_s < needed_s:
            yield f"{key}: rolled back to {remedy.revision}, which served for {served_s:.0f} s of {needed_s:.0f} (I9)"
        if key not in self.blamed:
            yield f"{key}: rolled back although nothing was ever wrong with its revision (I9)"
        if (key, remedy.bad) in self.rolled_back:
            yield f"{key}: revision {remedy.bad} rolled back a second time (I9)"
        if asked_for:
            self.rolled_back.add((key, remedy.bad))
