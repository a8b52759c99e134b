"""By which keys are the items of a list told apart when objects are merged?

The keys are those of the API types' ``patchMergeKey`` (strategic merge patch) and ``x-kubernetes-list-map-keys``
(server-side apply). A list that is not named here is atomic: it is replaced as a whole.
"""

from __future__ import annotations

from typing import Any

_APPLY = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "readinessGates": ("conditionType",),
    "schedulingGates": ("name",),
    "containerPorts": ("containerPort", "protocol"),
    "servicePorts": ("port", "protocol"),
}
_SETS = frozenset({"finalizers"})
ATOMIC_MAPS = frozenset({"selector", "labelSelector", "matchLabels", "nodeSelector"})


def _list_name(name: str, items: list[Any]) -> str:
    """Tell the ports of containers from those of services."""
    if name != "ports":
        return name
    if items and isinstance(items[0], dict):
        return "containerPorts" if "containerPort" in items[0] else "servicePorts"
    return name


def apply_keys(name: str, items: list[Any]) -> tuple[str, ...] | None:
    """Return the keys by which server-side apply tells the items of the list ``name`` apart; None: atomic."""
    keys = _APPLY.get(_list_name(name, items))
    if keys is None or not all(isinstance(item, dict) and keys[0] in item for item in items):
        return None
    return keys


def is_set(name: str) -> bool:
    """Return whether the list is a set of scalars."""
    return name in _SETS


def strategic_key(name: str, items: list[Any]) -> str | None:
    """Return the key by which a strategic merge patch tells the items of the list ``name`` apart; None: replaced."""
    keys = _APPLY.get(_list_name(name, items))
    return keys[0] if keys else None
