"""Does the live platform keep its word with real processes: pools, crashes, drains, caps, tokens?"""

from __future__ import annotations

import asyncio
import json
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import foresail
from controller.errors import ActuationError, BadInput, StalePlan
from policies.fleet import Phase, PoolKey, ReplicaState
from simulations.live.envoy_config import HEADER
from simulations.live.live_pool import EngineSlot
from simulations.live.platform import first_shares
from tests.builders_platform import MODEL, RunningPlatform, a_command, a_template
from tests.live.test_processes import alive

EAST, WEST = PoolKey(MODEL, "east"), PoolKey(MODEL, "west")


def slow_command(slot: EngineSlot) -> list[str]:
    return a_command(slot, 600.0)


def good_from_revision_2(slot: EngineSlot) -> list[str]:
    """Revision 1 ends at once, as a bad image would."""
    return a_command(slot) if slot.revision != "1" else [sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RunningPlatform]:
    with RunningPlatform(tmp_path, [a_template(2), a_template(1, "west")], most_replicas=6) as running:
        yield running


def the_replica(world: RunningPlatform, name: str, key: PoolKey = EAST) -> ReplicaState:
    (pool,) = (pool for pool in world.platform.pools() if pool.key == key)
    return next(replica for replica in pool.replicas if replica.id == name)


def pid_of(world: RunningPlatform, name: str) -> int:
    return next(child.pid for child in world.supervisor.children if child.name == name)


def stream(world: RunningPlatform, pieces: int, got: list[str]) -> threading.Thread:
    """Read a stream of ``pieces`` tenths of a second into ``got``, in a thread; returns once it has begun."""

    def read() -> None:
        with world.gateway() as gateway, gateway.stream("GET", f"/stream/{pieces}") as answer:
            got.extend(answer.iter_text())

    thread = threading.Thread(target=read)
    thread.start()
    world.until(lambda: len(got) > 0)
    return thread


@pytest.mark.parametrize(("code", "reason"), [(0, "Completed"), (3, "Error"), (137, "Error")])
def test_an_engine_that_exits_is_started_again_in_place_whatever_its_code(
    world: RunningPlatform, code: int, reason: str
) -> None:
    before = the_replica(world, "west-0", WEST)
    world.do(world.platform.set_shares(MODEL, {WEST: 1.0}))
    with world.gateway() as gateway:
        assert gateway.get(f"/exit/{code}").status_code == 503
    world.until(lambda: the_replica(world, "west-0", WEST).phase is Phase.FAILED)
    assert world.serving_at_gateway(WEST) == set()
    world.settle()
    after = the_replica(world, "west-0", WEST)
    assert (after.restarts, after.life) == (1, "west-0#1")
    assert (before.exit_reason, after.exit_reason, after.waiting_reason) == ("", reason, "")
    assert after.requested_at > before.requested_at
    with world.gateway() as gateway:
        assert gateway.get("/now").status_code == 200
    (failed,) = (event for event in world.platform.events if event.what == "failed")
    assert f"exit code {code}" in failed.detail


def test_an_injected_kill_ends_the_process_and_backs_off_longer_each_time(world: RunningPlatform) -> None:
    waits = []
    for kills in range(1, 4):
        pid = pid_of(world, "west-0")
        world.do(world.platform.inject(WEST, "west-0", {"kind": "kill"}))
        world.until(lambda kills=kills: the_replica(world, "west-0", WEST).restarts == kills)  # type: ignore[misc]  # bound on purpose
        assert not alive(pid)
        world.settle()
        failed = [event for event in world.platform.events if event.what == "failed"][-1]
        assert "exit code -9" in failed.detail
        waits.append(float(failed.detail.rsplit(" ", 2)[1]))
    assert waits == [0.2, 0.4, 0.8]
    assert the_replica(world, "west-0", WEST).exit_reason == "Error"


def test_an_exit_is_out_of_memory_only_where_it_is_known_to_be(world: RunningPlatform) -> None:
    world.do(world.platform.inject(WEST, "west-0", {"kind": "oom"}))
    world.until(lambda: the_replica(world, "west-0", WEST).restarts == 1)
    world.settle()
    assert the_replica(world, "west-0", WEST).exit_reason == "OOMKilled"
    world.do(world.platform.inject(WEST, "*", {"kind": "kill"}))
    world.until(lambda: the_replica(world, "west-0", WEST).restarts == 2)
    assert the_replica(world, "west-0", WEST).exit_reason == "Error"


def test_a_replica_that_exits_again_and_again_waits_in_a_loop_and_one_exit_is_none(tmp_path: Path) -> None:
    seen: set[tuple[int, str]] = set()
    with RunningPlatform(tmp_path, [a_template(1)], restart_backoff_s=0.5) as world:
        for kills in (1, 2):
            world.do(world.platform.inject(EAST, "east-0", {"kind": "kill"}))
            world.until(lambda kills=kills: the_replica(world, "east-0").restarts == kills)  # type: ignore[misc]  # bound on purpose
            replica = the_replica(world, "east-0")
            assert replica.phase is Phase.FAILED
            seen.add((replica.restarts, replica.waiting_reason))
            world.settle()
        assert seen == {(1, ""), (2, "CrashLoopBackOff")}
        assert the_replica(world, "east-0").waiting_reason == ""


def test_scaling_down_lets_streams_end_and_counts_no_error(world: RunningPlatform) -> None:
    world.do(world.platform.set_shares(MODEL, {EAST: 1.0}))
    got: list[list[str]] = [[] for _ in range(6)]
    readers = [stream(world, 10, pieces) for pieces in got]
    world.do(world.platform.scale(EAST, 1, 1, ("east-0",)))
    assert the_replica(world, "east-0").phase is Phase.DRAINING
    world.settle()
    for reader in readers:
        reader.join()
    assert ["".join(pieces) for pieces in got] == ["hi" * 10] * 6
    assert not any(event.what == "drain deadline" for event in world.platform.events)


def test_streams_see_no_error_while_the_pool_shrinks_and_grows(tmp_path: Path) -> None:
    wanted, pieces, at_a_time = 200, 5, 30
    seen: list[str] = []

    async def read(gateway: httpx.AsyncClient, more: asyncio.Semaphore) -> None:
        async with more, gateway.stream("GET", f"/stream/{pieces}") as answer:
            seen.append("".join([text async for text in answer.aiter_text()]) if answer.status_code == 200 else "")

    async def load(url: str) -> None:
        more = asyncio.Semaphore(at_a_time)
        limits = httpx.Limits(max_connections=2 * at_a_time)
        async with httpx.AsyncClient(
            base_url=url, headers={HEADER: MODEL}, timeout=60.0, trust_env=False, limits=limits
        ) as gateway:
            await asyncio.gather(*(read(gateway, more) for _ in range(wanted)))

    with RunningPlatform(tmp_path, [a_template(4)], drain_deadline_s=30.0) as world:
        reader = threading.Thread(target=lambda: asyncio.run(load(world.envoy.url)))
        reader.start()
        world.until(lambda: len(seen) > 20)
        shrunk = 0
        while reader.is_alive():
            for replicas in (1, 4):
                world.do(world.platform.scale(EAST, replicas, world.platform.pools()[0].version))
                world.settle()
                shrunk += replicas == 1 and reader.is_alive()
        reader.join()
        drained = sum(event.what == "gone" for event in world.platform.events)
    assert shrunk >= 2
    assert drained >= 3 * shrunk
    assert seen == ["hi" * pieces] * wanted


def test_a_drain_ends_at_its_deadline(tmp_path: Path) -> None:
    with RunningPlatform(tmp_path, [a_template(1)], drain_deadline_s=0.5, end_grace_s=0.2) as world:
        pid = pid_of(world, "east-0")
        with world.gateway() as gateway, gateway.stream("GET", "/hang") as answer:
            assert answer.status_code == 200
            world.do(world.platform.scale(EAST, 0, 1))
            world.settle()
        assert not alive(pid)
        assert any(event.what == "drain deadline" for event in world.platform.events)


def test_a_restart_of_a_draining_replica_ends_the_wait_and_brings_no_other(world: RunningPlatform) -> None:
    world.do(world.platform.set_shares(MODEL, {WEST: 1.0}))
    with world.gateway() as gateway, gateway.stream("GET", "/hang"):
        world.do(world.platform.scale(WEST, 0, 1))
        assert the_replica(world, "west-0", WEST).phase is Phase.DRAINING
        world.do(world.platform.restart(WEST, "west-0"))
        world.settle()
    assert world.platform.pools()[1].replicas == ()


def test_a_replica_that_still_loads_leaves_first_and_at_once(tmp_path: Path) -> None:
    with RunningPlatform(tmp_path, [a_template(0, command=slow_command)]) as world:
        world.do(world.platform.scale(EAST, 2, 1))
        world.until(lambda: [r.phase for r in world.platform.pools()[0].replicas] == [Phase.LOADING] * 2)
        world.do(world.platform.scale(EAST, 1, 2))
        world.until(lambda: [r.id for r in world.platform.pools()[0].replicas] == ["east-0"])


def test_more_than_the_machine_may_carry_is_refused(world: RunningPlatform) -> None:
    with pytest.raises(ActuationError, match="more than the 6"):
        world.do(world.platform.scale(EAST, 6, 1))
    with pytest.raises(StalePlan):
        world.do(world.platform.scale(EAST, 3, 9))
    assert [pool.desired for pool in world.platform.pools()] == [2, 1]


def test_a_rollout_that_cannot_start_stops_there_and_is_rolled_back(tmp_path: Path) -> None:
    template = a_template(2, command=good_from_revision_2, revisions=("1", "2"), stable_revision="2")
    with RunningPlatform(tmp_path, [template]) as world:
        world.do(world.platform.roll_back(EAST, "1"))
        world.until(lambda: the_replica(world, "east-2").restarts >= 2)
        assert world.serving_at_gateway(EAST) == {"east-0", "east-1"}
        world.do(world.platform.roll_back(EAST, "2"))
        world.settle()
        assert [(r.id, r.revision) for r in world.platform.pools()[0].replicas] == [("east-0", "2"), ("east-1", "2")]


def test_a_pipeline_brings_a_revision_that_the_platform_did_not_know(world: RunningPlatform) -> None:
    (before, _) = world.platform.pools()
    world.do(world.platform.roll_out(EAST, "2", [{"kind": "slow", "factor": 2}]))
    world.settle()
    (pool, _) = world.platform.pools()
    assert [r.revision for r in pool.replicas] == ["2", "2"]
    assert (pool.revisions, pool.revision, pool.stable_revision) == (("1", "2"), "2", "1")
    assert pool.revision_at > before.revision_at
    world.do(world.platform.pause(EAST))
    with pytest.raises(ActuationError, match="paused"):
        world.do(world.platform.roll_out(EAST, "3"))
    for fault in ({"kind": "kill"}, {"kind": "exit"}, {"kind": "slow", "factor": 0}, {}):
        with pytest.raises(ActuationError):
            world.do(world.platform.roll_out(WEST, "2", [fault]))
    assert world.platform.pools()[1].revisions == ("1",)


def test_faults_and_rollouts_are_asked_for_on_the_command_line(
    world: RunningPlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.folder / "live.json").write_text(json.dumps({"platform": f"http://127.0.0.1:{world.port}"}))
    out = ["--out", str(world.folder)]
    assert foresail.main(["live", "fault", "west/*", "kill", *out]) == 0
    world.until(lambda: the_replica(world, "west-0", WEST).restarts == 1)
    assert foresail.main(["live", "rollout", "west", "2", "slow", "factor=3", "--step-s", "0.1", *out]) == 0
    assert "west goes to revision 2" in capsys.readouterr().out
    world.settle()
    assert [r.revision for r in world.platform.pools()[1].replicas] == ["2"]
    assert world.platform._pools[WEST].revisions["2"] == ({"kind": "slow", "factor": 3},)
    assert foresail.main(["live", "rollout", "west", "3", "slow", "factor=0", *out]) == 2
    assert "factor" in capsys.readouterr().err


def test_a_rollout_that_takes_its_time_can_be_rolled_back_before_the_old_is_gone(world: RunningPlatform) -> None:
    world.do(world.platform.roll_out(EAST, "2", step_s=60.0))
    world.until(lambda: world.serving_at_gateway(EAST) == {"east-0", "east-1", "east-2"})
    world.do(world.platform.roll_back(EAST, "1"))
    world.settle()
    assert [(r.id, r.revision) for r in world.platform.pools()[0].replicas] == [("east-0", "1"), ("east-1", "1")]


def test_whoever_restarts_a_successor_that_does_not_start_costs_no_old_replica(tmp_path: Path) -> None:
    template = a_template(2, command=good_from_revision_2, revisions=("1", "2"), stable_revision="2")
    with RunningPlatform(tmp_path, [template]) as world:
        world.do(world.platform.roll_back(EAST, "1"))
        for name in ("east-2", "east-3"):
            world.until(lambda name=name: the_replica(world, name).restarts >= 1)  # type: ignore[misc]  # bound on purpose
            world.do(world.platform.restart(EAST, name))
        world.until(lambda: the_replica(world, "east-4").restarts >= 1)
        assert world.serving_at_gateway(EAST) == {"east-0", "east-1"}
        world.do(world.platform.roll_back(EAST, "2"))
        world.settle()
        assert [r.id for r in world.platform.pools()[0].replicas] == ["east-0", "east-1"]


def test_scaling_down_in_the_middle_of_a_rollout_leaves_what_was_asked_for(world: RunningPlatform) -> None:
    world.do(world.platform.roll_out(EAST, "2", step_s=1.0))
    world.until(lambda: len(world.platform.pools()[0].replicas) == 3)
    world.do(world.platform.scale(EAST, 1, world.platform.pools()[0].version))
    world.settle()
    assert [r.revision for r in world.platform.pools()[0].replicas] == ["2"]


def test_only_replicas_asked_for_later_tell_a_lead_time(world: RunningPlatform) -> None:
    opening = the_replica(world, "east-0")
    assert opening.requested_at == opening.since_at  # those that it begins with do not wait their turn
    world.do(world.platform.scale(EAST, 3, 1))
    world.settle()
    later = the_replica(world, "east-2")
    assert later.requested_at < later.since_at


def test_nodes_hold_as_many_replicas_as_they_have_gpus(tmp_path: Path) -> None:
    with RunningPlatform(tmp_path, [a_template(3, gpus_per_replica=4)], gpus_per_node=8) as world:
        nodes = [replica.node for replica in world.platform.pools()[0].replicas]
        assert nodes == ["east-node-0", "east-node-0", "east-node-1"]


def test_leaving_ends_every_process(tmp_path: Path) -> None:
    with RunningPlatform(tmp_path, [a_template(2)]) as world:
        pids = [child.pid for child in world.supervisor.children]
        assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)


def test_gpu_time_is_counted_from_the_request_to_the_end(world: RunningPlatform) -> None:
    before = world.platform.gpu_seconds()
    world.do(world.platform.scale(EAST, 0, 1))
    world.settle()
    (east, west) = (world.platform._pools[key] for key in (EAST, WEST))
    now = world.platform._machine.clock.now()
    assert east.replica_seconds(now) == east.replica_seconds(now + 100) > 0
    assert west.replica_seconds(now + 100) == pytest.approx(west.replica_seconds(now) + 100)
    assert world.platform.gpu_seconds() > before


def test_the_api_wants_its_token_and_says_what_is_wrong(world: RunningPlatform) -> None:
    file = world.folder / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = {"Authorization": f"Bearer {file.read_text().strip()}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{world.port}", trust_env=False) as api:
        assert api.get("/healthz").status_code == 200
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": token["Authorization"][:-1]}):
            assert api.get("/v1/pools", headers=wrong).status_code == 401
            assert api.put("/v1/pools/east/scale", headers=wrong, json={}).status_code == 401
        assert len(api.get("/v1/pools", headers=token).json()) == 2
        scale, good = "/v1/pools/east/scale", {"replicas": 2, "version": 1}
        assert api.put(scale, headers=token, json=good).status_code == 200
        for bad in ({}, {**good, "replicas": "2"}, {**good, "more": 1}, {**good, "replicas": True}, [], 7):
            assert api.put(scale, headers=token, json=bad).status_code == 400, bad
        assert api.put(scale, headers=token, content=b"{").status_code == 400
        long = json.dumps({**good, "retire_first": ["x" * 400] * 999}).encode()
        assert api.put(scale, headers=token, content=long).status_code == 413
        assert api.put(scale, headers=token, json={"replicas": 3, "version": 9}).status_code == 409
        assert api.put(scale, headers=token, json={"replicas": 99, "version": 1}).status_code == 422
        assert api.post("/v1/pools/nowhere/rollback", headers=token, json={"revision": "1"}).status_code == 404
        assert api.post("/v1/pools/east/replicas/none/cordon", headers=token).status_code == 404
        assert api.post("/v1/pools/east/pause", headers=token).status_code == 200
        rollout, bad = "/v1/pools/east/rollout", {"revision": "2", "step_s": -1}
        assert api.post(rollout, headers=token, json={"revision": "2"}).status_code == 422  # it is paused
        assert api.post("/v1/pools/east/resume", headers=token).status_code == 200
        assert api.post(rollout, headers=token, json=bad).status_code == 400
        assert api.post(rollout, headers=token, json={"revision": "2", "faults": [{"kind": "no"}]}).status_code == 422
        fault = {"kind": "no-such-fault"}
        assert api.post("/v1/pools/east/replicas/east-0/faults", headers=token, json=fault).status_code == 422
        assert [event["what"] for event in api.get("/v1/events", headers=token).json()][:1] == ["pending"]


def test_pools_that_share_a_key_are_refused() -> None:
    with pytest.raises(BadInput, match="share a key"):
        first_shares([a_template(1), a_template(1)])
