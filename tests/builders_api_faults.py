"""Random trouble for two controllers that share a lease, and what must hold of everything that they wrote.

One ``Schedule`` is one seed: a small fleet on the project's API server, two candidates with all that ``run`` gives
them, and between and within their ticks the faults of an API server, of the network, of processes and of people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controller.adapters.kube.lease import KubernetesLease
from controller.adapters.kube.settings import LeasePlace
from controller.adapters.sql_audit import SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.checkpoint import resume
from controller.errors import ForesailError
from controller.leadership import Leadership, LeaseSettings
from controller.modes import ModeSettings
from controller.ports import TickRecord
from policies.decisions import Decision
from policies.fleet import PoolKey
from simulations.invariants import InvariantChecks
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi
from simulations.kubernetes_api.trail import Written
from tests.builders import FixedClock, settings
from tests.builders_kube_rig import Operated, kube_settings
from tests.builders_pod_world import NAMESPACE, PodWorld, app_of, place

A, B = PoolKey("llama", "a100"), PoolKey("llama", "h100")
NAMES = ("foresail-0", "foresail-1")
EVERYTHING = (Rule(("*",), ("*",), ("*",)),)
LEASE = LeaseSettings()
STEP_S, STEPS = 3.0, 5
PAUSE_S = 24.0
WRITES = ("update", "patch", "create", "delete")
FAULTS = (
    Fault(latency_s=0.03, fraction=0.5),
    Fault(code=409, verbs=("update", "patch"), fraction=0.5),
    Fault(code=410, verbs=("watch", "list"), fraction=0.5, times=3),
    Fault(code=429, fraction=0.3, retry_after_s=1),
    Fault(code=500, fraction=0.3),
    Fault(code=503, verbs=WRITES, fraction=0.7),
    Fault(code=504, verbs=("list", "get"), fraction=0.3),
    Fault(answer_lost=True, verbs=WRITES, fraction=0.7),
    Fault(reset=True, fraction=0.3),
)


@dataclass
class Candidate:
    """One replica of the controller: it may lead, be paused in the middle of a tick, and come back."""

    name: str
    operated: Operated
    leadership: Leadership
    lease: KubernetesLease
    led: bool = False
    asleep: bool = False
    ticks: list[tuple[TickRecord, range]] = field(default_factory=list)
    """Records with which writes of the server's trail fell into their tick."""


class Schedule:
    """One run under random trouble; ``problems`` says what did not hold."""

    def __init__(self, seed: int, api: RunningApi, clock: FixedClock, folder: Path) -> None:
        self.api, self.rng = api, np.random.default_rng(seed)
        self.world = PodWorld(clock=clock, api=api, lead_s=45.0, drain_s=20.0, requests_per_s=12.0)
        self.world.begin(A, B, replicas=3, nodes=12)
        self.policy = settings(A, B, least=1, most=8)
        self.audit = SqlAudit.open("sqlite://")
        self.scaled_by_others_at: float = np.inf
        self.candidates = [self._candidate(name, folder) for name in NAMES]
        self.checks = InvariantChecks(self.policy, seed, all_rules=True)

    def close(self) -> None:
        self.api.faults.clear()
        self.api.heal()
        for one in self.candidates:
            one.operated.close()
            one.lease.close()
        self.audit.close()

    def run(self, rounds: int) -> None:
        """Let so many tick lengths pass, each with trouble of its own."""
        for _ in range(rounds):
            if self.rng.random() < 0.3:
                self.world.requests_per_s = float(self.rng.uniform(2.0, 40.0))
            end = self._trouble()
            for one in self._in_any_order():
                self._tick(one)
            self._pass_time()
            end()

    # What goes wrong

    def _trouble(self) -> Any:
        """Let something go wrong, or nothing; return what ends it."""
        draw = self.rng.random()
        if draw < 0.45:
            fault = FAULTS[self.rng.integers(len(FAULTS))]
            self.api.fault(fault)
            return self.api.faults.clear
        if draw < 0.75:
            return self._short_trouble()
        self._troubled_world()
        return lambda: None

    def _short_trouble(self) -> Any:
        name = NAMES[self.rng.integers(2)]
        match int(self.rng.integers(6)):
            case 0:
                self.api.drop_watches()
            case 1:
                self.api.cut_connections()
            case 2:
                self.api.compact()
            case 3:
                self.api.partition("reset")
                return self.api.heal
            case 4:
                self.api.expire(name)
                return lambda: self.api.grant(name, Subject(name, EVERYTHING))
            case 5:
                self.api.grant(name, Subject(name, (Rule(("get", "list", "watch"), ("*",), ("*",)),)))
                return lambda: self.api.grant(name, Subject(name, EVERYTHING))
        return lambda: None

    def _troubled_world(self) -> None:
        world = self.world
        serving = [engine for engine in world.engines.values() if engine.serving]
        match int(self.rng.integers(4)):
            case 0 if serving:
                serving[self.rng.integers(len(serving))].hung = True
            case 1 if serving:
                engine = serving[self.rng.integers(len(serving))]
                self.api.kubelet.troubles.pods[f"{NAMESPACE}/{engine.id}"] = "crash"
            case 2:
                world.release(A, f"vllm:{self.rng.integers(2, 5)}")
            case 3 if np.isinf(self.scaled_by_others_at):
                self.api.call("POST", place("horizontalpodautoscalers"), an_autoscaler(B))
                self.scaled_by_others_at = world.clock.at

    # Time

    def _in_any_order(self) -> list[Candidate]:
        awake = [one for one in self.candidates if not one.asleep]
        return [awake[i] for i in self.rng.permutation(len(awake))]

    def _pass_time(self, seconds: float = STEP_S * STEPS) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.world.advance(STEP_S)
            for one in self._in_any_order():
                one.leadership.step()
            for one in self.candidates:
                one.led = one.led and one.leadership.leads  # who was not the leader for a moment ends, and begins anew

    def _tick(self, one: Candidate) -> None:
        """Tick if it leads; whoever has just begun to goes on from what is on record."""
        if not one.leadership.leads:
            return
        if not one.led and not self._resumed(one):
            return
        first = len(self.api.written)
        record = one.operated.tick()
        one.ticks.append((record, range(first, len(self.api.written))))

    def _resumed(self, one: Candidate) -> bool:
        rig = one.operated
        try:
            found = resume(
                self.audit, rig.cluster, rig.router, ModeSettings.all_auto(), self.world.clock.now,
                lambda seconds: self._pass_time(max(STEP_S, seconds)), 0.0,
            )  # fmt: skip
        except ForesailError:
            return False
        rig.memory, one.led = found.memory, True
        rig.loop = rig._loop()
        return True

    def _candidate(self, name: str, folder: Path) -> Candidate:
        self.api.grant(name, Subject(name, EVERYTHING))
        platform = kube_settings(
            self.world, folder, name, lease=LeasePlace(namespace=NAMESPACE, **LEASE.model_dump()), nodes=True,
            delete_unevictable=bool(self.rng.integers(2)),
        )  # fmt: skip
        clock = self.world.clock
        lease = KubernetesLease(platform, SystemClock().elapsed)
        leadership = Leadership(lease, LEASE, name, clock.now, clock.now)
        made: list[Candidate] = []

        def falls_asleep() -> bool:
            """The kill switch is off; but just as it is asked others write, or the process is paused."""
            if self.rng.random() < 0.1:
                self.world.release((A, B)[self.rng.integers(2)], f"vllm:{self.rng.integers(2, 5)}")
            if made and self.rng.random() < 0.1:
                made[0].asleep = True
                self._pass_time(PAUSE_S)
                for other in self._in_any_order():
                    self._tick(other)
                made[0].asleep = False
            return False

        operated = Operated(
            self.world,
            folder,
            self.policy,
            platform,
            fence=leadership.why_not,
            killed=falls_asleep,
            audit=self.audit,
            patience_s=0.3,
        )
        made.append(Candidate(name, operated, leadership, lease))
        return made[0]

    # What must hold

    def problems(self) -> list[str]:
        """Everything that should not have been, in words."""
        written = self.api.written
        records = sorted((record for one in self.candidates for record, _ in one.ticks), key=lambda each: each.at)
        for record in records:
            self.checks.check(record)
        return [
            *self.checks.violations,
            *by_others_than_the_leader(written),
            *twice(written),
            *(problem for one in self.candidates for problem in self._unplanned(one, written)),
            *self._against_an_autoscaler(written),
        ]

    def _unplanned(self, one: Candidate, written: tuple[Written, ...]) -> Iterator[str]:
        """Each write of a candidate belongs to the decision of its tick, met what that was made from, in time."""
        for record, during in one.ticks:
            ours = [written[i] for i in during if written[i].user == one.name]
            expires_at = record.decision.expires_at if record.decision else -np.inf
            for write in ours:
                if write.resource != "leases" and write.at > expires_at:
                    yield f"{one.name} wrote {write.resource} {write.name} at {write.at:.0f} by a plan that had expired"
                if write.resource == "deployments/scale" and write.changed:
                    yield from self._not_as_planned(write, record.decision)
            for resource in ("deployments/scale", "pods/eviction", "httproutes", "deployments"):
                names = [w.name for w in ours if w.resource == resource and w.changed]
                for name in {name for name in names if names.count(name) > 1}:
                    times = names.count(name)
                    yield f"{one.name} wrote {resource} {name} {times} times in one tick, at {record.at:.0f}"
        covered = {i for _, during in one.ticks for i in during}
        for number, write in enumerate(written):
            if write.user == one.name and write.resource != "leases" and number not in covered:
                yield f"{one.name} wrote {write.resource} {write.name} outside its ticks, at {write.at:.0f}"

    def _not_as_planned(self, write: Written, decision: Decision | None) -> Iterator[str]:
        pool = self.world.apps[write.name]
        plan = next((p for p in decision.scaling if p.pool == pool), None) if decision else None
        if decision is None or plan is None:
            yield f"{write.name} scaled without a plan, at {write.at:.0f}"
            return
        wanted = write.after["spec"]["replicas"] if write.after else None
        if wanted != plan.desired or write.generation_before != plan.version:
            yield (
                f"{write.name} scaled to {wanted} at generation {write.generation_before}, at {write.at:.0f}: the plan "
                f"was {plan.desired} at generation {plan.version}"
            )

    def _against_an_autoscaler(self, written: tuple[Written, ...]) -> Iterator[str]:
        """A tick's length after it was made, when everybody can know of it, an autoscaler's number is its own."""
        for write in written:
            theirs = write.resource == "deployments/scale" and write.name == app_of(B)
            if theirs and write.changed and write.at > self.scaled_by_others_at + 4 * STEP_S * STEPS:
                yield f"{write.name} scaled by {write.user} although an autoscaler does so, at {write.at:.0f}"


def by_others_than_the_leader(written: tuple[Written, ...]) -> Iterator[str]:
    """Yield each write by somebody who did not hold the lease at that moment, by the server's clock."""
    holder, until_at = "", -np.inf
    for write in written:
        if write.resource == "leases":
            spec = (write.after or {}).get("spec", {})
            holder, until_at = spec.get("holderIdentity") or "", write.at + spec.get("leaseDurationSeconds", 0)
        elif write.user != holder:
            yield f"{write.user} wrote {write.resource} {write.name} at {write.at:.0f} while {holder or 'nobody'} led"
        elif write.at > until_at:
            yield f"{write.user} wrote {write.resource} {write.name} at {write.at:.0f}, the lease ended {until_at:.0f}"


def twice(written: tuple[Written, ...]) -> Iterator[str]:
    """Yield each pod that was evicted or deleted although it was on its way out."""
    for write in written:
        ends = write.resource == "pods/eviction" or (write.resource == "pods" and write.verb == "delete")
        if ends and write.before and "deletionTimestamp" in write.before["metadata"]:
            yield f"{write.user} ended {write.name} a second time, at {write.at:.0f}"


def an_autoscaler(key: PoolKey) -> dict[str, Any]:
    """A HorizontalPodAutoscaler of a pool's Deployment."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": app_of(key)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": app_of(key), "namespace": NAMESPACE},
        "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 8},
    }
