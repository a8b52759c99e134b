"""Do processes of ``foresail run`` lead side by side as shards, and wait for those of another division?

The leases are in the project's API server. There is no metrics store, so that their ticks are blind; who may tick does
not depend on that.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from controller.adapters.kube.settings import LeasePlace
from controller.adapters.sql_audit import SqlAudit
from controller.shard_settings import ShardSettings
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_prometheus import free_port
from tests.live.test_daemon import wait_for

LEASE = LeasePlace(namespace="prod", duration_s=6.0, renew_within_s=4.5, retry_s=0.5)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/prod/leases"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """One ``foresail run``."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ask(self, path: str) -> httpx.Response | None:
        """Return the answer; None before it listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=10, trust_env=False)
        except httpx.TransportError:
            return None

    def status(self) -> dict[str, Any]:
        answer = self.ask("/status")
        told: dict[str, Any] = answer.json() if answer else {"leadership": {"leads": False}}
        return told

    @property
    def leads(self) -> bool:
        return bool(self.status()["leadership"]["leads"])


@dataclass
class Shards:
    folder: Path
    api: RunningApi
    all: list[Running] = field(default_factory=list)

    def start(self, index: int, of: int) -> Running:
        """Run a shard with the settings that all of its division have, and its number."""
        file = self.folder / f"of-{of}.yaml"
        platform = {
            "kind": "kubernetes",
            "kubeconfig": str(self.folder / "kubeconfig"),
            "namespaces": ["prod"],
            "lease": LEASE.model_dump(),
            "write_timeout_s": 1.0,
        }
        told = {
            "platform": platform,
            "policy": {"tick_s": 1},
            "forecast": {"step_s": 1},
            "prometheus": {"url": f"http://127.0.0.1:{free_port()}", "attempts": 1},
            "registry": {"store": f"sqlite:///{self.folder}/models.db"},
            "audit": {"url": f"sqlite:///{self.folder}/audit-of-{of}-{{shard}}.db"},
            "daemon": {"kill_switch": str(self.folder / "STOP"), "shard": {"of": of}},
        }
        file.write_text(yaml.safe_dump(told))
        port, log = free_port(), self.folder / f"log-{len(self.all)}"
        sets = [f"daemon.shard.index={index}", f'daemon.status.address="127.0.0.1:{port}"']
        command = [
            sys.executable,
            str(ROOT / "foresail.py"),
            "run",
            "-c",
            str(file),
            "--set",
            sets[0],
            "--set",
            sets[1],
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        self.all.append(Running(process, f"http://127.0.0.1:{port}", log))
        return self.all[-1]

    def holder(self, name: str) -> str:
        spec: dict[str, Any] = self.api.call("GET", f"{LEASES}/{name}")["spec"]
        return str(spec.get("holderIdentity", ""))


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    with running_api() as api:
        api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "prod"}})
        api.write_kubeconfig(tmp_path / "kubeconfig")
        made = Shards(tmp_path, api)
        try:
            yield made
        finally:
            for one in made.all:
                one.process.kill()
                one.process.wait()


def test_shards_lead_side_by_side_and_another_division_only_after_them(shards: Shards) -> None:
    old = [shards.start(index, 2) for index in range(2)]
    wait_for(lambda: all(one.leads for one in old), "leaders of both shards")
    layout = ShardSettings(of=2).layout
    assert shards.holder("foresail") == layout
    for index, one in enumerate(old):
        told = one.status()
        assert told["shard"] == {"index": index, "of": 2, "layout": layout}
        assert shards.holder(f"foresail-{index}-of-2") == told["leadership"]["identity"]
        page = one.ask("/metrics")
        assert page is not None
        assert re.search(rf'^foresail_shard{{index="{index}",of="2"}} 1.0$', page.text, re.MULTILINE)

    new = shards.start(0, 3)
    wait_for(lambda: (answer := new.ask("/readyz")) is not None and answer.status_code == 200, "standby")
    began_s = time.monotonic()
    while time.monotonic() - began_s < 2 * LEASE.retry_s + LEASE.duration_s:
        assert not new.leads
        assert all(one.leads for one in old)
        time.sleep(0.2)
    assert new.status()["leadership"]["leader"] == layout

    old[0].process.send_signal(signal.SIGTERM)
    assert old[0].process.wait(30) == 0
    time.sleep(LEASE.duration_s + 1.0)
    assert not new.leads, "one of the old division still acts"
    old[1].process.send_signal(signal.SIGTERM)
    assert old[1].process.wait(30) == 0
    wait_for(lambda: new.leads, "a leader of the new division")
    assert shards.holder("foresail") == ShardSettings(of=3).layout
    wait_for((shards.folder / "audit-of-3-0.db").exists, "a log of its own")
    for index in range(2):
        log = SqlAudit.open_existing(f"sqlite:///{shards.folder}/audit-of-2-{index}.db")
        assert log.verify().intact
        assert len(log) > 0
        log.close()


def test_one_that_is_told_two_shards_with_one_log_ends_with_2_and_says_what_to_do(shards: Shards) -> None:
    one = shards.start(0, 2)
    one.process.kill()
    file = shards.folder / "of-2.yaml"
    file.write_text(file.read_text().replace("-{shard}", ""))
    command = [sys.executable, str(ROOT / "foresail.py"), "run", "-c", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
    said = ended.stderr.decode()
    assert "audit.url: daemon.shard.of is 2, and all shards would share" in said
    assert "put {shard} into its name" in said
    assert "Traceback" not in said
