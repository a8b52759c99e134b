"""Is what has not changed told with the same objects, and every change told at once? Is a trace counted only once?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from policies.fleet import Phase, PoolKey
from policies.slo import ServiceObjective
from simulations.fault_syntax import parse_fault
from simulations.fleet import SimulatedFleet
from simulations.pool import PoolSpec
from simulations.settings import FleetSettings
from simulations.sizing import known_load
from simulations.trace import RequestBatch
from tests.builders import a_profile
from tests.builders_simulation import RateTrace

KEY = PoolKey("m", "p")


def a_fleet(replicas: int = 3) -> SimulatedFleet:
    spec = PoolSpec(KEY, a_profile(), replicas, revisions=("1", "2"))
    return SimulatedFleet([spec], [], ServiceObjective(), FleetSettings(), seed=0)


def test_a_pool_in_which_nothing_happened_is_the_same_object() -> None:
    fleet = a_fleet()
    before = fleet.cluster.pools()[0]
    fleet.advance(600.0)
    assert fleet.cluster.pools()[0] is before


@pytest.mark.parametrize(
    "act",
    [
        lambda cluster: cluster.scale(KEY, 4, 1),
        lambda cluster: cluster.scale(KEY, 2, 1),
        lambda cluster: cluster.cordon(KEY, "p-1"),
        lambda cluster: cluster.restart(KEY, "p-1"),
        lambda cluster: cluster.roll_back(KEY, "1"),
    ],
)
def test_every_act_is_told_at_once(act: Callable[[object], None]) -> None:
    fleet = a_fleet()
    before = fleet.cluster.pools()[0]
    act(fleet.cluster)
    after = fleet.cluster.pools()[0]
    assert after != before
    kept = {r.id: r for r in before.replicas}
    assert any(kept.get(r.id) is r for r in after.replicas)  # whoever is as before


def test_a_crash_is_told_at_once_and_so_is_the_way_back() -> None:
    fleet = a_fleet()
    fleet.inject(parse_fault("crash@10:replica=1"))
    phases = []
    for at_s in (5.0, 10.0, 3_000.0):
        fleet.advance(at_s)
        phases.append(fleet.cluster.pools()[0].replicas[1].phase)
    assert phases == [Phase.READY, Phase.FAILED, Phase.READY]


def test_a_cordon_lifted_is_no_cordon() -> None:
    fleet = a_fleet()
    before = fleet.cluster.pools()[0]
    fleet.cluster.cordon(KEY, "p-0")
    assert fleet.cluster.pools()[0].replicas[0].cordoned
    fleet.cluster.uncordon(KEY, "p-0")
    assert fleet.cluster.pools()[0].replicas[0] == before.replicas[0]


class CountedReads:
    """A trace that knows how often it was read."""

    def __init__(self) -> None:
        self._trace = RateTrace([4.0, 5.0])
        self.name, self.generated, self.begins_at = "counted", True, 0.0
        self.reads = 0

    def describe(self) -> str:
        return "a trace that knows how often it was read"

    def batches(self) -> Iterator[RequestBatch]:
        self.reads += 1
        return self._trace.batches()


def test_the_load_of_a_trace_is_counted_once_for_all_policies() -> None:
    trace, other = CountedReads(), CountedReads()
    first = known_load(trace)
    assert known_load(trace) is first
    assert trace.reads == 1
    assert known_load(other) is not first
