"""How is a Prometheus of our own started, and stopped and started again for a rehearsal of its loss?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import httpx

from controller.errors import BadInput
from simulations.live.processes import Child, Supervisor, until_ready
from simulations.live.prometheus_config import ScrapePlan, ScrapeTarget, prometheus_config, write_targets

READY_S = 30.0
RETENTION = "2d"
INSTALL = "sudo apt-get install --no-install-recommends prometheus"


def prometheus_program() -> str:
    """Return the program.

    Raises:
        BadInput: If Prometheus is not installed.
    """
    found = shutil.which("prometheus")
    if found is None:
        raise BadInput("Prometheus is not installed", "live stack", INSTALL)
    return found


class PrometheusServer:
    """A Prometheus on a loopback port, with its data in a folder.

    Args:
        folder: For configuration and data.
        port: To listen on.
        plan: What it scrapes.
        client: For asking whether it is ready.
    """

    def __init__(self, folder: Path, port: int, plan: ScrapePlan, client: httpx.AsyncClient) -> None:
        self._folder, self._port, self._plan, self._client = folder, port, plan, client

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self, supervisor: Supervisor) -> Child:
        """Start it on the data that there is, and wait until it is ready.

        Raises:
            BadInput: If Prometheus is not installed.
            StartFailed: If it is not ready in time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "prometheus.yml"
        config.write_text(json.dumps(prometheus_config(self._plan), indent=1))
        if not self._plan.targets_file.exists():
            self.scrape(())
        command = [
            prometheus_program(),
            f"--config.file={config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        child = await supervisor.start("prometheus", command)
        await until_ready(child, self.ready, READY_S)
        return child

    async def ready(self) -> bool:
        """Return whether it answers queries."""
        try:
            return (await self._client.get(f"{self.url}/-/ready", timeout=2.0)).status_code == 200
        except httpx.HTTPError:
            return False

    def scrape(self, targets: Sequence[ScrapeTarget]) -> None:
        """Replace the engines that it scrapes; it need not run."""
        write_targets(self._plan.targets_file, targets)
