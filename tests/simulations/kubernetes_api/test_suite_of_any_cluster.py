"""Does the suite that runs on any cluster leave alone what is not its own, and leave nothing behind?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulations.kubernetes_api.refusals import Refusal
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_any_cluster import own_namespace
from tests.builders_kubernetes_api import NAMESPACE, deployment

ROOT = Path(__file__).resolve().parents[3]
PLURALS = ("pods", "nodes", "namespaces", "configmaps", "events", "services")


def all_of(api: RunningApi, *, outside: str) -> list[dict[str, Any]]:
    """Return every object that is not in the namespace ``outside``, nor that namespace itself."""
    paths = [*(f"/api/v1/{plural}" for plural in PLURALS), "/apis/apps/v1/deployments", "/apis/apps/v1/replicasets"]
    found = [thing for path in paths for thing in api.call("GET", path)["items"]]
    return [thing for thing in found if outside not in (thing["metadata"].get("namespace"), thing["metadata"]["name"])]


def test_only_its_own_namespace_is_written_to_and_that_is_gone_afterwards(tmp_path: Path) -> None:
    with running_api() as api:
        api.kubelet.paused.set()
        api.call("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment())
        api.settle()
        before = all_of(api, outside="")
        with own_namespace(api.write_kubeconfig(tmp_path / "kubeconfig")) as place:
            assert place.namespace.startswith("foresail-suite-")
            place.hands.deployment("engine", 2)
            api.settle()
            place.hands.until_ready("engine", 2)
            assert all_of(api, outside=place.namespace) == before
        api.settle()
        assert all_of(api, outside="") == before
        with pytest.raises(Refusal) as gone:
            api.call("GET", f"/api/v1/namespaces/{place.namespace}")
        assert gone.value.code == 404


def test_it_runs_on_the_cluster_that_kubeconfig_names(tmp_path: Path) -> None:
    """Here one with nodes and kubelets, so that pods are made Ready by these."""
    with running_api(settle_every_s=0.05) as api:
        api.add_nodes(2)
        before, file = api.version, api.write_kubeconfig(tmp_path / "elsewhere")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kubernetes", "-k", "evicted"]
        run = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "KUBECONFIG": str(file)}, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout
        assert f"KUBECONFIG={file}" in run.stdout
        assert api.version > before + 10
