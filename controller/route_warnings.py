"""Do the routes of the settings name pools that the fleet has not got? Said in the log, once while it is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from controller.adapters.kube.settings import RoutePlace
from controller.adapters.kube.unknown_pools import unknown_pools
from controller.ports import TickRecord

REMEDY = "name under platform.routes the pools that there are; label a workload, or name it under platform.pools"


class RouteWarnings:
    """``Witness`` that warns of such routes; what it has told once it remembers over reloads."""

    def __init__(self) -> None:
        self.routes: Sequence[RoutePlace] = ()
        self._told: Mapping[str, str] = {}

    def saw(self, record: TickRecord) -> None:
        """Take note of a tick; one that did not see the fleet says nothing of its pools."""
        if record.fleet is None:
            return
        there = {pool.key for pool in record.fleet.pools}
        found = {f"{one.kind} {one.namespace}/{one.name}": unknown_pools(one, there) for one in self.routes}
        for route, what in found.items():
            if what and what != self._told.get(route):
                log = structlog.get_logger("foresail.routes")
                log.warning("a route names a pool that does not exist", route=route, what=what, remedy=REMEDY)
        self._told = found
