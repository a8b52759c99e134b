"""Which replica gets GPUs, where and when: a queue before node groups, under GPU stock and quota."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from controller.errors import ActuationError
from policies.engine_profile import EngineProfile
from policies.fleet import NodeState
from simulations.clock import EventQueue
from simulations.fleet_replica import FleetReplica
from simulations.nodes import Node, NodeGroup
from simulations.platform_settings import PlatformSettings
from simulations.reclaim import Reclaims, Tenant


class GpuLimit:
    """GPUs that may be in use at one time; None for no limit."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int | None) -> None:
        self.limit, self.used = limit, 0

    def fits(self, gpus: int) -> bool:
        """Return whether so many more may be used."""
        return self.limit is None or self.used + gpus <= self.limit


class Placed(Tenant, Protocol):
    """A pool as the scheduler sees it."""

    def placed(self, replica: FleetReplica, node: Node, at: float) -> None:
        """Let a replica that waited start on its node."""
        ...

    def quota_freed(self, at: float) -> None:
        """Make replicas that the quota did not allow before."""
        ...


@dataclass(frozen=True, slots=True)
class Berth:
    """What one pool needs to know to be placed.

    Attributes:
        pool: Its name.
        profile: Its engine.
        usd_per_gpu_hour: Its price.
        gpu_stock: GPUs that it alone can get; None for no limit.
    """

    pool: str
    profile: EngineProfile
    usd_per_gpu_hour: float
    gpu_stock: int | None = None


class Scheduler:
    """Gives GPUs to replicas in the order in which they were asked for; one that does not fit lets others pass.

    Pools are known by their position among ``berths``.
    """

    def __init__(
        self,
        berths: Sequence[Berth],
        platform: PlatformSettings,
        gpus_per_node: int,
        events: EventQueue,
        seed: int,
        at: float,
    ) -> None:
        self._berths = berths
        self._tenants: dict[int, Placed] = {}
        self._group_of = _groups(berths, platform, gpus_per_node, events, at)
        self._groups = list(dict.fromkeys(self._group_of))
        stocks = {gpu: GpuLimit(limit) for gpu, limit in platform.gpu_stock.items()}
        self._stocks = [
            [GpuLimit(berth.gpu_stock), *([stocks[berth.profile.gpu]] if berth.profile.gpu in stocks else [])]
            for berth in berths
        ]
        self._quota = GpuLimit(platform.gpu_quota)
        self._refuses_scaling = platform.quota_refuses == "scaling"
        self._by_node = platform.paid_by == "node"
        self._waiting: dict[FleetReplica, None] = {}
        self._placed: dict[FleetReplica, Node] = {}
        self._reclaims = Reclaims(events, seed, self._tenants_of)
        for index, group in enumerate(self._groups):
            group.supply = self.serve
            spot = platform.spot_of(berths[self._group_of.index(group)].pool)
            if spot is not None:
                self._reclaims.watch(group, index, spot, at)

    def join(self, pool: int, tenant: Placed) -> None:
        """Take note of who is told about the pool's replicas."""
        self._tenants[pool] = tenant

    # Quota

    def admits(self, replica_gpus: int) -> bool:
        """Return whether the quota lets one more replica be made, and count it if so."""
        if not self._quota.fits(replica_gpus):
            return False
        self._quota.used += replica_gpus
        return True

    def check_growth(self, more_gpus: int, where: str) -> None:
        """Refuse growth beyond the quota where that is how the platform is set.

        Raises:
            ActuationError: If it is refused.
        """
        if self._refuses_scaling and more_gpus > 0 and not self._quota.fits(more_gpus):
            limit = self._quota.limit
            raise ActuationError(
                f"quota exceeded: {self._quota.used} GPUs used, {more_gpus} more, limit {limit}", where
            )

    # Replicas

    def ask(self, replica: FleetReplica, at: float, *, at_once: bool = False) -> Node | None:
        """Return the node on which the replica has GPUs from now on; None when it waits and ``placed`` will tell."""
        node = self._take(replica, at, at_once=at_once)
        if node is None:
            self._waiting[replica] = None
            self._order(at)
        return node

    def leave(self, replica: FleetReplica, at: float) -> None:
        """Take back what the replica has, or let it wait no longer; ``serve`` gives it to others."""
        gpus = self._berths[replica.pool].profile.gpus
        self._quota.used -= gpus
        self._waiting.pop(replica, None)
        node = self._placed.pop(replica, None)
        if node is None:
            return
        for stock in self._stocks[replica.pool]:
            stock.used -= gpus
        self._group_of[replica.pool].give_back(node, gpus, at)

    def serve(self, at: float) -> None:
        """Give what is free to those that wait."""
        for replica in list(self._waiting):
            if (node := self._take(replica, at)) is not None:
                del self._waiting[replica]
                self._tenants[replica.pool].placed(replica, node, at)
        self._order(at)
        for tenant in self._tenants.values():
            tenant.quota_freed(at)

    def node_of(self, replica: FleetReplica) -> Node:
        """Return the node of a replica that is placed."""
        return self._placed[replica]

    # Nodes

    def nodes(self) -> Mapping[str, NodeState]:
        """Return the nodes that are there, as the platform tells them."""
        return {
            node.name: NodeState(node.ready, node.since_at, leaving=node.leaving, avoided=node.avoided)
            for group in self._groups
            for node in group
        }

    def xids(self) -> Mapping[str, float]:
        """Return the newest Xid error of each node, 0 for none."""
        return {node.name: float(node.xid) for group in self._groups for node in group}

    def avoid(self, name: str, at: float, *, avoided: bool) -> None:
        """Let a node take nothing new, or take it again.

        Raises:
            ActuationError: If it is not there.
        """
        node = next((node for group in self._groups if (node := group.named(name)) is not None), None)
        if node is None:
            raise ActuationError(f"no such node: {name}", "simulated cluster")
        node.avoided = avoided
        self.serve(at)

    def lose_node(self, name: str, at: float, grace_s: float = 0.0) -> None:
        """Let a node be dead, and gone after ``grace_s`` with all that is on it; nothing when it is not there."""
        for group in self._groups:
            if (node := group.named(name)) is not None:
                self._reclaims.fail(group, node, grace_s, at)

    def reclaim(self, name: str, notice_s: float, at: float) -> None:
        """Let a node be drained and be gone after ``notice_s``; nothing when it is not there."""
        for group in self._groups:
            if (node := group.named(name)) is not None:
                self._reclaims.give_notice(group, node, notice_s, at)

    def stock_out(self, pool: int, until: float) -> None:
        """Let no further node come for ``pool`` until then."""
        self._group_of[pool].bar(until)

    def could_be(self, node: str) -> bool:
        """Return whether a node may ever have that name."""
        return any(node.startswith(f"{group.name}-node-") for group in self._groups)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the node groups; those of nodes are ``GROUP-node-NUMBER``."""
        return tuple(group.name for group in self._groups)

    # Money

    @property
    def paid_by_node(self) -> bool:
        """Whether nodes are paid for instead of replicas."""
        return self._by_node

    def node_gpu_s(self, at: float) -> float:
        """Return the GPU seconds of all nodes until ``at``, used or not."""
        return math.fsum(group.paid_gpu_s(at) for group in self._groups)

    def node_usd(self, at: float) -> float:
        """Return what those cost in US dollars."""
        prices = {group: self._berths[pool].usd_per_gpu_hour for pool, group in enumerate(self._group_of)}
        return math.fsum(group.paid_gpu_s(at) / 3600.0 * prices[group] for group in self._groups)

    def _take(self, replica: FleetReplica, at: float, *, at_once: bool = False) -> Node | None:
        pool = replica.pool
        gpus = self._berths[pool].profile.gpus
        if not all(stock.fits(gpus) for stock in self._stocks[pool]):
            return None
        node = self._group_of[pool].take(gpus, at, at_once=at_once)
        if node is not None:
            self._placed[replica] = node
            for stock in self._stocks[pool]:
                stock.used += gpus
        return node

    def _order(self, at: float) -> None:
        """Let nodes come for those that the stock would let run."""
        free = {id(s): math.inf if s.limit is None else s.limit - s.used for stocks in self._stocks for s in stocks}
        waiting: dict[NodeGroup, list[int]] = {}
        for replica in self._waiting:
            gpus, stocks = self._berths[replica.pool].profile.gpus, self._stocks[replica.pool]
            if all(free[id(stock)] >= gpus for stock in stocks):
                for stock in stocks:
                    free[id(stock)] -= gpus
                waiting.setdefault(self._group_of[replica.pool], []).append(gpus)
        for group, sizes in waiting.items():
            group.order(sizes, at)

    def _tenants_of(self, group: NodeGroup) -> list[Tenant]:
        return [tenant for pool, tenant in self._tenants.items() if self._group_of[pool] is group]


def _groups(
    berths: Sequence[Berth], platform: PlatformSettings, gpus_per_node: int, events: EventQueue, at: float
) -> list[NodeGroup]:
    """Return the node group of each pool. A replica larger than a node of no given size has one that fits it."""
    shared: Mapping[str, NodeGroup] = {
        name: NodeGroup(name, nodes, nodes.gpus_per_node or gpus_per_node, events, at)
        for name, nodes in platform.node_groups.items()
    }
    own = platform.nodes
    return [
        shared[group]
        if (group := platform.group_of(berth.pool))
        else NodeGroup(berth.pool, own, own.gpus_per_node or max(gpus_per_node, berth.profile.gpus), events, at)
        for berth in berths
    ]
