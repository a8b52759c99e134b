"""Is every rival built from the one load test that all are told of?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pytest

from controller.errors import BadInput
from simulations.case import Case, prepare
from simulations.peers.catalogue import policy_of
from simulations.scenario import laid_over
from tests.builders_simulation import OUTPUT_TOKENS, POOL, PROMPT_TOKENS, SMALL, RateTrace, quick_settings


@lru_cache
def case(*overrides: str) -> Case:
    return prepare(RateTrace([12.0] * 4), laid_over(quick_settings(), overrides))


def built(name: str, overrides: Sequence[str] = ()) -> object:
    return policy_of(name, case(*overrides))[0]


@pytest.mark.parametrize("name", ["hpa", "knative", "last-week", "phpa"])
def test_targets_in_requests_are_shares_of_the_tested_concurrency(name: str) -> None:
    assert built(name).targets == {POOL: pytest.approx(0.7 * case().pools[0].concurrency)}  # type: ignore[attr-defined]


def test_targets_in_rates_are_shares_of_the_tested_rate() -> None:
    assert built("skyserve").targets == {POOL: pytest.approx(0.7 * case().pools[0].requests_per_s)}  # type: ignore[attr-defined]
    assert built("last-week").targets_per_s == {POOL: pytest.approx(0.7 * case().pools[0].requests_per_s)}  # type: ignore[attr-defined]


def test_ray_serve_aims_at_two_unless_a_share_is_given() -> None:
    assert built("ray-serve").targets == {}  # type: ignore[attr-defined]
    shared = built("ray-serve", ("ray_serve.target_ratio=0.5",))
    assert shared.targets == {POOL: pytest.approx(0.5 * case().pools[0].concurrency)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["aibrix-apa", "aibrix-kpa", "keda-tokens", "wva", "dynamo-latency", "dynamo-throughput"]
)
def test_a_full_cache_is_the_whole_one_or_what_the_tested_load_used(name: str) -> None:
    assert built(name).kv_full == {}  # type: ignore[attr-defined]
    tested = built(name, (f"{name.replace('-', '_')}.kv_of_tested=true",))
    # Every request of this trace is alike: it holds its prompt and half of its output.
    held = PROMPT_TOKENS + OUTPUT_TOKENS / 2
    expected = min(1.0, case().pools[0].concurrency * held / SMALL.kv_cache_tokens)
    assert tested.kv_full == {POOL: pytest.approx(expected)}  # type: ignore[attr-defined]


def test_all_but_static_begin_with_the_same_replicas() -> None:
    first = {name: policy_of(name, case())[1] for name in ("hpa", "wva", "dynamo-sla", "last-week", "clairvoyant")}
    assert all(replicas == case().first for replicas in first.values())


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(BadInput, match="no policy is called 'magic'"):
        policy_of("magic", case())
