"""Do the routes that the settings name lead to the pools that there are?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from controller.adapters.kube.kinds import ROUTES
from controller.adapters.kube.neighbours import route_troubles
from controller.doctor_examination import Examination
from controller.doctor_findings import Problem, RouteFinding, shown
from controller.modes import ActionClass
from policies.fleet import PoolKey

NO_ROUTE = Problem("modes.traffic lets weights be set, and no route is named", "name one under platform.routes")
_REMEDY = "mend the route, or what platform.routes says of it"


def look_at_routes(of: Examination, pools: Sequence[PoolKey] | None) -> None:
    """Find what is wrong with routes to ``pools``, None where these are not known; raises ObservationError."""
    acts = of.modes.may_act(ActionClass.TRAFFIC)
    for route in of.platform.routes:
        title = f"{route.kind} {route.namespace}/{route.name}"
        if ROUTES[route.kind].title in {kind.partition("/")[0] for kind in of.found.missing_kinds}:
            troubles: list[str] | None = ["its kind is not installed"]
        else:
            troubles = of.told(partial(route_troubles, of.api, route, pools), None)
        for trouble in troubles or ():
            of.say(f"{title}: {trouble}", _REMEDY, fatal=acts)
        told = "not known" if troubles is None else "; ".join(troubles)
        of.found.routes.append(RouteFinding(title, shown(route.model), shown(told)))
