"""Do Knative's and AIBrix's window autoscalers decide as their sources say, on worked examples?"""

from __future__ import annotations

import math

import pytest

from policies.fleet import FleetState
from simulations.peers.aibrix_apa import AibrixApa, AibrixApaSettings, Cooldown, by_ratio, guarded
from simulations.peers.aibrix_kpa import AibrixKpa, AibrixKpaSettings
from simulations.peers.knative import Knative, KnativeSettings, PanicWindows
from tests.builders_peers import KEY, Follows, asked, bounds, engines, in_flight, metrics, over

TARGET = 12.0


def knative(least: int = 1, **changes: float) -> Knative:
    return Knative({str(KEY): bounds(least)}, {str(KEY): TARGET}, KnativeSettings(**changes))  # type: ignore[arg-type]  # numbers


def windows(**changes: float) -> PanicWindows:
    return PanicWindows(KnativeSettings(**changes))  # type: ignore[arg-type]  # numbers


# ---- Knative


def test_the_stable_window_sizes_and_the_panic_window_notices() -> None:
    state = windows()
    for at in over([0.0, 58.0], 2.0):
        state.scale(at, 60.0, TARGET, 1)
    assert state.scale(60.0, 60.0, TARGET, 5) == 5  # ceil(60 / 12)
    # 130 in flight for 6 s: the panic window has 130, ceil(130 / 12) = 11, 11 / 5 >= 2.0
    wanted = [state.scale(at, 130.0, TARGET, 5) for at in (62.0, 64.0, 66.0)]
    assert wanted[-1] == 11
    assert state.panic_at == 66.0


def test_in_panic_nothing_shrinks_and_panic_ends_a_whole_stable_window_after_its_last_reason() -> None:
    state = windows()
    for at in over([0.0, 4.0], 2.0):
        state.scale(at, 130.0, TARGET, 1)
    assert state.panic_at == 4.0
    calm = {at: state.scale(at, 6.0, TARGET, 11) for at in over([6.0, 90.0], 2.0)}
    # The panic window still holds (130 + 6 + 6) / 3 = 47 at 8 s: 4 of 11 is no reason to panic.
    assert {calm[at] for at in over([6.0, 64.0], 2.0)} == {11}
    assert state.panic_at is None
    assert calm[66.0] == 5  # 62 s after 4 s; at most halved: floor(11 / 2)


def test_a_pool_of_several_replicas_begins_in_panic_so_that_it_keeps_them() -> None:
    many, one = Follows(knative(), 6), Follows(knative(), 1)
    assert [many.tick(at, requests=1.0) for at in over([0.0, 60.0], 2.0)] == [6] * 31
    assert many.tick(62.0, requests=1.0) == 3
    assert one.tick(0.0, requests=20.0) == 2


def test_requests_held_while_nothing_serves_wake_a_pool_at_zero() -> None:
    assert Follows(knative(least=0), 0).tick(0.0, held=30.0) == 3  # ceil(30 / 12): the activator holds them
    assert Follows(knative(least=0), 0).tick(0.0) == 0


def test_an_idle_pool_goes_to_zero_when_it_may() -> None:
    scaled = Follows(knative(least=0), 1)
    assert scaled.tick(0.0, requests=0.0) == 0
    kept = Follows(knative(least=1), 1)
    assert kept.tick(0.0, requests=0.0) == 1


def test_without_any_count_nothing_is_decided() -> None:
    assert asked(knative(), FleetState(0.0, (in_flight(math.nan, math.nan),))) == 2


def test_a_scale_down_delay_keeps_the_largest_count() -> None:
    def counts(delay_s: float) -> dict[float, int]:
        scaled = Follows(knative(scale_down_delay_s=delay_s), 1)
        scaled.tick(0.0, requests=60.0)
        return {at: scaled.tick(at, requests=1.0) for at in over([2.0, 420.0], 2.0)}

    # It panics until the window has forgotten the first look, and asks for 5 until then.
    prompt, patient = counts(0.0), counts(300.0)
    forgot_at = min(at for at, count in prompt.items() if count < 5)
    assert all(count == 5 for at, count in patient.items() if at < forgot_at + 298.0)
    assert patient[forgot_at + 300.0] < 5


# ---- AIBrix APA


@pytest.mark.parametrize(
    ("use", "expected"),
    [(0.8, 8), (0.55, 5), (0.45, 5), (0.44, 5), (0.4, 4), (0.1, 2), (1.0, 10)],
)
def test_use_over_target_sizes_within_half_and_twice(use: float, expected: int) -> None:
    # target 0.5: 0.8 wants ceil(5 * 1.6) = 8; 0.55 and 0.45 are within 10 %; 0.44 wants ceil(4.4) = 5; 0.1 floor(2.5)
    assert by_ratio(use, 0.5, 5, AibrixApaSettings()) == expected


def test_replicas_on_their_way_count_as_idle_when_growing_and_as_on_target_when_shrinking() -> None:
    assert guarded(8, 0.8, 0.5, ready=4, current=5) == 7  # ceil(0.8 * 4 / 0.5) = 7
    assert guarded(6, 0.6, 0.5, ready=3, current=5) == 5  # 3.6: the two on their way will do
    assert guarded(2, 0.2, 0.5, ready=3, current=5) == 4  # ceil((0.2 * 3 + 0.5 * 2) / 0.5) = 4
    assert guarded(8, 0.8, 0.5, ready=5, current=5) == 8


def test_shrinking_waits_for_the_cooldown() -> None:
    cooldown = Cooldown(AibrixApaSettings())
    assert cooldown.settled("p", 0.0, 8, 8) == 8
    assert cooldown.settled("p", 290.0, 3, 8) == 8
    assert cooldown.settled("p", 310.0, 3, 8) == 3
    assert cooldown.settled("p", 320.0, 9, 3) == 9


def test_the_code_as_it_stands_takes_the_smallest_count_of_the_cooldown() -> None:
    cooldown = Cooldown(AibrixApaSettings(cooldown="lowest"))
    assert [cooldown.settled("p", at, n, 8) for at, n in ((0.0, 8), (10.0, 3), (20.0, 5))] == [8, 3, 3]


def test_use_is_averaged_over_the_window() -> None:
    scaled = Follows(AibrixApa({str(KEY): bounds()}, AibrixApaSettings()), 4)
    for at in over([0.0, 170.0], 10.0):
        assert scaled.tick(at, kv=2.0) == 4  # 0.5 each: on target
    # One look of 17 after 17 of 0.5 each: (17 * 0.5 + 1.0) / 18 = 0.53 is within tolerance.
    assert scaled.tick(180.0, kv=4.0) == 4


def test_apa_without_metrics_or_switched_off_does_nothing() -> None:
    policy = AibrixApa({str(KEY): bounds(0)}, AibrixApaSettings())
    assert asked(policy, FleetState(0.0, (engines(metrics(kv=math.nan)),))) == 1
    assert Follows(policy, 0).tick(0.0, held=9.0) == 0


# ---- AIBrix KPA


def test_the_sum_of_kv_use_over_the_target_sizes_and_at_most_doubles() -> None:
    scaled = Follows(AibrixKpa({str(KEY): bounds()}, AibrixKpaSettings()), 2)
    assert scaled.tick(0.0, kv=2.0) == 4  # ceil(2.0 / 0.5)
    full = Follows(AibrixKpa({str(KEY): bounds()}, AibrixKpaSettings(kv_cache_ratio=0.2)), 2)
    assert full.tick(0.0, kv=2.0) == 4  # ten are wanted, twice the two ready are the most


def test_kpa_shrinks_after_panic_and_cooldown() -> None:
    scaled = Follows(AibrixKpa({str(KEY): bounds()}, AibrixKpaSettings()), 4)
    counts = {at: scaled.tick(at, kv=0.4) for at in over([0.0, 900.0], 10.0)}
    # It panics until 180 s; a cooldown later half of the four at most, then the one that ceil(0.4 / 0.5) wants.
    assert [counts[at] for at in (180.0, 470.0, 480.0, 770.0, 780.0)] == [4, 4, 2, 2, 1]


def test_aibrix_does_not_go_to_zero_unless_it_is_told_to() -> None:
    for policy in (
        AibrixApa({str(KEY): bounds(0)}, AibrixApaSettings()),
        AibrixKpa({str(KEY): bounds(0)}, AibrixKpaSettings()),
    ):
        scaled = Follows(policy, 2)
        assert [scaled.tick(at, kv=0.0) for at in over([0.0, 900.0], 10.0)][-1] == 1
