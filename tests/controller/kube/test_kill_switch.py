"""Does what stops writes stop them between two writes of one act, and not only before it, whatever was reloaded?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.sql_audit import SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.bootstrap import Worlds, write_gate
from controller.errors import ActuationError
from controller.live_loop import LiveLoop, Warrant
from controller.settings import Settings
from controller.telemetry import Telemetry
from controller.write_gate import ENDING
from simulations.kubernetes_api.access import Rule
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kube_api import settings_for
from tests.builders_kube_writes import KEY, KubeWorld, a_kube_world

ALL = (Rule(("*",), ("*",), ("*",)),)


def _settings(folder: Path, name: str = "STOP", **more: object) -> Settings:
    return Settings.model_validate({"daemon": {"kill_switch": folder / name}, **more})


def test_every_write_asks_the_kill_switch(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as placed:
        settings = _settings(tmp_path, platform=settings_for(placed.api, tmp_path))
        world = Worlds(write_gate(settings))(settings)
        try:
            (pool,) = world.cluster.pools()
            (tmp_path / "STOP").touch()
            version = placed.api.version
            with pytest.raises(ActuationError, match="not sent: kill switch"):
                world.cluster.scale(KEY, 4, pool.version)
            with pytest.raises(ActuationError, match="not sent: kill switch"):
                world.cluster.restart(KEY, pool.replicas[0].id)
            assert placed.api.version == version
            (tmp_path / "STOP").unlink()
            world.cluster.scale(KEY, 4, pool.version)
            assert placed.workload()["spec"]["replicas"] == 4
        finally:
            world.close()


@contextmanager
def _a_live_loop(placed: KubeWorld, folder: Path) -> Iterator[tuple[LiveLoop, Settings]]:
    """The loop of a daemon, as ``foresail run`` puts it together, that may act on a world."""
    audit = {"url": f"sqlite:///{folder}/audit.db"}
    settings = _settings(folder, platform=settings_for(placed.api, folder, known_as="foresail"), audit=audit)
    machine, gate = SystemClock(), write_gate(settings)
    telemetry, log = Telemetry(settings.daemon.telemetry, machine.elapsed), SqlAudit.open(settings.audit.url)
    live = LiveLoop(settings, Worlds(gate), log, telemetry, machine, machine, warrant=Warrant(gate=gate))
    try:
        yield live, settings
    finally:
        live.close()
        log.close()


def _after_the_first_write(api: RunningApi, what: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen once the server has carried out a write, and before it says so."""
    follow, left = api.api.trail.follow, [what]

    def noted(aim: Any, *told: Any) -> Any:
        answer = follow(aim, *told)
        if aim.verb == "patch" and left:
            left.pop()()
        return answer

    monkeypatch.setattr(api.api.trail, "follow", noted)


def _another_switch(live: LiveLoop, settings: Settings, folder: Path) -> None:
    (folder / "HALT").touch()
    live.replace(settings.model_copy(update={"daemon": _settings(folder, "HALT").daemon}))


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda live, *_: live.forbid_writes(), ENDING),
        (_another_switch, "kill switch"),
        (lambda _live, _settings, folder: (folder / "STOP").touch(), "kill switch"),
    ],
    ids=["the end of the process", "a reload with another switch", "the switch"],
)
def test_an_act_ends_between_two_of_its_writes(
    what: Callable[..., None], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_kube_world(tmp_path, rules=ALL) as placed, _a_live_loop(placed, tmp_path) as (live, settings):
        cluster = live._world.cluster
        (pool,) = cluster.pools()
        _after_the_first_write(placed.api, lambda: what(live, settings, tmp_path), monkeypatch)
        before = len(placed.api.written)
        with pytest.raises(ActuationError, match=f"not sent: {why}"):
            cluster.scale(KEY, 2, pool.version, (pool.replicas[1].id,))  # marks who is to go first, then asks for fewer
        assert placed.workload()["spec"]["replicas"] == 3
        assert [entry.resource for entry in placed.api.written[before:]] == ["pods"]


def test_a_switch_that_settings_no_longer_name_stops_nothing(tmp_path: Path) -> None:
    with a_kube_world(tmp_path, rules=ALL) as placed, _a_live_loop(placed, tmp_path) as (live, settings):
        cluster = live._world.cluster
        (pool,) = cluster.pools()
        live.replace(settings.model_copy(update={"daemon": _settings(tmp_path, "HALT").daemon}))
        (tmp_path / "STOP").touch()
        cluster.scale(KEY, 1, pool.version)
        assert placed.workload()["spec"]["replicas"] == 1
