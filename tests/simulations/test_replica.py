"""Does one engine schedule, time, preempt and account as vLLM V1 does?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.replica import EngineRequest, ReplicaEngine
from tests.builders_fleet import a_profile


def run_steps(engine: ReplicaEngine[EngineRequest], steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        times.append(engine.begin_step())
        engine.end_step()
    return times


TIMED = {
    "decode_base_s": 0.010,
    "decode_per_sequence_s": 0.001,
    "decode_per_kv_token_s": 1e-5,
    "prefill_base_s": 0.005,
    "prefill_per_token_s": 1e-4,
    "prefill_per_token2_s": 1e-8,
    "max_batched_tokens": 100,
}


def test_a_prompt_longer_than_the_budget_is_prefilled_in_chunks_and_attention_is_paid_once() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(**TIMED))
    request = EngineRequest(prompt_tokens=150, output_tokens=3)
    engine.submit(request)

    # 100 tokens: 5 ms + 100 x 0.1 ms + 100^2 x 10 ns = 15.1 ms; no token yet
    assert engine.begin_step() == pytest.approx(0.0151)
    engine.end_step()
    assert engine.first_tokens == []
    # the other 50: 5 ms + 50 x 0.1 ms + (150^2 - 100^2) x 10 ns = 10.125 ms; the first token
    assert engine.begin_step() == pytest.approx(0.010125)
    engine.end_step()
    assert engine.first_tokens == [request]
    # two decodes over 150 and 151 tokens: 10 ms + 1 ms + 150 (151) x 10 us
    assert engine.begin_step() == pytest.approx(0.0125)
    engine.end_step()
    assert (engine.first_tokens, engine.finished) == ([], [])
    assert engine.begin_step() == pytest.approx(0.01251)
    engine.end_step()
    assert engine.finished == [request]
    assert engine.begin_step() == 0.0
    assert engine.free_blocks == engine.total_blocks
    assert (engine.steps_total, engine.prompt_tokens_total, engine.output_tokens_total) == (4, 150, 3)


def test_decodes_take_their_tokens_first_and_prefill_gets_the_rest_of_the_step() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(**TIMED))
    first, second = EngineRequest(50, 10), EngineRequest(120, 2)
    engine.submit(first)
    run_steps(engine, 1)
    engine.submit(second)
    # decode of one sequence over 50 tokens: 1 ms + 0.5 ms; chunk of 99: 9.9 ms + 99^2 x 10 ns; the larger base, 10 ms
    assert engine.begin_step() == pytest.approx(0.010 + 0.001 + 0.0005 + 0.0099 + 99**2 * 1e-8)
    engine.end_step()
    # decode over 51 tokens; the last 21 tokens of the prompt
    assert engine.begin_step() == pytest.approx(0.010 + 0.001 + 0.00051 + 0.0021 + (120**2 - 99**2) * 1e-8)
    engine.end_step()
    assert engine.first_tokens == [second]


def test_a_preempted_sequence_prefills_its_prompt_and_all_that_it_had_generated_again() -> None:
    # Four blocks of four tokens. A: 4 + 10, B: 4 + 6. Both hold 8 tokens after step 5; in step 6 both need a block
    # and none is free, so B, admitted last, gives up its two. It needs 9 tokens = 3 blocks to come back, which are
    # free only when A ends, in step 10. In step 11 B prefills 4 + 5 tokens and that yields its sixth and last token.
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(kv_cache_tokens=16, block_tokens=4))
    a, b = EngineRequest(4, 10), EngineRequest(4, 6)
    engine.submit(a)
    engine.submit(b)
    run_steps(engine, 5)
    assert (engine.running_requests, engine.free_blocks, engine.preemptions_total) == (2, 0, 0)
    run_steps(engine, 1)
    assert (engine.running_requests, engine.queued_requests, engine.free_blocks) == (1, 1, 1)
    assert (engine.preemptions_total, b.generated) == (1, 5)
    run_steps(engine, 3)
    assert engine.queued_requests == 1
    run_steps(engine, 1)
    assert engine.finished == [a]
    run_steps(engine, 1)
    assert (engine.first_tokens, engine.finished) == ([b], [b])
    assert engine.free_blocks == 4
    assert (engine.prompt_tokens_total, engine.output_tokens_total) == (4 + 4 + 9, 16)


def test_the_whole_prompt_must_fit_before_a_request_is_admitted() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(
        a_profile(kv_cache_tokens=160, max_batched_tokens=64, max_running=8)
    )
    engine.submit(EngineRequest(60, 40))  # 4 blocks, growing
    engine.submit(EngineRequest(120, 2))  # 8 blocks do not fit beside it, though its first chunk would
    engine.submit(EngineRequest(16, 2))  # and nobody overtakes
    run_steps(engine, 2)
    assert (engine.running_requests, engine.queued_requests) == (1, 2)


def test_no_more_than_max_running_sequences_are_in_the_batch() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(max_running=3))
    for _ in range(5):
        engine.submit(EngineRequest(10, 10))
    run_steps(engine, 1)
    assert (engine.running_requests, engine.queued_requests) == (3, 2)


def test_a_request_longer_than_the_cache_does_not_fit() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(kv_cache_tokens=64))
    assert engine.fits(EngineRequest(60, 5))
    assert not engine.fits(EngineRequest(60, 6))
    assert not engine.fits(EngineRequest(65, 1))


def test_an_engine_whose_decodes_exceed_the_token_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="max_running 300 exceeds"):
        ReplicaEngine(a_profile(max_running=300, max_batched_tokens=200))


def test_an_aborted_request_leaves_when_the_step_ends_and_frees_its_blocks() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile())
    running, waiting = EngineRequest(100, 50), EngineRequest(100, 50)
    engine.submit(running)
    run_steps(engine, 3)
    engine.submit(waiting)
    engine.abort(waiting)
    assert engine.queued_requests == 0
    engine.begin_step()
    engine.abort(running)
    assert engine.running_requests == 1
    engine.end_step()
    assert (engine.running_requests, engine.free_blocks) == (0, engine.total_blocks)
    assert engine.begin_step() == 0.0


def test_withheld_blocks_count_as_used_and_preempt_what_no_longer_fits() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(kv_cache_tokens=160))
    first, second = EngineRequest(60, 30), EngineRequest(60, 30)
    engine.submit(first)
    engine.submit(second)
    run_steps(engine, 2)
    engine.withhold(6)  # of 10 blocks, 8 of which are held
    engine.begin_step()
    assert (engine.runs(first), engine.runs(second), engine.preemptions_total) == (True, False, 1)
    engine.end_step()
    assert engine.kv_cache_ratio == 1.0
    engine.withhold(0)
    run_steps(engine, 60)
    assert (first.generated, second.generated, engine.free_blocks) == (30, 30, engine.total_blocks)
    with pytest.raises(ValueError, match="11 blocks"):
        engine.withhold(11)


def test_a_request_that_ended_keeps_its_blocks_until_it_is_let_go_if_it_is_to() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(kv_cache_tokens=160))
    kept, other = EngineRequest(60, 1), EngineRequest(100, 1)
    kept.keeps_blocks = True
    engine.submit(kept)
    engine.submit(other)
    run_steps(engine, 1)
    assert (engine.finished, engine.running_requests, engine.free_blocks) == ([kept], 0, 6)
    assert engine.begin_step() == 0.0  # seven blocks are wanted
    engine.let_go(kept)
    run_steps(engine, 1)
    assert (engine.finished, engine.free_blocks) == ([other], engine.total_blocks)


def test_a_request_aborted_in_its_last_step_keeps_nothing() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile())
    request = EngineRequest(60, 1)
    request.keeps_blocks = True
    engine.submit(request)
    engine.begin_step()
    engine.abort(request)
    engine.end_step()
    assert (engine.finished, engine.free_blocks) == ([request], engine.total_blocks)


def test_generated_tokens_are_known_while_a_request_runs_waits_and_after_it_ended() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile())
    request = EngineRequest(100, 3)
    engine.submit(request)
    seen = [engine.generated_by(request)]
    for _ in range(3):
        run_steps(engine, 1)
        seen.append(engine.generated_by(request))
    assert seen == [0, 1, 2, 3]


def prefilled(prompt_tokens: int, output_tokens: int) -> EngineRequest:
    request = EngineRequest(prompt_tokens, output_tokens)
    request.come_prefilled()
    return request


def test_what_was_prefilled_elsewhere_decodes_at_once_and_costs_no_prefill() -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(**TIMED))
    request = prefilled(150, 3)
    engine.submit(request)
    # 10 ms + 1 ms + 150 (151) x 10 us, and no step for the prompt: its first token came with it
    assert run_steps(engine, 2) == pytest.approx([0.0125, 0.01251])
    assert (engine.finished, engine.first_tokens) == ([request], [])
    assert (engine.prompt_tokens_total, engine.output_tokens_total) == (0, 2)
    assert engine.free_blocks == engine.total_blocks


def test_what_was_prefilled_elsewhere_waits_its_turn_for_blocks_and_is_prefilled_here_when_preempted() -> None:
    # Four blocks of four tokens. A holds 8 tokens + 1: three blocks. B, 4 tokens + 1, needs two and waits until A ends.
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(a_profile(kv_cache_tokens=16, block_tokens=4))
    a, b = prefilled(8, 4), prefilled(4, 6)
    engine.submit(a)
    engine.submit(b)
    run_steps(engine, 3)
    assert (engine.finished, engine.queued_requests) == ([a], 1)
    run_steps(engine, 1)
    assert (engine.running_requests, engine.generated_by(b)) == (1, 2)

    # C takes the two blocks that are left; both need another when they hold 8 tokens, and C, the last, gives way.
    c = prefilled(4, 6)
    engine.submit(c)
    run_steps(engine, 1)
    assert engine.free_blocks == 0
    run_steps(engine, 10)
    assert engine.preemptions_total == 1
    assert (engine.prompt_tokens_total > 4, engine.running_requests, engine.queued_requests) == (True, 0, 0)
    assert engine.free_blocks == engine.total_blocks
    assert engine.generated_by(c) == 6


@given(
    arriving=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 60), st.integers(2, 30), st.booleans()), min_size=1, max_size=20
    )
)
def test_requests_from_elsewhere_and_others_share_an_engine_and_nothing_is_lost(
    arriving: list[tuple[int, int, int, bool]],
) -> None:
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(
        a_profile(kv_cache_tokens=160, block_tokens=4, max_batched_tokens=24, max_running=6)
    )
    requests = [
        prefilled(prompt, output) if elsewhere else EngineRequest(prompt, output)
        for _, prompt, output, elsewhere in sorted(arriving)
    ]
    waiting = [request for request in requests if engine.fits(request)]
    ended: list[EngineRequest] = []
    for request in waiting:
        engine.submit(request)
    for _ in range(3000):
        if not engine.begin_step():
            break
        held = sum(
            -(-(r.prefilled if r.ends_at_step < 0 else engine.steps_total + 1 - r.lead) // 4) for r in engine._running
        )
        assert engine.total_blocks - engine.free_blocks == held
        engine.end_step()
        ended += engine.finished
    assert sorted(map(id, ended)) == sorted(map(id, waiting))
    assert engine.free_blocks == engine.total_blocks
