"""Does a platform stay open over reloads that change nothing of it, follow what changed, and leave nothing behind?"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller.adapters.sql_audit import SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.bootstrap import Worlds, write_gate
from controller.errors import BadInput
from controller.live_loop import LiveLoop, Warrant
from controller.ports import TickRecord
from controller.settings import Settings
from controller.telemetry import Telemetry
from policies.fleet import PoolKey
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import fleet
from tests.builders_asked import counted, lists
from tests.builders_kube_api import Fleet, settings_for
from tests.builders_policies import until

PROFILE = "llama-3.1-8b-l40s-tp1"


@dataclass
class Rig:
    """The loop of a daemon, as ``foresail run`` puts it together, over an API server that counts what it is asked."""

    api: RunningApi
    asked: Counter[tuple[str, str]]
    folder: Path

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.api)
        self.fleet.deployment(pods=2)
        settings = self.settings()
        machine, gate = SystemClock(), write_gate(settings)
        self.log = SqlAudit.open(settings.audit.url)
        telemetry = Telemetry(settings.daemon.telemetry, machine.elapsed)
        parts = settings, Worlds(gate), self.log, telemetry, machine, machine
        self.live = LiveLoop(*parts, warrant=Warrant(gate=gate))

    def settings(self, most: int = 4, **platform: Any) -> Settings:
        pools = {"llama/llama/unified": {"profile": PROFILE, "max_replicas": most}}
        return Settings.model_validate(
            {
                "policy": {"pools": pools},
                "prometheus": {"url": "http://127.0.0.1:1"},
                "audit": {"url": f"sqlite:///{self.folder}/audit.db"},
                "platform": settings_for(self.api, self.folder, watch_s=10, **platform),
            }
        )

    def reload(self, *, tick: bool = True, **changes: Any) -> None:
        """Go on with other settings, from the tick that follows at once, or would."""
        self.live.replace(self.settings(**changes))
        if tick:
            self.live.ticker.tick()
        else:
            self.live.ticker._apply_changes()

    @property
    def pools(self) -> list[str]:
        return [str(pool.key) for pool in self.live._world.cluster.pools()]

    def close(self) -> None:
        self.live.close()
        self.log.close()


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Iterator[Rig]:
    with running_api() as api, counted(api) as asked:
        rig = Rig(api, asked, tmp_path)
        yield rig
        rig.close()


def _held() -> tuple[int, int]:
    """Return how many threads and how many sockets this process has."""
    links = [str(place.readlink()) for place in Path("/proc/self/fd").iterdir() if place.is_symlink()]
    return threading.active_count(), sum(link.startswith("socket:") for link in links)


def test_a_hundred_reloads_list_nothing_anew_and_leave_nothing_behind(rig: Rig) -> None:
    rig.reload()
    before, (threads, sockets) = lists(rig.asked), _held()
    assert before["pods"] == before["deployments"] == 1
    cluster, view = rig.live._world.cluster, rig.live._world.cluster.view  # type: ignore[attr-defined]
    for most in range(5, 105):
        rig.reload(most=most, policies=bool(most % 2), tick=not most % 20)
    assert rig.live.settings.policy.pools["llama/llama/unified"].max_replicas == 104
    assert lists(rig.asked) == before
    assert rig.live._world.cluster is cluster
    assert rig.live._world.cluster.view is view  # type: ignore[attr-defined]
    after = _held()
    assert after[0] <= threads
    assert after[1] <= sockets + 2  # of the store that does not answer, until it is collected
    assert rig.pools == ["llama/llama/unified"]


def test_workloads_that_are_named_by_other_settings_are_pools_from_the_next_tick_on(rig: Rig) -> None:
    rig.fleet.create("deployments", "plain", spec=rig.api.call("GET", rig.fleet.path("deployments", "llama"))["spec"])
    rig.reload()
    before = lists(rig.asked)
    named = [{"namespace": "prod", "name": "plain", "model": "qwen"}]
    rig.live.replace(rig.settings(pools=named))
    assert "qwen/plain/unified" not in rig.pools  # the tick under way sees what it began with
    rig.live.ticker.tick()
    until(lambda: rig.pools == ["llama/llama/unified", "qwen/plain/unified"])
    rig.reload()
    assert rig.pools == ["llama/llama/unified"]
    assert lists(rig.asked) == before


def test_another_platform_is_opened_and_the_old_one_closed(rig: Rig) -> None:
    rig.reload()
    first, before = rig.live._world.cluster, _held()
    for kinds in (("Deployment",), ("Deployment", "StatefulSet")) * 3:
        rig.reload(kinds=kinds)
        assert rig.live._world.cluster is not first
        assert rig.pools == ["llama/llama/unified"]
    assert lists(rig.asked)["pods"] == 7
    until(lambda: _held()[0] <= before[0])


def test_what_was_written_before_a_reload_shows_after_it(rig: Rig) -> None:
    rig.reload()
    (pool,) = rig.live._world.cluster.pools()
    rig.live._world.cluster.scale(PoolKey("llama", "llama"), 3, pool.version)
    rig.reload(most=7)
    (pool,) = rig.live._world.cluster.pools()
    assert pool.desired == 3  # our own last write shows, without a list


def test_a_kubeconfig_that_says_something_else_opens_the_cluster_anew(rig: Rig) -> None:
    rig.reload()
    first = rig.live._world.cluster
    rig.reload(known_as="somebody")
    assert rig.live._world.cluster is not first


def test_routes_to_pools_that_are_not_there_are_told_once_over_reloads(rig: Rig) -> None:
    route = {"namespace": "prod", "name": "llama", "model": "llama", "backends": {"llama": "a", "typo": "b"}}
    with capture_logs() as lines:
        for most in (5, 6, 7):
            rig.reload(most=most, routes=[route], tick=False)
            witness, seen = rig.live._world.witness, fleet(*rig.live._world.cluster.pools())
            assert witness is not None
            witness.saw(TickRecord(seen.at, seen, {}, None))
    (line,) = [line for line in lines if "what" in line]
    what = "it has a backend for llama/typo/unified, and there is no such pool; those of llama are llama/llama/unified"
    assert (line["route"], line["what"]) == ("HTTPRoute prod/llama", what)


def test_two_reloads_before_a_tick_take_effect_in_their_order(rig: Rig) -> None:
    first = rig.live._world.cluster
    rig.live.replace(rig.settings(kinds=("Deployment",)))
    rig.live.replace(rig.settings())
    rig.live.ticker.tick()
    assert rig.live._world.cluster is first
    assert rig.pools == ["llama/llama/unified"]


def test_a_reload_that_fails_leaves_the_old_one_running(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.reload()
    before, first, used = _held(), rig.live._world, rig.live.settings
    with pytest.raises(BadInput, match="cannot be told how the API server is reached"):
        rig.live.replace(rig.settings().model_copy(update={"platform": rig.settings(context="nowhere").platform}))
    assert rig.live.ticker.loop is not None
    with monkeypatch.context() as patched:
        patched.setattr("controller.live_loop.control_loop", lambda *_: 1 / 0)
        rig.reload(kinds=("Deployment",))
    assert (rig.live.ticker.bugs_in_a_row, rig.live._world, rig.live.settings) == (1, first, used)
    until(lambda: _held()[0] <= before[0])
    rig.live.ticker.tick()
    assert rig.live.ticker.bugs_in_a_row == 0
    assert rig.pools == ["llama/llama/unified"]


def test_what_was_to_come_is_closed_with_what_there_is(tmp_path: Path) -> None:
    before = threading.active_count()
    with running_api() as api, counted(api) as asked:
        rig = Rig(api, asked, tmp_path)
        rig.live.replace(rig.settings(kinds=("Deployment",)))
        rig.close()
    until(lambda: threading.active_count() <= before)
