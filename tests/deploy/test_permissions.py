"""Does the chart grant what each feature needs, for every combination of features, and never more?"""

from __future__ import annotations

from itertools import product

import pytest
import yaml

from controller.adapters.kube.permissions import (
    BESIDE_KINDS,
    ROUTE_KINDS,
    WORKLOAD_KINDS,
    Feature,
    Installation,
    Scope,
    permissions,
)
from tests.builders_chart import (
    FEATURES,
    IMAGE,
    NAMESPACE,
    RELEASE,
    WORKLOADS,
    Object,
    access_chart,
    of_kind,
    rendered,
    rendered_roles,
)

Grant = tuple[str, str, str, str, str]
"""Namespace (empty for the cluster), group, resource, verb, name (empty for any)."""

THERE = ("batch", "serving")


def needed(installation: Installation) -> set[Grant]:
    where = {Scope.WORKLOADS: THERE, Scope.OWN: (NAMESPACE,), Scope.CLUSTER: ("",), Scope.EVENTS_OF_NODES: ("default",)}
    return {
        (namespace, rule.group, rule.resource, verb, name)
        for rule in permissions(installation)
        for namespace in where[rule.scope]
        for verb in rule.verbs
        for name in rule.names or ("",)
    }


def granted(objects: list[Object]) -> set[Grant]:
    found = set()
    for role in objects:
        if role["kind"] in {"Role", "ClusterRole"}:
            namespace = role["metadata"].get("namespace", "")
            for rule in role["rules"]:
                assert set(rule) <= {"apiGroups", "resources", "verbs", "resourceNames"}
                names = rule.get("resourceNames") or [""]
                of_rule = product([namespace], rule["apiGroups"], rule["resources"], rule["verbs"], names)
                found.update(of_rule)
    return found


def values_of(installation: Installation) -> dict[str, object]:
    return {
        "namespaces": list(THERE),
        "features": {name: name in installation.features for name in FEATURES},
        "kinds": list(installation.kinds),
        "customKinds": [{"group": group, "plural": plural} for group, plural in installation.custom_kinds],
        "routes": list(installation.routes),
        "beside": list(installation.beside),
        "routeNames": list(installation.route_names),
        "workloads": WORKLOADS,
    }


def test_the_chart_has_a_switch_for_every_feature() -> None:
    assert {*FEATURES, "read"} == set(Feature)


@pytest.mark.slow
def test_the_roles_are_what_is_needed_for_every_combination_of_features() -> None:
    for switches in product([False, True], repeat=len(FEATURES)):
        on = frozenset(Feature(name) for name, is_on in zip(FEATURES, switches, strict=True) if is_on)
        installation = Installation(on, kinds=("Deployment", "Rollout"), routes=("HTTPRoute",))
        assert granted(rendered_roles(values_of(installation))) == needed(installation), sorted(on)


ALL = frozenset(Feature)
KINDS = [kinds for size in range(5) for kinds in [tuple(WORKLOAD_KINDS)[:size], tuple(WORKLOAD_KINDS)[size:]]]


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("routes", [("HTTPRoute",), ("VirtualService",), tuple(ROUTE_KINDS)], ids="-".join)
def test_the_roles_are_what_is_needed_for_kinds_and_names(kinds: tuple[str, ...], routes: tuple[str, ...]) -> None:
    for custom, beside, names in product(((), (("ray.io", "rayservices"),)), ((), tuple(BESIDE_KINDS)), ((), ("a",))):
        installation = Installation(ALL, kinds, custom, routes, beside, names)
        assert granted(rendered_roles(values_of(installation))) == needed(installation)


def test_nothing_is_granted_without_bounds() -> None:
    everything = Installation(ALL, tuple(WORKLOAD_KINDS), (("ray.io", "rayservices"),), tuple(ROUTE_KINDS))
    for _, group, resource, verb, _ in granted(rendered(values_of(everything), access_chart())):
        assert "*" not in (group, resource, verb)
        assert resource not in {"secrets", "configmaps", "pods/exec", "pods/attach", "pods/portforward", "nodes/proxy"}
        assert resource.partition("/")[0] not in {"roles", "rolebindings", "clusterroles", "serviceaccounts"}
        assert verb in {"get", "list", "watch", "create", "update", "patch", "delete"}


def test_what_only_looks_may_write_nothing_but_events() -> None:
    writes = {grant for grant in granted(rendered(of=access_chart())) if grant[3] not in {"get", "list", "watch"}}
    assert writes == {(NAMESPACE, "", "events", "create", ""), (NAMESPACE, "", "events", "patch", "")}


def test_only_nodes_need_rights_over_the_cluster() -> None:
    kinds = {found["kind"] for found in rendered({"features": {"nodes": False}}, access_chart())}
    assert kinds == {"ServiceAccount", "Role", "RoleBinding"}
    over_all = [rule for rule in permissions(Installation(ALL)) if rule.scope is Scope.CLUSTER]
    assert {rule.resource for rule in over_all} == {"nodes"}


def test_releases_of_one_name_in_two_namespaces_share_no_role() -> None:
    names = []
    for namespace in ("team-a", "team-b"):
        values = {**IMAGE, **values_of(Installation(ALL))}
        files = access_chart().render(values, name=RELEASE, namespace=namespace)
        objects = [found for text in files.values() for found in yaml.load_all(text, yaml.CSafeLoader) if found]
        names.append({(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects})
        for binding in of_kind(objects, "RoleBinding"):
            place = binding["metadata"]["namespace"]
            assert ("Role", place, binding["roleRef"]["name"]) in names[-1]
    assert not names[0] & names[1]
