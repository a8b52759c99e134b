"""Does the suite that runs on any cluster leave alone what is not its own, and leave nothing behind?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from controller.adapters.kube.kinds import Resource
from simulations.kubernetes_api.refusals import Refusal
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_any_cluster import SUITE, Place, own_namespace
from tests.builders_definitions import a_definition, defined
from tests.builders_kubernetes_api import NAMESPACE, deployment
from tests.builders_service_accounts import service_account

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[3]
PLURALS = ("pods", "nodes", "namespaces", "configmaps", "events", "services", "serviceaccounts")


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


def settling(api: RunningApi, place: Place) -> None:
    """Let the controllers step whenever the suite waits for something."""
    until = place.hands.until

    def stepping(found: Callable[[], T]) -> T:
        def look() -> T:
            api.settle()
            return found()

        return until(look)

    place.hands.until = stepping  # type: ignore[method-assign]


@contextmanager
def a_run(api: RunningApi, kubeconfig: Path) -> Iterator[Place]:
    with own_namespace(kubeconfig) as place:
        settling(api, place)
        yield place
    api.settle()


def kinds_of(api: RunningApi) -> list[str]:
    return [one["metadata"]["name"] for one in api.call("GET", DEFINITIONS)["items"]]


def test_a_kind_that_several_runs_use_goes_with_the_last_of_them(tmp_path: Path) -> None:
    kind = Resource("suite.test", "v1", "servers", "Server")
    body = {"metadata": {"name": "one"}, "spec": {}}
    with running_api() as api:
        file = api.write_kubeconfig(tmp_path / "kubeconfig")
        with a_run(api, file) as early, a_run(api, file) as late:
            with defined(late, a_definition(kind)):
                with defined(early, a_definition(kind)):
                    early.hands.create(kind, body)
                late.hands.create(kind, body)
                assert kinds_of(api) == ["servers.suite.test"]
            assert kinds_of(api) == []
            with pytest.raises(RuntimeError), defined(late, a_definition(kind)):
                raise RuntimeError("a test fails")
            assert kinds_of(api) == []


def test_a_kind_that_a_run_has_left_behind_goes_with_the_next(tmp_path: Path) -> None:
    kind = Resource("suite.test", "v1", "servers", "Server")
    left = a_definition(kind)
    left["metadata"] |= {"labels": {"app.kubernetes.io/managed-by": SUITE}}
    left["metadata"]["annotations"] = {"suite.foresail.dev/foresail-suite-gone": "in use"}
    with running_api() as api:
        api.call("POST", DEFINITIONS, left)
        with a_run(api, api.write_kubeconfig(tmp_path / "kubeconfig")) as place:
            with defined(place, a_definition(kind)):
                assert kinds_of(api) == ["servers.suite.test"]
            assert kinds_of(api) == []


def test_a_kind_of_somebody_else_is_used_and_left(tmp_path: Path) -> None:
    kind = Resource("suite.test", "v1", "servers", "Server")
    with running_api() as api:
        api.call("POST", DEFINITIONS, a_definition(kind))
        with a_run(api, api.write_kubeconfig(tmp_path / "kubeconfig")) as place:
            with defined(place, a_definition(kind)):
                pass
            assert kinds_of(api) == ["servers.suite.test"]
            assert "annotations" not in api.call("GET", f"{DEFINITIONS}/servers.suite.test")["metadata"]


def test_an_account_goes_with_its_roles_also_where_a_test_fails(tmp_path: Path) -> None:
    rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
    with running_api() as api:

        def fail(place: Place) -> None:
            with service_account(place, "one", tmp_path, [rule], [rule]):
                (wide,) = api.call("GET", f"{RBAC}/clusterroles")["items"]
                assert wide["metadata"]["labels"] == {"app.kubernetes.io/managed-by": SUITE}
                raise RuntimeError("a test fails")

        with a_run(api, api.write_kubeconfig(tmp_path / "kubeconfig")) as place, pytest.raises(RuntimeError):
            fail(place)
        for plural in ("clusterroles", "clusterrolebindings", "roles", "rolebindings"):
            assert api.call("GET", f"{RBAC}/{plural}")["items"] == []


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
