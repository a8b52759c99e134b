"""What pools and nodes does a view tell of, and when does it rather tell nothing?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import active_count
from threading import enumerate as enumerate_threads
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.kinds import DEPLOYMENTS, PODS
from controller.adapters.kube.settings import PoolPlace
from controller.adapters.system_clock import SystemClock
from controller.errors import ObservationError
from controller.observation import observe
from controller.ports import FleetMetrics
from policies.decide import decide
from policies.fleet import PoolKey, PoolState
from policies.memory import PolicyMemory
from policies.replica import Phase
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.kinds import BUILT_IN
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import FakeMetrics, FakeRouter, demand, forecast, metrics, settings
from tests.builders_kube import container_json, running, template_json
from tests.builders_kube_api import Fleet, caught_up, settings_for

ALL_KINDS = ("Deployment", "StatefulSet", "LeaderWorkerSet", "Rollout")


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api(bookmark_every_s=0.05) as api:
        yield api


@contextmanager
def _viewing(api: RunningApi, folder: Path, **more: Any) -> Iterator[KubernetesView]:
    view = KubernetesView(settings_for(api, folder, **more), SystemClock().elapsed, np.random.default_rng(3))
    view.start()
    try:
        yield view
    finally:
        view.close()


def _keys(pools: tuple[PoolState, ...]) -> list[str]:
    return [str(pool.key) for pool in pools]


def _caught_up(api: RunningApi, view: KubernetesView) -> None:
    assert caught_up(api, chain.from_iterable(view.reflectors.values()))


def test_labelled_workloads_are_pools_with_their_replicas(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment("llama", pods=2, pool="a100")
    fleet.deployment("qwen", pods=1)
    with _viewing(api, tmp_path) as view:
        llama, qwen = view.pools()
        assert _keys((llama, qwen)) == ["llama/a100/unified", "qwen/qwen/unified"]
        assert [(r.id, r.phase, r.revision, r.address) for r in llama.replicas] == [
            (f"llama-abc-{n}", Phase.READY, "abc", "10.0.0.7:8000") for n in range(2)
        ]
        assert (llama.desired, llama.version, llama.revision, llama.gpus_per_replica) == (2, 1, "abc", 2)
        assert view.nodes() == {}


def test_only_what_changes_is_made_anew(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment("llama", pods=3)
    fleet.deployment("qwen", pods=1)
    with _viewing(api, tmp_path) as view:
        before = view.pools()
        assert view.pools() is before
        fleet.patch("pods", "llama-abc-1", {"metadata": {"labels": {"foresail.dev/serving": "false"}}})
        _caught_up(api, view)
        after = view.pools()
        assert after[1] is before[1]
        assert [replica.cordoned for replica in after[0].replicas] == [False, True, False]
        assert after[0].replicas[0] is before[0].replicas[0]


def test_status_does_not_change_the_version_of_a_pool(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment()
    with _viewing(api, tmp_path) as view:
        (before,) = view.pools()
        fleet.patch("deployments", "llama", {"status": {"observedGeneration": 1, "replicas": 2}}, "status")
        fleet.patch("deployments", "llama", {"metadata": {"labels": {"a": "b"}}})
        _caught_up(api, view)
        (after,) = view.pools()
        assert after.version == before.version
        fleet.patch("deployments", "llama", {"spec": {"replicas": 5}})
        _caught_up(api, view)
        (scaled,) = view.pools()
        assert (scaled.version, scaled.desired) == (before.version + 1, 5)
        assert view.behind() == {PoolKey("llama", "llama")}
        assert any("generation 1 and not yet 2" in note.why for note in view.notes())


def test_pools_are_never_older_than_our_own_writes(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment()
    with _viewing(api, tmp_path, catch_up_s=0.2) as view:
        written = fleet.patch("deployments", "llama", {"spec": {"replicas": 7}})
        view.wrote(DEPLOYMENTS, "prod", written["metadata"]["resourceVersion"])
        assert view.pools()[0].desired == 7  # waited for
        api.fault(Fault(code=500, verbs=("list", "watch")))
        api.drop_watches()
        hidden = fleet.patch("pods", "llama-abc-0", {"metadata": {"labels": {"foresail.dev/serving": "false"}}})
        view.wrote(PODS, "prod", hidden["metadata"]["resourceVersion"])
        for _ in range(2):  # until it is seen
            with pytest.raises(ObservationError, match="our own last write does not show"):
                view.pools()
        api.faults.clear()
        _caught_up(api, view)
        assert view.pools()[0].replicas[0].cordoned


def test_a_list_after_our_write_shows_it_whatever_its_number(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    with _viewing(api, tmp_path, catch_up_s=0.1, longest_backoff_s=0.1) as view:
        view.wrote(PODS, "prod", str(api.version + 1000))  # as before a cluster was restored to what it had been
        told = 0
        for _ in range(50):
            try:
                assert len(view.pools()) == 1
                break
            except ObservationError:
                told += 1
        assert 1 <= told < 50


def test_a_silent_server_is_told_and_no_emptier_fleet(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment()
    with _viewing(api, tmp_path, timeout_s=0.3, stale_after_s=2.0, longest_backoff_s=0.2) as view:
        assert len(view.pools()) == 1
        api.partition("hang")
        told: list[str] = []
        while not told:
            try:
                assert len(view.pools()[0].replicas) == 2
            except ObservationError as error:
                told.append(error.what)
            view.reflectors[PODS][0].store.wait_for("none", 0.02)
        assert "nothing was heard of them" in told[0]
        api.heal()
        fleet.delete("pods", "llama-abc-0")
        _caught_up(api, view)
        assert [replica.id for replica in _once_told(view)[0].replicas] == ["llama-abc-1"]


def _once_told(view: KubernetesView) -> tuple[PoolState, ...]:
    """Return the pools as soon as all that they are made of has been heard of again."""
    for _ in range(400):
        try:
            return view.pools()
        except ObservationError:
            view.reflectors[PODS][0].store.wait_for("none", 0.02)
    return view.pools()


def test_until_the_next_look_other_names_of_pools_change_nothing_for_those_who_ask(
    api: RunningApi, tmp_path: Path
) -> None:
    """Events of the tick before are told by another thread, which must not look while a tick does."""
    fleet = Fleet(api)
    fleet.deployment(pods=2)
    with _viewing(api, tmp_path) as view:
        (before,) = view.pools()
        fleet.deployment("plain", pods=1)
        fleet.delete("pods", "llama-abc-1")
        _caught_up(api, view)
        view.name_pools((PoolPlace(namespace="prod", name="plain", model="qwen"),))
        seen = view.seen(before.key)
        assert seen is not None
        assert seen.state is before
        assert view.seen(PoolKey("qwen", "plain")) is None
        assert _keys(view.pools()) == ["llama/llama/unified", "qwen/plain/unified"]


def test_a_right_that_is_missing_keeps_all_pools_from_being_told(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    api.grant("some", Subject("foresail", (Rule(("list", "watch"), ("pods", "deployments"), ("", "apps")),)))
    with _viewing(api, tmp_path, known_as="some", timeout_s=0.5) as view:
        with pytest.raises(ObservationError, match="not read yet: HTTP 403") as caught:
            view.pools()
        assert "a Role in namespace prod" in caught.value.remedy


def _custom(api: RunningApi, group: str, plural: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "prod", **more.pop("metadata", {})}
    body = {"apiVersion": group, "kind": kind, "metadata": meta, **more}
    return api.call("POST", f"/apis/{group}/namespaces/prod/{plural}", body)


def test_every_kind_of_workload_is_found(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment("plain", pods=1)
    marks = {"labels": {"foresail.dev/model": "big"}}
    worker = template_json(container_json(gpus=8))
    _custom(
        api,
        "leaderworkerset.x-k8s.io/v1",
        "leaderworkersets",
        "LeaderWorkerSet",
        "big",
        metadata=marks,
        spec={"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": worker}},
    )
    _custom(
        api,
        "argoproj.io/v1alpha1",
        "rollouts",
        "Rollout",
        "argo",
        spec={"replicas": 3, "template": template_json(labels={"app": "argo"})},
    )
    _custom(
        api,
        "inference.networking.k8s.io/v1",
        "inferencepools",
        "InferencePool",
        "chat",
        spec={"selector": {"matchLabels": {"app": "argo"}}, "targetPorts": [{"number": 8000}]},
    )
    set_label = "leaderworkerset.sigs.k8s.io"
    for name, index, owner in (("big-0", "0", "big"), ("big-0-1", "1", "big-0")):
        labels = {f"{set_label}/name": "big", f"{set_label}/worker-index": index}
        reference = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": owner, "uid": "u", "controller": True}
        fleet.create(
            "pods", name, metadata={"labels": labels, "ownerReferences": [reference]}, spec=template_json()["spec"]
        )
        fleet.patch("pods", name, {"status": {"containerStatuses": [running()]}}, "status")
    with _viewing(api, tmp_path, kinds=ALL_KINDS, by_inference_pools=True) as view:
        big, chat, plain = view.pools()
        assert _keys((big, chat, plain)) == ["big/big/unified", "chat/argo/unified", "plain/plain/unified"]
        assert (big.gpus_per_replica, [replica.id for replica in big.replicas]) == (16, ["big-0"])
        assert (chat.desired, chat.replicas) == (3, ())


def test_a_kind_that_is_known_by_its_scale_alone_is_found(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment("plain", pods=2)  # its ReplicaSet is what is scaled here
    kind = {"kind": "ReplicaSet", "group": "apps", "plural": "replicasets", "selector_path": "status.selector"}
    place = {"kind": "ReplicaSet", "namespace": "prod", "name": "plain-abc", "model": "own"}
    fleet.patch("replicasets", "plain-abc", {"status": {"selector": "app=plain"}}, "status")
    with _viewing(api, tmp_path, custom_kinds=[kind], pools=[place]) as view:
        own, plain = view.pools()
        assert _keys((own, plain)) == ["own/plain-abc/unified", "plain/plain/unified"]
        assert own.roster.ids == plain.roster.ids == ("plain-abc-0", "plain-abc-1")


def test_kinds_that_are_not_installed_leave_the_others_alone(tmp_path: Path) -> None:
    with running_api(kinds=BUILT_IN) as api:
        Fleet(api).deployment()
        with _viewing(api, tmp_path, kinds=ALL_KINDS) as view:
            assert _keys(view.pools()) == ["llama/llama/unified"]
            missing = {note.subject.split(".")[0] for note in view.notes()}
            assert missing == {"leaderworkersets", "rollouts"}


def test_several_namespaces_or_all_are_read(api: RunningApi, tmp_path: Path) -> None:
    for namespace in ("prod", "test"):
        Fleet(api, namespace).deployment(f"llama-{namespace}", pods=1)
    for names in (("prod", "test"), ("*",)):
        with _viewing(api, tmp_path, namespaces=names) as view:
            assert len(view.pools()) == 2
            written = api.call("GET", "/apis/apps/v1/namespaces/test/deployments/llama-test")
            view.wrote(DEPLOYMENTS, "test", written["metadata"]["resourceVersion"])
            assert len(view.pools()) == 2


def test_nodes_are_read_where_that_is_wanted(api: RunningApi, tmp_path: Path) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "spec": {"unschedulable": True}}
    api.call("POST", "/api/v1/nodes", node)
    Fleet(api)
    with _viewing(api, tmp_path, nodes=True) as view:
        (state,) = view.nodes().values()
        assert (state.ready, state.avoided) == (False, True)
        assert view.pools() == ()


def test_what_a_view_tells_is_observed_and_decided_on(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment("llama", pods=2, pool="a100")
    fleet.patch("deployments", "llama", {"spec": {"minReadySeconds": 5}})  # a second generation
    key = PoolKey("llama", "a100")
    at = SystemClock().now()
    with _viewing(api, tmp_path) as view:
        _caught_up(api, view)
        load = demand(requests_per_s=200.0)
        seen = FleetMetrics(demand={"llama": load}, replicas={f"llama-abc-{n}": metrics(at) for n in range(2)})
        observed = observe(at, FakeMetrics(seen), view, FakeRouter({key: 1.0}))
    assert [replica.metrics is not None for replica in observed.pools[0].replicas] == [True, True]
    decision = decide(observed, {"llama": forecast(200.0, at)}, PolicyMemory(), settings(key))
    (plan,) = decision.scaling
    assert (plan.pool, plan.version) == (key, 2)
    assert plan.desired > 2


def test_closing_ends_all_watches(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    before = active_count()
    with _viewing(api, tmp_path, watch_s=10):
        assert active_count() > before
        threads = [thread for thread in enumerate_threads() if thread.name.startswith("watch ")]
        began_s = SystemClock().elapsed()
    assert SystemClock().elapsed() - began_s < 2.0
    assert "watch pods in prod" in [thread.name for thread in threads]
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("seed", range(3))
def test_after_any_trouble_the_view_is_what_the_server_has(seed: int, api: RunningApi, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    fleet = Fleet(api)
    fleet.deployment("llama", pods=4)
    replica_set = api.call("GET", fleet.path("replicasets", "llama-abc"))
    with _viewing(api, tmp_path, longest_backoff_s=0.1, timeout_s=1.0, page_size=2) as view:
        for code in (500, 503, 429, 410):
            api.fault(Fault(code=code, verbs=("list", "watch"), fraction=0.15))
        api.fault(Fault(reset=True, fraction=0.1))
        for number in range(40):
            match int(rng.integers(6)):
                case 0:
                    fleet.pod(f"llama-new-{number}", replica_set)
                case 1:
                    names = [p["metadata"]["name"] for p in api.call("GET", fleet.path("pods"))["items"]]
                    fleet.delete("pods", str(rng.choice(names))) if len(names) > 1 else None
                case 2:
                    fleet.patch("deployments", "llama", {"spec": {"replicas": int(rng.integers(1, 9))}})
                case 3:
                    api.drop_watches()
                case 4:
                    api.cut_connections()
                case _:
                    api.compact()
            assert len(view.pools()) == 1  # whatever happens, the pool is there
        api.faults.clear()
        _caught_up(api, view)
        (pool,) = view.pools()
        there = {p["metadata"]["name"] for p in api.call("GET", fleet.path("pods"))["items"]}
        assert {replica.id for replica in pool.replicas} == there
        assert pool.desired == api.call("GET", fleet.path("deployments", "llama"))["spec"]["replicas"]


def test_the_official_client_is_imported_only_when_a_cluster_is_asked() -> None:
    told = "import sys, controller.adapters.kube.cluster; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], check=False, timeout=60).returncode == 0
