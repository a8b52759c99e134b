"""Does the whole loop do the right thing, and nothing else, when something goes wrong in a small world?"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from controller.errors import ActuationError
from controller.modes import Mode, ModeSettings
from controller.ports import TickRecord
from policies.decide import Foresail
from policies.decisions import CordonReplica, FailOver, RestartReplica
from policies.fleet import PoolKey
from policies.guardrails import GuardrailSettings
from policies.memory import PolicyMemory
from tests.builders import AT, KEY, MODEL, OTHER, settings
from tests.builders_world import Controlled, World

HEALING = ("cordon", "uncordon", "restart")


def a_world(replicas: int = 6, requests_per_s: float = 16.0, **changes: Any) -> World:
    world = World(requests_per_s=requests_per_s, **changes)
    world.add_pool(replicas=replicas)
    return world


def at_work(world: World, least: int = 6, most: int = 64, **changes: Any) -> Controlled:
    """The world under control, a minute in."""
    control = world.controlled(settings(*world.wanted, least=least, most=most, **changes))
    control.run(60.0)
    return control


def since(control: Controlled, begun_s: float, *verbs: str) -> list[tuple[float, str, str]]:
    return [(when - begun_s, verb, subject) for when, verb, subject in control.acts(*(verbs or HEALING))]


def two_pools(each: int = 4, requests_per_s: float = 16.0) -> World:
    world = World(requests_per_s=requests_per_s)
    world.add_pool(KEY, each, weight=0.5)
    world.add_pool(OTHER, each, weight=0.5, price=4.0)
    return world


# hang


@pytest.mark.parametrize("says_idle", [False, True])
@pytest.mark.parametrize("requests_per_s", [16.0, 23.0])
def test_a_hung_replica_is_cordoned_within_a_minute_and_restarted_once(says_idle: bool, requests_per_s: float) -> None:
    control = at_work(a_world(requests_per_s=requests_per_s))
    hung = control.world.engines["a1"]
    hung.hung, hung.says_idle = True, says_idle
    control.run(1200.0)
    (cordoned_s, *_), (restarted_s, *_) = acts = since(control, 60.0)
    assert [(verb, name) for _, verb, name in acts] == [("cordon", "a1"), ("restart", "a1")]
    assert 45.0 <= cordoned_s <= 60.0
    assert 120.0 <= restarted_s <= 135.0
    assert control.world.serving() == 6
    assert control.notifier.pages == []


def test_without_a_gateway_what_looks_hung_is_taken_out_and_left_to_a_human() -> None:
    control = at_work(a_world(gateway=False))
    control.world.engines["a1"].hung = True
    control.run(900.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon"]
    assert [page.subject for page in control.notifier.pages] == [KEY.replica("a1")]


def test_without_counted_answers_a_hang_is_still_found_and_restarted() -> None:
    control = at_work(a_world(counts_answers=False))
    control.world.engines["a1"].hung = True
    control.run(600.0)
    (cordoned_s, *_), _ = acts = since(control, 60.0)
    assert [verb for _, verb, _ in acts] == ["cordon", "restart"]
    assert cordoned_s <= 75.0


@pytest.mark.parametrize(("counts_answers", "verbs"), [(True, ["cordon", "restart"]), (False, ["cordon"])])
def test_clients_that_give_up_do_not_hide_a_hang_for_ever(counts_answers: bool, verbs: list[str]) -> None:
    """Where answers are not counted, what leaves may have been answered: a human is told."""
    control = at_work(a_world(counts_answers=counts_answers))
    hung = control.world.engines["a1"]
    hung.hung = True

    def clients_leave(_: TickRecord) -> None:
        if hung.cordoned:
            hung.in_flight *= 0.5

    control.run(600.0, clients_leave)
    assert [(verb, name) for _, verb, name in since(control, 60.0)] == [(verb, "a1") for verb in verbs]
    assert len(control.notifier.pages) == (not counts_answers)


def test_a_stall_that_ends_by_itself_gets_its_traffic_back() -> None:
    control = at_work(a_world())
    stalled = control.world.engines["a1"]
    stalled.hung = True
    control.run(75.0)
    stalled.hung = False
    control.run(300.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon", "uncordon"]
    assert stalled.serving


def test_a_stall_shorter_than_three_scrapes_causes_no_act() -> None:
    control = at_work(a_world())
    stalled = control.world.engines["a1"]
    stalled.hung = True
    control.run(30.0)
    stalled.hung = False
    control.run(300.0)
    assert control.acts() == []


def test_the_only_replica_of_a_model_is_replaced_when_it_hangs() -> None:
    control = at_work(a_world(1, 3.0), least=1)
    control.world.engines["a1"].hung = True
    control.run(600.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon", "restart"]
    assert control.world.serving() >= 1
    assert control.world.held == 0.0


def test_a_replacement_is_on_its_way_as_soon_as_a_replica_is_out() -> None:
    control = at_work(a_world(requests_per_s=23.0))
    control.world.engines["a1"].hung = True
    control.run(60.0)
    assert since(control, 60.0, "cordon", "scale") == [(45.0, "cordon", "a1"), (45.0, "scale", "a 7")]
    control.run(900.0)
    assert control.world.wanted[KEY] == 6


# what must not be mistaken for a hang


def test_an_overloaded_fleet_is_never_restarted() -> None:
    control = at_work(a_world(4, 60.0), least=4, most=4)
    control.run(1800.0)
    assert control.acts(*HEALING) == []


def test_one_overloaded_replica_is_never_restarted() -> None:
    control = at_work(a_world())
    busy = control.world.engines["a1"]

    def pile_on(_: TickRecord) -> None:
        busy.in_flight += 200.0

    control.run(1200.0, pile_on)
    assert control.acts(*HEALING) == []


def test_a_stuck_exporter_of_a_busy_replica_causes_no_act_and_one_page() -> None:
    """The load is steady, so that the gauge of requests in flight stands still as well."""
    control = at_work(a_world())
    engine = control.world.engines["a1"]
    engine.exporter_stuck = engine.sample(control.world.clock.at)
    control.run(1800.0)
    assert control.acts(*HEALING) == []
    assert [(page.subject, page.cause) for page in control.notifier.pages] == [(KEY.replica("a1"), "F13")]


def test_a_stuck_exporter_is_never_restarted_where_answers_are_not_counted() -> None:
    """It is taken out on the gauge's word and drains: only a human can say whether that is life."""
    control = at_work(a_world(counts_answers=False))
    engine = control.world.engines["a1"]
    engine.exporter_stuck = engine.sample(control.world.clock.at)
    control.run(1800.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon"]
    assert [page.cause for page in control.notifier.pages] == ["F1"]


def test_frozen_counters_of_a_replica_whose_requests_end_cause_no_act() -> None:
    control = at_work(a_world(counts_answers=False))
    engine = control.world.engines["a1"]
    engine.exporter_stuck = engine.sample(control.world.clock.at)

    def ebb_and_flow(record: TickRecord) -> None:
        control.world.requests_per_s = 16.0 + 4.0 * math.sin(record.at / 10.0)

    control.run(1800.0, ebb_and_flow)
    assert control.acts(*HEALING) == []


def test_a_metrics_store_that_is_down_causes_no_act_and_is_recorded() -> None:
    control = at_work(a_world())
    control.world.store_down = True
    control.run(600.0)
    assert control.acts() == []
    assert [record.error != "" for record in control.audit.records[-40:]] == [True] * 40


def test_replicas_that_nobody_scrapes_are_not_touched() -> None:
    control = at_work(a_world())
    for engine in control.world.engines.values():
        engine.unscraped = True
    control.run(900.0)
    assert control.acts() == []


def test_demand_that_is_not_observed_holds_the_fleet_and_a_gap_shrinks_nothing() -> None:
    control = at_work(a_world(8, 30.0), least=1)
    control.world.demand_hidden = True
    control.run(900.0)
    assert control.acts() == []
    control.world.demand_hidden, control.world.requests_per_s = False, 4.0
    control.run(75.0)
    assert control.acts() == []
    control.run(300.0)
    assert control.world.wanted[KEY] == 2


def test_when_all_freeze_at_once_healing_stops_and_one_page_goes_out() -> None:
    control = at_work(a_world())
    for engine in control.world.engines.values():
        engine.hung = True
    control.run(1800.0)
    assert control.acts(*HEALING) == []
    assert [(page.subject, page.cause) for page in control.notifier.pages] == [(MODEL, "breaker")]
    assert control.world.wanted[KEY] >= 6


def test_a_breaker_that_closed_for_a_quarter_of_an_hour_pages_anew() -> None:
    control = at_work(a_world())
    for _ in range(2):
        for engine in control.world.engines.values():
            engine.hung = True
        control.run(120.0)
        for engine in control.world.engines.values():
            engine.hung = False
        control.run(1200.0)
    assert [page.cause for page in control.notifier.pages] == ["breaker", "breaker"]


# errors


@pytest.mark.parametrize("ratio", [0.4, 0.8, 1.0])
def test_a_replica_that_answers_with_errors_is_taken_out_restarted_and_verified(ratio: float) -> None:
    control = at_work(a_world(requests_per_s=21.0), least=4)
    control.world.engines["a1"].error_ratio = ratio
    control.run(1200.0)
    (cordoned_s, *_), (restarted_s, *_) = acts = since(control, 60.0)
    assert [(verb, name) for _, verb, name in acts] == [("cordon", "a1"), ("restart", "a1")]
    assert 45.0 <= cordoned_s <= 60.0
    assert restarted_s <= cordoned_s + 60.0
    assert control.world.serving() == 6
    assert [act.verified for act in control.loop.memory.actions] == [True]
    assert control.notifier.pages == []


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_errors_of_all_replicas_restart_nothing(ratio: float) -> None:
    control = at_work(a_world())
    for engine in control.world.engines.values():
        engine.error_ratio = ratio
    control.run(1800.0)
    assert control.acts(*HEALING) == []


def test_errors_that_nobody_counts_and_only_the_engine_tells_of_are_left_to_a_human() -> None:
    control = at_work(a_world(counts_answers=False))
    control.world.engines["a1"].error_ratio = 0.8
    control.run(1800.0)
    assert [(verb, name) for _, verb, name in since(control, 60.0)] == [("cordon", "a1")]
    assert {(page.subject, page.cause) for page in control.notifier.pages} == {(KEY.replica("a1"), "F2")}


def test_a_replica_with_errors_stays_while_too_few_others_serve_and_more_are_asked_for() -> None:
    control = at_work(a_world(3, 6.0), least=3)
    control.world.engines["a1"].error_ratio = 0.8
    control.run(60.0)
    assert [(verb, what) for _, verb, what in since(control, 60.0, "cordon", "scale")] == [("scale", "a 4")]
    control.run(600.0)
    assert [(verb, name) for _, verb, name in since(control, 60.0)] == [("cordon", "a1"), ("restart", "a1")]


def test_a_node_that_makes_every_engine_fail_ends_with_a_human() -> None:
    """Each successor fails as well: four restarts within the hour, then a page."""
    world = a_world()
    control = at_work(world)
    bad = ["a1"]

    def fail_again(_: TickRecord) -> None:
        if bad[-1] not in world.engines:
            bad.append(f"a{world.made}")
        world.engines[bad[-1]].error_ratio = 0.8

    control.run(3600.0, fail_again)
    assert [verb for _, verb, _ in since(control, 60.0, "restart")] == ["restart"] * 4
    assert str(KEY) in {page.subject for page in control.notifier.pages}
    assert world.serving() >= 5


def test_what_is_out_of_traffic_makes_the_others_neither_fewer_nor_too_few() -> None:
    control = at_work(a_world(requests_per_s=21.0), least=1)
    control.world.engines["a1"].error_ratio = 0.8
    fewest = []

    def count(_: TickRecord) -> None:
        fewest.append((control.world.serving(), control.world.wanted[KEY]))

    control.run(1200.0, count)
    assert min(serving for serving, _ in fewest) == 5
    assert min(wanted for _, wanted in fewest) == 6


# what the platform or others do to what we took out


def test_an_empty_answer_of_the_platform_makes_no_orphan_of_our_cordon() -> None:
    control = at_work(a_world())
    stalled = control.world.engines["a1"]
    stalled.hung = True
    control.run(60.0)
    control.world.unlisted = True
    control.run(15.0)
    control.world.unlisted = False
    stalled.hung = False
    control.run(60.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon", "uncordon"]
    assert stalled.serving


def test_a_controller_that_lost_its_memory_tells_a_human_of_its_cordon() -> None:
    control = at_work(a_world())
    stalled = control.world.engines["a1"]
    stalled.hung = True
    control.run(60.0)
    control.loop.memory, stalled.hung = PolicyMemory(), False
    control.run(600.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon"]
    assert [(page.subject, page.cause) for page in control.notifier.pages] == [(KEY.replica("a1"), "cordon")]


@pytest.mark.parametrize("moves_again", [False, True])
def test_a_cordon_by_hand_while_we_only_looked_on_stays_theirs(moves_again: bool) -> None:
    world, killed = a_world(), [True]
    control = world.controlled(settings(least=6), killed=lambda: killed[0])
    control.run(60.0)
    world.engines["a1"].hung = True
    control.run(90.0)
    world.cordon(KEY, "a1")
    control.run(15.0)
    world.engines["a1"].hung, killed[0] = not moves_again, False
    control.run(600.0)
    assert [verb for _, verb, _ in control.acts(*HEALING)] == ["cordon"]
    assert {page.subject for page in control.notifier.pages} == {KEY.replica("a1")}


def test_restarts_that_fail_are_paced_counted_and_end_with_a_human() -> None:
    """Each one times out, and nobody knows whether it took effect."""
    world = a_world()
    control = at_work(world)
    tried: list[float] = []

    def refuse(*_: object) -> None:
        tried.append(world.clock.at)
        raise ActuationError("no answer within 10 s", "world")

    world.restart = refuse  # type: ignore[method-assign]
    world.engines["a1"].hung = world.engines["a2"].hung = True
    control.run(3600.0)
    assert len(tried) == 4
    assert min(later - earlier for earlier, later in pairwise(tried)) >= 300.0
    assert str(KEY) in {page.subject for page in control.notifier.pages}


def test_a_pool_that_leaves_the_settings_gets_its_replica_back() -> None:
    world = two_pools()
    control = at_work(world, least=4)
    world.engines["b5"].hung = True
    control.run(60.0)
    control.loop._policy = Foresail(settings(KEY, least=4))
    control.run(600.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon", "uncordon"]


# crash, start, straggler


def test_a_crash_is_left_to_the_platform() -> None:
    control = at_work(a_world())
    control.world.crash("a2")
    control.run(900.0)
    assert control.acts() == []
    assert control.world.serving() == 6


def test_a_crash_of_a_cordoned_replica_ends_its_cordon() -> None:
    control = at_work(a_world())
    control.world.engines["a1"].hung = True
    control.run(60.0)
    control.world.crash("a1")
    control.run(105.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon", "uncordon"]
    assert control.world.engines["a1"].serving


def test_a_replica_that_the_platform_does_not_bring_back_is_replaced_once() -> None:
    control = at_work(a_world())
    control.world.crash("a2", for_good=True)
    control.run(900.0)
    assert since(control, 60.0) == [(90.0, "restart", "a2")]  # 1.5 times the lead time of 60 s
    assert control.world.serving() == 6


def test_a_start_that_hangs_is_restarted_after_twice_the_measured_time() -> None:
    control = at_work(a_world())
    control.world.crash("a2")
    control.world.engines["a2"].load_s = math.inf
    control.run(900.0)
    assert since(control, 60.0) == [(135.0, "restart", "a2")]
    assert control.world.serving() == 6


def test_starts_that_never_end_stop_at_the_attempt_cap() -> None:
    control = at_work(a_world())
    control.world.lead_s = math.inf
    control.world.crash("a2", for_good=True)
    control.run(4200.0)
    times = [when for when, _, _ in control.acts("restart")]
    assert len([when for when in times if when < times[0] + 3600.0]) <= 4
    assert all(later - earlier >= 300.0 for earlier, later in pairwise(times))
    assert len(control.notifier.pages) >= 1


def test_a_straggler_is_cordoned_drained_and_replaced() -> None:
    control = at_work(a_world(requests_per_s=20.0), least=5)
    slow = control.world.engines["a1"]
    slow.slowdown = 3.0
    control.run(75.0)
    assert [verb for _, verb, _ in since(control, 60.0)] == ["cordon"]
    before = slow.in_flight
    control.run(60.0)
    assert slow.in_flight < before
    control.run(900.0)
    assert [(verb, name) for _, verb, name in since(control, 60.0)] == [("cordon", "a1"), ("restart", "a1")]
    assert control.world.serving() == 6


def test_a_straggler_of_a_fleet_at_its_minimum_waits_for_its_replacement() -> None:
    control = at_work(a_world(requests_per_s=20.0))
    control.world.engines["a1"].slowdown = 3.0
    fewest = []
    control.run(900.0, lambda _: fewest.append(control.world.serving()))
    verbs = [verb for _, verb, _ in since(control, 60.0, "cordon", "restart", "scale")]
    assert verbs[:2] == ["scale", "cordon"]
    assert min(fewest) >= 6
    assert "a1" not in control.world.engines


# failover


def test_a_pool_that_loses_everything_hands_over_and_comes_back_in_steps() -> None:
    world = two_pools()
    control = at_work(world, least=2)
    for engine in list(world.of(KEY)):
        world.crash(engine.id, for_good=True)
    shares: list[float] = []
    control.run(15.0)
    assert world.shares == {KEY: 0.0, OTHER: 1.0}
    control.run(285.0)
    for engine in world.of(KEY):
        engine.stays_down = False
    control.run(900.0, lambda _: shares.append(world.shares[KEY]))
    steps = [later - earlier for earlier, later in pairwise(shares)]
    assert shares[0] == 0.0
    assert shares[-1] == pytest.approx(0.5, abs=0.2)
    assert max(steps) <= 0.2 + 1e-9
    moves = [r for r in control.remedies() if isinstance(r, FailOver)]
    assert [(move.origin, move.destination) for move in moves] == [(KEY, OTHER)]


def test_a_flapping_pool_does_not_drag_its_traffic_along() -> None:
    world = two_pools()
    control = at_work(world, least=4)
    shares: list[float] = []
    for _ in range(6):
        for engine in list(world.of(KEY)):
            world.crash(engine.id)
        control.run(15.0)
        control.run(105.0, lambda _: shares.append(world.shares[KEY]))
    assert max(shares) <= 0.2


def test_traffic_stays_where_it_is_when_the_other_pool_is_dead_too() -> None:
    world = two_pools()
    control = at_work(world, least=4)
    for engine in list(world.engines.values()):
        world.crash(engine.id, for_good=True)
    control.run(60.0)
    assert sum(world.shares.values()) == pytest.approx(1.0)
    assert control.acts("weights") == []


# modes


def test_in_observe_mode_nothing_is_written_and_everything_is_recorded() -> None:
    world = a_world(requests_per_s=40.0)
    control = world.controlled(settings(least=4), modes=ModeSettings())
    control.run(60.0)
    world.engines["a1"].hung = True
    control.run(1800.0)
    assert world.acts == []
    assert control.notifier.pages == []
    cordons = [r for r in control.remedies() if isinstance(r, CordonReplica)]
    assert len(cordons) > 100  # one per tick, since none is carried out
    held = [result for record in control.audit.records for result in record.results]
    assert {result.outcome for result in held} == {"held"}


def test_restarts_that_were_only_observed_do_not_fill_the_attempt_cap() -> None:
    world = a_world()
    control = world.controlled(settings(least=6), modes=ModeSettings())
    world.engines["a1"].hung = True
    control.run(1200.0)
    assert len([r for r in control.remedies() if isinstance(r, RestartReplica)]) > 50
    assert control.loop.memory.actions == ()


def test_pages_go_out_from_recommend_on() -> None:
    world = a_world()
    control = world.controlled(settings(least=6), modes=ModeSettings(healing=Mode.RECOMMEND))
    for engine in world.engines.values():
        engine.hung = True
    control.run(600.0)
    assert len(control.notifier.pages) == 1
    assert world.acts == []


def test_a_kill_switch_pulled_in_the_middle_stops_every_write() -> None:
    world = a_world(requests_per_s=40.0)
    control = world.controlled(settings(), killed=lambda: world.clock.at > AT + 200.0)
    world.engines["a1"].hung = True
    control.run(1200.0)
    assert control.acts() != []
    assert max(when for when, _, _ in control.acts()) <= 200.0


# scaling


def test_the_first_tick_without_any_demand_changes_nothing() -> None:
    world = a_world(3, 8.0, demand_hidden=True)
    control = world.controlled(settings())
    control.run(15.0)
    assert control.acts() == []
    assert control.audit.records[0].decision is not None


def test_a_fleet_goes_to_sleep_and_wakes_on_its_first_requests() -> None:
    world = a_world(1, 0.0)
    control = world.controlled(settings(least=0))
    control.run(300.0)
    assert control.acts("scale") == [(135.0, "scale", "a 0")]  # the first tick after the stabilization window
    world.requests_per_s = 0.5
    control.run(300.0)
    assert [subject for _, _, subject in control.acts("scale")] == ["a 0", "a 1"]
    assert (world.serving(), world.held) == (1, 0.0)


def test_a_fleet_at_zero_wakes_even_while_its_demand_is_not_observed() -> None:
    world = World(requests_per_s=0.5, demand_hidden=True)
    world.add_pool(replicas=0)
    control = world.controlled(settings(least=0))
    control.run(300.0)
    assert [subject for _, _, subject in control.acts("scale")] == ["a 1"]


def test_the_cheaper_pool_grows_first_and_the_dearer_one_takes_the_rest() -> None:
    world = two_pools(2, 8.0)
    control = world.controlled(settings(KEY, OTHER, least=1, most=5))
    world.requests_per_s = 30.0
    control.run(900.0)
    assert world.wanted == {KEY: 5, OTHER: 3}


def test_moving_to_the_cheaper_pool_waits_until_it_serves() -> None:
    """Both pools carry the load; the move costs capacity only when the dear pool shrinks before the cheap one grew."""
    world = two_pools(3, 20.0)
    world.lead_s = 400.0
    control = world.controlled(settings(KEY, OTHER, least=1))
    fewest: list[int] = []
    control.run(1800.0, lambda _: fewest.append(world.serving(KEY) + world.serving(OTHER)))
    assert world.wanted == {KEY: 4, OTHER: 1}
    assert min(fewest) >= 5


def test_the_gpu_budget_holds_through_a_surge() -> None:
    world = two_pools(2, 8.0)
    control = world.controlled(settings(KEY, OTHER, guardrails=GuardrailSettings(gpu_budget=12)))
    world.requests_per_s = 60.0
    control.run(900.0)
    assert sum(world.wanted.values()) == 6


def test_steady_load_is_left_in_peace() -> None:
    control = at_work(a_world(5, 16.0, attained=0.993), least=1)
    control.run(1800.0)
    assert control.acts() == []  # 16 requests/s would just fit 4 replicas, with nothing to spare


def test_a_wave_is_followed_without_flapping() -> None:
    world = a_world(4, 10.0)
    control = world.controlled(settings())

    def wave(record: TickRecord) -> None:
        world.requests_per_s = 20.0 + 12.0 * math.sin((record.at - AT) / 1800.0 * 2.0 * math.pi)

    control.run(3600.0, wave)
    counts = [int(subject.split()[1]) for _, _, subject in control.acts("scale")]
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(counts, counts[1:], counts[2:], strict=False))
    assert turns <= 4  # two waves have four turning points
    assert max(counts) <= 10


def test_a_model_of_its_own_is_not_disturbed_by_another_models_trouble() -> None:
    world = a_world(6, 8.0)
    stranger = PoolKey("n", "z")
    world.add_pool(stranger, 6)
    control = at_work(world, least=6)
    for engine in world.of(KEY)[:3]:
        engine.hung = True
    world.of(stranger)[0].hung = True
    control.run(300.0)
    assert [page.subject for page in control.notifier.pages] == [MODEL]
    assert {name[0] for _, _, name in control.acts(*HEALING)} == {"z"}
