"""Do policies take effect through a reload, against a real API server over HTTP, and what if that is in trouble?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.policies import LONGEST_S, QUIET_S, ScalingPolicies
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.errors import BadSetting
from controller.modes import Mode
from controller.reload import SettingsFile
from controller.settings import Settings
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube_api import caught_up, settings_for
from tests.builders_policies import PROFILE, InCluster, Policies, pool_json, until

KEY = "llama/a/unified"
FILE = f"policy: {{pools: {{{KEY}: {{profile: {PROFILE}, max_replicas: 4}}}}}}\nmodes: {{scaling: auto}}\n"


@dataclass
class Rig:
    """A settings file, policies on an API server, and time that a test may let pass."""

    api: RunningApi
    folder: Path
    later_s: float = 0.0
    opened: list[ScalingPolicies] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policies = Policies(self.api)
        self.file = self.folder / "foresail.yaml"
        self.file.write_text(FILE)
        self._elapsed = SystemClock().elapsed

    def elapsed(self) -> float:
        return self._elapsed() + self.later_s

    def source(self, **more: Any) -> SettingsFile:
        """Return the file with the policies laid over it, as a daemon that begins now has it."""
        self.opened.append(ScalingPolicies(self.elapsed, np.random.default_rng(7)))
        return SettingsFile(self.file, (), InCluster(self.opened[-1], self.cluster(**more)))

    def cluster(self, **more: Any) -> KubernetesSettings:
        return settings_for(self.api, self.folder, **{"policies": True, **more})

    def reloaded(self, source: SettingsFile, used: Settings) -> Settings:
        """Wait until there is something to reload, and no edit just before, and return what then holds."""
        until(source.changed, lambda: setattr(self, "later_s", self.later_s + QUIET_S))
        return source.reload(used)

    def reasons(self) -> dict[str, str]:
        laid = self.opened[-1].laid
        return {} if laid is None else {verdict.policy.name: verdict.reason for verdict in laid.verdicts}


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Iterator[Rig]:
    with running_api() as api:
        rig = Rig(api, tmp_path)
        yield rig
        for policies in rig.opened:
            policies.close()


def test_policies_that_are_there_at_the_start_hold_from_the_start(rig: Rig) -> None:
    rig.policies.create(modes={"scaling": "recommend"})
    settings = rig.source().load()
    assert settings.policy.pools[KEY].max_replicas == 9
    assert settings.modes.workloads["llama"].scaling is Mode.RECOMMEND


def test_a_policy_that_is_made_edited_and_deleted_is_followed_at_reloads(rig: Rig) -> None:
    source = rig.source()
    used = source.load()
    assert used.policy.pools[KEY].max_replicas == 4
    assert not source.changed()
    rig.policies.create()
    used = rig.reloaded(source, used)
    assert used.policy.pools[KEY].max_replicas == 9
    assert not source.changed()
    rig.policies.edit(pools=[pool_json(maxReplicas=20)])
    used = rig.reloaded(source, used)
    assert used.policy.pools[KEY].max_replicas == 20
    rig.policies.delete()
    assert rig.reloaded(source, used).policy.pools[KEY].max_replicas == 4


def test_an_invalid_edit_leaves_the_last_good_version_and_every_other_policy_in_force(rig: Rig) -> None:
    for name in ("llama", "qwen"):
        rig.policies.create(name)
    source = rig.source()
    used = source.load()
    rig.policies.edit(pools=[pool_json(profile="no-such")])
    after = rig.reloaded(source, used)
    assert after == used
    assert rig.reasons() == {"llama": "Invalid", "qwen": "Accepted"}


def test_settings_by_which_no_cluster_is_reached_leave_policies_watched_where_they_are(rig: Rig) -> None:
    source = rig.source()
    source.load()
    elsewhere = SettingsFile(rig.file, (), InCluster(rig.opened[-1], rig.cluster(context="nowhere")))
    with pytest.raises(BadSetting, match="cannot be told how the API server is reached"):
        elsewhere.load()
    rig.policies.create()
    until(source.changed, lambda: setattr(rig, "later_s", rig.later_s + QUIET_S))


def test_what_is_written_of_a_policy_is_no_edit(rig: Rig) -> None:
    rig.policies.create()
    source = rig.source()
    source.load()
    rig.api.call("PATCH", f"{rig.policies.PATH}/llama/status", {"status": {"why": "x"}}, "application/merge-patch+json")
    rig.policies.create("qwen")
    rig.policies.delete("qwen")
    until(lambda: _reached(rig))
    assert not source.changed()
    rig.later_s += 2 * QUIET_S
    assert not source.changed()
    assert rig.reasons() == {"llama": "Accepted"}


def test_a_burst_of_edits_is_taken_over_once_it_is_over_or_has_lasted(rig: Rig) -> None:
    source = rig.source()
    used = source.load()
    began_s = rig.later_s
    rounds = 0
    while True:
        rig.policies.create(f"m{rounds}")
        until(lambda: _reached(rig))
        if source.changed():
            break
        rig.later_s += QUIET_S / 2
        rounds += 1
    assert LONGEST_S - 1.0 <= rig.later_s - began_s <= LONGEST_S
    assert len(source.reload(used).policy.pools) == rounds + 2


def test_the_file_may_change_beside_them(rig: Rig) -> None:
    rig.policies.create("qwen")
    source = rig.source()
    used = source.load()
    rig.file.write_text(FILE.replace("max_replicas: 4", "max_replicas: 5"))
    assert source.changed()
    after = source.reload(used)
    assert (after.policy.pools[KEY].max_replicas, after.policy.pools["qwen/a/unified"].max_replicas) == (5, 9)


def test_nothing_is_done_until_policies_have_been_read_once(rig: Rig) -> None:
    rig.policies.create(modes={"scaling": "recommend"})
    rig.api.partition("reset")
    source = rig.source(timeout_s=0.3)
    used = source.load()
    assert used.policy.pools[KEY].max_replicas == 4
    assert used.modes.scaling is Mode.OBSERVE
    rig.api.heal()
    used = rig.reloaded(source, used)
    assert (used.modes.scaling, used.modes.workloads["llama"].scaling) == (Mode.AUTO, Mode.RECOMMEND)


def test_what_was_read_holds_on_while_the_server_is_away(rig: Rig) -> None:
    rig.policies.create()
    source = rig.source()
    used = source.load()
    rig.api.partition("reset")
    rig.later_s += 3600.0
    assert not source.changed()
    assert source.reload(used) == used


def test_who_may_not_read_them_does_nothing(rig: Rig) -> None:
    rig.api.grant("t", Subject("foresail", rules=(Rule(("list",), ("pods",)),)))
    assert rig.source(known_as="t", timeout_s=0.3).load().modes.scaling is Mode.OBSERVE


def test_without_the_feature_and_without_the_kind_the_file_holds(rig: Rig) -> None:
    rig.policies.create()
    assert rig.source(policies=False).load().policy.pools[KEY].max_replicas == 4
    with running_api(kinds=()) as bare:
        policies = ScalingPolicies(rig.elapsed, np.random.default_rng(7))
        source = SettingsFile(rig.file, (), InCluster(policies, settings_for(bare, rig.folder, policies=True)))
        used = source.load()
        policies.close()
    assert (used.policy.pools[KEY].max_replicas, used.modes.scaling) == (4, Mode.AUTO)


def _reached(rig: Rig) -> bool:
    """Return whether the watch has told of everything so far."""
    watch = rig.opened[-1]._watch
    assert watch is not None
    return caught_up(rig.api, watch.reflectors, 0.0)
