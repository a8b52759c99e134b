"""Is a live engine, under a caller's clock, the simulator's engine to the last digit, also when the caller is late?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine_profile import EngineProfile
from policies.profile_catalogue import profile_named
from simulations.live.timed_engine import MOST_CATCH_UP_S, FinishReason, TimedEngine, TimedRequest
from tests.builders_fleet import a_batch, a_fleet, a_pool, a_profile

Sent = tuple[float, int, int]  # arrival in seconds, prompt tokens, output tokens


class Heard:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.first_tokens: list[TimedRequest] = []
        self.gaps_s: list[float] = []
        self.steps: list[tuple[float, int, int, int]] = []
        self.endings: list[tuple[TimedRequest, FinishReason, float]] = []

    def first_token(self, request: TimedRequest, at: float) -> None:
        self.first_tokens.append(request)

    def later_token(self, gap_s: float) -> None:
        self.gaps_s.append(gap_s)

    def step_ended(self, took_s: float, prefilled_tokens: int, prompts_done: int, output_tokens: int) -> None:
        self.steps.append((took_s, prefilled_tokens, prompts_done, output_tokens))

    def ended(self, request: TimedRequest, reason: FinishReason, at: float) -> None:
        self.endings.append((request, reason, at))


def lived_through(profile: EngineProfile, sent: list[Sent], late_s: float = 0.0) -> list[TimedRequest]:
    """Send requests to a live engine whose clock ticks on time, or is late by ``late_s`` at each step."""
    engine = TimedEngine(profile, Heard())
    requests = []
    for at, prompt, output in sent:
        while engine.next_at + late_s <= at:
            engine.advance(engine.next_at + late_s)
        requests.append(TimedRequest(prompt, output))
        engine.submit(requests[-1], at)
    while not math.isinf(engine.next_at):
        engine.advance(engine.next_at + late_s)
    return requests


def on_time(engine: TimedEngine, until: float) -> None:
    """Drive the engine as a clock does that is never late."""
    while engine.next_at <= until:
        engine.advance(engine.next_at)


def simulated(profile: EngineProfile, sent: list[Sent]) -> list[tuple[float, float]]:
    """Return when the fleet simulator yields first and last token of each."""
    at, prompt, output = (list(column) for column in zip(*sent, strict=True))
    fleet = a_fleet([a_pool(profile=profile)], [a_batch(at, prompt, output)], request_timeout_s=1e9)
    while not fleet.arrivals_over:
        fleet.advance(fleet.clock.now() + 60.0)
    fleet.finish()
    rows = fleet.outcomes
    return list(zip(rows.first_token_at.tolist(), rows.finished_at.tolist(), strict=True))


def told(requests: list[TimedRequest]) -> list[tuple[float, float]]:
    return [(request.first_token_at, request.last_token_at) for request in requests]


SENT = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=40).map(
    lambda rows: sorted(rows, key=lambda row: row[0])
)


@given(SENT)
def test_first_and_last_tokens_come_when_the_simulator_says(sent: list[Sent]) -> None:
    profile = a_profile(kv_cache_tokens=8000, max_running=16, prefill_per_token_s=1e-5)  # small enough to preempt
    live = lived_through(profile, sent)
    # The simulator works out many steps in one formula: the last digits differ.
    assert np.array(told(live)) == pytest.approx(np.array(simulated(profile, sent)), abs=1e-9, rel=1e-12)
    assert [r.tokens for r in live] == [output for _, _, output in sent]


def test_a_catalogue_profile_has_the_simulators_ttft_and_tpot_exactly() -> None:
    profile = profile_named("llama-3.1-70b-a100-tp4")
    rng = np.random.default_rng(7)
    sent = [(float(at), int(rng.integers(50, 4000)), int(rng.integers(1, 400))) for at in np.cumsum(rng.random(150))]
    live = lived_through(profile, sent)
    # The simulator works out many steps in one formula: the last digits differ.
    assert np.array(told(live)) == pytest.approx(np.array(simulated(profile, sent)), abs=1e-9, rel=1e-12)


@given(SENT, st.floats(0.0, MOST_CATCH_UP_S / 2))
def test_a_late_caller_delays_no_step_beyond_what_it_missed(sent: list[Sent], late_s: float) -> None:
    # Requests that meet an idle engine start a step at their own instant, so a late clock shifts nothing at all.
    profile = a_profile()
    punctual, late = lived_through(profile, sent), lived_through(profile, sent, late_s)
    assert [r.last_token_at for r in late] == [r.last_token_at for r in punctual]


def test_a_process_that_stood_still_goes_on_from_now_and_not_from_the_past() -> None:
    engine = TimedEngine(a_profile(), Heard())
    request = TimedRequest(10, 5)
    engine.submit(request, 0.0)
    engine.advance(100.0)
    assert request.first_token_at == 100.0
    assert engine.next_at == pytest.approx(100.01)
    assert engine.late_s == pytest.approx(100.0, abs=0.1)


def test_each_step_yields_a_token_and_wakes_the_request() -> None:
    engine, woken = TimedEngine(a_profile(), heard := Heard()), []
    request = TimedRequest(10, 3, wake=lambda: woken.append(request.tokens))
    engine.submit(request, 1.0)
    engine.advance(2.0)
    assert woken == [1, 2, 3]
    assert (request.arrived_at, request.admitted_at, request.first_token_at) == (1.0, 1.0, pytest.approx(1.01001))
    assert heard.gaps_s == [pytest.approx(0.01)] * 2
    assert [step[1:] for step in heard.steps] == [(10, 10, 1), (0, 0, 1), (0, 0, 1)]
    assert heard.endings == [(request, "length", pytest.approx(1.03001))]
    assert math.isinf(engine.next_at)


def test_a_slowdown_lengthens_the_steps_that_begin_after_it() -> None:
    engine = TimedEngine(a_profile(), Heard())
    engine.submit(request := TimedRequest(10, 3), 0.0)
    engine.slowdown = 5.0
    engine.advance(1.0)
    assert request.first_token_at == pytest.approx(0.010010)
    assert request.last_token_at == pytest.approx(0.010010 + 2 * 0.05, abs=1e-4)


def test_a_hung_engine_takes_requests_and_yields_nothing_until_it_resumes() -> None:
    engine = TimedEngine(a_profile(), Heard())
    engine.submit(first := TimedRequest(10, 3), 0.0)
    engine.hang(None, 0.001)
    engine.submit(second := TimedRequest(10, 1), 1.0)
    engine.advance(50.0)
    assert (engine.running_requests, engine.queued_requests, first.tokens) == (1, 1, 0)
    engine.abort(first, 51.0)
    assert engine.running_requests == 1  # nobody listens
    engine.resume(60.0)
    engine.advance(61.0)
    assert first.first_token_at == 60.0
    assert first.ended
    assert second.ended


def test_a_hang_can_show_that_nothing_runs() -> None:
    engine = TimedEngine(a_profile(), Heard())
    engine.submit(TimedRequest(10, 30), 0.0)
    engine.hang(0, 0.001)
    engine.submit(TimedRequest(10, 30), 1.0)
    assert (engine.running_requests, engine.queued_requests) == (0, 1)
    engine.resume(2.0)
    assert engine.running_requests == 2


def test_an_idle_engine_that_hangs_starts_nothing() -> None:
    engine = TimedEngine(a_profile(), Heard())
    engine.hang(None, 0.0)
    engine.submit(request := TimedRequest(10, 1), 1.0)
    engine.advance(9.0)
    assert not request.ended
    engine.resume(10.0)
    engine.advance(11.0)
    assert request.last_token_at == pytest.approx(10.01, abs=1e-4)


def test_an_aborted_request_is_told_once_and_leaves_the_batch() -> None:
    engine = TimedEngine(a_profile(), heard := Heard())
    engine.submit(running := TimedRequest(10, 100), 0.0)
    engine.submit(TimedRequest(10, 2), 0.0)
    on_time(engine, 0.035)
    engine.abort(running, 0.035)
    engine.abort(running, 0.036)
    engine.advance(1.0)
    assert [reason for _, reason, _ in heard.endings] == ["length", "abort"]
    assert (running.tokens, engine.running_requests, engine.requests) == (3, 0, 0)


def test_a_request_aborted_in_the_step_that_would_have_ended_it_counts_as_aborted_only() -> None:
    engine = TimedEngine(a_profile(), heard := Heard())
    engine.submit(request := TimedRequest(10, 1), 0.0)
    engine.abort(request, 0.005)
    engine.advance(1.0)
    assert [reason for _, reason, _ in heard.endings] == ["abort"]


def test_a_request_aborted_before_its_admission_frees_its_place_in_the_queue() -> None:
    engine = TimedEngine(a_profile(max_running=1), Heard())
    engine.submit(TimedRequest(10, 50), 0.0)
    engine.submit(waiting := TimedRequest(10, 50), 0.0)
    engine.submit(last := TimedRequest(10, 1), 0.0)
    engine.abort(waiting, 0.1)
    assert engine.queued_requests == 1
    on_time(engine, 5.0)
    assert last.ended
    assert math.isnan(waiting.admitted_at)


def test_with_little_kv_cache_left_requests_preempt_each_other_and_still_all_end() -> None:
    engine = TimedEngine(a_profile(), Heard())
    requests = [TimedRequest(200, 200) for _ in range(20)]
    for request in requests:
        engine.submit(request, 0.0)
    engine.advance(0.1)
    assert engine.preemptions_total == 0
    engine.keep_kv_cache(0.01)  # 1,000 tokens for 20 requests that grow to 400
    engine.advance(1.0)
    assert engine.preemptions_total > 10
    assert engine.kv_cache_ratio > 0.95
    while engine.requests:
        engine.advance(engine.next_at)
    assert all(request.tokens == 200 for request in requests)
    engine.keep_kv_cache(1.0)
    assert engine.kv_cache_ratio == 0.0


def test_the_largest_request_always_has_room_however_little_is_kept() -> None:
    engine = TimedEngine(a_profile(), Heard())
    engine.keep_kv_cache(0.001)
    engine.submit(request := TimedRequest(50_000, 2), 0.0)
    on_time(engine, 5.0)
    assert request.ended
