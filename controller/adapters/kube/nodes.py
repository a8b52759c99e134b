"""What does a node say of itself: is it in order, is it about to go, may more be placed there?"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from controller.adapters.kube.json_reading import Refused, entries, flag, instant, subject, text, word
from policies.fleet import NodeState

_SHUT = frozenset(("NoSchedule", "NoExecute"))


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its name."""

    name: str
    state: NodeState


def read_node(told: object, leaving_taints: Collection[str], avoid_taint: str) -> Node | Refused:
    """Return the node that the API server tells of.

    Args:
        told: What the server said.
        leaving_taints: Keys of taints of nodes that are about to be taken away.
        avoid_taint: Key of the taint with which we shut a node.
    """
    name, created_at = word(told, "metadata", "name"), instant(told, "metadata", "creationTimestamp")
    if not name or math.isnan(created_at):
        return Refused(subject(told, "Node"), "without name or creationTimestamp")
    ready = next((entry for entry in entries(told, "status", "conditions") if text(entry, "type") == "Ready"), None)
    since_at = instant(ready, "lastTransitionTime")
    taints = entries(told, "spec", "taints")
    keys = {text(taint, "key") for taint in taints}
    ours = any(text(taint, "key") == avoid_taint and text(taint, "effect") in _SHUT for taint in taints)
    state = NodeState(
        ready=text(ready, "status") == "True",
        since_at=created_at if math.isnan(since_at) else since_at,
        leaving=not math.isnan(instant(told, "metadata", "deletionTimestamp")) or not keys.isdisjoint(leaving_taints),
        avoided=flag(told, "spec", "unschedulable") or ours,
    )
    return Node(name, state)
