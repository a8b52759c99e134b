"""Is a GPU at fault told by what its engines do after an Xid, on that node, for a while; never by a harmless code?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from policies.examination import Examination
from policies.fleet import NodeState, Phase, ReplicaState
from policies.gpu_faults import KEPT_S, MOST_NODES, with_reports
from policies.healing_memory import XidMemory
from tests.builders import AT, fleet, pool
from tests.builders_evidence import Examiner, believed, of_pool, said_of, working

XID_S, EXIT_S = 300.0, 330.0
NODES = ("n0", "n1", "n2")
SOUND = NodeState(ready=True, since_at=AT - 9e3, xid=0.0)

Shown = Callable[[float], list[ReplicaState]]


def placed(after_s: float, **first: Any) -> list[ReplicaState]:
    """Nine replicas on three nodes; ``a0``, on the first, is as told."""
    rest = [working(f"a{i}", after_s, node=NODES[i % 3]) for i in range(1, 9)]
    return [working("a0", after_s, **{"node": "n0", **first}), *rest]


def nodes(code: float, since_s: float = XID_S) -> Callable[[float], dict[str, NodeState]]:
    """The first node tells a code from an instant on."""
    return lambda t: {n: replace(SOUND, xid=code if n == "n0" and t >= since_s else 0.0) for n in NODES}


def down(since_s: float = EXIT_S, **changes: Any) -> dict[str, Any]:
    at = AT + since_s
    return {"phase": Phase.FAILED, "since_at": at, "requested_at": at, "restarts": 1, "exit_reason": "Error", **changes}


def exits(after_s: float) -> list[ReplicaState]:
    return placed(after_s, **(down() if after_s >= EXIT_S else {}))


def hangs(after_s: float) -> list[ReplicaState]:
    since_s = min(after_s, EXIT_S)
    stopped = {name: getattr(working("a0", since_s).metrics, name) for name in
               ("steps_total", "output_tokens_total", "prompt_tokens_total", "finished_requests_total")}  # fmt: skip
    return placed(after_s, answered_requests_total=100.0 + since_s / 2.0, **stopped)


def slow(after_s: float) -> list[ReplicaState]:
    rest = [replace(r, metrics=replace(r.metrics, tpot_mean_s=0.05)) for r in placed(after_s)[1:] if r.metrics]
    return [working("a0", after_s, node="n0", tpot_mean_s=0.25 if after_s >= EXIT_S else 0.05), *rest]


def of_a0(shown: Shown, code: float, until_s: float = EXIT_S + 300.0) -> set[str]:
    found = Examiner().over(until_s, shown, nodes=nodes(code))
    assert not of_pool(found)
    assert {subject for _, subject in believed(found)} <= {"a0", "a3", "a6"}, "somebody on another node"
    return {name for name, subject in believed(found) if subject == "a0"}


@pytest.mark.parametrize("shown", [exits, hangs, slow])
@pytest.mark.parametrize("code", [79, 119, 54])
def test_what_fails_on_a_gpu_that_needs_more_than_a_restart_is_put_down_to_it(shown: Shown, code: int) -> None:
    assert of_a0(shown, code) == {"hardware"}


@pytest.mark.parametrize(("shown", "name"), [(exits, "exited"), (hangs, "hang"), (slow, "straggler")])
@pytest.mark.parametrize("code", [0, 13, 31, 43, 63, 92, 94, 45, 999])
def test_any_other_code_leaves_it_what_it_is(shown: Shown, name: str, code: int) -> None:
    assert of_a0(shown, code) == {name}


@pytest.mark.parametrize("code", [0, 13, 43, 63, 92, 999])
def test_a_harmless_code_alone_is_evidence_of_nothing(code: int) -> None:
    found = Examiner().over(600.0, placed, nodes=nodes(code))
    assert not found.anomalies
    assert not found.xids


def test_an_xid_alone_is_no_fault_of_an_engine_that_works_on() -> None:
    found = Examiner().over(600.0, placed, nodes=nodes(79))
    assert believed(found) == {("unknown", name) for name in ("a0", "a3", "a6")}


def test_its_sentence_names_code_node_and_what_is_asked_for() -> None:
    found = Examiner().over(EXIT_S + 60.0, exits, nodes=nodes(79))
    (sentence,) = [d.sentence for d in found.diagnoses if d.subject == "a0"]
    assert "Xid 79 on n0" in sentence
    assert "restart the node" in sentence
    assert said_of(found, "a0")["gpu"] == XID_S


# who tells it, and for how long


def own(code: float, others: float = math.nan) -> Shown:
    """The engine's own exporter, which falls silent as it exits; its neighbours on the node tell ``others``."""

    def shown(after_s: float) -> list[ReplicaState]:
        told = {"gpu_xid": code if after_s >= XID_S else 0.0} if after_s < EXIT_S else down()
        first, *rest = placed(after_s, **told)
        neighbours = [replace(r, metrics=replace(r.metrics, gpu_xid=others)) for r in rest if r.metrics]
        return [first, *neighbours]

    return shown


@pytest.mark.parametrize("platform", [{}, nodes(math.nan)])
def test_what_its_own_gpus_told_before_it_exited_is_remembered(platform: Any) -> None:
    found = Examiner().over(EXIT_S + 60.0, own(79.0), nodes=platform)
    assert believed(found) == {("hardware", "a0"), ("unknown", "a3"), ("unknown", "a6")}


def test_neighbours_whose_own_gpus_tell_of_no_error_are_not_suspected() -> None:
    found = Examiner().over(EXIT_S + 60.0, own(79.0, others=0.0))
    assert believed(found) == {("hardware", "a0")}


def passing(told_s: float) -> Callable[[float], dict[str, NodeState]]:
    """A live exporter's code counts for some minutes after it changed."""
    return lambda t: nodes(79.0 if XID_S <= t < XID_S + told_s else 0.0)(t)


@pytest.mark.parametrize(("after_s", "name"), [(KEPT_S - 60.0, "hardware"), (KEPT_S + 60.0, "exited")])
def test_it_counts_for_a_while_after_it_was_last_told(after_s: float, name: str) -> None:
    exits_s = XID_S + 60.0 + after_s

    def shown(t: float) -> list[ReplicaState]:
        return placed(t, **(down(exits_s) if t >= exits_s else {}))

    found = Examiner().over(exits_s + 15.0, shown, nodes=passing(60.0))
    assert (name, "a0") in believed(found)


def test_a_node_that_is_gone_is_forgotten() -> None:
    known = {"n0": XidMemory(79, AT - 60.0, AT - 15.0), "n9": XidMemory(79, AT - 60.0, AT - 15.0)}
    assert set(with_reports(fleet(pool(placed(0.0)), nodes=dict.fromkeys(NODES, SOUND)), known)) == {"n0"}


def test_what_is_remembered_has_a_bound() -> None:
    many = {f"n{i}": replace(SOUND, xid=79.0) for i in range(MOST_NODES + 50)}
    assert len(with_reports(fleet(pool([]), nodes=many), {})) == MOST_NODES


def test_another_code_on_the_node_begins_anew() -> None:
    state = fleet(pool([]), nodes={"n0": replace(SOUND, xid=119.0)})
    known = {"n0": XidMemory(79, AT - 60.0, AT - 15.0)}
    assert with_reports(state, known) == {"n0": XidMemory(119, AT, AT)}


# what is not put down to it


def test_exits_on_such_a_node_are_no_failure_of_starts_or_revisions() -> None:
    def looping(after_s: float) -> list[ReplicaState]:
        broken = after_s >= EXIT_S
        times = 1 + int((after_s - EXIT_S) / 60.0)
        changes = down(after_s, restarts=times, waiting_reason="CrashLoopBackOff") if broken else {}
        return [replace(r, metrics=None, **changes) if broken and r.node == "n0" else r for r in placed(after_s)]

    assert of_pool(Examiner().over(900.0, looping, nodes=nodes(0.0))) == {"starts-fail"}
    assert of_pool(Examiner().over(900.0, looping, nodes=nodes(79.0))) == set()


# weaker evidence


def throttled(clock: float, peers: float = 0.95, tpot_s: float = 0.25) -> Shown:
    def shown(after_s: float) -> list[ReplicaState]:
        first, *rest = slow(after_s)
        assert first.metrics
        told = replace(first.metrics, gpu_clock_ratio=clock, tpot_mean_s=tpot_s)
        others = [replace(r, metrics=replace(r.metrics, gpu_clock_ratio=peers)) for r in rest if r.metrics]
        return [replace(first, metrics=told), *others]

    return shown


def families(found: Examination) -> set[str]:
    return set(said_of(found, "a0"))


def test_a_clock_far_below_those_of_peers_says_why_a_replica_is_slow() -> None:
    found = Examiner().over(600.0, throttled(0.4))
    assert "clock" in families(found)
    assert believed(found) == {("straggler", "a0")}


@pytest.mark.parametrize(("clock", "peers"), [(0.9, 0.95), (0.4, 0.45), (math.nan, 0.95), (0.4, math.nan)])
def test_a_clock_near_those_of_peers_or_unknown_says_nothing(clock: float, peers: float) -> None:
    found = Examiner().over(600.0, throttled(clock, peers))
    assert families(found) == {"peers", "latency"}


def test_a_low_clock_of_one_that_keeps_up_is_nothing() -> None:
    assert not Examiner().over(600.0, throttled(0.4, tpot_s=0.05)).anomalies


def test_an_error_of_the_application_is_said_beside_other_evidence_and_not_alone() -> None:
    alone = Examiner().over(300.0, lambda t: placed(t, gpu_xid=31.0))
    assert not alone.anomalies

    def errors(after_s: float) -> list[ReplicaState]:
        return placed(after_s, gpu_xid=31.0, failed_answers_total=after_s, answered_requests_total=100.0)

    found = Examiner().over(300.0, errors)
    assert believed(found) == {("errors", "a0")}
    assert "application" in families(found)
