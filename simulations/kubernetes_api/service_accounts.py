"""Who is a service account by its token, and what may it do by the roles that are bound to it?

Roles are looked up at each request, so a binding that is taken away holds no longer. A token lasts until its account is
deleted or expires; that of another server is not known.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from simulations.kubernetes_api.refusals import Json, unauthorized
from simulations.kubernetes_api.store import Key
from simulations.kubernetes_api.writing import Writer, rfc3339

_SHORTEST_S = 600
_PREFIX = "service-account."


class ServiceAccounts:
    """The tokens of the accounts in a store, and what those may do."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._issued: dict[str, tuple[Key, str, float]] = {}

    def issue(self, account: Key, request: Json) -> Json:
        """Return a ``TokenRequest`` with a token.

        Raises:
            Refusal: 404.
        """
        uid = self._writer.held(SERVICE_ACCOUNT, account).value["metadata"]["uid"]
        lasts_s = max(_SHORTEST_S, int((request.get("spec") or {}).get("expirationSeconds", 3600)))
        ends_at = self._writer.clock.now() + lasts_s
        token = f"{_PREFIX}{len(self._issued)}.{uid}"
        self._issued[token] = account, uid, ends_at
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account[1], "namespace": account[0]},
            "spec": request.get("spec") or {},
            "status": {"token": token, "expirationTimestamp": rfc3339(ends_at)},
        }

    def subject(self, authorization: str) -> Subject | None:
        """Return who a token of an account stands for; None where it is no such token.

        Raises:
            Refusal: 401 for one that is not valid any more.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.startswith(_PREFIX):
            return None
        (namespace, name), uid, ends_at = self._issued.get(token.strip(), (("", ""), "", 0.0))
        held = self._writer.store.get(SERVICE_ACCOUNT, (namespace, name))
        if held is None or held.value["metadata"]["uid"] != uid or self._writer.clock.now() >= ends_at:
            raise unauthorized()
        return Subject(f"system:serviceaccount:{namespace}:{name}", tuple(self._rules(namespace, name)))

    def _rules(self, namespace: str, name: str) -> Iterator[Rule]:
        store = self._writer.store
        for kind in (ROLE_BINDING, CLUSTER_ROLE_BINDING):
            for stored in store.all(kind):
                binding = stored.value
                if any(_is_of(one, namespace, name) for one in binding.get("subjects") or ()):
                    place = binding["metadata"].get("namespace", "")
                    yield from self._bound(binding["roleRef"], place)

    def _bound(self, refers: Json, place: str) -> Iterator[Rule]:
        role = ROLE if refers["kind"] == "Role" else CLUSTER_ROLE
        held = self._writer.store.get(role, (place if role is ROLE else "", refers["name"]))
        for rule in (held.value.get("rules") or ()) if held else ():
            yield Rule(
                tuple(rule.get("verbs") or ()),
                tuple(rule.get("resources") or ()),
                tuple(rule.get("apiGroups") or ()),
                tuple(rule.get("resourceNames") or ()),
                (place,) if place else (),
            )


def _is_of(subject: Json, namespace: str, name: str) -> bool:
    told = subject.get("kind"), subject.get("namespace"), subject.get("name")
    return told == ("ServiceAccount", namespace, name)
