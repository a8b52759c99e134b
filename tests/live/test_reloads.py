"""Does ``foresail run``, as its users start it, keep what it watches of a cluster over every reload of its settings?

A process of its own, an API server over HTTP, ScalingPolicy objects that somebody edits, and SIGHUP.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_asked import counted, lists
from tests.builders_kube_api import Fleet, settings_for
from tests.builders_policies import PROFILE, Policies, pool_json
from tests.live.test_daemon import wait_for

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Reloading:
    """A daemon and what is around it."""

    api: RunningApi
    fleet: Fleet
    policies: Policies
    asked: Counter[tuple[str, str]]
    folder: Path
    process: subprocess.Popen[bytes]

    def told(self, event: str) -> list[dict[str, Any]]:
        text = (self.folder / "log").read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def held(self) -> tuple[int, int]:
        """Return how many threads the process has, and how many sockets."""
        place, sockets = Path(f"/proc/{self.process.pid}"), 0
        for one in (place / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                sockets += str(one.readlink()).startswith("socket:")
        return len(list((place / "task").iterdir())), sockets

    def reloads(self, count: int) -> None:
        wait_for(lambda: len(self.told("settings applied")) >= count, f"{count} reloads")


@contextmanager
def _daemon(folder: Path) -> Iterator[Reloading]:
    with running_api(bookmark_every_s=0.5) as api, counted(api) as asked, (folder / "log").open("wb") as log:
        fleet = Fleet(api)
        fleet.deployment(pods=3)
        platform = settings_for(api, folder, policies=True, watch_s=30, stale_after_s=90.0, lease={})
        told = {
            "policy": {"tick_s": 1, "pools": {"other/other/unified": {"profile": PROFILE}}},
            "prometheus": {"url": "http://127.0.0.1:1"},
            "audit": {"url": f"sqlite:///{folder}/audit.db"},
            "platform": platform.model_dump(mode="json", exclude_defaults=True) | {"kind": "kubernetes"},
            "daemon": {
                "status": {"address": "127.0.0.1:0"}, "kill_switch": str(folder / "STOP"), "reload_check_s": 0.2,
                "log_repeat_s": 0,
            },
        }  # fmt: skip
        (folder / "foresail.yaml").write_text(json.dumps(told))
        command = [sys.executable, "-m", "foresail", "run", "-c", str(folder / "foresail.yaml")]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        daemon = Reloading(api, fleet, Policies(api, in_new_namespace=False), asked, folder, process)
        try:
            wait_for(lambda: daemon.told("leading"), "a leader")
            wait_for(lambda: asked["watch", "pods"] and asked["watch", "scalingpolicies"], "watches")
            yield daemon
        finally:
            process.kill()
            process.wait()


@pytest.fixture(name="daemon")
def _running(tmp_path: Path) -> Iterator[Reloading]:
    with _daemon(tmp_path) as daemon:
        yield daemon


def test_edits_of_policies_and_sighup_list_nothing_anew_and_leave_nothing_behind(daemon: Reloading) -> None:
    before = lists(daemon.asked)
    assert before["pods"] == before["deployments"] == before["scalingpolicies"] == 1
    daemon.policies.create()
    daemon.reloads(1)
    holder, (threads, sockets) = _holder(daemon), daemon.held()
    for most in (11, 12, 13):
        count = len(daemon.told("settings applied"))
        daemon.policies.edit(pools=[pool_json(maxReplicas=most)])
        daemon.reloads(count + 1)
    for _ in range(6):
        count = len(daemon.told("settings applied"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.reloads(count + 1)
    assert lists(daemon.asked) == before
    wait_for(lambda: daemon.held()[0] <= threads, "threads to end")
    assert daemon.held()[1] <= sockets + 2  # connections to the API server are made as they are needed, and kept
    assert _holder(daemon) == holder
    wait_for(lambda: daemon.policies.status("llama").get("observedGeneration") == 4, "the status of the last edit")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(30) == 0


def _holder(daemon: Reloading) -> str:
    lease = daemon.api.call("GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/foresail")
    return str(lease["spec"]["holderIdentity"])


def test_statuses_of_policies_heed_the_kill_switch_that_a_reload_names(daemon: Reloading) -> None:
    daemon.policies.create()
    daemon.reloads(1)
    wait_for(lambda: daemon.policies.status("llama").get("observedGeneration") == 1, "a status")
    (daemon.folder / "HALT").touch()
    file = daemon.folder / "foresail.yaml"
    told = json.loads(file.read_text())
    told["daemon"]["kill_switch"] = str(daemon.folder / "HALT")
    file.write_text(json.dumps(told))
    daemon.reloads(2)
    daemon.policies.edit(pools=[pool_json(maxReplicas=11)])
    daemon.reloads(3)
    wait_for(lambda: daemon.told("the status of a policy is not written"), "a status that is held")
    assert "not sent: kill switch" in daemon.told("the status of a policy is not written")[0]["why"]
    assert daemon.policies.status("llama")["observedGeneration"] == 1
    (daemon.folder / "HALT").unlink()
    (daemon.folder / "STOP").touch()  # which nobody heeds any more
    wait_for(lambda: daemon.policies.status("llama")["observedGeneration"] == 2, "the status of the edit")


def test_a_policy_that_names_a_workload_makes_it_a_pool_without_a_list(daemon: Reloading) -> None:
    spec = daemon.api.call("GET", daemon.fleet.path("deployments", "llama"))["spec"]
    daemon.fleet.create("deployments", "plain", spec=spec)
    before = lists(daemon.asked)
    daemon.policies.create("qwen", pools=[pool_json("a", workload={"kind": "Deployment", "name": "plain"})])
    daemon.reloads(1)
    wait_for(lambda: "a is not there" not in str(_active(daemon)) and _active(daemon), "the workload to be a pool")
    assert lists(daemon.asked) == before


def _active(daemon: Reloading) -> list[dict[str, Any]]:
    return [one for one in daemon.policies.status("qwen").get("conditions", ()) if one["type"] == "Active"]
