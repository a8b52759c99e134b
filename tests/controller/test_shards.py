"""What of the settings and of the memory holds for one shard, and which settings can no two have together?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings
from controller.cli import config
from controller.errors import BadSetting
from controller.reload import SettingsFile
from controller.setting_problems import BadSettings
from controller.settings import Settings, load_settings
from controller.shard_settings import ShardSettings
from controller.shards import own_memory, own_part
from policies.fleet import PoolKey
from policies.healing_memory import ActionMemory, CordonMemory
from policies.memory import ModelMemory, PolicyMemory, PoolMemory

MODELS = [f"model-{number}" for number in range(12)]
PROFILE = "llama-3.1-70b-a100-tp4"
PINNED = {"model-0": 0, "model-1": 1, "model-2": 2}


def tree(index: int = 0, of: int = 3, **more: Any) -> dict[str, Any]:
    """Settings of one shard, with two pools and a route for each model."""
    pools = {f"{model}/{pool}/unified": {"profile": PROFILE} for model in MODELS for pool in ("a100", "h100")}
    routes = [
        {"namespace": "serving", "name": model, "model": model, "backends": {"a100": "one", "h100": "two"}}
        for model in MODELS
    ]
    told: dict[str, Any] = {
        "policy": {"pools": pools, "objectives": {model: {"ttft_s": 1.0} for model in MODELS}},
        "modes": {"workloads": {model: {"scaling": "auto"} for model in MODELS}},
        "platform": {"kind": "kubernetes", "namespaces": ["serving"], "routes": routes, "lease": {}},
        "audit": {"url": "sqlite:////var/lib/foresail/audit-{shard}.db"},
        "daemon": {"shard": {"index": index, "of": of, "pins": PINNED}},
    }
    for section, values in more.items():
        told[section] = merged(told.get(section), values)
    return told


def merged(one: Any, other: Any) -> Any:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return {**one, **{key: merged(one.get(key), value) for key, value in other.items()}}


def written(folder: Path, told: dict[str, Any]) -> Path:
    file = folder / "foresail.yaml"
    file.write_text(yaml.safe_dump(told))
    return file


def part(index: int, **more: Any) -> Settings:
    return own_part(Settings.model_validate_json(json.dumps(tree(index, **more))))


def problem(folder: Path, told: dict[str, Any]) -> str:
    with pytest.raises(BadSettings) as refused:
        load_settings(written(folder, told))
    return str(refused.value).replace("\n  -> ", "; ")


def test_one_shard_alone_has_the_settings_as_they_are() -> None:
    told = {**tree(), "daemon": {}, "audit": {"url": "sqlite:///audit.db"}}
    whole = Settings.model_validate_json(json.dumps(told))
    assert own_part(whole) is whole
    assert not whole.daemon.shard.rest.pools


def test_every_pool_objective_mode_and_route_is_in_exactly_one_shard() -> None:
    parts = [part(index) for index in range(3)]
    for told in (
        lambda one: list(one.policy.pools),
        lambda one: list(one.policy.objectives),
        lambda one: list(one.modes.workloads),
        lambda one: [route.model for route in one.platform.routes],
    ):
        found = [name for one in parts for name in told(one)]
        assert sorted(found) == sorted(told(Settings.model_validate_json(json.dumps(tree()))))
    for one in parts:
        models = {PoolKey.parse(key).model for key in one.policy.pools}
        assert models == set(one.policy.objectives) == set(one.modes.workloads)
        assert isinstance(one.platform, KubernetesSettings)
        assert models == {route.model for route in one.platform.routes}
        assert {key.model for key in one.daemon.shard.rest.pools} == set(MODELS) - models
        assert f"model-{one.daemon.shard.index}" in models


def test_routes_of_members_are_divided_and_what_they_name_pools_is_not() -> None:
    pools = [{"namespace": "serving", "name": model, "model": model} for model in MODELS]
    routes = tree()["platform"]["routes"]
    east = {"context": "east", "namespaces": ["serving"], "lease": {}, "pools": pools, "routes": routes}
    members = {"east": east, "west": {"context": "west", "namespaces": ["serving"], "pools": pools}}
    told = {**tree(1), "platform": {"kind": "clusters", "members": members}}
    platform = own_part(Settings.model_validate_json(json.dumps(told))).platform
    assert isinstance(platform, ClustersSettings)
    assert "model-1" in platform.router_of
    assert not {"model-0", "model-2"} & set(platform.router_of)
    assert all(len(member.pools) == len(MODELS) for member in platform.members.values())


def test_budgets_of_the_fleet_are_divided_so_that_they_sum_to_what_was_set() -> None:
    guardrails = {"gpu_budget": 100, "usd_per_hour_budget": 250.07}
    policy: dict[str, Any] = {
        "guardrails": guardrails,
        "anomaly": {"canary": {"enabled": True, "most_per_tick": 8}},
    }
    for shares, repairs in (([], 4), ([5, 1, 2], 8)):
        policy["healing"] = {"fleet_disruption_budget": repairs}
        parts = [part(i, policy=policy, daemon={"shard": {"shares": shares}}) for i in range(3)]
        assert sum(one.policy.guardrails.gpu_budget or 0 for one in parts) == 100
        usd = [one.policy.guardrails.usd_per_hour_budget or 0.0 for one in parts]
        assert round(sum(usd), 6) == 250.07
        assert sum(one.policy.healing.fleet_disruption_budget for one in parts) == repairs
        assert sum(one.policy.anomaly.canary.most_per_tick for one in parts) == 8
    assert part(0, policy=policy).policy.healing.disruption_budget == 1, "that of a model stays"


def test_what_one_process_alone_may_write_has_the_number_of_the_shard_in_its_name() -> None:
    modes = {"healing": "approve"}
    approvals = {"folder": "approvals/{shard}", "approvers": {"ann": "key.pub"}}
    audit = {"archive": "archive-{shard}"}
    one = part(2, modes=modes, approvals=approvals, audit=audit)
    assert one.audit.url == "sqlite:////var/lib/foresail/audit-2.db"
    assert (one.audit.archive, one.approvals.folder) == (Path("archive-2"), Path("approvals/2"))


def test_one_shard_alone_trains_and_deposes_models() -> None:
    daemon = {"retrain": {"command": ["foresail", "train"]}}
    parts = [part(index, daemon=daemon) for index in range(3)]
    assert [bool(one.daemon.retrain.command) for one in parts] == [True, False, False]
    assert [one.daemon.skill.roll_back for one in parts] == [True, False, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"daemon": {"shard": {"index": 3}}}, "daemon.shard.index: 3 is none of 3 shards; give 0 to 2"),
        ({"daemon": {"shard": {"pins": {"a": 7}}}}, "daemon.shard.pins.a: 7 is none of 3 shards"),
        ({"daemon": {"shard": {"shares": [1, 2]}}}, "daemon.shard.shares: [1, 2] is not a number of at least 1"),
        ({"platform": {"lease": None}}, "daemon.shard.of: daemon.shard.of is 3, and without a lease nothing keeps"),
        ({"audit": {"url": "postgresql://f@db/log"}}, "audit.url: daemon.shard.of is 3, and all shards would share"),
        ({"audit": {"archive": "old"}}, "put {shard} into its name"),
        (
            {"modes": {"healing": "approve"}, "approvals": {"approvers": {"ann": "key"}}},
            "approvals: daemon.shard.of is 3, and all shards would share",
        ),
        ({"policy": {"healing": {"may_avoid_nodes": True}}}, "policy.healing.may_avoid_nodes: daemon.shard.of is 3"),
        (
            {"policy": {"healing": {"fleet_disruption_budget": 2}}},
            "fleet_disruption_budget (2) one of them would have none; raise it to 3",
        ),
        ({"policy": {"guardrails": {"gpu_budget": 2}}}, "policy.guardrails.gpu_budget: daemon.shard.of is 3"),
        ({"policy": {"anomaly": {"canary": {"enabled": True, "most_per_tick": 1}}}}, "most_per_tick: daemon.shard.of"),
    ],
)
def test_what_shards_cannot_have_together_is_refused_with_what_to_do(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    assert said in problem(tmp_path, tree(**change))


def test_only_workloads_on_kubernetes_are_divided(tmp_path: Path) -> None:
    assert "only workloads on Kubernetes can be divided; set it to 1" in problem(
        tmp_path, {**tree(), "platform": {"kind": "live"}}
    )


def test_a_budget_of_none_stays_one_of_none_for_all() -> None:
    assert part(0, policy={"healing": {"fleet_disruption_budget": 0}}).policy.healing.fleet_disruption_budget == 0


def test_a_settings_file_is_loaded_as_the_part_of_the_shard_and_that_part_stays(tmp_path: Path) -> None:
    file = written(tmp_path, tree())
    source = SettingsFile(file, ["daemon.shard.index=1"])
    used = source.load()
    assert used.daemon.shard.title == "shard 1 of 3"
    assert {PoolKey.parse(key).model for key in used.policy.pools} == {m for m in MODELS if used.daemon.shard.has(m)}
    written(tmp_path, tree(policy={"tick_s": 10}, forecast={"step_s": 60}))
    assert source.reload(used).policy.tick_s == 10
    written(tmp_path, tree(of=4, policy={"healing": {"fleet_disruption_budget": 4}}))
    with pytest.raises(BadSetting, match=r"daemon\.shard cannot change while the daemon runs"):
        source.reload(used)


def test_config_validate_tells_what_the_shard_has(tmp_path: Path) -> None:
    file = str(written(tmp_path, tree(policy={"guardrails": {"gpu_budget": 100}})))
    told = CliRunner().invoke(config, ["validate", file, "--json"])
    shard = json.loads(told.output)["shard"]
    assert (shard["index"], shard["of"], shard["of_pools"]) == (0, 3, 2 * len(MODELS))
    assert shard["pools"] == sorted(part(0).policy.pools)
    assert shard["budgets"] == {"policy.healing.fleet_disruption_budget": 1, "policy.guardrails.gpu_budget": 33}
    plain = CliRunner().invoke(config, ["validate", file]).output
    assert f"shard 0 of 3 ({shard['layout']}): {len(shard['pools'])} of 24 pools" in plain


def test_what_another_division_remembered_of_models_that_are_not_ours_is_forgotten() -> None:
    shard = ShardSettings(index=1, of=2, pins={"a/one": 1, "two": 0})
    ours, theirs = PoolKey("a/one", "x"), PoolKey("two", "x")
    names = [ours.replica("pod"), theirs.replica("pod")]
    memory = PolicyMemory(
        generation=7,
        pools={str(key): PoolMemory() for key in (ours, theirs)},
        models={"a/one": ModelMemory(), "two": ModelMemory()},
        actions=tuple(ActionMemory("pod", "restart", key.model, str(key), 1.0, 2.0) for key in (ours, theirs)),
        cordons={name: CordonMemory(1.0, "F1", "1") for name in names},
        pages={"fleet breaker": 1.0},
    )
    kept = own_memory(memory, shard)
    assert (list(kept.pools), list(kept.models), list(kept.cordons)) == ([str(ours)], ["a/one"], names[:1])
    assert [act.model for act in kept.actions] == ["a/one"]
    assert (kept.generation, kept.pages) == (7, memory.pages)
    assert own_memory(memory, ShardSettings()) is memory
