"""Does a write that was made from an older state fail, and change nothing?"""

from __future__ import annotations

from typing import Any

import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.kinds import DEPLOYMENTS
from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import CONFIG_MAPS, Hands


def version(thing: dict[str, Any]) -> str:
    return str(thing["metadata"]["resourceVersion"])


def noted(hands: Hands, name: str) -> dict[str, Any]:
    return hands.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"said": "first"}})


def said(hands: Hands, name: str) -> str:
    return str(hands.get(CONFIG_MAPS, name)["data"]["said"])


def test_an_update_from_an_older_state_is_a_conflict(hands: Hands) -> None:
    old = noted(hands, "put")
    new = hands.update(CONFIG_MAPS, {**old, "data": {"said": "second"}})
    assert version(new) != version(old)
    with pytest.raises(ApiRefused) as stale:
        hands.update(CONFIG_MAPS, {**old, "data": {"said": "third"}})
    assert stale.value.status == 409
    assert said(hands, "put") == "second"


def test_a_json_patch_whose_test_fails_is_invalid_and_does_none_of_the_rest(hands: Hands) -> None:
    old = noted(hands, "tested")
    place = "/metadata/resourceVersion"

    def patch(tested: str, what: str) -> None:
        ops = [{"op": "test", "path": place, "value": tested}, {"op": "replace", "path": "/data/said", "value": what}]
        hands.patch(CONFIG_MAPS, "tested", ops)

    patch(version(old), "second")
    with pytest.raises(ApiRefused) as stale:
        patch(version(old), "third")
    assert stale.value.status == 422
    assert said(hands, "tested") == "second"


def test_a_merge_patch_may_carry_the_version_that_it_was_made_from(hands: Hands) -> None:
    old = noted(hands, "merged")
    body = {"metadata": {"resourceVersion": version(old)}, "data": {"said": "second"}}
    hands.patch(CONFIG_MAPS, "merged", body, MERGE_PATCH)
    with pytest.raises(ApiRefused) as stale:
        hands.patch(CONFIG_MAPS, "merged", {**body, "data": {"said": "third"}}, MERGE_PATCH)
    assert stale.value.status == 409
    assert said(hands, "merged") == "second"


@pytest.mark.parametrize("what", ["uid", "resourceVersion"])
def test_what_is_another_than_was_meant_is_not_deleted(hands: Hands, what: str) -> None:
    name = f"kept-{what.lower()}"
    noted(hands, name)
    other = {"uid": "00000000-0000-0000-0000-000000000000", "resourceVersion": "1"}[what]
    with pytest.raises(ApiRefused) as refused:
        hands.delete(CONFIG_MAPS, name, **{what: other})
    assert refused.value.status == 409
    held = hands.get(CONFIG_MAPS, name)
    hands.delete(CONFIG_MAPS, name, uid=held["metadata"]["uid"], resourceVersion=version(held))
    with pytest.raises(ApiRefused) as gone:
        hands.get(CONFIG_MAPS, name)
    assert gone.value.status == 404


def test_a_name_that_is_taken_is_a_conflict(hands: Hands) -> None:
    noted(hands, "taken")
    with pytest.raises(ApiRefused) as taken:
        noted(hands, "taken")
    assert taken.value.status == 409


def test_labels_do_not_move_the_generation_and_annotations_of_a_deployment_do(hands: Hands) -> None:
    made = hands.deployment("marked", 0)["metadata"]["generation"]
    labelled = hands.patch(DEPLOYMENTS, "marked", {"metadata": {"labels": {"foresail.dev/note": "a"}}}, MERGE_PATCH)
    assert labelled["metadata"]["labels"]["foresail.dev/note"] == "a"
    assert labelled["metadata"]["generation"] == made
    marks = {"metadata": {"annotations": {"foresail.dev/note": "a"}}}
    assert hands.patch(DEPLOYMENTS, "marked", marks, MERGE_PATCH)["metadata"]["generation"] == made + 1


def test_the_number_of_a_revision_does_not_move_the_generation(hands: Hands) -> None:
    made = hands.deployment("numbered", 1)["metadata"]["generation"]
    hands.until(lambda: hands.get(DEPLOYMENTS, "numbered")["metadata"].get("annotations"))
    hands.until_ready("numbered", 1)
    held = hands.get(DEPLOYMENTS, "numbered")["metadata"]
    assert (held["annotations"]["deployment.kubernetes.io/revision"], held["generation"]) == ("1", made)


def test_the_same_again_is_not_written(hands: Hands) -> None:
    noted(hands, "same")
    change = {"data": {"said": "second"}}
    once = hands.patch(CONFIG_MAPS, "same", change, MERGE_PATCH)
    again = hands.patch(CONFIG_MAPS, "same", change, MERGE_PATCH)
    assert version(again) == version(once)
