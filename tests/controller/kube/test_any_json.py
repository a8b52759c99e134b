"""Whatever an API server says becomes a state or a refusal with words, never an exception."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.adapters.kube.destinations import read_slice
from controller.adapters.kube.discovery import InferencePool, discover, read_inference_pool
from controller.adapters.kube.groups import GROUP_LABEL, NAME_LABEL, WORKER_LABEL, pods_by_set
from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.label_selectors import selects
from controller.adapters.kube.nodes import Node, read_node
from controller.adapters.kube.ownership import OwnershipSettings, route_owner
from controller.adapters.kube.pods import Pod, read_pod
from controller.adapters.kube.policy_objects import Policy, read_policy
from controller.adapters.kube.policy_settings import overlay
from controller.adapters.kube.policy_status import Seen, patch_of, status_of
from controller.adapters.kube.pool_states import Objects, notes_of, pool_state
from controller.adapters.kube.revisions import Revision, read_revision
from controller.adapters.kube.routes import RouteKind
from controller.adapters.kube.seen_routes import read_route
from controller.adapters.kube.settings import CustomKind, KubernetesSettings
from controller.adapters.kube.workloads import Reading, Workload, read_workload
from controller.ports import TickRecord
from policies.fleet import PoolKey, PoolState
from tests.builders_kube import (
    T0,
    container_json,
    exited,
    metadata,
    pod_json,
    ready_pod,
    replica_set_json,
    running,
    stamp,
    template_json,
    waiting,
    workload_json,
)
from tests.builders_policies import policy_json, pool_json, settings_of
from tests.builders_routes import endpoint_slice, http_route, virtual_service

GPUS = frozenset(("nvidia.com/gpu",))
READING = Reading(GPUS, "foresail.dev")
FOO = CustomKind(kind="Foo", group="x.io", plural="foos")
SETTINGS = KubernetesSettings(namespaces=("prod",), by_inference_pools=True)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=8)
    | st.sampled_from(["True", "false", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2026-01-01", "prefill"])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _places(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside: list[tuple[Any, ...]] = [at] if at else []
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        inside += _places(value[key], (*at, key))  # type: ignore[index]
    return inside


@st.composite
def twisted(draw: st.DrawFn, *originals: dict[str, Any]) -> Any:
    """An object as it should be, but for up to three places where anything else stands, or nothing."""
    told = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(_places(told)))
        holder: Any = told
        for key in way:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(anything)
        elif isinstance(holder, dict):
            del holder[last]
        if not told or not _places(told):
            break
    return told


CRASHED = waiting("CrashLoopBackOff", restarts=2, last=exited(T0 + 400))
LWS_LABELS = {NAME_LABEL: "llama", GROUP_LABEL: "0", WORKER_LABEL: "0"}
pods = twisted(
    ready_pod(deletionTimestamp=stamp(T0 + 900), deletionGracePeriodSeconds=30),
    pod_json("llama-2", CRASHED, running("proxy")),
    pod_json("llama-3", node=""),
    ready_pod("llama-0", owner=("StatefulSet", "llama"), labels=LWS_LABELS),
    ready_pod("llama-0-1", owner=("StatefulSet", "llama-0"), labels={**LWS_LABELS, WORKER_LABEL: "1"}),
)
workloads = twisted(
    workload_json(),
    workload_json(spec={"paused": True, "updateStrategy": {"rollingUpdate": {"partition": 1}}}),
    workload_json(
        spec={
            "leaderWorkerTemplate": {
                "size": 2,
                "leaderTemplate": template_json(container_json(), container_json("proxy")),
                "workerTemplate": template_json(initContainers=[container_json("warm", 4)]),
            }
        },
        status={"selector": "app=llama,tier in (a,b)", "observedGeneration": "3"},
    ),
)
revisions = twisted(replica_set_json(), {**replica_set_json("llama-77", 3), "revision": 3})
inference_pools = twisted(
    {
        "metadata": metadata("llama-3"),
        "spec": {"selector": {"matchLabels": {"app": "llama"}}, "targetPorts": [{"number": 8000}]},
    }
)
kinds = st.sampled_from(["Deployment", "StatefulSet", "LeaderWorkerSet", "Rollout", "Foo"])


@given(anything | pods | workloads | revisions | inference_pools, kinds)
@settings(max_examples=300, deadline=None)
def test_every_reader_takes_anything(told: Any, kind: str) -> None:
    found = [
        read_pod(told, GPUS),
        read_workload(told, kind, READING, FOO if kind == "Foo" else None),
        read_revision(told, "ControllerRevision"),
        read_revision(told, "ReplicaSet"),
        read_inference_pool(told, "foresail.dev"),
        read_node(told, frozenset(), "foresail.dev/avoid"),
    ]
    kept = (Pod, Workload, Revision, InferencePool, Node, type(None))
    assert all(isinstance(one, kept) or (isinstance(one, Refused) and one.why) for one in found)
    node = found[-1]
    assert isinstance(node, Refused) or (isinstance(node, Node) and math.isfinite(node.state.since_at))


@given(
    st.lists(pods, max_size=4, unique_by=lambda told: str(told.get("metadata"))),
    st.lists(workloads, min_size=1, max_size=3),
    st.lists(revisions, max_size=3),
    st.lists(inference_pools, max_size=2),
    kinds,
)
@settings(max_examples=300, deadline=None)
def test_whatever_was_read_becomes_pools(
    told_pods: list[Any], told_workloads: list[Any], told_revisions: list[Any], told_pools: list[Any], kind: str
) -> None:
    by_name = {pod.name: pod for told in told_pods if isinstance(pod := read_pod(told, GPUS), Pod)}
    kept = [r for told in told_revisions if isinstance(r := read_revision(told, "ReplicaSet"), Revision)]
    mine = [
        workload
        for told in told_workloads
        if isinstance(workload := read_workload(told, kind, READING, FOO if kind == "Foo" else None), Workload)
    ]
    selecting = [p for told in told_pools if isinstance(p := read_inference_pool(told, "foresail.dev"), InferencePool)]
    by_owner: dict[str, list[Pod]] = {}
    for pod in by_name.values():
        by_owner.setdefault(pod.owner.uid if pod.owner else "", []).append(pod)
    objects = Objects(
        {uid: [r for r in kept if r.owner_uid == uid] for uid in {r.owner_uid for r in kept}},
        by_owner,
        pods_by_set(by_name.values()),
        {namespace: [p for p in by_name.values() if p.namespace == namespace] for namespace in ("prod",)},
    )
    places, refused = discover(mine, selecting, SETTINGS)
    assert all(refusal.why for refusal in refused)
    assert len({place.key for place in places.values()}) == len(places)
    for workload in mine:
        if workload.uid in places:
            own = kept if kind != "Foo" else ()
            state = pool_state(workload, places[workload.uid], own, objects.pods_of(workload))
            _sane(state, workload)
            assert all(note.why for note in notes_of(workload, places[workload.uid], state))


@given(
    twisted(http_route({"chat-east": 3, "chat-west": 1}), virtual_service({"chat-east": 3, "chat-west": 1})),
    st.sampled_from(("HTTPRoute", "VirtualService")),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_read_of_a_route_has_shares_or_says_why_not(told: Any, kind: RouteKind) -> None:
    east, west = PoolKey("m", "east"), PoolKey("m", "west")
    seen = read_route(told, kind, {"chat": {east: "chat-east", west: "chat-west"}})
    if seen is not None:
        assert (seen.shares is None) == bool(seen.unread[0])
        assert seen.shares is None or sum(seen.shares.values()) in (0.0, pytest.approx(1.0))
        assert route_owner(seen.writer, seen.created_at, T0, OwnershipSettings()) is None or seen.writer


@given(twisted(endpoint_slice("chat-east", (True, False))))
@settings(max_examples=200, deadline=None)
def test_whatever_is_read_of_endpoints_is_a_slice_or_none(told: Any) -> None:
    seen = read_slice(told)
    assert seen is None or (seen.service and isinstance(seen.ready, bool))


def _sane(state: PoolState, workload: Workload) -> None:
    assert state.version == workload.generation
    assert state.desired == workload.desired
    for replica in state.replicas:
        assert replica.restarts >= 0
        assert math.isfinite(replica.requested_at)
        assert math.isfinite(replica.since_at)


@given(st.text(alphabet="ab=!,() innot.x/ ", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_selector_or_none(told: str) -> None:
    wanted = selects(told)
    assert wanted is None or wanted({"a": "b"}) in (True, False)


POLICY = policy_json(
    pools=[pool_json(efficiencyRatio=0.9, role="unified", workload={"kind": "Deployment", "name": "engine"})],
    objective={"ttftSeconds": 1.0, "windowSeconds": 60},
    modes={"scaling": "auto", "traffic": "observe"},
)
POLICY["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
CONDITION = {"type": "Active", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "x"}
POLICY["status"] = {"why": "x", "target": 1, "conditions": [CONDITION]}


@given(told=twisted(POLICY) | anything)
@settings(max_examples=400, deadline=None)
def test_a_policy_is_followed_or_refused_with_words_and_gets_a_status(told: Any) -> None:
    found = read_policy(told)
    if found is None:
        return
    assert isinstance(found, Policy)
    file = settings_of()
    laid = overlay(file, [found], {})
    (verdict,) = laid.verdicts
    assert verdict.message
    assert verdict.accepted == (verdict.in_force is found)
    if not verdict.accepted:
        assert laid.settings is file
    seen = Seen(TickRecord(T0, None, {}, None, error="blind"))
    status = status_of(verdict, seen, laid.settings, found.status)
    patch_of(status, found.status)
    assert {"Accepted", "Active", "Owned"} <= {condition["type"] for condition in status["conditions"]}
