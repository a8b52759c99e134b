"""What is the platform of a simulated fleet made of: nodes, GPU stock and quota, spot, and how replicas start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from controller.errors import BadInput
from policies.engine_profile import EngineProfile
from simulations.nodes import NodeSettings
from simulations.reclaim import SpotSettings
from simulations.startup import PLAIN, StartupModel, by_name, startup_named

Startup = Annotated[StartupModel, BeforeValidator(by_name)]


class PoolPlatform(BaseModel):
    """What differs for one pool; what is left out is as for all pools."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    startup: Startup | None = Field(None, description="A start-up model's name, or a whole model.")
    node_group: str = Field("", description="Name of the node group it shares; empty for nodes of its own.")
    spot: SpotSettings | None = Field(None, description="Its nodes are spot nodes, with this rate, notice and price.")


class PlatformSettings(BaseModel):
    """Where replicas run, how long they take to start, and what they may not have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    startup: Startup = Field(
        default_factory=lambda: startup_named(PLAIN),
        description="How replicas start: a start-up model's name, or a whole model. The lead time is its median.",
    )
    nodes: NodeSettings = Field(
        default_factory=NodeSettings, description="Nodes of each pool that shares no node group."
    )
    node_groups: Mapping[str, NodeSettings] = Field(
        default_factory=dict, description="Node groups that pools share, by name."
    )
    pools: Mapping[str, PoolPlatform] = Field(
        default_factory=dict, description="What differs per pool, by its name alone, such as a100-tp4."
    )
    spot: SpotSettings | None = Field(None, description="All pools run on spot nodes; a pool's own wins.")
    gpu_stock: Mapping[str, int] = Field(
        default_factory=dict,
        description="GPUs that there are of a type, for all pools together, such as {a100: 32}; replicas beyond stay "
        "PENDING, unpaid.",
    )
    gpu_quota: int | None = Field(
        None,
        ge=0,
        description="GPUs that all pools together may ask for, PENDING replicas included. None for no quota.",
    )
    quota_refuses: Literal["replicas", "scaling"] = Field(
        "replicas",
        description="What happens beyond the quota. replicas: a ResourceQuota of Kubernetes, the count is taken and "
        "the replicas beyond it are not made until there is room. scaling: an admission policy, the request fails.",
    )
    paid_by: Literal["replica", "node"] = Field(
        "replica",
        description="What is paid for: GPUs from a replica's placement to its end, or all GPUs of every node, idle "
        "ones too, while it is there.",
    )

    def startup_of(self, pool: str) -> StartupModel:
        """Return how replicas of the pool start."""
        own = self.pools.get(pool)
        return self.startup if own is None or own.startup is None else own.startup

    def spot_of(self, pool: str) -> SpotSettings | None:
        """Return what the pool's nodes are as spot nodes; None when they are not."""
        own = self.pools.get(pool)
        return self.spot if own is None or own.spot is None else own.spot

    def group_of(self, pool: str) -> str:
        """Return the name of the node group that the pool shares; empty when it has its own."""
        own = self.pools.get(pool)
        return "" if own is None else own.node_group


def check_platform(platform: PlatformSettings, profiles: Mapping[str, EngineProfile], gpus_per_node: int) -> None:
    """Make sure that the settings fit the pools, given by name, and ``gpus_per_node`` where a group does not say.

    Raises:
        BadInput: If a name is unknown, or a pool cannot be where it should.
    """
    _known("platform.pools", platform.pools, profiles)
    _known("platform.gpu_stock", platform.gpu_stock, {profile.gpu for profile in profiles.values()})
    shared = {name: platform.group_of(name) for name in profiles}
    for name, group in shared.items():
        if group:
            _known(f"platform.pools.{name}.node_group", [group], platform.node_groups)
    for gpu, gpus in platform.gpu_stock.items():
        if gpus < 0:
            raise BadInput(f"a stock of {gpus} GPUs", f"platform.gpu_stock.{gpu}", "give 0 or more")
    for group, settings in platform.node_groups.items():
        pools = [name for name in profiles if shared[name] == group]
        if group in profiles:
            what = "a pool has this name, and its own nodes would be called like these"
            raise BadInput(what, f"platform.node_groups.{group}", "give the node group another name")
        if not pools:
            what = "no pool is on these nodes"
            remedy = f"give one of {', '.join(profiles)} node_group: {group} below platform.pools"
            raise BadInput(what, f"platform.node_groups.{group}", remedy)
        _check_shared(group, {name: profiles[name] for name in pools}, platform)
        gpus = settings.gpus_per_node or gpus_per_node
        _check_size(f"platform.node_groups.{group}", gpus, [profiles[name] for name in pools])
    if platform.nodes.gpus_per_node is not None:
        own = [profile for name, profile in profiles.items() if not shared[name]]
        _check_size("platform.nodes", platform.nodes.gpus_per_node, own)


def _check_shared(group: str, profiles: Mapping[str, EngineProfile], platform: PlatformSettings) -> None:
    """Refuse pools on the same nodes whose GPUs are not the same thing at the same price."""
    first, *others = profiles
    for name in others:
        mine, its = profiles[first], profiles[name]
        if (mine.gpu, mine.usd_per_gpu_hour) != (its.gpu, its.usd_per_gpu_hour):
            what = f"{first} has {mine.gpu} at {mine.usd_per_gpu_hour:g} US dollars, {name} {its.gpu} at "
            raise BadInput(
                what + f"{its.usd_per_gpu_hour:g}",
                f"platform.node_groups.{group}",
                "share nodes of one GPU type and price",
            )
        if platform.spot_of(first) != platform.spot_of(name):
            what = f"{first} and {name} share nodes and differ in spot"
            raise BadInput(what, f"platform.node_groups.{group}", "give both the same spot settings")


def _check_size(where: str, gpus: int, profiles: Iterable[EngineProfile]) -> None:
    for profile in profiles:
        if profile.gpus > gpus:
            what = f"a replica of {profile.name} needs {profile.gpus} GPUs, a node has {gpus}"
            raise BadInput(what, where, f"give gpus_per_node {profile.gpus} or more")


def _known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise BadInput(f"there is no {name!r}", where, f"known: {there}")
