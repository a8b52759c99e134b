"""Does what goes wrong in real processes reach the daemon's record: through Envoy, Prometheus and the platform?

The daemon only watches here: what it would do about it is of other tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from controller.errors import AuditError
from simulations.live.envoy_config import HEADER
from simulations.live.live_profiles import MODEL
from tests.builders_stack import RunningStack, running_stack

pytestmark = pytest.mark.slow

WATCHING = {"modes": {"scaling": "observe", "traffic": "observe", "healing": "observe"}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    pools = ("east=emulated-small,replicas=2", "west=emulated-small")
    folder = tmp_path_factory.mktemp("evidence")
    with running_stack(folder, *pools, settings=WATCHING, lead_time_s=2.0, restart_backoff_s=1.0) as running:
        yield running


def recorded(stack: RunningStack) -> Mapping[str, Any]:
    """Return what the newest tick saw of each replica, by id, with the pool that it is in."""
    (tick,) = stack.ticks(1)
    pools = tick.entry.record["fleet"]["pools"]
    return {replica["id"]: {**replica, "of": pool} for pool in pools for replica in pool["replicas"]}


def until_seen(stack: RunningStack, holds: Callable[[Mapping[str, Any]], bool], what: str) -> None:
    def seen() -> bool:
        try:
            return holds(recorded(stack))
        except (AuditError, KeyError, TypeError, ValueError):  # no tick yet, or nothing told of it in the newest
            return False

    stack.until(seen, what, 40.0)


def send(stack: RunningStack, pool: str, requests: int, tokens: int = 4) -> None:
    """Send requests to a pool, whatever comes of them."""
    stack.do(stack.stack.platform.set_shares(MODEL, {stack.key(pool): 1.0}))
    body = {"model": MODEL, "prompt": [0] * 16, "max_tokens": tokens, "ignore_eos": True}
    with httpx.Client(
        base_url=stack.stack.envoy.url, headers={HEADER: MODEL}, timeout=60.0, trust_env=False
    ) as gateway:
        for _ in range(requests):
            gateway.post("/v1/completions", json=body)


def test_a_pool_that_is_cut_off_cannot_be_reached_and_reports_as_ever(stack: RunningStack) -> None:
    platform, west = stack.stack.platform, stack.key("west")
    until_seen(stack, lambda seen: seen["west-0"]["unreached_requests_total"] == 0.0, "a gateway that counts")
    stack.do(platform.inject(west, "*", {"kind": "refuse"}))
    send(stack, "west", 5)
    until_seen(stack, lambda seen: seen["west-0"]["unreached_requests_total"] >= 5, "requests that did not get through")
    seen = recorded(stack)
    assert seen["west-0"]["phase"] == "ready"
    assert stack.ticks(1)[0].at - seen["west-0"]["metrics"]["observed_at"] < 5.0
    assert seen["east-0"]["unreached_requests_total"] == 0.0
    stack.do(
        platform.scale(west, 2, stack.pool("west").version)
    )  # what comes is cut off as well, and READY all the same
    stack.settle()
    send(stack, "west", 9)
    until_seen(stack, lambda seen: seen["west-1"]["unreached_requests_total"] > 0, "the same of one that came later")
    stack.do(platform.inject(west, "*", {"kind": "clear"}))
    send(stack, "west", 2)
    until_seen(stack, lambda seen: seen["west-0"]["answered_requests_total"] > 0, "answers again")


def test_gpus_tell_of_a_hang_of_a_slow_engine_and_of_xids(stack: RunningStack) -> None:
    platform, east = stack.stack.platform, stack.key("east")
    until_seen(stack, lambda seen: 0.1 < seen["east-0"]["metrics"]["gpu_power_ratio"] < 0.2, "an idle GPU")
    seen = recorded(stack)["east-0"]["metrics"]
    assert (seen["gpu_xid"], seen["gpu_clock_ratio"], seen["preemptions_total"]) == (0.0, 1.0, 0.0)
    stack.do(platform.inject(east, "east-0", {"kind": "slow", "factor": 4}))
    stack.do(platform.inject(east, "east-0", {"kind": "xid", "code": 79}))
    until_seen(stack, lambda seen: seen["east-0"]["metrics"]["gpu_clock_ratio"] == 0.25, "a throttled GPU")
    until_seen(stack, lambda seen: seen["east-0"]["metrics"]["gpu_xid"] == 79.0, "its Xid")
    assert recorded(stack)["east-1"]["metrics"]["gpu_xid"] == 0.0
    stack.do(platform.inject(east, "east-0", {"kind": "clear"}))
    until_seen(stack, lambda seen: seen["east-0"]["metrics"]["gpu_clock_ratio"] == 1.0, "the clock of before")


def test_a_bad_revision_and_a_way_back_are_on_record(stack: RunningStack) -> None:
    platform, east = stack.stack.platform, stack.key("east")
    before = recorded(stack)["east-0"]["of"]
    assert (before["revision"], before["revisions"], before["paused"]) == ("1", ["1"], False)
    stack.do(platform.roll_out(east, "2", [{"kind": "start-crash"}]))

    def loops(seen: Mapping[str, Any]) -> bool:
        told = [r for r in seen.values() if r["revision"] == "2"]
        return any(r["waiting_reason"] == "CrashLoopBackOff" and r["exit_reason"] == "Error" for r in told)

    until_seen(stack, loops, "the new revision exits again and again")
    pool = recorded(stack)["east-0"]["of"]
    assert (pool["revision"], pool["revisions"], pool["stable_revision"]) == ("2", ["1", "2"], "1")
    assert before["revision_at"] < pool["revision_at"] < stack.now
    assert not math.isnan(before["revision_at"])
    assert {r.id for r in stack.serving("east")} == {"east-0", "east-1"}
    stack.do(platform.pause(east))
    until_seen(stack, lambda seen: seen["east-0"]["of"]["paused"] is True, "the pause")
    stack.do(platform.roll_back(east, "1"))
    stack.settle()
    until_seen(stack, lambda seen: {r["revision"] for r in seen.values()} == {"1"}, "only those of before")
