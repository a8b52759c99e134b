"""Do the admission policies let Foresail do what its features need, and nothing beside?"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.permissions import Feature, Installation, Scope, permissions
from controller.adapters.kube.rights import _ACCESS, _SELF
from tests.builders_admission import Admission, Request, cel
from tests.builders_chart import EVERYTHING, FEATURES, NAMESPACE, Object, of_kind, rendered

GATEWAY = "gateway.networking.k8s.io"


@pytest.fixture(scope="module")
def admission() -> Admission:
    return Admission(rendered(EVERYTHING))


@pytest.fixture(scope="module")
def observing() -> Admission:
    return Admission(rendered())


def changed(old: Object, *path: str | int, to: Any) -> Object:
    """Return ``old`` with the value at ``path`` replaced, or taken away for a ``to`` of None."""
    new = copy.deepcopy(old)
    inner: Any = new
    for part in path[:-1]:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return new


def pod(**labels: str) -> Object:
    labels = {"app": "llama", **labels}
    owners = [{"kind": "ReplicaSet", "name": "llama-a100-6d5", "uid": "u"}]
    metadata = {"name": "p", "namespace": "serving", "labels": labels, "ownerReferences": owners}
    return {"metadata": metadata, "spec": {"containers": [{"name": "engine", "image": "vllm:1"}], "nodeName": "n1"}}


SERVING = pod(**{"foresail.dev/serving": "true"})
COST = "controller.kubernetes.io/pod-deletion-cost"


def of_pod(old: Object, new: Object | None, operation: str = "UPDATE") -> Request:
    return Request(operation, "", "pods", name="p", new=new, old=old)


# Replica counts


def scale(replicas: int, name: str = "llama-a100", resource: str = "deployments/scale", group: str = "apps") -> Request:
    spec = {"replicas": replicas} if replicas else {}  # the API server leaves a zero out
    return Request("UPDATE", group, resource, name=name, new={"spec": spec}, old={"spec": {"replicas": 3}})


@pytest.mark.parametrize("replicas", [2, 3, 40])
def test_a_workload_is_scaled_within_its_bounds(admission: Admission, replicas: int) -> None:
    assert admission.refusals(scale(replicas)) == []


@pytest.mark.parametrize("replicas", [0, 1, 41, 10_000])
def test_a_workload_is_not_scaled_beyond_its_bounds(admission: Admission, replicas: int) -> None:
    assert admission.refusals(scale(replicas)) == [
        "outside of minReplicas and maxReplicas in the values of Foresail's chart"
    ]


def test_a_workload_that_is_not_listed_is_not_scaled(admission: Admission) -> None:
    listed = "this workload is not listed under workloads in the values of Foresail's chart"
    assert listed in admission.refusals(scale(3, "billing"))
    assert admission.refusals(replace(scale(3), namespace="batch"))
    assert admission.refusals(scale(3, resource="statefulsets/scale"))
    assert admission.refusals(scale(3, resource="rayservices/scale", group="ray.io"))


def test_a_workload_of_a_custom_kind_has_bounds_too() -> None:
    workload = {
        "namespace": "serving",
        "group": "ray.io",
        "plural": "rayservices",
        "name": "r",
        "minReplicas": 0,
        "maxReplicas": 2,
    }
    admission = Admission(rendered({**EVERYTHING, "workloads": [workload]}))
    assert admission.refusals(scale(0, "r", "rayservices/scale", "ray.io")) == []
    assert admission.refusals(scale(3, "r", "rayservices/scale", "ray.io")) != []


# Pods


def test_a_pod_is_cordoned_and_given_a_deletion_cost(admission: Admission) -> None:
    cordoned = changed(SERVING, "metadata", "labels", "foresail.dev/serving", to="false")
    assert admission.refusals(of_pod(SERVING, cordoned)) == []
    assert admission.refusals(of_pod(cordoned, SERVING)) == []
    cheap = changed(SERVING, "metadata", "annotations", COST, to="-100")
    assert admission.refusals(of_pod(SERVING, cheap)) == []
    assert admission.refusals(of_pod(cheap, SERVING)) == []


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("metadata", "labels", "app"), "other"),
        (("metadata", "labels", "app"), None),
        (("metadata", "labels", "new"), "label"),
        (("metadata", "labels", "foresail.dev/serving"), None),
        (("metadata", "labels", "foresail.dev/serving"), "maybe"),
        (("metadata", "annotations", "sidecar.istio.io/inject"), "true"),
        (("metadata", "ownerReferences"), []),
        (("metadata", "finalizers"), ["stuck"]),
        (("spec", "containers", 0, "image"), "evil:1"),
        (("spec", "activeDeadlineSeconds"), 1),
    ],
    ids=str,
)
def test_nothing_else_of_a_pod_is_changed(admission: Admission, path: tuple[str | int, ...], to: Any) -> None:
    assert admission.refusals(of_pod(SERVING, changed(SERVING, *path, to=to))) != []


def test_only_a_pod_with_the_serving_label_is_touched(admission: Admission) -> None:
    stranger = pod()
    assert admission.refusals(of_pod(stranger, changed(stranger, "metadata", "annotations", COST, to="1"))) != []
    labelled = changed(stranger, "metadata", "labels", "foresail.dev/serving", to="false")
    assert admission.refusals(of_pod(stranger, labelled)) != []
    assert admission.refusals(of_pod(stranger, None, "DELETE")) != []
    assert admission.refusals(of_pod(SERVING, None, "DELETE")) == []
    bare = {"metadata": {"name": "p"}, "spec": {}}
    assert admission.refusals(of_pod(bare, None, "DELETE")) != []


# Templates


def workload(kind: str = "Deployment") -> Object:
    template = {"metadata": {"labels": {"app": "llama"}}, "spec": {"containers": [{"name": "engine", "image": "v:1"}]}}
    spec: Object = {"replicas": 3, "selector": {"matchLabels": {"app": "llama"}}, "template": template}
    if kind == "LeaderWorkerSet":
        spec = {"replicas": 3, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}}
    labels = {"foresail.dev/model": "llama"}
    return {"metadata": {"name": "llama-a100", "labels": labels, "annotations": {"a": "b"}}, "spec": spec}


def of_workload(old: Object, new: Object, resource: str = "deployments", group: str = "apps") -> Request:
    return Request("UPDATE", group, resource, new=new, old=old)


TEMPLATE = ("spec", "template")
ENGINE = (*TEMPLATE, "spec", "containers", 0)


def test_a_template_is_restored_and_a_rollout_paused(admission: Admission) -> None:
    old = workload()
    assert admission.refusals(of_workload(old, changed(old, *ENGINE, "image", to="v:0"))) == []
    assert admission.refusals(of_workload(old, changed(old, "spec", "paused", to=True))) == []
    assert admission.refusals(of_workload(changed(old, "spec", "paused", to=True), old)) == []
    noted = changed(old, "metadata", "annotations", "foresail.dev/rolled-back", to="7")
    assert admission.refusals(of_workload(old, noted)) == []
    groups = workload("LeaderWorkerSet")
    image = ("spec", "leaderWorkerTemplate", "workerTemplate", "spec", "containers", 0, "image")
    restored = changed(groups, *image, to="v:0")
    assert admission.refusals(of_workload(groups, restored, "leaderworkersets", "leaderworkerset.x-k8s.io")) == []


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("spec", "replicas"), 30),
        (("spec", "selector", "matchLabels", "app"), "other"),
        (("spec", "minReadySeconds"), 5),
        (("spec", "replicas"), None),
        (("metadata", "labels", "foresail.dev/model"), "other"),
        (("metadata", "annotations", "a"), "c"),
        (("metadata", "finalizers"), ["stuck"]),
        ((*TEMPLATE, "spec", "serviceAccountName"), "cluster-admin"),
        ((*TEMPLATE, "spec", "hostNetwork"), True),
        ((*TEMPLATE, "spec", "hostPID"), True),
        ((*ENGINE, "securityContext"), {"privileged": True}),
        ((*TEMPLATE, "spec", "initContainers"), [{"name": "i", "securityContext": {"privileged": True}}]),
    ],
    ids=str,
)
def test_nothing_else_of_a_workload_is_changed(admission: Admission, path: tuple[str | int, ...], to: Any) -> None:
    old = workload()
    assert admission.refusals(of_workload(old, changed(old, *path, to=to))) != []


def test_a_template_keeps_the_rights_that_it_had(admission: Admission) -> None:
    old = changed(workload(), *TEMPLATE, "spec", "hostNetwork", to=True)
    old = changed(
        changed(old, *ENGINE, "securityContext", to={"privileged": True}),
        *TEMPLATE,
        "spec",
        "serviceAccountName",
        to="engine",
    )
    assert admission.refusals(of_workload(old, changed(old, *ENGINE, "image", to="v:0"))) == []


def test_a_workload_without_our_label_is_not_rolled_back(admission: Admission) -> None:
    old = changed(workload(), "metadata", "labels", to={"app": "billing"})
    assert admission.refusals(of_workload(old, changed(old, *ENGINE, "image", to="v:0"))) != []
    old = changed(old, "metadata", "labels", to=None)
    assert admission.refusals(of_workload(old, changed(old, *ENGINE, "image", to="v:0"))) != []


def test_of_the_status_of_a_rollout_only_abort_changes(admission: Admission) -> None:
    old = {**workload(), "status": {"phase": "Progressing", "canary": {"weight": 20}}}
    abort = changed(old, "status", "abort", to=True)
    assert admission.refusals(of_workload(old, abort, "rollouts/status", "argoproj.io")) == []
    unlabelled = changed(old, "metadata", "labels", to=None)
    assert (
        admission.refusals(
            of_workload(unlabelled, changed(unlabelled, "status", "abort", to=True), "rollouts/status", "argoproj.io")
        )
        != []
    )
    lie = changed(old, "status", "phase", to="Healthy")
    assert admission.refusals(of_workload(old, lie, "rollouts/status", "argoproj.io")) != []


# Routes


def http_route() -> Object:
    def to(*weights: int) -> Object:
        refs = [{"name": f"pool-{i}", "port": 8000, "weight": weight} for i, weight in enumerate(weights)]
        return {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "backendRefs": refs}

    plain = {"filters": [{"type": "RequestRedirect"}]}
    return {"metadata": {"name": "llama"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [to(90, 10), plain]}}


def virtual_service() -> Object:
    routes = [{"destination": {"host": f"pool-{i}"}, "weight": 50} for i in range(2)]
    return {"metadata": {"name": "llama"}, "spec": {"hosts": ["llama"], "http": [{"route": routes, "timeout": "9s"}]}}


ROUTES = {
    "httproutes": (GATEWAY, http_route(), "rules", "backendRefs"),
    "virtualservices": ("networking.istio.io", virtual_service(), "http", "route"),
}


@pytest.mark.parametrize("resource", list(ROUTES))
def test_weights_are_set(admission: Admission, resource: str) -> None:
    group, old, rules, refs = ROUTES[resource]
    new = changed(changed(old, "spec", rules, 0, refs, 0, "weight", to=0), "spec", rules, 0, refs, 1, "weight", to=100)
    assert admission.refusals(Request("UPDATE", group, resource, name="llama", new=new, old=old)) == []
    unset = changed(old, "spec", rules, 0, refs, 0, "weight", to=None)
    assert admission.refusals(Request("UPDATE", group, resource, name="llama", new=unset, old=old)) == []


@pytest.mark.parametrize(
    ("resource", "path", "to"),
    [
        ("httproutes", ("spec", "rules", 0, "backendRefs", 1, "name"), "attacker"),
        ("httproutes", ("spec", "rules", 0, "backendRefs", 1, "namespace"), "elsewhere"),
        ("httproutes", ("spec", "rules", 0, "backendRefs"), [{"name": "pool-0", "port": 8000, "weight": 90}]),
        ("httproutes", ("spec", "rules", 0, "backendRefs"), None),
        ("httproutes", ("spec", "rules", 1, "backendRefs"), [{"name": "pool-0"}]),
        ("httproutes", ("spec", "rules", 0, "matches"), []),
        ("httproutes", ("spec", "rules", 1, "filters"), []),
        ("httproutes", ("spec", "rules", 0, "timeouts"), {"request": "1s"}),
        ("httproutes", ("spec", "rules"), []),
        ("httproutes", ("spec", "parentRefs"), [{"name": "other"}]),
        ("httproutes", ("spec", "hostnames"), ["*"]),
        ("httproutes", ("metadata", "labels"), {"a": "b"}),
        ("httproutes", ("metadata", "annotations"), {"a": "b"}),
        ("httproutes", ("metadata", "finalizers"), ["stuck"]),
        ("virtualservices", ("spec", "http", 0, "route", 0, "destination", "host"), "attacker"),
        ("virtualservices", ("spec", "http", 0, "timeout"), "1s"),
        ("virtualservices", ("spec", "hosts"), ["*"]),
        ("virtualservices", ("spec", "tcp"), []),
        ("virtualservices", ("metadata", "labels"), {"a": "b"}),
        ("virtualservices", ("metadata", "annotations"), {"a": "b"}),
        ("virtualservices", ("metadata", "ownerReferences"), [{"name": "x"}]),
    ],
    ids=str,
)
def test_nothing_else_of_a_route_is_changed(
    admission: Admission, resource: str, path: tuple[str | int, ...], to: Any
) -> None:
    group, old, _, _ = ROUTES[resource]
    request = Request("UPDATE", group, resource, name="llama", new=changed(old, *path, to=to), old=old)
    assert admission.refusals(request) != []


def test_a_rule_beyond_the_sixteenth_is_not_overlooked(admission: Admission) -> None:
    old = virtual_service()
    old["spec"]["http"] = [copy.deepcopy(old["spec"]["http"][0]) for _ in range(17)]
    new = changed(old, "spec", "http", 16, "timeout", to="1s")
    group = "networking.istio.io"
    assert admission.refusals(Request("UPDATE", group, "virtualservices", name="llama", new=new, old=old)) != []


@pytest.mark.parametrize("resource", list(ROUTES))
def test_only_routes_that_are_named_are_written_where_any_is(resource: str) -> None:
    admission = Admission(rendered({**EVERYTHING, "routeNames": ["llama"]}))
    group, old, rules, refs = ROUTES[resource]
    new = changed(old, "spec", rules, 0, refs, 0, "weight", to=1)
    assert admission.refusals(Request("UPDATE", group, resource, name="llama", new=new, old=old)) == []
    assert admission.refusals(Request("UPDATE", group, resource, name="other", new=new, old=old)) != []


# Leases and nodes


@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
def test_one_lease_is_written(admission: Admission, operation: str) -> None:
    group = "coordination.k8s.io"
    for name, namespace, allowed in (
        ("foresail", NAMESPACE, True),
        ("other", NAMESPACE, False),
        ("foresail", "serving", False),
    ):
        lease = {"metadata": {"name": name}}
        old = None if operation == "CREATE" else lease
        request = Request(operation, group, "leases", namespace, "" if operation == "CREATE" else name, lease, old)
        assert (admission.refusals(request) == []) is allowed, (name, namespace)


def test_of_a_node_only_taints_of_our_own_and_unschedulable_change(admission: Admission) -> None:
    theirs = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
    ours = {"key": "foresail.dev/avoid", "effect": "NoSchedule"}
    automatic = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    old = {"metadata": {"name": "n1", "labels": {"zone": "a"}}, "spec": {"podCIDR": "c", "taints": [theirs]}}

    def refused(new: Object, before: Object = old) -> bool:
        return admission.refusals(Request("UPDATE", "", "nodes", "", "n1", new, before)) != []

    avoided = changed(old, "spec", "taints", to=[theirs, ours])
    assert not refused(avoided)
    assert not refused(old, avoided)
    assert not refused(
        changed(changed(old, "spec", "unschedulable", to=True), "spec", "taints", to=[theirs, automatic])
    )
    assert refused(changed(old, "spec", "taints", to=[ours]))
    assert refused(changed(old, "spec", "taints", to=None))
    assert refused(changed(old, "spec", "podCIDR", to="d"))
    assert refused(changed(old, "metadata", "labels", "zone", to="b"))
    assert refused(changed(old, "metadata", "annotations", to={"a": "b"}))
    assert refused(changed(old, "metadata", "finalizers", to=["stuck"]))
    assert not refused(changed(old, "metadata", "annotations", to={"foresail.dev/avoided": "X"}))


# The policies themselves

RESERVED = {
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
}


def test_the_api_server_takes_names_and_messages() -> None:
    """It refuses a policy with a variable that is a reserved word, or a message of several lines."""
    policies = of_kind(rendered(EVERYTHING), "ValidatingAdmissionPolicy")
    assert len(policies) == 9
    for policy in policies:
        spec = policy["spec"]
        names = [variable["name"] for variable in spec.get("variables", ())]
        assert all(re.fullmatch(r"[_a-zA-Z]\w*", name) and name not in RESERVED for name in names)
        assert len(set(names)) == len(names)
        for validation in spec["validations"]:
            assert re.fullmatch(r"\S[^\n]{9,}", validation["message"])
            assert "\n" not in validation["expression"]
        # A variable is there only for what comes after it, so that nothing waits for itself.
        for number, variable in enumerate(spec.get("variables", ())):
            assert set(re.findall(r"variables\.(\w+)", variable["expression"])) <= set(names[:number])
        for validation in spec["validations"]:
            assert set(re.findall(r"variables\.(\w+)", validation["expression"])) <= set(names)
        assert {rule_part for rule in spec["matchConstraints"]["resourceRules"] for rule_part in rule} == {
            "apiGroups",
            "apiVersions",
            "operations",
            "resources",
        }


def test_a_refusal_says_what_was_tried_where() -> None:
    (writes,) = [
        p for p in of_kind(rendered(), "ValidatingAdmissionPolicy") if p["metadata"]["name"].endswith("writes")
    ]
    told = cel.evaluate(
        writes["spec"]["validations"][0]["messageExpression"],
        {"request": scale(3).shown(), "variables": {"target": "apps/deployments/scale", "place": "serving"}},
    )
    assert told == "no feature that is enabled lets Foresail UPDATE apps/deployments/scale in namespace 'serving'"


# Everything else

SURELY_NOT = [
    Request("CREATE", "", "secrets"),
    Request("UPDATE", "", "secrets"),
    Request("CONNECT", "", "pods/exec"),
    Request("CREATE", "", "pods"),
    Request("DELETE", "apps", "deployments"),
    Request("CREATE", "apps", "deployments"),
    Request("DELETE", "", "namespaces", ""),
    Request("CREATE", "rbac.authorization.k8s.io", "clusterrolebindings", ""),
    Request("UPDATE", "", "pods", "kube-system"),
    Request("CREATE", "", "pods/eviction", "kube-system"),
    Request("UPDATE", "", "nodes/status", ""),
    Request("CREATE", "", "serviceaccounts/token"),
]


@pytest.mark.parametrize("request_", SURELY_NOT, ids=lambda r: f"{r.operation}-{r.resource}-{r.namespace}")
def test_what_no_feature_needs_is_refused_whoever_granted_it(admission: Admission, request_: Request) -> None:
    told = replace(request_, new=SERVING, old=SERVING)
    assert "no feature that is enabled lets Foresail do this" in admission.refusals(told)
    assert admission.refusals(replace(told, user="system:serviceaccount:foresail:other")) == []


def test_the_policy_lets_through_exactly_the_writes_that_are_granted(
    admission: Admission, observing: Admission
) -> None:
    verbs = {"create": "CREATE", "update": "UPDATE", "patch": "UPDATE", "delete": "DELETE"}
    kinds, routes = tuple(EVERYTHING["kinds"]), tuple(EVERYTHING["routes"])
    full = Installation(frozenset(Feature), kinds, (("ray.io", "rayservices"),), routes)
    least = Installation(frozenset({Feature.EVENTS}))
    everything = {(rule.group, rule.resource) for rule in permissions(full)}
    for installation, policies, there in ((full, admission, "serving"), (least, observing, NAMESPACE)):
        where = {Scope.WORKLOADS: there, Scope.OWN: NAMESPACE, Scope.CLUSTER: "", Scope.EVENTS_OF_NODES: "default"}
        granted = {
            (where[rule.scope], rule.group, rule.resource, verbs[verb])
            for rule in permissions(installation)
            for verb in rule.verbs
            if verb in verbs
        }
        tried = product({there, NAMESPACE, "", "default", "kube-system"}, everything, set(verbs.values()))
        through = {
            (namespace, *target, operation)
            for namespace, target, operation in tried
            if "no feature that is enabled lets Foresail do this"
            not in policies.refusals(Request(operation, *target, namespace, "x", SERVING, SERVING))
        }
        assert through == granted


def test_what_only_looks_writes_events_and_nothing_else(observing: Admission) -> None:
    event = Request("CREATE", "", "events", NAMESPACE, "", {"metadata": {"generateName": "x"}})
    assert observing.refusals(event) == []
    assert observing.refusals(scale(3)) != []
    assert observing.refusals(of_pod(SERVING, changed(SERVING, "metadata", "annotations", COST, to="1"))) != []


@pytest.mark.parametrize("question", [_ACCESS, _SELF], ids=lambda question: question.plural)
def test_doctor_may_ask_what_foresail_may_do_and_who_it_is(observing: Admission, question: Resource) -> None:
    assert observing.refusals(Request("CREATE", question.group, question.plural, "", "", new={})) == []
    assert observing.refusals(Request("DELETE", question.group, question.plural, "", "", new={})) != []
    for others in ("subjectaccessreviews", "tokenreviews"):
        assert observing.refusals(Request("CREATE", question.group, others, "", "", new={})) != []


def test_each_feature_brings_the_policy_that_bounds_it() -> None:
    brought = {
        "scale": {"scale"},
        "cordon": {"pods"},
        "delete": {"pods"},
        "rollBack": {"workloads"},
        "lease": {"lease"},
        "avoidNodes": {"nodes"},
        "route": {"httproutes", "virtualservices"},
    }
    with_it = {"delete": {"restart": True}, "avoidNodes": {"nodes": True}}  # nothing without the other one
    for feature in FEATURES:
        features = {feature: True, **with_it.get(feature, {})}
        values = {**EVERYTHING, "kinds": ["Deployment"], "replicas": 1, "features": features}
        found = rendered(values)
        names = {one["metadata"]["name"] for one in found if one["kind"] == "ValidatingAdmissionPolicy"}
        expected = {"writes"} | brought.get(feature, set())
        assert names == {f"foresail-foresail-{name}" for name in expected}, feature
