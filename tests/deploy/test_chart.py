"""Does the chart install what it says: valid objects, safe as it stands, refusing what cannot work?"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

import foresail
from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.live_platform import PlatformSettings
from controller.settings import Settings, load_settings
from tests.builders_chart import (
    CHART,
    EVERYTHING,
    FEATURES,
    NAMESPACE,
    RELEASE,
    ROOT,
    WORKLOADS,
    Object,
    helm,
    notes,
    of_kind,
    problems_of,
    refusal,
    rendered,
    the,
)

POSTGRES = {"audit": {"url": "postgresql+psycopg://foresail@db.data.svc/foresail"}}
AUTO = {"modes": {"scaling": "auto", "traffic": "auto", "healing": "auto"}}
ALL_ON = {
    "features": dict.fromkeys(FEATURES, True),
    "routes": ["HTTPRoute"],
    "workloads": [{**WORKLOADS[0], "namespace": NAMESPACE}],
}

VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    "acting": {**ALL_ON, "settings": AUTO},
    "postgres": {"settings": POSTGRES, "features": {"lease": True}},
    "bare": {
        "admissionPolicy": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "persistence": {"enabled": False},
        "serviceAccount": {"create": False, "name": "given"},
    },
    "placed": {
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "cpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podLabels": {"team": "llm"},
        "podAnnotations": {"note": "x"},
        "image": {"repository": "foresail", "digest": f"sha256:{'a' * 64}", "pullSecrets": ["pull"]},
        "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
        "networkPolicy": {
            "statusFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
            "apiServer": {"cidrs": ["10.0.0.1/32"], "ports": [6443]},
            "extraEgress": [{"ports": [{"port": 8080, "protocol": "TCP"}]}],
        },
        "persistence": {"existingClaim": "mine", "storageClass": "fast"},
        "service": {"annotations": {"a": "b"}},
        "serviceAccount": {"annotations": {"a": "b"}},
    },
}


@pytest.mark.parametrize("name", list(VALUES))
def test_every_object_is_what_its_schema_says(name: str) -> None:
    objects = rendered(VALUES[name])
    assert len(objects) >= 4
    assert [problem for found in objects for problem in problems_of(found)] == []
    names = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in objects]
    assert len(set(names)) == len(names)


def test_a_field_that_no_schema_knows_is_noticed() -> None:
    deployment = the(rendered(), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    monitor = the(rendered(EVERYTHING), "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["intervals"] = "15s"
    assert all(list(problems_of(found)) for found in (deployment, monitor))


def test_helm_finds_nothing_to_say_against_the_chart() -> None:
    report = helm.lint(CHART, {"image": {"repository": "foresail"}}, strict=True, namespace=NAMESPACE)
    assert report["errors"] == []
    assert {message["error"] for message in report["messages"]} <= {"icon is recommended"}


def test_the_chart_is_of_the_version_that_it_installs() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["version"] == about["appVersion"] == foresail.__version__


# As it stands


def test_as_it_stands_nothing_is_changed() -> None:
    settings = settings_of(rendered())
    assert {settings.modes.scaling, settings.modes.traffic, settings.modes.healing} == {"observe"}
    assert "It changes nothing." in notes()
    kinds = {found["kind"] for found in rendered()}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "Secret", "ServiceMonitor", "PrometheusRule"}


def test_the_pod_keeps_to_the_restricted_standard() -> None:
    for values in VALUES.values():
        spec = the(rendered(values), "Deployment")["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        assert {kind for volume in spec["volumes"] for kind in volume} - {"name"} <= allowed


def test_what_is_written_lies_on_volumes() -> None:
    """Whatever else a file of the settings is put on, the root is read-only."""
    spec = the(rendered(), "Deployment")["spec"]["template"]["spec"]
    mounts = spec["containers"][0]["volumeMounts"]
    writable = {Path(mount["mountPath"]) for mount in mounts if not mount.get("readOnly")}
    settings = settings_of(rendered())
    written = [
        Path(settings.audit.url.removeprefix("sqlite:///")),
        Path(settings.registry.store.removeprefix("sqlite:///")),
        settings.registry.cache_folder,
        settings.approvals.folder,
        Path("/tmp/x"),  # noqa: S108 - where a library may write, in the container
    ]
    assert [place for place in written if not writable & set(place.parents)] == []
    stop = next(mount for mount in mounts if mount["name"] == "stop")
    assert settings.daemon.kill_switch.parent == Path(stop["mountPath"])


def test_secrets_are_mounted_and_never_in_the_environment() -> None:
    spec = the(rendered(EVERYTHING), "Deployment")["spec"]["template"]["spec"]
    env = spec["containers"][0]["env"]
    assert env == [{"name": "PGPASSFILE", "value": "/run/foresail/pgpass"}]
    assert {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume} == {
        "prometheus",
        "audit",
    }
    secret = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    assert "env" in refusal({"env": [secret]})


def test_probes_ask_what_the_status_server_answers() -> None:
    container = the(rendered(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    (port,) = container["ports"]
    assert settings_of(rendered()).daemon.status.address.endswith(f":{port['containerPort']}")


# Replicas


def test_one_process_alone_writes_a_sqlite_log() -> None:
    deployment = the(rendered(), "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert the(rendered(), "PersistentVolumeClaim")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "PostgreSQL" in refusal({"replicas": 2, "features": {"lease": True}})


def test_two_replicas_share_a_postgresql_log_and_take_turns_by_a_lease() -> None:
    objects = rendered(VALUES["postgres"])
    spec = the(objects, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (2, "RollingUpdate")
    assert spec["template"]["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
    assert of_kind(objects, "PersistentVolumeClaim") == []
    assert the(rendered({"settings": POSTGRES}), "Deployment")["spec"]["replicas"] == 1
    assert "features.lease" in refusal({"settings": POSTGRES, "replicas": 2})


def test_a_drain_of_the_node_is_never_blocked() -> None:
    budget = the(rendered(), "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


# Settings


def settings_of(objects: list[Object], folder: Path | None = None) -> Settings:
    text = the(objects, "ConfigMap")["data"]["foresail.yaml"]
    if folder is None:
        return Settings.model_validate_json(json.dumps(yaml.safe_load(text)), strict=True)
    file = folder / "foresail.yaml"
    file.write_text(text)
    return load_settings(file)


@pytest.mark.parametrize("name", list(VALUES))
def test_the_settings_are_accepted_by_foresail(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "foresail.yaml"
    file.write_text(the(rendered(VALUES[name]), "ConfigMap")["data"]["foresail.yaml"])
    assert foresail.main(["config", "validate", str(file)]) == 0, capsys.readouterr().err


def test_the_example_file_arrives_as_it_was_written(tmp_path: Path) -> None:
    example = yaml.safe_load((ROOT / "docs" / "foresail.yaml").read_text())
    for key in ("audit", "daemon"):
        example[key].pop("url", None), example[key].pop("kill_switch", None), example[key].pop("status", None)
    example["audit"]["keep_mib"] = 1_000_000  # Helm's numbers are floats; this one must not become 1e+06
    settings = settings_of(rendered({"settings": example}), tmp_path)
    written = load_settings(ROOT / "docs" / "foresail.yaml")
    assert settings.policy == written.policy
    assert settings.modes == written.modes
    assert settings.prometheus == written.prometheus
    assert settings.audit.keep_mib == 1_000_000
    assert settings.audit.keep_s == written.audit.keep_s


def test_the_platform_is_handed_on_as_it_is(tmp_path: Path) -> None:
    platform = {"kind": "live", "url": "http://127.0.0.1:9470", "attempts": 5}
    settings = settings_of(rendered({"settings": {"platform": platform}}), tmp_path)
    assert isinstance(settings.platform, PlatformSettings)
    assert settings.platform.attempts == 5


def test_several_clusters_are_handed_on_and_two_replicas_need_a_lease_in_one(tmp_path: Path) -> None:
    platform = {"kind": "clusters", "members": {"east": {"context": "e"}, "west": {"context": "w"}}}
    settings = {**EVERYTHING["settings"], "platform": platform}
    assert "names no lease" in refusal({**EVERYTHING, "settings": settings})
    platform["members"]["east"]["lease"] = {"namespace": "foresail"}  # type: ignore[index]
    assert isinstance(settings_of(rendered({**EVERYTHING, "settings": settings}), tmp_path).platform, ClustersSettings)


def test_other_settings_make_another_pod() -> None:
    def mark(settings: dict[str, Any]) -> str:
        template = the(rendered({"settings": settings}), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["foresail.dev/settings"])

    assert mark({}) == mark({})
    assert mark({}) != mark({"policy": {"tick_s": 30}})


def test_the_schema_knows_every_section_of_the_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]["settings"]["propertyNames"]["enum"]) == set(Settings.model_fields)


def test_the_schema_has_every_value_and_nothing_else() -> None:
    """Every default is described, and every object that is described refuses what it does not know."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(defaults)

    def open_ended(part: dict[str, Any], path: str) -> list[str]:
        found = []
        if part.get("type") == "object" and "additionalProperties" not in part:
            found.append(path)
        for name, inner in part.get("properties", {}).items():
            found += open_ended(inner, f"{path}.{name}")
        if isinstance(part.get("items"), dict):
            found += open_ended(part["items"], f"{path}[]")
        return found

    left_to_others = (
        ".global",
        ".settings",
        ".affinity.",
        ".networkPolicy.statusFrom[].",
        ".networkPolicy.kedaFrom[].",
        ".networkPolicy.extraEgress[].",
    )
    assert [path for path in open_ended(schema, "") if not path.startswith(left_to_others)] == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"image": {"repository": ""}}, "image.repository"),
        ({"featurs": {}}, "featurs"),
        ({"features": {"scael": True}}, "scael"),
        ({"features": {"scale": "yes"}}, "scale"),
        ({"kinds": ["DaemonSet"]}, "kinds"),
        ({"namespaces": ["*"]}, "namespaces"),
        ({"settings": {"promteheus": {}}}, "promteheus"),
        ({"replicas": 50}, "replicas"),
        ({"customKinds": [{"group": "*", "plural": "*"}]}, "customKinds"),
        ({"image": {"repository": "foresail", "digest": "sha256:1"}}, "digest"),
        ({"workloads": [{"namespace": "foresail", "name": "a", "minReplicas": 0, "maxReplicas": 1}]}, "workloads"),
        ({"workloads": [{**WORKLOADS[0], "minReplicas": 50, "namespace": NAMESPACE}]}, "above its maxReplicas"),
        ({"workloads": WORKLOADS}, "none of namespaces"),
        ({"features": {"scale": True}}, "workloads is empty"),
        ({"features": {"route": True}}, "routes is empty"),
        ({"settings": {"modes": {"scaling": "auto"}}}, "features.scale"),
        ({"settings": {"modes": {"traffic": "approve"}}}, "features.route"),
        ({"settings": {"modes": {"workloads": {"m": {"healing": "auto"}}}}}, "features.restart"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
        ({"settings": {"audit": {"url": "postgresql://foresail:hunter2@db/foresail"}}}, "audit.url holds a password"),
        ({"settings": {"registry": {"store": "https://me:hunter2@mlflow"}}}, "registry.store holds a password"),
        ({"settings": {"audit": {"url": "postgresql://foresail@db/f?password=hunter2"}}}, "audit.url holds a password"),
        ({"settings": {"prometheus": {"url": "https://me:hunter2@store"}}}, "prometheus.url holds a password"),
        ({"settings": {"daemon": {"status": {"address": "0.0.0.0:80"}}}}, "port 9464"),
        ({"settings": {"daemon": {"stop_within_s": 42}}}, "terminationGracePeriodSeconds"),
        ({"features": {"avoidNodes": True}}, "features.nodes"),
        ({"features": {"delete": True}}, "features.restart"),
        ({"settings": {"platform": {"lease": {"namespace": NAMESPACE}}}}, "features.lease"),
        ({"features": {"lease": True}, "settings": {"platform": {"lease": {"name": "mine"}}}}, "than the role grants"),
        ({"settings": {"daemon": {"keda": {}}}}, "keda.enabled is false"),
        ({"keda": {"enabled": True}, "settings": {"daemon": {"keda": {"address": "0.0.0.0:1"}}}}, "port 9465"),
        ({"keda": {"enabled": True}, "settings": {"daemon": {"keda": None}}}, "port 9465"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    assert named in refusal(values)
    assert "hunter2" not in refusal(values)


# The network


def egress(values: dict[str, Any]) -> list[Object]:
    policy = the(rendered(values), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    rules: list[Object] = policy["egress"]
    return rules


@pytest.mark.parametrize(
    ("settings", "ports"),
    [
        ({}, [53, 443, 6443, 9090]),
        ({"prometheus": {"url": "https://thanos.example/api"}}, [53, 443, 6443]),
        ({"prometheus": {"url": "http://vm.monitoring.svc:8428"}}, [53, 443, 6443, 8428]),
        ({"registry": {"store": "http://mlflow.ml.svc:5000"}}, [53, 443, 5000, 6443, 9090]),
        ({"registry": {"store": "postgresql://m@db/m"}}, [53, 443, 5432, 6443, 9090]),
        ({"audit": {"url": "postgresql+psycopg://f@db:6432/f"}}, [53, 443, 6432, 6443, 9090]),
    ],
    ids=str,
)
def test_only_what_the_settings_name_is_reached(settings: dict[str, Any], ports: list[int]) -> None:
    found = {port["port"] for rule in egress({"settings": settings}) for port in rule["ports"]}
    assert sorted(found) == ports


def test_engines_are_reached_only_where_canaries_are_sent() -> None:
    rules = egress({"networkPolicy": {"enginePorts": [8000]}, "namespaces": ["serving"]})
    assert rules[-1]["ports"] == [{"port": 8000, "protocol": "TCP"}]
    assert rules[-1]["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "serving"}}}]


def test_nothing_but_the_status_port_is_reached_from_outside() -> None:
    ingress = the(rendered(), "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in ingress for port in rule["ports"]] == ["status"]


# Notes


def test_the_notes_say_which_modes_are_on() -> None:
    modes = {"scaling": "approve", "workloads": {"m": {"traffic": "recommend"}}}
    told = notes({**ALL_ON, "settings": {"modes": modes}})
    assert "scaling: approve" in told
    assert "healing: observe" in told
    assert "m: traffic recommend" in told
    assert "It changes nothing" not in told


@pytest.mark.parametrize("values", list(product([False, True], repeat=2)), ids=str)
def test_the_notes_warn_of_what_is_not_protected(values: tuple[bool, bool]) -> None:
    bounded, kept = values
    told = notes({"admissionPolicy": {"enabled": bounded}, "persistence": {"enabled": kept}})
    assert ("admissionPolicy.enabled is false" in told) is not bounded
    assert ("persistence.enabled is false" in told) is not kept
    assert RELEASE in told
