"""How is one object of the cluster read anew and changed, so that a change of what is no longer so is refused?

Every write is sent once, names the version that it was made from, and is noted: no pools are told that are older.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controller.adapters.kube.changes import JSON_PATCH, Change
from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.json_patches import Operation, if_unchanged
from controller.adapters.kube.json_reading import text
from controller.adapters.kube.kinds import PODS, Resource
from controller.adapters.kube.pods import Pod
from controller.adapters.kube.questions import ApiRefused, Question
from controller.errors import ActuationError, ObservationError, StalePlan

_CANNOT_APPLY = "due to an error in our request"
_SEVERAL = "more than one PodDisruptionBudget"
_BUDGET = "disruption budget"


class Hand:
    """Reads and writes single objects. What goes wrong is told as the client does, see ``changes.acting``."""

    def __init__(self, view: KubernetesView, *, delete_unevictable: bool) -> None:
        self._view, self._api, self._deletes = view, view.api, delete_unevictable

    def read(self, resource: Resource, namespace: str, name: str, uid: str = "") -> dict[str, Any]:
        """Return an object as it is now.

        Raises:
            StalePlan: If it is gone, or another bears its name.
        """
        question = Question("get", resource, namespace, name)
        try:
            told = self._api.get(resource, namespace, name)
        except ApiRefused as error:
            if error.status == 404:
                raise StalePlan("it is not there any more", str(question)) from None
            raise
        if uid and text(told, "metadata", "uid") != uid:
            raise StalePlan("another one bears that name now", str(question))
        return told

    def patch(
        self, resource: Resource, told: dict[str, Any], operations: Sequence[Operation], subresource: str = ""
    ) -> dict[str, Any]:
        """Change the object if it is still as ``told``, and return it.

        Raises:
            StalePlan: If it is not.
        """
        namespace, name = text(told, "metadata", "namespace"), text(told, "metadata", "name")
        question = Question("patch", resource, namespace, name, subresource)
        change = Change(question, if_unchanged(told, operations), JSON_PATCH)
        try:
            after = self._api.change(change)
        except ApiRefused as error:
            if error.status == 422 and _CANNOT_APPLY in error.what:  # what it tests does not hold
                raise StalePlan("it has changed since it was read", error.where) from None
            raise
        self._wrote(resource, namespace, after)
        return after

    def scale(self, resource: Resource, told: dict[str, Any], replicas: int) -> None:
        """Ask for so many replicas if the workload is still as ``told``."""
        namespace, name = text(told, "metadata", "namespace"), text(told, "metadata", "name")
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "resourceVersion": text(told, "metadata", "resourceVersion"),
            },
            "spec": {"replicas": replicas},
        }
        question = Question("update", resource, namespace, name, "scale")
        self._wrote(resource, namespace, self._api.change(Change(question, body)))

    def evict(self, pod: Pod) -> None:
        """Let a pod go, as disruption budgets allow; what is gone already is what was wanted.

        Raises:
            ActuationError: If a budget says no.
        """
        question = Question("create", PODS, pod.namespace, pod.name, "eviction")
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        try:
            self._api.change(Change(question, body))
        except ApiRefused as error:
            if error.status == 404:
                return
            if error.status == 429 and _BUDGET in error.what:
                wait = f" for {error.retry_after_s:.0f} s" if error.retry_after_s else ""
                remedy = "it is tried again; if it never may be, look at the budget's minAvailable or maxUnavailable"
                raise ActuationError(
                    f"the disruption budget says not now{wait}: {error.what}", error.where, remedy
                ) from None
            if error.status != 500 or _SEVERAL not in error.what:
                raise
            if not self._deletes:
                remedy = "let one PodDisruptionBudget select it, or set platform.delete_unevictable"
                what = "several disruption budgets select the pod, and then it is never evicted"
                raise ActuationError(what, error.where, remedy) from None
            self._delete(pod)
        self._note(pod)

    def _delete(self, pod: Pod) -> None:
        told = self.read(PODS, pod.namespace, pod.name, pod.uid)
        conditions = {"uid": pod.uid, "resourceVersion": text(told, "metadata", "resourceVersion")}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        self._api.change(Change(Question("delete", PODS, pod.namespace, pod.name), body))

    def _note(self, pod: Pod) -> None:
        """Take note of how far the history is once a pod is on its way out; of one that is gone nothing tells that."""
        try:
            told = self._api.get(PODS, pod.namespace, pod.name)
        except ObservationError:
            return  # it was done all the same
        if text(told, "metadata", "uid") == pod.uid:
            self._wrote(PODS, pod.namespace, told)

    def _wrote(self, resource: Resource, namespace: str, after: dict[str, Any]) -> None:
        version = text(after, "metadata", "resourceVersion")
        if version and resource in self._view.reflectors:
            self._view.wrote(resource, namespace, version)
