"""How does a workload go back to an earlier template, and how is its rollout held and let go?

Deployments, StatefulSets, LeaderWorkerSets and Rollouts get their old template back; a Rollout that is on its way is
aborted. A StatefulSet that starts its pods in order waits for the broken one for ever: that is evicted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from controller.adapters.kube.cluster import Seen
from controller.adapters.kube.hand import Hand
from controller.adapters.kube.json_patches import annotated
from controller.adapters.kube.json_reading import flag, text, under
from controller.adapters.kube.kinds import CONTROLLER_REVISIONS, KINDS, REPLICA_SETS, Resource
from controller.adapters.kube.pods import read_owner
from controller.adapters.kube.rollback import (
    abortable,
    has_template,
    kept_template,
    paused_annotation,
    paused_by_us,
    refusal,
    restoring,
    unpausing,
)
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.victims import standing
from controller.adapters.kube.workloads import Workload
from controller.errors import ActuationError, ObservationError, StalePlan

_PAUSABLE = ("Deployment", "Rollout")


class RolloutWrites:
    """Writes templates, pauses and aborts. What goes wrong is told as ``Hand`` does."""

    def __init__(self, hand: Hand, settings: KubernetesSettings, now: Callable[[], float]) -> None:
        self._hand, self._now = hand, now
        self._prefix, self._ownership = settings.prefix, settings.ownership

    def roll_back(
        self, resource: Resource, seen: Seen, told: dict[str, Any], workload: Workload, revision: str
    ) -> None:
        """Give the workload the template of ``revision``; see ``controller.ports.Cluster.roll_back``.

        Raises:
            StalePlan: If it has another template by now than it was seen with: that may be the repair.
            ActuationError: If that cannot be, or may not.
        """
        if revision not in seen.state.revisions:
            known = ", ".join(seen.state.revisions) or "none"
            raise ActuationError(f"no revision {revision!r} is kept; there are: {known}", workload.title)
        self._check(told, workload)
        template = self._template(seen, told, workload, revision)
        self._check_same(seen, told, workload, template)
        if workload.kind == "Rollout" and abortable(told, revision):
            self._abort(resource, told)
            return
        stamp = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        operations = restoring(told, workload.kind, template, revision, stamp, self._prefix)
        if operations:
            self._hand.patch(resource, told, operations)
        if workload.kind == "StatefulSet" and text(told, "spec", "podManagementPolicy") != "Parallel":
            self._free(seen, revision)

    def pause(self, resource: Resource, told: dict[str, Any], workload: Workload) -> None:
        """Hold the rollout, and note that it is we who do."""
        self._check_pausable(workload)
        if not flag(told, "spec", "paused"):
            ours = annotated(told, {paused_annotation(self._prefix): "true"})
            self._hand.patch(resource, told, [{"op": "add", "path": "/spec/paused", "value": True}, *ours])

    def resume(self, resource: Resource, told: dict[str, Any], workload: Workload) -> None:
        """Let a rollout that we hold go on."""
        self._check_pausable(workload)
        if not flag(told, "spec", "paused"):
            return
        if not paused_by_us(told, self._prefix):
            remedy = "whoever paused it knows why, and ends it"
            raise ActuationError("its rollout was paused by somebody else", workload.title, remedy)
        self._hand.patch(resource, told, [*unpausing(), *annotated(told, {paused_annotation(self._prefix): None})])

    def _check_pausable(self, workload: Workload) -> None:
        if workload.kind not in _PAUSABLE:
            remedy = "set the partition of its rolling update by hand" if workload.kind in KINDS else ""
            raise ActuationError(f"no pause is known of a {workload.kind}", workload.title, remedy)
        if f"{self._prefix}/model" not in workload.labels:
            remedy = f"label it {self._prefix}/model, which says that its rollouts may be held"
            raise ActuationError(f"it has no label {self._prefix}/model", workload.title, remedy)

    def _check(self, told: dict[str, Any], workload: Workload) -> None:
        if workload.kind not in KINDS:
            raise ActuationError(
                f"a {workload.kind} is known by its scale alone", workload.title, "roll it back by hand"
            )
        if under(told, "spec", "workloadRef") is not None:
            remedy = "roll back the workload that it names"
            raise ActuationError("its template is that of another workload", workload.title, remedy)
        why_not = refusal(told, workload, self._now(), self._prefix, self._ownership)
        if why_not is not None:
            raise why_not

    def _check_same(self, seen: Seen, told: dict[str, Any], workload: Workload, template: Any) -> None:
        """Raise unless the template is the one that was found bad, or already the one that is wanted.

        Of what else has changed, such as the number of replicas or a pause of ours, none stands against going back.
        """
        if workload.generation == seen.workload.generation or has_template(told, workload.kind, template):
            return
        bad = seen.state.revision
        if workload.kind == "Rollout":  # the API server fills in the templates of ReplicaSets, and not its own
            same = not workload.behind and text(told, "status", "currentPodHash") == bad
        else:
            kept = self._template(seen, told, workload, bad) if bad in seen.state.revisions else None
            same = kept is not None and has_template(told, workload.kind, kept)
        if not same:
            raise StalePlan(f"it has another template by now than that of {bad or 'its revision'}", workload.title)

    def _abort(self, resource: Resource, told: dict[str, Any]) -> None:
        """Give up what is rolled out, and only then let it go on: a pause that ended first would roll it out."""
        if not flag(told, "status", "abort"):
            told = self._hand.patch(resource, told, [{"op": "add", "path": "/status/abort", "value": True}], "status")
        if flag(told, "spec", "paused"):
            ours = annotated(told, {paused_annotation(self._prefix): None})
            self._hand.patch(resource, told, [*unpausing(), *ours])

    def _template(self, seen: Seen, told: dict[str, Any], workload: Workload, revision: str) -> Any:
        """Return the template of a revision from the object that keeps it, as that is now."""
        found = max(
            [one for one in seen.revisions if one.name == revision], key=lambda one: (one.number, one.created_at)
        )
        keeps = REPLICA_SETS if workload.kind in _PAUSABLE else CONTROLLER_REVISIONS
        kept = self._hand.read(keeps, workload.namespace, found.keeper, found.uid)
        owner, template = read_owner(kept), kept_template(workload.kind, kept)
        if owner is None or owner.uid != text(told, "metadata", "uid"):
            raise StalePlan(f"{found.keeper} is not its own any more", workload.title)
        if template is None:
            raise ActuationError(f"{found.keeper} keeps no template", workload.title, "roll it back by hand")
        return template

    def _free(self, seen: Seen, revision: str) -> None:
        """Evict pods of another revision that are not ready: those are waited for before anything is replaced."""
        for pod in standing(seen.pods):
            if not pod.ready and pod.revision != revision:
                try:
                    self._hand.evict(pod)
                except (ActuationError, ObservationError) as error:
                    what = f"the template is restored, but {pod.name} is waited for: {error.what}"
                    raise ActuationError(what, error.where, f"delete {pod.name}; {error.remedy}") from None
