"""Do lists and watches keep what the API concepts page promises?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client, watch

from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kubernetes_api import NAMESPACE, Clients, clients, status_of

WATCHED_S = 1


def add(k8s: Clients, *names: str, **labels: str) -> str:
    """Create ConfigMaps and return the last one's resourceVersion."""
    made = [
        k8s.core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": name, "labels": labels}})
        for name in names
    ]
    return str(made[-1].metadata.resource_version)


def watched(k8s: Clients, **params: Any) -> list[tuple[str, str]]:
    """Return type and name of what a watch of one second sends."""
    params.setdefault("timeout_seconds", WATCHED_S)
    stream = watch.Watch().stream(k8s.core.list_namespaced_config_map, NAMESPACE, **params)
    return [(event["type"], event["raw_object"]["metadata"].get("name", "")) for event in stream]


def test_pages_are_of_one_state_whatever_happens_in_between(k8s: Clients) -> None:
    add(k8s, "a", "b", "c")
    first = k8s.core.list_namespaced_config_map(NAMESPACE, limit=2)
    assert first.metadata.remaining_item_count == 1
    add(k8s, "bb", "d")
    k8s.core.delete_namespaced_config_map("c", NAMESPACE)
    second = k8s.core.list_namespaced_config_map(NAMESPACE, limit=2, _continue=first.metadata._continue)
    assert [one.metadata.name for one in [*first.items, *second.items]] == ["a", "b", "c"]
    assert second.metadata._continue is None
    assert second.metadata.resource_version == first.metadata.resource_version


def test_a_page_whose_state_was_compacted_is_gone(k8s: Clients, api: RunningApi) -> None:
    add(k8s, "a", "b")
    first = k8s.core.list_namespaced_config_map(NAMESPACE, limit=1)
    add(k8s, "c")
    api.compact()
    with pytest.raises(client.ApiException) as gone:
        k8s.core.list_namespaced_config_map(NAMESPACE, limit=1, _continue=first.metadata._continue)
    assert (gone.value.status, status_of(gone.value)["reason"]) == (410, "Expired")


def test_a_resource_version_from_the_future_is_a_timeout(k8s: Clients, api: RunningApi) -> None:
    with pytest.raises(client.ApiException) as early:
        k8s.core.list_namespaced_config_map(NAMESPACE, resource_version=str(api.version + 5))
    told = status_of(early.value)
    assert (early.value.status, told["details"]["retryAfterSeconds"]) == (504, 1)
    assert "Too large resource version" in told["message"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("pool=a", ["one"]),
        ("pool!=a", ["three", "two"]),
        ("pool in (a, b)", ["one", "two"]),
        ("pool", ["one", "two"]),
        ("!pool", ["three"]),
        ("pool notin (a),pool", ["two"]),
    ],
)
def test_a_label_selector_finds_what_its_terms_say(k8s: Clients, selector: str, names: list[str]) -> None:
    add(k8s, "one", pool="a")
    add(k8s, "two", pool="b")
    add(k8s, "three")
    found = k8s.core.list_namespaced_config_map(NAMESPACE, label_selector=selector).items
    assert [one.metadata.name for one in found] == names


def test_field_selectors_know_the_node_and_refuse_the_rest(k8s: Clients, api: RunningApi) -> None:
    for name in ("a", "b"):
        pod = {"metadata": {"name": name}, "spec": {"containers": [{"name": "engine", "image": "vllm:1"}]}}
        k8s.core.create_namespaced_pod(NAMESPACE, pod)
    api.settle()
    on_node = k8s.core.list_pod_for_all_namespaces(field_selector="spec.nodeName=node-1").items
    assert [pod.metadata.name for pod in on_node] == ["b"]
    with pytest.raises(client.ApiException) as refused:
        k8s.core.list_namespaced_pod(NAMESPACE, field_selector="spec.hostname=x")
    assert refused.value.status == 400


def test_a_watch_tells_every_change_after_its_version_in_order(k8s: Clients) -> None:
    version = add(k8s, "old")
    add(k8s, "a", "b")
    k8s.core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"x": "y"}})
    k8s.core.delete_namespaced_config_map("b", NAMESPACE)
    assert watched(k8s, resource_version=version) == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("MODIFIED", "a"),
        ("DELETED", "b"),
    ]


def test_a_watch_hears_at_once_of_what_happens_while_it_is_open(k8s: Clients, api: RunningApi) -> None:
    version, heard = add(k8s, "old"), threading.Event()
    found: list[str] = []

    def listen() -> None:
        with clients(api) as other:
            events = watch.Watch().stream(
                other.core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=20
            )
            found.append(next(events)["object"].metadata.name)
            heard.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    add(k8s, "new")
    assert heard.wait(10.0)
    assert found == ["new"]
    api.drop_watches()
    listener.join(10.0)


def test_an_object_enters_and_leaves_a_watch_by_its_labels(k8s: Clients) -> None:
    version = add(k8s, "a", serving="false")
    for serving in ("true", "true", "false"):
        change = {"metadata": {"labels": {"serving": serving}}, "data": {"x": serving}}
        k8s.core.patch_namespaced_config_map("a", NAMESPACE, change)
    assert watched(k8s, resource_version=version, label_selector="serving=true") == [("ADDED", "a"), ("DELETED", "a")]


def test_a_watch_from_a_compacted_version_is_one_error_event(k8s: Clients, api: RunningApi) -> None:
    version = add(k8s, "a")
    add(k8s, "b")
    api.compact()
    path = f"/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={version}"
    event = k8s.raw("GET", path)
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    with pytest.raises(client.ApiException) as gone:
        watched(k8s, resource_version=version)
    assert gone.value.status == 410


def test_a_watch_that_has_seen_the_last_change_outlives_a_compaction(k8s: Clients, api: RunningApi) -> None:
    version = add(k8s, "a")
    k8s.core.create_namespace({"metadata": {"name": "another"}})
    api.compact()
    assert watched(k8s, resource_version=version) == []


def marks(k8s: Clients, since: str, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    """Return which versions the bookmarks of a watch name, during which something happens."""
    watching = {"resource_version": since, "allow_watch_bookmarks": True, "timeout_seconds": 3}
    stream = watch.Watch().stream(k8s.core.list_namespaced_config_map, NAMESPACE, **watching)
    later = threading.Timer(0.5, meanwhile)
    later.start()
    found = [one["raw_object"]["metadata"]["resourceVersion"] for one in stream if one["type"] == "BOOKMARK"]
    later.join()
    return found


@pytest.mark.parametrize(("every_s", "least"), [(0.05, 5), (60.0, 1)], ids=["often", "before the end"])
def test_bookmarks_tell_the_last_change_wherever_it_was(every_s: float, least: int) -> None:
    with running_api(bookmark_every_s=every_s) as api, clients(api) as k8s:
        since = add(k8s, "a")
        k8s.core.create_namespace({"metadata": {"name": "another"}})
        told = marks(k8s, since, lambda: k8s.core.create_namespaced_config_map("another", {"metadata": {"name": "b"}}))
        assert set(told) == {str(api.version)}
    assert len(told) >= least


def test_a_watch_of_what_has_not_changed_since_it_began_has_no_bookmarks(k8s: Clients) -> None:
    since = add(k8s, "a")
    add(k8s, "b")
    told = marks(k8s, since, lambda: k8s.core.create_namespace({"metadata": {"name": "another"}}))
    assert told == []


def test_a_watch_without_a_version_begins_with_what_there_is(k8s: Clients) -> None:
    add(k8s, "a", "b")
    assert watched(k8s) == [("ADDED", "a"), ("ADDED", "b")]
    path = "/api/v1/namespaces/default/configmaps?watch=1&sendInitialEvents=true&allowWatchBookmarks=true"
    streamed = k8s.connection.call_api("GET", f"{k8s.connection.configuration.host}{path}&timeoutSeconds=1")
    lines = [line for line in streamed.read().decode().splitlines() if "initial-events-end" in line]
    assert len(lines) == 1
