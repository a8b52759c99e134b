"""Is the number of replicas written, and seen to be taken over, as Foresail relies on?"""

from __future__ import annotations

import pytest

from controller.adapters.kube.kinds import DEPLOYMENTS
from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import SUITE, Hands


def test_a_scale_shows_the_workload_and_changes_its_replicas_and_generation(hands: Hands) -> None:
    made = hands.deployment("scaled", 1)
    scale = hands.get(DEPLOYMENTS, "scaled", "scale")
    assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["selector"]) == ("Scale", 1, "app=scaled")
    assert scale["metadata"]["uid"] == made["metadata"]["uid"]
    written = hands.scaled("scaled", 2)
    assert written["spec"]["replicas"] == 2
    held = hands.get(DEPLOYMENTS, "scaled")
    assert (held["spec"]["replicas"], held["metadata"]["generation"]) == (2, made["metadata"]["generation"] + 1)


def test_the_controller_says_which_generation_it_has_seen_and_makes_it_so(hands: Hands) -> None:
    hands.deployment("observed", 1)
    hands.until_ready("observed", 1)
    hands.scaled("observed", 3)
    wanted = hands.get(DEPLOYMENTS, "observed")["metadata"]["generation"]
    hands.until(lambda: hands.get(DEPLOYMENTS, "observed")["status"].get("observedGeneration", 0) >= wanted)
    hands.until_ready("observed", 3)
    hands.until(lambda: hands.get(DEPLOYMENTS, "observed")["status"].get("readyReplicas") == 3)


def test_a_scale_that_was_read_before_another_was_written_is_a_conflict(hands: Hands) -> None:
    hands.deployment("stale", 0)
    scale = hands.get(DEPLOYMENTS, "stale", "scale")
    hands.scaled("stale", 2)
    scale["spec"]["replicas"] = 5
    with pytest.raises(ApiRefused) as stale:
        hands.update(DEPLOYMENTS, scale, "scale")
    assert stale.value.status == 409
    assert hands.get(DEPLOYMENTS, "stale")["spec"]["replicas"] == 2


def test_no_negative_number_of_replicas_is_taken(hands: Hands) -> None:
    hands.deployment("negative", 0)
    with pytest.raises(ApiRefused) as invalid:
        hands.scaled("negative", -1)
    assert invalid.value.status == 422


def test_managed_fields_tell_who_set_the_replicas_and_that_it_was_by_the_scale(hands: Hands) -> None:
    hands.deployment("managed", 0)
    hands.scaled("managed", 1)
    entries = hands.get(DEPLOYMENTS, "managed")["metadata"]["managedFields"]
    setters = [
        (entry["manager"], entry["operation"], entry.get("subresource", ""))
        for entry in entries
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    ]
    assert setters == [(hands.settings.ownership.field_manager, "Update", "scale")]
    assert SUITE in {entry["manager"] for entry in entries}
