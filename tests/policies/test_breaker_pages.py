"""When is a human told that healing stops: at once, or only once GPUs had the time to explain it?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from policies.anomaly import Watch
from policies.decisions import Diagnosis, Page
from policies.fleet import NodeState, Phase, PoolKey, PoolState, ReplicaState
from policies.gpu_faults import TOLD_WITHIN_S
from policies.healing import Course, heal
from policies.healing_memory import XidMemory
from policies.healing_settings import HealingSettings
from policies.lead_time import LeadTime
from policies.memory import PolicyMemory
from tests.builders import AT, KEY, MODEL, fleet, pool, replica

LEAD = LeadTime(80.0, 100.0, 5, measured=True)
NODES = ("n0", "n1", "n2", "n3")


def exited(name: str, ago_s: float, key: PoolKey = KEY) -> Diagnosis:
    return Diagnosis("F2", name, key, AT - ago_s, ("platform",), f"exited {ago_s:.0f} s ago", name="exited")


def down(name: str, node: str, ago_s: float) -> ReplicaState:
    return replica(name, Phase.FAILED, node=node, restarts=1, since_at=AT - ago_s, requested_at=AT - ago_s)


def healed(
    pools: Sequence[PoolState], believed: Sequence[Diagnosis], xid: float = 0.0, faults: Sequence[str] = ()
) -> Course:
    """One look; the GPUs of every node are exported unless ``xid`` is NaN, and ``faults`` are at fault."""
    nodes = {name: NodeState(ready=True, since_at=AT - 9e3, xid=79.0 if name in faults else xid) for name in NODES}
    memory = PolicyMemory(xids={name: XidMemory(79, AT, AT) for name in faults})
    leads, least = {str(p.key): LEAD for p in pools}, {str(p.key): 0 for p in pools}
    watch = Watch((), {}, frozenset())
    return heal(fleet(*pools, nodes=nodes), believed, watch, memory, leads, least, HealingSettings())


def after_exits(nodes: Sequence[str], ago_s: float, xid: float = 0.0) -> Course:
    """Of six replicas one has exited on each of ``nodes``; the others serve elsewhere."""
    gone = [down(f"a{place}", node, ago_s) for place, node in enumerate(nodes)]
    rest = [replica(f"a{place}", node="n3") for place in range(len(nodes), 6)]
    return healed([pool([*gone, *rest])], [exited(each.id, ago_s) for each in gone], xid)


def pages(course: Course) -> list[tuple[str, str]]:
    return [(r.subject, r.cause) for r in course.remediations if isinstance(r, Page)]


@pytest.mark.parametrize(
    ("nodes", "ago_s", "xid", "told"),
    [
        (["n0"] * 4, 0.0, 0.0, False),
        (["n0"] * 4, TOLD_WITHIN_S - 1.0, 0.0, False),
        (["n0"] * 4, TOLD_WITHIN_S, 0.0, True),
        (["n0"] * 4, 0.0, math.nan, True),
        (["elsewhere"] * 4, 0.0, 0.0, True),
        (["n0", "n0", "n1", "n1"], 0.0, 0.0, False),
        (["n0", "n1", "n2", "n2"], 0.0, 0.0, True),
    ],
    ids=[
        "just now", "a while ago", "long ago", "not exported", "an unknown node", "on two nodes", "on three nodes",
    ],
)  # fmt: skip
def test_exits_that_gpus_may_yet_explain_stop_healing_before_anybody_is_told(
    nodes: list[str], ago_s: float, xid: float, told: bool
) -> None:
    course = after_exits(nodes, ago_s, xid)
    assert course.stopped == {MODEL}
    assert "breaker" in [reason.rule for reason in course.reasons]
    assert pages(course) == [(MODEL, "breaker")] * told


def test_what_is_sick_in_another_way_is_told_at_once() -> None:
    hung = [Diagnosis("F1", f"a{place}", KEY, AT, ("progress", "gateway"), "it hangs") for place in range(3)]
    replicas = [replica(f"a{place}", node="n0") for place in range(6)]
    assert pages(healed([pool(replicas)], hung)) == [(MODEL, "breaker")]


def test_a_gpu_at_fault_beside_exits_elsewhere_counts_once_as_before() -> None:
    at_fault = [down(f"a{place}", "n0", 60.0) for place in range(2)]
    known = [Diagnosis("F9", each.id, KEY, AT - 60.0, ("gpu", "platform"), "", name="hardware") for each in at_fault]
    others = [down(f"a{place}", f"n{place - 1}", 0.0) for place in (2, 3)]
    rest = [replica(f"a{place}", node="n3") for place in (4, 5)]
    believed = [*known, *(exited(each.id, 0.0) for each in others)]
    course = healed([pool([*at_fault, *others, *rest])], believed, faults=["n0"])
    assert (course.stopped, pages(course)) == ({MODEL}, [(MODEL, "breaker")])


@pytest.mark.parametrize(("ago_s", "told"), [(0.0, False), (TOLD_WITHIN_S, True)])
def test_the_page_of_the_fleet_waits_for_gpus_too(ago_s: float, told: bool) -> None:
    one, six = PoolKey("one", "p"), PoolKey("six", "p")
    gone = [down(f"six{place}", "n0", ago_s) for place in range(2)]
    pools = [pool([down("one0", "n1", ago_s)], one), pool([*gone, *(replica(f"six{n}") for n in range(2, 6))], six)]
    believed = [exited("one0", ago_s, one), *(exited(each.id, ago_s, six) for each in gone)]
    course = healed(pools, believed)
    assert course.stopped == {"one", "six"}
    assert pages(course) == [("fleet", "breaker")] * told
