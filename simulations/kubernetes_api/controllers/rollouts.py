"""What does Argo's Rollout controller do next with a canary?

Steps set the canary's share of ``spec.replicas`` (rounded up) or pause, for a duration or until promoted; after the
last the canary is the stable one. ``status.abort`` takes the canary back to nothing and leaves the template as it is,
phase Degraded; only a template that is the stable one's ends that. Blue-green and analysis are not played.
"""

from __future__ import annotations

import math

from controller.ports import Clock
from simulations.kubernetes_api.controllers.deployment_status import instant
from simulations.kubernetes_api.controllers.hands import Hands, copied, retried
from simulations.kubernetes_api.controllers.owned import by_controller, is_going, owner_reference, template_hash
from simulations.kubernetes_api.kinds import REPLICA_SET, ROLLOUT
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.selectors import selector_text
from simulations.kubernetes_api.writing import rfc3339

HASH = "rollouts-pod-template-hash"
REVISION = "rollout.argoproj.io/revision"
_UNITS = {"s": 1, "m": 60, "h": 3600}


def _seconds(told: object) -> float:
    text = str(told)
    return float(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else float(text)


def _hash_of(replica_set: Json) -> str:
    return str(replica_set["metadata"]["labels"][HASH])


def _template(replica_set: Json) -> Json:
    """Return what a Rollout has as its template where it was taken from this ReplicaSet, defaults and all."""
    template = replica_set["spec"]["template"]
    labels = {key: held for key, held in template["metadata"].get("labels", {}).items() if key != HASH}
    return {**template, "metadata": {**template["metadata"], "labels": labels}}


class Rollouts:
    """The Rollout controller."""

    def __init__(self, hands: Hands, clock: Clock) -> None:
        self._hands, self._clock = hands, clock

    def step(self) -> None:
        """Take the next step with every Rollout."""
        rollouts = [one for one in self._hands.all(ROLLOUT) if not is_going(one)]
        owned = by_controller(self._hands.all(REPLICA_SET)) if rollouts else {}
        for rollout in rollouts:
            with retried():
                self._reconcile(rollout, owned.get(rollout["metadata"]["uid"], []))

    def _reconcile(self, rollout: Json, sets: list[Json]) -> None:
        spec, held = rollout["spec"], rollout.get("status") or {}
        current, replicas = template_hash(spec["template"]), spec.get("replicas", 1)
        new = next((one for one in sets if _hash_of(one) == current or _template(one) == spec["template"]), None)
        if new is None:
            new = self._created(rollout, sets, current)
        current = _hash_of(new)
        status = dict(held)
        if held.get("currentPodHash") != current:
            status |= {"currentPodHash": current, "currentStepIndex": 0, "abort": False, "pauseConditions": None}
        stable = status.get("stableRS") or ""
        steps = (spec["strategy"].get("canary") or {}).get("steps") or []
        if not stable or stable == current or status.get("promoteFull"):
            status["currentStepIndex"] = len(steps)
        if not status.get("abort"):
            self._advance(status, steps, new, replicas)
        done = status["currentStepIndex"] >= len(steps) and not status.get("abort")
        canary = replicas if done else 0 if status.get("abort") else self._share(status, steps, replicas)
        available = new["status"].get("availableReplicas", 0)
        rest = replicas - canary if not done else 0 if available >= replicas else replicas
        sizes = {stable: rest, current: canary}
        every = sets if new in sets else [*sets, new]
        for one in every:
            if one["spec"]["replicas"] != (wanted := sizes.get(_hash_of(one), 0)):
                self._hands.patch(REPLICA_SET, one, {"spec": {"replicas": wanted}})
        if done and available == replicas:
            status |= {"stableRS": current, "promoteFull": None}
        self._report(rollout, status, every, current)

    def _share(self, status: Json, steps: list[Json], replicas: int) -> int:
        weights = [one["setWeight"] for one in steps[: status["currentStepIndex"] + 1] if "setWeight" in one]
        return math.ceil(replicas * weights[-1] / 100) if weights else 0

    def _advance(self, status: Json, steps: list[Json], new: Json, replicas: int) -> None:
        at = status["currentStepIndex"]
        if at >= len(steps):
            status["pauseConditions"] = None
            return
        step = steps[at]
        if "setWeight" in step:
            wanted = self._share(status, steps, replicas)
            if new["spec"]["replicas"] == wanted <= new["status"].get("availableReplicas", 0):
                status["currentStepIndex"] = at + 1
        elif "pause" in step:
            self._pause(status, step["pause"] or {})
        else:
            status["currentStepIndex"] = at + 1

    def _pause(self, status: Json, pause: Json) -> None:
        now, paused = self._clock.now(), status.get("pauseConditions")
        if not paused and status.get("controllerPause"):
            # Promoted: whoever promotes takes the conditions away.
            status |= {"controllerPause": None, "currentStepIndex": status["currentStepIndex"] + 1}
        elif not paused:
            condition = {"reason": "CanaryPauseStep", "startTime": rfc3339(now)}
            status |= {"controllerPause": True, "pauseConditions": [condition]}
        elif pause.get("duration") and now >= instant(paused[0]["startTime"]) + _seconds(pause["duration"]):
            at = status["currentStepIndex"] + 1
            status |= {"controllerPause": None, "pauseConditions": None, "currentStepIndex": at}

    def _created(self, rollout: Json, sets: list[Json], current: str) -> Json:
        metadata = rollout["metadata"]
        template, selector = copied(rollout["spec"]["template"]), copied(rollout["spec"]["selector"])
        template["metadata"]["labels"][HASH] = selector["matchLabels"][HASH] = current
        held = [int(one["metadata"]["annotations"][REVISION]) for one in sets]
        revision = str(max(held, default=0) + 1)
        wanted = {
            "metadata": {
                "name": f"{metadata['name']}-{current}",
                "labels": dict(template["metadata"]["labels"]),
                "annotations": {REVISION: revision},
                "ownerReferences": [owner_reference(ROLLOUT, rollout)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template},
        }
        self._hands.patch(ROLLOUT, rollout, {"metadata": {"annotations": {REVISION: revision}}})
        return self._hands.create(REPLICA_SET, metadata["namespace"], wanted)

    def _report(self, rollout: Json, status: Json, sets: list[Json], current: str) -> None:
        def counted(name: str, *, updated: bool = False) -> int:
            return sum(one["status"].get(name, 0) for one in sets if not updated or _hash_of(one) == current)

        status |= {
            "observedGeneration": str(rollout["metadata"]["generation"]),
            "replicas": counted("replicas"),
            "HPAReplicas": counted("replicas"),
            "readyReplicas": counted("readyReplicas"),
            "availableReplicas": counted("availableReplicas"),
            "updatedReplicas": counted("replicas", updated=True),
            "selector": selector_text(rollout["spec"]["selector"]),
            "phase": _phase(status, current),
        }
        before = rollout.get("status") or {}
        if any(before.get(key) != value for key, value in status.items()):
            self._hands.patch(ROLLOUT, rollout, {"status": status}, "status")


def _phase(status: Json, current: str) -> str:
    if status.get("abort"):
        return "Degraded"
    if status.get("pauseConditions"):
        return "Paused"
    return "Healthy" if status.get("stableRS") == current else "Progressing"
