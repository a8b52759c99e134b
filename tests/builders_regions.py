"""Two Kubernetes clusters that serve one model, each with an API server of its own, and a loop over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from controller.actuation import Actuator
from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.adapters.kube.member_routers import MemberRouters
from controller.adapters.kube.members import MemberClusters
from controller.adapters.kube.router import KubernetesRouter
from controller.adapters.kube.settings import RoutePlace
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


def make_route(api: RunningApi) -> None:
    refs = [{"name": name, "port": 8000, "weight": 50} for name in _BACKENDS.values()]
    spec = {"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": refs}]}
    body = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat"},
    }
    api.call("POST", _ROUTE, {**body, "spec": spec})
    for name in _BACKENDS.values():
        api.call(
            "POST",
            "/api/v1/namespaces/prod/services",
            {"metadata": {"name": name}, "spec": {"ports": [{"port": 8000}]}},
        )
        api.call(
            "POST",
            "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices",
            {
                "metadata": {
                    "name": f"{name}-1",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
                "ports": [],
            },
        )
    api.settle()


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
            unreached={
                **dict.fromkeys(alive, 0.0),
                **dict.fromkeys(gone, 5.0 * (at - self.died_at)),
            },
            demand={MODEL: demand(self.requests_per_s)},
        )


@dataclass
class Regions:
    """Everything in reach."""

    east: RunningApi
    west: RunningApi
    fleets: Mapping[str, Fleet]
    clusters: MemberClusters
    route: Any
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
        views: dict[str, KubernetesCluster] = {}
        engines = Engines(clock)
        for number, (name, api) in enumerate(apis.items()):
            fleets[name].deployment(f"llama-{name}", pods=pods, model=MODEL, pool="a100")
            engines.replicas[name] = tuple(f"llama-{name}-abc-{pod}" for pod in range(pods))
            (folder / name).mkdir()
            settings = settings_for(
                api,
                folder / name,
                stale_after_s=2.0,
                timeout_s=1.0,
                longest_backoff_s=0.2,
            )
            views[name] = KubernetesCluster(
                settings,
                SystemClock().elapsed,
                clock.now,
                np.random.default_rng(number),
            )
        clusters = MemberClusters(views, clock.now)
        stack.callback(clusters.close)
        clusters.start()
        make_route(apis["east"])
        place = RoutePlace(
            namespace="prod",
            name="chat",
            model=MODEL,
            backends={k.pool: n for k, n in _BACKENDS.items()},
        )
        (folder / "hub").mkdir()
        hub = KubernetesRouter(
            settings_for(apis["east"], folder / "hub", routes=(place,)),
            SystemClock().elapsed,
            clock.now,
            np.random.default_rng(5),
        )
        stack.callback(hub.close)
        hub.start()
        route, notifier = MemberRouters({"east": hub}, {MODEL: "east"}), ListNotifier()
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
        yield Regions(
            apis["east"],
            apis["west"],
            fleets,
            clusters,
            route,
            engines,
            clock,
            loop,
            notifier,
        )
