"""Does one shard of several see, count, act on and tell of its own workloads alone, against a real API server?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.audit_settings import AuditSettings
from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.adapters.kube.policies import ScalingPolicies
from controller.adapters.system_clock import SystemClock
from controller.doctor import examine, sections_of
from controller.errors import StalePlan
from controller.explain import as_text
from controller.settings import Settings
from controller.shard_settings import ShardSettings, Spent
from controller.shards import own_part
from policies.fleet import PoolKey
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import AT, MODEL
from tests.builders_kube_api import Fleet, settings_for
from tests.builders_policies import InCluster, Policies, pool_json, until
from tests.controller.kube.test_policy_writer import QUICK, tick

SHARDS = [
    ShardSettings(index=index, of=2, pins={"llama": 0, "qwen": 1, "named": 0, MODEL: 0, "z": 1}) for index in range(2)
]
KEY = PoolKey("llama", "llama")


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api(bookmark_every_s=0.05) as api:
        yield api


@contextmanager
def seen_by(api: RunningApi, folder: Path, shard: ShardSettings, **more: Any) -> Iterator[KubernetesCluster]:
    rng, elapsed = np.random.default_rng(3), SystemClock().elapsed
    cluster = KubernetesCluster(settings_for(api, folder, **more), elapsed, lambda: AT, rng, shard=shard)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.close()


def test_only_pools_of_the_shard_are_told_and_what_others_are_asked_for_is_counted(
    api: RunningApi, tmp_path: Path
) -> None:
    fleet = Fleet(api)
    fleet.deployment("llama", pods=2)
    fleet.deployment("qwen", pods=3)
    with seen_by(api, tmp_path, SHARDS[0]) as cluster:
        assert [str(pool.key) for pool in cluster.pools()] == ["llama/llama/unified"]
        asked = fleet.api.call("GET", "/apis/apps/v1/namespaces/prod/deployments/qwen")["spec"]["replicas"]
        assert cluster.view.spent() == {1: Spent(2 * asked)}
        assert cluster.view.seen(PoolKey("qwen", "qwen")) is None
    with seen_by(api, tmp_path, SHARDS[1]) as cluster:
        assert [str(pool.key) for pool in cluster.pools()] == ["qwen/qwen/unified"]


def test_a_workload_whose_own_label_does_not_say_whose_it_is_is_left_alone_with_advice(
    api: RunningApi, tmp_path: Path
) -> None:
    Fleet(api).deployment("llama", pods=2)
    named = {"namespace": "prod", "name": "llama", "model": "named"}
    with seen_by(api, tmp_path, SHARDS[0], pools=(named,)) as cluster:
        assert cluster.pools() == ()
        (note,) = [note for note in cluster.view.notes() if note.subject == "Deployment prod/llama"]
        assert note.why.endswith("label it foresail.dev/model=named")
        assert cluster.view.spent()[0].gpus > 0, "it counts for the budget of its shard"
    with seen_by(api, tmp_path, SHARDS[1], pools=(named,)) as cluster:
        assert cluster.pools() == ()
        assert not [note for note in cluster.view.notes() if note.subject == "Deployment prod/llama"]


@pytest.mark.parametrize("verb", ["scale", "cordon", "restart"])
def test_what_was_given_to_another_model_is_not_written_though_the_watch_does_not_show_it_yet(
    api: RunningApi, tmp_path: Path, verb: str
) -> None:
    fleet = Fleet(api)
    fleet.deployment("llama", pods=2)
    with seen_by(api, tmp_path, SHARDS[0]) as cluster:
        (pool,) = cluster.pools()
        acts = {
            "scale": lambda: cluster.scale(KEY, pool.desired + 1, pool.version),
            "cordon": lambda: cluster.cordon(KEY, pool.replicas[0].id),
            "restart": lambda: cluster.restart(KEY, pool.replicas[0].id),
        }
        fleet.patch("deployments", "llama", {"metadata": {"labels": {"foresail.dev/model": "qwen"}}})
        version = api.version
        with pytest.raises(StalePlan, match="it is of qwen now, which may be another shard's"):
            acts[verb]()
        assert api.version == version


def test_each_policy_shows_what_became_of_it_by_its_shard_alone(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    asked: dict[str, Any] = {"modes": {"scaling": "auto"}, "pools": [pool_json()]}
    writes.create("m", model=MODEL, **asked)
    writes.create("z", model="z", **asked)
    writes.create("bad", model="z", pools=[pool_json(profile="no-such")])
    elapsed = SystemClock().elapsed
    rng = np.random.default_rng(7)
    for shard, shown in zip(SHARDS, ({"m"}, {"m", "z", "bad"}), strict=True):
        policies = ScalingPolicies(elapsed, rng, pace=QUICK)
        cluster = InCluster(policies, settings_for(api, tmp_path, policies=True))
        base = Settings(audit=AuditSettings(url="sqlite:///audit-{shard}.db"))
        base = base.model_copy(update={"daemon": base.daemon.model_copy(update={"shard": shard})})
        try:
            laid = own_part(cluster.lay_over(base))
            assert {PoolKey.parse(key).model for key in laid.policy.pools} == {"z" if shard.index else MODEL}
            for _ in range(3):
                policies.saw(tick(laid))
                until(lambda names=shown: all(writes.status(name) for name in names))  # type: ignore[misc]
        finally:
            policies.close()
        assert {name for name in ("m", "z", "bad") if writes.status(name)} == shown


def test_doctor_looks_at_the_workloads_and_leases_of_the_shard(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment("llama", pods=2)
    fleet.deployment("qwen", pods=1)
    platform = settings_for(api, tmp_path, kinds=("Deployment",), lease={"namespace": "prod"})
    pools = {f"{name}/{name}/unified": {"profile": "llama-3.1-8b-l40s-tp1"} for name in ("llama", "qwen")}
    told = {
        "policy": {"pools": pools},
        "daemon": {"shard": SHARDS[0].model_dump()},
        "audit": {"url": "sqlite:///audit-{shard}.db"},
        "prometheus": {"url": "http://127.0.0.1:9", "connect_timeout_s": 0.2, "attempts": 1},
    }
    whole = Settings.model_validate(told).model_copy(update={"platform": platform})
    findings = examine(own_part(whole))
    assert findings.cluster is not None
    assert [workload.pool for workload in findings.cluster.workloads] == ["llama/llama/unified"]
    assert "prod/foresail-0-of-2: not there yet" in findings.cluster.lease
    assert "; prod/foresail: not there yet" in findings.cluster.lease
    assert findings.cluster.no_pools == []
    assert not [problem for problem in findings.problems if "qwen" in problem.what]
    assert asdict(findings)["shard"] == {"index": 0, "of": 2, "layout": SHARDS[0].layout}
    assert as_text(sections_of(findings)[0]).startswith("Shard 0")
