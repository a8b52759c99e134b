"""How many disruptions does each PodDisruptionBudget allow at the moment?

Percentages of ``minAvailable`` and ``maxUnavailable`` round up. A pod that was evicted and is not yet seen going counts
as disrupted for two minutes.
"""

from __future__ import annotations

from controller.ports import Clock
from simulations.kubernetes_api.controllers.deployment_status import instant
from simulations.kubernetes_api.controllers.hands import Hands
from simulations.kubernetes_api.controllers.owned import is_going, is_ready
from simulations.kubernetes_api.controllers.rollout_arithmetic import resolved
from simulations.kubernetes_api.kinds import BUDGET, POD
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.selectors import matches_labels

DISRUPTED_FOR_S = 120.0


class Budgets:
    """The disruption controller."""

    def __init__(self, hands: Hands, clock: Clock) -> None:
        self._hands, self._clock = hands, clock

    def step(self) -> None:
        """Count for every budget."""
        budgets = self._hands.all(BUDGET)
        pods = self._hands.all(POD) if budgets else []
        for budget in budgets:
            selector, namespace = budget["spec"].get("selector"), budget["metadata"]["namespace"]
            mine = [
                pod
                for pod in pods
                if pod["metadata"]["namespace"] == namespace and matches_labels(selector, pod["metadata"].get("labels"))
            ]
            self._count(budget, [pod for pod in mine if pod["status"].get("phase") not in ("Succeeded", "Failed")])

    def _count(self, budget: Json, pods: list[Json]) -> None:
        spec, held = budget["spec"], budget["status"]
        expected, now = len(pods), self._clock.now()
        by_name = {pod["metadata"]["name"]: pod for pod in pods}
        disrupted = {
            name: since
            for name, since in (held.get("disruptedPods") or {}).items()
            if name in by_name and not is_going(by_name[name]) and now < instant(since) + DISRUPTED_FOR_S
        }
        healthy = sum(is_ready(pod) and not is_going(pod) and name not in disrupted for name, pod in by_name.items())
        if spec.get("maxUnavailable") is not None:
            desired = max(0, expected - resolved(spec["maxUnavailable"], expected, up=True))
        else:
            desired = resolved(spec.get("minAvailable", 0), expected, up=True)
        status: Json = {
            "observedGeneration": budget["metadata"]["generation"],
            "expectedPods": expected,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "disruptionsAllowed": max(0, healthy - desired) if expected else 0,
        }
        if any(held.get(key) != value for key, value in status.items()) or disrupted != (
            held.get("disruptedPods") or {}
        ):
            gone = {name: None for name in held.get("disruptedPods") or {} if name not in disrupted}
            self._hands.patch(BUDGET, budget, {"status": {**status, "disruptedPods": gone}}, "status")
