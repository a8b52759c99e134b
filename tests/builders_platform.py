"""Builders of a real platform: Envoy, engine processes and the HTTP API, in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from controller.adapters.live_platform import LivePlatform, PlatformSettings
from controller.adapters.system_clock import SystemClock
from policies.fleet import PoolKey
from simulations.live.envoy import Envoy, envoy_program
from simulations.live.envoy_config import HEADER, EnvoyPlan
from simulations.live.live_pool import EngineSlot, PoolTemplate
from simulations.live.platform import Platform, first_shares
from simulations.live.platform_api import platform_app, served, write_token
from simulations.live.processes import FreePorts, Supervisor
from simulations.live.replica_life import Machine, PlatformRules
from tests.live import stand_in_engine

MODEL = "test/model-0.5"
SETTLED_S = 30.0
LOOK_S = 0.02

_T = TypeVar("_T")


def a_command(slot: EngineSlot, starts_in_s: float = 0.1) -> list[str]:
    return stand_in_engine.command(slot.port, starts_in_s)


def a_template(
    replicas: int = 2,
    pool: str = "east",
    command: Callable[[EngineSlot], Sequence[str]] = a_command,
    **changes: Any,
) -> PoolTemplate:
    return PoolTemplate(PoolKey(MODEL, pool), command, replicas, **changes)


def needs_envoy() -> None:
    """Skip where Envoy is not installed."""
    from controller.errors import BadInput

    try:
        envoy_program()
    except BadInput as error:
        pytest.skip(str(error))


class RunningPlatform:
    """A platform in a thread of its own; use it as a context manager.

    The thread lives as long as the platform, for its children die with it.
    """

    platform: Platform
    envoy: Envoy
    supervisor: Supervisor

    def __init__(self, folder: Path, templates: Sequence[PoolTemplate], **rules: Any) -> None:
        needs_envoy()
        self.folder, self.templates = folder, templates
        quick = {"restart_backoff_s": 0.2, "poll_s": 0.05, "end_grace_s": 2.0, "drain_deadline_s": 20.0}
        self.rules = PlatformRules(**{**quick, **rules})
        self._ports = FreePorts()
        self.port = self._ports.take()
        self.adapter = LivePlatform(self.settings)
        self._began: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="platform")

    def __enter__(self) -> RunningPlatform:
        self._thread.start()
        self._began.result(60)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self.adapter.close()
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
                self.supervisor = await stack.enter_async_context(Supervisor(self.folder / "logs", grace_s=2.0))
                pools = tuple(template.key for template in self.templates)
                plan = EnvoyPlan(self.folder / "envoy", pools, self._ports.take(), self._ports.take())
                self.envoy = Envoy(plan, client)
                self.envoy.prepare(first_shares(self.templates))
                await self.envoy.start(self.supervisor)
                machine = Machine(self.supervisor, self._ports, client, SystemClock())
                self.platform = Platform(self.templates, self.rules, machine, self.envoy)
                await stack.enter_async_context(self.platform)
                token = write_token(self.folder / "token")
                await stack.enter_async_context(served(platform_app(self.platform, token), self.port))
                while not self.platform.settled():
                    await asyncio.sleep(0.02)
                self._began.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if not self._began.done():
                self._began.set_exception(error)
            raise

    def do(self, verb: Coroutine[Any, Any, _T], timeout_s: float = 30.0) -> _T:
        """Run a coroutine in the platform's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(verb, self._loop).result(timeout_s)

    def until(self, condition: Callable[[], bool], timeout_s: float = SETTLED_S) -> None:
        """Wait until ``condition`` holds, looking at it from the test's thread."""
        for _ in range(round(timeout_s / LOOK_S)):
            if condition():
                return
            threading.Event().wait(LOOK_S)
        raise AssertionError(f"not so within {timeout_s:g} s; the newest events: {list(self.platform.events)[-10:]}")

    def settle(self) -> None:
        """Wait until what was asked for is there."""
        self.until(self.platform.settled)

    @property
    def settings(self) -> PlatformSettings:
        return PlatformSettings(url=f"http://127.0.0.1:{self.port}", token_file=self.folder / "token")

    def gateway(self) -> httpx.Client:
        """Return a client that sends to the model through Envoy."""
        return httpx.Client(base_url=self.envoy.url, headers={HEADER: MODEL}, timeout=30.0, trust_env=False)

    def answered(self) -> Counter[str]:
        """Return the answers that Envoy has seen end as they should, by replica."""
        text = httpx.get(f"{self.envoy.admin_url}/stats/prometheus", trust_env=False).text
        counts: Counter[str] = Counter()
        for line in text.splitlines():
            labels, _, value = line.removeprefix("envoy_gateway_requests_ended{").rpartition("} ")
            if line.startswith("envoy_gateway_requests_ended{") and 'flags="-"' in labels and 'code="200"' in labels:
                counts[labels.split('pod="')[1].split('"')[0]] += int(value)
        return counts

    def serving_at_gateway(self, key: PoolKey) -> set[str]:
        """Return the replicas that Envoy itself would send a request to."""
        admin = httpx.get(f"{self.envoy.admin_url}/clusters", params={"format": "json"}, trust_env=False).json()
        (cluster,) = (c for c in admin["cluster_statuses"] if c["name"] == str(key))
        hosts = cluster.get("host_statuses", ())
        return {h["hostname"] for h in hosts if h["health_status"].get("eds_health_status") == "HEALTHY"}
