"""Is a prefix that an engine still has not computed again, held once, and given up in the right order?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.prefix_cache import Eviction, PrefixCache
from simulations.replica import EngineRequest, ReplicaEngine, run_alone
from tests.builders_fleet import a_profile

UNIT = 16
Engine = ReplicaEngine[EngineRequest]


def an_engine(kv_cache_tokens: int = 1600, prefix_cache: str = "lru", **changes: float) -> Engine:
    profile = a_profile(
        kv_cache_tokens=kv_cache_tokens, block_tokens=8, prefix_cache=prefix_cache, prefill_per_token_s=1e-3,
        prefill_per_token2_s=0.0, prefill_base_s=0.0, **changes,
    )  # fmt: skip
    return ReplicaEngine(profile, UNIT)


def served(engine: Engine, *requests: EngineRequest) -> float:
    """Serve the requests, given at once, to their end; return how long it took."""
    return max(run_alone(engine, [(0.0, request) for request in requests]), default=0.0)


def test_a_prefix_that_is_there_is_not_computed_again() -> None:
    engine = an_engine()
    assert served(engine, EngineRequest(50, 1, (1, 2, 3))) == pytest.approx(0.050)
    # Units 1 and 2 are there, 7 is not: 32 of 50 tokens are found, 18 computed.
    assert served(engine, EngineRequest(50, 1, (1, 2, 7))) == pytest.approx(0.018)
    assert (engine.prompt_tokens_total, engine.cached_tokens_total, engine.looked_up_tokens_total) == (68, 32, 100)
    assert engine.free_blocks == engine.total_blocks


def test_at_least_the_last_token_of_a_prompt_is_computed() -> None:
    engine = an_engine()
    served(engine, EngineRequest(32, 1, (1, 2)))
    assert served(engine, EngineRequest(32, 1, (1, 2))) == pytest.approx(0.016)


def test_attention_over_what_is_found_is_paid() -> None:
    engine: Engine = ReplicaEngine(
        a_profile(block_tokens=8, prefill_base_s=0.0, prefill_per_token_s=1e-9, prefill_per_token2_s=1e-6), UNIT
    )
    served(engine, EngineRequest(40, 1, (1, 2)))
    assert served(engine, EngineRequest(48, 1, (1, 2))) == pytest.approx((48**2 - 32**2) * 1e-6, rel=1e-3)


def test_a_unit_that_is_not_full_is_never_found() -> None:
    engine = an_engine()
    served(engine, EngineRequest(24, 20, (1, 2)))  # the second hash covers 8 tokens of the prompt only
    served(engine, EngineRequest(40, 1, (1, 2)))
    assert engine.cached_tokens_total == UNIT


def test_an_engine_without_the_cache_computes_everything() -> None:
    engine = an_engine(prefix_cache="off")
    served(engine, EngineRequest(50, 1, (1, 2, 3)))
    assert served(engine, EngineRequest(50, 1, (1, 2, 3))) == pytest.approx(0.050)


def test_requests_that_run_share_the_blocks_of_a_prefix() -> None:
    engine = an_engine()
    for _ in range(3):
        engine.submit(EngineRequest(64, 50, (1, 2, 3)))
    engine.begin_step()
    engine.end_step()
    # 3 units of 2 blocks once, and for each request the 2 blocks of the last 16 tokens.
    assert engine.total_blocks - engine.free_blocks == 3 * 2 + 3 * 2


def test_a_shared_prefix_lets_in_a_prompt_that_would_not_fit_alone() -> None:
    """Ten blocks: the first prompt holds eight, the second has six of these in common and needs two more."""
    engine = an_engine(kv_cache_tokens=80)
    engine.submit(EngineRequest(64, 5, (1, 2, 3, 4)))
    engine.submit(EngineRequest(64, 5, (1, 2, 3, 9)))
    engine.submit(EngineRequest(64, 5, (8,)))
    engine.begin_step()
    assert (engine.running_requests, engine.queued_requests, engine.free_blocks) == (2, 1, 0)


def test_idle_prefixes_count_as_free_and_go_when_blocks_are_wanted() -> None:
    engine = an_engine(kv_cache_tokens=80)
    served(engine, EngineRequest(64, 1, (1, 2, 3, 4)))
    assert engine.kv_cache_ratio == 0.0
    served(engine, EngineRequest(56, 1))  # seven of ten blocks: of the eight idle ones five must go, three units
    served(engine, EngineRequest(64, 1, (1, 2, 3, 4)))
    assert engine.cached_tokens_total == UNIT  # the tail went before the head


@pytest.mark.parametrize(("eviction", "kept"), [("lru", 2), ("lfu", 1)])
def test_what_goes_first_is_the_choice_of_the_engine(eviction: Eviction, kept: int) -> None:
    cache = PrefixCache(1, eviction)
    for unit_hash in (1, 2):
        assert cache.add(unit_hash)
    cache.give_back([1])
    for _ in range(3):
        cache.take([1])
        cache.give_back([1])
    cache.give_back([2])  # idle for the shortest time, and taken least often
    cache.shrink_to(1)
    assert cache.found([kept]) == (1, 1)
    assert len(cache) == 1


def test_a_hash_must_cover_whole_blocks() -> None:
    with pytest.raises(ValueError, match="20 tokens, which are no whole blocks of 8"):
        ReplicaEngine(a_profile(block_tokens=8), 20)


_PREFIXES = st.lists(st.integers(0, 2), max_size=5).map(
    lambda turns: tuple(hash(tuple(turns[: n + 1])) for n in range(len(turns)))
)
_REQUESTS = st.lists(
    st.tuples(st.floats(0, 2), st.integers(1, 90), st.integers(1, 40), _PREFIXES), min_size=1, max_size=25
)


@settings(max_examples=200)
@given(_REQUESTS, st.sampled_from(["lru", "lfu"]), st.sampled_from([160, 240, 800]))
def test_no_block_is_lost_held_twice_or_made_up(
    drawn: list[tuple[float, int, int, tuple[int, ...]]], eviction: str, kv_cache_tokens: int
) -> None:
    engine = an_engine(kv_cache_tokens, eviction, max_batched_tokens=48, max_running=8)
    requests = [
        (at, EngineRequest(prompt, output, hashes)) for at, prompt, output, hashes in sorted(drawn, key=lambda r: r[0])
    ]
    fitting = [(at, request) for at, request in requests if engine.fits(request)]
    prefixes = engine._prefixes
    assert prefixes is not None
    for _ in run_alone(engine, fitting):
        running = list(engine._running)
        tokens = [r.prefilled if r.ends_at_step < 0 else engine.steps_total - r.lead for r in running]
        own = sum(math.ceil(held / 8) - 2 * len(r.held_units) for held, r in zip(tokens, running, strict=True))
        used = {unit_hash for r in running for unit_hash in r.held_units}
        assert engine.total_blocks - engine.free_blocks == own + 2 * len(used)
        assert prefixes.idle == len(prefixes) - len(used)
        assert 0 <= prefixes.idle_blocks <= engine.free_blocks
    assert engine.free_blocks == engine.total_blocks
    assert engine.output_tokens_total >= sum(request.output_tokens for _, request in fitting)


@pytest.mark.parametrize("aborted", [False, True])
def test_who_was_admitted_first_gives_back_first(aborted: bool) -> None:
    """Both leave with the third step; the later one's unit is idle for the shorter time, so it stays."""
    engine = an_engine(kv_cache_tokens=80)
    first, second = EngineRequest(20, 9 if aborted else 3, (1,)), EngineRequest(20, 3, (2,))
    engine.submit(first)
    engine.submit(second)
    for _ in range(3):
        engine.begin_step()
        if engine.steps_total == 2 and aborted:
            engine.abort(first)
        engine.end_step()
    assert engine.finished == ([second] if aborted else [first, second])
    engine.submit(EngineRequest(50, 2))  # seven of ten blocks, of which the two idle units hold four
    engine.begin_step()
    assert engine._prefixes is not None
    assert engine._prefixes.found([1]) == (0, 0)
    assert engine._prefixes.found([2]) == (1, 1)


def test_a_request_that_keeps_its_blocks_keeps_its_units_until_it_is_let_go() -> None:
    engine = an_engine(kv_cache_tokens=80)
    kept = EngineRequest(36, 1, (1, 2))
    kept.keeps_blocks = True
    served(engine, kept)
    assert engine._prefixes is not None
    assert (engine.free_blocks, engine._prefixes.idle) == (5, 0)
    sharing = EngineRequest(36, 1, (1, 2))
    assert served(engine, sharing) == pytest.approx(0.004)
    assert (engine.free_blocks, engine._prefixes.idle) == (5, 0)
    engine.let_go(kept)
    assert (engine.free_blocks, engine._prefixes.idle) == (10, 2)
