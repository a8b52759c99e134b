"""Is the pace of each pool its own, however many there are beside it?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.fleet import PoolKey, PoolState, Role
from policies.pace import Pace, paces
from policies.profile_catalogue import profile_named
from tests.builders import AT, pool
from tests.builders_evidence import alike

PROFILE = profile_named("llama-3.1-8b-h100-tp1")


def of_size(place: int, count: int, role: Role = Role.UNIFIED) -> PoolState:
    tpot_s = 0.01 * (place + 1)
    running, queued = 10.0 * (place + 1), 3.0 * place
    there = alike(count, 0.0, tpot_mean_s=tpot_s, running_requests=running, queued_requests=queued)
    return pool(there, key=PoolKey("m", f"p{place}", role))


def seen(*pools: PoolState) -> tuple[Pace, ...]:
    prefilled = np.full(sum(len(p.replicas) for p in pools), 500.0)
    return paces(AT, pools, prefilled, {str(p.key): PROFILE for p in pools}, 60.0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_each_pool_has_the_pace_that_it_has_alone(sizes: list[int]) -> None:
    pools = [of_size(place, count) for place, count in enumerate(sizes)]
    for together, alone in zip(seen(*pools), pools, strict=True):
        (expected,) = seen(alone)
        for name in ("tpot_s", "explained_s", "oldest_at", "replicas", "serving", "queued_ratio"):
            assert getattr(together, name) == pytest.approx(getattr(expected, name), nan_ok=True)


def test_there_may_be_no_pool() -> None:
    assert seen() == ()


def test_a_fuller_batch_explains_a_slower_step() -> None:
    few, many = seen(of_size(0, 3), of_size(4, 3))
    assert few.explained_s < many.explained_s


@pytest.mark.parametrize("missing", ["tpot_mean_s", "running_requests", "kv_cache_ratio"])
def test_a_replica_of_which_a_figure_is_missing_tells_nothing(missing: str) -> None:
    figures = {"tpot_mean_s": 0.02, "running_requests": 10.0, "kv_cache_ratio": 0.2}
    whole, part = alike(3, 0.0, **figures), alike(3, 0.0, **{**figures, missing: math.nan})
    (found,) = seen(pool([*whole[:2], part[2]], key=PoolKey("m", "p0")))
    assert (found.replicas, found.serving) == (2, 3)


def test_old_metrics_tell_nothing() -> None:
    there = of_size(0, 3)
    (found,) = paces(AT + 100.0, [there], np.full(3, 500.0), {str(there.key): PROFILE}, 60.0)
    assert found.replicas == 0


def test_decoding_alone_takes_no_time_for_prompts_and_prefilling_alone_explains_no_pace() -> None:
    unified, decode, prefill = seen(*(of_size(0, 3, role) for role in (Role.UNIFIED, Role.DECODE, Role.PREFILL)))
    assert decode.explained_s < unified.explained_s
    assert prefill.replicas == 0


def test_a_pool_without_a_profile_is_not_explained() -> None:
    there = of_size(0, 3)
    (found,) = paces(AT, [there], np.full(3, 500.0), {}, 60.0)
    assert found.replicas == 0
    assert math.isnan(found.explained_s)
