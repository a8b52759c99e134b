"""Does a watch tell every change since a place in the history, how far it has got, and that a place is forgotten?"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import CONFIG_MAPS, Hands

WATCHED_S = 6
"""A server says how far it has got two seconds before a watch ends, more or less."""


def noted(hands: Hands, name: str, group: str) -> str:
    """Create a ConfigMap and return its resourceVersion."""
    made = hands.create(CONFIG_MAPS, {"metadata": {"name": name, "labels": {"group": group}}})
    return str(made["metadata"]["resourceVersion"])


def watched(hands: Hands, since: str, group: str, *, until: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a watch tells, until it ends or an object of a name is told of."""
    query = {"labelSelector": f"group={group}", "timeoutSeconds": str(WATCHED_S), "resourceVersion": since}
    for kind, told in hands.watch(CONFIG_MAPS, **query):
        yield kind, told["metadata"]
        if told["metadata"].get("name") == until:
            return


def test_every_change_since_a_version_is_told_in_order(hands: Hands) -> None:
    since = noted(hands, "old", "watched")
    noted(hands, "other", "not-watched")
    noted(hands, "new", "watched")
    hands.patch(CONFIG_MAPS, "old", {"data": {"said": "something"}}, MERGE_PATCH)
    hands.delete(CONFIG_MAPS, "new")
    noted(hands, "last", "watched")
    told = [(kind, meta["name"]) for kind, meta in watched(hands, since, "watched", until="last")]
    assert told == [("ADDED", "new"), ("MODIFIED", "old"), ("DELETED", "new"), ("ADDED", "last")]


def test_a_watch_is_told_before_it_ends_how_far_it_has_got_without_anything_for_it(hands: Hands) -> None:
    since = noted(hands, "quiet", "quiet")
    changes = watched(hands, since, "quiet", until="begun")
    noted(hands, "begun", "quiet")
    assert [kind for kind, _ in changes] == ["ADDED"]
    later = threading.Timer(WATCHED_S / 4, lambda: noted(hands, "busy", "busy"))  # a watch that goes on by then
    later.start()
    marks = [(kind, int(meta["resourceVersion"])) for kind, meta in watched(hands, since, "quiet")][1:]
    later.join()
    assert {kind for kind, _ in marks} == {"BOOKMARK"}
    assert marks[-1][1] >= int(hands.get(CONFIG_MAPS, "busy")["metadata"]["resourceVersion"])


def test_a_version_of_long_ago_is_gone_or_all_since_is_told(hands: Hands) -> None:
    made = [("ADDED", noted(hands, name, "ancient")) for name in ("ancient-a", "ancient-b")]
    told: list[tuple[str, str]] = []
    with contextlib.suppress(ApiRefused):
        changes = watched(hands, "1", "ancient", until="ancient-b")
        told = [(kind, meta["resourceVersion"]) for kind, meta in changes if kind != "BOOKMARK"]
    if told:
        assert told == made
        return
    with pytest.raises(ApiRefused) as gone:
        next(watched(hands, "1", "ancient"))
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
