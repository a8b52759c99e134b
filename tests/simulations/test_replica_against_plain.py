"""Does counting give the same engine as looking at each sequence, each block and each unit in each step?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.engine_profile import EngineProfile
from simulations.replica import EngineRequest, ReplicaEngine
from tests.builders_fleet import a_profile
from tests.reference.plain_engine import PlainEngine, Sequence

TIMED = {
    "decode_base_s": 0.010,
    "decode_per_sequence_s": 0.001,
    "decode_per_kv_token_s": 1e-5,
    "prefill_base_s": 0.005,
    "prefill_per_token_s": 1e-4,
    "prefill_per_token2_s": 1e-8,
}

PREFIXES = st.lists(st.integers(0, 1), max_size=5).map(
    lambda turns: tuple(hash(tuple(turns[: n + 1])) for n in range(len(turns)))
)


@dataclass(frozen=True)
class Coming:
    """A request that comes before step ``at``: with hashes, from elsewhere, to be aborted or kept, all or nothing."""

    at: int
    prompt: int
    output: int
    hashes: tuple[int, ...]
    from_elsewhere: bool
    aborted_at: int
    kept_for: int


@st.composite
def worlds(draw: st.DrawFn) -> tuple[EngineProfile, int, list[Coming]]:
    block_tokens = draw(st.sampled_from([1, 3, 4, 16]))
    blocks = draw(st.integers(4, 40))
    capacity = block_tokens * blocks
    max_running = draw(st.integers(1, 12))
    profile = a_profile(
        **{
            **TIMED,
            "block_tokens": block_tokens,
            "kv_cache_tokens": capacity,
            "max_running": max_running,
            "max_batched_tokens": draw(st.integers(max_running, 60)),
            "prefix_cache": draw(st.sampled_from(["off", "lru", "lfu"])),
        }
    )
    lengths = st.integers(1, max(1, capacity // 2))
    rarely = st.one_of(st.just(0), st.just(0), st.integers(1, 20))
    requests = draw(
        st.lists(
            st.builds(Coming, st.integers(0, 40), lengths, lengths, PREFIXES, st.booleans(), rarely, rarely),
            min_size=1,
            max_size=14,
        )
    )
    unit_tokens = block_tokens * draw(st.sampled_from([0, 1, 1, 2, 3]))
    return profile, unit_tokens, sorted(requests, key=lambda request: request.at)


class Both:
    """The same requests in both engines."""

    def __init__(self, profile: EngineProfile, unit_tokens: int) -> None:
        self.engine: ReplicaEngine[EngineRequest] = ReplicaEngine(profile, unit_tokens)
        self.plain = PlainEngine(profile, unit_tokens)
        self.requests: list[EngineRequest] = []
        self.sequences: list[Sequence] = []

    def submit(self, coming: Coming) -> None:
        request = EngineRequest(coming.prompt, coming.output, coming.hashes)
        sequence = Sequence(len(self.sequences), coming.prompt, coming.output, coming.hashes)
        if coming.from_elsewhere and coming.output > 1:
            request.come_prefilled()
            sequence.come_prefilled()
        request.keeps_blocks = sequence.keeps_blocks = coming.kept_for > 0
        self.requests.append(request)
        self.sequences.append(sequence)
        self.engine.submit(request)
        self.plain.submit(sequence)

    def step(self, aborted: Iterable[int]) -> list[int]:
        """Do a step, abort these while it goes on, and return who ended in it in order of admission."""
        seconds = self.engine.begin_step()
        assert seconds == pytest.approx(self.plain.begin_step())
        assert 0 <= self.engine.free_blocks <= self.engine.total_blocks
        for name in aborted:
            self.engine.abort(self.requests[name])
            self.plain.abort(self.sequences[name])
        if not seconds:
            return []
        self.engine.end_step()
        self.plain.end_step()
        first_tokens = [self.requests.index(request) for request in self.engine.first_tokens]
        assert first_tokens == [each.name for each in self.plain.first_tokens]
        ended = [self.requests.index(request) for request in self.engine.finished]
        assert ended == [each.name for each in self.plain.finished]
        return ended

    def let_go(self, name: int) -> None:
        self.engine.let_go(self.requests[name])
        self.plain.let_go(self.sequences[name])

    def assert_same(self) -> None:
        engine, plain = self.engine, self.plain
        assert engine.free_blocks == plain.free
        assert (engine.running_requests, engine.queued_requests) == (len(plain.running), len(plain.waiting))
        for figure in ("steps", "prompt_tokens", "output_tokens", "preemptions", "looked_up_tokens", "cached_tokens"):
            assert getattr(engine, f"{figure}_total") == getattr(plain, f"{figure}_total"), figure
        if plain.prefixes is not None:
            assert engine._prefixes is not None
            assert engine._prefixes.idle == len(plain.prefixes.idle)
            assert set(engine._prefixes._units) == set(plain.prefixes.units)


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_counting_gives_the_same_schedule_as_looking_at_each_sequence(
    world: tuple[EngineProfile, int, list[Coming]],
) -> None:
    profile, unit_tokens, coming = world
    both = Both(profile, unit_tokens)
    open_names: set[int] = set()
    let_go_at: dict[int, int] = {}
    for step in range(10_000):
        while len(both.requests) < len(coming) and coming[len(both.requests)].at <= step:
            open_names.add(len(both.requests))
            both.submit(coming[len(both.requests)])
        for name in [name for name, at in let_go_at.items() if at == step]:
            both.let_go(name)
            del let_go_at[name]
        aborted = [
            n for n in sorted(open_names) if coming[n].aborted_at and step == coming[n].at + coming[n].aborted_at
        ]
        ended = both.step(aborted)
        let_go_at |= {n: step + coming[n].kept_for for n in ended if coming[n].kept_for and n not in aborted}
        open_names -= {*ended, *aborted}
        both.assert_same()
        if len(both.requests) == len(coming) and not open_names and not let_go_at:
            break
    assert not open_names
    assert both.engine.free_blocks == both.engine.total_blocks
    assert not both.plain.prefixes or not both.plain.prefixes.used
