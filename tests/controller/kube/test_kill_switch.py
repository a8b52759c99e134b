"""Does the kill switch stop what is written to a cluster between two writes of one act, and not only before it?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.adapters.kube.changes import unfenced
from controller.bootstrap import kill_switch, unless_killed, world_of
from controller.errors import ActuationError
from controller.settings import Settings
from tests.builders_kube_api import settings_for
from tests.builders_kube_writes import KEY, a_kube_world


def _settings(folder: Path, **more: object) -> Settings:
    return Settings.model_validate({"daemon": {"kill_switch": folder / "STOP"}, **more})


def test_every_write_asks_the_kill_switch(tmp_path: Path) -> None:
    with a_kube_world(tmp_path) as placed:
        world = world_of(_settings(tmp_path, platform=settings_for(placed.api, tmp_path)))
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


def test_a_kill_switch_that_cannot_be_read_lets_nothing_through(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asks = unless_killed(unfenced, kill_switch(_settings(tmp_path / "file")))
    assert asks(1.0).startswith("the kill switch cannot be read: NotADirectoryError")


def test_the_lease_is_asked_all_the_same(tmp_path: Path) -> None:
    asks = unless_killed(lambda needs_s: f"{needs_s:g} s are too long", kill_switch(_settings(tmp_path)))
    assert asks(4.0) == "4 s are too long"
