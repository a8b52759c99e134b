"""Can it be told beside an object what was done with it, and told again as the same event?"""

from __future__ import annotations

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.kinds import DEPLOYMENTS
from tests.builders_any_cluster import EVENTS, Hands


def test_an_event_of_an_object_is_created_and_counted_on(hands: Hands) -> None:
    meta = hands.deployment("told", 0)["metadata"]
    about = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "namespace": hands.namespace,
        "name": "told",
        "uid": meta["uid"],
    }
    at = "2026-01-02T03:04:05Z"
    body = {
        "metadata": {"name": "told.17a1b2c3d4e5f678"},
        "involvedObject": about,
        "type": "Normal",
        "reason": "Scaled",
        "message": "from 0 to 2: forecast",
        "source": {"component": "foresail"},
        "reportingComponent": "foresail.dev/controller",
        "reportingInstance": "foresail-0",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
    hands.create(EVENTS, body)
    again = {"count": 2, "lastTimestamp": "2026-01-02T03:05:05Z"}
    hands.patch(EVENTS, "told.17a1b2c3d4e5f678", again, MERGE_PATCH)
    held = hands.get(EVENTS, "told.17a1b2c3d4e5f678")
    assert (held["count"], held["firstTimestamp"], held["reason"]) == (2, at, "Scaled")
    assert held["involvedObject"]["uid"] == hands.get(DEPLOYMENTS, "told")["metadata"]["uid"]
