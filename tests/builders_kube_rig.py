"""The controller as ``run`` puts it together, over the Kubernetes adapter, on a world of pods and virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controller.adapters.audit_settings import AuditSettings
from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.adapters.kube.events import KubernetesEvents
from controller.adapters.kube.router import KubernetesRouter
from controller.adapters.kube.settings import KubernetesSettings, RoutePlace
from controller.adapters.sql_audit import SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.bootstrap import Consent, World, control_loop
from controller.champion import chain_of
from controller.daemon_settings import DaemonSettings
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.plan_expiry import unless_expired
from controller.ports import MetricSource, TickRecord
from controller.settings import Settings
from controller.shard_settings import WHOLE, ShardSettings
from controller.shards import own_part
from forecasting.forecaster import Forecaster
from forecasting.series import LoadSeries
from policies.memory import PolicyMemory
from policies.settings import PolicySettings
from tests.builders import ListNotifier
from tests.builders_kube_api import caught_up
from tests.builders_pod_world import NAMESPACE, PodWorld, app_of

BOOKMARKS_S = 0.02


def kube_settings(world: PodWorld, folder: Path, token: str = "", **more: Any) -> KubernetesSettings:
    """Settings for the world's cluster, with watches that are quick to come back."""
    keys = list(world.apps.values())
    route = RoutePlace(
        namespace=NAMESPACE, name="chat", model=keys[0].model, backends={key.pool: app_of(key) for key in keys}
    )
    file = world.api.write_kubeconfig(folder / f"kubeconfig-{token or 'admin'}", token)
    quick: dict[str, Any] = {
        "watch_s": 10, "stale_after_s": 30.0, "timeout_s": 2.0, "connect_timeout_s": 1.0, "write_timeout_s": 1.0,
        "longest_backoff_s": 0.1, "catch_up_s": 2.0,
    }  # fmt: skip
    return KubernetesSettings(**{"kubeconfig": file, "namespaces": (NAMESPACE,), "routes": (route,), **quick, **more})


@dataclass
class Operated:
    """One controller; ``close`` it. Ticks are on record in ``audit``."""

    world: PodWorld
    folder: Path
    policy: PolicySettings
    platform: KubernetesSettings
    history: Mapping[str, LoadSeries] = field(default_factory=dict)
    fence: Fence = unfenced
    killed: Callable[[], bool] = lambda: False
    memory: PolicyMemory | None = None
    audit: SqlAudit | None = None
    champion: Forecaster | None = None
    patience_s: float = 10.0
    shard: ShardSettings = WHOLE
    metrics: MetricSource | None = None
    seed: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        machine, clock = SystemClock(), self.world.clock
        rng = np.random.default_rng(self.seed)
        self.settings = own_part(
            Settings(
                policy=self.policy,
                modes=ModeSettings.all_auto(),
                platform=self.platform,
                audit=AuditSettings(url=f"sqlite:///{self.folder}/audit-{{shard}}.db"),
                daemon=DaemonSettings(shard=self.shard),
            )
        )
        guard = unless_expired(self.fence, clock.now)
        self.cluster = KubernetesCluster(self.platform, machine.elapsed, clock.now, rng, guard, self.shard)
        self.router = KubernetesRouter(self.platform, machine.elapsed, clock.now, rng, guard)
        self.events = KubernetesEvents(self.platform, self.cluster.view, clock.now)
        for part in (self.cluster, self.router, self.events):
            part.start()
        own = f"sqlite:///{self.folder / 'audit.db'}" if self.shard.whole else self.settings.audit.url
        self.log = SqlAudit.open(own) if self.audit is None else self.audit
        self.notifier = ListNotifier()
        self.records: list[TickRecord] = []
        self.loop = self._loop()

    def _loop(self) -> ControlLoop:
        ports = World(
            self.metrics or self.world,
            self.cluster,
            self.router,
            self.notifier,
            witness=self.events,
            spent=self.cluster.view.spent,
        )
        consent, chain = Consent(self.killed), chain_of(self.champion)
        return control_loop(self.settings, ports, self.log, self.world.clock, consent, chain, self.history, self.memory)

    def catch_up(self) -> bool:
        """Wait until what is watched shows all there is; return whether it does."""
        watched = [one for several in self.cluster.view.reflectors.values() for one in several]
        return caught_up(self.world.api, [*watched, *self.router.reflectors.values()], self.patience_s)

    def tick(self) -> TickRecord:
        self.catch_up()
        record = self.loop.tick()
        self.records.append(record)
        return record

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Tick, then let a tick's time pass, until ``seconds`` are over or something has come true."""
        end_at = self.world.clock.at + seconds
        while self.world.clock.at < end_at:
            self.tick()
            self.world.advance(self.policy.tick_s)
            if until():
                return True
        return until()

    def done(self, act: str) -> list[tuple[float, str, str]]:
        """What was done of one kind, as (instant, subject, words)."""
        return [(r.at, one.subject, one.detail) for r in self.records for one in r.results
                if one.act == act and one.outcome == "done"]  # fmt: skip

    def close(self) -> None:
        """Give up everything; may be called again."""
        if self.closed:
            return
        self.closed = True
        for part in (self.events, self.router, self.cluster):
            part.close()
        if self.audit is None:
            self.log.close()
