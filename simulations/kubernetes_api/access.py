"""Who asks, and may they?

Bearer tokens stand for subjects with RBAC rules; without any subject the server lets everybody do everything, as a
cluster's admin credentials do. Rules only ever allow. A subresource is a resource of its own (``deployments/scale``);
a rule with resource names never allows a create or an unnamed list.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.refusals import Json, Refusal, forbidden, unauthorized


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request wants to do; ``resource`` includes the subresource."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A ``PolicyRule`` with the namespaces in which it is bound; none given: everywhere, as a ClusterRoleBinding."""

    verbs: tuple[str, ...]
    resources: tuple[str, ...]
    groups: tuple[str, ...] = ("",)
    names: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()

    def allows(self, asked: Attributes) -> bool:
        """Return whether the rule covers what is asked."""
        sub = asked.resource.partition("/")[2]
        resources = ("*", asked.resource, f"*/{sub}") if sub else ("*", asked.resource)
        return (
            any(verb in self.verbs for verb in ("*", asked.verb))
            and any(group in self.groups for group in ("*", asked.group))
            and any(resource in self.resources for resource in resources)
            and (not self.names or asked.name in self.names)
            and (not self.namespaces or asked.namespace in self.namespaces)
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a token stands for."""

    user: str
    rules: tuple[Rule, ...] = ()

    def may(self, asked: Attributes) -> bool:
        """Return whether any rule allows what is asked."""
        return any(rule.allows(asked) for rule in self.rules)


ANYBODY = Subject("system:admin", (Rule(("*",), ("*",), ("*",)),))


class Access:
    """The tokens that the server knows; they may change while it runs."""

    def __init__(self, subjects: Iterable[tuple[str, Subject]] = ()) -> None:
        self._lock = threading.Lock()
        self._subjects = dict(subjects)
        self._open = not self._subjects

    def grant(self, token: str, subject: Subject) -> None:
        """Let ``token`` stand for ``subject`` from now on; requests without a known token are refused from then on."""
        with self._lock:
            self._subjects[token] = subject
            self._open = False

    def expire(self, token: str) -> None:
        """Let ``token`` be refused with 401 from now on."""
        with self._lock:
            self._subjects.pop(token, None)
            self._open = False

    def subject(self, authorization: str) -> Subject:
        """Return who asks, from the header ``Authorization``.

        Raises:
            Refusal: 401.
        """
        with self._lock:
            if self._open:
                return ANYBODY
            scheme, _, token = authorization.partition(" ")
            found = self._subjects.get(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise unauthorized()
        return found


def denial(kind: Kind, subject: Subject, asked: Attributes) -> Refusal:
    """Return the 403 of a request that no rule allows, in the words of the RBAC authorizer."""
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    why = f'User "{subject.user}" cannot {asked.verb} resource "{asked.resource}" in API group "{asked.group}" {where}'
    return forbidden(kind, asked.name, why)


def reviewed(subject: Subject, review: Json) -> Json:
    """Return a ``SelfSubjectAccessReview`` with its answer."""
    spec = review.get("spec") or {}
    if (wanted := spec.get("resourceAttributes")) is not None:
        resource, sub = wanted.get("resource", ""), wanted.get("subresource", "")
        asked = Attributes(
            verb=wanted.get("verb", ""),
            group=wanted.get("group", ""),
            resource=f"{resource}/{sub}" if sub else resource,
            namespace=wanted.get("namespace", ""),
            name=wanted.get("name", ""),
        )
        allowed = subject.may(asked)
    else:
        allowed = subject is ANYBODY
    return {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": {"allowed": allowed},
    }


def told_who(subject: Subject) -> Json:
    """Return a ``SelfSubjectReview``: who asks."""
    return {
        "kind": "SelfSubjectReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {},
        "status": {"userInfo": {"username": subject.user, "groups": ["system:authenticated"]}},
    }
