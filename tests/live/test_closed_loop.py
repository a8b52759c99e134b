"""Does the loop, on real processes under real load, have replicas before they are needed?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from policies.capacity import CapacitySettings, capacity_of
from policies.fleet import Demand
from simulations.live.live_profiles import live_profile_named
from tests.builders_stack import Requests, RunningStack, prior, running_stack
from tests.live_times import Measured

PROFILE = "emulated-small"
REPLICAS = 2
LONG = (800, 40)
RAMP = Requests([(0.0, 3.2), (14.0, 3.2), (70.0, 10.8), (71.0, 10.8)], *LONG)
"""Grows by a replica's capacity in 20 seconds, three times the lead time."""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(
        tmp_path_factory.mktemp("loop"),
        f"engines={PROFILE},replicas={REPLICAS},min={REPLICAS},max=6",
        settings=prior(*LONG),
    ) as running:
        yield running


def believed_capacity(stack: RunningStack, prompt_tokens: int, output_tokens: int) -> float:
    """Return the requests/s that the daemon believes one replica to carry within the objective."""
    shape = Demand(1.0, float(prompt_tokens), float(output_tokens))
    efficiency = CapacitySettings().efficiency_ratio
    return capacity_of(live_profile_named(PROFILE), stack.stack.objective, shape, efficiency).demand.requests_per_s


def test_a_ramp_is_met_by_replicas_asked_for_before_the_demand(stack: RunningStack, measured: Measured) -> None:
    one = believed_capacity(stack, *LONG)
    load = stack.play(RAMP)
    load.wait()
    pending = {e.replica: e.at for e in stack.events(load.began_at, "pending")}
    ready = sorted((e.at, e.replica) for e in stack.events(load.began_at, "ready") if e.replica in pending)
    ahead_s, idle_s = [], []
    for had, (ready_at, replica) in enumerate(ready, start=REPLICAS):
        too_much_at = load.began_at + RAMP.reaches_s(had * one)
        if too_much_at < load.began_at + RAMP.points[-1][0]:
            ahead_s.append(too_much_at - pending[replica])
            idle_s.append(too_much_at - ready_at)
            measured.note(f"replica {had + 1} asked for before it was needed by", ahead_s[-1])
            measured.note(f"replica {had + 1} ready before it was needed by", idle_s[-1])
    measured.note("requests", len(load.rows), "")
    measured.note("that failed", len(load.errors()), "")
    measured.note("within the objective", round(100 * load.attainment(), 1), "%")
    what = f"{measured}\n{stack.story(120.0)}"
    assert not load.errors(), what
    assert len(ahead_s) >= 2, what
    assert min(ahead_s) > 0, what
    assert load.attainment() > 0.9, what
