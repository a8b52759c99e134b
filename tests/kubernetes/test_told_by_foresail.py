"""Do people find beside an object what Foresail did to it, as an Event that the server takes and that counts on?"""

from __future__ import annotations

from controller.adapters.kube.events import KubernetesEvents
from controller.adapters.kube.kinds import DEPLOYMENTS
from policies.decisions import CordonReplica, Reason, ScalingPlan
from tests.builders_acting import Acting, key_of
from tests.builders_any_cluster import EVENTS, Hands, Json, Place
from tests.builders_events import record


def told_of(hands: Hands, name: str) -> list[Json]:
    return hands.list(EVENTS, fieldSelector=f"involvedObject.name={name},reportingComponent=foresail")


def a_witness(foresail: Acting, place: Place, instance: str = "foresail-0") -> KubernetesEvents:
    return KubernetesEvents(place.hands.settings, foresail.cluster.view, place.hours.elapsed, instance)


def test_what_repeats_is_one_event_that_counts_also_after_a_restart(
    foresail: Acting, hands: Hands, place: Place
) -> None:
    foresail.labelled("told-often", 1)
    at, key = place.hours.now(), key_of("told-often")
    held = Reason("bounds", str(key), 9.0, 4.0, "bounds are 1 to 4")
    plan = ScalingPlan(key, 1, 4, 1)
    first = a_witness(foresail, place)
    for later_s in (0.0, 15.0):
        first.saw(record(at + later_s, plan, outcome="failed", detail="HTTP 409: modified", why=(held,)))
        first.round()
    second = a_witness(foresail, place, "foresail-1")  # which knows nothing of what the first one told
    second.saw(record(at + 30.0, plan, outcome="failed", detail="HTTP 409: modified", why=(held,)))
    second.round()
    found = {one["reason"]: one for one in told_of(hands, "told-often")}
    assert found.keys() == {"ScaleFailed", "ScaleLimited"}
    failed = found["ScaleFailed"]
    assert (failed["type"], failed["count"]) == ("Warning", 3)
    assert failed["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "namespace": hands.namespace,
        "name": "told-often",
        "uid": hands.get(DEPLOYMENTS, "told-often")["metadata"]["uid"],
    }
    assert failed["firstTimestamp"] < failed["lastTimestamp"]
    assert (failed["source"]["component"], failed["reportingComponent"]) == ("foresail", "foresail")
    assert failed["reportingInstance"] == "foresail-0"
    assert failed["message"].startswith("Could not scale from 1 to 4 replicas: HTTP 409: modified")


def test_an_act_on_a_pod_is_told_of_the_pod_and_a_long_story_fits(foresail: Acting, hands: Hands, place: Place) -> None:
    foresail.labelled("told-of-pod", 1)
    (pod,) = hands.names("told-of-pod")
    witness = a_witness(foresail, place, "f" * 300)
    at, act = place.hours.now(), CordonReplica(pod, key_of("told-of-pod"), "F7")
    witness.saw(record(at, act, outcome="failed", detail="it says: " + "no, \u00fc\u4e2d " * 400))
    witness.round()
    (event,) = told_of(hands, pod)
    assert (event["involvedObject"]["kind"], event["reason"]) == ("Pod", "CordonFailed")
    assert len(event["message"].encode()) <= 1024


def test_an_event_that_was_deleted_is_told_anew(foresail: Acting, hands: Hands, place: Place) -> None:
    foresail.labelled("told-again", 1)
    at, plan = place.hours.now(), ScalingPlan(key_of("told-again"), 1, 2, 1)
    witness = a_witness(foresail, place)
    witness.saw(record(at, plan))
    witness.round()
    (event,) = told_of(hands, "told-again")
    hands.delete(EVENTS, event["metadata"]["name"])
    witness.saw(record(at + 15.0, plan))
    witness.round()
    (anew,) = told_of(hands, "told-again")
    assert (anew["metadata"]["name"], anew["count"]) == (event["metadata"]["name"], 1)
    assert anew["metadata"]["uid"] != event["metadata"]["uid"]
