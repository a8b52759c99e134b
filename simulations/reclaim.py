"""When does the cloud take a spot node back? At a rate per hour, after a notice during which the node is drained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from simulations.clock import EventQueue
from simulations.nodes import Node, NodeGroup

_STREAM = 7_919
"""Keeps the generators of nodes apart from those of replicas, which are seeded with a pool and a position."""


class SpotSettings(BaseModel):
    """What nodes cost that can be taken back at any time, and how that goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reclaims_per_hour: float = Field(
        0.05,
        ge=0,
        le=3600,
        description="Reclaims per node and hour, without memory (exponential). 0.05 is one a day for a node, an "
        "assumption: what clouds publish are rates per month and type, and GPUs fare worse.",
    )
    notice_s: float = Field(
        120.0,
        ge=0,
        le=86400,
        description="Time in seconds from the notice to the end of the node: 120 at AWS, 30 at Google Cloud and Azure.",
    )
    price_ratio: float = Field(
        0.4, gt=0, le=1, description="Price over that of the pool's profile; list prices of spot are 60 to 90 % off."
    )


class Tenant(Protocol):
    """Whoever has replicas on nodes."""

    def evict(self, node: str, at: float) -> None:
        """Drain the node: what serves finishes what it has, and all of it is asked for elsewhere."""
        ...

    def node_failed(self, node: str, at: float) -> None:
        """Let what is on the node be dead, before the platform gives it up."""
        ...

    def lose_node(self, node: str, at: float) -> None:
        """Lose what is on the node."""
        ...


class Reclaims:
    """Gives notice of nodes and takes them, by a seed or on request."""

    def __init__(self, events: EventQueue, seed: int, tenants: Callable[[NodeGroup], list[Tenant]]) -> None:
        """``tenants`` says who may have replicas on a group's nodes."""
        self._events, self._seed, self._tenants = events, seed, tenants

    def watch(self, group: NodeGroup, index: int, spot: SpotSettings, at: float) -> None:
        """Let every node of the group be reclaimed some time.

        The n-th node that a group ever makes draws its time from (seed, group, n) alone.
        """
        group.came = partial(self._draw, group, index, spot)
        for node in group:
            self._draw(group, index, spot, node, at)

    def give_notice(self, group: NodeGroup, node: Node, notice_s: float, at: float) -> None:
        """Let the node take nothing new, be drained, and be gone after ``notice_s``; once per node."""
        if node.gone or node.leaving:
            return
        node.leaving = True
        for tenant in self._tenants(group):
            tenant.evict(node.name, at)
        self._events.plan(at + notice_s, partial(self.take, group, node))

    def fail(self, group: NodeGroup, node: Node, grace_s: float, at: float) -> None:
        """Let the node be dead, and be gone when the platform has waited for it for ``grace_s``; once per node."""
        if node.gone or not node.ready:
            return
        if grace_s > 0:
            node.ready, node.since_at = False, at
            for tenant in self._tenants(group):
                tenant.node_failed(node.name, at)
            self._events.plan(at + grace_s, partial(self.take, group, node))
        else:
            self.take(group, node, at)

    def take(self, group: NodeGroup, node: Node, at: float) -> None:
        """Let the node be gone with all that is left on it."""
        if node.gone:
            return
        group.remove(node, at)
        for tenant in self._tenants(group):
            tenant.lose_node(node.name, at)

    def _draw(self, group: NodeGroup, index: int, spot: SpotSettings, node: Node, at: float) -> None:
        if spot.reclaims_per_hour > 0:
            rng = np.random.default_rng([self._seed, _STREAM, index, node.ordinal])
            lasts_s = rng.exponential(3600.0 / spot.reclaims_per_hour)
            self._events.plan(at + lasts_s, partial(self.give_notice, group, node, spot.notice_s))
