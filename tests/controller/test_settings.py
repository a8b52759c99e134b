"""Does a settings file mean what it says, and is every mistake in it named at its place with a remedy?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from controller.adapters.kube.settings import KubernetesSettings
from controller.errors import BadSetting
from controller.modes import Mode
from controller.setting_problems import BadSettings, SettingProblem
from controller.settings import Settings, differences, load_settings, settings_schema

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "foresail.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "foresail.yaml"


def problems_of(file: Path, text: str, *overrides: str) -> tuple[SettingProblem, ...]:
    file.write_text(text)
    with pytest.raises(BadSettings) as caught:
        load_settings(file, overrides)
    return caught.value.problems


def only_problem(file: Path, text: str, *overrides: str) -> SettingProblem:
    problems = problems_of(file, text, *overrides)
    assert len(problems) == 1, [str(p) for p in problems]
    return problems[0]


def test_no_file_and_an_empty_file_are_all_defaults(file: Path) -> None:
    file.write_text("# nothing\n")
    assert load_settings(None) == load_settings(file) == Settings()


def test_the_example_is_valid_and_says_what_its_comments_say() -> None:
    settings = load_settings(EXAMPLE)
    assert settings.modes.scaling is Mode.RECOMMEND
    assert settings.policy.objective_of("llama-3.1-8b").ttft_s == 0.5
    assert settings.policy.pools["llama-3.1-70b/a100/unified"].max_replicas == 40
    assert settings.policy.scaling.level == pytest.approx(0.9)


def test_what_the_example_has_commented_out_for_approvals_is_valid_as_well(file: Path) -> None:
    text = EXAMPLE.read_text()
    modes, approvals = text.index("  # workloads:"), text.index("# approvals:")
    end = text.index("\naudit:")
    indented = text[modes:approvals].replace("\n  # ", "\n  ").replace("  # workloads:", "  workloads:", 1)
    flush = text[approvals:end].replace("\n# ", "\n").replace("# approvals:", "approvals:", 1)
    file.write_text(text[:modes] + indented + flush + text[end:])
    settings = load_settings(file)
    assert settings.modes.workloads["llama-3.1-8b"].healing is Mode.APPROVE
    assert [window.why for window in settings.modes.maintenance] == ["new GPU drivers", "node patches"]
    assert list(settings.approvals.approvers) == ["alice"]


def test_the_playbook_that_the_example_has_commented_out_is_valid_as_well(file: Path) -> None:
    text = EXAMPLE.read_text()
    begin, end = text.index("  # healing:"), text.index("\nprometheus:")
    file.write_text(text[:begin] + text[begin:end].replace("\n  # ", "\n  ").replace("  # ", "  ", 1) + text[end:])
    healing = load_settings(file).policy.healing
    assert healing.playbook_for("hang") == "restart-at-once"
    assert healing.playbooks["restart-at-once"].escalates_to == "replace-elsewhere"


def test_what_the_example_has_commented_out_for_a_cluster_is_valid_as_well(file: Path) -> None:
    text = EXAMPLE.read_text()
    begin, end = text.rindex("# platform:"), text.index("\nmodes:")
    file.write_text(text[:begin] + text[begin:end].replace("\n# ", "\n").replace("# ", "", 1) + text[end:])
    platform = load_settings(file).platform
    assert isinstance(platform, KubernetesSettings)
    assert [route.model for route in platform.routes] == ["llama-3.1-70b"]
    assert platform.lease is not None


def test_what_disagrees_within_a_cluster_is_answered_by_more_than_what_a_platform_is(file: Path) -> None:
    (problem,) = problems_of(file, "platform: {kind: kubernetes, watch_s: 80}")
    assert "is less than two watches" in problem.what
    assert problem.remedy == "see `foresail config schema`"


def test_of_a_platform_only_what_differs_from_its_kind_is_told(file: Path) -> None:
    file.write_text("platform: {kind: kubernetes, namespaces: [prod], watch_s: 30}")
    assert {d.key: d.value for d in differences(file)} == {
        "platform.kind": "kubernetes",
        "platform.namespaces": ["prod"],
    }
    file.write_text("platform: {kind: clusters, members: {east: {context: e, nodes: true}}}")
    assert [d.key for d in differences(file)] == [
        "platform.kind", "platform.members.east.context", "platform.members.east.nodes",
    ]  # fmt: skip


def test_the_default_does_nothing_but_look() -> None:
    modes = load_settings(None).modes
    assert {modes.scaling, modes.traffic, modes.healing} == {Mode.OBSERVE}


@pytest.mark.parametrize("action_class", ["scaling", "traffic", "healing"])
def test_a_mode_that_waits_for_approvals_needs_somebody_who_can_approve(file: Path, action_class: str) -> None:
    problem = only_problem(file, f"modes:\n  {action_class}: approve\n")
    assert (problem.where, problem.key) == (f"{file}:2:3", f"modes.{action_class}")
    assert "approvals.approvers names nobody" in problem.what
    assert "observe, recommend" in problem.remedy


POOL = "policy: {pools: {m/a/unified: {profile: llama-3.1-8b-l40s-tp1}}}\n"
WINDOW = "modes:\n  maintenance:\n    - why: a move\n      from: 2027-01-15T22:00:00Z\n"


@pytest.mark.parametrize(
    ("text", "line", "key", "what"),
    [
        (WINDOW, 3, "modes.maintenance.0", "both from and until"),
        (WINDOW + "      until: 2027-01-15T21:00:00Z\n", 3, "modes.maintenance.0", "not after its beginning"),
        (WINDOW + "      until: 2027-01-16T00:00:00\n", 5, "modes.maintenance.0.until", "timezone"),
        (WINDOW + "      until: soon\n", 5, "modes.maintenance.0.until", "datetime"),
        (WINDOW + "      till: x\n", 5, "modes.maintenance.0.till", "no such setting"),
        (WINDOW + "      until: 2027-01-16T00:00:00Z\n      workloads: [n]\n", 6, None, "no pool of n"),
        ("modes:\n  workloads:\n    n: {healing: auto}\n", 3, "modes.workloads.n", "no pool of n"),
        ("modes:\n  workloads:\n    m: {healing: often}\n", 3, "modes.workloads.m.healing", "'approve' or 'auto'"),
        ("modes:\n  workloads:\n    m: {healing: approve}\n", 3, "modes.workloads.m.healing", "names nobody"),
        ("approvals:\n  approvers:\n    a: ed25519:AAAA\n", 2, "approvals.approvers", "not a public key"),
        ("approvals:\n  approvers:\n    a b: key\n", 2, "approvals.approvers", "no name for an approver"),
        ("approvals:\n  max_lifetime_s: 60\n", 1, "approvals", "more than max_lifetime_s 60"),
        ("approvals:\n  max_lifetime_s: 90000\n", 2, "approvals.max_lifetime_s", "86400"),
    ],
)
def test_a_bad_window_mode_or_approver_is_refused_with_its_line(
    file: Path, text: str, line: int, key: str | None, what: str
) -> None:
    problem = only_problem(file, text + POOL)
    assert problem.where.startswith(f"{file}:{line}:")
    assert key in (None, problem.key)
    assert what in problem.what


def test_a_window_is_known_by_the_names_that_are_written(file: Path) -> None:
    problem = only_problem(file, WINDOW + "      form: 2027-01-16\n" + POOL)
    assert problem.remedy.startswith("did you mean from? known here: from, until, weekly, classes, workloads, why")


@pytest.mark.parametrize(
    ("pool", "what"),
    [
        ("llama/a100/prefill", "unified ones only, or both prefill and decode"),
        ("llama/a100/decode", "unified ones only, or both prefill and decode"),
        ("llama/a100/unifed", "'unifed' is not a valid Role"),
        ("a100", "expected model/pool/role"),
    ],
)
def test_a_pool_that_could_not_be_looked_after_is_refused(file: Path, pool: str, what: str) -> None:
    """A name that no pool has would leave the pool that was meant alone, without a word."""
    problem = only_problem(file, f"policy:\n  pools:\n    {pool}:\n      profile: llama-3.1-8b-l40s-tp1\n")
    assert (problem.where, what in problem.what) == (f"{file}:2:3", True)


def test_sections_with_nothing_under_them_are_defaults(file: Path) -> None:
    file.write_text("policy:\n  scaling:\n    # burn_rate: 4\n  pools:\nmodes:\n")
    assert load_settings(file) == Settings()


def test_an_override_wins_over_the_file_and_the_rest_stays(file: Path) -> None:
    file.write_text("policy:\n  scaling:\n    burn_rate: 4\n    margin_max_ratio: 0.25\n")
    scaling = load_settings(file, ["policy.scaling.burn_rate=5"]).policy.scaling
    assert (scaling.burn_rate, scaling.margin_max_ratio) == (5.0, 0.25)


def test_an_override_reaches_keys_that_hold_dots_and_values_that_hold_equals_signs() -> None:
    overrides = ['policy.objectives."llama-3.1-8b".ttft_s=0.5', "registry.store=postgresql://db/ml?sslmode=require"]
    settings = load_settings(None, overrides)
    assert settings.policy.objectives["llama-3.1-8b"].ttft_s == 0.5
    assert settings.registry.store.endswith("?sslmode=require")


def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(file: Path) -> None:
    problem = only_problem(file, "policy:\n  scaling:\n    burn_rat: 4\n")
    assert problem.where == f"{file}:3:5"
    assert problem.key == "policy.scaling.burn_rat"
    assert "did you mean burn_rate?" in problem.remedy


def test_a_value_out_of_bounds_is_answered_with_the_bounds_unit_and_default(file: Path) -> None:
    problem = only_problem(file, "policy:\n  objective: {attainment_ratio: 1.5}\n")
    assert problem.where == f"{file}:2:15"
    assert "not 1.5" in problem.what
    assert "> 0 and < 1" in problem.remedy
    assert "Default: 0.99" in problem.remedy


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("policy: {tick_s: fast}", "policy.tick_s", "must be a valid number"),
        ("policy: {tick_s: '15'}", "policy.tick_s", 'not "15"'),
        ("policy: {tick_s: true}", "policy.tick_s", "must be a valid number"),
        ("policy: {tick_s: }", "policy.tick_s", "must be a valid number"),
        ("policy: {tick_s: [15]}", "policy.tick_s", "must be a valid number"),
        ("policy: {tick_s: .nan}", "policy.tick_s", "must be a valid number"),
        ("policy: 5", "policy", "must be an object"),
        ("modes: {scaling: autoo}", "modes.scaling", "'observe', 'recommend', 'approve' or 'auto'"),
        ("modes: {scaling: true}", "modes.scaling", "'observe', 'recommend', 'approve' or 'auto'"),
        ("policy: {pools: {m/a/unified: {min_replicas: 1}}}", "policy.pools.m/a/unified.profile", "needed"),
        (
            "policy: {pools: {m/a/unified: {profile: none}}}",
            "policy.pools.m/a/unified.profile",
            "unknown engine profile",
        ),
        ("policy: {objective: {ttft_s: 1}, objective: {}}", "policy.objective", "given twice"),
    ],
)
def test_a_wrong_value_is_named(file: Path, text: str, key: str, what: str) -> None:
    problem = only_problem(file, text)
    assert problem.key == key
    assert what in problem.what
    assert problem.where.startswith(f"{file}:1:")
    assert problem.remedy


def test_impossible_bounds_are_named_at_the_pool(file: Path) -> None:
    pool = "{profile: llama-3.1-8b-l40s-tp1, min_replicas: 5, max_replicas: 2}"
    problem = only_problem(file, f"policy:\n  pools:\n    m/a/unified: {pool}\n")
    assert problem.where == f"{file}:3:5"
    assert "min_replicas 5 is more than max_replicas 2" in problem.what


def test_a_forecast_step_that_no_tick_divides_is_refused(file: Path) -> None:
    assert "whole multiple" in only_problem(file, "policy: {tick_s: 10}\nforecast: {step_s: 25}\n").what


def test_all_problems_are_reported_at_once(file: Path) -> None:
    text = "policy:\n  tick_s: -1\n  tick_s: 5\n  scaling: {burn_rat: 1, burn_rate: x}\nmode: {}\n"
    problems = problems_of(file, text, "nope", "forecast.step_s=[")
    assert {p.key for p in problems} == {
        "policy.tick_s", "policy.scaling.burn_rat", "policy.scaling.burn_rate", "mode", "", "forecast.step_s",
    }  # fmt: skip
    with pytest.raises(BadSetting) as caught:
        load_settings(file)
    assert str(caught.value).count("->") == len(caught.value.problems)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("policy", "not of the form"),
        ("=5", "not of the form"),
        ("policy..tick_s=5", "not of the form"),
        ("policy. .tick_s=5", "not of the form"),
        ('policy."tick_s=5', "not of the form"),
        ("policy.tick_s.x=5", "must be a valid number"),
        ("policy.tick_s=[1", "not valid YAML"),
        ("policy.tick_s=a: b: c", "not valid YAML"),
        ("policy.tick=5", "no such setting"),
        ("policy.tick_s=\udcff", "not UTF-8"),
    ],
)
def test_a_bad_override_is_named_as_what_was_typed(override: str, what: str) -> None:
    with pytest.raises(BadSettings) as caught:
        load_settings(None, [override])
    assert what in caught.value.problems[0].what
    assert caught.value.problems[0].where == f"--set {override}"


def test_an_override_cannot_reach_into_a_value(file: Path) -> None:
    problem = only_problem(file, "policy: {tick_s: 15}\n", "policy.tick_s.x=5")
    assert "has nothing under it" in problem.what


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "5\n"])
def test_a_file_that_is_no_mapping_is_refused(file: Path, text: str) -> None:
    assert "key: value" in only_problem(file, text).what


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "directory")):
        with pytest.raises(BadSetting, match=what):
            load_settings(path)


def test_differences_name_what_is_not_at_its_default(file: Path) -> None:
    file.write_text("policy:\n  tick_s: 15\n  pools:\n    m.1/a/unified: {profile: llama-3.1-8b-l40s-tp1}\n")
    found = {d.key: (d.value, d.default) for d in differences(file, ["policy.scaling.burn_rate=4"])}
    assert found["policy.scaling.burn_rate"] == (4.0, 3.0)
    assert found['policy.pools."m.1/a/unified".profile'] == ("llama-3.1-8b-l40s-tp1", None)
    assert "policy.tick_s" not in found


def test_passwords_are_never_shown(file: Path) -> None:
    file.write_text("registry: {store: 'postgresql://me:s3cret@db/ml', stor: 'http://me:s3cret@db'}\n")
    with pytest.raises(BadSettings) as caught:
        load_settings(file, ["registry.cach=http://me:s3cret@db"])
    assert "s3cret" not in str(caught.value)
    file.write_text("registry: {store: 'postgresql://me:s3cret@db/ml'}\n")
    assert "s3cret" not in str(differences(file))
    file.write_text("registry: {store: 'postgresql://db/ml?user=me&password=s3cret'}\n")
    assert "s3cret" not in str(differences(file))


def models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for found in model.model_fields.values():
        for inner in (found.annotation, *get_args(found.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models_in(inner)


@pytest.mark.parametrize("model", sorted(set(models_in(Settings)), key=lambda model: model.__name__))
def test_every_model_is_frozen_closed_and_described(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == "forbid"
    undescribed = [name for name, found in model.model_fields.items() if not found.description]
    assert undescribed == []


def test_the_schema_is_json_with_descriptions_bounds_and_defaults() -> None:
    schema: dict[str, Any] = json.loads(json.dumps(settings_schema()))
    burn_rate = schema["$defs"]["ScalingSettings"]["properties"]["burn_rate"]
    assert burn_rate["default"] == 3.0
    assert burn_rate["exclusiveMinimum"] == 1
    assert burn_rate["description"]
    assert schema["additionalProperties"] is False


def test_an_option_that_may_hold_a_secret_is_named_by_its_key() -> None:
    with pytest.raises(BadSettings) as raised:
        load_settings(None, ["prometheus.headers={X-Api-Key: hunter2}"])
    assert "--set prometheus.headers: " in str(raised.value)
    assert "hunter2" not in str(raised.value)
