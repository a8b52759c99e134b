"""How is an API server started, troubled, moved on and ended?"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from controller.adapters.system_clock import SystemClock
from controller.ports import Clock
from simulations.kubernetes_api.access import Access, Subject
from simulations.kubernetes_api.api import Api
from simulations.kubernetes_api.controllers.gateways import Gateways
from simulations.kubernetes_api.controllers.kubelet import GPU, Kubelet
from simulations.kubernetes_api.controllers.settling import Controllers
from simulations.kubernetes_api.faults import Fault, Faults
from simulations.kubernetes_api.http_server import ApiServer
from simulations.kubernetes_api.kinds import BUILT_IN, COMMON_CUSTOM, Catalogue, Kind
from simulations.kubernetes_api.kubeconfig import kubeconfig, write_kubeconfig
from simulations.kubernetes_api.population import populate
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.trail import Written


class RunningApi:
    """An API server that listens; see ``running_api``."""

    def __init__(self, api: Api, server: ApiServer, faults: Faults, controllers: Controllers) -> None:
        self.api, self.faults, self.controllers = api, faults, controllers
        self._server = server

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def version(self) -> int:
        """The resourceVersion of the last change of anything."""
        return self.api.store.version

    def last_change(self, group: str, plural: str, namespace: str = "") -> int:
        """Return the resourceVersion of the last change of a resource: how far a watch of it can get."""
        kinds = (kind for kind in self.api.catalogue.kinds if kind.identity == (group, plural))
        return max((self.api.store.last_change(kind, namespace) for kind in kinds), default=0)

    def call(self, method: str, target: str, body: Any = None, content_type: str = "application/json") -> Json:
        """Answer a request from within the process, past every fault and rule.

        Raises:
            Refusal: What a client would have got as a ``Status``.
        """
        return self.api.call(method, target, body, content_type)

    @property
    def written(self) -> Sequence[Written]:
        """What clients with a token have written so far, Events aside, the oldest first."""
        return tuple(self.api.trail.written)

    @property
    def kubelet(self) -> Kubelet:
        """The kubelets' double: ``start_s``, ``stop_s``, ``troubles``, ``paused``."""
        return self.controllers.kubelet

    @property
    def gateways(self) -> Gateways:
        """The Gateway controller's double: ``paused``."""
        return self.controllers.gateways

    def settle(self) -> int:
        """Let the controllers step until nothing changes; return the rounds that it took."""
        return self.controllers.settle()

    def step(self) -> bool:
        """Let every controller take one step; return whether anything changed."""
        return self.controllers.step()

    def add_nodes(self, count: int, gpus: int = 8, prefix: str = "node") -> None:
        """Add Ready nodes ``PREFIX-0`` and so on, each with so many GPUs."""
        room = {"cpu": "192", "memory": "1Ti", "pods": "110", GPU: str(gpus)}
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        for number in range(count):
            labels = {"kubernetes.io/hostname": f"{prefix}-{number}"}
            node = {
                "metadata": {"name": f"{prefix}-{number}", "labels": labels},
                "spec": {},
                "status": {"capacity": room, "allocatable": room, "conditions": [condition]},
            }
            self.call("POST", "/api/v1/nodes", node)

    def populate(self, deployment: Json, copies: int) -> None:
        """Create so many workloads of Ready pods at once, all like ``deployment``; see ``population``."""
        populate(self.api, self.controllers, deployment, copies)

    def kubeconfig(self, token: str = "", namespace: str = "default", context: str = "simulated") -> Json:
        """Return a kubeconfig for this server."""
        return kubeconfig(self.url, token, namespace, context)

    def write_kubeconfig(self, path: Path, token: str = "", namespace: str = "default") -> Path:
        """Write a kubeconfig for this server and return its path."""
        return write_kubeconfig(path, self.kubeconfig(token, namespace))

    def grant(self, token: str, subject: Subject) -> None:
        """Let ``token`` stand for ``subject``; from then on nobody is let in without a known token."""
        self.api.access.grant(token, subject)

    def expire(self, token: str) -> None:
        """Let ``token`` be refused with 401 from now on."""
        self.api.access.expire(token)

    def fault(self, fault: Fault) -> None:
        """Put a fault in force; ``faults.remove`` and ``faults.clear`` end it."""
        self.faults.add(fault)

    def drop_watches(self) -> None:
        """End every open watch cleanly."""
        self.api.drop_watches()

    def cut_connections(self) -> None:
        """Reset every open connection; new ones are taken."""
        self._server.cut_connections()

    def compact(self) -> None:
        """Forget every older resourceVersion: watches and pages from there are 410."""
        self.api.store.compact()

    def partition(self, how: Literal["reset", "hang"]) -> None:
        """Cut the server off until ``heal``: connections are reset, or hang without an answer."""
        self._server.partition(how)

    def heal(self) -> None:
        """End a partition."""
        self._server.heal()


@contextmanager
def running_api(
    *,
    clock: Clock | None = None,
    kinds: Iterable[Kind] = BUILT_IN + COMMON_CUSTOM,
    access: Access | None = None,
    seed: int = 0,
    port: int = 0,
    kept_changes: int = 20_000,
    bookmark_every_s: float = 60.0,
    settle_every_s: float | None = None,
) -> Iterator[RunningApi]:
    """Run an API server on loopback for as long as the context is open.

    Args:
        clock: Of timestamps; the machine's where none is given. Watches end by the machine's in any case.
        kinds: Which resources are served.
        access: Tokens and their rules; none: everybody may do everything.
        seed: Of uids, generated names and the faults' draws.
        port: 0 for a free one.
        kept_changes: Changes that the log of each resource keeps at least.
        bookmark_every_s: Seconds between a watch's bookmarks.
        settle_every_s: Seconds between steps of the controllers; None: they step in ``settle`` and ``step`` only.
    """
    machine = SystemClock()
    told = clock or machine
    api = Api(
        Catalogue(kinds),
        told,
        machine.elapsed,
        seed=seed,
        access=access,
        kept_changes=kept_changes,
        bookmark_every_s=bookmark_every_s,
    )
    faults = Faults(np.random.default_rng([seed, 1]))
    server = ApiServer(api, faults, port)
    controllers = Controllers(api, told)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)]
    if settle_every_s is not None:
        threads.append(threading.Thread(target=controllers.run, args=(settle_every_s, server.ended), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield RunningApi(api, server, faults, controllers)
    finally:
        server.ended.set()
        api.close()
        server.shutdown()
        server.cut_connections()
        server.server_close()
        for thread in threads:
            thread.join()
