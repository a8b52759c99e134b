"""Do starts take as long, scatter and fail as their model says?"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from policies.fleet import Phase
from simulations.fleet import SimulatedFleet
from simulations.platform_settings import PlatformSettings
from simulations.startup import CATALOGUE, PLAIN, StartTimes, StartupModel, draw_start, p90_over_median, startup_named
from tests.builders_fleet import a_fleet, a_key, a_pool


def total_s(times: StartTimes) -> float:
    return times.schedule_s + times.pull_s + times.load_s + times.warm_up_s


def starts(model: StartupModel, lead_time_s: float = 100.0, count: int = 4_000) -> list[StartTimes]:
    return [draw_start(model, lead_time_s, np.random.default_rng([7, n])) for n in range(count)]


def scale(fleet: SimulatedFleet, replicas: int) -> None:
    (pool,) = fleet.cluster.pools()
    fleet.cluster.scale(pool.key, replicas, pool.version)


def phases(fleet: SimulatedFleet) -> list[Phase]:
    return [replica.phase for pool in fleet.cluster.pools() for replica in pool.replicas]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_model_has_a_source_and_starts_with_the_lead_time_as_its_median(name: str) -> None:
    model = CATALOGUE[name]
    assert model.source
    took = [total_s(times) for times in starts(model)]
    # standard error of the median of 4,000 is 1.25 * sigma / 63: 0.8 % for the widest model
    assert np.median(took) == pytest.approx(100.0, rel=0.03)
    assert np.quantile(took, 0.9) == pytest.approx(100.0 * p90_over_median(model), rel=0.05)


def test_the_plain_model_is_one_lognormal_with_a_fifth_of_it_pending() -> None:
    model = startup_named(PLAIN)
    assert p90_over_median(model) == 1.15
    for times in starts(model, count=20):
        assert (times.schedule_s + times.pull_s) / total_s(times) == pytest.approx(0.2)
        assert not times.fails


def test_stragglers_take_three_times_as_long_at_the_share_asked_for() -> None:
    model = StartupModel(p90_ratio=1.0, straggler_ratio=0.1, straggler_factor=3.0)
    took = np.array([total_s(times) for times in starts(model)])
    assert sorted(set(np.round(took, 6))) == [100.0, 300.0]
    assert (took > 200).mean() == pytest.approx(0.1, abs=0.02)  # four standard errors


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no start-up model is called 'quick'; known: plain, stragglers"):
        startup_named("quick")


def test_the_docs_list_every_model_with_its_median() -> None:
    page = (Path(__file__).parents[2] / "docs" / "platform.md").read_text()
    for model in CATALOGUE.values():
        assert f"| `{model.name}` | {model.median_s:g} s | {p90_over_median(model):.2f} |" in page


def test_shares_that_do_not_add_up_to_one_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"add up to 1\.3"):
        StartupModel(load_ratio=0.9)


def test_an_engine_that_exits_while_starting_is_started_again_in_place_and_paid_for() -> None:
    model = StartupModel(p90_ratio=1.0, failure_ratio=0.9)
    fleet = a_fleet([a_pool(0, startup=model)], restart_backoff_s=10.0, restart_backoff_cap_s=10.0)
    scale(fleet, 1)
    (name,) = [replica.id for pool in fleet.cluster.pools() for replica in pool.replicas]
    seen: list[Phase] = []
    while phases(fleet) != [Phase.READY]:
        fleet.advance(fleet.clock.now() + 1.0)
        if phases(fleet) != seen[-1:]:
            seen += phases(fleet)
    (replica,) = fleet.cluster.pools()[0].replicas
    assert replica.id == name
    assert replica.restarts == seen.count(Phase.FAILED) > 0
    assert seen[:3] == [Phase.PENDING, Phase.LOADING, Phase.FAILED]
    assert seen.count(Phase.PENDING) == 1
    assert fleet.gpu_seconds() == 2 * fleet.clock.now()
    assert replica.since_at - replica.requested_at <= 10.0 + 80.0 + 1.0  # the last attempt alone


def test_only_the_first_replica_on_a_node_pulls_and_reads_cold_weights() -> None:
    """Four fit a node: 5 s to schedule, 15 s to pull, 60 s to load, 20 s to warm up."""
    model = StartupModel(p90_ratio=1.0, keeps_image=True, warm_load_ratio=0.25)
    fleet = a_fleet([a_pool(0, startup=model)])
    scale(fleet, 1)
    fleet.advance(10.0)
    scale(fleet, 2)  # waits for the pull of the first, which ends at 20 s
    fleet.advance(200.0)
    scale(fleet, 5)
    fleet.advance(400.0)
    ready_s = [replica.since_at - replica.requested_at for replica in fleet.cluster.pools()[0].replicas]
    assert ready_s == pytest.approx([100.0, 90.0, 5.0 + 15.0 + 20.0, 40.0, 100.0])


def test_the_kth_replica_takes_as_long_whoever_asks_for_it_and_when() -> None:
    def lead_times_s(asked: list[tuple[float, int]]) -> list[float]:
        model = startup_named("stragglers").model_copy(update={"keeps_image": False, "failure_ratio": 0.0})
        fleet = a_fleet([a_pool(0, startup=model)], seed=5)
        for at, replicas in asked:
            fleet.advance(at)
            scale(fleet, replicas)
        fleet.advance(5_000.0)
        return [replica.since_at - replica.requested_at for replica in fleet.cluster.pools()[0].replicas]

    at_once = lead_times_s([(0.0, 40)])
    assert lead_times_s([(0.0, 3), (700.0, 10), (900.0, 40)]) == pytest.approx(at_once)
    assert max(at_once) > 2 * float(np.median(at_once))  # a straggler is among them


def test_what_a_start_draws_does_not_depend_on_who_fails_before_it() -> None:
    times = draw_start(startup_named("stragglers"), 120.0, np.random.default_rng(3))
    assert times == draw_start(startup_named("stragglers"), 120.0, np.random.default_rng(3))
    assert all(math.isfinite(s) and s > 0 for s in (times.schedule_s, times.pull_s, times.load_s, times.warm_up_s))


def test_a_pools_own_model_wins_over_that_of_all() -> None:
    platform = PlatformSettings.model_validate(
        {"startup": "stragglers", "pools": {a_key().pool: {"startup": "blis-240s"}}}
    )
    assert platform.startup_of("main").name == "blis-240s"
    assert platform.startup_of("other").name == "stragglers"
