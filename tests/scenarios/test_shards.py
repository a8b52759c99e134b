"""Do several controllers share a fleet out by shards, each workload written by one, whatever becomes of them?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from controller.shard_settings import WHOLE, ShardSettings
from policies.fleet import PoolKey
from policies.guardrails import GuardrailSettings
from simulations.kubernetes_api.running import running_api
from tests.builders import AT, FixedClock, settings
from tests.builders_kube_rig import BOOKMARKS_S
from tests.builders_pod_world import app_of
from tests.builders_shards import GPUS, ManyModels, Sharded

KEYS = [PoolKey(f"model-{number}", "a100") for number in range(9)]
QUIET, BUSY = 6.0, 24.0
TAKEN_OVER_S = 20.0

Start: TypeAlias = Callable[..., Sharded]


def of(count: int) -> list[ShardSettings]:
    return [ShardSettings(index=index, of=count) for index in range(count)] if count > 1 else [WHOLE]


@contextmanager
def a_fleet(folder: Path, **policy: Any) -> Iterator[Sharded]:
    clock = FixedClock(AT)
    with running_api(clock=clock, bookmark_every_s=BOOKMARKS_S) as api:
        world = ManyModels(clock=clock, api=api, lead_s=30.0, drain_s=10.0, requests_per_s=QUIET)
        world.begin(*KEYS, replicas=2, nodes=24)
        with closing(Sharded(world, folder, settings(*KEYS, least=1, most=8, **policy))) as sharded:
            yield sharded


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Sharded]:
    with a_fleet(tmp_path) as sharded:
        yield sharded


def test_every_workload_is_written_by_its_shard_alone_and_standbys_write_nothing(fleet: Sharded) -> None:
    leaders = [fleet.start(shard) for shard in of(3)]
    fleet.run(3.0)
    standbys = [fleet.start(shard) for shard in of(3)]
    fleet.world.requests_per_s = BUSY
    fleet.run(240.0)
    assert fleet.leaders() == [f"shard {index} of 3" for index in range(3)]
    for key in KEYS:
        home = leaders[leaders[0].shard.home_of(key.model)]
        assert fleet.writers()[app_of(key)] == {home.name}
        assert fleet.world.desired(key) > 2
    assert not any(one.ticks for one in standbys)
    assert fleet.problems() == []
    for one in leaders:
        seen = {pool.key for record in one.ticks if record.fleet for pool in record.fleet.pools}
        assert seen == {key for key in KEYS if one.shard.has(key.model)}
        missing = {what for record in one.ticks if record.fleet for what in record.fleet.missing}
        assert not [what for what in missing if not what.startswith("weights:")]
        assert len(one.operated.log) >= len(one.ticks)
        assert one.operated.log.verify().intact


def test_a_shard_whose_leader_is_gone_is_taken_over_in_time_and_the_others_go_on(fleet: Sharded) -> None:
    leaders = [fleet.start(shard) for shard in of(3)]
    fleet.run(3.0)
    standby = fleet.start(leaders[1].shard)
    fleet.run(60.0)
    leaders[1].asleep = True
    ticks = len(leaders[0].ticks)
    fleet.run(TAKEN_OVER_S)
    assert standby.leadership.leads
    assert standby.operated.memory is not None
    assert standby.operated.memory.generation == leaders[1].operated.loop.memory.generation
    assert len(leaders[0].ticks) > ticks
    fleet.world.requests_per_s, before = BUSY, len(fleet.world.api.written)
    leaders[1].asleep = False  # it was only paused
    fleet.run(120.0)
    ours = {app_of(key) for key in KEYS if standby.shard.has(key.model)}
    assert {app: fleet.writers(before)[app] for app in ours} == {app: {standby.name} for app in ours}
    assert fleet.problems() == []


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (1, 2), (2, 1)])
def test_another_number_of_shards_begins_only_once_the_last_of_the_old_ones_is_gone(
    fleet: Sharded, before: int, after: int
) -> None:
    old = [fleet.start(shard) for shard in of(before)]
    fleet.run(60.0)
    new = [fleet.start(shard) for shard in of(after)]
    for one in old:
        fleet.run(45.0)
        assert not any(process.ticks for process in new), "both divisions act"
        fleet.end(one)
    fleet.run(TAKEN_OVER_S)
    assert fleet.leaders() == sorted(one.shard.title for one in new)
    first = len(fleet.world.api.written)
    fleet.world.requests_per_s = BUSY
    fleet.run(180.0)
    for key in KEYS:
        assert fleet.writers(first)[app_of(key)] == {one.name for one in new if one.shard.has(key.model)}
    assert fleet.problems() == []


def test_a_leader_that_was_paused_while_the_division_changed_writes_nothing_more(fleet: Sharded) -> None:
    old = [fleet.start(shard) for shard in of(2)]
    fleet.run(60.0)
    old[0].asleep = True
    fleet.end(old[1])
    new = [fleet.start(shard) for shard in of(3)]
    fleet.run(45.0)
    assert fleet.leaders() == [f"shard {index} of 3" for index in range(3)]
    fleet.world.requests_per_s = BUSY
    record = old[0].operated.tick()  # it wakes up in the middle of what it was about to do
    assert record.results
    assert {result.outcome for result in record.results} <= {"held", "failed"}
    assert all("leads" in result.detail or "renewed" in result.detail for result in record.results), record.results
    old[0].asleep = False
    fleet.run(120.0)
    assert all(new[0].shard.layout != one.shard.layout for one in old)
    assert not old[0].leadership.leads
    assert fleet.problems() == []


def test_shards_together_keep_the_budget_of_the_fleet(tmp_path: Path) -> None:
    budget = 44
    with a_fleet(tmp_path, guardrails=GuardrailSettings(gpu_budget=budget)) as fleet:
        processes = [fleet.start(shard) for shard in of(2)]
        fleet.world.requests_per_s = 4 * BUSY
        most = 0
        for _ in range(16):
            fleet.run(15.0)
            most = max(most, fleet.world.gpus)
        assert len(KEYS) * 2 * GPUS < most <= budget
        for one in processes:  # one has had more than its part from the beginning, and keeps that
            keys = [key for key in KEYS if one.shard.has(key.model)]
            used = GPUS * sum(fleet.world.desired(key) for key in keys)
            assert used <= max(one.shard.share_of(budget), 2 * GPUS * len(keys))
        assert fleet.problems() == []


@pytest.mark.parametrize("seed", range(6))
def test_random_ends_pauses_and_divisions_never_give_a_workload_two_writers(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with a_fleet(tmp_path) as fleet:
        for _ in range(14):
            shards = of(int(rng.integers(1, 4)))
            if len(fleet.processes) < 14:
                fleet.start(shards[rng.integers(len(shards))])
            there = [one for one in fleet.processes if not one.ended]
            if rng.random() < 0.5 and len(there) > 2:
                fleet.end(there[0])
            for one in there:
                one.asleep = not one.ended and rng.random() < 0.25
            fleet.world.requests_per_s = float(rng.uniform(2.0, 40.0))
            fleet.run(30.0)
            for one in there:
                if one.asleep and rng.random() < 0.5 and one.led:  # what was paused in a tick goes on with it
                    one.ticks.append(one.operated.tick())
        assert fleet.problems() == []
        assert sum(len(users) for users in fleet.writers().values()) > 0
