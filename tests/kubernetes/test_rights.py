"""Can one ask what one may do, verb by verb?"""

from __future__ import annotations

from typing import Any

from tests.builders_any_cluster import REVIEWS, Hands


def answer(hands: Hands, **attributes: str) -> dict[str, Any]:
    asked = {"namespace": hands.namespace, **attributes}
    status: dict[str, Any] = hands.create(REVIEWS, {"spec": {"resourceAttributes": asked}})["status"]
    return status


def test_what_the_suite_does_it_is_told_to_be_allowed(hands: Hands) -> None:
    hands.deployment("allowed", 0)
    assert answer(hands, verb="create", group="apps", resource="deployments")["allowed"] is True
    hands.scaled("allowed", 1)
    scale = {"group": "apps", "resource": "deployments", "subresource": "scale"}
    assert answer(hands, verb="update", name="allowed", **scale)["allowed"] is True


def test_a_question_is_answered_and_not_stored(hands: Hands) -> None:
    told = hands.create(REVIEWS, {"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}})
    assert told["kind"] == "SelfSubjectAccessReview"
    assert isinstance(told["status"]["allowed"], bool)
    assert not told["metadata"].get("uid")
