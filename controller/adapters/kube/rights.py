"""What does an API server say of itself and of us: version, clock, who we are, what it serves, and what we may do?

Everything here is asked; nothing is written. Reviews are sent as creations, and no server keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

from controller.adapters.kube.changes import Change
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.installation import Right
from controller.adapters.kube.json_reading import entries, flag, text
from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.questions import ApiRefused, Question, Unreached

ASKED_AT_ONCE = 8

_ACCESS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
_SELF = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False)
_NOT_THERE = (403, 404, 405)
_BUSY = (429, 500, 502, 503, 504)
_TRIES, _SHORTEST_WAIT_S, _LONGEST_WAIT_S = 3, 0.2, 5.0


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself.

    Attributes:
        version: As it calls itself.
        clock_ahead_s: How far its clock is ahead of ours, to within a second; NaN where it does not tell the time.
    """

    version: str
    clock_ahead_s: float


@dataclass(frozen=True, slots=True)
class _Document(Resource):
    """What a server tells at a path of its own, which is its plural here."""

    def path(self, namespace: str = "") -> str:
        return self.plural


def server_facts(api: KubernetesApi, now: Callable[[], float]) -> ServerFacts:
    """Return what the server says of itself; raises ObservationError where it says nothing."""
    before = now()
    told, date = api.dated(_document("/version"), {})
    middle = (before + now()) / 2
    try:
        at = parsedate_to_datetime(date).timestamp() + 0.5  # whole seconds are told
    except (TypeError, ValueError):
        at = math.nan
    return ServerFacts(text(told, "gitVersion") or "of no version", round(at - middle, 1))


def user_of(api: KubernetesApi) -> str:
    """Return as whom the server knows us; empty where it does not tell (before Kubernetes 1.28).

    Raises:
        ObservationError: If it does not answer, or does not know us at all.
    """
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": _SELF.kind}
    try:
        return text(_asked(api, Change(Question("create", _SELF), body)), "status", "userInfo", "username")
    except ApiRefused as error:
        if error.status not in _NOT_THERE:
            raise
        return ""


def served(api: KubernetesApi, group: str, version: str) -> frozenset[str]:
    """Return the resources of a version of an API group, subresources after a slash; none where it is not served.

    Raises:
        ObservationError: If the server does not say.
    """
    path = f"/apis/{group}/{version}" if group else f"/api/{version}"
    try:
        told = api.page(_document(path), {})
    except ApiRefused as error:
        if error.status != 404:
            raise
        return frozenset()
    return frozenset(text(entry, "name") for entry in entries(told, "resources"))


def unserved(api: KubernetesApi, kinds: Iterable[Resource]) -> list[Resource]:
    """Return those of ``kinds`` that the server has not got; raises ObservationError where it does not say."""
    known: dict[tuple[str, str], frozenset[str]] = {}
    missing = []
    for kind in kinds:
        version = kind.group, kind.version
        if version not in known:
            known[version] = served(api, *version)
        if kind.plural not in known[version]:
            missing.append(kind)
    return missing


def missing_rights(api: KubernetesApi, rights: Sequence[Right]) -> list[Right]:
    """Return those of ``rights`` that we have not got, a few asked at a time.

    Raises:
        ObservationError: At the first that the server does not answer at any of several tries; no more are asked then.
    """
    with ThreadPoolExecutor(ASKED_AT_ONCE, "right") as threads:
        answers = list(threads.map(lambda right: _may(api, right), rights))
    return [right for right, allowed in zip(rights, answers, strict=True) if not allowed]


def _may(api: KubernetesApi, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    told = {
        "verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource,
        "namespace": right.namespace, "name": right.name,
    }  # fmt: skip
    spec = {"resourceAttributes": {name: said for name, said in told.items() if said}}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": _ACCESS.kind, "spec": spec}
    return flag(_asked(api, Change(Question("create", _ACCESS), body)), "status", "allowed")


def _asked(api: KubernetesApi, review: Change) -> dict[str, Any]:
    """Return the answer to a review, which may be asked again: nothing becomes of it."""
    for _ in range(_TRIES - 1):
        wait_s = 0.0
        try:
            return api.change(review)
        except Unreached:
            pass
        except ApiRefused as error:
            if error.status not in _BUSY:
                raise
            wait_s = error.retry_after_s
        Event().wait(min(max(wait_s, _SHORTEST_WAIT_S), _LONGEST_WAIT_S))
    return api.change(review)


def _document(path: str) -> Question:
    return Question("get", _Document("", "", path, "document", False))
