"""What is kept of a route, whatever an API server says of it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from controller.adapters.kube.handshake import taken
from controller.adapters.kube.json_reading import count, instant, word
from controller.adapters.kube.ownership import Writer, route_writer
from controller.adapters.kube.routes import Json, RouteKind, shares_of
from controller.errors import ObservationError
from policies.fleet import PoolKey

Shares: TypeAlias = Mapping[PoolKey, float]


@dataclass(frozen=True, slots=True)
class SeenRoute:
    """What is kept of a route.

    Attributes:
        shares: Of one pool for each backend; None where they cannot be read.
        unread: Why they cannot: what, where and remedy.
        generation: Of what is wanted; None where it is not told.
        untaken: Why that is not known to be in effect; empty where it is.
        writer: Who set the rules last, if that is noted.
        created_at: When it was made; NaN where that is not told.
    """

    shares: Shares | None
    unread: tuple[str, str, str]
    generation: int | None
    untaken: str
    writer: Writer | None
    created_at: float


def read_route(told: object, kind: RouteKind, named: Mapping[str, Mapping[PoolKey, str]]) -> SeenRoute | None:
    """Return what is kept of a route; None where it is not among those ``named``, each with its backends.

    One whose shares cannot be read is kept as that, for what was known of it before is no longer so.
    """
    backends = named.get(word(told, "metadata", "name"))
    if backends is None or not isinstance(told, dict):
        return None
    try:
        return seen_route(kind, told, shares_of(kind, told, backends))
    except ObservationError as error:
        return seen_route(kind, told, None, (error.what, error.where, error.remedy))


def seen_route(
    kind: RouteKind, told: Json, shares: Shares | None, unread: tuple[str, str, str] = ("", "", "")
) -> SeenRoute:
    """Return what is kept of a route with these shares."""
    return SeenRoute(
        shares,
        unread,
        count(told, "metadata", "generation"),
        taken(kind, told),
        route_writer(kind, told),
        instant(told, "metadata", "creationTimestamp"),
    )
