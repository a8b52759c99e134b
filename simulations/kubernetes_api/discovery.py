"""What does the API server say that it serves?

The unaggregated form of discovery, which every client falls back to, ``/version``, and as much of OpenAPI v3 as
``kubectl`` reads before it leaves the validation of fields to the server.
"""

from __future__ import annotations

from simulations.kubernetes_api.kinds import Catalogue, Kind
from simulations.kubernetes_api.refusals import Json

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-04-22T00:00:00Z",
    "goVersion": "go1.26",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def _resource(kind: Kind) -> list[Json]:
    own: Json = {
        "name": kind.plural,
        "singularName": kind.kind.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": _VERBS,
    }
    if kind.short:
        own["shortNames"] = list(kind.short)
    found = [own]

    def sub(name: str, shown: str, verbs: list[str], group: str = "", version: str = "") -> None:
        entry: Json = {
            "name": f"{kind.plural}/{name}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": shown,
            "verbs": verbs,
        }
        if group:
            entry |= {"group": group, "version": version}
        found.append(entry)

    if kind.status:
        sub("status", kind.kind, ["get", "patch", "update"])
    if kind.scale:
        sub("scale", "Scale", ["get", "patch", "update"], "autoscaling", "v1")
    if kind.plural == "pods":
        sub("eviction", "Eviction", ["create"], "policy", "v1")
    if kind.plural == "serviceaccounts":
        sub("token", "TokenRequest", ["create"], "authentication.k8s.io", "v1")
    return found


def _groups(catalogue: Catalogue) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for kind in catalogue.kinds:
        if kind.group and kind.version not in groups.setdefault(kind.group, []):
            groups[kind.group].append(kind.version)
    groups["authorization.k8s.io"] = ["v1"]
    return groups


def _group(name: str, versions: list[str]) -> Json:
    told = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": told, "preferredVersion": told[0]}


def _resources(catalogue: Catalogue, group: str, version: str) -> Json | None:
    found = [
        entry for kind in catalogue.kinds if (kind.group, kind.version) == (group, version) for entry in _resource(kind)
    ]
    if (group, version) == ("authorization.k8s.io", "v1"):
        found = [
            {
                "name": "selfsubjectaccessreviews",
                "singularName": "selfsubjectaccessreview",
                "namespaced": False,
                "kind": "SelfSubjectAccessReview",
                "verbs": ["create"],
            }
        ]
    if not found:
        return None
    label = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": label, "resources": found}


def _open_api(catalogue: Catalogue, group: str, version: str) -> Json:
    """Say of every resource of a version that its PATCH takes ``fieldValidation``."""
    base = f"/apis/{group}/{version}" if group else f"/api/{version}"
    paths: Json = {}
    for kind in catalogue.kinds:
        if (kind.group, kind.version) != (group, version):
            continue
        place = f"{base}/namespaces/{{namespace}}" if kind.namespaced else base
        asked = {"group": group, "version": version, "kind": kind.kind}
        query = {"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        paths[f"{place}/{kind.plural}/{{name}}"] = {
            "patch": {"x-kubernetes-group-version-kind": asked, "parameters": [query], "responses": {}}
        }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": paths}


def _open_api_index(catalogue: Catalogue) -> Json:
    places = {f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}" for kind in catalogue.kinds}
    return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in sorted(places)}}


def _open_api_at(catalogue: Catalogue, place: list[str]) -> Json | None:
    match place:
        case []:
            return _open_api_index(catalogue)
        case ["api", version]:
            return _open_api(catalogue, "", version)
        case ["apis", group, version]:
            return _open_api(catalogue, group, version)
    return None


def discovered(catalogue: Catalogue, path: str) -> Json | None:
    """Return the document at a discovery path, or None where there is none."""
    match path.strip("/").split("/"):
        case ["version"]:
            return dict(VERSION)
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = [_group(name, versions) for name, versions in _groups(catalogue).items()]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["apis", group]:
            versions = _groups(catalogue).get(group)
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions)} if versions else None
        case ["api", version]:
            return _resources(catalogue, "", version)
        case ["apis", group, version]:
            return _resources(catalogue, group, version)
        case ["openapi", "v3", *place]:
            return _open_api_at(catalogue, place)
    return None
