"""Is a settings file noticed when it changes, and refused when it cannot be used in a running daemon?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings
from controller.errors import BadSetting
from controller.reload import SettingsFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "foresail.yaml"
    path.write_text("policy: {tick_s: 15}\n")
    return path


def test_a_changed_content_is_noticed_once_it_differs_and_until_it_is_loaded(file: Path) -> None:
    source = SettingsFile(file)
    assert not source.changed()
    file.write_text("policy: {tick_s: 15}\n")
    assert not source.changed()
    file.write_text("policy: {tick_s: 30}\n")
    assert source.changed()
    assert source.load().policy.tick_s == 30
    assert not source.changed()


def test_a_file_that_is_replaced_by_moving_a_link_is_noticed(tmp_path: Path) -> None:
    """As Kubernetes does with a mounted ConfigMap."""
    for name, tick_s in (("old", 15), ("new", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "foresail.yaml").write_text(f"policy: {{tick_s: {tick_s}}}\n")
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "old")
    source = SettingsFile(link / "foresail.yaml")
    (tmp_path / "next").symlink_to(tmp_path / "new")
    (tmp_path / "next").rename(link)
    assert source.changed()
    assert source.load().policy.tick_s == 20


def test_a_file_that_vanishes_is_refused_once_and_noticed_when_it_is_back(file: Path) -> None:
    source = SettingsFile(file)
    used, text = source.load(), file.read_text()
    file.unlink()
    assert source.changed()
    with pytest.raises(BadSetting, match="cannot be read"):
        source.reload(used)
    assert not source.changed()
    file.write_text(text)
    assert source.changed()
    assert source.reload(used) == used


def test_overrides_stay_laid_over_whatever_the_file_says(file: Path) -> None:
    source = SettingsFile(file, ["policy.tick_s=5"])
    assert source.reload(source.load()).policy.tick_s == 5


@pytest.mark.parametrize(
    "text",
    [
        "audit: {url: 'sqlite:///other.db'}\n",
        "daemon: {status: {address: '127.0.0.1:1'}}\n",
        "daemon: {keda: {address: '127.0.0.1:1'}}\n",
    ],
)
def test_what_cannot_change_while_it_runs_is_refused_by_name(file: Path, text: str) -> None:
    source = SettingsFile(file)
    used = source.load()
    file.write_text(text)
    with pytest.raises(
        BadSetting, match=r"(audit\.url|daemon\.status|daemon\.keda) cannot change while the daemon runs"
    ):
        source.reload(used)


@pytest.mark.parametrize("told", [{"lease": {}}, {"lease": {}, "context": "other"}])
def test_the_lease_cannot_change_while_it_runs(told: dict[str, Any], file: Path) -> None:
    source = SettingsFile(file)
    used = source.load()
    leased = used.model_copy(update={"platform": KubernetesSettings.model_validate(told)})
    with pytest.raises(BadSetting, match=r"platform\.lease .*cannot change while the daemon runs"):
        source.reload(leased)
    assert source.reload(used.model_copy(update={"platform": KubernetesSettings()})) == used


@pytest.mark.parametrize("told", [{"east": {"lease": {}}}, {"west": {"lease": {"name": "other"}}}])
def test_the_lease_of_several_clusters_cannot_change_or_move_while_it_runs(told: dict[str, Any], file: Path) -> None:
    def of(east: dict[str, Any], west: dict[str, Any]) -> ClustersSettings:
        members = {"east": {"context": "east", **east}, "west": {"context": "west", **west}}
        return ClustersSettings.model_validate({"members": members})

    members = "{east: {context: east}, west: {context: west, lease: {}}}"
    source = SettingsFile(file, [f"platform={{kind: clusters, members: {members}}}"])
    used = source.load()
    leased = used.model_copy(update={"platform": of(**{"east": {}, "west": {}, **told})})
    with pytest.raises(BadSetting, match=r"platform[.,].* cannot change while the daemon runs"):
        source.reload(leased)
    assert source.reload(used.model_copy(update={"platform": of({"nodes": True}, {"lease": {}})})) == used


def test_without_a_file_nothing_ever_changes() -> None:
    source = SettingsFile(None)
    assert not source.changed()
    assert source.load().policy.tick_s == 15
