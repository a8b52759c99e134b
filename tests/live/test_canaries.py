"""Is an idle engine that hangs found by the daemon's own requests and replaced, on real processes without any load?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders_stack import RunningStack, running_stack
from tests.live_times import Measured

pytestmark = pytest.mark.slow

POOL, REPLICAS = "engines", 3
SETTINGS = {
    "modes": {"healing": "auto"},
    "policy": {
        "anomaly": {"canary": {"enabled": True, "silent_s": 10, "deadline_s": 2, "most_per_hour": 3600}},
    },
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    pool = f"{POOL}=emulated-small,replicas={REPLICAS},min={REPLICAS},max={REPLICAS}"
    with running_stack(tmp_path_factory.mktemp("canaries"), pool, settings=SETTINGS, restart_backoff_s=4.0) as running:
        yield running


@pytest.mark.parametrize("running", ["stuck", "zero"])
def test_an_idle_engine_that_hangs_is_found_and_replaced(stack: RunningStack, measured: Measured, running: str) -> None:
    stack.settle()
    victim = max(stack.serving(POOL), key=lambda r: r.since_at)
    began_at = stack.now
    stack.do(stack.stack.platform.inject(stack.key(POOL), victim.id, {"kind": "hang", "running": running}))
    tick = stack.until_tick(lambda t: "F1" in t.causes(victim.id), f"F1 of {victim.id}", began_at)
    out_at = stack.until(lambda: not stack.in_traffic(victim.id), f"{victim.id} is out of traffic")

    def made_good() -> bool:
        serving = stack.serving(POOL)
        return len(serving) == REPLICAS and victim.life not in {r.life for r in serving}

    good_at = stack.until(made_good, "as many as before serve without it")
    told = tick.entry.record["decision"]
    families = {a["family"] for a in told["anomalies"] if a["replica"] == victim.id}
    measured.note("diagnosed after", tick.at - began_at)
    measured.note("out of traffic after", out_at - began_at)
    measured.note("as many serve again after", good_at - began_at)
    assert {"canary", "progress"} <= families
    touched = {e.replica for e in stack.events(began_at, "cordoned", "failed")}
    assert touched == {victim.id}, f"{measured}\n{stack.story()}"
