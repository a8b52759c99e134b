"""How long may an engine stand still and be well: never less than is asked for, and longer for long steps alone?"""

from __future__ import annotations

import pytest

from policies.patience import longest_step_s, one_prompt_s, patience_s
from tests.builders import KEY, OTHER, a_profile, demand, fleet, pool, pool_settings

LEAST_S = 45.0


def test_the_longest_step_prefills_what_one_step_can_of_a_long_prompt() -> None:
    """20 ms and 0.1 ms a token: a prompt four times the mean of 1000, or as much as a step takes."""
    assert longest_step_s(a_profile(max_batched_tokens=131_072), 1000.0) == pytest.approx(0.42)
    assert longest_step_s(a_profile(max_batched_tokens=2048), 1000.0) == pytest.approx(0.2248)


def one_prompt(prompt: float, output: float = 200.0, **profile: float) -> float:
    state = fleet(pool(), demand={"m": demand(8.0, prompt, output)})
    return one_prompt_s(state, {str(KEY): pool_settings(**profile)}).get(str(KEY), 0.0)


def test_one_prompt_adds_the_time_of_its_prefill_to_the_tokens_decoded_meanwhile() -> None:
    """20 ms and 0.1 ms a token: 0.12 s for 1000, over 200 output tokens."""
    assert one_prompt(1000.0) == pytest.approx(0.12 / 200.0)
    assert one_prompt(1000.0, 50.0) == pytest.approx(0.12 / 50.0)
    chunked, whole = one_prompt(4096.0, max_batched_tokens=1024), one_prompt(4096.0, max_batched_tokens=8192)
    assert chunked - whole == pytest.approx(3 * 0.02 / 200.0)  # three more steps, each with its base


def test_without_a_load_or_a_profile_one_prompt_adds_nothing_that_is_known() -> None:
    assert one_prompt_s(fleet(pool(), requests_per_s=None), {str(KEY): pool_settings()}) == {}
    assert one_prompt_s(fleet(pool(), demand={"m": demand(0.0)}), {str(KEY): pool_settings()}) == {}
    assert one_prompt_s(fleet(pool()), {}) == {}


def patience(prompt: float, batched: int = 131_072, **changes: object) -> float:
    state = fleet(pool(), demand={"m": demand(8.0, prompt)}, **changes)
    slow = pool_settings(max_batched_tokens=batched, prefill_per_token_s=1e-3)
    return patience_s(state, {str(KEY): slow}, LEAST_S)[str(KEY)]


def test_short_steps_leave_it_as_it_is() -> None:
    assert patience(1000.0) == LEAST_S


def test_long_steps_lengthen_it_and_chunked_ones_do_not() -> None:
    assert patience(200_000.0) > LEAST_S
    assert patience(200_000.0, batched=8192) == LEAST_S
    assert patience(400_000.0) >= patience(200_000.0)


def test_what_is_not_known_is_the_least() -> None:
    idle = fleet(pool(), pool(key=OTHER), requests_per_s=None)
    found = patience_s(idle, {str(KEY): pool_settings(max_batched_tokens=131_072)}, LEAST_S)
    assert found == {str(KEY): LEAST_S, str(OTHER): LEAST_S}
    still = fleet(pool(), demand={"m": demand(0.0)})
    assert patience_s(still, {str(KEY): pool_settings()}, LEAST_S) == {str(KEY): LEAST_S}
