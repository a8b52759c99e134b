"""May a pod be evicted, and what does the Eviction API answer?

The rules of the Eviction API: a pod that has ended, is pending or is already going needs no budget's leave; with one
matching PodDisruptionBudget its ``status.disruptionsAllowed`` decides and is counted down; more than one is an internal
error; a budget whose status lags behind its specification is 429 with Retry-After. ``unhealthyPodEvictionPolicy`` says
when a pod that is not ready may go all the same.
"""

from __future__ import annotations

from dataclasses import replace

from simulations.kubernetes_api.deleting import Deletion, delete
from simulations.kubernetes_api.kinds import BUDGET, POD
from simulations.kubernetes_api.refusals import Json, Refusal
from simulations.kubernetes_api.selectors import matches_labels
from simulations.kubernetes_api.store import Key, Stored
from simulations.kubernetes_api.writing import Write, Writer

_CANNOT = "Cannot evict pod as it would violate the pod's disruption budget."
_LAG_RETRY_S = 10
STATUS_WRITER = Write("kube-apiserver", "status")


def is_ready(pod: Json) -> bool:
    """Return whether the pod's Ready condition is True."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def evict(writer: Writer, key: Key, eviction: Json, *, dry_run: bool) -> None:
    """Evict a pod as its budgets allow.

    Raises:
        Refusal: 404, 409 (precondition), 429 (budget) or 500 (several budgets).
    """
    options = eviction.get("deleteOptions") or {}
    wanted = options.get("preconditions") or {}
    how = Deletion(
        grace_s=options.get("gracePeriodSeconds"),
        uid=wanted.get("uid", ""),
        version=wanted.get("resourceVersion", ""),
        dry_run=dry_run or options.get("dryRun") == ["All"],
    )
    with writer.store.changed:
        pod = writer.held(POD, key)
        if not _needs_no_leave(pod.value):
            _ask(writer, key, pod.value, dry_run=how.dry_run)
        if not how.dry_run:
            delete(writer, POD, key, replace(how, dry_run=True))  # the preconditions, before the pod changes
            writer.patch(POD, key, lambda value: _disrupted(value, writer.now()), STATUS_WRITER)
            how = replace(how, version="")
        delete(writer, POD, key, how)


def _disrupted(pod: Json, now: str) -> Json:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": now,
    }
    held = pod["status"].get("conditions") or []
    pod["status"]["conditions"] = [*(one for one in held if one["type"] != "DisruptionTarget"), condition]
    return pod


def _needs_no_leave(pod: Json) -> bool:
    ended = pod["status"].get("phase") in ("Succeeded", "Failed", "Pending")
    return ended or bool(pod["metadata"].get("deletionTimestamp"))


def _ask(writer: Writer, key: Key, pod: Json, *, dry_run: bool) -> None:
    labels = pod["metadata"].get("labels")
    budgets = [
        budget
        for budget in writer.store.all(BUDGET, key[0])
        if matches_labels(budget.value["spec"].get("selector"), labels)
    ]
    if len(budgets) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise Refusal(500, "InternalError", message)
    if not budgets or _goes_unready(budgets[0].value, pod):
        return
    _count_down(writer, budgets[0], key[1], dry_run=dry_run)


def _goes_unready(budget: Json, pod: Json) -> bool:
    if is_ready(pod):
        return False
    if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget["status"]
    return bool(status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0)


def _count_down(writer: Writer, budget: Stored, pod: str, *, dry_run: bool) -> None:
    metadata, status = budget.value["metadata"], budget.value["status"]
    name = metadata["name"]
    if status.get("observedGeneration", 0) < metadata["generation"]:
        raise _refusal(f"The disruption budget {name} is still being processed by the server.", _LAG_RETRY_S)
    if status.get("disruptionsAllowed", 0) <= 0:
        needed, held = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
        raise _refusal(f"The disruption budget {name} needs {needed} healthy pods and has {held} currently", 0)

    def counted(value: Json) -> Json:
        value["status"]["disruptionsAllowed"] -= 1
        value["status"].setdefault("disruptedPods", {})[pod] = writer.now()
        return value

    if not dry_run:
        writer.patch(BUDGET, (metadata["namespace"], name), counted, STATUS_WRITER)


def _refusal(why: str, retry_after_s: int) -> Refusal:
    details: Json = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    if retry_after_s:
        details["retryAfterSeconds"] = retry_after_s
    return Refusal(429, "TooManyRequests", _CANNOT, details)
