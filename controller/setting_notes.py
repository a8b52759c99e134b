"""What is worth a second look in settings that can be used?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.unknown_pools import few, pools_of
from controller.settings import Settings
from policies.fleet import PoolKey


@dataclass(frozen=True, slots=True)
class SettingNote:
    """Something that may be meant: where it stands, what is odd, and what to do where it is not meant."""

    key: str
    what: str
    remedy: str


def notes_of(settings: Settings) -> list[SettingNote]:
    """Return what there is to say, in the order of the settings; without asking a cluster."""
    return list(_routes_to_unknown_pools(settings))


def _routes_to_unknown_pools(settings: Settings) -> Iterator[SettingNote]:
    """Yield routes to pools that these settings know nothing of, where others of the same model are known.

    A workload may be a pool by its labels all the same, or by a ScalingPolicy: of models that these may decide nothing
    is said.
    """
    known = {PoolKey.parse(key) for key in settings.policy.pools} | set(_placed(settings))
    for key, cluster in _clusters(settings):
        for number, route in enumerate(cluster.routes):
            of_model = sorted([str(pool) for pool in known if pool.model == route.model])
            unknown = [str(pool) for pool in pools_of(route) if pool not in known]
            if unknown and of_model and not (cluster.policies and route.model not in cluster.pinned_models):
                what = f"neither policy.pools nor platform.pools has {few(unknown)}; they have {few(of_model)}"
                remedy = "check the name, unless a label of its workload makes it a pool"
                yield SettingNote(f"{key}.routes.{number}.backends", what, remedy)


def _clusters(settings: Settings) -> list[tuple[str, KubernetesSettings]]:
    platform = settings.platform
    if isinstance(platform, ClustersSettings):
        return [(f"platform.members.{name}", member) for name, member in platform.members.items()]
    return [("platform", platform)] if isinstance(platform, KubernetesSettings) else []


def _placed(settings: Settings) -> Iterator[PoolKey]:
    """Yield the pools that the settings name by their workload, as the fleet calls them."""
    platform = settings.platform
    prefixed = isinstance(platform, ClustersSettings) and platform.pool_prefix
    for key, cluster in _clusters(settings):
        for place in cluster.pools:
            pool = PoolKey(place.model, place.pool or place.name, place.role)
            yield replace(pool, pool=f"{key.rpartition('.')[2]}.{pool.pool}") if prefixed else pool
