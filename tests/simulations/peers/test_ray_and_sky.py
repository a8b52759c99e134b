"""Do Ray Serve and SkyServe decide as their sources say, on worked examples?"""

from __future__ import annotations

import math

import pytest

from policies.fleet import FleetState
from simulations.peers.ray_serve import RayServe, RayServeSettings, paced
from simulations.peers.skyserve import SkyServe, SkyServeSettings
from simulations.peers.spans import Patience, Span
from tests.builders_peers import KEY, Follows, asked, bounds, in_flight, over


def ray(least: int = 1, **changes: float) -> RayServe:
    return RayServe({str(KEY): bounds(least)}, RayServeSettings(**changes))  # type: ignore[arg-type]  # numbers


def sky(least: int = 1) -> SkyServe:
    return SkyServe({str(KEY): bounds(least)}, {str(KEY): 2.5}, SkyServeSettings())


# ---- windows and patience


def test_a_span_forgets_what_is_older_than_its_length() -> None:
    span = Span(60.0)
    for at, value in ((0.0, 10.0), (30.0, 20.0), (60.0, 60.0)):
        span.add(at, value)
    assert span.mean(60.0) == 40.0
    assert span.mean(60.0, 20.0) == 60.0
    assert span.within(1000.0) == []
    assert math.isnan(span.mean(1000.0))


def test_what_was_not_observed_is_no_sample() -> None:
    span = Span(60.0)
    span.add(0.0, math.nan)
    assert math.isnan(span.mean(0.0))


def test_a_wish_counts_once_it_has_lasted_and_begins_anew_when_it_turns() -> None:
    patience = Patience()
    wishes = [(0.0, 5), (10.0, 6), (20.0, 3), (30.0, 6), (50.0, 6), (60.0, 7)]
    assert [patience.settle(at, wanted, 4, 30.0, 600.0) for at, wanted in wishes] == [4, 4, 4, 4, 4, 7]


def test_a_wish_that_is_fulfilled_is_forgotten() -> None:
    patience = Patience()
    patience.settle(0.0, 5, 4, 30.0, 600.0)
    patience.settle(20.0, 4, 4, 30.0, 600.0)
    assert patience.settle(40.0, 5, 4, 30.0, 600.0) == 4
    assert patience.settle(70.0, 5, 4, 30.0, 600.0) == 5


# ---- Ray Serve


@pytest.mark.parametrize(
    ("wanted", "running", "up", "down", "expected"),
    [
        (13.0, 8, 1.0, 1.0, 13),
        (13.0, 8, 0.5, 1.0, 11),
        (2.2, 8, 1.0, 1.0, 3),
        (6.5, 7, 1.0, 0.1, 7),
        (5.0, 7, 1.0, 0.1, 6),
    ],
)
def test_a_factor_is_the_part_of_the_way_that_is_gone_at_once(
    wanted: float, running: int, up: float, down: float, expected: int
) -> None:
    # ceil(8 + 0.5 * 5) = 11; ceil(7 - 0.1 * 2) = 7 would never arrive, so that it is 6
    assert paced(wanted, running, RayServeSettings(up_factor=up, down_factor=down)) == expected


def test_two_ongoing_requests_per_replica_after_thirty_seconds_without_a_break() -> None:
    scaled = Follows(ray(), 2)
    counts = {at: scaled.tick(at, requests=10.0) for at in over([0.0, 30.0], 5.0)}
    assert counts[25.0] == 2
    assert counts[30.0] == 5


def test_it_shrinks_after_ten_minutes() -> None:
    scaled = Follows(ray(), 5)
    counts = {at: scaled.tick(at, requests=3.0) for at in over([0.0, 600.0], 5.0)}
    assert counts[595.0] == 5
    assert counts[600.0] == 2  # ceil(3 / 2)


def test_the_mean_of_the_look_back_counts() -> None:
    scaled = Follows(ray(up_delay_s=0.0), 5)
    for at in over([0.0, 25.0], 5.0):
        assert scaled.tick(at, requests=10.0) == 5
    assert scaled.tick(30.0, requests=22.0) == 6  # (5 * 10 + 22) / 6 = 12


def test_a_deployment_at_zero_gets_one_replica_at_once() -> None:
    assert Follows(ray(0), 0).tick(0.0, held=50.0) == 1
    assert Follows(ray(0), 0).tick(0.0) == 0


def test_to_zero_only_from_one() -> None:
    scaled = Follows(ray(0, down_delay_s=10.0), 4)
    assert [scaled.tick(at) for at in over([0.0, 40.0], 5.0)] == [4, 4, 1, 1, 1, 0, 0, 0, 0]


def test_silence_is_no_load_but_one_look_of_it_moves_nothing() -> None:
    assert asked(ray(), FleetState(0.0, (in_flight(math.nan, math.nan, math.nan),))) == 3


# ---- SkyServe


def test_the_request_rate_over_a_minute_sizes_at_the_fifteenth_look_in_a_row() -> None:
    scaled = Follows(sky(), 2)
    counts = {at: scaled.tick(at, requests_per_s=12.0) for at in over([0.0, 400.0], 20.0)}
    # From the second look on more than two are wanted: 24 000 / 60 / 2.5 needs a whole window to be ceil(4.8) = 5.
    grown_at = min(at for at, count in counts.items() if count > 2)
    assert counts[grown_at] == 5
    assert grown_at == 20.0 + 14 * 20.0


def test_it_shrinks_at_the_sixtieth_look_in_a_row() -> None:
    scaled = Follows(sky(), 5)
    counts = {at: scaled.tick(at, requests_per_s=2.0) for at in over([0.0, 1300.0], 20.0)}
    assert counts[1160.0] == 5
    assert counts[1180.0] == 1


def test_from_zero_it_goes_up_at_once() -> None:
    scaled = Follows(sky(0), 0)
    assert scaled.tick(0.0, requests_per_s=30.0) == 4  # 600 requests in 20 s of the minute: 10 / 2.5
    assert Follows(sky(0), 0).tick(0.0, requests_per_s=0.0) == 0


def test_what_is_not_told_of_ages_away() -> None:
    scaled = Follows(sky(), 3)
    assert [scaled.tick(at) for at in over([0.0, 1160.0], 20.0)][-1] == 3
    assert scaled.tick(1180.0) == 1
