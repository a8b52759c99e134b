"""Service accounts of a test run that have what roles give them, and kubeconfigs that are known by their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import SUITE, Json, Place

_GROUP = "rbac.authorization.k8s.io"
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
ROLES = Resource(_GROUP, "v1", "roles", "Role")
ROLE_BINDINGS = Resource(_GROUP, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = Resource(_GROUP, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(_GROUP, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)


@contextmanager
def service_account(
    place: Place, name: str, folder: Path, rules: Iterable[Json] = (), everywhere: Iterable[Json] = ()
) -> Iterator[Path]:
    """Yield a kubeconfig of an account that has ``rules`` in the namespace, and others in the whole cluster.

    Skips where roles may not be made, or tokens not be asked for.
    """
    hands, subject = place.hands, {"kind": "ServiceAccount", "namespace": place.namespace, "name": name}
    wide = {"name": f"{place.namespace}-{name}", "labels": {"app.kubernetes.io/managed-by": SUITE}}
    made: list[Resource] = []
    try:
        try:
            hands.create(ACCOUNTS, {"metadata": {"name": name}})
            hands.create(ROLES, {"metadata": {"name": name}, "rules": list(rules)})
            refers = {"apiGroup": _GROUP, "kind": "Role", "name": name}
            hands.create(ROLE_BINDINGS, {"metadata": {"name": name}, "roleRef": refers, "subjects": [subject]})
            if wider := list(everywhere):
                place.outside.create(CLUSTER_ROLES, {"metadata": wide, "rules": wider})
                made.append(CLUSTER_ROLES)
                refers = {"apiGroup": _GROUP, "kind": "ClusterRole", "name": wide["name"]}
                body = {"metadata": wide, "roleRef": refers, "subjects": [subject]}
                place.outside.create(CLUSTER_ROLE_BINDINGS, body)
                made.append(CLUSTER_ROLE_BINDINGS)
            token = _token(place, name)
        except ApiRefused as error:
            if error.status != 403:
                raise
            pytest.skip(f"an account with roles may not be made: {error.what}")
        yield _known_by(place, token, folder / f"{name}.kubeconfig")
    finally:
        for resource in made:
            place.outside.delete(resource, wide["name"])


def _token(place: Place, name: str) -> str:
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    return str(place.hands.create(ACCOUNTS, asked, name, "token")["status"]["token"])


def _known_by(place: Place, token: str, file: Path) -> Path:
    """Return a kubeconfig for the same cluster, known by a token."""
    config = yaml.safe_load(place.kubeconfig.read_text())
    context = next(one for one in config["contexts"] if one["name"] == config["current-context"])["context"]
    for cluster in config["clusters"]:
        authority = cluster["cluster"].get("certificate-authority")
        if authority:
            cluster["cluster"]["certificate-authority"] = str(place.kubeconfig.parent / authority)
    context["user"] = "account"
    config["users"] = [{"name": "account", "user": {"token": token}}]
    file.write_text(yaml.safe_dump(config))
    file.chmod(0o600)
    return file
