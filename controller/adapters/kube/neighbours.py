"""What else in a cluster has a say about each pool: owners of its size, disruption budgets, labels of pods, routes?

It is asked once, for people; the control loop keeps watches of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.discovery import Place, discover
from controller.adapters.kube.handshake import taken
from controller.adapters.kube.json_reading import entries, text, under, words
from controller.adapters.kube.kinds import AUTOSCALERS, INFERENCE_POOLS, PODS, ROUTES, Resource
from controller.adapters.kube.label_selectors import Wanted, selects
from controller.adapters.kube.ownership import (
    VPA,
    Autoscaler,
    Owner,
    autoscaler_of,
    owner_of,
    read_autoscaler,
    writer_of,
)
from controller.adapters.kube.pods import Pod
from controller.adapters.kube.questions import ApiRefused, Question
from controller.adapters.kube.rights import ASKED_AT_ONCE
from controller.adapters.kube.route_pools import RoutePools
from controller.adapters.kube.routes import shares_of
from controller.adapters.kube.settings import KubernetesSettings, RoutePlace
from controller.adapters.kube.unknown_pools import few, pools_of, unknown_pools
from controller.adapters.kube.workloads import Workload
from controller.errors import ObservationError
from policies.fleet import PoolKey, PoolState

MOST_ASKED = 200
"""Pools whose workload is asked for who set its size last."""

_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
_LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
_PAGE, _MOST_PAGES = "500", 20


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """What is around one pool.

    Attributes:
        owner: Who else sets its number of replicas; None where nobody does, or it was not asked.
        recreator: The VerticalPodAutoscaler that ends its pods.
        budgets: Disruption budgets that hold for its pods.
        unlabelled: Its pods that cannot be taken out of traffic, for want of the serving label.
    """

    workload: Workload
    state: PoolState
    owner: Owner | None
    recreator: Autoscaler | None
    budgets: tuple[str, ...]
    unlabelled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """A disruption budget, and what tells the labels of its pods."""

    name: str
    namespace: str
    wants: Wanted


def workloads_of(view: KubernetesView, settings: KubernetesSettings) -> tuple[list[Workload], Mapping[str, Place]]:
    """Return every workload that is read, and the places of those that are pools by uid; raises ObservationError."""
    kinds = {*settings.kinds, *(custom.kind for custom in settings.custom_kinds)}
    found = [one for resource in view.reflectors if resource.kind in kinds for one in _held(view, settings, resource)]
    places, _ = discover(found, _held(view, settings, INFERENCE_POOLS), settings)
    return found, places


def neighbourhoods(
    view: KubernetesView,
    settings: KubernetesSettings,
    at: float,
    autoscalers: Sequence[Autoscaler],
    budgets: Sequence[Budget],
) -> list[Neighbourhood]:
    """Return what is around each pool at ``at``, in key order; raises ObservationError."""
    states = {state.key: state for state in view.pools()}
    workloads, places = workloads_of(view, settings)
    placed = [(one, states.get(places[one.uid].key)) for one in workloads if one.uid in places]
    pools = sorted([(one, state) for one, state in placed if state], key=lambda pool: pool[1].key)
    pods: list[Pod] = _held(view, settings, PODS)
    resources = {resource.kind: resource for resource in view.reflectors}
    with ThreadPoolExecutor(ASKED_AT_ONCE, "owner") as threads:
        told = list(threads.map(lambda pool: _told(view.api, resources[pool[0].kind], pool[0]), pools[:MOST_ASKED]))
    told += [{}] * (len(pools) - len(told))
    paths = {custom.kind: custom.replicas_path.split(".") for custom in settings.custom_kinds}
    found = []
    for (one, state), document in zip(pools, told, strict=True):
        place = one.namespace, one.kind, one.name
        writer = writer_of(document, paths.get(one.kind, ("spec", "replicas")))
        owner = owner_of(autoscaler_of(*place, autoscalers), writer, one.created_at, at, settings.ownership)
        ids = {replica.id for replica in state.replicas}
        own = [pod for pod in pods if pod.namespace == one.namespace and pod.name in ids]
        labels = _labels(one, own)
        found.append(
            Neighbourhood(
                workload=one,
                state=state,
                owner=owner,
                recreator=autoscaler_of(*place, autoscalers, of=VPA),
                budgets=tuple([b.name for b in budgets if b.namespace == one.namespace and b.wants(labels)]),
                unlabelled=tuple(
                    [p.name for p in own if p.labels.get(settings.serving_label) not in ("true", "false")]
                ),
            )
        )
    return found


def route_troubles(api: KubernetesApi, route: RoutePlace, pools: Sequence[PoolKey] | None) -> list[str]:
    """Return what is wrong with a route; ``pools`` are those that there are, None where that is not known.

    Raises:
        ObservationError: If the server does not say.
    """
    troubles = [_trouble_of_object(api, route)]
    if pools is not None:
        named = pools_of(route)
        rest = [str(key) for key in pools if key.model == route.model and key not in named]
        left_out = f"its settings name no backend for {few(rest)}, which gets no traffic of it" if rest else ""
        troubles += [unknown_pools(route, pools) or ("" if troubles[0] else left_out)]
    return [trouble for trouble in troubles if trouble]


def _trouble_of_object(api: KubernetesApi, route: RoutePlace) -> str:
    """Return what is wrong with a route itself, empty where nothing is; raises ObservationError."""
    try:
        told = api.get(ROUTES[route.kind], route.namespace, route.name)
    except ApiRefused as error:
        if error.status != 404:
            raise
        return "it is not there"
    try:
        shares_of(route.kind, told, RoutePools.of(route.model, route.backends).backends)
    except ObservationError as error:
        return error.what
    return taken(route.kind, told)


def lease_of(api: KubernetesApi, namespace: str, name: str) -> str:
    """Return what is to be said of a lease: who holds it; raises ObservationError where the server does not say."""
    try:
        told = api.get(_LEASES, namespace, name)
    except ApiRefused as error:
        if error.status != 404:
            raise
        return "not there yet: the first replica that runs makes it"
    holder, renewed = text(told, "spec", "holderIdentity"), text(told, "spec", "renewTime")
    return f"held by {holder}, renewed at {renewed or 'no time'}" if holder else "held by nobody"


def _held(view: KubernetesView, settings: KubernetesSettings, resource: Resource) -> list[Any]:
    reflectors = view.reflectors.get(resource, ())
    return [one for each in reflectors for one in each.store.snapshot(settings.stale_after_s).objects.values()]


def _told(api: KubernetesApi, resource: Resource, workload: Workload) -> dict[str, Any]:
    """Return a workload with what the server notes of each field; empty where it is gone, or not for us to see."""
    try:
        return api.get(resource, workload.namespace, workload.name)
    except ApiRefused:
        return {}


def autoscalers_of(api: KubernetesApi, settings: KubernetesSettings, kind: str) -> Iterator[Autoscaler]:
    """Yield every autoscaler of a kind; raises ObservationError."""
    for told in _all(api, AUTOSCALERS[kind], settings):
        found = read_autoscaler(told, kind)
        if found is not None:
            yield found


def budgets_of(api: KubernetesApi, settings: KubernetesSettings) -> Iterator[Budget]:
    """Yield every disruption budget that selects anything; raises ObservationError."""
    for told in _all(api, _BUDGETS, settings):
        wants = _wants(under(told, "spec", "selector"))
        if wants is not None:
            yield Budget(text(told, "metadata", "name"), text(told, "metadata", "namespace"), wants)


def _wants(selector: object) -> Wanted | None:
    """Return what tells whether labels are selected; an empty selector selects all, none at all nothing."""
    if not isinstance(selector, dict):
        return None
    forms = {"In": "{0} in ({1})", "NotIn": "{0} notin ({1})", "Exists": "{0}", "DoesNotExist": "!{0}"}
    terms = [f"{key}={said}" for key, said in words(selector, "matchLabels").items()]
    for entry in entries(selector, "matchExpressions"):
        values = under(entry, "values")
        listed = ",".join(str(value) for value in values) if isinstance(values, list) else ""
        terms.append(forms.get(text(entry, "operator"), "?").format(text(entry, "key"), listed))
    return selects(",".join(terms)) if terms else lambda _: True


def _labels(workload: Workload, pods: Sequence[Pod]) -> Mapping[str, str]:
    """Return the labels of a workload's pods: those of its newest, or of its template."""
    if pods:
        return max(pods, key=lambda pod: pod.created_at).labels
    return workload.template.labels if workload.template else {}


def _all(api: KubernetesApi, resource: Resource, settings: KubernetesSettings) -> Iterator[dict[str, Any]]:
    """Yield the objects of a kind, as many as fit into a few pages."""
    for namespace in settings.namespaces:
        question = Question("list", resource, "" if namespace == "*" else namespace)
        query = {"limit": _PAGE}
        for _ in range(_MOST_PAGES):
            page = api.page(question, query)
            yield from entries(page, "items")
            more = text(page, "metadata", "continue")
            if not more:
                break
            query = {"limit": _PAGE, "continue": more}
