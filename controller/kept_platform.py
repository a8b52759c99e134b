"""May a platform stay open under other settings, and who is the last to leave it?

Settings are loaded anew at every edit of a ScalingPolicy. A platform that is opened anew lists a whole cluster, and has
forgotten what it wrote and who owns what; so one that is open is shared with whoever wants the same, and is closed when
nobody uses it any more. The same is what would be opened alike, kubeconfigs included: which workloads are named as
pools is only looked up when pools are put together, and what is read of ScalingPolicies is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import TypeAlias

from controller.adapters.kube.changes import Fence
from controller.adapters.kube.kubeconfig_files import digest_of
from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings
from controller.platform_settings import AnyPlatform
from controller.platforms import Platform, open_platform
from controller.shard_settings import WHOLE, ShardSettings

_Likeness: TypeAlias = tuple[AnyPlatform, tuple[str, ...], str]
"""What is opened alike is equal: settings without what makes no other platform of it, digests of kubeconfigs, shard."""


@dataclass(slots=True)
class _Open:
    """A platform that is open, what it was opened as, and how many use it."""

    likeness: _Likeness
    platform: Platform
    users: int = 0


class KeptPlatform:
    """Opens platforms, and shares those that are open. Safe to use from several threads."""

    def __init__(self, fence: Fence, silenced: Callable[[], bool]) -> None:
        """Every write of a platform asks ``fence``; see ``open_platform``."""
        self._fence, self._silenced = fence, silenced
        self._opening, self._lock = Lock(), Lock()
        self._open: list[_Open] = []

    def under(self, named: AnyPlatform, shard: ShardSettings = WHOLE) -> Platform:
        """Return the platform that settings name, with the pools of a shard, to be closed by each who asked for it.

        Its ``adapt_to`` is to be called with them before it is used for the first time, between two ticks.

        Raises:
            ObservationError: If it cannot be told how a cluster is reached.
        """
        with self._opening:
            likeness = (*_likeness(named), f"{shard.title} {shard.layout}")
            found = self._taken(likeness)
            if found is None:
                found = _Open(likeness, open_platform(named, self._fence, self._silenced, shard), users=1)
                with self._lock:
                    self._open.append(found)
        return self._share(found)

    def _taken(self, likeness: _Likeness) -> _Open | None:
        """Return what is open of that already, with one user more."""
        with self._lock:  # not while one is opened, which takes long: whoever closes another one must not wait
            for one in self._open:
                if one.likeness == likeness:
                    one.users += 1
                    return one
        return None

    def _share(self, one: _Open) -> Platform:
        left = False

        def leave() -> None:
            nonlocal left
            with self._lock:
                one.users -= not left
                left = True
                last = not one.users and one in self._open
                if last:
                    self._open.remove(one)
            if last:
                one.platform.close()

        return replace(one.platform, close=leave)


def _likeness(named: AnyPlatform) -> tuple[AnyPlatform, tuple[str, ...]]:
    if isinstance(named, ClustersSettings):
        return named, tuple(map(digest_of, named.members.values()))
    if isinstance(named, KubernetesSettings):
        unread = {"pools": (), "policies": False, "pinned_models": frozenset()}
        return named.model_copy(update=unread), (digest_of(named),)
    return named, ()
