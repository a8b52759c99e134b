"""Does the Workload Variant Autoscaler decide as its documentation says, on worked examples?"""

from __future__ import annotations

import pytest

from policies.fleet import FleetState, PoolKey
from policies.memory import PolicyMemory
from simulations.peers.wva import Peak, Wva, WvaSettings, can_spare_one, needs_more
from tests.builders_peers import KEY, Follows, bounds, engines, metrics, over

CHEAP, DEAR = PoolKey("m", "cheap"), PoolKey("m", "dear")
SETTINGS = WvaSettings()


def wva(**changes: float) -> Wva:
    pools = {str(key): bounds() for key in (KEY, CHEAP, DEAR)}
    return Wva(pools, WvaSettings(**{"up_window_s": 0.0, "down_window_s": 0.0, **changes}))  # type: ignore[arg-type]  # numbers


@pytest.mark.parametrize(
    ("peaks", "grows"),
    [
        ([(0.75, 0), (0.72, 0), (0.85, 0)], True),  # (0.05 + 0.08) / 2 = 0.065 < 0.1
        ([(0.60, 0), (0.65, 0)], False),  # 0.175 left
        ([(0.30, 3), (0.30, 2)], True),  # (2 + 3) / 2 = 2.5 waiting requests left, fewer than 3
        ([(0.30, 2), (0.30, 2)], False),  # exactly 3 left
        ([(0.90, 0), (0.10, 9)], True),  # both saturated: nothing is left
    ],
)
def test_it_grows_when_the_unsaturated_have_little_left(peaks: list[tuple[float, float]], *, grows: bool) -> None:
    assert needs_more([Peak(*each) for each in peaks], SETTINGS) is grows


@pytest.mark.parametrize(
    ("peaks", "shrinks"),
    [
        ([(0.3, 0), (0.4, 0), (0.5, 0)], True),  # 1.2 over two is 0.6: 0.2 left
        ([(0.5, 0), (0.5, 0), (0.5, 0)], False),  # 1.5 over two is 0.75: 0.05 left
        ([(0.1, 1), (0.1, 1), (0.1, 1)], True),  # three waiting over two: 3.5 left
        ([(0.1, 2), (0.1, 2), (0.1, 1)], False),  # five over two: 2.5 left
        ([(0.1, 0)], False),  # one is never spared
        ([(0.1, 0), (0.9, 0)], False),  # nor one of a single unsaturated one
    ],
)
def test_it_shrinks_when_one_fewer_leaves_enough(peaks: list[tuple[float, float]], *, shrinks: bool) -> None:
    assert can_spare_one([Peak(*each) for each in peaks], SETTINGS) is shrinks


def test_one_replica_more_or_less_per_analysis() -> None:
    scaled = Follows(wva(), 4)
    assert scaled.tick(0.0, kv=3.0) == 5  # 0.75 each
    assert scaled.tick(15.0, kv=3.0) == 5  # analyses are 30 s apart
    idle = Follows(wva(), 4)
    assert [idle.tick(at, kv=0.4) for at in over([0.0, 90.0], 15.0)] == [3, 3, 2, 2, 1, 1, 1]


def test_the_peak_of_the_last_minute_counts() -> None:
    scaled = Follows(wva(), 4)
    scaled.tick(0.0, kv=2.4)  # 0.6 each: neither
    scaled.tick(15.0, kv=3.4)  # 0.85 each, between two analyses
    assert scaled.tick(30.0, kv=0.4) == 5  # all saturated within the last minute


def decided(policy: Wva, fleet: FleetState) -> dict[PoolKey, int]:
    return {plan.pool: plan.desired for plan in policy.decide(fleet, {}, PolicyMemory()).scaling}


def test_the_cheapest_variant_grows_and_the_dearest_shrinks() -> None:
    busy = [metrics(kv=0.75)] * 2
    fleet = FleetState(0.0, (engines(*busy, key=DEAR, usd=20.0), engines(*busy, key=CHEAP, usd=5.0)))
    assert decided(wva(), fleet) == {CHEAP: 3}
    idle = [metrics(kv=0.1)] * 2
    fleet = FleetState(0.0, (engines(*idle, key=DEAR, usd=20.0), engines(*idle, key=CHEAP, usd=5.0)))
    assert decided(wva(), fleet) == {DEAR: 1}


def test_a_variant_with_replicas_on_their_way_waits() -> None:
    busy = [metrics(kv=0.75)] * 2
    fleet = FleetState(0.0, (engines(*busy, key=DEAR, usd=20.0), engines(*busy, key=CHEAP, usd=5.0, starting=1)))
    assert decided(wva(), fleet) == {DEAR: 3}


def test_the_charts_hpa_waits_four_minutes_before_it_grows() -> None:
    scaled = Follows(wva(up_window_s=240.0, down_window_s=240.0), 2)
    counts = {at: scaled.tick(at, kv=1.5) for at in over([0.0, 300.0], 15.0)}
    assert counts[225.0] == 2
    assert counts[240.0] == 3


def test_without_any_figure_nothing_changes_and_held_requests_wake_a_model_at_zero() -> None:
    assert Follows(wva(), 0).tick(0.0) == 0
    none = Wva({str(KEY): bounds(0)}, WvaSettings(up_window_s=0.0))
    scaled = Follows(none, 3)
    assert scaled.tick(0.0, kv=float("nan")) == 3
