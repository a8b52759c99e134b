"""Does a route name pools that there are not, and which are there instead?"""

from __future__ import annotations

from collections.abc import Collection

from controller.adapters.kube.route_pools import RoutePools
from controller.adapters.kube.settings import RoutePlace
from policies.fleet import PoolKey

_NAMED = 5


def pools_of(route: RoutePlace) -> tuple[PoolKey, ...]:
    """Return the pools that the backends of a route stand for, in the order of the settings."""
    behind = RoutePools.of(route.model, route.backends).behind
    return tuple([key for keys in behind.values() for key in keys])


def unknown_pools(route: RoutePlace, there: Collection[PoolKey]) -> str:
    """Return which of a route's pools are not among those that are ``there``, and what is; empty where all are."""
    unknown = [str(key) for key in pools_of(route) if key not in there]
    if not unknown:
        return ""
    others = sorted([str(key) for key in there if key.model == route.model])
    are = f"those of {route.model} are {few(others)}" if others else f"{route.model} has none at all"
    return f"it has a backend for {few(unknown)}, and there is no such pool; {are}"


def few(names: Collection[str]) -> str:
    """Return the first of some names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
