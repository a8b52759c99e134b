"""Does the chart lead KEDA to the one that answers, and nobody else?"""

from __future__ import annotations

from typing import Any

from tests.builders_chart import EVERYTHING, NAMESPACE, notes, of_kind, rendered, the

ON: dict[str, Any] = {"keda": {"enabled": True}, "beside": ["ScaledObject"]}


def test_without_it_no_port_is_open_and_no_service_is_there() -> None:
    objects = rendered()
    assert [service["metadata"]["name"] for service in of_kind(objects, "Service")] == ["foresail"]
    container = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert [port["name"] for port in container["ports"]] == ["status"]
    assert "KEDA" not in notes()


def test_the_service_tells_of_every_ready_pod_and_leads_to_the_port_that_is_listened_on() -> None:
    objects = rendered(ON)
    service, pod = the(objects, "Service", "foresail-keda")["spec"], the(objects, "Deployment")["spec"]["template"]
    assert service["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in service
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    (port,) = service["ports"]
    assert ports[port["targetPort"]] == port["port"] == 9465


def test_only_keda_reaches_it() -> None:
    def ingress(values: dict[str, Any]) -> dict[str, Any]:
        rules = the(rendered(values), "NetworkPolicy")["spec"]["ingress"]
        return {port["port"]: rule["from"] for rule in rules for port in rule["ports"]}

    of_keda = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}]
    assert ingress(ON) == {"status": [{"namespaceSelector": {}}], "keda": of_keda}
    mine = [{"podSelector": {"matchLabels": {"app": "keda-operator"}}}]
    assert ingress({**ON, "networkPolicy": {"kedaFrom": mine}})["keda"] == mine


def test_it_is_not_scraped_twice() -> None:
    """The selector of the ServiceMonitor fits both Services; the port that it asks is that of one."""
    objects = rendered({**EVERYTHING, **ON})
    (endpoint,) = the(objects, "ServiceMonitor")["spec"]["endpoints"]
    with_it = [s for s in of_kind(objects, "Service") if endpoint["port"] in {p["name"] for p in s["spec"]["ports"]}]
    assert [service["metadata"]["name"] for service in with_it] == ["foresail"]


def test_the_notes_show_the_trigger_and_what_is_not_seen() -> None:
    told = notes(ON)
    assert f"foresail-keda.{NAMESPACE}.svc:9465" in told
    assert "beside has no ScaledObject" not in told
    assert "beside has no ScaledObject" in notes({"keda": {"enabled": True}})
