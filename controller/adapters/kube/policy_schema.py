"""What may a ScalingPolicy say? Its definition, whose schema is made from the settings models it stands for.

A field is called as in the settings, in the API's manner: ``min_replicas`` is ``minReplicas``, ``ttft_s`` is
``ttftSeconds``. What is left out has the default of the settings. Bounds are those of the models, so that the API
server refuses what the daemon would refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from controller.modes import Mode, WorkloadModes
from policies.fleet import Role
from policies.placement import PoolSettings
from policies.slo import ServiceObjective

GROUP, VERSION, KIND, PLURAL = "foresail.dev", "v1alpha1", "ScalingPolicy", "scalingpolicies"
MOST_POOLS = 16
"""Of one model; a route has no more destinations."""

Schema = dict[str, Any]

_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
_KEPT = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern")


def json_name(field: str) -> str:
    """Return what a field of the settings is called in the API.

    >>> json_name("min_replicas"), json_name("window_s")
    ('minReplicas', 'windowSeconds')
    """
    words = field.split("_")
    words[-1] = "seconds" if words[-1] == "s" and len(words) > 1 else words[-1]
    return words[0] + "".join(word.capitalize() for word in words[1:])


def definition() -> Schema:
    """Return the CustomResourceDefinition."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": _columns(),
        "schema": {"openAPIV3Schema": _policy()},
    }
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower(), "shortNames": ["sp"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _columns() -> list[Schema]:
    shown = (
        ("Model", "string", ".spec.model"),
        ("Target", "integer", ".status.target"),
        ("Current", "integer", ".status.current"),
        ("Desired", "integer", ".status.desired"),
        ("Forecast", "string", ".status.forecast"),
        ("Mode", "string", ".status.mode"),
        ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status'),
        ("Why", "string", ".status.why"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    return [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in shown]


def _policy() -> Schema:
    spec = _object(
        {
            "model": {**_NAME, "description": "The model, as its engines and its metrics name it."},
            "pools": _pools(),
            "objective": _of(ServiceObjective),
            "modes": _of(WorkloadModes),
        },
        required=("model", "pools"),
    )
    spec["description"] = "What is asked for one model, in place of what the settings file says of it."
    about = "How one model is scaled, healed and routed by Foresail."
    return {**_object({"spec": spec, "status": _status()}, required=("spec",)), "description": about}


def _pools() -> Schema:
    own = {
        "pool": {**_NAME, "description": "Name of the pool."},
        "role": {
            "type": "string",
            "enum": [str(role) for role in Role],
            "default": str(Role.UNIFIED),
            "description": "What part of a request it serves.",
        },
        "workload": _object(
            {
                "kind": {**_NAME, "description": "Such as Deployment."},
                "name": {**_NAME, "description": "Its name, in the namespace of the policy."},
            },
            required=("kind", "name"),
        ),
    }
    pool = _of(PoolSettings)
    profile = {**_NAME, "description": "Name of an engine profile of the catalogue: foresail profile list."}
    pool["properties"] = own | pool["properties"] | {"profile": profile}
    pool["required"] = ["pool", "profile"]
    pool["x-kubernetes-validations"] = [
        {
            "rule": "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "message": "minReplicas is more than maxReplicas",
        }
    ]
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_POOLS,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["pool", "role"],
        "items": pool,
        "description": "Pools of replicas that serve the model.",
    }


def _status() -> Schema:
    count: Schema = {"type": "integer", "minimum": 0}
    condition = _object(
        {
            "type": {"type": "string", "maxLength": 316},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
            "message": {"type": "string", "maxLength": 32768},
        },
        required=("type", "status", "lastTransitionTime", "reason", "message"),
    )
    status = _object(
        {
            "observedGeneration": {**count, "description": "Generation of the spec that is in use."},
            "target": {**count, "description": "Replicas that the load asks for, before guardrails."},
            "current": {**count, "description": "Replicas that there are."},
            "desired": {**count, "description": "Replicas that were decided on."},
            "forecast": {"type": "string", "description": "Load that is forecast for the lead time."},
            "mode": {"type": "string", "enum": [str(mode) for mode in Mode], "description": "How far scaling may go."},
            "why": {"type": "string", "maxLength": 1024, "description": "The reason that decided."},
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": condition,
            },
        }
    )
    return {**status, "description": "What became of it, as of the newest tick."}


def _object(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    return {"type": "object", **({"required": list(required)} if required else {}), "properties": dict(properties)}


def _of(model: type[BaseModel]) -> Schema:
    """Return the schema of a settings model; what holds a model of its own is left to be described by hand."""
    told = model.model_json_schema()
    definitions = told.get("$defs", {})
    properties = {}
    for field, schema in told["properties"].items():
        plain = _plain(schema, definitions)
        if plain["type"] != "object":
            properties[json_name(field)] = plain
    return {**_object(properties), "description": told["description"].partition("\n\n")[0]}


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Return ``schema`` as the API server wants it: no references, no null, exclusive bounds as flags."""
    inner = dict(schema)
    for choice in inner.pop("anyOf", ()):
        if choice.get("type") != "null":
            inner |= choice
    if reference := inner.pop("$ref", ""):
        inner = {**definitions[reference.rpartition("/")[2]], **inner}
    plain = {key: inner[key] for key in _KEPT if key in inner}
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if exclusive in inner:
            plain |= {bound: inner[exclusive], exclusive: True}
    default = "" if inner.get("default") is None else f" Default {inner['default']:g}."
    return {**plain, "description": f"{inner['description']}{default}"}
