"""Is a memory the same after it was written and read?"""

from __future__ import annotations

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policies.fleet import PoolKey
from policies.healing_memory import ActionMemory, CordonMemory, RunMemory, StepMemory
from policies.memory import (
    AnswerMemory,
    FailureMemory,
    ModelMemory,
    PolicyMemory,
    PoolMemory,
    ReplicaMemory,
    RevisionMemory,
)
from tests.builders import KEY, MODEL, OTHER

often = hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEYS = (KEY, OTHER, PoolKey(MODEL, "c"), PoolKey("n", "z"))

finite = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.one_of(st.none(), finite)
total = st.one_of(st.none(), st.floats(0.0, allow_infinity=False))
words = st.text(max_size=12)
counted = st.lists(st.tuples(finite, st.integers(0, 10**6)), max_size=4).map(tuple)
answers = st.one_of(
    st.none(),
    st.builds(
        AnswerMemory,
        *[st.floats(0.0, allow_infinity=False)] * 2,
        finite,
        maybe,
        *[st.floats(0.0, allow_infinity=False)] * 2,
        st.lists(finite, max_size=4).map(tuple),
    ),
)
memories = st.builds(
    PolicyMemory,
    st.integers(0, 2**53),
    st.dictionaries(
        st.sampled_from([str(key) for key in KEYS]),
        st.builds(
            PoolMemory,
            counted,
            counted,
            st.lists(st.floats(0.0, exclude_min=True, allow_infinity=False), max_size=4).map(tuple),
            st.lists(words, max_size=4).map(tuple),
            maybe,
            maybe,
            revisions=st.dictionaries(
                words, st.builds(RevisionMemory, finite, st.floats(0.0, 1e9), finite, maybe), max_size=2
            ),
            failures=st.lists(
                st.builds(FailureMemory, finite, words, words, words, words, words, st.booleans()), max_size=3
            ).map(tuple),
            restarts=st.dictionaries(words, st.integers(0, 99), max_size=2),
            signs=st.dictionaries(words, st.lists(finite, max_size=4).map(tuple), max_size=2),
            served_at=maybe,
            given=st.dictionaries(words, finite, max_size=2),
        ),
        max_size=3,
    ),
    st.dictionaries(
        words,
        st.builds(
            ModelMemory,
            st.floats(-0.99, 9.0),
            maybe,
            total,
            maybe,
            st.lists(st.tuples(finite, st.floats(0.0, 1e9), st.floats(0.0, 1e9)), max_size=3).map(tuple),
            maybe,
        ),
        max_size=3,
    ),
    st.dictionaries(
        words,
        st.builds(
            ReplicaMemory,
            words,
            steps_total=total,
            prompt_tokens_total=total,
            output_tokens_total=total,
            in_flight=total,
            observed_at=finite,
            stepped_at=finite,
            busy=st.booleans(),
            prompt_tokens_per_s=total,
            output_tokens_per_s=total,
            slow_at=st.lists(finite, max_size=4).map(tuple),
            answered_total=total,
            answered_at=maybe,
            fell_at=maybe,
            by_gateway=answers,
            by_itself=answers,
            preemptions_total=total,
            aborted_total=total,
            unreached_total=total,
            preempted=total,
            aborted=total,
            unreached=total,
            unreached_at=maybe,
            tpot_s=total,
            tpot_at=maybe,
        ),
        max_size=3,
    ),
    st.lists(
        st.builds(ActionMemory, words, words, words, words, finite, finite, st.booleans(), st.booleans(), words),
        max_size=3,
    ).map(tuple),
    st.dictionaries(words, st.builds(CordonMemory, finite, words, words, total, total, st.booleans()), max_size=3),
    st.dictionaries(words, finite, max_size=3),
    maybe,
    runs=st.dictionaries(
        words,
        st.builds(
            RunMemory, words, words, words, words, st.sampled_from([str(key) for key in KEYS]), words, words, finite,
            finite, words, st.sampled_from(("running", "closing", "undoing", "resolved", "failed")), maybe, words,
            st.dictionaries(words, st.builds(StepMemory, finite, maybe, st.integers(0, 9)), max_size=3),
            st.lists(words, max_size=2).map(tuple),
        ),
        max_size=2,
    ),
)  # fmt: skip


@often
@given(memories)
def test_every_memory_survives_its_json_form(memory: PolicyMemory) -> None:
    assert PolicyMemory.from_json(memory.to_json()) == memory
