"""Which shares do the pools of a model have in its route, and how are they changed? The ``Router`` port.

Shares are read from what a watch has told, and none are told that are older than a write of ours. A change is made of
the route as it is at that moment, and holds for that version of it alone. It is refused where the plan was made of
other shares, the gateways have not taken the last change yet, somebody else owns the weights, or nobody would answer
where more is to go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from numpy.random import Generator

from controller.adapters.kube.changes import JSON_PATCH, Change, Fence, acting, unfenced
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.destinations import Destinations
from controller.adapters.kube.health import Health
from controller.adapters.kube.json_reading import Refused, text
from controller.adapters.kube.kinds import ROUTES
from controller.adapters.kube.ownership import Owner, route_owner
from controller.adapters.kube.questions import ApiRefused, Question
from controller.adapters.kube.reflector import Reflector, Surroundings
from controller.adapters.kube.route_pools import RoutePools
from controller.adapters.kube.routes import SAME_SHARE, backends_of, object_of, patch_for, shares_of
from controller.adapters.kube.seen_routes import SeenRoute, Shares, read_route, seen_route
from controller.adapters.kube.settings import KubernetesSettings, RoutePlace
from controller.adapters.kube.watching import Watching
from controller.adapters.kube.written import Written
from controller.errors import ActuationError, ObservationError, StalePlan

_UNPROCESSABLE = 422
_UNKNOWN = 500
"""From this status on, or without any, a write may have happened."""


class KubernetesRouter:
    """The ``Router`` port over the routes that the settings name. Start it before use and close it after."""

    def __init__(
        self,
        settings: KubernetesSettings,
        elapsed: Callable[[], float],
        now: Callable[[], float],
        rng: Generator,
        fence: Fence = unfenced,
    ) -> None:
        """Take the time from ``elapsed``, seconds that never go back, and ``now``, since the epoch.

        ``rng`` scatters waits; every write asks ``fence``.

        Raises:
            ObservationError: If it cannot be told how the API server is reached.
        """
        self.api = KubernetesApi(settings, elapsed, fence)
        self._settings, self._elapsed, self._now = settings, elapsed, now
        around = Surroundings(self.api, settings, elapsed)
        self._routes = {place.model: _Route(place) for place in settings.routes}
        self.reflectors: dict[tuple[str, str], Reflector[SeenRoute]] = {}
        for kind, namespace in sorted({(one.place.kind, one.place.namespace) for one in self._routes.values()}):
            here = [one for one in self._routes.values() if (one.place.kind, one.place.namespace) == (kind, namespace)]
            read = partial(read_route, kind=kind, named={one.place.name: one.pools.backends for one in here})
            self.reflectors[kind, namespace] = Reflector(around, ROUTES[kind], namespace, read, rng.spawn(1)[0])
        self._watching = Watching(elapsed)
        self._written = Written(elapsed, self.api.server)
        self._wrote_s = -math.inf
        self._destinations = Destinations(around, rng.spawn(1)[0])

    def start(self) -> None:
        """Begin to watch; returns when the routes were listed, or after as long as one answer may take."""
        self._watching.start(self.reflectors.values(), self._settings.timeout_s)

    def close(self) -> None:
        """End the watches and give up the connections."""
        self._watching.close()
        self._destinations.close()
        self.api.close()

    def health(self) -> Health:
        """Return how its watches do; to be called from any thread."""
        return Health(self.api.answers, (*self._watching.reflectors, *self._destinations.reflectors))

    def weights(self, model: str) -> Shares:
        """Return each pool's share of what comes to its stage, none for a pool outside the route.

        Raises:
            ObservationError: If the settings name no route for the model, it is not there or cannot be read, the cache
                is too old, or it does not show a write of ours in time.
        """
        route = self._routes.get(model)
        if route is None:
            remedy = "name its route under platform.routes, if it has one"
            raise ObservationError(f"no route is named for {model}", "platform.routes", remedy)
        reflector = self.reflectors[route.place.kind, route.place.namespace]
        # A tick asks for every model: they do not each wait anew for a watch that lags.
        waited_s = self._elapsed() - self._wrote_s
        self._written.wait(max(0.0, self._settings.catch_up_s - waited_s), reflector)
        seen = reflector.store.snapshot(self._settings.stale_after_s).objects.get(route.key)
        if seen is None:
            raise ObservationError("it is not there", route.title, f"make it, or take {model} out of platform.routes")
        if seen.shares is None:
            raise ObservationError(*seen.unread)
        route.see(seen, self._elapsed())
        route.told = seen.shares
        return route.pools.of_pools(seen.shares)

    def set_weights(self, model: str, weights: Shares) -> None:
        """Replace the shares; those of each stage are scaled to a sum of one, and pools left out get none.

        Raises:
            StalePlan: If the shares are others than were told last, or change while they are written.
            ActuationError: If they are none, the route is not ours to change now, nobody would answer where more is to
                go, or the API server refuses.
        """
        route = self._routes.get(model)
        if route is None:
            raise ActuationError(f"no route is named for {model}", "platform.routes", "name it there")
        wanted = route.pools.of_backends(weights)
        with acting():
            fresh = self._fresh(route)
            patch = patch_for(route.place.kind, fresh, route.pools.backends, wanted)
            if patch:
                self._permit(route, fresh, wanted)
                self._write(route, fresh, patch)

    def notes(self) -> tuple[Refused, ...]:
        """Return what is to be said of the routes: who else owns or changed weights, and what was not in effect yet.

        The last is as of the last look at a model's weights.
        """
        return tuple(Refused(route.title, why) for route in self._routes.values() for why in self._notes(route))

    def _notes(self, route: _Route) -> list[str]:
        reflector = self.reflectors[route.place.kind, route.place.namespace]
        try:
            seen = reflector.store.snapshot(self._settings.stale_after_s).objects.get(route.key)
        except ObservationError as error:
            return [error.what]
        if seen is None:
            return ["it is not there"]
        if seen.shares is None:
            return [seen.unread[0]]
        notes = [route.waits(self._elapsed())] if route.untaken else []
        if self._written.lags(reflector):  # who had set what was there before our own write is nobody's news
            return notes
        owner = self._owner(seen)
        if owner is not None:
            notes.append(f"{owner.title} owns its weights: {owner.remedy}")
        writer, ours = seen.writer, self._settings.ownership.field_manager
        if route.set is not None and writer is not None and writer.name != ours and not _same(seen.shares, route.set):
            notes.append(f"{writer.name} made {_told(seen.shares)} of the {_told(route.set)} that we had set")
        return notes

    def _owner(self, seen: SeenRoute) -> Owner | None:
        return route_owner(seen.writer, seen.created_at, self._now(), self._settings.ownership)

    # Writing

    def _fresh(self, route: _Route) -> dict[str, Any]:
        """Return the route as it is now."""
        place = route.place
        told = self.api.get(ROUTES[place.kind], place.namespace, place.name)
        if not _version(told):
            raise ObservationError("it has no resourceVersion, so that no change of it can be bound to it", route.title)
        return told

    def _permit(self, route: _Route, fresh: Mapping[str, Any], wanted: Shares) -> None:
        """Raise why the route may not be changed now."""
        at_s, shares = self._elapsed(), shares_of(route.place.kind, fresh, route.pools.backends)
        seen = seen_route(route.place.kind, fresh, shares)
        if route.told is not None and not _same(route.told, shares):
            what = f"the shares are {_told(shares)} by now, and the plan was made of {_told(route.told)}"
            raise StalePlan(what, route.title, "the next plan is made of what is there")
        if text(fresh, "metadata", "deletionTimestamp"):
            raise ActuationError("it is being deleted", route.title)
        owner = self._owner(seen)
        if owner is not None:
            raise ActuationError(f"{owner.title} owns its weights", route.title, owner.remedy)
        route.see(seen, at_s)
        if route.untaken:
            remedy = "the next step waits for it; if that lasts, ask the gateway's controller why"
            raise ActuationError(route.waits(at_s), route.title, remedy)
        for backend in _growing(route, fresh, shares, wanted):
            self._destinations.check(*backend)

    def _write(self, route: _Route, fresh: Mapping[str, Any], patch: list[dict[str, Any]]) -> None:
        place = route.place
        reflector = self.reflectors[place.kind, place.namespace]
        question = Question("patch", ROUTES[place.kind], place.namespace, place.name)
        try:
            after = self.api.change(Change(question, patch, JSON_PATCH))
        except ObservationError as error:
            status = error.status if isinstance(error, ApiRefused) else _UNKNOWN
            if status >= _UNKNOWN:  # it may have happened: only a list that begins now tells
                self._wrote_s = self._elapsed()
                self._written.note(reflector, "")
            elif status == _UNPROCESSABLE and _version(self._fresh(route)) != _version(fresh):
                raise StalePlan("it has changed since it was looked at", route.title, error.remedy) from None
            raise
        self._wrote_s = self._elapsed()
        self._written.note(reflector, _version(after))
        route.told = route.set = shares_of(place.kind, after, route.pools.backends)
        route.see(seen_route(place.kind, after, route.set), self._wrote_s)


class _Route:
    """A route that the settings name, and what is remembered of it.

    Attributes:
        told: The shares that were told or set last; plans are made of them.
        set: The shares that we set last.
        untaken: Why the newest change is not known to be in effect; empty where it is.
    """

    def __init__(self, place: RoutePlace) -> None:
        self.place, self.pools = place, RoutePools.of(place.model, place.backends)
        self.key, self.title = (place.namespace, place.name), f"{place.kind} {place.namespace}/{place.name}"
        self.told: Shares | None = None
        self.set: Shares | None = None
        self.untaken = ""
        self._since: tuple[int | None, float] | None = None

    def see(self, seen: SeenRoute, at_s: float) -> None:
        """Take note of whether the newest change is in effect."""
        self.untaken = seen.untaken
        if not seen.untaken:
            self._since = None
        elif self._since is None or self._since[0] != seen.generation:
            self._since = seen.generation, at_s

    def waits(self, at_s: float) -> str:
        """Return what is waited for, and for how long that has been seen."""
        since_s = at_s if self._since is None else self._since[1]
        return f"the last change is not in effect after {at_s - since_s:.0f} s: {self.untaken}"


def _growing(route: _Route, fresh: Mapping[str, Any], before: Shares, wanted: Shares) -> set[tuple[str, str, str]]:
    """Return kind, namespace and name of the objects behind which more is to go than before."""
    kind, namespace = route.place.kind, route.place.namespace
    more = {
        name
        for pool, name in route.pools.backends.items()
        if wanted[pool] - before[pool] >= SAME_SHARE or wanted[pool] > before[pool] == 0
    }
    found = {(one.kind, object_of(kind, namespace, one.name)) for one in backends_of(kind, fresh) if one.name in more}
    return {(of, *place) for of, place in found if place is not None}


def _version(route: object) -> str:
    return text(route, "metadata", "resourceVersion")


def _same(one: Shares, other: Shares) -> bool:
    return all(abs(one[pool] - other[pool]) < SAME_SHARE for pool in one)


def _told(shares: Shares) -> str:
    return ", ".join(f"{pool.pool} {share:.4g}" for pool, share in shares.items())
