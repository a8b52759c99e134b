"""Which nodes are there: they are added when replicas wait for GPUs, come late, empty out, are lost, and cost money."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulations.clock import EventQueue


class NodeSettings(BaseModel):
    """What the nodes of a group are and how many there may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus_per_node: int | None = Field(
        None, gt=0, le=1024, description="GPUs of a node; none takes fleet.gpus_per_node."
    )
    nodes: int = Field(0, ge=0, le=10_000, description="Nodes that are always there; one that is lost is made anew.")
    max_nodes: int | None = Field(
        None, ge=0, le=10_000, description="Most nodes; replicas beyond stay PENDING. None for no limit."
    )
    provisioning_s: float = Field(
        0.0,
        ge=0,
        le=86400,
        description="Time in seconds from a replica waiting for GPUs to a further node being there; zero for a cluster "
        "that always has one to spare. Cloud providers take 1 to 5 minutes for a GPU node.",
    )
    idle_s: float = Field(
        600.0,
        ge=0,
        description="Time in seconds after which an empty node beyond ``nodes`` is given back; 10 minutes is the "
        "default of the Kubernetes cluster autoscaler.",
    )

    @model_validator(mode="after")
    def _bounds(self) -> NodeSettings:
        if self.max_nodes is not None and self.nodes > self.max_nodes:
            raise ValueError(f"nodes {self.nodes} is more than max_nodes {self.max_nodes}")
        return self


class Node:
    """One machine.

    Attributes:
        ordinal: How many nodes its group had made before it.
        used: GPUs that replicas have.
        leaving: Takes nothing new: it is about to be reclaimed.
        avoided: Takes nothing new: somebody wants it so.
        ready, since_at: Whether the platform reaches it, and since when it does or does not.
        xid: The newest Xid error of its GPUs; 0 for none.
        broken: No engine starts on it.
        image_at, weights_at: When it has the image, and has read the weights; infinity before.
    """

    __slots__ = (
        "avoided",
        "broken",
        "gone",
        "gpus",
        "idle_since",
        "image_at",
        "leaving",
        "name",
        "ordinal",
        "ready",
        "ready_at",
        "since_at",
        "used",
        "weights_at",
        "xid",
    )

    def __init__(self, name: str, ordinal: int, gpus: int, at: float) -> None:
        self.name, self.ordinal, self.gpus, self.ready_at = name, ordinal, gpus, at
        self.used = 0
        self.xid = 0
        self.leaving = self.gone = self.avoided = self.broken = False
        self.ready = True
        self.since_at = self.idle_since = at
        self.image_at = self.weights_at = math.inf

    def room(self) -> int:
        """Return the GPUs that a replica could get."""
        return 0 if self.leaving or self.gone or self.avoided or not self.ready else self.gpus - self.used


class NodeGroup:
    """Nodes of one kind. Whoever takes GPUs packs them onto the first node with room.

    Args:
        name: Of the group; node names begin with it.
        settings: How many there may be.
        gpus: GPUs of a node.
        events: Where arrivals of nodes and their ends are planned.
        at: Now; nodes that are always there begin here.

    Attributes:
        came: Called with every node that is there from now on.
        supply: Called when there may be room that was not there before.
        barred_until: Until then the cloud has no further node to give.
    """

    def __init__(self, name: str, settings: NodeSettings, gpus: int, events: EventQueue, at: float) -> None:
        self.name = name
        self.gpus = gpus
        self.barred_until = -math.inf
        self.came: Callable[[Node, float], None] = lambda _node, _at: None
        self.supply: Callable[[float], None] = lambda _at: None
        self._settings = settings
        self._events = events
        self._nodes: dict[str, Node] = {}
        self._lost: set[str] = set()
        self._made = 0
        self._coming = 0
        self._paid_node_s = 0.0
        for _ in range(settings.nodes):
            self._make(at)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def named(self, name: str) -> Node | None:
        """Return the node of that name; None when it is not there."""
        return self._nodes.get(name)

    def take(self, gpus: int, at: float, *, at_once: bool = False) -> Node | None:
        """Return a node on which ``gpus`` GPUs are taken from now on; None when there is none with room.

        With ``at_once`` a further node does not take its time: for what was there before the simulation begins.
        """
        node = next((node for node in self._nodes.values() if node.room() >= gpus), None)
        if node is None and (at_once or not self._settings.provisioning_s) and self._may_grow(at):
            node = self._make(at)
        if node is not None:
            node.used += gpus
        return node

    def give_back(self, node: Node, gpus: int, at: float) -> None:
        """Let GPUs be free again."""
        node.used -= gpus
        if not node.used and not node.gone:
            node.idle_since = at
            self._events.plan(at + self._settings.idle_s, partial(self._idle, node, at))

    def order(self, waiting: Sequence[int], at: float) -> None:
        """Let nodes come for replicas that wait, given the GPUs of each, beyond those that are coming already."""
        needed, room = 0, 0
        for gpus in waiting:
            if gpus > room:
                needed, room = needed + 1, self.gpus
            room -= gpus
        while self._coming < needed and self._may_grow(at):
            self._coming += 1
            self._events.plan(at + self._settings.provisioning_s, self._arrived)

    def bar(self, until: float) -> None:
        """Let no further node come until then; those that were ordered do."""
        self.barred_until = max(self.barred_until, until)
        if math.isfinite(until):
            self._events.plan(until, self._unbarred)

    def remove(self, node: Node, at: float) -> None:
        """Let a node be gone; its name is not used again."""
        if node.gone:
            return
        self._lost.add(node.name)
        self._end(node, at)
        self._keep_least(at)

    def paid_gpu_s(self, at: float) -> float:
        """Return the GPU seconds of all nodes until ``at``, used or not, from when each was there to its end."""
        there = math.fsum(at - node.ready_at for node in self._nodes.values())
        return (self._paid_node_s + there) * self.gpus

    def _may_grow(self, at: float) -> bool:
        most = self._settings.max_nodes
        if at < self.barred_until:
            return False
        return most is None or len(self._nodes) + self._coming < most

    def _make(self, at: float) -> Node:
        place = next(n for n in range(self._made + 1) if self._free(f"{self.name}-node-{n}"))
        node = Node(f"{self.name}-node-{place}", self._made, self.gpus, at)
        self._made += 1
        self._nodes[node.name] = node
        # First fit goes by name: the same nodes fill up whichever came back last.
        self._nodes = dict(sorted(self._nodes.items(), key=lambda item: int(item[0].rpartition("-")[2])))
        self.came(node, at)
        return node

    def _free(self, name: str) -> bool:
        return name not in self._nodes and name not in self._lost

    def _arrived(self, at: float) -> None:
        self._coming -= 1
        node = self._make(at)
        self.supply(at)
        if not node.used and not node.gone:
            self._events.plan(at + self._settings.idle_s, partial(self._idle, node, at))

    def _unbarred(self, at: float) -> None:
        if at >= self.barred_until:
            self._keep_least(at)
            self.supply(at)

    def _keep_least(self, at: float) -> None:
        while len(self._nodes) + self._coming < self._settings.nodes and self._may_grow(at):
            self._coming += 1
            self._events.plan(at + self._settings.provisioning_s, self._arrived)

    def _idle(self, node: Node, since: float, at: float) -> None:
        """Give the node back if it has been empty ever since; its name is free again."""
        empty = not (node.gone or node.used or node.leaving) and node.idle_since == since
        if empty and len(self._nodes) > self._settings.nodes:
            self._end(node, at)

    def _end(self, node: Node, at: float) -> None:
        node.gone = True
        del self._nodes[node.name]
        self._paid_node_s += at - node.ready_at
