"""What does the API server answer to a request?

Everything but HTTP itself: who asks, whether they may, what is meant, and the store's answer. ``faults`` are met by
what comes over HTTP only; what runs in the process calls ``Api.call``, which meets none and may do everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from controller.ports import Clock
from simulations.kubernetes_api.access import ANYBODY, Access, Subject, denial, reviewed, told_who
from simulations.kubernetes_api.bodies import alteration_of, deletion_of, object_of, write_of
from simulations.kubernetes_api.deleting import delete
from simulations.kubernetes_api.discovery import discovered
from simulations.kubernetes_api.eviction import evict
from simulations.kubernetes_api.forms import in_form
from simulations.kubernetes_api.kinds import NAMESPACE, NODE, POD, SERVICE_ACCOUNT, Catalogue
from simulations.kubernetes_api.listing import listed
from simulations.kubernetes_api.refusals import (
    Faults422,
    Json,
    Refusal,
    method_not_allowed,
    no_such_resource,
    success,
)
from simulations.kubernetes_api.requests import Aim, Answer, Request, aim_of, answer, path_of, refused
from simulations.kubernetes_api.scale import scale_of, with_scale
from simulations.kubernetes_api.service_accounts import ServiceAccounts
from simulations.kubernetes_api.store import Store
from simulations.kubernetes_api.trail import Trail
from simulations.kubernetes_api.watching import Watch
from simulations.kubernetes_api.writing import Alteration, Write, Writer

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
FIRST_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


_DONE = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _given(document: Json) -> Alteration:
    return lambda _: document


class Api:
    """The API server without its HTTP.

    Args:
        catalogue: Which resources it serves.
        clock: Where timestamps come from.
        elapsed: Seconds of a clock that never goes back; watches end by it.
        seed: Of uids and generated names.
        access: Who may do what.
        kept_changes: Changes that each resource's log keeps.
        bookmark_every_s: Seconds between bookmarks.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        clock: Clock,
        elapsed: Callable[[], float],
        *,
        seed: int = 0,
        access: Access | None = None,
        kept_changes: int = 20_000,
        bookmark_every_s: float = 60.0,
    ) -> None:
        self.catalogue, self.access = catalogue, access or Access()
        self.store = Store(kept_changes)
        self.writer = Writer(self.store, clock, np.random.default_rng(seed))
        self.trail = Trail(self.store, clock.now)
        self.accounts = ServiceAccounts(self.writer)
        self._elapsed, self._bookmark_every_s = elapsed, bookmark_every_s
        self.closed = False
        self.watches_dropped = 0
        for name in FIRST_NAMESPACES:
            self.writer.create(NAMESPACE, "", {"metadata": {"name": name}}, Write("kube-apiserver"))

    def call(self, method: str, target: str, body: Any = None, content_type: str = "application/json") -> Json:
        """Answer a request from within the process as the cluster's admin.

        Raises:
            Refusal: What a client would have got as a ``Status``.
        """
        headers = {"content-type": content_type, "user-agent": "kube-controller-manager/v1.36.0"}
        sent = b"" if body is None else json.dumps(body).encode()
        told: Json = json.loads(self._answer(Request(method, target, sent, headers), ANYBODY).text)
        return told

    def drop_watches(self) -> None:
        """End every watch that is open, as a proxy in between or a restart of the server does."""
        with self.store.changed:
            self.watches_dropped += 1
            self.store.changed.notify_all()

    def close(self) -> None:
        """End every watch; none is opened from then on."""
        self.closed = True
        self.drop_watches()

    def aim(self, request: Request) -> Aim | None:
        """Return what a request is about, or None where it is about no resource."""
        return aim_of(self.catalogue, request.method, *path_of(request.target))

    def answer(self, request: Request) -> Answer:
        """Answer a request; every refusal is an answer too."""
        try:
            return self._answer(request, self._subject(request.header("Authorization")))
        except Refusal as refusal:
            return refused(refusal)

    def _subject(self, authorization: str) -> Subject:
        return self.accounts.subject(authorization) or self.access.subject(authorization)

    def _answer(self, request: Request, subject: Subject) -> Answer:
        path, params = path_of(request.target)
        aim = aim_of(self.catalogue, request.method, path, params)
        if aim is None:
            return self._apart(request, path, subject)
        if not subject.may(aim.attributes):
            raise denial(aim.kind, subject, aim.attributes)
        if aim.kind.namespaced and not aim.namespace and aim.verb not in ("list", "watch"):
            raise method_not_allowed()
        answering = self._subresource if aim.subresource else self._resource
        if subject is ANYBODY:
            told = answering(request, aim)
        else:
            told = self.trail.follow(aim, subject.user, request.body, lambda: answering(request, aim))
        return in_form(request.header("Accept"), aim, told)

    def _apart(self, request: Request, path: str, subject: Subject) -> Answer:
        if path in ("/healthz", "/livez", "/readyz"):
            return Answer(200, "ok", content_type="text/plain; charset=utf-8")
        if path == _REVIEWS and request.method == "POST":
            return answer(201, reviewed(subject, request.object()))
        if path == _WHO and request.method == "POST":
            return answer(201, told_who(subject))
        document = discovered(self.catalogue, path) if request.method == "GET" else None
        if document is None:
            if path.startswith(("/api/", "/apis/", "/openapi/")):
                return Answer(404, "404 page not found\n", content_type="text/plain; charset=utf-8")
            raise no_such_resource()
        return answer(200, document)

    def _resource(self, request: Request, aim: Aim) -> Answer:
        match aim.verb:
            case "list":
                page = listed(self.store, aim.kind, aim.namespace if aim.kind.namespaced else "", aim.params)
                return Answer(200, page.text(aim.kind))
            case "watch":
                return Answer(200, stream=self._watch(aim).events())
            case "get":
                return Answer(200, self.writer.held(aim.kind, aim.key).text)
            case "create" if not aim.name:
                body = object_of(request, aim)
                made = self.writer.create(aim.kind, aim.namespace, body, write_of(request, aim))
                return Answer(201, made.text)
            case "update" if aim.name:
                body = object_of(request, aim)
                return Answer(200, self.writer.update(aim.kind, aim.key, body, write_of(request, aim)).text)
            case "patch" if aim.name:
                return self._patch(request, aim)
            case "delete":
                return self._delete(request, aim)
            case "deletecollection":
                return self._delete_collection(request, aim)
        raise method_not_allowed()

    def _watch(self, aim: Aim) -> Watch:
        dropped = self.watches_dropped
        params = dict(aim.params)
        if aim.name:
            params["fieldSelector"] = f"metadata.name={aim.name}"
        return Watch(
            self.store,
            aim.kind,
            aim.namespace if aim.kind.namespaced else "",
            params,
            self._elapsed,
            self._bookmark_every_s,
            wanted=lambda: not self.closed and self.watches_dropped == dropped,
        )

    def _patch(self, request: Request, aim: Aim) -> Answer:
        if "apply-patch" in request.header("Content-Type"):
            return self._apply(request, aim)
        changed = self.writer.patch(aim.kind, aim.key, alteration_of(request, aim), write_of(request, aim))
        return Answer(200, changed.text)

    def _apply(self, request: Request, aim: Aim) -> Answer:
        if not aim.params.get("fieldManager"):
            faults = Faults422()
            faults.required("fieldManager", "is required for apply patch")
            faults.refuse(aim.kind, "", as_kind="PatchOptions", as_group="meta.k8s.io")
        force = aim.params.get("force") in ("true", "1")
        stored, created = self.writer.apply(
            aim.kind, aim.key, object_of(request, aim), write_of(request, aim), force=force
        )
        return Answer(201 if created else 200, stored.text)

    def _delete(self, request: Request, aim: Aim) -> Answer:
        stored, gone = delete(self.writer, aim.kind, aim.key, deletion_of(request, aim))
        if gone and aim.kind.plural not in ("pods", "services"):
            return answer(200, success(aim.kind, aim.name, stored.value["metadata"]["uid"]))
        return Answer(200, stored.text)

    def _delete_collection(self, request: Request, aim: Aim) -> Answer:
        how = deletion_of(request, aim)
        with self.store.changed:
            page = listed(self.store, aim.kind, aim.namespace, aim.params)
            for item in page.items:
                metadata = item.value["metadata"]
                delete(self.writer, aim.kind, (metadata.get("namespace", ""), metadata["name"]), how)
        return Answer(200, page.text(aim.kind))

    def _subresource(self, request: Request, aim: Aim) -> Answer:
        match aim.subresource, aim.verb:
            case "status", "get" if aim.kind.status:
                return Answer(200, self.writer.held(aim.kind, aim.key).text)
            case "status", "update" if aim.kind.status:
                body = object_of(request, aim)
                return Answer(200, self.writer.update(aim.kind, aim.key, body, write_of(request, aim)).text)
            case "status", "patch" if aim.kind.status:
                return self._patch(request, aim)
            case "scale", _ if aim.kind.scale:
                return self._scale(request, aim)
            case "eviction", "create" if aim.kind is POD:
                evict(self.writer, aim.key, request.object(), dry_run=aim.dry_run)
                return answer(201, _DONE)
            case "binding", "create" if aim.kind is POD:
                self._bind(request, aim)
                return answer(201, _DONE)
            case "token", "create" if aim.kind is SERVICE_ACCOUNT:
                return answer(201, self.accounts.issue(aim.key, request.object()))
        raise no_such_resource()

    def _scale(self, request: Request, aim: Aim) -> Answer:
        paths = aim.kind.scale
        if paths is None:
            raise no_such_resource()
        if aim.verb == "get":
            return answer(200, scale_of(paths, self.writer.held(aim.kind, aim.key).value))
        if aim.verb == "update":
            asked = request.object()
            change = _given(asked)
        elif aim.verb == "patch":
            change = alteration_of(request, aim)
        else:
            raise method_not_allowed()

        def scaled(value: Json) -> Json:
            return with_scale(aim.kind, paths, value, change(scale_of(paths, value)))

        changed = self.writer.patch(aim.kind, aim.key, scaled, write_of(request, aim))
        return answer(200, scale_of(paths, changed.value))

    def _bind(self, request: Request, aim: Aim) -> None:
        node = str((request.object().get("target") or {}).get("name", ""))
        self.writer.held(NODE, ("", node))

        def bound(value: Json) -> Json:
            if value["spec"].get("nodeName"):
                why = f'pod {aim.name} is already assigned to node "{value["spec"]["nodeName"]}"'
                raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{aim.name}": {why}')
            value["spec"]["nodeName"] = node
            return value

        self.writer.patch(POD, aim.key, bound, write_of(request, aim))
