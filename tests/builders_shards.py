"""Controllers that divide a fleet of many models over one API server, and what must hold of all that they wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from controller.adapters.kube.lease import candidate
from controller.adapters.kube.settings import LeasePlace
from controller.adapters.sql_audit import SqlAudit
from controller.checkpoint import resume
from controller.leadership import Candidate, LeaseSettings
from controller.modes import ModeSettings
from controller.ports import FleetMetrics, TickRecord
from controller.shard_settings import WHOLE, ShardSettings
from controller.shards import own_memory
from policies.fleet import PoolKey
from policies.settings import PolicySettings
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.trail import Written
from tests.builders_kube_rig import Operated, kube_settings
from tests.builders_pod_world import NAMESPACE, PodWorld

LEASE = LeaseSettings()
STEP_S = 3.0
GPUS = 2
"""Of a replica, see ``deployment_of``."""

_OF_REPLICAS = ("replicas", "in_flight", "answered", "failed_answers")
_ALL = (Rule(("*",), ("*",), ("*",)),)


@dataclass
class ManyModels(PodWorld):
    """One pool for each of many models, all offered the same load; no gateways."""

    def _open_to_traffic(self, keys: Sequence[PoolKey]) -> None:
        """Leave everything to the pods: there is one pool for each model."""

    def desired(self, key: PoolKey) -> int:
        return int(self.deployment(key)["spec"]["replicas"])

    @property
    def gpus(self) -> int:
        """What all pools are to have together."""
        return GPUS * sum(self.desired(key) for key in self.apps.values())

    def _shares(self) -> dict[PoolKey, float]:
        return dict.fromkeys(self.apps.values(), 1.0)

    def _arrive(self) -> None:
        for key in self.apps.values():
            takers = [engine for engine in self.of(key) if engine.serving]
            for engine in takers:
                engine.in_flight += self.requests_per_s / len(takers)


@dataclass
class OwnMetrics:
    """The metrics of a world as a shard asks for them: of its own models alone."""

    world: PodWorld
    shard: ShardSettings

    def read(self, at: float) -> FleetMetrics:
        seen, engines = self.world.read(at), self.world.engines

        def of_replicas(told: Any) -> dict[str, Any]:
            return {name: one for name, one in told.items() if self.shard.has(engines[name].key.model)}

        def of_models(told: Any) -> dict[str, Any]:
            return {model: one for model, one in told.items() if self.shard.has(model)}

        return replace(
            seen,
            **{name: of_replicas(getattr(seen, name)) for name in _OF_REPLICAS},
            **{name: of_models(getattr(seen, name)) for name in ("demand", "service", "gateway_queued")},
        )


@dataclass
class Process:
    """One replica of one shard, as a daemon has its parts; ``asleep`` it neither ticks nor renews its leases."""

    name: str
    shard: ShardSettings
    operated: Operated
    leadership: Candidate
    led: bool = False
    asleep: bool = False
    ended: bool = False
    ticks: list[TickRecord] = field(default_factory=list)


class Sharded:
    """A world and its controllers; ``close`` it."""

    def __init__(self, world: ManyModels, folder: Path, policy: PolicySettings) -> None:
        self.world, self.folder, self.policy = world, folder, policy
        self.processes: list[Process] = []
        self._logs: dict[str, SqlAudit] = {}

    def start(self, shard: ShardSettings = WHOLE) -> Process:
        """Start another replica of a shard. Its writes are known by its name."""
        name, api, clock = f"{shard.index}-of-{shard.of}-{len(self.processes)}", self.world.api, self.world.clock
        api.grant(name, Subject(name, _ALL))
        lease = LeasePlace(namespace=NAMESPACE, **LEASE.model_dump())
        platform = kube_settings(self.world, self.folder, name, lease=lease, routes=())
        leadership = candidate(platform, clock.now, clock.now, shard)
        folder = self.folder / ("whole" if shard.whole else "shards")
        folder.mkdir(exist_ok=True)
        log = self._logs.setdefault(f"{folder} {shard.index}", SqlAudit.open(f"sqlite:///{folder}/{shard.index}.db"))
        rig = Operated(
            self.world, self.folder, self.policy, platform, fence=leadership.why_not, audit=log, shard=shard,
            metrics=OwnMetrics(self.world, shard),
        )  # fmt: skip
        self.processes.append(Process(name, shard, rig, leadership))
        return self.processes[-1]

    def end(self, process: Process) -> None:
        """End a process as SIGTERM does."""
        process.ended = True
        process.leadership.resign()
        process.operated.close()

    def close(self) -> None:
        for process in self.processes:
            process.operated.close()
        for log in self._logs.values():
            log.close()

    def run(self, seconds: float) -> None:
        """Let time pass: leases are asked for every 3 s, and who leads ticks every tick's length."""
        steps = round(self.policy.tick_s / STEP_S)
        for number in range(round(seconds / STEP_S)):
            for process in self._awake():
                process.leadership.step()
                process.led = process.led and process.leadership.leads
            if number % steps == 0:
                for process in self._awake():
                    self.tick(process)
            self.world.advance(STEP_S)

    def tick(self, process: Process) -> None:
        """Tick if it leads; who has just begun to resumes from the log of its shard."""
        if not process.leadership.leads:
            return
        rig = process.operated
        if not process.led:
            rig.catch_up()
            found = resume(
                rig.log, rig.cluster, rig.router, ModeSettings.all_auto(), self.world.clock.now, lambda _: None, 0
            )
            rig.memory, process.led = own_memory(found.memory, process.shard), True
            rig.loop = rig._loop()
        process.ticks.append(rig.tick())

    def leaders(self) -> list[str]:
        """Which shards are led, by the words for them, in order."""
        return sorted(process.shard.title for process in self._awake() if process.leadership.leads)

    def writers(self, since: int = 0) -> dict[str, set[str]]:
        """By Deployment, who has changed it or a pod of it, from the ``since``-th write on."""
        found: dict[str, set[str]] = {}
        for write in self.world.api.written[since:]:
            if write.resource != "leases":
                found.setdefault(self.app_of(write), set()).add(write.user)
        return found

    def app_of(self, write: Written) -> str:
        """The Deployment that a write is about."""
        if write.resource.startswith("deployments"):
            return write.name
        known = write.before or write.after
        return str(known["metadata"]["labels"]["app"]) if known else ""

    def problems(self) -> list[str]:
        """Each write by a process that did not hold both leases then, or of a workload of another shard."""
        return list(self._problems(self.world.api.written))

    def _problems(self, written: tuple[Written, ...]) -> Iterator[str]:
        by_name = {process.name: process for process in self.processes}
        holders: dict[str, tuple[str, float]] = {}
        for write in written:
            if write.resource == "leases":
                spec = (write.after or {}).get("spec", {})
                until_at = write.at + spec.get("leaseDurationSeconds", 0)
                holders[write.name] = spec.get("holderIdentity") or "", until_at
                continue
            process = by_name[write.user]
            key = self.world.apps[self.app_of(write)]
            if not process.shard.has(key.model):
                yield f"{write.user} wrote {write.resource} {write.name} of another shard"
            identity = process.leadership.identity
            needed = {"foresail": identity}
            if not process.shard.whole:
                own = LeasePlace().of_shard(process.shard).name
                needed = {"foresail": process.shard.layout, own: identity}
            for lease, holder in needed.items():
                held = holders.get(lease, ("", 0.0))
                if held[0] != holder or write.at > held[1]:
                    yield f"{write.user} wrote {write.name} at {write.at:.0f} while {held[0] or 'nobody'} held {lease}"

    def _awake(self) -> list[Process]:
        return [process for process in self.processes if not (process.asleep or process.ended)]
