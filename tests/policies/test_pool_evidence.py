"""Does each sign of a whole pool show where it should, only there, only when it lasts, and never for want of data?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policies.fleet import NodeState, Phase, PoolState, ReplicaState
from tests.builders import AT, demand, pool
from tests.builders_evidence import LOOK_S, Examiner, alike, of_pool, said_of, working

LONG_S = 300.0
"""By then whatever shows all the time has shown often enough, whatever the k-of-n rule is."""

Shown = Callable[[float], Sequence[ReplicaState] | PoolState]


def steady(after_s: float) -> list[ReplicaState]:
    return alike(6, after_s)


def overloaded(after_s: float) -> list[ReplicaState]:
    """Ten times as many requests wait as run, at all replicas alike, and tokens flow."""
    return alike(6, after_s, running_requests=20.0, queued_requests=200.0)


def storming(after_s: float) -> list[ReplicaState]:
    """The KV cache is full, and every running request is preempted once per look."""
    lost = 20.0 * after_s / LOOK_S
    return alike(6, after_s, running_requests=20.0, kv_cache_ratio=1.0, preemptions_total=lost)


def unreached(after_s: float) -> list[ReplicaState]:
    """Nothing is answered any more, all that is sent finds no connection, and the engines are idle and well."""
    return alike(
        6, after_s, unreached_requests_total=10.0 * after_s, answered_requests_total=100.0, in_flight_requests=0.0,
        running_requests=0.0, steps_total=1000.0, output_tokens_total=2e4, prompt_tokens_total=1e5,
    )  # fmt: skip


def unseen(after_s: float) -> list[ReplicaState]:
    """No engine has metrics, the platform finds all of them READY, and the gateway sees them answer."""
    return alike(6, after_s, metrics=None)


def renamed(after_s: float) -> list[ReplicaState]:
    """No engine tells its queue any more."""
    return alike(6, after_s, queued_requests=math.nan)


def given_up(after_s: float) -> list[ReplicaState]:
    """Two of three requests are given up by their clients."""
    return alike(6, after_s, aborted_requests_total=after_s)


def usual_then(times: float) -> Callable[[float], Any]:
    return lambda after_s: {"m": demand(8.0 * (times if after_s > 1800.0 else 1.0))}


SIGNS: dict[str, tuple[Shown, dict[str, Any]]] = {
    "overload": (overloaded, {}),
    "preemption-storm": (storming, {}),
    "unreachable": (unreached, {}),
    "metrics-lost": (unseen, {}),
}


@pytest.mark.parametrize("cause", sorted(SIGNS))
def test_a_sign_that_lasts_is_believed(cause: str) -> None:
    shown, more = SIGNS[cause]
    assert of_pool(Examiner().over(LONG_S, shown, **more)) == {cause}


@pytest.mark.parametrize("cause", sorted(SIGNS))
def test_a_sign_at_one_look_is_not_believed(cause: str) -> None:
    shown, more = SIGNS[cause]
    examiner = Examiner()
    examiner.over(LONG_S, steady)
    assert of_pool(examiner.over(LONG_S + LOOK_S, shown, **more)) == set()


@pytest.mark.parametrize("cause", sorted(SIGNS))
def test_a_sign_that_is_over_is_not_believed_for_long(cause: str) -> None:
    shown, more = SIGNS[cause]
    examiner = Examiner()
    examiner.over(LONG_S, shown, **more)

    def after(after_s: float) -> Sequence[ReplicaState]:
        """Goes on from the counters that it had; what was unreached or preempted grows no more."""
        last = shown(LONG_S)
        replicas = last.replicas if isinstance(last, PoolState) else last
        kept = {"unreached_requests_total": replicas[0].unreached_requests_total}
        if replicas[0].metrics is not None:
            kept["preemptions_total"] = replicas[0].metrics.preemptions_total
        return alike(6, after_s, **kept)

    assert of_pool(examiner.over(2 * LONG_S, after)) == set()


@pytest.mark.parametrize("cause", sorted(SIGNS))
def test_it_is_dated_from_when_it_was_first_seen(cause: str) -> None:
    shown, more = SIGNS[cause]
    examiner = Examiner()
    examiner.over(LONG_S, steady)
    found = examiner.over(LONG_S + 120.0, shown, **more)
    began = set(said_of(found).values())
    assert of_pool(found) == {cause}
    assert all(LONG_S < since_s <= LONG_S + 75.0 for since_s in began)


@pytest.mark.parametrize("cause", sorted(SIGNS))
def test_two_kinds_of_witnesses_speak_for_a_sign_with_figures(cause: str) -> None:
    shown, more = SIGNS[cause]
    found = Examiner().over(LONG_S, shown, **more)
    diagnosis = next(d for d in found.diagnoses if d.name == cause)
    assert len(diagnosis.families) >= 2
    assert any(character.isdigit() for character in diagnosis.sentence)


def test_a_pool_that_works_or_idles_shows_nothing() -> None:
    assert Examiner().over(LONG_S, steady).diagnoses == ()
    still: dict[str, Any] = {
        "running_requests": 0.0, "steps_total": 1000.0, "output_tokens_total": 2e4, "prompt_tokens_total": 1e5,
        "in_flight_requests": 0.0, "answered_requests_total": 100.0,
    }  # fmt: skip
    assert Examiner().over(LONG_S, lambda after_s: alike(6, after_s, **still), requests_per_s=0.0).diagnoses == ()


def test_a_queue_at_one_replica_is_no_overload() -> None:
    def shown(after_s: float) -> list[ReplicaState]:
        return [working("a0", after_s, queued_requests=500.0), *alike(6, after_s)[1:]]

    assert of_pool(Examiner().over(LONG_S, shown)) == set()


def test_queues_while_no_tokens_flow_are_no_overload() -> None:
    def shown(after_s: float) -> list[ReplicaState]:
        return alike(6, after_s, queued_requests=500.0, output_tokens_total=2e4, steps_total=1000.0)

    assert "overload" not in of_pool(Examiner().over(LONG_S, shown))


def test_a_full_cache_without_preemptions_is_no_storm_nor_are_preemptions_now_and_then() -> None:
    full = Examiner().over(LONG_S, lambda after_s: alike(6, after_s, kv_cache_ratio=1.0))
    rare = Examiner().over(LONG_S, lambda t: alike(6, t, kv_cache_ratio=1.0, preemptions_total=float(t > 150.0)))
    room = Examiner().over(LONG_S, lambda t: alike(6, t, kv_cache_ratio=0.5, preemptions_total=20.0 * t))
    assert [of_pool(each) for each in (full, rare, room)] == [set(), set(), set()]


def test_a_few_requests_without_a_connection_are_no_partition() -> None:
    found = Examiner().over(LONG_S, lambda after_s: alike(6, after_s, unreached_requests_total=after_s / 60.0))
    assert of_pool(found) == set()


@pytest.mark.parametrize(("cut_off", "believed_of_the_pool"), [(1, False), (3, False), (4, True), (6, True)])
def test_the_way_to_a_pool_is_cut_where_most_of_its_replicas_are_not_reached(
    cut_off: int, believed_of_the_pool: bool
) -> None:
    """However few they are, they get most of the requests: nothing is in flight there."""

    def shown(after_s: float) -> list[ReplicaState]:
        return [*unreached(after_s)[:cut_off], *alike(6, after_s, answered_requests_total=100.0)[cut_off:]]

    assert ("unreachable" in of_pool(Examiner().over(LONG_S, shown))) is believed_of_the_pool


def test_metrics_of_what_has_just_started_are_not_missed() -> None:
    def shown(after_s: float) -> list[ReplicaState]:
        return alike(6, after_s, metrics=None, since_at=AT + after_s - 20.0, answered_requests_total=math.nan)

    assert of_pool(Examiner().over(LONG_S, shown)) == set()


def test_a_metric_that_no_engine_tells_any_more_is_one_that_was_renamed() -> None:
    assert of_pool(Examiner().over(LONG_S, renamed)) == {"metrics-lost"}


def test_one_replica_without_metrics_is_not_the_pools_trouble() -> None:
    def shown(after_s: float) -> list[ReplicaState]:
        return [working("a0", after_s, metrics=None), *alike(6, after_s)[1:]]

    assert of_pool(Examiner().over(LONG_S, shown)) == set()


# nodes


def on_nodes(bad: NodeState | None = None) -> Any:
    sound = NodeState(ready=True, since_at=AT - 9e3)
    return {"n0": bad or sound, "n1": sound}


def placed(after_s: float) -> list[ReplicaState]:
    return [working(f"a{place}", after_s, node=f"n{place % 2}") for place in range(6)]


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (NodeState(ready=False, since_at=AT), {"node-trouble"}),
        (NodeState(ready=True, since_at=AT, leaving=True), {"node-trouble"}),
        (NodeState(ready=True, since_at=AT, avoided=True), set()),
        (None, set()),
    ],
)
def test_the_platforms_word_on_a_node_is_enough(bad: NodeState | None, found: set[str]) -> None:
    seen = Examiner().over(0.0, placed, nodes=on_nodes(bad))
    assert of_pool(seen) == found


def test_a_bad_node_without_our_replicas_is_nobodys_trouble() -> None:
    seen = Examiner().over(0.0, steady, nodes=on_nodes(NodeState(ready=False, since_at=AT)))
    assert of_pool(seen) == set()


def gone_at(gone_s: float, left: int) -> Callable[[float], list[ReplicaState]]:
    """Six replicas on two nodes; from an instant on only those on the first ``left`` nodes, and new ones elsewhere."""

    def there(after_s: float) -> list[ReplicaState]:
        if after_s < gone_s:
            return placed(after_s)
        old = [each for each in placed(after_s) if int(each.node[1:]) < left]
        new = [working(f"b{i}", after_s, phase=Phase.LOADING, node="n2") for i in range(6 - len(old))]
        return old + new

    return there


def nodes_until(gone_s: float, name: str) -> Callable[[float], Any]:
    return lambda after_s: {k: v for k, v in on_nodes().items() if after_s < gone_s or k != name}


def test_a_node_that_is_gone_with_its_replicas_before_anybody_looked_is_told() -> None:
    examiner = Examiner()
    assert of_pool(examiner.over(45.0, placed, nodes=on_nodes())) == set()
    there, nodes = gone_at(60.0, 1), nodes_until(60.0, "n1")
    found = examiner.over(60.0, there, nodes=nodes)
    assert of_pool(found) == {"node-trouble"}
    assert "gone: n1 (3 of its replicas)" in next(d.sentence for d in found.diagnoses if d.name == "node-trouble")
    assert of_pool(examiner.over(120.0, there, nodes=nodes)) == {"node-trouble"}
    assert of_pool(examiner.over(400.0, there, nodes=nodes)) == set()


def test_a_node_that_goes_when_nothing_is_left_on_it_is_nobodys_trouble() -> None:
    def emptied(after_s: float) -> list[ReplicaState]:
        drains = [replace(each, phase=Phase.DRAINING) if each.node == "n1" else each for each in placed(after_s)]
        return drains if after_s < 60.0 else [each for each in drains if each.node == "n0"]

    examiner = Examiner()
    examiner.over(15.0, placed, nodes=on_nodes())
    assert of_pool(examiner.over(120.0, emptied, nodes=nodes_until(60.0, "n1"))) == set()


def test_a_node_that_the_platform_leaves_out_while_its_replicas_are_listed_is_not_gone() -> None:
    examiner = Examiner()
    examiner.over(45.0, placed, nodes=on_nodes())
    assert of_pool(examiner.over(120.0, placed, nodes=nodes_until(60.0, "n1"))) == set()


def test_a_platform_that_tells_of_no_nodes_any_more_has_lost_none() -> None:
    examiner = Examiner()
    examiner.over(45.0, placed, nodes=on_nodes())
    assert of_pool(examiner.over(120.0, gone_at(60.0, 1), nodes={})) == set()


def test_a_node_that_leaves_is_told_by_what_was_on_it_a_look_ago() -> None:
    def leaving(after_s: float) -> Any:
        away = after_s >= 60.0
        return on_nodes(NodeState(ready=True, since_at=AT, leaving=True)) if away else on_nodes()

    def left(after_s: float) -> list[ReplicaState]:
        return [each for each in placed(after_s) if after_s < 60.0 or each.node == "n1"]

    examiner = Examiner()
    examiner.over(45.0, left, nodes=leaving)
    assert of_pool(examiner.over(60.0, left, nodes=leaving)) == {"node-trouble"}


# retries


def test_more_load_than_usual_of_requests_that_are_given_up_is_a_retry_storm() -> None:
    examiner = Examiner()
    examiner.over(1800.0, steady, demand=usual_then(3.0))

    def stormy(after_s: float) -> list[ReplicaState]:
        return alike(6, after_s, aborted_requests_total=2.0 * (after_s - 1800.0))

    assert of_pool(examiner.over(2100.0, stormy, demand=usual_then(3.0))) == {"retry-storm"}


@pytest.mark.parametrize(("times", "shown"), [(3.0, steady), (1.0, given_up)])
def test_neither_more_load_nor_requests_that_are_given_up_alone_are_one(times: float, shown: Shown) -> None:
    examiner = Examiner()
    examiner.over(1800.0, steady, demand=usual_then(times))
    assert "retry-storm" not in of_pool(examiner.over(2100.0, shown, demand=usual_then(times)))


def test_what_is_usual_is_not_learned_while_something_is_wrong() -> None:
    examiner = Examiner()
    examiner.over(1800.0, steady, demand=usual_then(3.0))
    usual = examiner.memory.models["m"].usual_per_s
    examiner.over(3600.0, overloaded, demand=usual_then(3.0))
    assert examiner.memory.models["m"].usual_per_s == pytest.approx(usual, rel=0.1)  # a few looks before it shows
    examiner.over(9000.0, steady, demand=usual_then(3.0))
    assert (examiner.memory.models["m"].usual_per_s or 0.0) > 2.0 * (usual or 0.0)


# missing data


NANS = st.sets(
    st.sampled_from(
        [
            "running_requests", "queued_requests", "kv_cache_ratio", "steps_total", "output_tokens_total",
            "prompt_tokens_total", "tpot_mean_s", "preemptions_total", "aborted_requests_total",
            "answered_requests_total", "failed_answers_total", "unreached_requests_total", "in_flight_requests",
            "metrics",
        ]
    )
)  # fmt: skip


@given(missing=st.lists(NANS, min_size=6, max_size=6), blank=st.booleans(), alike_all=st.booleans())
@hypothesis_settings(max_examples=40, deadline=None)
def test_missing_data_alone_is_never_a_sign_of_anything_but_of_missing_metrics(
    missing: list[set[str]], blank: bool, alike_all: bool
) -> None:
    """A fleet that works, of which any figures at all are not told, from the first look or from one on."""

    def shown(after_s: float) -> list[ReplicaState]:
        replicas = []
        for place, names in enumerate([missing[0]] * 6 if alike_all else missing):
            gone = names if blank or after_s > 150.0 else set()
            changes: dict[str, Any] = {name: math.nan for name in gone if name != "metrics"}
            if "metrics" in gone:
                changes = {name: value for name, value in changes.items() if name.endswith("_requests_total")}
                changes = {name: v for name, v in changes.items() if name[:4] in ("answ", "unre")}
                changes["metrics"] = None
            replicas.append(working(f"a{place}", after_s, **changes))
        return replicas

    examiner = Examiner()
    for until_s in (150.0, 165.0, 225.0, 300.0, 450.0):
        found = examiner.over(until_s, shown, requests_per_s=None if blank else 8.0)
        assert of_pool(found) <= {"metrics-lost"}
        assert {d.name for d in found.diagnoses if d.subject} <= {"exporter-frozen", "unknown"}


def test_a_starting_pool_shows_nothing() -> None:
    def shown(after_s: float) -> PoolState:
        starting = [working(f"a{i}", after_s, phase=Phase.LOADING, requested_at=AT, since_at=AT) for i in range(4)]
        return replace(pool(starting), weight=1.0)

    assert Examiner().over(60.0, shown).diagnoses == ()
