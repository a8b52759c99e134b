"""Does a daemon that is told to stop tell the last things it did, before it gives the lease away and within a bound?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.events import KubernetesEvents
from controller.adapters.kube.lease import candidate
from controller.adapters.kube.settings import KubernetesSettings, LeasePlace
from controller.adapters.system_clock import SystemClock
from controller.bootstrap import World, write_gate
from controller.daemon import Daemon, run_once
from controller.leadership import Candidate
from controller.live_loop import FLUSH_WITHIN_S
from controller.ports import FleetMetrics
from controller.reload import SettingsFile
from controller.settings import Settings
from controller.write_gate import WriteGate
from policies.fleet import PoolKey, PoolState
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import FakeRouter, ListNotifier, demand, metrics
from tests.builders_kube_api import MERGE, Fleet, settings_for
from tests.builders_policies import until

KEY = PoolKey("llama", "llama")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/prod/leases/foresail"
EVENTS = "/api/v1/namespaces/prod/events"
LEASE = LeasePlace(namespace="prod")


class Scaled:
    """A cluster as a view sees it, whose Deployment is scaled past everything else; all its replicas are busy."""

    def __init__(self, view: KubernetesView, api: RunningApi) -> None:
        self.view, self.api = view, api
        self.scaled = 0

    def pools(self) -> tuple[PoolState, ...]:
        return self.view.pools()

    def nodes(self) -> dict[str, Any]:
        return {}

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        path = f"/apis/apps/v1/namespaces/prod/deployments/{pool.pool}/scale?fieldManager=foresail"
        self.api.call("PATCH", path, {"spec": {"replicas": replicas}}, MERGE)
        self.scaled += 1

    def read(self, at: float) -> FleetMetrics:
        busy = {f"llama-abc-{number}": metrics(at) for number in range(2)}
        return FleetMetrics(demand={"llama": demand(requests_per_s=200.0)}, replicas=busy)


@dataclass
class Rig:
    """A daemon's parts: an API server with the lease and the Events, and settings that scale."""

    api: RunningApi
    file: Path
    platform: KubernetesSettings
    leadership: Candidate
    gate: WriteGate
    world_of: Any
    cluster: Scaled

    @property
    def settings(self) -> Settings:
        return SettingsFile(self.file).load()

    @property
    def holder(self) -> str:
        return str(self.api.call("GET", LEASES)["spec"].get("holderIdentity", ""))

    def told(self) -> list[str]:
        return [event["reason"] for event in self.api.call("GET", EVENTS)["items"]]

    def stopped_after(self, so: Any) -> int:
        """Run the daemon until something is so, then tell it to stop; return its exit code."""

        def stop() -> None:
            until(so)
            os.kill(os.getpid(), signal.SIGTERM)

        parts = SettingsFile(self.file), self.settings, self.world_of
        daemon = Daemon(*parts, leadership=self.leadership, gate=self.gate)
        stopper = threading.Thread(target=stop)
        stopper.start()
        code = daemon.run()
        stopper.join()
        return code


@pytest.fixture(name="signals", autouse=True)
def _signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, known in before.items():
        signal.signal(number, known)


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Iterator[Rig]:
    clock = SystemClock()
    with running_api(bookmark_every_s=0.05) as api:
        Fleet(api).deployment()
        platform = settings_for(api, tmp_path, lease=LEASE, write_timeout_s=1.0)
        leadership = candidate(platform, clock.now, clock.lasting)
        file = tmp_path / "foresail.yaml"
        file.write_text(
            f"policy: {{pools: {{{KEY}: {{profile: llama-3.1-8b-l40s-tp1}}}}}}\nmodes: {{scaling: auto}}\n"
            f"registry: {{cache: '{tmp_path}/models'}}\naudit: {{url: 'sqlite:///{tmp_path}/audit.db'}}\n"
            f"daemon: {{kill_switch: '{tmp_path}/STOP', status: {{address: '127.0.0.1:0'}}}}\n"
        )
        gate = write_gate(SettingsFile(file).load(), leadership)
        view = KubernetesView(platform, clock.elapsed, np.random.default_rng(3), fence=gate.why_not, now=clock.now)
        view.start()
        cluster = Scaled(view, api)

        def world_of(_: Settings) -> World:
            events = KubernetesEvents(platform, view, clock.elapsed, silenced=lambda: bool(gate.stopped()))
            events.start()
            ports: Any = (cluster, cluster, FakeRouter({KEY: 1.0}), ListNotifier())
            return World(*ports, close=events.close, witness=events, flush=events.flush)

        yield Rig(api, file, platform, leadership, gate, world_of, cluster)
        view.close()


def test_what_was_done_last_is_told_before_the_lease_is_given_away(rig: Rig) -> None:
    rig.api.fault(Fault(code=503, verbs=("create",), resources=("events",), times=1, retry_after_s=60))
    assert rig.stopped_after(lambda: rig.cluster.scaled > 0 and bool(rig.leadership.holder)) == 0
    assert "ScaledUp" in rig.told()
    assert rig.holder == ""


def test_a_server_that_takes_no_events_holds_up_no_end(rig: Rig) -> None:
    rig.api.fault(Fault(hang=True, verbs=("create",), resources=("events",)))
    elapsed, ends_s = SystemClock().elapsed, [0.0]

    def so() -> bool:
        ends_s[0] = SystemClock().elapsed()
        return rig.cluster.scaled > 0

    assert rig.stopped_after(so) == 0
    assert elapsed() - ends_s[0] < FLUSH_WITHIN_S + 3.0  # the lease, the log and the rest are given up as well
    assert rig.holder == ""


def test_while_the_kill_switch_is_on_nothing_is_told_at_the_end_either(rig: Rig) -> None:
    rig.api.fault(Fault(code=503, verbs=("create",), resources=("events",), times=1, retry_after_s=60))

    def so() -> bool:
        if rig.cluster.scaled:
            rig.settings.daemon.kill_switch.touch()
        return rig.cluster.scaled > 0

    assert rig.stopped_after(so) == 0
    assert rig.told() == []
    assert rig.holder == ""


def test_a_single_tick_tells_what_it_did_before_it_gives_the_lease_away(rig: Rig) -> None:
    rig.api.fault(Fault(code=503, verbs=("create",), resources=("events",), times=1, retry_after_s=60))
    run_once(rig.settings, rig.world_of, leadership=rig.leadership, gate=rig.gate)
    assert "ScaledUp" in rig.told()
    assert rig.holder == ""
