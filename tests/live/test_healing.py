"""Is an engine that dies, hangs or fails noticed, taken out of traffic and replaced, on real processes under load?

Each case measures from the instant of the fault: until the daemon's own words for it are on record, until the gateway
sends the replica nothing more, and until a new life of it, or another replica in its place, serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.builders_stack import Load, RunningStack, prior, running_stack, steady
from tests.live_times import Measured

POOL = "engines"
REPLICAS = 3
SHAPE = (200, 40)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    pool = f"{POOL}=emulated-small,replicas={REPLICAS},min=2,max={REPLICAS + 1}"
    with running_stack(
        tmp_path_factory.mktemp("healing"), pool, settings=prior(*SHAPE), restart_backoff_s=4.0
    ) as running:
        yield running


@pytest.fixture(scope="module")
def load(stack: RunningStack) -> Iterator[Load]:
    """More than two replicas are to carry, headroom included, and less than two can."""
    load = stack.play(steady(7.0, 600.0, *SHAPE))
    stack.until(lambda: len(load.rows) > 10, "answers come")
    yield load
    load.stop()


def follow(
    stack: RunningStack, load: Load, measured: Measured, fault: Mapping[str, Any], cause: str, within_s: float
) -> None:
    """Let ``fault`` happen to a replica and note when it is diagnosed, out of traffic and made good."""
    stack.until(lambda: stack.pool(POOL).desired == REPLICAS, "nothing is left of the last case")
    stack.settle()
    victim = max(stack.serving(POOL), key=lambda r: r.since_at)
    others = {r.id for r in stack.serving(POOL)} - {victim.id}
    began_at = stack.now
    stack.do(stack.stack.platform.inject(stack.key(POOL), victim.id, fault))
    out_at = stack.until(lambda: not stack.in_traffic(victim.id), f"{victim.id} is out of traffic", within_s)
    tick = stack.until_tick(lambda t: cause in t.causes(victim.id), f"{cause} of {victim.id}", began_at)

    def made_good() -> bool:
        serving = [r for r in stack.serving(POOL) if r.life != victim.life]
        return len(serving) >= REPLICAS and any(r.requested_at >= began_at for r in serving)

    def ended() -> bool:
        return victim.life not in {r.life for r in stack.pool(POOL).replicas}

    good_at = stack.until(made_good, f"as many as before serve without {victim.life}")
    ended_at = stack.until(ended, f"{victim.life} is over")
    seen = len(load.rows)
    stack.until(lambda: sum(row.error is None for row in load.rows[seen:]) > 10, "answers to what was sent since")
    hurt = [row for row in load.errors(began_at - 60.0) if row.replica in (victim.id, "")]
    measured.note("diagnosed after", tick.at - began_at)
    measured.note("out of traffic after", out_at - began_at)
    measured.note("as many serve again after", good_at - began_at)
    measured.note("its life over after", ended_at - began_at)
    measured.note("requests that failed", len(hurt), "")
    assert not [row for row in load.errors(began_at) if row.replica in others], measured
    touched = {e.replica for e in stack.events(began_at, "cordoned", "failed")} | {
        e.replica for e in stack.events(began_at, "draining") if e.detail == "restart"
    }
    assert touched == {victim.id}, f"{measured}\n{stack.story()}"


def test_kill_9_of_an_engine(stack: RunningStack, load: Load, measured: Measured) -> None:
    follow(stack, load, measured, {"kind": "kill"}, "F2", within_s=5.0)


@pytest.mark.parametrize("running", ["stuck", "zero"])
def test_a_hang_with_running(stack: RunningStack, load: Load, measured: Measured, running: str) -> None:
    follow(stack, load, measured, {"kind": "hang", "running": running}, "F1", within_s=30.0)


def test_an_error_burst(stack: RunningStack, load: Load, measured: Measured) -> None:
    follow(stack, load, measured, {"kind": "errors", "share": 1.0}, "F2", within_s=30.0)
