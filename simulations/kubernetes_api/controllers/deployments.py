"""What does the Deployment controller do next with a Deployment and its ReplicaSets?

A new pod template makes a new ReplicaSet with the next revision; an old template that comes back reuses its ReplicaSet,
which then gets a new highest revision. A paused Deployment is scaled but not rolled. The controller only reports a
rollout that has made no progress for ``progressDeadlineSeconds``; it never rolls back.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.ports import Clock
from simulations.kubernetes_api.controllers.deployment_status import status_of
from simulations.kubernetes_api.controllers.hands import Hands, copied, retried
from simulations.kubernetes_api.controllers.owned import (
    by_controller,
    differs,
    is_going,
    owner_reference,
    template_hash,
)
from simulations.kubernetes_api.controllers.rollout_arithmetic import (
    Room,
    SetSize,
    new_size,
    old_sizes,
    room_of,
    spread,
)
from simulations.kubernetes_api.kinds import DEPLOYMENT, POD, REPLICA_SET
from simulations.kubernetes_api.refusals import Json

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MOST = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = frozenset({"kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MOST})


def _annotation(value: Json, name: str) -> str:
    return str((value["metadata"].get("annotations") or {}).get(name, ""))


def revision_of(value: Json) -> int:
    """Return an object's revision, 0 where it has none."""
    return int(_annotation(value, REVISION) or 0)


def _template(replica_set: Json) -> Json:
    template = dict(replica_set["spec"]["template"])
    labels = {key: held for key, held in template["metadata"].get("labels", {}).items() if key != HASH}
    template["metadata"] = {**template["metadata"], "labels": labels}
    return template


def _size(replica_set: Json) -> SetSize:
    replicas = replica_set["spec"]["replicas"]
    available = replica_set["status"].get("availableReplicas", 0)
    return SetSize(
        replica_set["metadata"]["name"], replicas, available, int(_annotation(replica_set, MOST) or replicas)
    )


class Deployments:
    """The Deployment controller."""

    def __init__(self, hands: Hands, clock: Clock) -> None:
        self._hands, self._clock = hands, clock

    def step(self) -> None:
        """Take the next step with every Deployment."""
        owned = by_controller(self._hands.all(REPLICA_SET))
        pods: dict[str, int] | None = None
        for deployment in self._hands.all(DEPLOYMENT):
            if is_going(deployment):
                continue
            sets = [one for one in owned.get(deployment["metadata"]["uid"], ()) if not is_going(one)]
            sets.sort(key=lambda one: (one["metadata"]["creationTimestamp"], revision_of(one)))
            if deployment["spec"]["strategy"].get("type") == "Recreate" and pods is None:
                pods = {uid: len(found) for uid, found in by_controller(self._hands.all(POD)).items()}
            with retried():
                self._reconcile(deployment, sets, pods or {})

    def _reconcile(self, deployment: Json, sets: list[Json], pods: dict[str, int]) -> None:
        spec = deployment["spec"]
        room = room_of(spec["strategy"], spec["replicas"])
        new = next((one for one in sets if _template(one) == spec["template"]), None)
        old = [one for one in sets if one is not new]
        resized = any(
            one["spec"]["replicas"] and _annotation(one, DESIRED) not in ("", str(spec["replicas"])) for one in sets
        )
        if spec.get("paused") or (resized and new is not None):
            self._resize(deployment, new, old, room)
        else:
            new = self._roll(deployment, new, old, room, pods)
        self._report(deployment, new, old)

    def _roll(self, deployment: Json, new: Json | None, old: list[Json], room: Room, pods: dict[str, int]) -> Json:
        replicas = deployment["spec"]["replicas"]
        revision = max((revision_of(one) for one in old), default=0) + 1
        if new is None:
            new = self._created(deployment, old, room, revision)
        else:
            new = self._renumbered(deployment, new, revision)
        if deployment["spec"]["strategy"].get("type") == "Recreate":
            going = [one for one in old if one["spec"]["replicas"] or pods.get(one["metadata"]["uid"])]
            sizes = {one["metadata"]["name"]: 0 for one in going}
            if not going:
                sizes = {new["metadata"]["name"]: replicas}
        else:
            told, others = _size(new), [_size(one) for one in old]
            sizes = {told.name: new_size(told, others, replicas, room)}
            if sizes[told.name] == told.replicas:
                sizes |= old_sizes(told, others, replicas, room)
        self._ask(deployment, [new, *old], sizes, room)
        return new

    def _resize(self, deployment: Json, new: Json | None, old: list[Json], room: Room) -> None:
        replicas = deployment["spec"]["replicas"]
        sets = [*([new] if new else []), *reversed(old)]
        active = [one for one in sets if one["spec"]["replicas"]]
        if len(active) <= 1:
            chosen = active or sets[:1]
            sizes = {one["metadata"]["name"]: replicas for one in chosen}
        elif new is not None and _size(new).available == new["spec"]["replicas"] == replicas:
            sizes = {one["metadata"]["name"]: 0 for one in old}
        else:
            sizes = spread([_size(one) for one in active], replicas, room)
        self._ask(deployment, sets, sizes, room)

    def _ask(self, deployment: Json, sets: Sequence[Json], sizes: dict[str, int], room: Room) -> None:
        desired = deployment["spec"]["replicas"]
        annotations = {DESIRED: str(desired), MOST: str(desired + room.surge)}
        for one in sets:
            replicas = sizes.get(one["metadata"]["name"], one["spec"]["replicas"])
            same = all(_annotation(one, name) == held for name, held in annotations.items())
            if replicas == one["spec"]["replicas"] and (same or not replicas):
                continue
            change = {"metadata": {"annotations": annotations}, "spec": {"replicas": replicas}}
            self._hands.patch(REPLICA_SET, one, change)

    def _created(self, deployment: Json, old: list[Json], room: Room, revision: int) -> Json:
        metadata, spec = deployment["metadata"], deployment["spec"]
        template, selector = copied(spec["template"]), copied(spec["selector"])
        ending = template_hash(template, deployment["status"].get("collisionCount", 0))
        labels = template["metadata"].setdefault("labels", {})
        labels[HASH] = selector.setdefault("matchLabels", {})[HASH] = ending
        replicas = spec["replicas"]
        start = new_size(SetSize("", 0, 0, 0), [_size(one) for one in old], replicas, room)
        if spec["strategy"].get("type") == "Recreate" and any(one["spec"]["replicas"] for one in old):
            start = 0
        annotations = {key: held for key, held in (metadata.get("annotations") or {}).items() if key not in _NOT_COPIED}
        annotations |= {REVISION: str(revision), DESIRED: str(replicas), MOST: str(replicas + room.surge)}
        wanted: Json = {
            "metadata": {
                "name": f"{metadata['name']}-{ending}",
                "labels": dict(labels),
                "annotations": annotations,
                "ownerReferences": [owner_reference(DEPLOYMENT, deployment)],
            },
            "spec": {"replicas": start, "selector": selector, "template": template},
        }
        if spec.get("minReadySeconds"):
            wanted["spec"]["minReadySeconds"] = spec["minReadySeconds"]
        made = self._hands.create(REPLICA_SET, metadata["namespace"], wanted)
        self._number(deployment, revision)
        return made

    def _renumbered(self, deployment: Json, new: Json, revision: int) -> Json:
        held = revision_of(new)
        if held < revision:
            history = ",".join(filter(None, (_annotation(new, HISTORY), str(held))))
            annotations = {REVISION: str(revision), HISTORY: history}
            new = self._hands.patch(REPLICA_SET, new, {"metadata": {"annotations": annotations}})
        self._number(deployment, max(held, revision))
        return new

    def _number(self, deployment: Json, revision: int) -> None:
        if revision_of(deployment) != revision:
            change = {"metadata": {"annotations": {REVISION: str(revision)}}}
            self._hands.patch(DEPLOYMENT, deployment, change, "status")

    def _report(self, deployment: Json, new: Json | None, old: list[Json]) -> None:
        status, complete = status_of(deployment, new, old, self._clock.now())
        if differs(deployment["status"], status):
            self._hands.patch(DEPLOYMENT, deployment, {"status": status}, "status")
        if complete:
            limit = deployment["spec"].get("revisionHistoryLimit", 10)
            idle = [one for one in old if not one["spec"]["replicas"] and not one["status"].get("replicas")]
            idle.sort(key=revision_of)
            for one in idle[: max(0, len(idle) - limit)]:
                self._hands.delete(REPLICA_SET, one)
