"""What does a Deployment's status say, and is its rollout complete?

``Available`` compares with what the strategy may leave unavailable. ``Progressing`` becomes False with the reason
``ProgressDeadlineExceeded`` when nothing has moved for ``progressDeadlineSeconds``; not while paused, and not once the
rollout was complete.
"""

from __future__ import annotations

from calendar import timegm
from datetime import datetime

from simulations.kubernetes_api.controllers.owned import condition, with_condition
from simulations.kubernetes_api.controllers.rollout_arithmetic import room_of
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.writing import rfc3339

_COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")


def instant(text: str) -> float:
    """Return a timestamp of an object as seconds since the epoch."""
    return float(timegm(datetime.fromisoformat(text).utctimetuple()))


def _sum(sets: list[Json], name: str) -> int:
    return sum(one["status"].get(name, 0) for one in sets)


def status_of(deployment: Json, new: Json | None, old: list[Json], now: float) -> tuple[Json, bool]:
    """Return the fields of the status as they are now, and whether the rollout is complete."""
    wanted = deployment["spec"]["replicas"]
    sets = [*([new] if new else []), *old]
    available, asked = _sum(sets, "availableReplicas"), sum(one["spec"]["replicas"] for one in sets)
    status: Json = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": _sum(sets, "replicas"),
        "updatedReplicas": _sum([new] if new else [], "replicas"),
        "readyReplicas": _sum(sets, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, asked - available),
    }
    complete = status["updatedReplicas"] == status["replicas"] == status["availableReplicas"] == wanted
    least = wanted - room_of(deployment["spec"]["strategy"], wanted).unavailable
    conditions = with_condition(
        deployment, rfc3339(now), **_available(available >= least, _held(deployment, "Available", now))
    )
    told = {**deployment, "status": {**deployment["status"], "conditions": conditions}}
    if (progress := _progress(deployment, new, status, complete=complete, now=now)) is not None:
        conditions = with_condition(told, rfc3339(now), **progress)
    status["conditions"] = conditions
    return status, complete


def _held(deployment: Json, sort: str, now: float) -> Json:
    return condition(deployment, sort) or {"lastUpdateTime": rfc3339(now)}


def _available(enough: bool, held: Json) -> dict[str, str]:
    status = "True" if enough else "False"
    return {
        "type": "Available",
        "status": status,
        "lastUpdateTime": held["lastUpdateTime"],
        "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        "message": f"Deployment {'has' if enough else 'does not have'} minimum availability.",
    }


def _progress(deployment: Json, new: Json | None, status: Json, *, complete: bool, now: float) -> dict[str, str] | None:
    held = condition(deployment, "Progressing")
    name = new["metadata"]["name"] if new else deployment["metadata"]["name"]
    if deployment["spec"].get("paused"):
        return _condition("Unknown", "DeploymentPaused", "Deployment is paused", held, now)
    if complete and new:
        return _condition(
            "True", "NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.', held, now
        )
    if held is None:
        return _condition("True", "NewReplicaSetCreated", f'Created new replica set "{name}"', held, now)
    if held["reason"] == "DeploymentPaused":
        return _condition("Unknown", "DeploymentResumed", "Deployment is resumed", held, now)
    if _moved(deployment, status):
        return _condition("True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.', None, now)
    started_anew = held["reason"] == "NewReplicaSetAvailable" and status["updatedReplicas"] == 0
    if started_anew:
        return _condition("True", "NewReplicaSetCreated", f'Created new replica set "{name}"', None, now)
    deadline = deployment["spec"].get("progressDeadlineSeconds", 600)
    late = held["reason"] != "NewReplicaSetAvailable" and now > instant(held["lastUpdateTime"]) + deadline
    if late:
        return _condition(
            "False", "ProgressDeadlineExceeded", f'ReplicaSet "{name}" has timed out progressing.', held, now
        )
    return None


def _condition(status: str, reason: str, message: str, held: Json | None, now: float) -> dict[str, str]:
    same = held is not None and (held["status"], held["reason"]) == (status, reason)
    return {
        "type": "Progressing",
        "status": status,
        "lastUpdateTime": held["lastUpdateTime"] if held is not None and same else rfc3339(now),
        "reason": reason,
        "message": message,
    }


def _moved(deployment: Json, status: Json) -> bool:
    """Return whether more is updated, ready or available than before, or less of the old is left."""
    held = {name: deployment["status"].get(name, 0) for name in _COUNTS}
    old_left = status["replicas"] - status["updatedReplicas"] < held["replicas"] - held["updatedReplicas"]
    more = any(status[name] > held[name] for name in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    return old_left or more
