"""Clusters that can be cut off, and loops over several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from controller.adapters.kube.members import Member, MemberClusters
from controller.errors import ActuationError, ObservationError
from controller.ports import Cluster
from policies.fleet import PoolKey

_LOOKS = ("pools", "nodes")


class Link:
    """The way to a cluster, which can be cut; ``acts`` are those that came through."""

    def __init__(self, cluster: Cluster, name: str = "link") -> None:
        self._cluster, self._name = cluster, name
        self.cut = False
        self.acts: list[str] = []

    def start(self) -> None: ...

    def close(self) -> None: ...

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            if self.cut:
                error = ObservationError if verb in _LOOKS else ActuationError
                raise error(f"{self._name} does not answer", self._name)
            if verb not in _LOOKS:
                self.acts.append(verb)
            return getattr(self._cluster, verb)(*arguments)

        return ask


def over(links: Mapping[str, Link], now: Callable[[], float], **changes: Any) -> MemberClusters:
    """Return one cluster over all of them."""
    return MemberClusters({name: cast("Member", link) for name, link in links.items()}, now, **changes)


def of_member(name: str, key: PoolKey) -> PoolKey:
    """Return what the fleet calls a pool of that member."""
    return PoolKey(key.model, f"{name}.{key.pool}", key.role)
