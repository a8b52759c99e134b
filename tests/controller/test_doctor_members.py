"""Does ``foresail doctor`` look at several clusters as one fleet, whose pools and routes have their names in it?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kube.member_settings import ClustersSettings
from controller.doctor import examine, sections_of
from controller.doctor_findings import Findings
from controller.explain import as_text
from controller.settings import Settings
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube_api import Fleet, settings_for
from tests.builders_prometheus import free_port
from tests.builders_regions import MODEL, make_route

BACKENDS = {"east.a100": "engine-east", "west.a100": "engine-west"}
HUB = {"routes": ({"namespace": "prod", "name": "chat", "model": MODEL, "backends": BACKENDS},)}


@pytest.fixture(name="apis")
def _apis() -> Iterator[tuple[RunningApi, RunningApi]]:
    with running_api(bookmark_every_s=0.05) as east, running_api(bookmark_every_s=0.05) as west:
        for api in (east, west):
            Fleet(api).deployment("engine", model=MODEL, pool="a100")
        make_route(east)
        east.settle()
        yield east, west


def _findings(
    apis: tuple[RunningApi, RunningApi], folder: Path, *pools: str, hub: Any = HUB, spoke: Any = None
) -> Findings:
    for name in ("east", "west"):
        (folder / name).mkdir(exist_ok=True)
    east, west = settings_for(apis[0], folder / "east", **hub), settings_for(apis[1], folder / "west", **(spoke or {}))
    members = {"east": dict(east), "west": dict(west)}
    told = {
        "prometheus": {"url": f"http://127.0.0.1:{free_port()}", "attempts": 1},
        "modes": {"traffic": "auto"},
        "policy": {"pools": {f"{MODEL}/{pool}/unified": {"profile": "llama-3.1-8b-l40s-tp1"} for pool in pools}},
    }
    platform = ClustersSettings.model_validate({"members": members})
    return examine(Settings.model_validate(told).model_copy(update={"platform": platform}))


def _fatal(findings: Findings) -> list[str]:
    return [p.what for p in findings.problems if p.fatal and "metrics store" not in p.what]  # there is none


def test_pools_and_routes_have_their_names_in_the_fleet(apis: tuple[RunningApi, RunningApi], tmp_path: Path) -> None:
    findings = _findings(apis, tmp_path, "east.a100", "west.a100")
    assert _fatal(findings) == []
    assert [route.trouble for route in findings.members["east"].routes] == [""]
    text = "\n".join(as_text(section) for section in sections_of(findings))
    for name, api in zip(("east", "west"), apis, strict=True):
        assert f"{name}: Cluster {api.url}" in text


def test_a_pool_that_no_member_has_is_told_once(apis: tuple[RunningApi, RunningApi], tmp_path: Path) -> None:
    findings = _findings(apis, tmp_path, "east.a100", "north.a100")
    assert _fatal(findings) == [f"no workload in the cluster is pool {MODEL}/north.a100/unified"]


def test_that_no_member_has_a_route_is_told_once(apis: tuple[RunningApi, RunningApi], tmp_path: Path) -> None:
    findings = _findings(apis, tmp_path, "east.a100", "west.a100", hub={})
    assert _fatal(findings) == ["modes.traffic lets weights be set, and no route is named"]


def test_rights_to_events_are_asked_for_at_each_member_that_is_to_be_told(
    apis: tuple[RunningApi, RunningApi], tmp_path: Path
) -> None:
    mute = (Rule(("get", "list", "watch"), ("*",), ("*",)), Rule(("*",), ("authorization.k8s.io",), ("*",)))
    apis[1].grant("mute", Subject("foresail", mute))
    findings = _findings(apis, tmp_path, "east.a100", "west.a100", spoke={"known_as": "mute"})
    missing = {name: member.missing_rights for name, member in findings.members.items()}
    assert missing["east"] == []
    assert {
        (right.verb, right.resource, right.namespace) for right in missing["west"] if right.feature == "events"
    } == {
        ("create", "events", "prod"),
        ("patch", "events", "prod"),
    }
    findings = _findings(apis, tmp_path, "east.a100", "west.a100", spoke={"known_as": "mute", "events": False})
    assert "events" not in {right.feature for right in findings.members["west"].missing_rights}
