"""Is a pool that is slower than its load explains told apart from one that has more to do?"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policies.fleet import PoolState, Role
from policies.latency_residual import FURTHEST, LatencyLook, LatencyResidualSettings, look_at_latency
from policies.memory import PolicyMemory, PoolMemory
from policies.pace import Pace, explained_s, paces
from policies.profile_catalogue import profile_named
from policies.residual_memory import LatencyMemory
from tests.builders import AT, KEY, pool
from tests.builders_evidence import LOOK_S, alike

PROFILE = profile_named("llama-3.1-8b-h100-tp1")
SETTINGS = LatencyResidualSettings()
REPLICAS = 6
PREFILLED = np.full(REPLICAS, 500.0)
QUIET_S = 900.0

Running = Callable[[float], float]
Slowness = Callable[[float], float]


def pace_of(at: float, state: PoolState) -> Pace:
    (found,) = paces(at, [state], PREFILLED, {str(state.key): PROFILE}, SETTINGS.max_age_s)
    return found


def run(
    running: Running, slowness: Slowness, until_s: float, known: LatencyMemory | None = None, **more: bool
) -> tuple[LatencyMemory, list[tuple[float, LatencyLook]]]:
    """Return what is remembered, and the looks that told something, with their seconds after ``AT``.

    Replicas take ``slowness`` times what the profile says of ``running`` requests; NaN is no TPOT.
    """
    memory, found, after_s = known or LatencyMemory(), [], 0.0
    while after_s <= until_s:
        bare = pool(
            alike(REPLICAS, after_s, running_requests=running(after_s), kv_cache_ratio=running(after_s) / 400.0)
        )
        step_s = float(explained_s([bare], PREFILLED, {str(KEY): PROFILE})[0])
        there = pool(
            alike(
                REPLICAS,
                after_s,
                running_requests=running(after_s),
                kv_cache_ratio=running(after_s) / 400.0,
                tpot_mean_s=step_s * slowness(after_s) * (1.0 + 0.03 * math.sin(after_s)),
            )
        )
        memory, look = look_at_latency(memory, AT + after_s, pace_of(AT + after_s, there), SETTINGS, **more)
        if look is not None and look.stray.told and look.stray.above:
            found.append((after_s, look))
        after_s += LOOK_S
    return memory, found


def late(times: float) -> Slowness:
    """Return a slowness that is ``times`` as slow from ``QUIET_S`` on."""
    return lambda after_s: 1.2 if after_s < QUIET_S else 1.2 * times


@pytest.mark.parametrize("level", [5.0, 40.0, 200.0])
def test_a_pool_that_slows_down_at_the_same_load_is_told_within_a_minute(level: float) -> None:
    _, found = run(lambda _: level, late(2.5), QUIET_S + 300.0)
    first_s, look = found[0]
    assert first_s <= QUIET_S + 60.0
    assert look.stray.since_at - AT == pytest.approx(QUIET_S, abs=2 * LOOK_S)
    assert look.tpot_s / look.explained_s == pytest.approx(2.5, rel=0.1)
    assert "times what their load explains" in str(look)


@given(busy=st.floats(1.0, 300.0), busier=st.floats(1.0, 300.0))
@hypothesis_settings(max_examples=25, deadline=None)
def test_more_load_is_no_sign(busy: float, busier: float) -> None:
    _, found = run(lambda after_s: busy if after_s < QUIET_S else busier, lambda _: 1.2, QUIET_S + 600.0)
    assert not found


def test_requests_of_a_backlog_that_end_after_it_are_no_sign() -> None:
    """They decoded among many, and end among few."""
    memory, after_s, found = LatencyMemory(), 0.0, []
    while after_s <= QUIET_S + 120.0:
        running = 200.0 if after_s < QUIET_S else 20.0
        crowd = pool(alike(REPLICAS, after_s, running_requests=200.0, kv_cache_ratio=0.5))
        tpot_s = 1.2 * float(explained_s([crowd], PREFILLED, {str(KEY): PROFILE})[0])
        there = alike(REPLICAS, after_s, running_requests=running, kv_cache_ratio=running / 400.0, tpot_mean_s=tpot_s)
        memory, look = look_at_latency(memory, AT + after_s, pace_of(AT + after_s, pool(there)), SETTINGS)
        found += [look] if look is not None else []
        after_s += LOOK_S
    assert not found


def test_a_pool_is_not_judged_while_requests_queue_nor_soon_after() -> None:
    known, _ = run(lambda _: 40.0, late(1.0), QUIET_S)
    last_queued_s = QUIET_S + 600.0
    for place in range(100):
        after_s = QUIET_S + place * LOOK_S
        queued = 20.0 if after_s <= last_queued_s else 0.0
        slow = alike(REPLICAS, after_s, running_requests=40.0, queued_requests=queued, tpot_mean_s=0.2)
        known, look = look_at_latency(known, AT + after_s, pace_of(AT + after_s, pool(slow)), SETTINGS)
        assert look is None or after_s > last_queued_s + SETTINGS.lasting_s
    assert look is not None


def test_a_pool_is_never_told_to_be_too_fast() -> None:
    _, found = run(lambda _: 40.0, late(0.3), QUIET_S + 600.0)
    assert not found


def test_without_tpot_nothing_is_told_or_learned() -> None:
    known, _ = run(lambda _: 40.0, late(1.0), QUIET_S)
    after, found = run(lambda _: 40.0, lambda _: math.nan, QUIET_S, known)
    assert not found
    assert after.residual.seen == known.residual.seen


def test_few_replicas_that_tell_do_not_speak_for_a_pool() -> None:
    memory = LatencyMemory()
    for place in range(200):
        after_s = place * LOOK_S
        slow = 0.02 if after_s < QUIET_S else 0.2
        silent = alike(REPLICAS, after_s, running_requests=20.0, tpot_mean_s=math.nan)
        few = alike(REPLICAS, after_s, running_requests=20.0, tpot_mean_s=slow)[:2]
        memory, look = look_at_latency(memory, AT + after_s, pace_of(AT + after_s, pool([*few, *silent[2:]])), SETTINGS)
        assert look is None
    assert memory.residual.seen == 0


def test_nothing_is_learned_while_it_is_slow_or_learning_is_held() -> None:
    known, _ = run(lambda _: 40.0, late(1.0), QUIET_S)
    slow, found = run(lambda _: 40.0, lambda _: 3.0, 900.0, known)
    assert found
    assert slow.residual.seen == known.residual.seen
    held, _ = run(lambda _: 40.0, lambda _: 1.3, 900.0, known, learning=False)
    assert (held.residual.seen, held.residual.location) == (known.residual.seen, known.residual.location)


def test_a_prefill_pool_has_no_pace_of_decoding() -> None:
    key = type(KEY)(KEY.model, KEY.pool, Role.PREFILL)
    there = pool(alike(REPLICAS, 0.0, running_requests=20.0, tpot_mean_s=0.02), key=key)
    after, look = look_at_latency(LatencyMemory(), AT, pace_of(AT, there), SETTINGS)
    assert look is None
    assert after.residual.seen == 0


def test_what_is_remembered_of_a_pace_can_be_read_back() -> None:
    known, _ = run(lambda _: 40.0, late(2.5), QUIET_S + 60.0)
    memory = PolicyMemory(pools={str(KEY): PoolMemory(latency=known)})
    assert PolicyMemory.from_json(memory.to_json()) == memory


@pytest.mark.parametrize("tpot_s", [5e-324, 1e-300, 1e300, math.inf])
def test_whatever_an_engine_says_of_its_pace_is_held_against_its_load(tpot_s: float) -> None:
    memory = LatencyMemory()
    for look in range(40):
        pace = Pace(tpot_s, 2.0, AT + 15.0 * look, replicas=1, serving=1, queued_ratio=0.0)
        memory, _ = look_at_latency(memory, AT + 15.0 * look, pace, SETTINGS)
    assert math.isfinite(memory.residual.location)
    assert abs(memory.residual.location) <= FURTHEST
