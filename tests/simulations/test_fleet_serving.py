"""Do prefill and decode pools, prefix caches and routing give what a worked example says, to the instant?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from policies.fleet import PoolKey, Role
from policies.slo import ServiceObjective
from simulations.block_hashes import BlockHashes
from simulations.faults import Crash, Hang, ReplicaTarget
from simulations.fleet import SimulatedFleet
from simulations.outcomes import RequestStatus
from simulations.pool import PoolSpec
from simulations.routings import ROUTINGS
from simulations.serving import Serving
from simulations.settings import FleetSettings
from tests.builders_fleet import MODEL, Batch, a_batch, a_pool, a_profile
from tests.builders_worlds import HashedBatch
from tests.reference.plain_routing import PlainRouting

UNIT = 16


def serving_fleet(pools: Sequence[PoolSpec], *batches: Batch, seed: int = 0, **settings: Any) -> SimulatedFleet:
    chosen = FleetSettings(**{"kv_gb_per_s": 1e-3, "kv_latency_s": 0.05, **settings})
    return SimulatedFleet(
        pools,
        batches,
        ServiceObjective(),
        chosen,
        seed,
        keep_rows=True,
        unit_tokens=UNIT,
    )


def staged(prefill: int = 1, decode: int = 1, **changes: Any) -> list[PoolSpec]:
    """A prefill step takes 10 ms + 1 us per token, a decode step 10 ms; a token's keys and values are 1000 bytes."""
    profile = a_profile(kv_bytes_per_token=1000, **changes)
    return [
        a_pool(count, key=PoolKey(MODEL, name, role), profile=profile)
        for count, name, role in ((prefill, "first", Role.PREFILL), (decode, "second", Role.DECODE))
    ]


def hashed(arrival_s: Sequence[float], hashes: Sequence[Sequence[int]], prompt: int = 50, output: int = 2) -> Batch:
    batch = a_batch(arrival_s, prompt, output)
    return HashedBatch(batch.arrival_s, batch.prompt_tokens, batch.output_tokens, BlockHashes.of(hashes))


def test_a_request_is_prefilled_in_one_pool_and_decodes_in_another_once_its_keys_and_values_are_there() -> None:
    fleet = serving_fleet(staged(), a_batch([0.0, 0.005], 100, 3))
    assert fleet.finish() == 0
    # Prefills until 10.1 ms and 20.2 ms. 100 kB at 1 MB/s and 50 ms make 150 ms each, one after the other: until
    # 160.1 ms and 310.1 ms. Then two decode steps of 10 ms.
    np.testing.assert_allclose(fleet.outcomes.first_token_at, [0.0101, 0.0202])
    np.testing.assert_allclose(fleet.outcomes.finished_at, [0.1801, 0.3301])
    assert fleet.outcomes.pool_index.tolist() == [1, 1]
    assert fleet.outcomes.status.tolist() == [RequestStatus.COMPLETED] * 2


def test_a_request_of_one_token_ends_in_the_prefill_pool() -> None:
    fleet = serving_fleet(staged(), a_batch([0.0], 100, 1))
    assert fleet.finish() == 0
    np.testing.assert_allclose(fleet.outcomes.finished_at, [0.0101])
    assert fleet.outcomes.pool_index.tolist() == [0]


def test_a_prompt_waits_for_the_blocks_of_one_that_is_under_way() -> None:
    """Ten blocks, and seven for each: the second prefill begins when the first transfer is over, at 160.1 ms."""
    fleet = serving_fleet(staged(kv_cache_tokens=160), a_batch([0.0, 0.005], 100, 3))
    assert fleet.finish() == 0
    np.testing.assert_allclose(fleet.outcomes.first_token_at, [0.0101, 0.1702])


def test_keys_and_values_arrive_for_a_client_that_has_gone_but_nobody_is_sent_on() -> None:
    """The first gives up at 120 ms, and its blocks are there for the second only when its transfer is over."""
    fleet = serving_fleet(staged(kv_cache_tokens=160), a_batch([0.0, 0.1], 100, 3), request_timeout_s=0.12)
    fleet.advance(0.13)
    assert fleet.outcomes.status.tolist() == [RequestStatus.FAILED, RequestStatus.IN_SYSTEM]
    assert fleet.finish() == 0
    assert fleet.outcomes.pool_index.tolist() == [0, 0]
    np.testing.assert_allclose(fleet.outcomes.first_token_at, [0.0101, 0.1702])


def test_a_crash_drops_what_moves_and_retries_what_has_not_begun_to_stream() -> None:
    fleet = serving_fleet(staged(prefill=2), a_batch([0.0, 0.0, 0.045], 100, 3))
    fleet.inject(Crash(0.05, ReplicaTarget("first", 0)))
    assert fleet.finish() == 0
    dropped, completed = RequestStatus.DROPPED_IN_FLIGHT, RequestStatus.COMPLETED
    assert fleet.outcomes.status.tolist() == [dropped, completed, completed]


def test_a_hung_prefill_replica_sends_what_it_has() -> None:
    fleet = serving_fleet(staged(), a_batch([0.0], 100, 3))
    fleet.inject(Hang(0.05, ReplicaTarget("first", 0)))
    assert fleet.finish() == 0
    np.testing.assert_allclose(fleet.outcomes.finished_at, [0.1801])


def test_a_draining_prefill_replica_goes_when_its_last_transfer_is_over() -> None:
    fleet = serving_fleet(staged(), a_batch([0.0, 5.0], 100, 3))
    fleet.advance(0.05)
    pool = fleet.cluster.pools()[0]
    fleet.cluster.scale(pool.key, 0, pool.version)
    fleet.advance(0.16)
    assert len(fleet.cluster.pools()[0].replicas) == 1
    fleet.advance(0.161)
    assert len(fleet.cluster.pools()[0].replicas) == 0
    fleet.advance(0.2)
    assert fleet.outcomes.status.tolist() == [RequestStatus.COMPLETED]


def test_without_a_decode_replica_a_request_is_held_for_as_long_as_others_are() -> None:
    fleet = serving_fleet(staged(decode=0), a_batch([0.0], 100, 3), gateway_timeout_s=2.0)
    assert fleet.finish() == 0
    np.testing.assert_allclose(fleet.outcomes.finished_at, [2.1601])
    assert fleet.outcomes.status.tolist() == [RequestStatus.FAILED]
    assert fleet.outcomes.pool_index.tolist() == [1]


def test_the_first_shares_of_each_stage_sum_to_one() -> None:
    pools = [*staged(1, 3), a_pool(1, key=PoolKey(MODEL, "third", Role.DECODE))]
    assert serving_fleet(pools)._gateway.shares() == pytest.approx((1.0, 0.75, 0.25))
    assert serving_fleet(staged(0, 0) + pools[2:])._gateway.shares() == pytest.approx((1.0, 0.0, 1.0))


def test_a_stage_without_any_weight_shares_equally() -> None:
    pools = [*staged(2, 0), a_pool(0, key=PoolKey(MODEL, "third", Role.DECODE))]
    assert serving_fleet(pools)._gateway.shares() == (1.0, 0.5, 0.5)


@pytest.mark.parametrize("roles", [[Role.PREFILL], [Role.DECODE], [Role.UNIFIED, Role.PREFILL, Role.DECODE]])
def test_pools_whose_roles_do_not_belong_together_are_refused(roles: list[Role]) -> None:
    pools = [a_pool(key=PoolKey(MODEL, f"pool-{place}", role)) for place, role in enumerate(roles)]
    with pytest.raises(ValueError, match="prefill and decode pools and no others"):
        serving_fleet(pools)


def test_the_demand_says_what_share_of_prompts_was_found_in_the_window() -> None:
    fleet = serving_fleet(
        [a_pool()],
        hashed([0.0, 1.0], [(1, 2, 3)] * 2),
        scrape_interval_s=1.0,
        scrape_delay_s=0.0,
        output_tokens_window_s=6.0,
    )
    fleet.advance(5.0)
    # Of 50 tokens none was found, then of 50 the three units that are whole: 48.
    assert fleet.metrics.read(5.0).demand[MODEL].cached_prompt_ratio == pytest.approx(0.48)
    fleet.advance(12.0)
    assert fleet.metrics.read(12.0).demand[MODEL].cached_prompt_ratio == 0.0


def test_no_prefix_is_looked_up_at_decode_pools_nor_where_the_cache_is_off() -> None:
    for pools, looked_up in ((staged(), 100), (staged(prefix_cache="off"), 0)):
        fleet = serving_fleet(pools, hashed([0.0, 1.0], [(1, 2, 3)] * 2), scrape_interval_s=1.0)
        fleet.advance(5.0)
        assert fleet._kernel.world["seen_looked_up"] == looked_up


def found_with(routing: str, hashes: Sequence[Sequence[int]], **settings: Any) -> int:
    """Return how many tokens two replicas find when requests come one second apart and scrapes see all."""
    arrival_s = np.arange(len(hashes), dtype=np.float64)
    fleet = serving_fleet(
        [a_pool(2)], hashed(arrival_s.tolist(), hashes), routing=routing, scrape_interval_s=1.0, **settings
    )
    fleet.advance(len(hashes) + 2.0)
    return int(fleet._kernel.world["seen_cached"])


def test_prefix_aware_routing_follows_the_longest_prefix_that_is_long_enough() -> None:
    # One after the other on two idle replicas: the first and the second, then those who were served less lately.
    twice_each = [(1, 2, 3), (7, 8, 9), (7, 8, 9), (1, 2, 3)]
    assert found_with("least_connections", twice_each) == 0
    assert found_with("prefix_aware", twice_each) == 2 * 48
    # A third of the prompt's units is known: enough for 0.3, not for 0.5.
    begins_alike = [(1, 2, 3), (7, 8, 9), (7, 5, 6)]
    assert found_with("prefix_aware", begins_alike) == 16
    assert found_with("prefix_aware", begins_alike, prefix_match_ratio=0.5) == 0


def test_round_robin_gives_each_replica_its_turn_however_busy_it_is() -> None:
    fleet = serving_fleet(
        [a_pool(3)], a_batch([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 100, [900, 2, 2, 2, 2, 2]), routing="round_robin"
    )
    fleet.finish()
    assert fleet._kernel.state.replicas["finished"][:3].tolist() == [2, 2, 2]


def test_draws_are_those_of_splitmix64() -> None:
    """The first two numbers of the generator seeded with 0, as its authors' code gives them."""
    routing = PlainRouting(Serving(seed=0), 1)
    assert [routing._draw(), routing._draw()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_routing_serves_everybody(routing: str) -> None:
    fleet = serving_fleet([a_pool(3)], hashed(np.linspace(0, 1, 50).tolist(), [(1, 2)] * 50), routing=routing)
    assert fleet.finish() == 0
    assert fleet.tallies.completed == 50
