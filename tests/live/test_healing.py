"""Is an engine that dies, hangs or fails noticed, taken out of traffic and replaced, on real processes under load?

Each case measures from the instant of the fault: until the daemon's own words for it are on record, until the gateway
sends the replica nothing more, and until a new life of it, or another replica in its place, serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from policies.fleet import ReplicaState
from tests.builders_stack import Load, RunningStack, running_stack, steady
from tests.live_times import Measured

REPLICAS = 3
SETTLED_S = 60.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    pool = f"engines=emulated-small,replicas={REPLICAS},min={REPLICAS},max={REPLICAS + 1}"
    with running_stack(tmp_path_factory.mktemp("healing"), pool, restart_backoff_s=4.0) as running:
        yield running


@pytest.fixture(scope="module")
def load(stack: RunningStack) -> Iterator[Load]:
    """A third of what the pool carries, so that the others can do without one."""
    load = stack.play(steady(2.0, 600.0, prompt_tokens=200, output_tokens=40))
    stack.until(lambda: len(load.rows) > 10, "answers come")
    yield load
    load.stop()


def in_traffic(stack: RunningStack, replica: str) -> bool:
    """Whether Envoy itself would send the replica a request."""
    answer = httpx.get(f"{stack.stack.envoy.admin_url}/clusters", params={"format": "json"}, trust_env=False).json()
    hosts = [host for cluster in answer["cluster_statuses"] for host in cluster.get("host_statuses", ())]
    return any(
        host["hostname"] == replica and host["health_status"].get("eds_health_status") == "HEALTHY" for host in hosts
    )


def busiest(stack: RunningStack) -> ReplicaState:
    """Return the youngest replica that serves."""
    return max(stack.serving("engines"), key=lambda r: r.since_at)


def follow(
    stack: RunningStack, load: Load, measured: Measured, fault: Mapping[str, Any], causes: set[str], within_s: float
) -> None:
    """Let ``fault`` happen to a replica and note when it is diagnosed, out of traffic and replaced."""
    stack.settle()
    victim, key = busiest(stack), stack.key("engines")
    others = {r.id for r in stack.serving("engines")} - {victim.id}
    began_at = stack.now
    stack.do(stack.stack.platform.inject(key, victim.id, fault))
    out_at = stack.until(lambda: not in_traffic(stack, victim.id), f"{victim.id} is out of traffic", within_s)
    tick = stack.until_tick(lambda t: bool(causes & {*t.causes(victim.id)}), f"{causes} of {victim.id}", began_at)

    def replaced() -> bool:
        lives = {r.life for r in stack.serving("engines")}
        return victim.life not in {r.life for r in stack.pool("engines").replicas} and len(lives) >= REPLICAS

    replaced_at = stack.until(replaced, f"{victim.id} is replaced", SETTLED_S)
    stack.settle()
    hurt = load.errors(began_at - 30.0)
    measured.note("diagnosed after", tick.at - began_at)
    measured.note("out of traffic after", out_at - began_at)
    measured.note("replaced after", replaced_at - began_at)
    measured.note("requests that failed", len(hurt), "")
    assert {row.replica for row in hurt} <= {victim.id, ""}, measured
    touched = {e.replica for e in stack.events(began_at, "cordoned", "failed", "draining")}
    assert not touched & others, f"{measured}\n{stack.story()}"


def test_kill_9_of_an_engine(stack: RunningStack, load: Load, measured: Measured) -> None:
    follow(stack, load, measured, {"kind": "kill"}, {"F2"}, within_s=5.0)


@pytest.mark.parametrize("running", ["stuck", "zero"])
def test_a_hang_with_running(stack: RunningStack, load: Load, measured: Measured, running: str) -> None:
    follow(stack, load, measured, {"kind": "hang", "running": running}, {"F1"}, within_s=30.0)


def test_an_error_burst(stack: RunningStack, load: Load, measured: Measured) -> None:
    follow(stack, load, measured, {"kind": "errors", "share": 1.0}, {"F2"}, within_s=30.0)
