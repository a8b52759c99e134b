"""What holds when policies are laid over a settings file, and does a bad one ever concern another?"""

from __future__ import annotations

from typing import Any

import pytest

from controller.adapters.kube.policy_objects import Policy, read_policy
from controller.adapters.kube.policy_settings import Overlaid, overlay
from controller.adapters.kube.settings import KubernetesSettings, PoolPlace
from controller.modes import ActionClass, Mode
from controller.settings import Settings
from tests.builders_policies import PROFILE, policy, policy_json, pool_json, settings_of

KEY = "llama/a/unified"
IN_FILE = {"policy": {"pools": {KEY: {"profile": PROFILE, "max_replicas": 4}, "other/b/unified": {"profile": PROFILE}}}}


def laid(*policies: Policy, on: Settings | None = None, good: dict[str, Policy] | None = None) -> Overlaid:
    return overlay(settings_of() if on is None else on, policies, good or {})


def reasons(found: Overlaid) -> dict[str, str]:
    return {verdict.policy.name: verdict.reason for verdict in found.verdicts}


def message(found: Overlaid, name: str = "llama") -> str:
    return next(verdict.message for verdict in found.verdicts if verdict.policy.name == name)


def places(found: Overlaid) -> tuple[PoolPlace, ...]:
    platform: object = found.settings.platform
    assert isinstance(platform, KubernetesSettings)
    return platform.pools


def test_without_policies_the_settings_are_those_of_the_file() -> None:
    base = settings_of(IN_FILE)
    assert laid(on=base).settings is base


def test_each_part_of_a_policy_becomes_the_setting_of_that_name() -> None:
    asked = policy(
        pools=[pool_json(efficiencyRatio=0.8, workload={"kind": "Deployment", "name": "engine"})],
        objective={"ttftSeconds": 1.5, "attainmentRatio": 0.95},
        modes={"scaling": "auto", "healing": "recommend"},
    )
    found = laid(asked)
    assert reasons(found) == {"llama": "Accepted"}
    settings = found.settings
    pool = settings.policy.pools[KEY]
    assert (pool.min_replicas, pool.max_replicas, pool.efficiency_ratio) == (2, 9, 0.8)
    objective = settings.policy.objective_of("llama")
    assert (objective.ttft_s, objective.attainment_ratio, objective.tpot_s) == (1.5, 0.95, 0.1)
    assert settings.modes.of(ActionClass.SCALING, "llama") is Mode.AUTO
    assert settings.modes.of(ActionClass.HEALING, "llama") is Mode.RECOMMEND
    assert settings.modes.of(ActionClass.TRAFFIC, "llama") is Mode.OBSERVE
    (place,) = places(found)
    assert (place.kind, place.namespace, place.name, place.model, place.pool) == (
        "Deployment", "prod", "engine", "llama", "a",
    )  # fmt: skip


def test_a_policy_cannot_let_shards_share_what_one_process_alone_may_write() -> None:
    file = {
        "daemon": {"shard": {"of": 2}},
        "audit": {"url": "sqlite:///audit-{shard}.db"},
        "approvals": {"approvers": {"ann": "ann.pub"}},
    }
    asks = policy(modes={"healing": "approve"})
    found = laid(asks, on=settings_of(file))
    assert reasons(found)["llama"] != "Accepted"
    assert "all shards would share" in message(found)
    apart = {**file, "approvals": {"approvers": {"ann": "ann.pub"}, "folder": "approvals-{shard}"}}
    assert reasons(laid(asks, on=settings_of(apart))) == {"llama": "Accepted"}


def test_what_is_laid_over_the_file_is_what_the_file_could_say_itself() -> None:
    found = laid(policy(objective={"ttftSeconds": 1}, modes={"scaling": "auto"}), on=settings_of(IN_FILE))
    told = found.settings.model_dump(mode="json", exclude={"platform"})
    assert Settings.model_validate(told) == found.settings.model_copy(update={"platform": None})


def test_a_policy_holds_before_the_file_for_its_own_pools_and_for_nothing_else() -> None:
    file = {**IN_FILE, "modes": {"workloads": {"llama": {"healing": "recommend", "scaling": "observe"}}}}
    found = laid(policy(modes={"scaling": "auto"}), on=settings_of(file))
    pools = found.settings.policy.pools
    assert (pools[KEY].max_replicas, pools["other/b/unified"].max_replicas) == (9, 64)
    assert found.settings.modes.workloads["llama"].model_dump() == {
        "scaling": Mode.AUTO, "traffic": None, "healing": Mode.RECOMMEND,
    }  # fmt: skip
    assert message(found) == f"in place of what the settings file says of {KEY}"


def test_the_file_pins_models() -> None:
    found = laid(policy(), on=settings_of(IN_FILE, pinned_models={"llama"}))
    assert reasons(found) == {"llama": "Pinned"}
    assert found.settings.policy.pools[KEY].max_replicas == 4


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"pools": [pool_json(minReplicas=12)]}, "spec.pools[0]: minReplicas 12 is more than maxReplicas 9"),
        ({"pools": [pool_json(profile="no-such")]}, "spec.pools[0].profile: unknown engine profile 'no-such'"),
        ({"pools": [pool_json(), pool_json("b", maxReplicas="9")]}, "spec.pools[1].maxReplicas: must be a valid int"),
        ({"pools": [pool_json(), pool_json("b", minReplica=9)]}, "did you mean minReplicas?"),
        ({"pools": [pool_json(role="decode")]}, "spec.pools: llama has pools of role decode"),
        ({"pools": [pool_json(), pool_json()]}, "spec.pools[1]: llama/a/unified is given twice"),
        ({"pools": [pool_json("a/b")]}, "spec.pools[0]: a pool needs a model and a pool name without slashes"),
        ({"pools": [pool_json(role="both")]}, "spec.pools[0]: 'both' is not a valid Role"),
        ({"pools": []}, "spec.pools: has 0 pools"),
        ({"model": 7}, "spec.model: is needed"),
        ({"objective": {"ttftSeconds": 0}}, "spec.objective.ttftSeconds: must be greater than 0"),
        ({"objective": 3}, "spec.objective: must be an object"),
        ({"modes": {"scaling": "always"}}, "spec.modes.scaling: must be 'observe'"),
        ({"modes": {"scaling": "approve"}}, "spec.modes.scaling: approvals.approvers names nobody"),
        (
            {"pools": [pool_json(workload={"kind": "DaemonSet", "name": "engine"})]},
            "spec.pools[0].workload.kind: DaemonSet is no kind of workload that is read",
        ),
        (
            {"pools": [pool_json(workload={"kind": "Deployment", "name": "Engine!"})]},
            "spec.pools[0].workload.name: string should match pattern",
        ),
        (
            {"pools": [pool_json(p, workload={"kind": "Deployment", "name": "engine"}) for p in "ab"]},
            "spec.pools[1].workload.kind: Deployment engine is the pool llama/a/unified already",
        ),
    ],
)
def test_an_invalid_policy_is_left_out_with_its_fault_and_place_and_others_stay(
    spec: dict[str, Any], said: str
) -> None:
    found = laid(policy(age=3, **spec), policy("qwen", age=1))
    assert reasons(found) == {"llama": "Invalid", "qwen": "Accepted"}
    assert said in message(found)
    assert found.settings == laid(policy("qwen", age=1)).settings


@pytest.mark.parametrize("spec", [None, 3, [], {}, {"pools": {}}, {"model": "llama", "pools": [None]}, {"model": ""}])
def test_whatever_stands_in_a_policy_it_is_judged(spec: Any) -> None:
    told = policy_json()
    told["metadata"] |= {"uid": "x"}
    read = read_policy({**told, "spec": spec})
    assert read is not None
    assert reasons(laid(read)) == {"llama": "Invalid"}


def test_what_is_not_even_named_is_no_policy() -> None:
    assert read_policy({"spec": {}}) is None
    assert read_policy([]) is None


def test_of_two_policies_of_a_pool_the_older_one_holds_whatever_the_order_they_come_in() -> None:
    old = policy("old", age=9, model="llama")
    young = policy("young", age=1, model="llama", pools=[pool_json("b"), pool_json("a", maxReplicas=50)])
    for found in (laid(old, young), laid(young, old)):
        assert reasons(found) == {"old": "Accepted", "young": "Conflict"}
        assert message(found, "young").startswith(f"spec.pools[1]: pool {KEY} is already set by ScalingPolicy prod/old")
        assert found.settings == laid(old).settings
    assert reasons(laid(young)) == {"young": "Accepted"}


def test_two_policies_may_share_a_model_as_long_as_they_agree() -> None:
    first = policy("a", age=9, model="llama", objective={"ttftSeconds": 1}, modes={"scaling": "auto"})
    same = policy("b", age=5, model="llama", pools=[pool_json("b")], objective={"ttftSeconds": 1})
    other = policy("c", age=1, model="llama", pools=[pool_json("c")], modes={"scaling": "observe"})
    found = laid(first, same, other)
    assert reasons(found) == {"a": "Accepted", "b": "Accepted", "c": "Conflict"}
    assert "mode of scaling of llama is already set by ScalingPolicy prod/a" in message(found, "c")
    assert set(found.settings.policy.pools) == {"llama/a/unified", "llama/b/unified"}


def test_a_workload_is_one_pool() -> None:
    named = {"kind": "Deployment", "name": "engine"}
    found = laid(
        policy("old", age=9, pools=[pool_json(workload=named)]), policy("new", pools=[pool_json(workload=named)])
    )
    assert reasons(found) == {"old": "Accepted", "new": "Invalid"}


def test_what_the_file_says_of_the_engine_of_a_named_workload_stays() -> None:
    file = {"name": "was", "namespace": "prod", "model": "llama", "pool": "a", "engine_port": 9000}
    found = laid(
        policy(pools=[pool_json(workload={"kind": "StatefulSet", "name": "is"})]), on=settings_of(pools=(file,))
    )
    (place,) = places(found)
    assert (place.kind, place.name, place.engine_port) == ("StatefulSet", "is", 9000)


def test_the_last_good_version_stays_in_force_when_the_newest_is_invalid() -> None:
    good = policy(generation=1)
    bad = policy(generation=2, pools=[pool_json(profile="no-such")])
    first = laid(good)
    second = laid(bad, good=dict(first.good))
    (verdict,) = second.verdicts
    assert (verdict.reason, verdict.in_force, verdict.accepted) == ("Invalid", good, False)
    assert verdict.message.endswith("generation 1 stays in force")
    assert second.settings == first.settings
    third = laid(policy(generation=3, pools=[pool_json(maxReplicas=5)]), good=dict(second.good))
    assert reasons(third) == {"llama": "Accepted"}
    assert third.settings.policy.pools[KEY].max_replicas == 5


def test_an_edit_that_takes_an_older_ones_pool_leaves_both_as_they_were() -> None:
    old, young = policy("old", age=9, model="llama"), policy("young", model="llama", pools=[pool_json("b")])
    before = laid(old, young)
    grabbed = policy("young", generation=2, model="llama", pools=[pool_json("b"), pool_json("a")])
    after = laid(old, grabbed, good=dict(before.good))
    assert reasons(after) == {"old": "Accepted", "young": "Conflict"}
    assert after.settings == before.settings


def test_a_policy_that_is_deleted_leaves_its_pool_to_the_file_and_is_forgotten() -> None:
    file = settings_of(IN_FILE)
    before = laid(policy(), on=file)
    after = laid(on=file, good=dict(before.good))
    assert after.settings is file
    assert after.good == {}


def test_a_policy_made_anew_under_the_same_name_has_no_last_good_version() -> None:
    before = laid(policy())
    new = policy(pools=[pool_json(profile="no-such")])
    new = Policy(new.namespace, new.name, "another", 1, new.created_at, "9", new.spec, None)
    assert laid(new, good=dict(before.good)).settings.policy.pools == {}
