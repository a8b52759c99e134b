"""What does the chart make of several shards: each with a Deployment, settings, and a log of its own?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.adapters.kube.permissions import Feature, Installation, permissions
from controller.adapters.kube.settings import KubernetesSettings
from controller.settings import load_settings
from controller.shards import own_part
from tests.builders_chart import (
    CHART,
    EVERYTHING,
    NAMESPACE,
    RELEASE,
    Object,
    notes,
    of_kind,
    problems_of,
    refusal,
    rendered,
    the,
)

SHARDS = 3
LOG = "postgresql+psycopg://foresail@db.data.svc/foresail_{shard}"
VALUES: dict[str, Any] = {
    **EVERYTHING,
    "shards": SHARDS,
    "keda": {"enabled": False},
    "settings": {**EVERYTHING["settings"], "audit": {"url": LOG}},
}
NAMES = [f"{RELEASE}-{index}" for index in range(SHARDS)]


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return rendered(VALUES)


def selects(found: Object, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in found["spec"]["selector"]["matchLabels"].items())


def test_what_is_made_for_several_shards_would_be_taken_by_an_api_server(objects: list[Object]) -> None:
    assert [problem for found in objects for problem in problems_of(found)] == []
    names = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in objects]
    assert len(set(names)) == len(names)


def test_each_shard_has_a_deployment_with_standby_and_a_disruption_budget_of_its_own(objects: list[Object]) -> None:
    deployments = [the(objects, "Deployment", name) for name in NAMES]
    budgets = [the(objects, "PodDisruptionBudget", name) for name in NAMES]
    for number, (deployment, budget) in enumerate(zip(deployments, budgets, strict=True)):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels["foresail.dev/shard"] == str(number)
        assert deployment["spec"]["replicas"] == 2
        assert [selects(other, labels) for other in deployments] == [n == number for n in range(SHARDS)]
        assert [selects(other, labels) for other in budgets] == [n == number for n in range(SHARDS)]
        volumes = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["volumes"]}
        assert volumes["settings"]["configMap"]["name"] == budget["metadata"]["name"] == NAMES[number]
    assert (
        len({one["spec"]["template"]["metadata"]["annotations"]["foresail.dev/settings"] for one in deployments}) == 3
    )


def test_the_settings_of_shards_can_be_used_and_differ_by_their_number(objects: list[Object], tmp_path: Path) -> None:
    layouts, logs = set(), []
    for number, name in enumerate(NAMES):
        file = tmp_path / name
        file.write_text(the(objects, "ConfigMap", name)["data"]["foresail.yaml"])
        used = own_part(load_settings(file))
        assert used.daemon.shard.title == f"shard {number} of {SHARDS}"
        layouts.add(used.daemon.shard.layout)
        logs.append(used.audit.url)
        assert isinstance(used.platform, KubernetesSettings)
        assert used.platform.lease is not None
        assert used.platform.lease.of_shard(used.daemon.shard).name == f"{RELEASE}-{number}-of-{SHARDS}"
    assert len(layouts) == 1
    assert logs == [LOG.replace("{shard}", str(number)) for number in range(SHARDS)]


def test_the_role_and_the_admission_policy_name_the_leases_of_all_shards(objects: list[Object]) -> None:
    needed = [rule for rule in permissions(Installation(frozenset({Feature.LEASE}), lease=RELEASE, shards=SHARDS))
              if rule.feature is Feature.LEASE and rule.names]  # fmt: skip
    leases = list(needed[0].names)
    role = the(objects, "Role", f"{RELEASE}-own")
    assert [rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule] == [leases]
    assert leases == [RELEASE, *(f"{RELEASE}-{number}-of-{SHARDS}" for number in range(SHARDS))]
    policy = the(objects, "ValidatingAdmissionPolicy", f"{NAMESPACE}-{RELEASE}-lease")
    expression = policy["spec"]["validations"][0]["expression"]
    assert yaml.safe_load(expression.removeprefix("object.metadata.name in ")) == leases


def test_metrics_tell_which_shard_they_are_of(objects: list[Object]) -> None:
    (endpoint,) = the(objects, "ServiceMonitor")["spec"]["endpoints"]
    wanted = {"sourceLabels": ["__meta_kubernetes_pod_label_foresail_dev_shard"], "targetLabel": "shard"}
    assert endpoint["relabelings"] == [wanted]


def alerts_of(objects: list[Object]) -> set[str]:
    groups = the(objects, "PrometheusRule")["spec"]["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def test_no_standby_is_missed_where_the_chart_runs_none(objects: list[Object]) -> None:
    """With SQLite each shard has one replica for good, and needs its lease all the same."""
    alone = alerts_of(rendered({"shards": 2, "features": {"lease": True}, "alertRules": {"enabled": True}}))
    assert alerts_of(objects) - alone == {"ForesailStandbyMissing"}
    groups = yaml.safe_load((CHART / "rules" / "foresail.yaml").read_text())["groups"]
    assert the(objects, "PrometheusRule")["spec"] == {"groups": groups}


def test_a_registry_that_other_shards_do_not_reach_is_told_of() -> None:
    several = {"shards": 2, "features": {"lease": True}}
    assert "Shard 0 alone trains" in notes(several)
    assert "Shard 0 alone trains" not in notes(
        {**several, "settings": {"registry": {"store": "https://mlflow.ml.svc"}}}
    )
    assert "Shard 0 alone trains" not in notes()


def test_with_sqlite_each_shard_claims_a_volume_of_its_own() -> None:
    objects = rendered({"shards": 2, "features": {"lease": True}})
    assert [found["metadata"]["name"] for found in of_kind(objects, "PersistentVolumeClaim")] == NAMES[:2]
    for name in NAMES[:2]:
        volumes = the(objects, "Deployment", name)["spec"]["template"]["spec"]["volumes"]
        assert {"name": "state", "persistentVolumeClaim": {"claimName": name}} in volumes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": {}}, "features.lease is false: without leases two of them could act on one workload"),
        ({"persistence": {"existingClaim": "audit"}}, "so that each shard claims its own"),
        ({"settings": {"audit": {"url": "postgresql://db/one"}}}, "put {shard} into the name of its database"),
        ({"settings": {"daemon": {"shard": {"of": 5}}}}, "settings.daemon.shard.of is filled in from shards"),
        ({"keda": {"enabled": True}}, "each shard answers for its own pools"),
        ({"shards": 33}, "shards"),
    ],
)
def test_what_shards_cannot_be_installed_with_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refusal({"shards": 2, "features": {"lease": True}, **change})


def test_one_shard_alone_cannot_be_set_by_the_settings_alone() -> None:
    assert "filled in from shards" in refusal({"settings": {"daemon": {"shard": {"of": 2}}}})


def test_what_is_told_after_an_installation_leads_to_a_deployment_that_is_there() -> None:
    assert "3 shards of 2 replica(s)" in notes(VALUES)
    assert f"deployment/{RELEASE}-0 --" in notes(VALUES)
    assert f"deployment/{RELEASE} --" in notes()
