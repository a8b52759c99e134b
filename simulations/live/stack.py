"""What is started in which order, and how does it all end: Prometheus, platform, Envoy, daemon, load player.

    Envoy -> platform and its API -> first replicas READY -> a request through each pool -> Prometheus -> daemon -> load

Everything is a child of this process, on loopback, logs into one folder, and ends with this process: in the opposite
order, so that the daemon does not act on what ends.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput
from controller.settings import load_settings
from controller.yaml_source import MAX_BYTES
from policies.slo import ServiceObjective
from simulations.live.envoy import Envoy, envoy_program
from simulations.live.envoy_config import HEADER, EnvoyPlan
from simulations.live.live_load import default_load, write_trace
from simulations.live.live_options import (
    LiveOptions,
    LivePlaces,
    daemon_settings,
    module_command,
    module_environment,
)
from simulations.live.platform import Platform, PlatformEvent, event_json, first_shares
from simulations.live.platform_api import platform_app, served, write_token
from simulations.live.processes import Child, FreePorts, StartFailed, Supervisor, until_ready
from simulations.live.prometheus_config import ScrapePlan
from simulations.live.prometheus_server import PrometheusServer, prometheus_program
from simulations.live.replica_life import Machine, PlatformRules
from simulations.live.services import Ended, Service

OPENING_S = 90.0
"""Longest that the first replicas may take, in seconds: ten interpreters that start at once on two slow cores."""

DAEMON_READY_S = 60.0
MOST_NOTES = 200
_WARM_UP = {"prompt": [0] * 16, "max_tokens": 2, "ignore_eos": True, "stream": False}


class LiveFiles:
    """What a live stack leaves behind, and what it needs while it is up, under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.logs = self.folder / "logs"
        self.audit = self.folder / "audit.db"
        self.requests = self.folder / "requests.jsonl"
        self.events = self.logs / "platform.log"
        self.settings = self.folder / "foresail.yaml"
        self.summary = self.folder / "summary.json"
        self.load = self.folder / "load.csv"
        self.token = self.folder / "token"
        self.address = self.folder / "live.json"
        self.kill_switch = self.folder / "STOP"

    def prepare(self) -> None:
        """Make the folder, and remove what an earlier stack recorded in it.

        Raises:
            BadInput: If it cannot be written.
        """
        olds = [self.audit.with_name(self.audit.name + end) for end in ("", "-wal", "-shm", ".lock")]
        olds += [self.requests, self.summary, self.load, self.token, self.address, self.kill_switch]
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            for old in (*olds, *self.logs.glob("*.log*")):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(error.strerror or str(error), f"--out {self.folder}", "name a folder to write to") from None


class LiveStack:
    """Everything that runs; an asynchronous context manager that returns once all of it is ready.

    Attributes:
        notes: What happened to services, newest last, as instant and words.
        objective: By which the clients' requests are judged.
        player: The load player; None where there is none.
        prometheus, daemon, gateway: Services that can be stopped and begun again, to rehearse their loss.
    """

    platform: Platform
    envoy: Envoy
    prometheus: Service
    daemon: Service
    gateway: Service
    supervisor: Supervisor
    objective: ServiceObjective

    def __init__(self, options: LiveOptions) -> None:
        self.options = options
        self.files = LiveFiles(options.out)
        self.player: Child | None = None
        self.notes: deque[tuple[float, str]] = deque(maxlen=MOST_NOTES)
        self._clock = SystemClock()
        self._ports = FreePorts()
        self._stack = AsyncExitStack()
        self._environment = module_environment(os.environ)
        self._templates = options.templates(module_command())

    async def __aenter__(self) -> Self:
        envoy_program()
        prometheus_program()
        written = _written(self.options.config)
        self.files.prepare()
        try:
            await self._begin(written)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return self._clock.now()

    @property
    def load_is_over(self) -> bool:
        """Whether the load player has ended by itself."""
        return self.player is not None and self.player.exit_code is not None

    async def _begin(self, written: Mapping[str, Any]) -> None:
        options, files, enter = self.options, self.files, self._stack.enter_async_context
        client = await enter(httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=64)))
        self.supervisor = await enter(Supervisor(files.logs))
        api_port, status_port = self._ports.take(), self._ports.take()
        pools = tuple(template.key for template in self._templates)
        plan = EnvoyPlan(files.folder / "envoy", pools, self._ports.take(), self._ports.take())
        scrape = ScrapePlan(
            files.folder / "engines.json", options.scrape_interval_s, pools, plan.admin_port, status_port
        )
        server = PrometheusServer(files.folder / "prometheus", self._ports.take(), scrape, client)
        self._write_settings(server.url, api_port, status_port, written)

        self.envoy = Envoy(plan, client)
        self.envoy.prepare(first_shares(self._templates))
        self.gateway = await self._kept("envoy", lambda: self.envoy.start(self.supervisor))
        machine = Machine(self.supervisor, self._ports, client, self._clock, self._environment)
        rules = PlatformRules(most_replicas=options.most_replicas)
        self.platform = Platform(self._templates, rules, machine, self.envoy, server.scrape, self._record)
        await enter(self.platform)
        self._stack.callback(self._forget_address)
        token = write_token(files.token)
        await enter(served(platform_app(self.platform, token), api_port))
        await self._until_open(client)
        self.prometheus = await self._kept("prometheus", lambda: server.start(self.supervisor))
        self.daemon = await self._kept("daemon", lambda: self._start_daemon(client, status_port))
        files.address.write_text(
            json.dumps(
                {
                    "platform": f"http://127.0.0.1:{api_port}",
                    "gateway": self.envoy.url,
                    "gateway_admin": self.envoy.admin_url,
                    "prometheus": server.url,
                    "daemon": f"http://127.0.0.1:{status_port}",
                    "model": options.model,
                    "pid": os.getpid(),
                },
                indent=2,
            )
        )
        if options.player:
            self.player = await self._start_player()
            self._stack.push_async_callback(self.player.stop, 3.0)

    def _write_settings(self, prometheus: str, api_port: int, status_port: int, written: Mapping[str, Any]) -> None:
        """Write the daemon's settings, and check them now: what is wrong in them is the user's to know at once."""
        files = self.files
        places = LivePlaces(
            prometheus, f"http://127.0.0.1:{api_port}", files.token, files.audit, files.kill_switch, status_port
        )
        tree = daemon_settings(self.options, places, written)
        files.settings.write_text(yaml.safe_dump(tree, sort_keys=False))
        self.objective = load_settings(files.settings, self.options.overrides).policy.objective_of(self.options.model)

    async def _kept(self, name: str, start: Any) -> Service:
        service = Service(name, start, self._service_ended)
        await service.begin()
        self._stack.push_async_callback(service.stop)
        return service

    async def _until_open(self, client: httpx.AsyncClient) -> None:
        """Wait for the first replicas, and send one request through each pool: so the path works, and is counted.

        Raises:
            StartFailed: If they are not READY in time.
        """
        until = asyncio.get_running_loop().time() + OPENING_S
        while not self.platform.settled():
            if asyncio.get_running_loop().time() > until:
                phases = [f"{r.id} {r.phase}" for pool in self.platform.pools() for r in pool.replicas]
                what = f"the first replicas are not READY after {OPENING_S:g} s: {', '.join(phases)}"
                raise StartFailed(what, str(self.files.logs), "is the machine overloaded?")
            await asyncio.sleep(0.1)
        first, model = self.platform.shares(self.options.model), self.options.model
        for pool in self.platform.pools():
            if pool.replicas:
                await self.platform.set_shares(model, {pool.key: 1.0})
                answer = await client.post(
                    f"{self.envoy.url}/v1/completions",
                    json={**_WARM_UP, "model": model},
                    headers={HEADER: model},
                    timeout=30.0,
                )
                if answer.status_code != 200:
                    what = f"a first request to {pool.key} was answered {answer.status_code}: {answer.text[:300]}"
                    raise StartFailed(what, str(self.files.logs))
        await self.platform.set_shares(model, first)

    async def _start_daemon(self, client: httpx.AsyncClient, status_port: int) -> Child:
        overrides = [word for override in self.options.overrides for word in ("--set", override)]
        command = [*module_command(), "foresail", "run", "-c", str(self.files.settings), *overrides]
        child = await self.supervisor.start("daemon", command, self._environment)

        async def alive() -> bool:
            try:
                return (await client.get(f"http://127.0.0.1:{status_port}/healthz", timeout=2.0)).status_code == 200
            except httpx.HTTPError:
                return False

        await until_ready(child, alive, DAEMON_READY_S, poll_s=0.1)
        return child

    async def _start_player(self) -> Child:
        options, files = self.options, self.files
        trace, how = options.trace, []
        if trace is None:
            write_trace(default_load(options.seed, options.scale, options.duration_s), files.load)
            trace = files.load
        else:
            how = ["--scale", f"{options.scale:g}", "--seed", str(options.seed)]
            how += ["--start", f"{options.start_s:g}"] if options.start_s is not None else []
            how += ["--duration", f"{options.duration_s:g}"] if options.duration_s is not None else []
        command = [
            *module_command(), "simulations.live.load_player", "--trace", str(trace), *how,
            "--speed", f"{options.speed:g}", "--target", self.envoy.url, "--model", options.model,
            "--ttft-s", f"{self.objective.ttft_s:g}", "--tpot-s", f"{self.objective.tpot_s:g}",
            "--out", str(files.requests), "--progress-s", "1", "--timeout-s", "120",
        ]  # fmt: skip
        return await self.supervisor.start("load-player", command, self._environment)

    def kill(self) -> None:
        """Kill everything at once, also while it is being taken down."""
        if hasattr(self, "supervisor"):
            self.supervisor.kill_all()

    def _forget_address(self) -> None:
        self.files.token.unlink(missing_ok=True)
        self.files.address.unlink(missing_ok=True)

    def _service_ended(self, ended: Ended) -> None:
        self.notes.append((self.now, f"{ended.name} ended with code {ended.code}, again in {ended.again_in_s:g} s"))

    def _record(self, event: PlatformEvent) -> None:
        with self.files.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event_json(event)) + "\n")


def _written(config: Path | None) -> Mapping[str, Any]:
    """Return what the user's settings file says; problems in it are found when all is put together."""
    if config is None:
        return {}
    load_settings(config)  # names every problem at its place
    with config.open("rb") as file:
        return yaml.safe_load(file.read(MAX_BYTES)) or {}
