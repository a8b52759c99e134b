"""Does a watch tell every change since a place in the history, how far it has got, and that a place is forgotten?"""

from __future__ import annotations

from typing import Any

import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import CONFIG_MAPS, Hands

WATCHED_S = 4
"""A server marks how far it has got two seconds before a watch ends, so one must last for longer."""


def noted(hands: Hands, name: str, group: str) -> str:
    """Create a ConfigMap and return its resourceVersion."""
    made = hands.create(CONFIG_MAPS, {"metadata": {"name": name, "labels": {"group": group}}})
    return str(made["metadata"]["resourceVersion"])


def watched(hands: Hands, since: str, group: str) -> list[tuple[str, dict[str, Any]]]:
    """Return all that a watch tells until it ends."""
    query = {"labelSelector": f"group={group}", "timeoutSeconds": str(WATCHED_S), "resourceVersion": since}
    return [(kind, told["metadata"]) for kind, told in hands.watch(CONFIG_MAPS, **query)]


def test_every_change_since_a_version_is_told_in_order_and_then_how_far_that_was(hands: Hands) -> None:
    since = noted(hands, "old", "watched")
    noted(hands, "other", "not-watched")
    noted(hands, "new", "watched")
    hands.patch(CONFIG_MAPS, "old", {"data": {"said": "something"}}, MERGE_PATCH)
    hands.delete(CONFIG_MAPS, "new")
    changes = watched(hands, since, "watched")
    told = [(kind, meta["name"]) for kind, meta in changes if kind != "BOOKMARK"]
    assert told == [("ADDED", "new"), ("MODIFIED", "old"), ("DELETED", "new")]
    kind, meta = changes[-1]
    assert kind == "BOOKMARK"
    assert int(meta["resourceVersion"]) >= int(changes[-2][1]["resourceVersion"])


def test_a_watch_of_what_does_not_change_is_told_so_before_it_ends(hands: Hands) -> None:
    since = noted(hands, "quiet", "quiet")
    elsewhere = noted(hands, "busy", "busy")
    changes = watched(hands, since, "quiet")
    assert {kind for kind, _ in changes} == {"BOOKMARK"}
    assert int(changes[-1][1]["resourceVersion"]) >= int(elsewhere)


def test_a_version_that_is_long_forgotten_is_gone(hands: Hands) -> None:
    with pytest.raises(ApiRefused) as gone:
        watched(hands, "1", "gone")
    assert gone.value.status == 410


def test_pages_are_of_one_state_whatever_happens_in_between(hands: Hands) -> None:
    for name in ("page-a", "page-b", "page-c"):
        noted(hands, name, "pages")
    first = hands.page(CONFIG_MAPS, labelSelector="group=pages", limit="2")
    noted(hands, "page-bb", "pages")
    token = first["metadata"]["continue"]
    second = hands.page(CONFIG_MAPS, labelSelector="group=pages", limit="2", **{"continue": token})
    names = [one["metadata"]["name"] for one in [*first["items"], *second["items"]]]
    assert names == ["page-a", "page-b", "page-c"]
    assert "continue" not in second["metadata"]
