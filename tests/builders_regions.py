"""Two Kubernetes clusters that serve one model, each with an API server of its own, and a loop over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import cast

import numpy as np

from controller.actuation import Actuator
from controller.adapters.kube.changes import MERGE_PATCH, Change, acting
from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.kinds import DEPLOYMENTS
from controller.adapters.kube.members import Member, MemberClusters
from controller.adapters.kube.questions import Question
from controller.adapters.kube.routes import patch_for, shares_of
from controller.adapters.system_clock import SystemClock
from controller.forecasts import ForecastSettings, Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.ports import FleetMetrics, Sources
from forecasting.forecaster import FallbackForecaster
from policies.decide import Foresail
from policies.fleet import PoolKey
from policies.memory import PolicyMemory
from policies.settings import PolicySettings
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import ListAudit, ListNotifier, demand, metrics
from tests.builders_kube_api import Fleet, settings_for

MODEL = "llama"
EAST, WEST = PoolKey(MODEL, "east.a100"), PoolKey(MODEL, "west.a100")
_ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/prod/httproutes"
_BACKENDS = {EAST: "engine-east", WEST: "engine-west"}


class SeenCluster(KubernetesView):
    """A view that can also scale Deployments named after their region."""

    name = ""

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        with acting():
            question = Question("patch", DEPLOYMENTS, "prod", self.name, "scale")
            told = self.api.change(Change(question, {"spec": {"replicas": replicas}}, MERGE_PATCH))
            self.wrote(DEPLOYMENTS, "prod", told["metadata"]["resourceVersion"])


class HubRoute:
    """The ``Router`` port over one HTTPRoute of one cluster, whose backends stand for the pools of all."""

    def __init__(self, api: RunningApi) -> None:
        self.api, self.path = api, f"{_ROUTE}/chat"
        refs = [{"name": name, "port": 8000, "weight": 50} for name in _BACKENDS.values()]
        spec = {"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": refs}]}
        body = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "chat"}}
        api.call("POST", _ROUTE, {**body, "spec": spec})

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        return shares_of("HTTPRoute", self.api.call("GET", self.path), _BACKENDS)

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        patch = patch_for("HTTPRoute", self.api.call("GET", self.path), _BACKENDS, weights)
        self.api.call("PATCH", self.path, patch, "application/json-patch+json")


@dataclass
class LaterClock:
    """The machine's clock, so much later as somebody made it."""

    later_s: float = 0.0

    def now(self) -> float:
        return SystemClock().now() + self.later_s


@dataclass
class Engines:
    """What a metrics store tells of the replicas of both regions: all work on, but for regions that are ``dead``.

    Of those nothing is scraped, and the gateway finds no connection to them.
    """

    clock: LaterClock
    replicas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    requests_per_s: float = 8.0
    dead: set[str] = field(default_factory=set)
    began_at: float = 0.0
    died_at: float = 0.0

    def read(self, at: float) -> FleetMetrics:
        self.began_at = self.began_at or at
        after_s = at - self.began_at
        alive = [name for region, names in self.replicas.items() if region not in self.dead for name in names]
        gone = [name for region in self.dead for name in self.replicas[region]]
        seen = metrics(
            at - 1.0,
            steps_total=1000.0 + 10.0 * after_s,
            output_tokens_total=2e4 + 100.0 * after_s,
            prompt_tokens_total=1e5 + 500.0 * after_s,
            finished_requests_total=100.0 + after_s / 2.0,
        )
        return FleetMetrics(
            replicas=dict.fromkeys(alive, seen),
            in_flight={**dict.fromkeys(alive, 4.0), **dict.fromkeys(gone, 0.0)},
            answered=dict.fromkeys(alive, 100.0 + after_s / 2.0),
            failed_answers=dict.fromkeys(alive, 0.0),
            unreached={**dict.fromkeys(alive, 0.0), **dict.fromkeys(gone, 5.0 * (at - self.died_at))},
            demand={MODEL: demand(self.requests_per_s)},
        )


@dataclass
class Regions:
    """Everything in reach."""

    east: RunningApi
    west: RunningApi
    fleets: Mapping[str, Fleet]
    clusters: MemberClusters
    route: HubRoute
    engines: Engines
    clock: LaterClock
    loop: ControlLoop
    notifier: ListNotifier

    def wanted(self, region: str) -> int:
        """Return how many replicas the Deployment of a region is asked for."""
        fleet = self.fleets[region]
        return int(fleet.api.call("GET", fleet.path("deployments", f"llama-{region}"))["spec"]["replicas"])

    def until(self, so: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait until something is so."""
        end_s = SystemClock().elapsed() + within_s
        while not so():
            assert SystemClock().elapsed() < end_s, "it did not come to be so"
            Event().wait(0.05)

    def untold(self) -> set[PoolKey]:
        """Return the pools that are told from memory."""
        return {pool.key for pool in self.clusters.pools() if pool.untold}


@contextmanager
def two_regions(folder: Path, policy: PolicySettings, pods: int = 2) -> Iterator[Regions]:
    """Yield two clusters with a pool of ``pods`` replicas each; the hub with the route is in the east."""
    clock = LaterClock()
    with ExitStack() as stack:
        apis = {name: stack.enter_context(running_api(bookmark_every_s=0.05)) for name in ("east", "west")}
        fleets = {name: Fleet(api) for name, api in apis.items()}
        views: dict[str, SeenCluster] = {}
        engines = Engines(clock)
        for number, (name, api) in enumerate(apis.items()):
            fleets[name].deployment(f"llama-{name}", pods=pods, model=MODEL, pool="a100")
            engines.replicas[name] = tuple(f"llama-{name}-abc-{pod}" for pod in range(pods))
            (folder / name).mkdir()
            settings = settings_for(api, folder / name, stale_after_s=2.0, timeout_s=1.0, longest_backoff_s=0.2)
            views[name] = SeenCluster(settings, SystemClock().elapsed, np.random.default_rng(number))
            views[name].name = f"llama-{name}"
        clusters = MemberClusters(cast("dict[str, Member]", views), clock.now)
        stack.callback(clusters.close)
        clusters.start()
        route, notifier = HubRoute(apis["east"]), ListNotifier()
        actuator = Actuator(clock, clusters, route, notifier, ModeSettings.all_auto(), lambda: False)
        loop = ControlLoop(
            Sources(clock, engines, clusters, route),
            ListAudit(),
            actuator,
            LoadForecasts(FallbackForecaster(()), policy.tick_s, ForecastSettings()),
            Horizon(policy.lead_time, policy.tick_s),
            Foresail(policy),
            PolicyMemory(),
        )
        yield Regions(apis["east"], apis["west"], fleets, clusters, route, engines, clock, loop, notifier)
