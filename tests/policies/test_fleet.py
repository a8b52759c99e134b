"""Do the values of the fleet refuse what cannot be, and tell apart what must be told apart?"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from policies.fleet import Demand, FleetState, Phase, PoolKey, Role, ServiceLevel
from policies.slo import ServiceObjective
from policies.wire import plain
from policies.wire_reader import read_back
from tests.builders import AT, KEY, MODEL, OTHER, demand, fleet, metrics, pool, replica


def test_a_pool_key_reads_back_from_its_text_even_when_the_model_has_slashes() -> None:
    key = PoolKey("meta-llama/Llama-3.1-70B", "a100-tp4", Role.DECODE)
    assert str(key) == "meta-llama/Llama-3.1-70B/a100-tp4/decode"
    assert PoolKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["a100", "m/a100", "m/a100/juggler", "/a100/unified"])
def test_what_is_no_pool_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected model/pool/role|is not a valid Role|needs a model"):
        PoolKey.parse(text)


@pytest.mark.parametrize(("model", "name"), [("", "a"), ("m", ""), ("m", "a/b")])
def test_a_pool_key_without_a_name_or_with_a_slash_in_it_is_refused(model: str, name: str) -> None:
    with pytest.raises(ValueError, match="without slashes"):
        PoolKey(model, name)


@pytest.mark.parametrize("rates", [(math.nan, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, math.inf)])
def test_a_demand_is_known_and_not_negative(rates: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must be finite and not negative"):
        Demand(*rates)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_a_cached_share_is_a_share(ratio: float) -> None:
    with pytest.raises(ValueError, match="cached_prompt_ratio"):
        Demand(1.0, 1.0, 1.0, ratio)


def test_scaled_demand_keeps_its_shape() -> None:
    assert Demand(2.0, 100.0, 40.0, 0.5).scaled(3.0) == Demand(6.0, 300.0, 120.0, 0.5)


def test_serving_is_ready_and_in_traffic() -> None:
    assert replica("r").serving
    assert not replica("r", cordoned=True).serving
    assert not any(replica("r", phase).serving for phase in Phase if phase is not Phase.READY)


def test_starting_is_on_the_way_to_ready() -> None:
    assert [phase for phase in Phase if replica("r", phase).starting] == [Phase.PENDING, Phase.LOADING]
    state = pool([replica("a"), replica("b", Phase.LOADING)])
    assert ([r.id for r in state.serving], [r.id for r in state.starting]) == (["a"], ["b"])


@pytest.mark.parametrize(
    "change",
    [{"desired": -1}, {"gpus_per_replica": -1}, {"usd_per_replica_hour": -0.01}, {"usd_per_replica_hour": math.nan}],
)
def test_a_pool_has_no_negative_figures(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        replace(pool(1), **change)  # type: ignore[arg-type]


def test_replica_ids_and_pool_keys_are_unique() -> None:
    with pytest.raises(ValueError, match="replica ids repeat"):
        pool([replica("a"), replica("a")])
    with pytest.raises(ValueError, match="pool keys repeat"):
        FleetState(AT, (pool(1), pool(2)))


@pytest.mark.parametrize(("finished", "within"), [(1.0, 2.0), (1.0, -1.0), (math.nan, 0.0)])
def test_an_impossible_service_level_is_refused(finished: float, within: float) -> None:
    with pytest.raises(ValueError, match="impossible service level"):
        ServiceLevel(300.0, finished, within)
    with pytest.raises(ValueError, match="impossible service level"):
        ServiceLevel(0.0, 1.0, 1.0)


def test_attainment_of_nothing_is_not_known() -> None:
    assert ServiceLevel(300.0, 4.0, 3.0).attainment_ratio == 0.75
    assert math.isnan(ServiceLevel(300.0, 0.0, 0.0).attainment_ratio)


def test_models_and_their_pools_come_in_order() -> None:
    state = fleet(pool(1, PoolKey("z", "p")), pool(1, OTHER), pool(1, KEY))
    assert state.models == (MODEL, "z")
    assert [p.key for p in state.pools_of(MODEL)] == [KEY, OTHER]


def test_coverage_counts_serving_replicas_that_reported_lately() -> None:
    some = [
        replica("fresh"),
        replica("old", metrics=metrics(AT - 61.0)),
        replica("never", metrics=None),
        replica("edge", metrics=metrics(AT - 60.0)),
        replica("out", cordoned=True, metrics=None),
    ]
    assert fleet(pool(some)).coverage_ratio(MODEL, 60.0) == 0.5
    assert fleet(pool(0)).coverage_ratio(MODEL, 60.0) == 1.0


def test_a_scrape_that_does_not_say_how_many_requests_wait_is_no_report() -> None:
    mute = replica("mute", metrics=metrics(queued_requests=math.nan))
    assert fleet(pool([mute, replica("told")])).coverage_ratio(MODEL, 60.0) == 0.5


def test_an_objective_takes_both_times() -> None:
    objective = ServiceObjective(ttft_s=2.0, tpot_s=0.1)
    assert objective.met(2.0, 0.1)
    assert not objective.met(2.1, 0.05)
    assert not objective.met(1.0, 0.11)
    assert demand().requests_per_s == 8.0


def test_what_is_made_from_other_fields_is_not_recorded() -> None:
    state = fleet(pool(2), pool(1, OTHER))
    assert state.pools_of(MODEL) == tuple(sorted(state.pools, key=lambda p: p.key))
    assert state.pools_of("unknown") == ()
    observed = {"at", "pools", "demand", "service", "gateway_queued", "missing", "nodes", "canaries"}
    observed |= {"gateway_oldest_at", "gateway_newest_at"}
    assert set(plain(state)) == {"type", *observed}
    assert read_back(FleetState, plain(replace(state, pools=()))) == replace(state, pools=())
